//! Checks of rules: each rule goes by its own, with the request, the statuses and the times that it
//! gives. Where something must not happen, another check of the same pace shows that the time for
//! it has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::events::Events;
use crate::handover::expect_gone;
use crate::message::{get, ok};
use crate::roles::{TOKENS, of, with_tokens};

/// A backend of several hosts: `/health` is answered with the status of the host in question, all
/// else with 200.
fn shared(statuses: &[(&'static str, &Arc<AtomicU16>)]) -> Serving {
    let statuses: Vec<(&str, Arc<AtomicU16>)> =
        statuses.iter().map(|(host, status)| (*host, Arc::clone(status))).collect();
    Backend::new().serve(move |head, server| {
        let host = head.field("Host").unwrap_or_default();
        let status = statuses.iter().find(|(known, _)| *known == host);
        let answer = match (head.target(), status) {
            ("/health", Some((_, status))) => {
                let status = status.load(Ordering::SeqCst);
                format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            _ => ok("shared"),
        };
        // a prober that has seen enough is gone
        drop(server.try_send(answer));
    })
}

fn status(status: u16) -> Arc<AtomicU16> {
    Arc::new(AtomicU16::new(status))
}

/// The texts of so many responses, each on a connection of its own.
fn texts(daemon: &Daemon, host: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| daemon.connect().exchange(get(host, "/")).text()).collect()
}

/// A quick check with more arguments.
fn quick(arguments: Value) -> Value {
    let mut all = json!({"check": "/health", "check_interval": 0.2, "check_timeout": 2,
        "algorithm": "round_robin"});
    all.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    all
}

fn address(backend: &Serving) -> String {
    format!("127.0.0.1:{}", backend.port)
}

#[track_caller]
fn expect_told(daemon: &Daemon, backend: &Serving, what: &str) {
    daemon.expect_log(&[&format!("Backend {} is {what}", address(backend))]);
}

#[track_caller]
fn expect_told_exactly(daemon: &Daemon, backend: &Serving, what: &str) {
    let line = format!("Backend {} is {what}", address(backend));
    eventually(&line, || daemon.log.lines().iter().any(|told| told.ends_with(&line)));
}

#[test]
fn failing_check_takes_a_backend_from_its_own_rule_alone() {
    let (good, bad) = (status(200), status(404));
    let backend = shared(&[("good.com", &good), ("bad.com", &bad)]);
    let spare = Backend::new().serve_text("spare");
    let ports = [backend.port, spare.port];
    let setup = Setup::new().set("shards", 2);
    let setup = setup.rule("good.com", rule_for(&[backend.port], quick(json!({}))));
    let setup = setup.rule("plain.com", rule_for(&[backend.port], json!({})));
    let daemon = setup.rule("bad.com", rule_for(&ports, quick(json!({})))).start();
    expect_told(&daemon, &backend, "down: GET /health of bad.com: answered 404");
    for host in ["good.com", "plain.com"] {
        assert_eq!(texts(&daemon, host, 8), ["shared"; 8], "{host}");
    }
    assert_eq!(texts(&daemon, "bad.com", 8), ["spare"; 8]);
    // Two backends for good.com as well: it goes on to use both.
    let mut api = daemon.api();
    api.put("/hostname/good.com/", &rule_for(&ports, quick(json!({}))));
    let mut seen = texts(&daemon, "good.com", 8);
    seen.sort();
    assert_eq!(seen[..4], ["shared"; 4]);
    bad.store(204, Ordering::SeqCst);
    expect_told(&daemon, &backend, "up again: GET /health of bad.com: answered 204, 2 times");
    eventually("it is used again", || texts(&daemon, "bad.com", 2).contains(&"shared".into()));
    assert!(!daemon.log.text().contains("of good.com"), "{}", daemon.log.text());
}

#[test]
fn api_says_which_check_of_which_rule_fails() {
    let (good, bad) = (status(200), status(503));
    let backend = shared(&[("good.com", &good), ("bad.com", &bad)]);
    let setup = Setup::new().rule("good.com", rule_for(&[backend.port], quick(json!({}))));
    let daemon = setup.rule("bad.com", rule_for(&[backend.port], quick(json!({})))).start();
    let mut api = daemon.api();
    let mut standing = || api.get("/backends/")[address(&backend)].clone();
    eventually("one is up and one is down", || standing()["state"] == "partly_down");
    let of = |standing: &Value, rule: &str| {
        let checks = standing["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["rules"] == json!([rule])).expect("its check")
    };
    eventually("the other is asked", || of(&standing(), "good.com")["state"] == "up");
    let found = standing();
    assert_eq!((&found["checks_count"], &found["checks_down"]), (&json!(2), &json!(1)));
    assert_eq!(found["reason"], "GET /health of bad.com: answered 503");
    let failing = of(&found, "bad.com");
    assert_eq!(failing["check"], "/health");
    assert_eq!(failing["check_host"], "bad.com");
    assert_eq!((&failing["state"], &failing["rules_count"]), (&json!("down"), &json!(1)));
    assert!(failing["since"].is_u64(), "{failing}");
    good.store(500, Ordering::SeqCst);
    eventually("nobody can use it", || standing()["state"] == "down");
    let metrics = api.ask("GET", "/metrics").text();
    let line = format!("mantrid_backend_up{{backend=\"{}\"}} 0", address(&backend));
    assert!(metrics.contains(&line), "{metrics}");
}

#[test]
fn traffic_event_names_the_rules_whose_checks_fail() {
    let (good, bad) = (status(200), status(404));
    let backend = shared(&[("good.com", &good), ("bad.com", &bad)]);
    let setup = Setup::new().rule("good.com", rule_for(&[backend.port], quick(json!({}))));
    let daemon = setup.rule("bad.com", rule_for(&[backend.port], quick(json!({})))).start();
    expect_told(&daemon, &backend, "down");
    let mut api = daemon.api();
    eventually("both were asked", || {
        let standing = api.get("/backends/")[address(&backend)].clone();
        let checks = standing["checks"].as_array().cloned().unwrap_or_default();
        checks.len() == 2 && checks.iter().all(|check| check["state"] != "unknown")
    });
    let traffic = Events::after_hello(&daemon, "?only=traffic&busiest=0").expect("traffic");
    let expected = json!([{ "rule": "bad.com", "backend": address(&backend) }]);
    assert_eq!(traffic["checks_down"], expected);
    assert_eq!(traffic["down"], json!([]), "good.com uses it");
}

#[test]
fn probe_is_for_the_rule_or_for_check_host() {
    let backend = Backend::new().serve_text("");
    let setup = Setup::new()
        .rule("http://Shop.Example", rule_for(&[backend.port], quick(json!({}))))
        .rule("a.com", rule_for(&[backend.port], quick(json!({"check_host": "probe.test:81"}))))
        .rule("b.com", rule_for(&[backend.port], quick(json!({"check_host": "probe.test:81"}))));
    let daemon = setup.start();
    let mut hosts = std::collections::BTreeSet::new();
    eventually("both were asked for", || {
        let heads = backend.take_heads().into_iter();
        hosts.extend(heads.map(|head| head.field("Host").expect("a host").to_owned()));
        hosts.iter().eq(["probe.test:81", "shop.example"])
    });
    let standing = daemon.api().get("/backends/")[address(&backend)].clone();
    let checks = standing["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 2, "two rules share one: {checks:?}");
    assert!(checks.iter().any(|check| check["rules"] == json!(["a.com", "b.com"])), "{checks:?}");
}

/// Probes have the Host of the rule's requests, or they would ask another application.
#[test]
fn probe_has_the_host_that_requests_have() {
    let backend = Backend::new().serve_text("");
    let rule = |host: &str, more: Value| {
        let mut arguments = quick(more);
        arguments["host"] = json!(host);
        rule_for(&[backend.port], arguments)
    };
    let named = |mut rule: Value| {
        rule[1]["backends"] = json!([["localhost", backend.port]]);
        rule
    };
    let setup = Setup::new()
        .rule("a.com", rule("app.internal:81", json!({})))
        .rule("b.com", rule("app.internal", json!({"check_host": "probe.test"})))
        .rule("c.com", rule("backend", json!({})))
        .rule("d.com", named(rule("backend", json!({}))))
        .rule("e.com", rule("app.internal:82", json!({"check_host": "backend"})));
    let daemon = setup.start();
    let (port, mut hosts) = (backend.port, std::collections::BTreeSet::new());
    let expected = [
        format!("127.0.0.1:{port}"),
        "app.internal:81".to_owned(),
        format!("localhost:{port}"),
        "probe.test".to_owned(),
    ];
    eventually("all were asked for", || {
        let heads = backend.take_heads().into_iter();
        hosts.extend(heads.map(|head| head.field("Host").expect("a host").to_owned()));
        hosts.iter().eq(&expected)
    });
    // What tenants have checked by the name of the backend is theirs alone, whatever the address.
    let standing = daemon.api().get("/backends/")[address(&backend)].clone();
    let checks = standing["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 5, "{checks:?}");
    let own = |rule: &str| checks.iter().find(|check| check["rules"] == json!([rule]));
    for (rule, host) in [("a.com", "app.internal:81"), ("c.com", "backend"), ("d.com", "backend")] {
        assert_eq!(own(rule).expect(rule)["check_host"], host);
    }
}

#[test]
fn check_status_says_what_is_well() {
    let backend = Backend::new().serve(|head, server| {
        let status = if head.target() == "/health" { 401 } else { 200 };
        drop(server.try_send(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n")));
    });
    let setup = Setup::new()
        .rule("a.com", rule_for(&[backend.port], quick(json!({"check_status": "200-299,401"}))))
        .rule("b.com", rule_for(&[backend.port], quick(json!({"check_status": [200, "300-400"]}))));
    let daemon = setup.start();
    expect_told(&daemon, &backend, "down: GET /health of b.com: answered 401");
    let mut api = daemon.api();
    eventually("the other one is up", || {
        let standing = api.get("/backends/")[address(&backend)].clone();
        let checks = standing["checks"].as_array().cloned().unwrap_or_default();
        checks.iter().any(|check| check["rules"] == json!(["a.com"]) && check["state"] == "up")
    });
    assert!(!daemon.log.text().contains("of a.com"), "{}", daemon.log.text());
}

#[test]
fn check_fall_and_rise_count_probes() {
    let state = status(200);
    let backend = shared(&[("a.com", &state), ("b.com", &state)]);
    let sharp = quick(json!({"check_fall": 1, "check_rise": 1}));
    let blunt = quick(json!({"check_fall": 5, "check_rise": 4}));
    let setup = Setup::new().rule("a.com", rule_for(&[backend.port], sharp));
    let daemon = setup.rule("b.com", rule_for(&[backend.port], blunt)).start();
    let mut api = daemon.api();
    eventually("both are up", || api.get("/backends/")[address(&backend)]["state"] == "up");
    eventually("both were asked", || {
        let checks = api.get("/backends/")[address(&backend)]["checks"].clone();
        checks.as_array().expect("checks").iter().all(|check| check["state"] == "up")
    });
    state.store(500, Ordering::SeqCst);
    expect_told_exactly(&daemon, &backend, "down: GET /health of a.com: answered 500");
    expect_told(&daemon, &backend, "down: GET /health of b.com: answered 500, 5 times");
    state.store(200, Ordering::SeqCst);
    expect_told_exactly(&daemon, &backend, "up again: GET /health of a.com: answered 200");
    expect_told(&daemon, &backend, "up again: GET /health of b.com: answered 200, 4 times");
}

#[test]
fn check_timeout_bounds_a_probe() {
    let silent = Backend::new();
    let other = Backend::new().serve_text("other");
    // The other one is to reply in that time, on a busy machine as well.
    let arguments = quick(json!({"check_timeout": 1}));
    let daemon = Daemon::proxying(rule_for(&[silent.port, other.port], arguments));
    let line =
        format!("Backend 127.0.0.1:{} is down: GET /health of a.com: no answer in 1s", silent.port);
    daemon.expect_log(&[&line]);
    assert_eq!(texts(&daemon, "a.com", 6), ["other"; 6]);
}

/// A held request waits for the check of its own rule, and takes nothing from others meanwhile.
#[test]
fn request_that_waits_for_a_check_takes_nothing_from_others() {
    let (good, bad) = (status(200), status(503));
    let backend = shared(&[("good.com", &good), ("bad.com", &bad)]);
    let both = [backend.port, closed_port()];
    let setup = Setup::new()
        .rule("good.com", rule_for(&both, json!({"attempts": 2, "delay": 0})))
        .rule("bad.com", rule_for(&[backend.port], quick(json!({"hold": 60}))));
    let daemon = setup.start();
    expect_told(&daemon, &backend, "down: GET /health of bad.com: answered 503");
    let mut client = daemon.connect();
    client.send(get("bad.com", "/"));
    let mut api = daemon.api();
    eventually("it is held", || api.get("/stats/bad.com/")["held_requests"] == 1);
    assert_eq!(texts(&daemon, "good.com", 8), ["shared"; 8]);
    client.expect_nothing_more();
    bad.store(200, Ordering::SeqCst);
    assert_eq!(client.expect_answer().text(), "shared");
    let ejected = format!("Backend {} is ejected", address(&backend));
    assert!(!daemon.log.text().contains(&ejected), "{}", daemon.log.text());
}

#[test]
fn verdict_of_each_check_goes_along_in_an_upgrade() {
    let (good, bad) = (status(200), status(404));
    let backend = shared(&[("good.com", &good), ("bad.com", &bad)]);
    let spare = Backend::new().serve_text("spare");
    let ports = [backend.port, spare.port];
    let slow = json!({"check": "/health", "check_interval": 3600, "algorithm": "round_robin"});
    let setup = Setup::new().rule("good.com", rule_for(&[backend.port], slow.clone()));
    let mut daemon = setup.rule("bad.com", rule_for(&ports, slow)).start();
    expect_told(&daemon, &backend, "down: GET /health of bad.com: answered 404");
    daemon.upgrade();
    expect_gone(&mut daemon);
    assert_eq!(texts(&daemon, "bad.com", 8), ["spare"; 8]);
    assert_eq!(texts(&daemon, "good.com", 8), ["shared"; 8]);
    assert_eq!(daemon.log.text().matches("is down").count(), 1);
}

/// A raw connection goes by the check of its rule, too.
#[test]
fn raw_connection_goes_by_its_check() {
    let bad = status(500);
    let backend = shared(&[("db.com", &bad)]);
    let spare = Backend::new().serve_text("spare");
    let rule = rule_for(&[backend.port, spare.port], quick(json!({})));
    let daemon = Setup::new().add("bind_tcp", "127.0.0.1:0 db.com").rule("db.com", rule).start();
    expect_told(&daemon, &backend, "down: GET /health of db.com: answered 500");
    for _ in 0..6 {
        let mut client = crate::script::Connection::client(daemon.raw_address("TCP"));
        assert_eq!(client.exchange(get("anything", "/")).text(), "spare");
    }
}

#[test]
fn arguments_of_checks_are_read_back_as_given() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for arguments in [
        json!({"check": "/up", "check_host": "a.com", "check_status": "200-299,404",
            "check_interval": 0.5, "check_timeout": 1, "check_fall": 1, "check_rise": 9}),
        json!({"check": "tcp", "check_status": [200, "300-302"]}),
        json!({"check": "/", "check_status": 204}),
    ] {
        let rule = rule_for(&[1], arguments);
        api.put("/hostname/a.com/", &rule);
        assert_eq!(api.get("/hostname/a.com/"), rule);
    }
    for (name, value) in [
        ("check_host", json!("a b")),
        ("check_host", json!("")),
        ("check_host", json!("a.com:0")),
        ("check_status", json!("99")),
        ("check_status", json!("300-200")),
        ("check_status", json!([])),
        ("check_status", json!("2xx")),
        ("check_interval", json!(0)),
        ("check_interval", json!("2s")),
        ("check_timeout", json!(61)),
        ("check_fall", json!(0)),
        ("check_rise", json!(1001)),
    ] {
        let mut arguments = json!({"check": "/"});
        arguments[name] = value;
        let answer = api.tell("PUT", "/hostname/a.com/", &rule_for(&[1], arguments));
        let told = answer.expect_error(400, &format!("a.com:host_kwarg_invalid:{name}"));
        assert!(told.contains(name), "{told}");
    }
}

/// A shared backend says nothing of the rules of others.
#[test]
fn tenant_sees_the_checks_of_its_own_rules() {
    let (good, bad) = (status(200), status(404));
    let backend = shared(&[("shop.example", &good), ("other.com", &bad)]);
    let tcp = rule_for(&[backend.port], json!({"check": "tcp"}));
    let setup = with_tokens(Setup::new(), TOKENS)
        .rule("shop.example", rule_for(&[backend.port], quick(json!({}))))
        .rule("other.com", rule_for(&[backend.port], quick(json!({}))))
        .rule("tcp.shop.example", tcp.clone())
        .rule("tcp.other.com", tcp);
    let daemon = setup.start();
    expect_told(&daemon, &backend, "down: GET /health of other.com: answered 404");
    let mut api = of(&daemon, "view");
    eventually("its checks are up", || {
        let standing = api.get("/backends/")[address(&backend)].clone();
        let checks = standing["checks"].as_array().cloned().unwrap_or_default();
        checks.len() == 2 && checks.iter().all(|check| check["state"] == "up")
    });
    let standing = api.get("/backends/")[address(&backend)].clone();
    assert_eq!((&standing["state"], &standing["checks_down"]), (&json!("up"), &json!(0)));
    assert!(!standing.to_string().contains("other.com"), "{standing}");
    let mut events = Events::over(of(&daemon, "view"), "?only=health,traffic&busiest=0");
    events.expect("hello");
    assert_eq!(events.expect("traffic")["checks_down"], json!([]));
    bad.store(200, Ordering::SeqCst);
    expect_told(&daemon, &backend, "up again: GET /health of other.com");
    good.store(500, Ordering::SeqCst);
    let told = loop {
        let (name, told) = events.next();
        if name == "health" {
            break told;
        }
    };
    assert_eq!((&told["check_host"], &told["state"]), (&json!("shop.example"), &json!("down")));
    assert_eq!(told["rules"], json!(["shop.example"]));
}
