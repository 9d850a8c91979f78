//! `algorithm=cookie:NAME` and `field:NAME`: requests with the same value go to the same backend.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::handover::expect_gone;
use crate::script::Connection;

fn backends() -> Vec<Serving> {
    ["one", "two", "three"].map(|text| Backend::new().serve_text(text)).into_iter().collect()
}

fn rule(backends: &[Serving], arguments: Value) -> Value {
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    rule_for(&ports, arguments)
}

/// The text of the response to a request with this line.
fn text(daemon: &Daemon, line: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: a.com\r\n{line}\r\n");
    daemon.connect().exchange(request).text()
}

#[test]
fn same_cookie_goes_to_the_same_backend() {
    let backends = backends();
    let arguments = json!({"algorithm": "cookie:sid"});
    let setup = Setup::new().set("shards", 2).rule("a.com", rule(&backends, arguments));
    let mut daemon = setup.start();
    let mut chosen = Vec::new();
    for user in 0..12 {
        let first = text(&daemon, &format!("Cookie: sid=u{user}\r\n"));
        for line in [
            format!("Cookie: theme=dark; sid=u{user}; x=1\r\n"),
            format!("cookie: theme=dark\r\nCookie: sid=\"u{user}\"\r\n"),
            format!("Cookie: sid=u{user}; sid=other\r\n"),
        ] {
            assert_eq!(text(&daemon, &line), first, "{line}");
        }
        chosen.push(first);
    }
    // all of twelve at one have a probability of (1/3)^11
    assert!(1 < chosen.iter().collect::<BTreeSet<_>>().len(), "{chosen:?}");
    daemon.upgrade();
    expect_gone(&mut daemon);
    for (user, first) in chosen.iter().enumerate() {
        assert_eq!(text(&daemon, &format!("Cookie: sid=u{user}\r\n")), *first);
    }
}

#[test]
fn requests_without_the_cookie_are_spread() {
    let backends = backends();
    let daemon = Daemon::proxying(rule(&backends, json!({"algorithm": "cookie:sid"})));
    // each is left out with a probability of (2/3)^60
    for line in ["", "Cookie: SID=a; xsid=b\r\n", "Cookie: sid=\r\n"] {
        let seen: BTreeSet<String> = (0..60).map(|_| text(&daemon, line)).collect();
        assert_eq!(seen.len(), 3, "{line}");
    }
}

#[test]
fn same_field_goes_to_the_same_backend() {
    let backends = backends();
    let daemon = Daemon::proxying(rule(&backends, json!({"algorithm": "field:X-Tenant"})));
    let mut chosen = BTreeSet::new();
    for tenant in 0..12 {
        let first = text(&daemon, &format!("X-Tenant: t{tenant}\r\n"));
        let again = text(&daemon, &format!("x-tenant:  t{tenant}\r\nX-Tenant: other\r\n"));
        assert_eq!(again, first);
        chosen.insert(first);
    }
    assert!(1 < chosen.len(), "{chosen:?}");
}

/// The value decides, and neither the client's address nor the order of the list.
#[test]
fn clients_of_a_dead_backend_move_and_no_others() {
    let backends = backends();
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    let arguments = json!({"algorithm": "cookie:sid", "attempts": 2, "delay": 0});
    let daemon = Daemon::proxying(rule_for(&ports, arguments.clone()));
    let choose = |daemon: &Daemon| -> Vec<String> {
        (0..20).map(|user| text(daemon, &format!("Cookie: sid=u{user}\r\n"))).collect()
    };
    let before = choose(&daemon);
    let other_order = [ports[2], ports[0], ports[1]];
    daemon.api().put("/hostname/a.com/", &rule_for(&other_order, arguments.clone()));
    assert_eq!(choose(&daemon), before);
    // the first one is gone, and another is there that accepts nothing
    let without = [ports[1], ports[2], closed_port()];
    daemon.api().put("/hostname/a.com/", &rule_for(&without, arguments));
    for (before, after) in before.iter().zip(choose(&daemon)) {
        assert_ne!(after, "one");
        // Those of the one that accepts nothing go elsewhere at random.
        assert!(["two", "three"].contains(&&*after), "{before} {after}");
    }
}

/// Nothing is parsed there, so there is no value.
#[test]
fn raw_connections_are_spread() {
    let backends = backends();
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 a.com");
    let daemon = setup.rule("a.com", rule(&backends, json!({"algorithm": "cookie:sid"}))).start();
    let seen: BTreeSet<String> = (0..60)
        .map(|_| {
            let mut raw = Connection::client(daemon.raw_address("TCP"));
            raw.exchange("GET / HTTP/1.1\r\nHost: a.com\r\nCookie: sid=same\r\n\r\n").text()
        })
        .collect();
    assert_eq!(seen.len(), 3);
}

#[test]
fn algorithms_with_names_are_read_back_and_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for algorithm in ["cookie:sid", "field:X-Tenant", "cookie:__Host-a.b"] {
        let rule = rule_for(&[1, 2], json!({ "algorithm": algorithm }));
        api.put("/hostname/a.com/", &rule);
        assert_eq!(api.get("/hostname/a.com/"), rule);
    }
    for algorithm in ["cookie", "cookie:", "field:", "field:a b", "cookie:a;b", "header:x", "x"] {
        let rule = rule_for(&[1, 2], json!({ "algorithm": algorithm }));
        let answer = api.tell("PUT", "/hostname/a.com/", &rule);
        let told = answer.expect_error(400, "a.com:host_kwarg_invalid:algorithm");
        assert!(told.contains("cookie:NAME"), "{told}");
    }
}
