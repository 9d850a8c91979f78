//! The style of the access log: fields, format, queries, and a sample of the lines; all of it is
//! read again.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::spin::{expect_held, spin};

const REQUEST: &str = "GET /x?secret=1 HTTP/1.1\r\nHost: www.a.com\r\nUser-Agent: curl/8 \"q\"\r\n\
    Referer: https://b.com/y?token=2\r\nTraceparent: 00-4bf92f3577b34da6-00f067aa0ba902b7-01\r\n\r\n";

fn setup() -> Setup {
    Setup::new().rule("a.com", json!(["empty", { "code": 204 }, true]))
}

fn ask(daemon: &Daemon) {
    assert_eq!(daemon.connect().exchange(REQUEST).status(), 204);
}

fn texts(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for_text(path: &Path, count: usize) -> Vec<String> {
    eventually("the lines are there", || count <= texts(path).len());
    texts(path)
}

#[test]
fn lines_have_the_fields_that_are_chosen() {
    let (setup, path) = logging(setup());
    let chosen = "default, rule, traceparent, user_agent, referer";
    let setup = setup.set("access_log_fields", chosen);
    let daemon = setup.clone().start();
    ask(&daemon);
    let line = &wait_for(&path, 1)[0];
    for (key, value) in [
        ("rule", "a.com"),
        ("host", "www.a.com"),
        ("target", "/x?secret=1"),
        ("traceparent", "00-4bf92f3577b34da6-00f067aa0ba902b7-01"),
        ("user_agent", "curl/8 \"q\""),
        ("referer", "https://b.com/y?token=2"),
        ("termination", "local"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    // what is not there, and no rule
    daemon.connect().exchange(get("unknown.com", "/"));
    let line = wait_for(&path, 2).pop().expect("a line");
    for key in ["rule", "traceparent", "user_agent", "referer"] {
        assert_eq!(line.get(key), Some(&Value::Null), "{line}");
    }
    daemon.connect().exchange("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    let line = wait_for(&path, 3).pop().expect("a line");
    assert_eq!((&line["termination"], line.get("rule")), (&json!("refused"), Some(&Value::Null)));
    setup.set("access_log_fields", "status, host").set("access_log_query", "no").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    eventually("the fields are others", || {
        ask(&daemon);
        texts(&path).last().is_some_and(|line| line == "{\"host\":\"www.a.com\",\"status\":204}")
    });
}

#[test]
fn queries_are_left_out_by_choice() {
    let (setup, path) = logging(setup());
    let setup = setup.set("access_log_query", "false").set("access_log_fields", "target, referer");
    let daemon = setup.start();
    ask(&daemon);
    daemon.connect().exchange(get("a.com", "/?"));
    let expected = [
        "{\"target\":\"/x\",\"referer\":\"https://b.com/y\"}",
        "{\"target\":\"/\",\"referer\":null}",
    ];
    assert_eq!(wait_for_text(&path, 2), expected);
}

#[test]
fn lines_may_be_combined() {
    let (setup, path) = logging(setup().add("bind_tcp", "127.0.0.1:0 nowhere.com"));
    let daemon = setup.set("access_log_format", "combined").start();
    ask(&daemon);
    daemon.connect().exchange("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    wait_for_text(&path, 2);
    crate::script::Connection::client(daemon.raw_address("TCP")).expect_end();
    let lines = wait_for_text(&path, 3);
    let parts = |line: &str| {
        let (client, rest) = line.split_once(" - - [").expect("a client");
        let (time, rest) = rest.split_once("] ").expect("a time");
        assert_eq!((client, time.len(), &time[20..]), ("127.0.0.1", 26, " +0000"), "{line}");
        rest.to_owned()
    };
    let sent = daemon.api().counted("a.com", 1)["bytes_sent"].as_u64().expect("a number");
    let expected = format!(
        "\"GET /x?secret=1 HTTP/1.1\" 204 {sent} \"https://b.com/y?token=2\" \"curl/8 \\x22q\\x22\""
    );
    assert_eq!(parts(&lines[0]), expected);
    let refused = parts(&lines[1]);
    assert!(refused.starts_with("\"-\" 400 ") && refused.ends_with(" \"-\" \"-\""), "{refused}");
    assert_eq!(parts(&lines[2]), "\"-\" - 0 \"-\" \"-\"");
}

#[test]
fn sample_has_every_error() {
    let dead = json!(["proxy", { "backends": ["127.0.0.1:1"] }, false]);
    let (setup, path) = logging(setup().rule("dead.com", dead).set("shards", 2));
    let setup = setup
        .rule("denied.com", json!(["empty", { "code": 204, "deny": "127.0.0.1" }, false]))
        .set("access_log_sample", "1/1000000");
    let mut daemon = setup.start();
    (0..50).for_each(|_| ask(&daemon));
    for (host, status) in [("dead.com", 502), ("denied.com", 403), ("unknown.com", 503)] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), status);
    }
    daemon.connect().exchange("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    daemon.terminate();
    daemon.expect_clean_exit();
    let lines = wait_for(&path, 4);
    let statuses: Vec<&Value> = lines.iter().map(|line| &line["status"]).collect();
    // by chance one of the fifty in twenty thousand runs
    assert!((4..=5).contains(&statuses.len()), "{statuses:?}");
    for status in [502, 403, 503, 400] {
        assert!(statuses.contains(&&json!(status)), "{status} in {statuses:?}");
    }
}

#[test]
fn sample_is_about_as_large_as_it_should_be() {
    let (setup, path) = logging(setup());
    let mut daemon = setup.set("access_log_sample", "1/4").start();
    let mut client = daemon.connect();
    (0..1000).for_each(|_| assert_eq!(client.exchange(REQUEST).status(), 204));
    drop(client);
    daemon.terminate();
    daemon.expect_clean_exit();
    let count = texts(&path).len();
    // nine standard deviations to either side
    assert!((125..=375).contains(&count), "{count} of 1000");
}

#[test]
fn client_that_leaves_is_no_matter_of_chance() {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().rule("a.com", backend.rule()));
    let daemon = setup.set("access_log_sample", "1/1000000").start();
    let (client, _server) = crate::daemon::asked(&daemon, &backend);
    client.reset();
    assert_eq!(wait_for(&path, 1)[0]["termination"], "client_gone");
}

/// A held request ends under the rule that let it go, and in the style in which it began.
#[test]
fn held_request_has_the_rule_that_served_it() {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().rule("a.com", spin(json!({}))));
    let setup = setup.set("access_log_fields", "rule, status");
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    client.send(get("www.a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    setup.set("access_log_format", "combined").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    api.patch(&json!({ "a.com": null, "www.a.com": backend.rule() }));
    let mut server = backend.accept();
    server.expect_head();
    server.send(ok("there"));
    client.expect_answer();
    assert_eq!(wait_for_text(&path, 1), ["{\"status\":200,\"rule\":\"www.a.com\"}"]);
    eventually("the next one is combined", || {
        daemon.connect().exchange(get("unknown.com", "/"));
        texts(&path).last().is_some_and(|line| line.starts_with("127.0.0.1 - - ["))
    });
}
