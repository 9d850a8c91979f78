//! Waking and putting to sleep: who is told that requests wait for a host, or that nobody uses it
//! any more, how often, and what happens when they don't listen.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::events::Events;
use crate::message::{Head, get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, spin};
use crate::tunnel::tunnelled;

fn url(waker: &Backend) -> String {
    format!("http://127.0.0.1:{}/wake?site=a", waker.port)
}

/// The next POST that a waker gets, and its body.
#[track_caller]
fn told(waker: &Backend) -> (Connection, Head, Value) {
    let mut wire = waker.accept();
    let head = wire.expect_request("POST /wake?site=a HTTP/1.1");
    let length = head.field("Content-Length").expect("a length").parse().expect("a number");
    let body = serde_json::from_slice(&wire.read_exactly(length)).expect("JSON");
    (wire, head, body)
}

/// A host that sleeps, and whoever is told.
fn asleep(arguments: Value) -> (Daemon, Backend) {
    let waker = Backend::new();
    let mut arguments = arguments;
    arguments["wake"] = json!(url(&waker));
    let daemon = Setup::new().set("shards", 2).rule("a.com", spin(arguments)).start();
    (daemon, waker)
}

fn ask(daemon: &Daemon, host: &str) -> Connection {
    let mut client = daemon.connect();
    client.send(get(host, "/"));
    client
}

#[test]
fn first_visitor_wakes_the_host() {
    let (daemon, waker) = asleep(json!({}));
    let backend = Backend::new().serve_text("awake");
    let mut api = daemon.api();
    let mut events = Events::after_hello(&daemon, "?only=held,wake");
    let began = Instant::now();
    let mut first = ask(&daemon, "www.a.com");
    let (mut wire, head, body) = told(&waker);
    assert!(began.elapsed() < Duration::from_secs(2), "at once");
    assert_eq!(head.field("Content-Type"), Some("application/json"));
    assert_eq!((&body["host"], &body["event"]), (&json!("a.com"), &json!("held")));
    assert!(body["held"].is_u64() && body["since"].is_f64(), "{body}");
    // more who come change nothing
    let mut second = ask(&daemon, "a.com");
    expect_held(&mut api, "a.com", 2);
    wire.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    let event = events.expect("held");
    assert_eq!((&event["host"], event["time"].is_f64()), (&json!("a.com"), true), "{event}");
    let event = events.expect("wake");
    assert_eq!((&event["ok"], &event["url"]), (&json!(true), &json!(url(&waker))), "{event}");
    api.put("/hostname/a.com/", &backend.rule());
    assert_eq!(first.expect_answer().text(), "awake");
    assert_eq!(second.expect_answer().text(), "awake");
    waker.expect_no_connection();
}

/// Once per sleep: not for each that waits and gives up, but again after the rule was changed.
#[test]
fn sleeping_host_is_told_once() {
    let (daemon, waker) = asleep(json!({"timeout": 600}));
    let mut api = daemon.api();
    let client = ask(&daemon, "a.com");
    let (mut wire, _, _) = told(&waker);
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    daemon.expect_log(&["a.com", "was told that it is held"]);
    drop(client);
    expect_held(&mut api, "a.com", 0);
    let mut events = Events::after_hello(&daemon, "?only=held");
    let mut again = ask(&daemon, "a.com");
    events.expect("held");
    waker.expect_no_connection();
    // awake, and asleep once more
    let rule = api.get("/hostname/a.com/");
    api.put("/hostname/a.com/", &empty(402));
    assert_eq!(again.expect_answer().status(), 402);
    api.put("/hostname/a.com/", &rule);
    let _client = ask(&daemon, "a.com");
    drop(told(&waker));
}

/// Whoever does not take it is told again, later each time, until the rule is another.
#[test]
fn wake_is_told_again_until_it_is_taken() {
    let (daemon, waker) = asleep(json!({"timeout": 600}));
    let mut api = daemon.api();
    let mut events = Events::after_hello(&daemon, "?only=wake");
    let mut client = ask(&daemon, "a.com");
    let (mut wire, _, _) = told(&waker);
    let began = Instant::now();
    wire.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let event = events.expect("wake");
    assert_eq!(event["ok"], false);
    assert!(event["reason"].as_str().is_some_and(|why| why.contains("500")), "{event}");
    daemon.expect_log(&["WARN", "a.com", &url(&waker), "500"]);
    let (wire, _, body) = told(&waker);
    let took = began.elapsed();
    assert!(Duration::from_millis(900) <= took, "{took:?}");
    assert_eq!(body["held"], 1);
    drop(wire);
    assert_eq!(events.expect("wake")["ok"], false);
    api.put("/hostname/a.com/", &empty(402));
    assert_eq!(client.expect_answer().status(), 402);
    // that the host is flipped is seen where the next attempt would be
    assert!(waker.accept_within(Duration::from_millis(2500)).is_none(), "it is awake");
}

