//! Timeouts of a rule, in place of the keys: shorter or longer, for HTTP, tunnels and raw
//! connections, and for no other rule.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::{Backend, rule_for};
use crate::daemon::{Setup, asked};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::timeouts::{FullListener, expect_about};
use crate::tunnel::tunnelled;

/// Keys that are far from what the rules say.
fn long_keys() -> Setup {
    Setup::new()
        .set("timeout_connect", "30s")
        .set("timeout_server", "30s")
        .set("timeout_tunnel", "30s")
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn connect_of_the_rule_ends_an_attempt() {
    let full = FullListener::new();
    let rule = rule_for(&[full.port], json!({"timeout_connect": 0.3}));
    let daemon = long_keys().rule("a.com", rule).start();
    let began = Instant::now();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    expect_about(SHORT, began);
}

#[test]
fn connect_of_the_rule_ends_the_wait_for_a_permit() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"timeout_connect": "0.3", "max_connections": 1}));
    let daemon = long_keys().rule("a.com", rule).start();
    let (_client, _server) = asked(&daemon, &backend);
    let began = Instant::now();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503);
    expect_about(SHORT, began);
}

#[test]
fn connect_of_the_rule_governs_raw_connections() {
    let full = FullListener::new();
    let rule = rule_for(&[full.port], json!({"timeout_connect": 0.3}));
    let daemon = long_keys().add("bind_tcp", "127.0.0.1:0 db.com").rule("db.com", rule).start();
    let began = Instant::now();
    let mut client = Connection::client(daemon.raw_address("TCP"));
    client.expect_end();
    expect_about(SHORT, began);
}

#[test]
fn server_of_the_rule_ends_a_silent_exchange() {
    // The backend itself has something to do in that time.
    const SHORT: Duration = Duration::from_secs(1);
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"timeout_server": 1}));
    let daemon = long_keys().rule("a.com", rule).start();
    // Before a response, in the middle of one, and with a body that goes up first.
    let began = Instant::now();
    let (mut client, mut server) = asked(&daemon, &backend);
    assert_eq!(client.expect_answer().status(), 504);
    expect_about(SHORT, began);
    server.expect_end();
    let began = Instant::now();
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.expect_status(200);
    client.expect_body("hello");
    client.expect_end();
    expect_about(SHORT, began);
    let began = Instant::now();
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\na");
    let mut server = backend.accept();
    server.expect_head();
    client.send("b");
    server.expect_body("ab");
    assert_eq!(client.expect_answer().status(), 504);
    expect_about(SHORT, began);
}

/// The rule of `a.com` is patient where the key, which `b.com` has, is not.
#[test]
fn server_of_the_rule_may_be_longer_than_the_key() {
    let backend = Backend::new();
    let patient = backend.rule_with(json!({"timeout_server": 30}));
    let setup = Setup::new().set("timeout_server", "300ms");
    let daemon = setup.rule("a.com", patient).rule("b.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let mut other = daemon.connect();
    other.send(get("b.com", "/"));
    let mut silent = backend.accept();
    silent.expect_head();
    assert_eq!(other.expect_answer().status(), 504);
    server.send(ok("late"));
    assert_eq!(client.expect_answer().text(), "late");
}

#[test]
fn tunnel_of_the_rule_ends_a_silent_tunnel() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"timeout_tunnel": 0.3}));
    let setup = long_keys().add("bind_tcp", "127.0.0.1:0 a.com");
    let daemon = setup.rule("a.com", rule).start();
    let began = Instant::now();
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    server.expect_end();
    client.expect_end();
    expect_about(SHORT, began);
    let began = Instant::now();
    let mut client = Connection::client(daemon.raw_address("TCP"));
    let mut server = backend.accept();
    client.expect_end();
    server.expect_end();
    expect_about(SHORT, began);
}

#[test]
fn tunnel_of_the_rule_may_be_longer_than_the_key() {
    let backend = Backend::new();
    let patient = backend.rule_with(json!({"timeout_tunnel": 30}));
    let daemon = Setup::new().set("timeout_tunnel", "300ms").rule("a.com", patient).start();
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    client.expect_nothing_within(3 * SHORT);
    server.send("still here");
    client.expect_body("still here");
}

#[test]
fn timeout_of_nothing_is_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for name in ["timeout_connect", "timeout_server", "timeout_tunnel"] {
        for value in [json!(0), json!(0.0001), json!("5s"), json!(-1), json!(2_678_401)] {
            let rule = rule_for(&[1], json!({ name: value }));
            let message = api
                .tell("PUT", "/hostname/a.com/", &rule)
                .expect_error(400, &format!("a.com:host_kwarg_invalid:{name}"));
            let expected = format!("{name} of proxy is {value}; expected seconds: a number from");
            assert!(message.contains(&expected), "{message}");
        }
    }
    let rule = json!(["proxy", {"backends": [["127.0.0.1", 1]], "timeout_connect": 0.5,
        "timeout_server": 300, "timeout_tunnel": 86400, "max_body": 1000}, true]);
    api.put("/hostname/a.com/", &rule);
    assert_eq!(api.get("/hostname/a.com/"), rule);
}
