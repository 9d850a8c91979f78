//! `GET /history/`: plots do not start empty, and an upgrade keeps what was there.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Setup, eventually};
use crate::manage::Api;
use crate::message::get;
use crate::script::PATIENCE;
use crate::spin::{expect_held, spin};

/// Columns of a history, once it has as many points: a step may be half a minute.
#[track_caller]
fn history(api: &mut Api, path: &str, points: usize) -> Value {
    let until = Instant::now() + 9 * PATIENCE;
    loop {
        let found = api.get(path);
        if points <= found["time"].as_array().map_or(0, Vec::len) {
            return found;
        }
        assert!(Instant::now() < until, "{path}: fewer than {points} points in {found}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn sum(column: &Value) -> f64 {
    column.as_array().expect("a column").iter().filter_map(Value::as_f64).sum()
}

#[test]
fn history_goes_along_in_an_upgrade() {
    let app = Backend::new().serve_text("hello");
    let mut daemon = Setup::new()
        .rule("a.com", app.rule())
        .rule("dead.com", rule_for(&[closed_port()], json!({})))
        .rule("held.com", spin(json!({"wake": "http://127.0.0.1:9/"})))
        .start();
    let mut api = daemon.api();
    let mut held = daemon.connect();
    held.send(get("held.com", "/"));
    expect_held(&mut api, "held.com", 1);
    for host in ["a.com", "a.com", "dead.com"] {
        drop(daemon.connect().exchange(get(host, "/")));
    }
    api.counted("a.com", 2);
    api.put("/hostname/new.com/", &empty(403));
    let totals = history(&mut api, "/history/", 1);
    assert_eq!(totals["step"], 10);
    let columns = [
        "requests_per_second",
        "errors_per_second",
        "bytes_sent_per_second",
        "bytes_received_per_second",
        "open_requests",
        "held_requests",
        "p50",
        "p95",
        "p99",
    ];
    for name in columns {
        assert_eq!(totals[name].as_array().map(Vec::len), Some(1), "{name}: {totals}");
    }
    assert!(0.0 < sum(&totals["requests_per_second"]), "{totals}");
    assert!(0.0 < sum(&totals["errors_per_second"]), "{totals}");
    assert!(0.0 < sum(&totals["answers_per_second"]["5xx"]), "{totals}");
    assert_eq!(totals["held_requests"], json!([1]));
    let of_host = history(&mut api, "/history/?host=dead.com&events=9", 1);
    assert_eq!((&of_host["step"], &of_host["events"]), (&json!(30), &json!([])));
    assert!(0.0 < sum(&of_host["errors_per_second"]), "{of_host}");
    let backend = format!("/history/?backend=127.0.0.1:{}", app.port);
    let of_backend = history(&mut api, &backend, 1);
    assert!(0.0 < sum(&of_backend["requests_per_second"]), "{of_backend}");
    assert!(of_backend.get("held_requests").is_none(), "{of_backend}");
    let events = api.get("/history/?host=held.com&events=100")["events"].clone();
    let kinds: Vec<_> =
        events.as_array().expect("a list").iter().map(|event| &event["event"]).collect();
    assert!(kinds.contains(&&json!("held")), "{events}");
    let before = (totals["time"][0].clone(), api.get("/changes/"));
    daemon.upgrade();
    eventually("the new daemon answers", || {
        let mut api = daemon.api();
        let times = api.get("/history/")["time"].clone();
        (times[0].clone(), api.get("/changes/")) == before
    });
    let mut api = daemon.api();
    let again = api.get("/history/?host=dead.com");
    assert_eq!(again["time"][0], of_host["time"][0], "{again}");
    assert_eq!(again["errors_per_second"][0], of_host["errors_per_second"][0]);
    assert_eq!(api.get(&backend)["time"][0], of_backend["time"][0]);
    let events = api.get("/history/?events=100")["events"].clone();
    let is_held = |event: &Value| event["event"] == "held" && event["host"] == "held.com";
    assert!(events.as_array().expect("a list").iter().any(is_held), "{events}");
}

#[test]
fn host_that_did_not_matter_has_empty_columns() {
    let daemon = Setup::new().rule("a.com", empty(403)).start();
    let mut api = daemon.api();
    for path in ["/history/?host=a.com", "/history/?host=nobody.com", "/history/?backend=[::1]:9"] {
        let found = api.get(path);
        assert_eq!((&found["time"], &found["p99"]), (&json!([]), &json!([])), "{path}");
        assert!(found.get("events").is_none(), "{path}");
    }
}

#[test]
fn argument_that_makes_no_sense_is_named() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for (query, word) in [
        ("backend=a.com", "backend=a.com: expected ADDRESS:PORT or unix:/PATH"),
        ("events=2001", "events=2001: expected a whole number up to 2000"),
        ("host=a.com&backend=127.0.0.1:9", "backend: expected without host"),
    ] {
        let answer = api.ask("GET", &format!("/history/?{query}"));
        let sentence = answer.expect_error(400, "query_invalid");
        assert!(sentence.contains(word), "{query}: {sentence}");
    }
}
