//! The rule `*`, for what no other rule is for, and the hosts that are unknown without it: their
//! status, and their class of their own in statistics and metrics.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{get, ok};
use crate::raw::{connect_tls, hello};
use crate::spin::{expect_held, spin};

/// The status of a request for this host.
#[track_caller]
fn status_of(daemon: &Daemon, host: &str) -> u16 {
    daemon.connect().exchange(get(host, "/")).status()
}

/// The status of a request in HTTP/1.0 without a Host.
#[track_caller]
fn status_without_host(daemon: &Daemon) -> u16 {
    daemon.connect().exchange("GET / HTTP/1.0\r\n\r\n").status()
}

fn alone(code: u16) -> Value {
    json!(["empty", { "code": code }, false])
}

#[test]
fn rule_for_all_catches_what_no_other_rule_is_for() {
    for match_subdomains in [false, true] {
        let catch_all = json!(["empty", { "code": 418 }, match_subdomains]);
        let daemon = Setup::new()
            .rule("a.com", alone(410))
            .rule("b.com", json!(["empty", { "code": 411 }, true]))
            .rule("*", catch_all)
            .start();
        assert_eq!(status_of(&daemon, "a.com"), 410);
        assert_eq!(status_of(&daemon, "x.b.com"), 411);
        assert_eq!(status_of(&daemon, "x.a.com"), 418, "a.com is for itself alone");
        assert_eq!(status_of(&daemon, "com"), 418);
        assert_eq!(status_of(&daemon, "[::1]:8080"), 418);
        assert_eq!(status_without_host(&daemon), 418);
        let asked = daemon.connect().exchange("GET / HTTP/1.1\r\nHost: *\r\n\r\n");
        assert_eq!(asked.status(), 400, "no request names it");
    }
}

#[test]
fn rule_for_all_of_one_scheme_comes_first() {
    let daemon = Setup::new()
        .internal()
        .rule("http://*", alone(410))
        .rule("*", alone(411))
        .rule("a.com", alone(412))
        .start();
    let status = |scheme: &str, host: &str| {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n");
        daemon.connect_internal().exchange(request).status()
    };
    assert_eq!([status("http", "b.com"), status("https", "b.com")], [410, 411]);
    assert_eq!([status("http", "a.com"), status("https", "a.com")], [412, 412]);
    let mut api = daemon.api();
    api.delete("*");
    assert_eq!(status("https", "b.com"), 503, "unknown");
    api.counted("unknown", 1);
    api.counted("http%3A%2F%2F%2A", 1);
}

