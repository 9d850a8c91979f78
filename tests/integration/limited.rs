//! Requests that limits turn away, counted by host; and hosts that something is wrong with, found
//! among all.

use serde_json::{Map, Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::client::top::{LEAVE, Terminal};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::management::Call;
use crate::message::get;
use crate::script::Connection;
use crate::spin::{expect_held, spin};

fn names(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// A host whose rate is spent: of two requests the second is turned away, unless a second passes
/// between them.
#[track_caller]
fn spend(daemon: &Daemon, host: &str) -> u64 {
    let mut client = daemon.connect();
    let is_limited = |client: &mut Connection| client.exchange(get(host, "/")).status() == 429;
    let passed = (1..100).find(|_| is_limited(&mut client));
    passed.expect("no client sends a hundred requests in as many seconds here")
}

#[test]
fn each_limit_counts_for_its_host() {
    let app = Backend::new().serve_text("hello");
    let silent = Backend::new();
    let daemon = Setup::new()
        .set("timeout_connect", "200ms")
        .add("bind_tcp", "127.0.0.1:0 raw.com")
        .rule("rate.com", rule_for(&[app.port], json!({"max_requests_per_second": 1})))
        .rule("source.com", rule_for(&[app.port], json!({"max_requests_per_second_per_source": 1})))
        .rule("raw.com", rule_for(&[app.port], json!({"max_requests_per_second": 1})))
        .rule("places.com", rule_for(&[silent.port], json!({"max_connections": 1})))
        .rule("open.com", rule_for(&[silent.port], json!({"max_open_requests": 1})))
        .rule("spins.com", spin(json!({"max_held": 1})))
        .rule("denied.com", rule_for(&[app.port], json!({"deny": "127.0.0.1"})))
        .rule("same-status.com", empty(429))
        .start();
    let mut api = daemon.api();
    let mut expected = Vec::new();
    for host in ["rate.com", "source.com"] {
        expected.push((host, spend(&daemon, host), 0));
    }
    // A raw connection past the rate is closed without a byte.
    let passed = (1..100).find(|_| {
        let mut client = Connection::client(daemon.raw_address("TCP"));
        client.send(get("raw.com", "/"));
        client.next_head().is_err()
    });
    expected.push(("raw.com", passed.expect("the rate is spent in the end"), 0));
    let mut waiting = Vec::new();
    for host in ["places.com", "open.com"] {
        let mut first = daemon.connect();
        first.send(get(host, "/"));
        let mut server = silent.accept();
        server.expect_head();
        waiting.push((first, server));
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), 503, "{host}");
        expected.push((host, 1, 1));
    }
    let mut held = daemon.connect();
    held.send(get("spins.com", "/"));
    expect_held(&mut api, "spins.com", 1);
    assert_eq!(daemon.connect().exchange(get("spins.com", "/")).status(), 503);
    expected.push(("spins.com", 1, 1));
    for (host, status) in [("denied.com", 403), ("same-status.com", 429)] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), status, "{host}");
    }
    for (host, completed, open) in expected {
        let path = format!("/stats/{host}/");
        let is_counted = |found: &Value| {
            (&found["completed_requests"], &found["open_requests"])
                == (&json!(completed), &json!(open))
        };
        eventually(&format!("{host} is counted"), || is_counted(&api.get(&path)));
        let found = api.get(&path);
        assert_eq!(found["limited"], 1, "{host}: {found}");
        assert!(0.0 < found["limited_per_second"].as_f64().expect("a rate"), "{host}: {found}");
        let line = format!("mantrid_host_limited_total{{host=\"{host}\"}} 1\n");
        eventually("the busiest are chosen", || api.ask("GET", "/metrics").text().contains(&line));
    }
    for host in ["denied.com", "same-status.com"] {
        let found = api.counted(host, 1);
        assert_eq!((&found["limited"], &found["limited_per_second"]), (&json!(0), &json!(0.0)));
    }
    let limited = api.get("/stats/?filter=limited");
    let all = ["open.com", "places.com", "rate.com", "raw.com", "source.com", "spins.com"];
    assert_eq!(names(&limited), all, "by name");
}