/// A host is idle when it had no open request and no tunnel for that long.
#[test]
fn idle_is_told_when_nobody_has_anything_open() {
    let (backend, waker) = (Backend::new(), Backend::new());
    let rule = rule_for(&[backend.port], json!({"idle": 1, "wake": url(&waker)}));
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule.clone()).start();
    let mut events = Events::after_hello(&daemon, "?only=idle");
    let (client, server) = tunnelled(&daemon, &backend);
    // a tunnel without a byte keeps it awake
    assert!(waker.accept_within(Duration::from_millis(2500)).is_none(), "a tunnel is open");
    let closed = Instant::now();
    drop((client, server));
    let (mut wire, _, body) = told(&waker);
    assert!(Duration::from_millis(500) <= closed.elapsed(), "{:?}", closed.elapsed());
    assert_eq!((&body["host"], &body["event"]), (&json!("a.com"), &json!("idle")), "{body}");
    assert!(body["idle"].as_u64().is_some_and(|seconds| 1 <= seconds), "{body}");
    wire.send(ok(""));
    assert_eq!(events.expect("idle")["host"], "a.com");
    // once; a request wakes its clock again
    assert!(waker.accept_within(Duration::from_millis(1500)).is_none(), "told twice");
    let mut client = ask(&daemon, "a.com");
    let mut server = backend.accept();
    server.expect_head();
    server.send(ok("hello"));
    assert_eq!(client.expect_answer().text(), "hello");
    let (_wire, _, body) = told(&waker);
    assert_eq!(body["event"], "idle");
    // that nobody is told without an address is fine
    let mut api = daemon.api();
    api.put("/hostname/a.com/", &rule_for(&[backend.port], json!({"idle": 1})));
    events.expect("idle");
}

/// `docs/examples/waker.py` as `docs/holding.md` has it, with a `systemctl` that only says what it
/// was told.
#[test]
fn the_example_starts_and_stops_a_unit() {
    if Command::new("python3").arg("--version").output().is_err() {
        return eprintln!("skipped: no python3 here");
    }
    let port = closed_port();
    let waker = closed_port();
    let url = format!("http://127.0.0.1:{waker}/");
    let awake = rule_for(&[port], json!({"idle": 1, "wake": url}));
    let setup = Setup::new().management_tcp();
    let daemon = setup.clone().rule("a.com", spin(json!({"wake": url, "then": awake}))).start();
    let (sites, calls) = (setup.path("sites.json"), setup.path("calls"));
    let unit = json!({"unit": "a.service", "address": format!("127.0.0.1:{port}")});
    fs::write(&sites, json!({"a.com": unit}).to_string()).expect("sites");
    let systemctl = setup.path("systemctl");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display());
    fs::write(&systemctl, script).expect("a program");
    fs::set_permissions(&systemctl, PermissionsExt::from_mode(0o755)).expect("its mode");
    let client = Path::new(env!("CARGO_BIN_EXE_mantrid-client")).parent().expect("a folder");
    let usual = std::env::var("PATH").expect("PATH");
    let ours = systemctl.parent().expect("a folder");
    let path = format!("{}:{}:{usual}", ours.display(), client.display());
    let mut example = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/waker.py"))
        .args(["--listen", &format!("127.0.0.1:{waker}")])
        .arg(&sites)
        .env("PATH", path)
        .env("MANTRID_URL", format!("http://{}", daemon.api_address()))
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    eventually("the waker listens", || TcpStream::connect(("127.0.0.1", waker)).is_ok());
    let called = |what: &str| {
        let calls = fs::read_to_string(&calls).unwrap_or_default();
        calls.lines().filter(|line| *line == what).count()
    };
    let mut api = daemon.api();
    for round in 1..=2 {
        let mut visitor = ask(&daemon, "a.com");
        eventually("the unit is started", || called("start a.service") == round);
        let backend = Backend::on(port).serve_text("awake");
        assert_eq!(visitor.expect_answer().text(), "awake");
        drop(visitor);
        eventually("the unit is stopped", || called("stop a.service") == round);
        // It was awake in between, for as long as nobody asked.
        let changes = api.get("/changes/?host=a.com");
        assert_eq!((&changes[0]["before"], &changes[1]["rule"]), (&awake, &awake));
        assert_eq!(api.get("/hostname/a.com/")[0], "spin");
        drop(backend);
    }
    example.kill().expect("it runs");
    drop(example.wait());
}
