//! Hosts of `/stats/` and `/hostname/` in the order that is asked for, and those that are searched.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::management::Call;
use crate::message::get;
use crate::spin::{expect_held, spin};

/// Hosts of which one fails most, one is asked most, one sends most, one holds and one is slow; and
/// some that are idle.
fn night() -> (Daemon, Api, Vec<crate::script::Connection>) {
    let silent = Backend::new().serve(|_, connection| drop(connection.next_head()));
    let large = Backend::new().serve_text(Box::leak("x".repeat(20_000).into_boxed_str()));
    let dead = rule_for(&[closed_port()], json!({}));
    let daemon = Setup::new()
        .set("timeout_server", "300ms")
        .rule("busy.com", empty(403))
        .rule("failing.com", dead)
        .rule("held.com", spin(json!({})))
        .rule("large.com", large.rule())
        .rule("slow.com", silent.rule())
        .rule("idle-b.com", empty(403))
        .rule("idle-a.com", empty(403))
        .start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    for (host, count) in [("busy.com", 9), ("failing.com", 3), ("large.com", 1), ("slow.com", 1)] {
        for _ in 0..count {
            drop(client.exchange(get(host, "/")));
        }
        api.counted(host, count);
    }
    let held = (0..2).map(|_| {
        let mut client = daemon.connect();
        client.send(get("held.com", "/"));
        client
    });
    let held = held.collect();
    expect_held(&mut api, "held.com", 2);
    (daemon, api, held)
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn host_at_fault_comes_first() {
    let (_daemon, mut api, _held) = night();
    for (sort, first) in [
        ("errors", "failing.com"),
        ("latency", "slow.com"),
        ("held", "held.com"),
        ("open", "held.com"),
        ("requests", "busy.com"),
        ("bytes", "large.com"),
    ] {
        let found = api.get(&format!("/stats/?sort={sort}"));
        assert_eq!(names(&found)[0], first, "{sort}: {found}");
        assert_eq!(names(&found).len(), 7, "all of them are fewer than 100");
        let one = api.get(&format!("/stats/?sort={sort}&limit=1"));
        assert_eq!(names(&one), [first], "{sort}");
        let rules = api.get(&format!("/hostname/?sort={sort}&limit=2"));
        assert_eq!(names(&rules)[0], first, "{sort}: {rules}");
        assert_eq!(rules.as_object().map(serde_json::Map::len), Some(2));
    }
    let found = api.get("/stats/?sort=errors");
    assert_eq!(names(&found)[..2], ["failing.com", "slow.com"]);
    let ties = ["busy.com", "held.com", "idle-a.com", "idle-b.com", "large.com"];
    assert_eq!(names(&found)[2..], ties, "by name");
}

#[test]
fn each_host_has_all_members() {
    let (_daemon, mut api, _held) = night();
    let found = api.get("/stats/?sort=errors");
    let expected = [
        "open_requests",
        "completed_requests",
        "bytes_sent",
        "bytes_received",
        "held_requests",
        "answers",
        "errors",
        "limited",
        "requests_per_second",
        "errors_per_second",
        "bytes_sent_per_second",
        "bytes_received_per_second",
        "limited_per_second",
        "p50",
        "p95",
        "p99",
    ];
    for (host, counters) in found.as_object().expect("an object") {
        assert_eq!(names(counters), expected, "{host}");
    }
    let failing = &found["failing.com"];
    assert_eq!(failing["errors"], 3, "{failing}");
    assert!(0.0 < failing["errors_per_second"].as_f64().expect("a rate"), "{failing}");
    assert!(0.25 <= found["slow.com"]["p95"].as_f64().expect("a time"), "{found}");
    let idle = &found["idle-a.com"];
    assert_eq!((&idle["completed_requests"], &idle["p99"]), (&json!(0), &Value::Null));
}

#[test]
fn search_finds_by_name_backend_action_and_url() {
    let app = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("shop.example", app.rule())
        .rule("xn--bcher-kva.example", empty(403))
        .rule("held.example", spin(json!({"then": app.rule()})))
        .start();
    let mut api = daemon.api();
    let port = app.port;
    for (search, expected) in [
        ("SHOP".to_owned(), vec!["shop.example"]),
        (format!("127.0.0.1:{port}"), vec!["held.example", "shop.example"]),
        ("spin".to_owned(), vec!["held.example"]),
        ("b%C3%BCcher".to_owned(), vec!["xn--bcher-kva.example"]),
        ("https%3A%2F%2Fwww.shop.example%2Fcart%3Fx%3D1".to_owned(), vec!["shop.example"]),
        ("nothing".to_owned(), vec![]),
    ] {
        for path in ["/stats/?search=", "/stats/?sort=requests&search=", "/hostname/?search="] {
            let answer = api.ask("GET", &format!("{path}{search}")).expect_status(200);
            assert_eq!(names(&answer.json()), expected, "{path}{search}");
            let matched = expected.len().to_string();
            assert_eq!(answer.head.field("Mantrid-Matched"), Some(&*matched), "{path}{search}");
            assert_eq!(answer.head.field("Mantrid-Rules"), Some("3"));
        }
    }
    assert_eq!(names(&api.get("/stats/?limit=2")), ["held.example", "shop.example"]);
    daemon.connect().exchange(get("nobody.example", "/"));
    api.counted("unknown", 1);
    assert_eq!(names(&api.get("/stats/?search=unkn")), ["unknown"]);
    assert_eq!(names(&api.get("/stats/?sort=requests&limit=1")), ["unknown"]);
}

#[test]
fn argument_that_makes_no_sense_is_named() {
    let daemon = Setup::new().rule("a.com", empty(403)).start();
    let mut api = daemon.api();
    for (query, words) in [
        (
            "sort=speed",
            &["sort=speed", "errors, latency, held, open, requests, bytes, limited"][..],
        ),
        ("sort=", &["sort=", "errors, latency"]),
        ("limit=-1", &["limit=-1", "a whole number up to 10000"]),
        ("limit=10001", &["limit=10001", "a whole number up to 10000"]),
        ("limit=many", &["limit=many", "a whole number"]),
        ("busiest=3&sort=errors", &["busiest", "sort=requests"]),
    ] {
        let answer = api.ask("GET", &format!("/stats/?{query}"));
        let sentence = answer.expect_error(400, "query_invalid");
        assert!(words.iter().all(|word| sentence.contains(word)), "{query}: {sentence}");
    }
    let answer = api.ask("GET", "/stats/?order=errors");
    let sentence = answer.expect_error(400, "query_unknown");
    assert!(sentence.contains("search, action, filter, sort, limit"), "{sentence}");
    let sentence = api.ask("GET", "/hostname/?sort=held&after=a.com");
    sentence.expect_error(400, "query_invalid");
    assert_eq!(api.get("/stats/?sort=held&limit=0"), json!({}));
}

#[test]
fn client_lists_the_hosts_in_that_order() {
    let (daemon, _api, _held) = night();
    let url = daemon.management.iter().find(|one| one.starts_with("unix:")).expect("a socket");
    let run = |words: &[&str]| {
        let words = [&["--url", url], words].concat();
        let finished = Call::new(&words).finish();
        finished.expect(0, &[]);
        finished.out
    };
    let rows = |out: &str| -> Vec<String> {
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        out.lines().skip(1).map(first).collect()
    };
    let out = run(&["stats", "--sort", "errors", "--limit", "2"]);
    assert_eq!(rows(&out), ["failing.com", "slow.com"], "{out}");
    assert!(out.lines().next().is_some_and(|line| line.contains("ERR/S") && line.contains("P99")));
    let out = run(&["list", "--sort", "held", "--limit", "1"]);
    assert_eq!(rows(&out), ["held.com"], "{out}");
    let out = run(&["stats", "--search", "idle"]);
    assert_eq!(rows(&out), ["idle-a.com", "idle-b.com"], "{out}");
    Call::new(&["--url", url, "stats", "--sort", "speed"]).finish().expect(1, &["sort=speed"]);
}
