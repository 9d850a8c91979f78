//! `slow_start`: the weight of a backend that came back or was added grows from a tenth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};

/// Round robin in ten steps; nobody waits for the end of an hour.
fn slow(arguments: Value) -> Value {
    let mut all = json!({"algorithm": "round_robin", "slow_start": 3600});
    all.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    all
}

/// How many of `count` requests each of these got.
fn spread(daemon: &Daemon, count: usize, backends: [&Serving; 2]) -> [usize; 2] {
    let before = backends.map(Serving::requests);
    for _ in 0..count {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    }
    [0, 1].map(|at| backends[at].requests() - before[at])
}

/// Waits until the second of these gets its tenth: control learns of a change a moment later.
#[track_caller]
fn expect_tenth(daemon: &Daemon, backends: [&Serving; 2]) {
    eventually("it has a tenth of its weight", || spread(daemon, 11, backends) == [10, 1]);
    assert_eq!(spread(daemon, 22, backends), [20, 2]);
}

#[test]
fn added_backend_begins_with_a_tenth() {
    let (old, new) = (Backend::new().serve_text(""), Backend::new().serve_text(""));
    let setup = Setup::new().set("shards", 2);
    let mut daemon = setup.rule("a.com", rule_for(&[old.port], slow(json!({})))).start();
    let both = [old.port, new.port];
    daemon.api().put("/hostname/a.com/", &rule_for(&both, slow(json!({}))));
    expect_tenth(&daemon, [&old, &new]);
    // Other rules with the same backends have nothing to do with it.
    daemon.api().put("/hostname/b.com/", &rule_for(&both, slow(json!({}))));
    let before = new.requests();
    for _ in 0..10 {
        daemon.connect().exchange(get("b.com", "/"));
    }
    assert_eq!(new.requests() - before, 5);
    daemon.upgrade();
    // Until the old daemon has stopped, both accept, and each counts turns of its own.
    daemon.expect_log(&["Stopped after"]);
    assert_eq!(spread(&daemon, 22, [&old, &new]), [20, 2]);
}

#[test]
fn backend_that_came_back_by_its_check_begins_with_a_tenth() {
    let status = Arc::new(AtomicU16::new(200));
    let seen = Arc::clone(&status);
    let old = Backend::new().serve_text("");
    let new = Backend::new();
    let port = new.port;
    let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let _new = new.serve(move |head, server| {
        let answer = match head.target() {
            "/health" => {
                let status = seen.load(Ordering::SeqCst);
                format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            _ => {
                counted.fetch_add(1, Ordering::SeqCst);
                ok("")
            }
        };
        drop(server.try_send(answer));
    });
    let arguments = slow(json!({"check": "/health", "check_interval": 0.2, "check_timeout": 2}));
    let daemon = Daemon::proxying(rule_for(&[old.port, port], arguments));
    let ask = |count: usize| {
        let before = requests.load(Ordering::SeqCst);
        (0..count).for_each(|_| drop(daemon.connect().exchange(get("a.com", "/"))));
        requests.load(Ordering::SeqCst) - before
    };
    assert_eq!(ask(10), 5, "all begin together");
    status.store(500, Ordering::SeqCst);
    daemon.expect_log(&[&format!("127.0.0.1:{port} is down")]);
    assert_eq!(ask(10), 0);
    status.store(200, Ordering::SeqCst);
    daemon.expect_log(&[&format!("127.0.0.1:{port} is up again")]);
    eventually("it has a tenth of its weight", || ask(11) == 1);
    assert_eq!(ask(22), 2);
}

#[test]
fn backend_that_was_ejected_begins_with_a_tenth() {
    let old = Backend::new().serve_text("");
    let port = closed_port();
    let setup = Setup::new().rule("b.com", rule_for(&[port], json!({})));
    let daemon = setup.rule("a.com", rule_for(&[old.port, port], slow(json!({})))).start();
    for _ in 0..3 {
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 502);
    }
    daemon.expect_log(&[&format!("127.0.0.1:{port} is ejected")]);
    let new = Backend::on(port).serve_text("");
    daemon.expect_log(&[&format!("127.0.0.1:{port} is up again")]);
    expect_tenth(&daemon, [&old, &new]);
}

#[test]
fn weight_grows_to_all_of_it() {
    let (old, new) = (Backend::new().serve_text(""), Backend::new().serve_text(""));
    let quick = slow(json!({"slow_start": 2}));
    let daemon = Daemon::proxying(rule_for(&[old.port], quick.clone()));
    daemon.api().put("/hostname/a.com/", &rule_for(&[old.port, new.port], quick));
    // At nine tenths they differ in so many.
    eventually("it has its whole weight", || spread(&daemon, 40, [&old, &new]) == [20, 20]);
}

#[test]
fn slow_start_is_read_back_and_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let rule = rule_for(&[1, 2], json!({"slow_start": 2.5}));
    api.put("/hostname/a.com/", &rule);
    assert_eq!(api.get("/hostname/a.com/"), rule);
    let rule = rule_for(&[1], json!({"slow_start": "soon"}));
    let answer = api.tell("PUT", "/hostname/a.com/", &rule);
    answer.expect_error(400, "a.com:host_kwarg_invalid:slow_start");
}
