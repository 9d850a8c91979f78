//! Which backends are well: probes by `check`, ejection of those that fail requests, and the way
//! back. Where something must not happen, another backend that is probed shows that the time for it
//! has passed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, checked, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::message::{Head, get, ok};
use crate::timeouts::FullListener;

fn status(status: u16) -> Arc<AtomicU16> {
    Arc::new(AtomicU16::new(status))
}

/// What arrived since the last call: requests, and probes.
fn arrived(backend: &Serving) -> (usize, Vec<Head>) {
    let (probes, requests): (Vec<Head>, Vec<Head>) =
        backend.take_heads().into_iter().partition(|head| head.target() == "/health");
    (requests.len(), probes)
}

/// The statuses of so many requests, each on a connection of its own.
fn statuses(daemon: &Daemon, host: &str, count: usize) -> Vec<u16> {
    (0..count).map(|_| daemon.connect().exchange(get(host, "/")).status()).collect()
}

/// Waits until a backend that is down was probed so many times more: a second for each.
#[track_caller]
fn wait_for_probes(clock: &Serving, count: usize) {
    let before = clock.requests();
    eventually("the clock is probed", || before + count <= clock.requests());
}

/// Has the table changed.
#[track_caller]
fn manage(socket: &Path, request: &str, body: &str) {
    let mut operator = UnixStream::connect(socket).expect("the management socket");
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    operator.write_all([&head, &*fields, body].concat().as_bytes()).expect("a request");
    let mut answer = String::new();
    operator.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

fn told(port: u16, what: &str) -> [String; 1] {
    [format!("Backend 127.0.0.1:{port} is {what}")]
}

#[track_caller]
fn expect_told(daemon: &Daemon, port: u16, what: &str) {
    daemon.expect_log(&told(port, what).each_ref().map(String::as_str));
}

#[test]
fn a_backend_whose_check_fails_gets_nothing_until_it_succeeds() {
    let (first, second) = (status(500), status(204));
    let backends = [checked("served", &first), checked("served", &second)];
    let ports = [backends[0].port, backends[1].port];
    let arguments = json!({ "check": "/health", "algorithm": "round_robin" });
    let daemon = Daemon::proxying(rule_for(&ports, arguments));
    expect_told(&daemon, ports[0], "down: GET /health of a.com: answered 500");
    let (_, probes) = arrived(&backends[0]);
    let lines = probes[0].lines();
    assert_eq!(probes[0].start, "GET /health HTTP/1.1");
    assert!(lines.contains("Host: a.com\n"), "{lines}");
    assert!(lines.contains("Connection: close\n"), "{lines}");
    arrived(&backends[1]);
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert_eq!((arrived(&backends[0]).0, arrived(&backends[1]).0), (0, 10));
    first.store(302, Ordering::SeqCst);
    expect_told(&daemon, ports[0], "up again: GET /health of a.com: answered 302, 2 times");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert_eq!((arrived(&backends[0]).0, arrived(&backends[1]).0), (5, 5));
    second.store(503, Ordering::SeqCst);
    expect_told(&daemon, ports[1], "down: GET /health of a.com: answered 503, 3 times");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert_eq!((arrived(&backends[0]).0, arrived(&backends[1]).0), (10, 0));
}

#[test]
fn all_backends_are_tried_when_all_are_down() {
    let backends = [checked("served", &status(500)), checked("served", &status(404))];
    let ports = [backends[0].port, backends[1].port];
    let arguments = json!({ "check": "/health", "algorithm": "round_robin" });
    let daemon = Daemon::proxying(rule_for(&ports, arguments));
    expect_told(&daemon, ports[0], "down: GET /health of a.com: answered 500");
    expect_told(&daemon, ports[1], "down: GET /health of a.com: answered 404");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert_eq!((arrived(&backends[0]).0, arrived(&backends[1]).0), (5, 5));
}

/// Without `healthcheck`: what requests meet is not heeded, what the check finds is.
#[test]
fn check_by_connection_finds_a_backend_up() {
    let alive = Backend::new().serve_text("");
    let port = closed_port();
    let arguments = json!({ "check": "tcp", "algorithm": "round_robin", "healthcheck": false });
    let daemon = Daemon::proxying(rule_for(&[port, alive.port], arguments));
    expect_told(&daemon, port, "down: tcp: connection refused");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    let back = Backend::on(port).serve_text("back");
    expect_told(&daemon, port, "up again: tcp: accepts connections, 2 times");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert_eq!(back.requests(), 5);
}

#[test]
fn a_backend_that_fails_is_ejected_on_every_shard_until_it_is_back() {
    let alive = Backend::new().serve_text("alive");
    let port = closed_port();
    let both = rule_for(&[port, alive.port], json!({ "algorithm": "round_robin" }));
    let daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", both)
        .rule("b.com", rule_for(&[port], json!({})))
        .start();
    // all on one connection, so by one shard
    let mut client = daemon.connect();
    for _ in 0..3 {
        assert_eq!(client.exchange(get("b.com", "/")).status(), 502);
    }
    expect_told(&daemon, port, "ejected: 3 connections in a row could not be opened");
    // also by the other shard, which has never met it
    assert_eq!(statuses(&daemon, "a.com", 24), [200; 24]);
    assert_eq!(alive.requests(), 24);
    let back = Backend::on(port).serve_text("back");
    expect_told(&daemon, port, "up again: accepts connections");
    assert_eq!(statuses(&daemon, "a.com", 24), [200; 24]);
    assert!(10 < back.requests() && 10 < alive.requests() - 24, "{}", back.requests());
}

/// It can be connected to, so only the requests show it at first; its probes then do, too.
#[test]
fn a_backend_that_accepts_and_closes_is_ejected() {
    let alive = Backend::new().serve_text("");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    let clock = closed_port();
    // until the end of all tests
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[port, alive.port], json!({ "algorithm": "round_robin" })))
        .rule("c.com", rule_for(&[clock], json!({})))
        .start();
    let failed = statuses(&daemon, "a.com", 6).into_iter().filter(|status| *status == 502);
    assert_eq!(failed.count(), 3);
    expect_told(&daemon, port, "ejected: 3 requests in a row got no answer (rule a.com)");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    // another one is ejected and comes back: by then this one was probed, too
    assert_eq!(statuses(&daemon, "c.com", 3), [502; 3]);
    expect_told(&daemon, clock, "ejected");
    let _back = Backend::on(clock).serve_text("");
    expect_told(&daemon, clock, "up again");
    assert_eq!(statuses(&daemon, "a.com", 10), [200; 10]);
    assert!(!daemon.log.text().contains(&told(port, "up again")[0]));
}

