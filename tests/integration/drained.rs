//! `?wait=drained`: the answer to a change comes when what was removed has nothing of that rule
//! under way any more, or says what is left.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Backend, rule_for};
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::manage::Api;
use crate::message::{Answer, get, ok};
use crate::script::Connection;
use crate::service::Hanging;

const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";

fn address(backend: &Backend) -> String {
    format!("127.0.0.1:{}", backend.port)
}

/// Asks for a change and does not wait for its answer; the table has changed when it returns.
#[track_caller]
fn begin(daemon: &Daemon, method: &str, query: &str, rule: &Value) -> Api {
    let (mut asker, mut api) = (daemon.api(), daemon.api());
    let before = api.etag();
    let path = format!("/hostname/a.com/?wait=drained{query}");
    let request = asker.request(method, &path, "", &rule.to_string());
    asker.wire.send(request);
    eventually("the change is made", || api.etag() != before);
    asker
}

#[track_caller]
fn expect_drained(answer: Answer) {
    let answer = answer.expect_status(200);
    assert_eq!(answer.json(), json!({"ok": true, "drained": true}));
    answer.etag();
}

#[track_caller]
fn expect_left(answer: &Answer, left: &Value) {
    assert_eq!(answer.status(), 200, "the change is made: {}", answer.text());
    assert_eq!(answer.json(), json!({"ok": true, "drained": false, "in_flight": left}));
}

#[test]
fn answer_comes_when_the_last_request_ends() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let (mut second, mut second_server) = asked(&daemon, &backend);
    let mut asker = begin(&daemon, "DELETE", "", &Value::Null);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503, "at once");
    asker.wire.expect_nothing_more();
    server.send(ok("one"));
    assert_eq!(client.expect_answer().text(), "one");
    asker.wire.expect_nothing_within(Duration::from_millis(50));
    second_server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    second.expect_status(200);
    asker.wire.expect_nothing_within(Duration::from_millis(50));
    second_server.send("world");
    second.expect_body("helloworld");
    expect_drained(asker.wire.expect_answer());
}

#[test]
fn answer_in_time_says_what_is_left() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let hanging: Vec<_> = (0..3).map(|_| asked(&daemon, &backend)).collect();
    let mut api = daemon.api();
    let answer = api.tell("DELETE", "/hostname/a.com/?wait=drained&timeout=60ms", &Value::Null);
    expect_left(&answer, &json!({ address(&backend): 3 }));
    // the change stays; asked again there is nothing that it would remove
    expect_drained(api.tell("DELETE", "/hostname/a.com/?wait=drained", &Value::Null));
    api.put("/hostname/a.com/", &backend.rule());
    for (mut client, server) in hanging {
        drop(server);
        assert_eq!(client.expect_answer().status(), 502);
    }
    expect_drained(api.tell("DELETE", "/hostname/a.com/?wait=drained&timeout=5", &Value::Null));
}

#[test]
fn change_that_removes_no_backend_waits_for_nothing() {
    let (backend, other) = (Backend::new(), Backend::new());
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let _hanging = asked(&daemon, &backend);
    let mut api = daemon.api();
    let both = rule_for(&[backend.port, other.port], json!({"algorithm": "round_robin"}));
    for (method, host, rule) in [
        ("PUT", "a.com", &backend.rule()),
        ("PUT", "a.com", &both),
        ("PUT", "new.com", &backend.rule()),
        ("DELETE", "new.com", &Value::Null),
        ("DELETE", "never.com", &Value::Null),
    ] {
        let path = format!("/hostname/{host}/?wait=drained");
        expect_drained(api.tell(method, &path, rule));
    }
}

