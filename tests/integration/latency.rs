//! How long requests take, how they end, and what share of them fails: per host and per backend of
//! the last minute, and for Prometheus since the start.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::get;

/// The sum of the samples whose line begins so.
fn metric(api: &mut Api, start: &str) -> f64 {
    let text = api.ask("GET", "/metrics").expect_status(200).text();
    let lines = text.lines().filter(|line| line.starts_with(start));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}

/// A daemon whose backend never answers, which it waits for a third of a second for.
fn with_silent_backend(setup: Setup) -> (Daemon, crate::backend::Serving) {
    let silent = Backend::new().serve(|_, connection| {
        // Its end comes with the daemon's patience.
        drop(connection.next_head());
    });
    let daemon = setup.set("timeout_server", "300ms").rule("slow.com", silent.rule()).start();
    (daemon, silent)
}

#[test]
fn host_whose_backend_is_silent_is_slow_and_fails() {
    let fast = Backend::new().serve_text("hello");
    let (daemon, silent) = with_silent_backend(Setup::new().rule("fast.com", fast.rule()));
    let mut api = daemon.api();
    for (host, status) in [("slow.com", 504), ("fast.com", 200), ("fast.com", 200)] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), status, "{host}");
    }
    let slow = api.counted("slow.com", 1);
    assert_eq!(slow["errors"], 1);
    for name in ["p50", "p95", "p99"] {
        let seconds = number(&slow, name);
        assert!((0.25..=30.0).contains(&seconds), "{name}: {seconds} s");
    }
    assert!(0.0 < number(&slow, "errors_per_second"), "{slow}");
    let fast = api.counted("fast.com", 2);
    assert_eq!((&fast["errors"], number(&fast, "errors_per_second")), (&json!(0), 0.0));
    assert!(0.0 < number(&fast, "requests_per_second"), "{fast}");
    assert!(number(&fast, "p50") < number(&slow, "p50"), "{fast} and {slow}");
    let listed = api.get("/stats/");
    assert_eq!(listed["slow.com"]["errors"], 1, "{listed}");
    assert!(0.25 <= number(&listed["slow.com"], "p99"), "{listed}");
    let backends = api.get("/backends/");
    let at = &backends[format!("127.0.0.1:{}", silent.port)];
    assert_eq!((&at["errors"], &at["p99"]), (&json!(1), &Value::Null), "{at}: no head ever came");
    assert!(0.0 < number(at, "errors_per_second"), "{at}");
}

#[test]
fn host_without_requests_has_no_members() {
    let daemon = Setup::new().rule("idle.com", empty(403)).start();
    let mut api = daemon.api();
    assert_eq!(api.get("/stats/idle.com/"), json!({}));
    assert_eq!(api.get("/stats/"), json!({"idle.com": {}}));
}

/// Members of before are where they were, so that programs which read them as text go on.
#[test]
fn members_of_before_come_first() {
    let daemon = Setup::new().rule("a.com", empty(403)).start();
    let mut api = daemon.api();
    daemon.connect().exchange(get("a.com", "/"));
    api.counted("a.com", 1);
    let text = api.ask("GET", "/stats/a.com/").expect_status(200).text();
    let start = "{\"open_requests\":0,\"completed_requests\":1,\"bytes_sent\":";
    assert!(text.starts_with(start), "{text}");
    let old =
        "\"held_requests\":0,\"answers\":{\"2xx\":0,\"3xx\":0,\"4xx\":1,\"5xx\":0},\"errors\":0";
    assert!(text.contains(old), "{text}");
}

