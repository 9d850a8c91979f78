//! Backends that are used in another's place: `backup`, while none of `backends` is usable; and
//! weight 0, which drains a backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::json;

use crate::backend::{Backend, checked, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::message::{get, ok};
use crate::script::Connection;

fn backup(ports: &[u16]) -> serde_json::Value {
    json!(ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>())
}

#[track_caller]
fn expect_texts(daemon: &Daemon, count: usize, expected: &str) {
    for _ in 0..count {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), expected);
    }
}

#[test]
fn backup_is_used_while_no_backend_is_usable() {
    let statuses = [(); 2].map(|()| Arc::new(AtomicU16::new(200)));
    let backends = [checked("main", &statuses[0]), checked("main", &statuses[1])];
    let spare = Backend::new().serve_text("spare");
    let ports = [backends[0].port, backends[1].port];
    let arguments = json!({"check": "/health", "check_interval": 0.2, "check_timeout": 2,
        "algorithm": "round_robin", "backup": backup(&[spare.port])});
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule_for(&ports, arguments)).start();
    expect_texts(&daemon, 6, "main");
    for (status, port) in statuses.iter().zip(ports) {
        status.store(500, Ordering::SeqCst);
        daemon.expect_log(&[&format!("127.0.0.1:{port} is down")]);
        let expected = if port == ports[0] { "main" } else { "spare" };
        expect_texts(&daemon, 6, expected);
    }
    // its checks are answered 200, as is everything there
    statuses[0].store(200, Ordering::SeqCst);
    daemon.expect_log(&[&format!("127.0.0.1:{} is up again", ports[0])]);
    expect_texts(&daemon, 6, "main");
}

#[test]
fn next_attempt_goes_to_the_backup() {
    let spares = [Backend::new().serve_text("spare"), Backend::new().serve_text("spare")];
    let arguments = json!({"attempts": 2, "delay": 0,
        "backup": backup(&[spares[0].port, spares[1].port])});
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 a.com");
    let daemon = setup.rule("a.com", rule_for(&[closed_port()], arguments)).start();
    expect_texts(&daemon, 30, "spare");
    // each is left out with a probability of (1/2)^30
    assert!(spares.iter().all(|spare| 0 < spare.requests()));
    let mut raw = Connection::client(daemon.raw_address("TCP"));
    assert_eq!(raw.exchange(get("a.com", "/")).text(), "spare");
}

#[test]
fn backup_by_name_is_looked_up() {
    let spare = Backend::new().serve_text("spare");
    let arguments = json!({"attempts": 2, "delay": 0, "backup": [["localhost", spare.port]]});
    let daemon = Daemon::proxying(rule_for(&[closed_port()], arguments));
    expect_texts(&daemon, 4, "spare");
}

#[test]
fn backends_are_tried_again_where_no_backup_is_usable() {
    let port = closed_port();
    let arguments = json!({"attempts": 2, "delay": 0, "backup": backup(&[closed_port()])});
    let daemon = Daemon::proxying(rule_for(&[port], arguments));
    for _ in 0..4 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    }
    let _back = Backend::on(port).serve_text("main");
    eventually("it is used", || daemon.connect().exchange(get("a.com", "/")).text() == "main");
}

#[test]
fn held_request_goes_to_whichever_comes_first() {
    let spare = closed_port();
    let arguments = json!({"hold": 60, "backup": backup(&[spare])});
    let daemon = Daemon::proxying(rule_for(&[closed_port()], arguments));
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut api = daemon.api();
    eventually("it is held", || api.get("/stats/a.com/")["held_requests"] == 1);
    let _spare = Backend::on(spare).serve_text("spare");
    assert_eq!(client.expect_answer().text(), "spare");
}

#[test]
fn backend_of_weight_0_finishes_what_it_has() {
    let (first, second) = (Backend::new(), Backend::new().serve_text("second"));
    let daemon = Daemon::proxying(rule_for(&[first.port], json!({})));
    let (mut client, mut server) = asked(&daemon, &first);
    let ports = [first.port, second.port];
    let drained = rule_for(&ports, json!({"weights": [0, 1], "algorithm": "round_robin"}));
    daemon.api().put("/hostname/a.com/", &drained);
    expect_texts(&daemon, 8, "second");
    server.send(ok("first"));
    assert_eq!(client.expect_answer().text(), "first");
    assert_eq!(client.exchange(get("a.com", "/")).text(), "second");
    first.expect_no_connection();
}

#[test]
fn all_weights_0_are_503_or_the_backup() {
    let (main, spare) = (Backend::new().serve_text("main"), Backend::new().serve_text("spare"));
    let rule = rule_for(&[main.port], json!({"weights": [0], "hold": 60}));
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 a.com").set("access_log", "stdout");
    let daemon = setup.rule("a.com", rule.clone()).start();
    let mut api = daemon.api();
    assert_eq!(api.get("/hostname/a.com/"), rule);
    for _ in 0..4 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503, "and not held");
    }
    daemon.expect_printed("\"termination\":\"drained\"");
    Connection::client(daemon.raw_address("TCP")).expect_close();
    let arguments = json!({"weights": [0], "backup": backup(&[spare.port])});
    api.put("/hostname/a.com/", &rule_for(&[main.port], arguments));
    expect_texts(&daemon, 4, "spare");
    assert_eq!(main.requests(), 0);
}

#[test]
fn backups_are_read_back_and_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let rule = json!(["proxy", {"backends": [["127.0.0.1", 1]],
        "backup": [["127.0.0.1", 2], ["::1", 3], ["app.internal", 4]]}, true]);
    api.put("/hostname/a.com/", &rule);
    assert_eq!(api.get("/hostname/a.com/"), rule);
    for backup in [json!([]), json!(["a"]), json!(7), json!([["127.0.0.1", 0]])] {
        let rule = rule_for(&[1], json!({ "backup": backup }));
        let answer = api.tell("PUT", "/hostname/a.com/", &rule);
        let told = answer.expect_error(400, "a.com:host_kwarg_invalid:backup");
        assert!(told.contains("backup"), "{told}");
    }
}
