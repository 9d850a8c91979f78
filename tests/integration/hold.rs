//! `hold`: requests wait while no backend of their host can be reached, and go on when one can be,
//! without a call of the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, metric, spin};

/// A host whose backend does not listen yet, with these arguments.
fn closed(setup: Setup, arguments: Value) -> (Daemon, Api, u16) {
    let port = closed_port();
    let daemon = setup.rule("a.com", rule_for(&[port], arguments)).start();
    let api = daemon.api();
    (daemon, api, port)
}

fn ask(daemon: &Daemon, request: &str) -> Connection {
    let mut client = daemon.connect();
    client.send(request);
    client
}

#[test]
fn requests_are_held_until_the_backend_listens() {
    let (daemon, mut api, port) = closed(Setup::new().set("shards", 2), json!({"hold": 30}));
    let mut clients: Vec<Connection> =
        (0..5).map(|n| ask(&daemon, &get("a.com", &format!("/{n}")))).collect();
    expect_held(&mut api, "a.com", 5);
    let began = Instant::now();
    let backend = Backend::on(port).serve(|head, connection| {
        drop(connection.try_send(ok(head.target())));
    });
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.expect_answer().text(), format!("/{number}"));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // each once; what else came was the probe
    assert_eq!(backend.requests(), 5);
    assert_eq!(api.counted("a.com", 5)["answers"]["2xx"], 5);
    // nobody waits any more
    assert_eq!(daemon.connect().exchange(get("a.com", "/x")).text(), "/x");
    assert_eq!(metric(&mut api, "holds_timed_out_total"), 0.0);
}

#[test]
fn hold_ends_with_its_time() {
    let (daemon, mut api, _port) =
        closed(Setup::new(), json!({"hold": 0.4, "attempts": 2, "delay": 0}));
    let mut client = daemon.connect();
    let began = Instant::now();
    let answer = client.exchange(get("a.com", "/"));
    let took = began.elapsed();
    assert_eq!(answer.status(), 503);
    assert!(answer.head.field("Retry-After").is_some(), "{:#?}", answer.head);
    assert!(Duration::from_millis(390) <= took && took < Duration::from_secs(3), "{took:?}");
    eventually("it is counted", || metric(&mut api, "holds_timed_out_total") == 1.0);
    // without `hold` nobody waits
    api.put("/hostname/a.com/", &rule_for(&[closed_port()], json!({})));
    assert_eq!(client.exchange(get("a.com", "/")).status(), 502);
}

/// The body of a request that found no backend in time is dropped with it, and never taken for a
/// request.
#[test]
fn body_of_a_request_held_in_vain_is_no_request() {
    let setup = Setup::new().rule("b.com", empty(402)).rule("c.com", empty(403));
    let (daemon, mut api, _port) = closed(setup, json!({"hold": 0.2}));
    let hidden = get("b.com", "/hidden");
    let mut received = 0;
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for (n, (framing, body)) in (1..).zip([
        (format!("Content-Length: {}", hidden.len()), &hidden),
        ("Transfer-Encoding: chunked".to_owned(), &chunk),
    ]) {
        let request = format!("PUT / HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n{body}");
        let mut client = ask(&daemon, &request);
        assert_eq!(client.expect_answer().status(), 503, "{framing}");
        assert_eq!(client.exchange(get("c.com", "/")).status(), 403, "{framing}");
        assert_eq!(api.counted("c.com", n)["open_requests"], 0);
        received += request.len();
        assert_eq!(api.counted("a.com", n)["bytes_received"], received, "{framing}");
    }
}