#[test]
fn an_answer_in_between_starts_the_count_anew() {
    let backend = Backend::new().serve(|head, server| match head.target() {
        "/close" => server.half_close_if_open(),
        _ => drop(server.try_send(ok("fine"))),
    });
    let other = closed_port();
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("b.com", rule_for(&[other], json!({})))
        .start();
    let ask = |host: &str, path: &str| daemon.connect().exchange(get(host, path)).status();
    for path in ["/close", "/close", "/", "/close", "/close"] {
        ask("a.com", path);
    }
    assert_eq!(statuses(&daemon, "b.com", 3), [502; 3]);
    expect_told(&daemon, other, "ejected");
    assert!(!daemon.log.text().contains(&told(backend.port, "ejected")[0]));
    assert_eq!(ask("a.com", "/close"), 502);
    expect_told(&daemon, backend.port, "ejected");
    // there is nothing else, so it is tried, and answers: that is as good as a probe
    assert_eq!(ask("a.com", "/"), 200);
    expect_told(&daemon, backend.port, "up again");
}

/// A backend of several hosts: it ends the connection without a response where the host is one of
/// these, as nginx does with `return 444`.
fn silent_for(hosts: &'static [&'static str]) -> Serving {
    Backend::new().serve(move |head, server| {
        match hosts.contains(&head.field("Host").unwrap_or_default()) {
            true => server.half_close_if_open(),
            false => drop(server.try_send(ok("shared"))),
        }
    })
}

