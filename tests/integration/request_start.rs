//! The key `request_start`: the moment at which a request came, and for how long it was held.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::message::{Head, get, ok};
use crate::spin::{expect_held, spin};

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()
}

/// The moment in the head's X-Request-Start, which must be there once.
#[track_caller]
fn start(head: &Head) -> u128 {
    let value = head.field("X-Request-Start").expect("an X-Request-Start");
    let digits = value.strip_prefix("t=").unwrap_or_else(|| panic!("{value:?}"));
    digits.parse().unwrap_or_else(|_| panic!("{value:?}"))
}

#[track_caller]
fn held_ms(head: &Head) -> u128 {
    head.field("X-Held-Ms").expect("an X-Held-Ms").parse().expect("a number")
}

/// A moment by another clock of the same machine is not exactly in its order.
const SLACK: u128 = 50_000;

fn started(setup: Setup, backend: &Backend) -> Daemon {
    setup.set("request_start", "true").internal().rule("a.com", backend.rule()).start()
}

/// What a client might send, in spellings that some application takes for ours.
const FORGED: &str =
    "X-Request-Start: t=1\r\nx_request_start: t=2\r\nX-Held-Ms: 3\r\nX_HELD_MS: 4\r\n";

#[test]
fn moment_of_arrival_is_told_in_place_of_the_clients() {
    let backend = Backend::new();
    let daemon = started(Setup::new(), &backend);
    let before = micros();
    let mut client = daemon.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{FORGED}\r\n"));
    let mut server = backend.accept();
    let head = server.expect_head();
    let after = micros();
    assert!((before - SLACK..after + SLACK).contains(&start(&head)), "{before} {head:?} {after}");
    let names = ["x_request_start", "X-Held-Ms", "X_HELD_MS"];
    assert_eq!(names.map(|name| head.all(name).len()), [0; 3], "{head:?}");
    server.send(ok("kept"));
    client.expect_answer();
    // Trailers don't bring them back.
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n");
    let again = server.expect_head();
    assert!(start(&head) <= start(&again));
    client.send(format!("0\r\n{FORGED}X-Sum: 1\r\n\r\n"));
    assert_eq!(server.expect_chunked().trailers, ["X-Sum: 1"]);
}

#[test]
fn moment_that_a_terminator_tells_stays() {
    let backend = Backend::new();
    let daemon = started(Setup::new(), &backend);
    let mut client = daemon.connect_internal();
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nX-Request-Start: t=1\r\nX-Held-Ms: 3\r\n\r\n");
    let head = backend.accept().expect_head();
    assert_eq!((start(&head), held_ms(&head)), (1, 3));
    let before = micros();
    let mut client = daemon.connect_internal();
    client.send(get("a.com", "/"));
    assert!(before - SLACK <= start(&backend.accept().expect_head()));
}

#[test]
fn nothing_is_told_without_the_key() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{FORGED}\r\n"));
    let head = backend.accept().expect_head();
    assert_eq!(head.field("X-Request-Start"), Some("t=1"));
    assert_eq!(head.field("X_HELD_MS"), Some("4"));
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    assert_eq!(backend.accept().expect_head().field("X-Request-Start"), None);
}

#[test]
fn key_is_in_force_at_once() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule());
    let daemon = setup.clone().start();
    setup.set("request_start", "true").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    start(&backend.accept().expect_head());
}

#[test]
fn time_of_a_hold_is_told() {
    let backend = Backend::new();
    let setup = Setup::new().set("request_start", "true").rule("a.com", spin(json!({})));
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    let before = micros();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{FORGED}\r\n"));
    expect_held(&mut api, "a.com", 1);
    let held = micros();
    client.expect_nothing_within(Duration::from_millis(300));
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    let head = server.expect_head();
    // It came when it came, and not when it was let go.
    assert!((before - SLACK..held + SLACK).contains(&start(&head)), "{before} {head:?} {held}");
    assert!(250 <= held_ms(&head), "{head:?}");
    assert_eq!(head.all("X_HELD_MS").len(), 0);
    // The next one on the same connection was not held.
    server.send(ok("kept"));
    client.expect_answer();
    client.send(get("a.com", "/"));
    assert_eq!(server.expect_head().field("X-Held-Ms"), None);
}

#[test]
fn wait_for_a_backend_is_told_too() {
    let port = closed_port();
    let rule = rule_for(&[port], json!({"hold": 30}));
    let daemon = Setup::new().set("request_start", "true").rule("a.com", rule).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    expect_held(&mut daemon.api(), "a.com", 1);
    client.expect_nothing_within(Duration::from_millis(200));
    let backend = Backend::on(port);
    // A probe may come before it.
    let head = loop {
        if let Some(head) = backend.accept().try_head() {
            break head;
        }
    };
    assert!(150 <= held_ms(&head), "{head:?}");
}

/// A request that is held moves to the new daemon, which knows since when it waits.
#[test]
fn upgrade_forgets_no_arrival() {
    let backend = Backend::new();
    let setup = Setup::new().set("request_start", "true").rule("a.com", spin(json!({})));
    let mut daemon = setup.copied().start();
    let mut client = daemon.connect();
    let before = micros();
    client.send(get("a.com", "/"));
    expect_held(&mut daemon.api(), "a.com", 1);
    let held = micros();
    client.expect_nothing_within(Duration::from_millis(200));
    let upgraded = micros();
    daemon.upgrade();
    expect_held(&mut daemon.api(), "a.com", 1);
    // Its age stands still while it travels.
    let travelled = micros() - upgraded;
    daemon.api().put("/hostname/a.com/", &backend.rule());
    let head = backend.accept().expect_head();
    let came = before - SLACK..held + travelled + SLACK;
    assert!(came.contains(&start(&head)), "{before} {head:?} {held}, {travelled} of upgrade");
    assert!(150 <= held_ms(&head), "{head:?}");
}
