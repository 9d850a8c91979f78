//! What one host, and one client, may ask for at most.

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::script::Connection;

fn limited(mut rule: Value, rate: u32) -> Value {
    rule[1]["max_requests_per_second"] = json!(rate);
    rule
}

#[test]
fn requests_past_the_rate_get_429() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("a.com", limited(backend.rule(), 5))
        .rule("b.com", backend.rule())
        .start();
    let mut client = daemon.connect();
    let mut status = |host| client.exchange(get(host, "/")).status();
    let began = Instant::now();
    let answers: Vec<u16> = (0..20).map(|_| status("a.com")).collect();
    assert_eq!(&answers[..5], [200; 5]);
    // five at once, and what the rate gives meanwhile
    let passed = answers.iter().filter(|status| **status == 200).count();
    let most = 6 + (5.0 * began.elapsed().as_secs_f64()) as usize;
    assert!((5..=most).contains(&passed), "{answers:?}");
    assert!(answers.iter().all(|status| [200, 429].contains(status)), "{answers:?}");
    assert_eq!(status("b.com"), 200, "another host");
    let mut again = daemon.connect();
    let answer = again.exchange(get("a.com", "/"));
    if answer.status() == 429 {
        assert_eq!(answer.head.field("retry-after"), Some("1"));
        assert!(!answer.head.says_close(), "the connection lives on");
    }
    eventually("a second later it is let through again", || {
        daemon.connect().exchange(get("a.com", "/")).status() == 200
    });
}

#[test]
fn the_rate_is_that_of_all_shards_together() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new().set("shards", 4).rule("a.com", limited(backend.rule(), 10)).start();
    let began = Instant::now();
    let passed = (0..60)
        .map(|_| daemon.connect().exchange(get("a.com", "/")).status())
        .filter(|status| *status == 200)
        .count();
    let most = 20 + (10.0 * began.elapsed().as_secs_f64()) as usize;
    assert!((10..most).contains(&passed), "{passed} of 60, not about 10");
    let metrics = daemon.api().ask("GET", "/metrics").expect_status(200).text();
    let line = format!("mantrid_shed_total{{reason=\"max_requests_per_second\"}} {}", 60 - passed);
    assert!(metrics.contains(&line), "no {line:?} in:\n{metrics}");
}

#[test]
fn held_request_is_not_sent_away() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new().rule("a.com", json!(["spin", {}, false])).start();
    let mut clients: Vec<Connection> = (0..20)
        .map(|_| {
            let mut client = daemon.connect();
            client.send(get("a.com", "/"));
            client
        })
        .collect();
    let mut api = daemon.api();
    crate::spin::expect_held(&mut api, "a.com", 20);
    api.put("/hostname/a.com/", &limited(backend.rule(), 1));
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 200);
    }
}

fn from(daemon: &Daemon, last: u8) -> Connection {
    Connection::client_from(Ipv4Addr::new(127, 0, 2, last).into(), daemon.address())
}

#[test]
fn connections_of_one_source_are_bounded() {
    let daemon = Setup::new()
        .set("shards", 2)
        .set("max_connections_per_source", 3)
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut open: Vec<Connection> = (0..3).map(|_| from(&daemon, 1)).collect();
    for client in &mut open {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    }
    let answer = from(&daemon, 1).expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (503, true));
    assert_eq!(from(&daemon, 2).exchange(get("a.com", "/")).status(), 403, "another source");
    drop(open.pop());
    eventually("a place is free again", || {
        let mut client = from(&daemon, 1);
        client.send(get("a.com", "/"));
        client.expect_answer().status() == 403
    });
    let metrics = daemon.api().ask("GET", "/metrics").expect_status(200).text();
    let shed = "mantrid_shed_total{reason=\"max_connections_per_source\"}";
    assert!(metrics.contains(shed), "{metrics}");
}

#[test]
fn connections_of_a_terminator_are_not_bounded() {
    let daemon = Setup::new()
        .internal()
        .set("max_connections_per_source", 1)
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut open: Vec<Connection> = (0..3).map(|_| daemon.connect_internal()).collect();
    for client in &mut open {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    }
}