#[test]
fn silence_takes_a_backend_from_its_own_rule_alone() {
    let (shared, spare) = (silent_for(&["bad.com"]), Backend::new().serve_text("spare"));
    let rule = || rule_for(&[shared.port, spare.port], json!({ "algorithm": "round_robin" }));
    let mut daemon = Setup::new()
        .set("shards", 2)
        .rule("bad.com", rule())
        .rule("alias.com", json!(["alias", { "hostname": "bad.com" }, false]))
        .rule("good.com", rule())
        .rule("held.com", rule_for(&[shared.port], json!({ "hold": 60 })))
        .start();
    let mut client = daemon.connect();
    let told = told(shared.port, "ejected: 3 requests in a row got no answer (rule bad.com)");
    eventually("it is ejected", || {
        client.exchange(get("bad.com", "/"));
        daemon.log.text().contains(&told[0])
    });
    let texts = |daemon: &Daemon, host: &str| -> Vec<String> {
        (0..8).map(|_| daemon.connect().exchange(get(host, "/")).text()).collect()
    };
    let expect = |daemon: &Daemon| {
        let both = texts(daemon, "good.com");
        assert_eq!(both.iter().filter(|text| *text == "shared").count(), 4, "{both:?}");
        assert_eq!(texts(daemon, "held.com"), ["shared"; 8]);
    };
    expect(&daemon);
    let address = format!("127.0.0.1:{}", shared.port);
    let standing = daemon.api().get("/backends/")[&address].clone();
    assert_eq!(standing["state"], "partly_down", "{standing}");
    let check = &standing["checks"][0];
    let found = (&check["check"], &check["rules"], &check["state"]);
    assert_eq!(found, (&json!("requests"), &json!(["bad.com"]), &json!("ejected")));
    for (host, health) in [("bad.com", "ejected"), ("alias.com", "ejected"), ("good.com", "up")] {
        let told = daemon.api().get(&format!("/which/{host}"));
        assert_eq!(told["backends"][0]["health"], health, "{told}");
    }
    daemon.upgrade();
    // Until the old daemon has stopped, both accept, and each counts turns of its own.
    daemon.expect_log(&["Stopped after"]);
    expect(&daemon);
}

/// A rule that waits for a backend that gives it no response has no other rule wait.
#[test]
fn silence_of_a_rule_that_holds_takes_the_backend_from_no_other() {
    let shared = silent_for(&["bad.com"]);
    let rule = || rule_for(&[shared.port], json!({ "hold": 60 }));
    let daemon = Setup::new().rule("bad.com", rule()).rule("good.com", rule()).start();
    let mut waits = daemon.connect();
    waits.send(get("bad.com", "/"));
    expect_told(&daemon, shared.port, "ejected: a request waits for it (rule bad.com)");
    let mut api = daemon.api();
    for _ in 0..20 {
        assert_eq!(daemon.connect().exchange(get("good.com", "/")).text(), "shared");
        assert_ne!(api.get("/which/good.com")["outcome"], "held");
    }
    assert_eq!(waits.expect_answer().status(), 502, "it was sent as often as it may be");
    let log = daemon.log.text();
    let ejected = log.lines().filter(|line| line.contains("is ejected"));
    assert!(ejected.clone().all(|line| line.ends_with("(rule bad.com)")), "{log}");
}

/// A rule's own patience is no measure for others.
#[test]
fn short_timeout_of_a_rule_takes_the_backend_from_no_other() {
    let full = FullListener::new();
    let spare = Backend::new().serve_text("spare");
    let rule = |more: Value| {
        let mut arguments = json!({ "algorithm": "round_robin", "attempts": 2, "delay": 0 });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule_for(&[full.port, spare.port], arguments)
    };
    let daemon = Setup::new()
        .rule("short.com", rule(json!({ "timeout_connect": 0.01 })))
        .rule("long.com", rule(json!({})))
        .rule("held.com", rule_for(&[full.port], json!({ "timeout_connect": 0.01, "hold": 60 })))
        .start();
    let mut waits = daemon.connect();
    waits.send(get("held.com", "/"));
    expect_told(&daemon, full.port, "ejected: a request waits for it (rule held.com)");
    let told = told(full.port, "ejected: 3 connections in a row could not be opened");
    eventually("it is ejected", || {
        statuses(&daemon, "short.com", 2);
        daemon.log.text().contains(&told[0])
    });
    assert!(daemon.log.text().contains("timed out (rule short.com)"), "{}", daemon.log.text());
    let told = daemon.api().get("/which/long.com");
    assert_eq!(told["backends"][0]["health"], "up", "{told}");
    assert_eq!(daemon.api().get("/which/held.com")["outcome"], "held");
}

/// Its probes call it well, for it accepts connections; its requests show it anew.
#[test]
fn backend_that_fails_again_is_ejected_again() {
    let backend = Backend::new().serve(|_, server| server.half_close_if_open());
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    for count in 1..=2 {
        for _ in 0..3 {
            assert_eq!(client.exchange(get("a.com", "/")).status(), 502);
        }
        let times = |what| daemon.log.text().matches(&told(backend.port, what)[0]).count();
        eventually("it is ejected", || times("ejected") == count);
        eventually("it is trusted again", || times("up again: accepts connections") == count);
    }
}

