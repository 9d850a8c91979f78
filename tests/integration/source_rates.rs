//! `max_requests_per_second_per_source`: a rate for each client of a rule, over all shards.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::raw::hello;
use crate::script::Connection;

/// A connection from this address of the loopback.
fn from(source: &str, daemon: &Daemon) -> Connection {
    let source: IpAddr = source.parse().expect(source);
    Connection::client_from(source, daemon.address())
}

#[track_caller]
fn status_from(source: &str, daemon: &Daemon) -> u16 {
    from(source, daemon).exchange(get("a.com", "/")).status()
}

/// How many of so many requests at once from this address pass; the others get a 429.
#[track_caller]
fn passed(source: &str, daemon: &Daemon, count: usize) -> usize {
    // a connection each, so that all shards have some
    let mut clients: Vec<Connection> = (0..count).map(|_| from(source, daemon)).collect();
    clients.iter_mut().for_each(|client| client.send(get("a.com", "/")));
    let statuses: Vec<u16> =
        clients.iter_mut().map(|client| client.expect_answer().status()).collect();
    let limited = statuses.iter().filter(|status| **status == 429).count();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(limited + passed, count, "{statuses:?}");
    passed
}

/// The lowest rate there is.
fn slow() -> Value {
    json!({ "max_requests_per_second_per_source": 1 })
}

#[test]
fn each_client_is_limited_by_itself() {
    let backend = Backend::new().serve_text("hello");
    let mut rule = backend.rule();
    rule[1]["max_requests_per_second_per_source"] = json!(1);
    let (setup, path) = logging(Setup::new().set("shards", 2).rule("a.com", rule));
    let daemon = setup.start();
    let first = passed("127.0.0.1", &daemon, 40);
    assert!((1..40).contains(&first), "{first} of 40 passed");
    for source in ["127.0.0.2", "127.0.0.3"] {
        assert_eq!(status_from(source, &daemon), 200, "{source} has asked for nothing yet");
    }
    let lines = wait_for(&path, 42);
    let limited = lines.iter().filter(|line| line["status"] == 429);
    let names = limited.map(|line| line["termination"].as_str().expect("text"));
    assert!(
        names.clone().count() == 40 - first && names.clone().all(|it| it == "source_rate_limited")
    );
    let mut api = daemon.api();
    let found = api.counted("a.com", 42);
    assert_eq!(found["answers"]["4xx"], 40 - first as u64);
    let metrics = api.ask("GET", "/metrics").text();
    let reason = "reason=\"max_requests_per_second_per_source\"";
    assert!(metrics.contains(&format!("{reason}}} {}", 40 - first)), "{metrics}");
}

#[test]
fn limited_request_is_told_when_to_come_again() {
    let backend = Backend::new().serve_text("hello");
    let mut rule = backend.rule();
    rule[1]["max_requests_per_second_per_source"] = json!(1);
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut client = daemon.connect();
    let limited = (0..100).find_map(|_| {
        let answer = client.exchange(get("a.com", "/"));
        (answer.status() == 429).then_some(answer)
    });
    let limited = limited.expect("no client sends a hundred requests in as many seconds here");
    assert_eq!(limited.head.field("Retry-After"), Some("1"));
    assert!(!limited.head.says_close(), "the connection goes on");
}

#[test]
fn rate_of_a_client_goes_before_that_of_the_rule() {
    let backend = Backend::new().serve_text("hello");
    let mut rule = backend.rule();
    rule[1]["max_requests_per_second_per_source"] = json!(1);
    rule[1]["max_requests_per_second"] = json!(1000);
    let daemon = Setup::new().rule("a.com", rule).start();
    let first = passed("127.0.0.1", &daemon, 30);
    assert!(first < 30);
    let metrics = daemon.api().ask("GET", "/metrics").text();
    assert!(metrics.contains("reason=\"max_requests_per_second\"} 0"), "{metrics}");
}