#[test]
fn requests_of_other_hosts_do_not_count() {
    let (backend, other) = (Backend::new(), Backend::new());
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[backend.port, other.port], json!({"algorithm": "round_robin"})))
        .rule("b.com", backend.rule())
        .start();
    let (mut client, mut server) = asked_for(&daemon, &backend, get("b.com", "/"));
    let mut api = daemon.api();
    // one of its own at the backend that stays
    api.put("/hostname/a.com/", &other.rule());
    let (_own, mut own_server) = asked(&daemon, &other);
    api.put("/hostname/a.com/", &rule_for(&[backend.port, other.port], json!({})));
    expect_drained(api.tell("PUT", "/hostname/a.com/?wait=drained", &other.rule()));
    server.send(ok("b"));
    assert_eq!(client.expect_answer().text(), "b");
    own_server.expect_nothing_more();
}

#[test]
fn nothing_new_goes_to_what_was_removed() {
    let old = Backend::new();
    let new = Backend::new().serve_text("new");
    let daemon = Setup::new().set("shards", 2).rule("a.com", old.rule()).start();
    // idle connections to the old one, of clients that go on
    let mut kept: Vec<(Connection, Connection)> = (0..8).map(|_| asked(&daemon, &old)).collect();
    let (mut hanging, mut server) = asked(&daemon, &old);
    for (client, server) in &mut kept {
        server.send(ok("old"));
        client.expect_answer();
    }
    let mut asker = begin(&daemon, "PUT", "", &new.rule());
    for _ in 0..5 {
        for (client, server) in &mut kept {
            assert_eq!(client.exchange(get("a.com", "/")).text(), "new");
            assert!(!server.came_within(Duration::ZERO), "the old one was asked");
        }
    }
    old.expect_no_connection();
    asker.wire.expect_nothing_more();
    server.send(ok("last"));
    assert_eq!(hanging.expect_answer().text(), "last");
    expect_drained(asker.wire.expect_answer());
}

#[test]
fn tunnels_are_waited_for() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let tunnels = (0..2).map(|_| {
        let (mut client, mut server) = asked_for(
            &daemon,
            &backend,
            "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        );
        server.send(SWITCHING);
        client.expect_status(101);
        (client, server)
    });
    let mut tunnels: Vec<(Connection, Connection)> = tunnels.collect();
    let mut api = daemon.api();
    let answer = api.tell("DELETE", "/hostname/a.com/?wait=drained&timeout=50ms", &Value::Null);
    expect_left(&answer, &json!({ address(&backend): 2 }));
    api.put("/hostname/a.com/", &backend.rule());
    let mut asker = begin(&daemon, "DELETE", "&timeout=1h", &Value::Null);
    for (client, server) in &mut tunnels {
        asker.wire.expect_nothing_more();
        client.send("still open");
        server.expect_body("still open");
        server.half_close();
        client.expect_close();
        client.half_close();
        server.expect_close();
    }
    expect_drained(asker.wire.expect_answer());
}

/// Each shard is asked, the busy and the idle, and each answers for itself.
#[test]
fn every_shard_is_asked() {
    let (backend, other) = (Backend::new(), Backend::new());
    let daemon = Setup::new().set("shards", 3).rule("a.com", backend.rule()).start();
    let hanging: Vec<_> = (0..16).map(|_| asked(&daemon, &backend)).collect();
    let mut api = daemon.api();
    let answer = api.tell("PUT", "/hostname/a.com/?wait=drained&timeout=50ms", &other.rule());
    expect_left(&answer, &json!({ address(&backend): 16 }));
    api.put("/hostname/a.com/", &backend.rule());
    let mut first = begin(&daemon, "PUT", "", &other.rule());
    for (left, (mut client, mut server)) in (0..16).rev().zip(hanging) {
        first.wire.expect_nothing_more();
        match left % 3 {
            0 => drop(server),
            1 => client.reset(),
            _ => {
                server.send(ok("done"));
                client.expect_answer();
            }
        }
    }
    expect_drained(first.wire.expect_answer());
}