/// Hosts of which a few are in trouble, behind many that are asked more.
fn night() -> (Daemon, Api, Connection) {
    let app = Backend::new().serve_text("hello");
    let dead = closed_port();
    let checked = rule_for(&[app.port, dead], json!({"check": "tcp"}));
    let rules = [
        ("failing.example", rule_for(&[dead], json!({"healthcheck": false}))),
        ("failing.org", rule_for(&[dead], json!({"healthcheck": false}))),
        ("held.example", spin(json!({"then": checked}))),
        ("down.example", checked.clone()),
        ("down.org", json!(["alias", {"hostname": "down.example"}, false])),
        ("limited.example", rule_for(&[app.port], json!({"max_requests_per_second": 1}))),
        ("limited.org", rule_for(&[app.port], json!({"max_requests_per_second": 1}))),
        ("spun-limited.org", spin(json!({"max_held": 1}))),
    ];
    let busy = (0..40).map(|n| (format!("busy-{n}.example"), empty(404)));
    let mut table: Map<String, Value> = busy.collect();
    table.extend(rules.map(|(host, rule)| (host.to_owned(), rule)));
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.put("/hostname/", &Value::Object(table));
    let mut client = daemon.connect();
    for n in 0..40 {
        (0..4).for_each(|_| drop(client.exchange(get(&format!("busy-{n}.example"), "/"))));
    }
    for host in ["failing.example", "failing.org"] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), 502, "{host}");
        api.counted(host, 1);
    }
    for host in ["limited.example", "limited.org"] {
        let completed = spend(&daemon, host);
        api.counted(host, completed);
    }
    let mut held = daemon.connect();
    held.send(get("spun-limited.org", "/"));
    expect_held(&mut api, "spun-limited.org", 1);
    assert_eq!(daemon.connect().exchange(get("spun-limited.org", "/")).status(), 503);
    eventually("the check fails", || !names(&api.get("/stats/?filter=down")).is_empty());
    (daemon, api, held)
}

#[test]
fn filter_finds_hosts_among_all() {
    let (_daemon, mut api, _held) = night();
    for (query, matched, expected) in [
        ("filter=failing", 3, &["failing.example", "failing.org", "spun-limited.org"][..]),
        ("filter=limited", 3, &["limited.example", "limited.org", "spun-limited.org"]),
        ("filter=held", 1, &["spun-limited.org"]),
        ("filter=down", 3, &["down.example", "down.org", "held.example"]),
        // Together with the others, and whatever place the host has among all.
        ("filter=failing&search=.org&limit=1&sort=requests", 2, &["failing.org"]),
        ("filter=failing&action=proxy&sort=bytes", 2, &["failing.example", "failing.org"]),
        ("filter=limited&action=spin&sort=requests&limit=1", 1, &["spun-limited.org"]),
        ("filter=down&action=alias&sort=errors", 1, &["down.org"]),
        ("filter=down&search=held", 1, &["held.example"]),
        ("filter=held&action=proxy&sort=held", 0, &[]),
        ("filter=failing&limit=2", 3, &["failing.example", "failing.org"]),
        ("action=alias&sort=requests&limit=1", 1, &["down.org"]),
        ("action=alias", 1, &["down.org"]),
    ] {
        for path in ["/stats/", "/hostname/"] {
            let answer = api.ask("GET", &format!("{path}?{query}")).expect_status(200);
            let found = answer.json();
            let mut found = names(&found);
            found.sort_unstable();
            assert_eq!(found, expected, "{path}?{query}");
            let matched = matched.to_string();
            assert_eq!(answer.head.field("Mantrid-Matched"), Some(&*matched), "{path}?{query}");
            assert_eq!(answer.head.field("Mantrid-Rules"), Some("48"), "{query}");
        }
    }
    let first = api.get("/stats/?sort=limited&limit=3");
    let mut first = names(&first);
    first.sort_unstable();
    assert_eq!(first, ["limited.example", "limited.org", "spun-limited.org"]);
    // Rules by name have pages.
    let page = api.get("/hostname/?filter=down&after=down.example&limit=1");
    assert_eq!(names(&page), ["down.org"]);
    for query in ["filter=slow", "filter=", "filter=failing&filter=held", "action=nothing"] {
        for path in ["/stats/", "/hostname/"] {
            let answer = api.ask("GET", &format!("{path}?{query}"));
            answer.expect_error(400, "query_invalid");
        }
    }
}

#[test]
fn client_lists_the_hosts_of_a_filter() {
    let (daemon, _api, _held) = night();
    let url = daemon.management.iter().find(|one| one.starts_with("unix:")).expect("a socket");
    let run = |line: &str| {
        let words: Vec<&str> = ["--url", url].into_iter().chain(line.split(' ')).collect();
        let finished = Call::new(&words).finish();
        finished.expect(0, &[]);
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        finished.out.lines().skip(1).map(first).collect::<Vec<String>>()
    };
    let limited = ["limited.example", "limited.org", "spun-limited.org"];
    assert_eq!(run("list --filter limited"), limited);
    assert_eq!(run("stats --filter limited"), limited);
    assert_eq!(run("stats --filter limited --action spin --sort limited"), limited[2..]);
    assert_eq!(run("list --filter down --search held"), ["held.example"]);
    assert_eq!(run("list --filter failing --sort errors --action proxy").len(), 2);
    let slip = ["--url", url, "list", "--filter", "slow"];
    Call::new(&slip).finish().expect(1, &["filter=slow", "failing, held, down, limited"]);
    let json = ["--url", url, "top", "--json", "--filter", "held"];
    Call::new(&json).finish().expect(1, &["stats --json"]);
    let terminal = Terminal::sized((24, 80));
    let client = terminal.run(Call::new(&["--url", url, "top", "--filter", "limited"]));
    client.expect_on_screen((24, 80), &["only limited hosts", "limited.example", "limited.org"]);
    terminal.press("m");
    client.expect_on_screen((24, 80), &["▼LTD/S", "limited.example"]);
    terminal.press("\r");
    client.expect_on_screen((24, 80), &["its limits turn", "requests/s away"]);
    terminal.press("q");
    client.expect_out(LEAVE);
    client.expect_exit(0);
}