#[test]
fn clients_behind_a_terminator_are_told_apart() {
    let backend = Backend::new().serve_text("hello");
    let mut rule = backend.rule();
    rule[1]["max_requests_per_second_per_source"] = json!(1);
    let setup = Setup::new().internal().set("client_field", "X-Forwarded-For");
    let daemon = setup.rule("a.com", rule).start();
    let mut client = daemon.connect_internal();
    for number in 1..=50 {
        let request =
            format!("GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-For: 203.0.113.{number}\r\n\r\n");
        assert_eq!(client.exchange(request).status(), 200, "client {number}");
    }
    let network = |low: &str| {
        format!("GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-For: 2001:db8::{low}\r\n\r\n")
    };
    let mut statuses = (1..100).map(|n| client.exchange(network(&n.to_string())).status());
    assert!(statuses.any(|status| status == 429), "a network of 64 bits is one client");
}

#[test]
fn raw_connections_past_the_rate_are_closed() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .add("bind_tcp", "127.0.0.1:0 db.com")
        .add("bind_tls", "127.0.0.1:0")
        .rule("db.com", backend.rule_with(slow()))
        .rule("b.com", backend.rule_with(slow()))
        .start();
    // The backend gets a connection, or its client something: bytes, or an end.
    let passed = |client: &mut Connection| {
        let (moment, mut server) = (Duration::from_millis(1), None);
        eventually("it passes, or does not", || {
            server = backend.accept_within(moment);
            server.is_some() || client.came_within(moment)
        });
        server
    };
    let raw = daemon.raw_address("TCP");
    let is_closed = (0..100).any(|_| {
        let mut client = Connection::client(raw);
        client.send("x");
        match passed(&mut client) {
            Some(mut server) => {
                server.expect_body("x");
                false
            }
            None => {
                client.read_to_end();
                true
            }
        }
    });
    assert!(is_closed, "a hundred connections passed");
    let is_told = (0..100).any(|_| {
        let mut client = Connection::client(daemon.raw_address("TLS"));
        client.send(hello(Some("b.com"), 1000));
        match passed(&mut client) {
            Some(_) => false,
            None => {
                client.expect_body([21, 3, 3, 0, 2, 2, 80]);
                true
            }
        }
    });
    assert!(is_told, "a hundred connections passed");
}

/// Clients who ask all the time, through an upgrade, get what the rate gives them in that time and
/// one second's worth, which was there at the start; and besides what the new daemon can't know:
/// requests of the old one while it started.
#[test]
fn rates_are_kept_in_an_upgrade() {
    const RATE: u32 = 20;
    for argument in ["max_requests_per_second", "max_requests_per_second_per_source"] {
        let backend = Backend::new().serve_text("hello");
        let rule = backend.rule_with(json!({ argument: RATE }));
        let mut daemon = Setup::new().rule("a.com", rule).start();
        let (address, passed, limited) = (daemon.address(), AtomicU32::new(0), AtomicU32::new(0));
        let ask = || match Connection::client(address).exchange(get("a.com", "/")).status() {
            200 => passed.fetch_add(1, Ordering::SeqCst),
            429 => limited.fetch_add(1, Ordering::SeqCst),
            other => panic!("{argument}: a reply {other}"),
        };
        let (began, is_over) = (Instant::now(), AtomicBool::new(false));
        let start_time = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) && began.elapsed().as_secs() < 60 {
                    ask();
                }
            });
            eventually("the rate is spent", || limited.load(Ordering::SeqCst) != 0);
            let asked = Instant::now();
            daemon.upgrade();
            is_over.store(true, Ordering::SeqCst);
            asked.elapsed()
        });
        for _ in 0..2 * RATE {
            ask();
        }
        let most = f64::from(RATE) * (1.0 + (began.elapsed() + start_time).as_secs_f64()) + 1.0;
        let passed = f64::from(passed.load(Ordering::SeqCst));
        assert!(passed <= most, "{argument}: {passed} passed, {most} at most, {start_time:?}");
    }
}

#[test]
fn rate_is_read_strictly_and_read_back() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let rule = |value: Value| {
        json!(["proxy", { "backends": [["10.0.0.1", 80]],
            "max_requests_per_second_per_source": value }, false])
    };
    for wrong in [json!(0), json!(-1), json!(1.5), json!("many"), json!(null), json!([1])] {
        let answer = api.tell("PUT", "/hostname/a.com/", &rule(wrong));
        let code = "a.com:host_kwarg_invalid:max_requests_per_second_per_source";
        assert!(answer.expect_error(400, code).contains("expected a whole number from 1"));
    }
    api.put("/hostname/a.com/", &rule(json!("7")));
    assert_eq!(api.get("/hostname/a.com/"), rule(json!(7)));
}