/// An alias leads to the rule, so what came by it is under way there.
#[test]
fn requests_by_an_alias_are_waited_for() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("a.com", json!(["proxy", {"backends": [["127.0.0.1", backend.port]]}, true]))
        .rule("alias.com", json!(["alias", {"hostname": "a.com"}, false]))
        .start();
    let hanging = ["x.y.a.com", "alias.com"].map(|host| {
        let (client, server) = asked_for(&daemon, &backend, get(host, "/"));
        (client, server)
    });
    let mut api = daemon.api();
    let empty = json!(["empty", {"code": 403}, false]);
    let answer = api.tell("PUT", "/hostname/a.com/?wait=drained&timeout=50ms", &empty);
    expect_left(&answer, &json!({ address(&backend): 2 }));
    api.put("/hostname/a.com/", &backend.rule());
    let mut asker = begin(&daemon, "PUT", "", &empty);
    for (mut client, mut server) in hanging {
        asker.wire.expect_nothing_more();
        server.send(ok("done"));
        client.expect_answer();
    }
    expect_drained(asker.wire.expect_answer());
}

/// One that waits for a place was routed by the rule as it was, and will go where that said.
#[test]
fn requests_in_the_queue_are_waited_for() {
    let backend = Backend::new();
    let limited = backend.rule_with(json!({"max_connections": 1}));
    let daemon = Setup::new().rule("a.com", limited).start();
    let (mut first, mut server) = asked(&daemon, &backend);
    let mut second = daemon.connect();
    second.send(get("a.com", "/"));
    let mut api = daemon.api();
    eventually("it waits", || api.get("/stats/a.com/")["open_requests"] == 2);
    let mut asker = begin(&daemon, "DELETE", "", &Value::Null);
    server.send(ok("first"));
    first.expect_answer();
    asker.wire.expect_nothing_within(Duration::from_millis(50));
    server.expect_head();
    server.send(ok("second"));
    assert_eq!(second.expect_answer().text(), "second");
    expect_drained(asker.wire.expect_answer());
}

/// Whoever asked has gone: nobody is the worse for it, the change included.
#[test]
fn client_that_stops_waiting_leaves_nothing_behind() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    for _ in 0..5 {
        daemon.api().put("/hostname/a.com/", &backend.rule());
        begin(&daemon, "DELETE", "&timeout=1h", &Value::Null).wire.reset();
    }
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    assert_eq!(client.exchange(get("a.com", "/")).status(), 503);
}

#[test]
fn senseless_wait_is_refused_before_anything_is_done() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let mut api = daemon.api();
    let _hanging = asked(&daemon, &backend);
    for query in [
        "wait=done",
        "wait=",
        "timeout=5s",
        "wait=drained&timeout=-1s",
        "wait=drained&timeout=soon",
        "wait=drained&timeout=2h",
        "wait=drained&timeout=",
        "wait=drained&timeout=99999999999999999999s",
    ] {
        let answer = api.tell("DELETE", &format!("/hostname/a.com/?{query}"), &Value::Null);
        answer.expect_error(400, "query_invalid");
    }
    // a change that is not made is not waited for
    let stale = api.tell_with(
        "If-Match: \"x\"\r\n",
        "DELETE",
        "/hostname/a.com/?wait=drained",
        &Value::Null,
    );
    stale.expect_error(412, "precondition_failed");
    let bad = api.tell("PUT", "/hostname/a.com/?wait=drained", &json!(["proxy", {}, true]));
    bad.expect_error(400, "a.com:host_kwarg_missing:backends");
    assert_eq!(api.get("/hostname/a.com/"), backend.rule());
}

/// A shard that is slow to answer is waited for: without it the number would be a guess.
#[test]
fn slow_shard_is_asked_what_is_left() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let _hanging_request = asked(&daemon, &backend);
    let hanging = Hanging::thread(&daemon, "shard-0");
    let mut asker = begin(&daemon, "DELETE", "&timeout=50ms", &Value::Null);
    asker.wire.expect_nothing_within(Duration::from_millis(300));
    drop(hanging);
    expect_left(&asker.wire.expect_answer(), &json!({ address(&backend): 1 }));
}
