//! When a request is sent again and when not, and what a client gets when no backend can be
//! reached.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::message::{get, ok};
use crate::script::Connection;

fn post(target: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.com\r\nContent-Length: 4\r\n\r\nbody")
}

/// A client, and its backend's connection that has served one request and idles.
#[track_caller]
fn idle_connection(backend: &Backend, daemon: &Daemon) -> (Connection, Connection) {
    let mut client = daemon.connect();
    client.send(get("a.com", "/first"));
    let mut server = backend.accept();
    server.expect_request("GET /first HTTP/1.1");
    server.send(ok("first"));
    assert_eq!(client.expect_answer().text(), "first");
    (client, server)
}

#[test]
fn an_idempotent_request_is_retried_when_the_idle_connection_was_dead() {
    for (method, resets) in
        [("GET", false), ("GET", true), ("HEAD", false), ("PUT", true), ("DELETE", false)]
    {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let (mut client, mut server) = idle_connection(&backend, &daemon);
        client.send(format!("{method} /again HTTP/1.1\r\nHost: a.com\r\n\r\n"));
        // the request arrives on the idle connection, which ends without a byte of an answer
        server.expect_request(&format!("{method} /again HTTP/1.1"));
        if resets {
            server.reset();
        } else {
            drop(server);
        }
        let mut fresh = backend.accept();
        fresh.expect_request(&format!("{method} /again HTTP/1.1"));
        fresh.send("HTTP/1.1 204 No Content\r\n\r\n");
        client.expect_status(204);
        backend.expect_no_connection();
    }
}

#[test]
fn a_post_that_was_sent_is_not_sent_again() {
    for resets in [false, true] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let (mut client, mut server) = idle_connection(&backend, &daemon);
        client.send(post("/once"));
        server.expect_request("POST /once HTTP/1.1");
        if resets {
            server.reset();
        } else {
            drop(server);
        }
        assert_eq!(client.expect_answer().status(), 502);
        backend.expect_no_connection();
    }
}

#[test]
fn unknown_methods_are_not_idempotent() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = idle_connection(&backend, &daemon);
    client.send("BREW /once HTTP/1.1\r\nHost: a.com\r\n\r\n");
    server.expect_request("BREW /once HTTP/1.1");
    drop(server);
    assert_eq!(client.expect_answer().status(), 502);
    backend.expect_no_connection();
}

#[test]
fn a_new_connection_that_ends_without_an_answer_is_not_retried() {
    for resets in [false, true] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let mut client = daemon.connect();
        client.send(get("a.com", "/"));
        let mut server = backend.accept();
        server.expect_request("GET / HTTP/1.1");
        if resets {
            server.reset();
        } else {
            drop(server);
        }
        assert_eq!(client.expect_answer().status(), 502);
        backend.expect_no_connection();
    }
}

#[test]
fn response_that_has_begun_is_not_retried() {
    for begun in ["H", "HTTP/1.1 200 OK\r\nContent-"] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let (mut client, mut server) = idle_connection(&backend, &daemon);
        client.send(get("a.com", "/"));
        server.expect_request("GET / HTTP/1.1");
        server.send(begun);
        drop(server);
        assert_eq!(client.expect_answer().status(), 502);
        backend.expect_no_connection();
    }
}

#[test]
fn refused_connection_is_a_502() {
    let daemon = Daemon::proxying(rule_for(&[closed_port()], json!({})));
    let mut client = daemon.connect();
    for _ in 0..3 {
        let answer = client.exchange(get("a.com", "/"));
        assert_eq!((answer.status(), answer.head.says_close()), (502, false), "{:#?}", answer.head);
    }
    // with a body too, which is not taken for a request
    let answer = client.exchange(post("/"));
    assert_eq!(answer.status(), 502);
}

#[test]
fn a_backend_that_appears_is_found() {
    let port = closed_port();
    let daemon = Daemon::proxying(rule_for(&[port], json!({ "healthcheck": false })));
    let mut client = daemon.connect();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 502);
    let backend = Backend::on(port);
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send(ok("here"));
    assert_eq!(client.expect_answer().text(), "here");
}

#[test]
fn attempts_are_made_with_their_delay() {
    let arguments = json!({ "attempts": "3", "delay": 0.2 });
    let daemon = Daemon::proxying(rule_for(&[closed_port()], arguments));
    let began = Instant::now();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    let took = began.elapsed();
    let between = Duration::from_millis(380)..Duration::from_secs(3);
    assert!(between.contains(&took), "three attempts, 0.2 s apart, took {took:?}, not {between:?}");
}

#[test]
fn an_attempt_goes_to_another_backend() {
    let backend = Backend::new().serve_text("alive");
    let ports = [closed_port(), backend.port, closed_port()];
    let arguments = json!({ "attempts": 3, "delay": 0, "healthcheck": false });
    let daemon = Daemon::proxying(rule_for(&ports, arguments));
    for _ in 0..20 {
        let mut client = daemon.connect();
        assert_eq!(client.exchange(get("a.com", "/")).text(), "alive");
        // even a POST: no byte of it has been sent when a connection is refused
        assert_eq!(client.exchange(post("/")).text(), "alive");
    }
    assert_eq!(backend.requests(), 40, "each request came once");
}

#[test]
fn a_name_is_resolved() {
    let backend = Backend::new().serve_text("by name");
    let rule = json!(["proxy", { "backends": [["localhost", backend.port]] }, false]);
    let text = json!(["proxy", { "backends": [format!("localhost:{}", backend.port)] }, false]);
    let daemon = Setup::new().rule("a.com", rule).rule("b.com", text).start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "by name");
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).text(), "by name");
}

#[test]
fn name_that_does_not_resolve_is_a_502() {
    let rule = json!(["proxy", { "backends": [["no-such-name.invalid", 80]] }, false]);
    let daemon = Daemon::proxying(rule);
    let mut client = daemon.connect();
    for _ in 0..2 {
        let status = client.exchange(get("a.com", "/")).status();
        assert!(status == 502 || status == 503, "expected 502 or 503, found {status}");
    }
}

/// A name may have an address on which nobody listens, as `localhost` often has: that is no
/// failure.
#[test]
fn all_addresses_of_a_name_are_tried() {
    let hosts = "127.0.0.1 two.test\n127.0.0.2 two.test\n";
    let Some((setup, _hosts)) = crate::handover::with_hosts(hosts) else { return };
    // no connection to keep: each request makes one
    let backend = Backend::new().serve(|_, connection| {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        drop(connection.try_send(answer));
    });
    let rule = |is_checked: bool| {
        let backends = json!([["two.test", backend.port]]);
        json!(["proxy", {"backends": backends, "healthcheck": is_checked}, false])
    };
    let setup = setup.rule("a.com", rule(true)).rule("b.com", rule(false));
    let daemon = setup.start();
    let mut client = daemon.connect();
    // until chance has begun with either
    for _ in 0..20 {
        assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
        assert_eq!(client.exchange(get("b.com", "/")).text(), "hello");
    }
}