#[test]
fn ends_are_counted_by_their_causes() {
    let app = Backend::new().serve(|head, connection| {
        let answer = match head.target() {
            "/404" => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "/cut" => {
                drop(connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"));
                return connection.half_close();
            }
            _ => "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        };
        drop(connection.try_send(answer));
    });
    let daemon = Setup::new()
        .rule("app.com", app.rule())
        .rule("empty.com", empty(404))
        .rule("dead.com", rule_for(&[closed_port()], json!({})))
        .start();
    let mut api = daemon.api();
    for (host, path) in
        [("app.com", "/404"), ("app.com", "/500"), ("empty.com", "/"), ("dead.com", "/")]
    {
        daemon.connect().exchange(get(host, path));
    }
    let mut cut = daemon.connect();
    cut.send(get("app.com", "/cut"));
    cut.expect_head();
    daemon.connect().exchange("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    api.counted("dead.com", 1);
    let found = api.counted("app.com", 3);
    assert_eq!(found["errors"], 2, "a 500, and a response that broke off: {found}");
    assert_eq!(found["answers"]["5xx"], 1);
    let at = &api.get("/backends/")[format!("127.0.0.1:{}", app.port)];
    assert_eq!((&at["errors"], &at["answers"]["4xx"]), (&json!(2), &json!(1)), "{at}");
    for (cause, count) in [
        ("complete", 2.0),
        ("local", 1.0),
        ("no_backend", 1.0),
        ("backend_cut", 1.0),
        ("refused", 1.0),
        ("tunnel_cut", 0.0),
    ] {
        let start = format!("mantrid_endings_total{{cause=\"{cause}\"}}");
        eventually(cause, || metric(&mut api, &start) == count);
    }
    let responses = |author: &str, code: u16| {
        format!(
            "mantrid_responses_total{{author=\"{author}\",class=\"{}xx\",code=\"{code}\"}}",
            code / 100
        )
    };
    for (author, code, count) in [
        ("backend", 404, 1.0),
        ("backend", 500, 1.0),
        ("backend", 200, 1.0),
        ("mantrid", 404, 1.0),
        ("mantrid", 502, 1.0),
        ("mantrid", 400, 1.0),
    ] {
        let responses = responses(author, code);
        eventually(&responses, || metric(&mut api, &responses) == count);
    }
    assert_eq!(metric(&mut api, "mantrid_errors_total"), 3.0);
    assert_eq!(metric(&mut api, "mantrid_host_errors_total{host=\"app.com\"}"), 2.0);
}

#[test]
fn times_are_measured_by_host_and_in_all() {
    let (daemon, silent) = with_silent_backend(
        Setup::new().rule("held.com", json!(["spin", {"timeout": 0.3}, false])),
    );
    let mut api = daemon.api();
    assert_eq!(daemon.connect().exchange(get("held.com", "/")).status(), 503);
    assert_eq!(daemon.connect().exchange(get("slow.com", "/")).status(), 504);
    api.counted("held.com", 1);
    let slow = api.counted("slow.com", 1);
    assert_eq!(slow["errors"], 1);
    for (family, host, least, most) in [
        ("latency", "slow.com", "0.25", "30"),
        ("request", "slow.com", "0.25", "30"),
        ("held", "held.com", "0.1", "60"),
        ("latency", "held.com", "0.25", "30"),
    ] {
        let line = |name: &str, labels: &str| format!("mantrid_{name}_seconds_{labels}");
        let of_host = |end: &str| line(&format!("host_{family}"), end);
        let count = of_host(&format!("count{{host=\"{host}\"}}"));
        eventually("the busiest are chosen", || metric(&mut api, &count) == 1.0);
        for (bound, expected) in [(least, 0.0), (most, 1.0)] {
            // Prometheus text writes whole bounds with a point, too.
            let bound = if bound.contains('.') { bound.to_owned() } else { format!("{bound}.0") };
            let bucket = of_host(&format!("bucket{{le=\"{bound}\",host=\"{host}\"}}"));
            assert_eq!(metric(&mut api, &bucket), expected, "{bucket}");
        }
        assert!(0.1 <= metric(&mut api, &of_host(&format!("sum{{host=\"{host}\"}}"))));
        assert!(1.0 <= metric(&mut api, &line(family, "count")), "{family} in all");
    }
    assert_eq!(metric(&mut api, "mantrid_connect_seconds_count"), 1.0);
    assert_eq!(metric(&mut api, "mantrid_queue_seconds_count"), 0.0);
    assert_eq!(metric(&mut api, "mantrid_response_seconds_count"), 0.0, "no response came");
    let none = metric(&mut api, "mantrid_host_queue_seconds_count");
    assert_eq!(none, 0.0, "nothing was queued: no series");
    drop(silent);
}

/// A host that is busy takes a slot on its shard, and marks in the control shard.
#[test]
fn busy_host_takes_less_than_a_kilobyte() {
    const COUNT: u64 = 8_000;
    // A slot is 512 bytes, in pages that double in size, and there are maps of them. Marks of
    // 208 bytes come after half a minute.
    const EACH_BYTES_MAX: u64 = 1_024;
    let rules = (0..COUNT).map(|n| (format!("h{n}.com"), empty(403))).collect();
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.put("/hostname/", &Value::Object(rules));
    let mut client = daemon.connect();
    (0..100).for_each(|n| drop(client.exchange(get(&format!("h{n}.com"), "/"))));
    api.counted("h99.com", 1);
    let before = daemon.resident_bytes();
    (100..COUNT).for_each(|n| drop(client.exchange(get(&format!("h{n}.com"), "/"))));
    api.counted(&format!("h{}.com", COUNT - 1), 1);
    let each = daemon.resident_bytes().saturating_sub(before) / (COUNT - 100);
    eprintln!("{COUNT} busy hosts, {each} bytes each");
    assert!(each <= EACH_BYTES_MAX, "a busy host costs {each} bytes, over {EACH_BYTES_MAX}");
}