#[test]
fn rule_for_all_is_counted_apart_from_unknown_hosts() {
    let daemon = Setup::new().rule("a.com", alone(410)).start();
    let mut api = daemon.api();
    assert_eq!(status_of(&daemon, "bot.com"), 503);
    let unknown = api.counted("unknown", 1);
    api.put("/hostname/*/", &alone(503));
    assert_eq!(status_of(&daemon, "bot.com"), 503);
    let caught = api.counted("*", 1);
    assert_eq!(caught["answers"], json!({ "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 1 }));
    assert_eq!(api.counted("unknown", 1), unknown);
}

#[test]
fn rule_for_all_is_set_and_read_like_any_other() {
    let setup = Setup::new().rule("https://*", alone(411));
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    api.put("/hostname/%2A/", &empty(418));
    api.patch(&json!({ "a.com": ["alias", { "hostname": "*" }, false] }));
    assert_eq!(api.get("/hostname/*/"), empty(418));
    assert_eq!(status_of(&daemon, "a.com"), 418, "an alias of it");
    api.ask("DELETE", "/hostname/*/").expect_error(400, "*:host_aliased");
    for wrong in ["**", "a.*", "*a.com", "*.a.com", "ftp://*"] {
        let path = format!("/hostname/{}/", wrong.replace('/', "%2F"));
        let answer = api.tell("PUT", &path, &empty(418));
        let sentence = answer.expect_error(400, &format!("{wrong}:hostname_invalid"));
        assert!(!sentence.is_empty());
    }
    api.patch(&json!({ "*": ["alias", { "hostname": "b.com" }, true], "b.com": alone(412),
        "a.com": null }));
    assert_eq!([status_of(&daemon, "a.com"), status_of(&daemon, "b.com")], [412, 412]);
    daemon.terminate();
    daemon.expect_clean_exit();
    let daemon = setup.start();
    let names = daemon.api().get("/hostname/");
    let names: Vec<&String> = names.as_object().expect("rules").keys().collect();
    assert_eq!(names, ["*", "b.com", "https://*"], "all of it is in the state");
    assert_eq!(status_of(&daemon, "a.com"), 412);
}

#[test]
fn request_for_any_host_is_held_until_the_flip() {
    let backend = Backend::new();
    let setup = Setup::new().set("shards", 2).rule("*", spin(json!({})));
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut named = daemon.connect();
    named.send(get("b.com", "/named"));
    expect_held(&mut api, "*", 1);
    let mut nameless = daemon.connect();
    nameless.send("GET /nameless HTTP/1.0\r\n\r\n");
    expect_held(&mut api, "*", 2);
    api.put("/hostname/*/", &backend.rule_with(json!({ "hold": 30 })));
    // Each may be released on another shard, so either may come first.
    for _ in 0..2 {
        let mut server = backend.accept();
        let target = server.expect_head().target().to_owned();
        server.send(ok(&target));
    }
    assert_eq!(named.expect_answer().text(), "/named");
    assert_eq!(nameless.expect_answer().text(), "/nameless");
}

#[test]
fn connection_by_an_unknown_server_name_is_caught() {
    let (known, rest) = (Backend::new(), Backend::new());
    let daemon = Setup::new()
        .add("bind_tls", "127.0.0.1:0")
        .add("bind_tcp", "127.0.0.1:0 db.com")
        .rule("a.com", known.rule())
        .rule("tls://*", rest.rule())
        .start();
    for name in [Some("b.com"), None] {
        let mut client = connect_tls(&daemon);
        client.send(hello(name, 1000));
        rest.accept().expect_body(hello(name, 1000));
    }
    let mut client = connect_tls(&daemon);
    client.send(hello(Some("a.com"), 1000));
    known.accept().expect_body(hello(Some("a.com"), 1000));
    // nothing is for tcp yet
    let raw = || crate::script::Connection::client(daemon.raw_address("TCP"));
    raw().expect_end();
    let mut api = daemon.api();
    api.put("/hostname/tcp%3A%2F%2F%2A/", &rest.rule());
    let mut client = raw();
    client.send("any");
    rest.accept().expect_body("any");
    api.delete("tls%3A%2F%2F*");
    api.put("/hostname/*/", &rest.rule());
    let mut client = connect_tls(&daemon);
    client.send(hello(None, 1000));
    rest.accept().expect_body(hello(None, 1000));
}

/// Series of `mantrid_answers_total`, added up over the shards.
fn answers(daemon: &Daemon, class: &str) -> u64 {
    let text = daemon.api().ask("GET", "/metrics").expect_status(200).text();
    let is_wanted = |line: &&str| {
        line.starts_with("mantrid_answers_total{") && line.contains(&format!("\"{class}\""))
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
    text.lines().filter(is_wanted).filter_map(value).sum()
}

#[test]
fn unknown_hosts_have_a_status_by_configuration() {
    let setup = Setup::new().rule("a.com", alone(410)).set("unknown_status", 404);
    let mut daemon = setup.clone().start();
    let reply = daemon.connect().exchange(get("bot.com", "/"));
    assert_eq!(reply.status(), 404);
    assert!(reply.head.lines().starts_with("HTTP/1.1 404 Not Found"), "{}", reply.head.lines());
    assert!(reply.text().contains("No site under this name"), "{}", reply.text());
    assert_eq!(status_without_host(&daemon), 404);
    // a page keeps its body and its fields
    let setup = setup.page("unknown.http", "HTTP/1.0 503 Away\r\nX-A: b\r\n\r\nmine");
    daemon.signal("HUP");
    crate::daemon::eventually("the page is there", || {
        let reply = daemon.connect().exchange(get("bot.com", "/"));
        (reply.status(), reply.text().as_str()) == (404, "mine")
    });
    daemon.upgrade();
    assert_eq!(status_of(&daemon, "bot.com"), 404, "in the next process, too");
    setup.unset("unknown_status").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    crate::daemon::eventually("the page's own status", || status_of(&daemon, "bot.com") == 503);
    let setup = Setup::new().set("unknown_status", 200);
    setup.run(&["--check"]).expect(1, &["unknown_status", "expected a status from 400 to 599"]);
}

#[test]
fn unknown_hosts_are_a_class_of_their_own() {
    let daemon = Setup::new().set("shards", 2).rule("a.com", alone(500)).start();
    for (host, expected) in [("bot.com", 503), ("a.com", 500), ("other.com", 503)] {
        assert_eq!(status_of(&daemon, host), expected);
    }
    daemon.api().counted("a.com", 1);
    let found = daemon.api().counted("unknown", 2);
    let expected = json!({ "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0, "unknown": 2 });
    assert_eq!(found["answers"], expected);
    assert_eq!([answers(&daemon, "unknown"), answers(&daemon, "5xx")], [2, 1]);
}