/// What changes meanwhile holds for those who wait: other backends, another action, no rule.
#[test]
fn a_change_of_the_rule_lets_them_go() {
    let (daemon, mut api, port) = closed(Setup::new(), json!({"hold": 60}));
    let backend = Backend::new().serve_text("hello");
    for (rule, status) in [
        (backend.rule(), 200),
        (empty(402), 402),
        (rule_for(&[closed_port()], json!({})), 502),
        (spin(json!({"timeout": 0})), 503),
    ] {
        api.put("/hostname/a.com/", &rule_for(&[port], json!({"hold": 60})));
        let mut client = ask(&daemon, &get("a.com", "/"));
        expect_held(&mut api, "a.com", 1);
        api.put("/hostname/a.com/", &rule);
        assert_eq!(client.expect_answer().status(), status, "{rule}");
    }
    // and from `spin` to a backend that is not there yet
    api.put("/hostname/a.com/", &spin(json!({})));
    let mut client = ask(&daemon, &get("a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    api.put("/hostname/a.com/", &rule_for(&[port], json!({"hold": 60})));
    client.expect_nothing_within(Duration::from_millis(30));
    expect_held(&mut api, "a.com", 1);
    let _backend = Backend::on(port).serve_text("there");
    assert_eq!(client.expect_answer().text(), "there");
}

/// A body that came with its head, or comes later, reaches the backend whole.
#[test]
fn bodies_go_through_whole() {
    let (daemon, mut api, port) = closed(Setup::new(), json!({"hold": 60}));
    let mut client =
        ask(&daemon, "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhello");
    expect_held(&mut api, "a.com", 1);
    let backend = Backend::on(port);
    let mut server = expect_request(&backend);
    client.send("world");
    server.expect_body("helloworld");
    server.send(ok("taken"));
    assert_eq!(client.expect_answer().text(), "taken");
}

/// The next connection with a request; probes open some that have none.
#[track_caller]
fn expect_request(backend: &Backend) -> Connection {
    loop {
        let mut server = backend.accept();
        if server.try_head().is_some() {
            return server;
        }
    }
}

#[test]
fn client_that_leaves_is_forgotten() {
    let (daemon, mut api, port) = closed(Setup::new(), json!({"hold": 60}));
    let leaves = ask(&daemon, &get("a.com", "/left"));
    let mut stays = ask(&daemon, &get("a.com", "/stays"));
    expect_held(&mut api, "a.com", 2);
    drop(leaves);
    expect_held(&mut api, "a.com", 1);
    let backend = Backend::on(port).serve_text("hello");
    assert_eq!(stays.expect_answer().text(), "hello");
    let heads = backend.take_heads();
    let targets: Vec<&str> = heads.iter().map(|head| head.target()).collect();
    assert_eq!(targets, ["/stays"]);
}

/// However many wait, one probe at a time asks, about ten times a second.
#[test]
fn one_probe_at_a_time_asks_for_all_that_wait() {
    let is_well = Arc::new(AtomicBool::new(false));
    let probes = Arc::new(AtomicUsize::new(0));
    let (well, count) = (is_well.clone(), probes.clone());
    let backend = Backend::new().serve(move |head, connection| {
        if head.target() == "/health" {
            count.fetch_add(1, Ordering::SeqCst);
            let status = if well.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
            drop(connection.try_send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")));
        } else {
            drop(connection.try_send(ok("hello")));
        }
    });
    let rule = rule_for(&[backend.port], json!({"hold": 60, "check": "/health"}));
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule).start();
    let mut api = daemon.api();
    let path = format!("127.0.0.1:{}", backend.port);
    eventually("its check fails", || api.get("/backends/")[&path]["state"] == "down");
    let mut clients: Vec<Connection> = (0..50).map(|_| ask(&daemon, &get("a.com", "/"))).collect();
    expect_held(&mut api, "a.com", 50);
    let (began, before) = (Instant::now(), probes.load(Ordering::SeqCst));
    eventually("it is probed", || 5 <= probes.load(Ordering::SeqCst) - before);
    let (count, took) = (probes.load(Ordering::SeqCst) - before, began.elapsed());
    let most = took.as_millis() / 80 + 2;
    assert!(count as u128 <= most, "{count} probes in {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    is_well.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.expect_answer().text(), "hello");
    }
}

/// A name that nobody knows is a backend that can't be reached.
#[test]
fn names_that_are_not_resolved_are_waited_for() {
    let rule = json!(["proxy", {"backends": [["no-such-name.invalid", 80]], "hold": 60}, true]);
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut api = daemon.api();
    let mut client = ask(&daemon, &get("a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    let backend = Backend::new().serve_text("hello");
    api.put("/hostname/a.com/", &backend.rule());
    assert_eq!(client.expect_answer().text(), "hello");
}

/// One of two backends is enough: nobody waits.
#[test]
fn request_goes_to_the_backend_that_is_there() {
    let backend = Backend::new().serve_text("hello");
    let ports = [closed_port(), backend.port];
    let rule = rule_for(&ports, json!({"hold": 60, "attempts": 2, "delay": 0}));
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut client = daemon.connect();
    for _ in 0..20 {
        assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
    }
    assert_eq!(metric(&mut daemon.api(), "holds_total"), 0.0);
}

/// An answer that never came to a request that may be repeated: it is, once a backend is back. One
/// that may have been acted on is not.
#[test]
fn repeatable_requests_of_a_dead_backend_are_held() {
    let backend = Backend::keeping_port();
    let port = backend.port;
    let rule = rule_for(&[port], json!({"hold": 60}));
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut api = daemon.api();
    let mut get_it = ask(&daemon, &get("a.com", "/get"));
    let mut server = backend.accept();
    server.expect_head();
    let mut post_it =
        ask(&daemon, "POST /post HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nhi");
    let mut other = backend.accept();
    other.expect_head();
    other.expect_body("hi");
    // it is gone, with all its connections
    drop((backend, server, other));
    assert_eq!(post_it.expect_answer().status(), 502);
    expect_held(&mut api, "a.com", 1);
    let backend = Backend::on(port).serve_text("hello");
    assert_eq!(get_it.expect_answer().text(), "hello");
    assert_eq!(backend.requests(), 1);
}

/// Restart after restart may meet the same request; but one that brings the application down does
/// not do so for ever.
#[test]
fn request_that_kills_its_backend_is_sent_again_three_times() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule_with(json!({"hold": 60}))).start();
    let mut client = ask(&daemon, &get("a.com", "/"));
    for _ in 0..4 {
        drop(expect_request(&backend));
    }
    assert_eq!(client.expect_answer().status(), 502);
}

/// However many idle connections and new ones turn out dead: once, and three times again.
#[test]
fn request_is_sent_four_times_at_most() {
    let dying = Arc::new(AtomicBool::new(false));
    let is_dying = Arc::clone(&dying);
    let backend =
        Backend::new().serve(move |_, connection| match is_dying.load(Ordering::SeqCst) {
            true => connection.half_close_if_open(),
            false => drop(connection.try_send(ok("hello"))),
        });
    let rule = rule_for(&[backend.port], json!({"hold": 60}));
    let daemon = Setup::new().rule("a.com", rule).start();
    // Several idle connections.
    let mut clients: Vec<Connection> = (0..4).map(|_| ask(&daemon, &get("a.com", "/"))).collect();
    for client in &mut clients {
        assert_eq!(client.expect_answer().text(), "hello");
    }
    dying.store(true, Ordering::SeqCst);
    drop(backend.take_heads());
    assert_eq!(clients[0].exchange(get("a.com", "/once")).status(), 502);
    assert_eq!(backend.take_heads().len(), 4);
}