#[test]
fn hosts_that_are_named_come_in_one_answer() {
    let daemon = Setup::new()
        .rule("a.com", empty(403))
        .rule("b.com", empty(404))
        .rule("xn--bcher-kva.example", empty(405))
        .start();
    let mut api = daemon.api();
    daemon.connect().exchange(get("b.com", "/"));
    api.counted("b.com", 1);
    let found = api.get("/stats/?host=b.com&host=A.com&host=gone.com&host=b%C3%BCcher.example");
    assert_eq!(names(&found), ["b.com", "a.com", "gone.com", "xn--bcher-kva.example"]);
    assert_eq!(found["b.com"]["completed_requests"], 1);
    assert_eq!((&found["a.com"]["limited"], &found["a.com"]["p95"]), (&json!(0), &Value::Null));
    assert_eq!(found["gone.com"], json!({}));
    let answer = api.ask("GET", "/hostname/?host=b.com&host=gone.com").expect_status(200);
    assert_eq!(answer.json(), json!({"b.com": empty(404), "gone.com": null}));
    assert_eq!(answer.etag(), api.etag());
    for query in ["host=a.com&sort=errors", "host=a.com&limit=1", "host=a.com&filter=held", "host="]
    {
        for path in ["/stats/", "/hostname/"] {
            let answer = api.ask("GET", &format!("{path}?{query}")).expect_status(400);
            assert!(answer.text().contains("host"), "{path}?{query}: {}", answer.text());
        }
    }
    api.ask("GET", "/stats/?host=a.com&busiest=1").expect_error(400, "query_invalid");
    api.ask("GET", "/hostname/?host=a.com&after=a.com").expect_error(400, "query_invalid");
    let many: Vec<String> = (0..501).map(|n| format!("host=h{n}.com")).collect();
    for path in ["/stats/", "/hostname/"] {
        let all = api.get(&format!("{path}?{}", many[..500].join("&")));
        assert_eq!(names(&all).len(), 500);
        let answer = api.ask("GET", &format!("{path}?{}", many.join("&")));
        let sentence = answer.expect_error(400, "query_invalid");
        assert!(sentence.contains("at most 500"), "{sentence}");
    }
}

/// What was counted goes along in an upgrade, and on after a restart.
#[test]
fn errors_and_refusals_outlive_the_daemon() {
    let app = Backend::new().serve_text("hello");
    let setup = Setup::new()
        .rule("limited.com", rule_for(&[app.port], json!({"max_requests_per_second": 1})))
        .rule("failing.com", rule_for(&[closed_port()], json!({"healthcheck": false})));
    let mut daemon = setup.clone().start();
    let completed = spend(&daemon, "limited.com");
    assert_eq!(daemon.connect().exchange(get("failing.com", "/")).status(), 502);
    let mut api = daemon.api();
    let before = api.counted("limited.com", completed);
    assert_eq!((&before["limited"], &before["errors"]), (&json!(1), &json!(0)));
    assert_eq!(api.counted("failing.com", 1)["errors"], 1);
    daemon.upgrade();
    let mut api = daemon.api();
    assert_eq!(api.counted("limited.com", completed)["limited"], 1);
    let failing = api.counted("failing.com", 1);
    assert_eq!((&failing["errors"], &failing["limited"]), (&json!(1), &json!(0)));
    assert_eq!(names(&api.get("/stats/?sort=errors&limit=1")), ["failing.com"]);
    assert_eq!(names(&api.get("/stats/?sort=limited&limit=1")), ["limited.com"]);
    assert_eq!(daemon.connect().exchange(get("failing.com", "/")).status(), 502);
    assert_eq!(api.counted("failing.com", 2)["errors"], 2);
    daemon.terminate();
    daemon.expect_exit();
    let daemon = setup.start();
    let mut api = daemon.api();
    assert_eq!(api.counted("failing.com", 2)["errors"], 2);
    assert_eq!(api.counted("limited.com", completed)["limited"], 1);
}