/// Whoever sends half a request must not be able to take a backend away from others.
#[test]
fn a_request_that_is_not_whole_says_nothing_of_its_backend() {
    let (backend, other) = (Backend::new(), closed_port());
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("b.com", rule_for(&[other], json!({})))
        .start();
    for _ in 0..4 {
        let (mut client, server) = asked_for(
            &daemon,
            &backend,
            "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhalf",
        );
        drop(server);
        client.expect_status(502);
    }
    assert_eq!(statuses(&daemon, "b.com", 3), [502; 3]);
    expect_told(&daemon, other, "ejected");
    assert!(!daemon.log.text().contains(&told(backend.port, "ejected")[0]));
}

#[test]
fn backends_without_healthcheck_are_not_ejected() {
    let (one, two) = (closed_port(), closed_port());
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[one], json!({ "healthcheck": false })))
        .rule("b.com", rule_for(&[two], json!({})))
        .start();
    assert_eq!(statuses(&daemon, "a.com", 6), [502; 6]);
    assert_eq!(statuses(&daemon, "b.com", 3), [502; 3]);
    expect_told(&daemon, two, "ejected");
    assert!(!daemon.log.text().contains(&told(one, "ejected")[0]));
}

#[test]
fn changes_of_the_table_do_not_start_a_check_anew() {
    let (bad, good, new) = (
        checked("served", &status(500)),
        checked("served", &status(200)),
        checked("served", &status(500)),
    );
    let arguments =
        json!({ "check": "/health", "check_host": "probe.test", "algorithm": "round_robin" });
    let rule = rule_for(&[bad.port, good.port], arguments);
    let setup = Setup::new().rule("a.com", rule.clone());
    let management = setup.path("management.sock");
    let daemon = setup.start();
    expect_told(&daemon, bad.port, "down");
    let added = rule_for(&[new.port], json!({ "check": "/health" }));
    let table = json!({ "a.com": rule, "b.com": added });
    manage(&management, "PUT /hostname/", &table.to_string());
    expect_told(&daemon, new.port, "down");
    // the same check, of another host now
    let moved = json!({ "a.com": null, "c.com": rule });
    manage(&management, "PATCH /hostname/", &moved.to_string());
    arrived(&bad);
    assert_eq!(statuses(&daemon, "c.com", 10), [200; 10]);
    assert_eq!(arrived(&bad).0, 0);
    wait_for_probes(&new, 1);
    assert!(!daemon.log.text().contains("up again"));
}

#[test]
fn probes_begin_and_end_with_the_check() {
    let unchecked = Backend::new().serve_text("");
    let removed = checked("served", &status(500));
    let clock = checked("served", &status(500));
    let setup = Setup::new()
        .rule("a.com", unchecked.rule())
        .rule("b.com", rule_for(&[removed.port], json!({ "check": "/health" })))
        .rule("c.com", rule_for(&[clock.port], json!({ "check": "/health" })));
    let management = setup.path("management.sock");
    let daemon = setup.start();
    expect_told(&daemon, removed.port, "down");
    manage(&management, "DELETE /hostname/b.com/", "");
    expect_told(&daemon, removed.port, "up again: no longer checked");
    // one that was under way may still arrive
    wait_for_probes(&clock, 1);
    let before = removed.requests();
    wait_for_probes(&clock, 3);
    assert_eq!(removed.requests(), before);
    assert_eq!(unchecked.connections(), 0);
}

/// Many an application writes policies and cookies on its health page, too.
#[test]
fn long_head_of_a_check_counts_as_up() {
    let fields = format!("X-Policy: {}\r\n", "a".repeat(1000)).repeat(20);
    let backend = Backend::new().serve(move |_, server| {
        drop(server.try_send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")));
    });
    let rule = rule_for(&[backend.port], json!({ "check": "/health" }));
    let daemon = Setup::new().rule("a.com", rule).start();
    // The outcome of the first is known when the second comes.
    eventually("it is probed twice", || 2 <= backend.requests());
    assert!(!daemon.log.text().contains("is down"), "{}", daemon.log.text());
    assert_eq!(statuses(&daemon, "a.com", 1), [200]);
}
