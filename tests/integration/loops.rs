//! A rule that leads to this daemon itself: no request goes round, whatever the way there.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked};
use crate::message::{get, ok};

fn rule(address: impl std::fmt::Display, arguments: &Value) -> Value {
    let mut arguments = arguments.clone();
    arguments["backends"] = json!([address.to_string()]);
    json!(["proxy", arguments, false])
}

fn accepted(daemon: &Daemon) -> u64 {
    let text = daemon.api().ask("GET", "/metrics").text();
    let name = "mantrid_connections_accepted_total";
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values =
        lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()));
    values.map(|value| value.expect("a number")).sum()
}

#[track_caller]
fn expect_no_loop(daemon: &Daemon, target: SocketAddr, arguments: &Value) {
    daemon.api().put("/hostname/loop.com/", &rule(target, arguments));
    daemon.expect_log(&["loop.com: the backend", "is this daemon itself"]);
    let before = accepted(daemon);
    daemon.connect().exchange(get("loop.com", "/")).expect_status(502);
    assert_eq!(accepted(daemon), before + 1, "{target} was connected to");
}

#[test]
fn a_rule_that_leads_here_gets_502() {
    let daemon = Setup::new().internal().start();
    for address in [daemon.address(), daemon.addresses[1]] {
        expect_no_loop(&daemon, address, &json!({}));
        expect_no_loop(&daemon, address, &json!({ "attempts": 2, "delay": 0 }));
    }
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, daemon.address().port()));
    expect_no_loop(&daemon, any, &json!({}));
    daemon.expect_log(&["where this daemon itself listens"]);
}

/// Requests are not held for a backend that can never be one.
#[test]
fn a_rule_with_hold_or_check_that_leads_here_gets_502() {
    let daemon = Setup::new().start();
    let check = json!({ "check": "tcp", "hold": 60 });
    expect_no_loop(&daemon, daemon.address(), &check);
    daemon.expect_log(&["is down: ", "is this daemon itself"]);
    daemon.connect().exchange(get("loop.com", "/")).expect_status(502);
}

#[test]
fn a_wildcard_listens_on_every_local_address() {
    let daemon = Setup::new().set("bind", "*:0").start();
    let port = daemon.address().port();
    for target in
        [format!("127.0.0.1:{port}"), format!("127.8.8.8:{port}"), format!("[::1]:{port}")]
    {
        daemon.api().put("/hostname/loop.com/", &rule(&target, &json!({})));
        let mut client =
            crate::script::Connection::client(SocketAddr::from(([127, 0, 0, 1], port)));
        client.exchange(get("loop.com", "/")).expect_status(502);
    }
}

#[test]
fn a_name_that_leads_here_gets_502() {
    let daemon = Setup::new().start();
    let target = format!("localhost:{}", daemon.address().port());
    daemon.api().put("/hostname/loop.com/", &rule(target, &json!({})));
    daemon.connect().exchange(get("loop.com", "/")).expect_status(502);
}

/// The rest of a rule's backends serve.
#[test]
fn other_backends_are_chosen() {
    let backend = Backend::new().serve_text("served");
    let daemon = Setup::new().start();
    let backends = json!([daemon.address().to_string(), format!("127.0.0.1:{}", backend.port)]);
    daemon.api().put("/hostname/a.com/", &json!(["proxy", { "backends": backends }, false]));
    for _ in 0..20 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "served");
    }
}

#[test]
fn management_is_no_backend_and_neither_is_a_raw_address() {
    let daemon = Setup::new().management_tcp().add("bind_tcp", "127.0.0.1:0 db.com").start();
    let management = daemon.api_address();
    daemon.api_tcp().put("/hostname/loop.com/", &rule(management, &json!({})));
    daemon.connect().exchange(get("loop.com", "/")).expect_status(502);
    let raw = daemon.raw_address("TCP");
    daemon.api_tcp().put("/hostname/db.com/", &rule(raw, &json!({})));
    daemon.connect().exchange(get("db.com", "/")).expect_status(502);
    crate::script::Connection::client(raw).expect_end();
}

#[test]
fn loops_end_after_an_upgrade_too() {
    let backend = Backend::new();
    let mut daemon = Setup::new().rule("a.com", backend.rule()).start();
    daemon.api().put("/hostname/loop.com/", &rule(daemon.address(), &json!({})));
    daemon.upgrade();
    daemon.connect().exchange(get("loop.com", "/")).expect_status(502);
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(ok("served"));
    assert_eq!(client.expect_answer().text(), "served");
}
