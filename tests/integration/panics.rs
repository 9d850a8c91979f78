//! A task of a shard panics, on purpose: whoever receives a certain text does
//! (`src/ring/faults.rs`). That costs its connection, visibly, and nothing else.

use std::fmt::Write as _;

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::script::{Connection, Ending};
use crate::spin::metric;
use crate::tunnel::tunnelled;

const TEXT: &str = "xx-panic-xx";

/// A daemon that panics at this text. `None` in a release build, which can't be made to.
fn fragile(setup: Setup) -> Option<Daemon> {
    if !cfg!(debug_assertions) {
        eprintln!("skipped: a release build does not panic on purpose");
        return None;
    }
    let setup = setup
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .first(format!("export MANTRID_PANIC={TEXT}"));
    let mut daemon = setup.start();
    daemon.may_panic = true;
    Some(daemon)
}

/// So many have panicked; others are served, and nothing is left of those that were not.
#[track_caller]
fn expect_only(daemon: &mut Daemon, panics: usize, other: &mut Connection) {
    daemon.expect_log(&["panicked", "src/ring/faults.rs"]);
    assert_eq!(other.exchange(get("empty.com", "/")).status(), 403, "another of the same shard");
    assert_eq!(daemon.connect().exchange(get("empty.com", "/")).status(), 403);
    let mut api = daemon.api();
    eventually("it is counted", || metric(&mut api, "panics_total") == panics as f64);
    eventually("its connection is closed", || metric(&mut api, "connections_open") <= 1.0);
    for gauge in ["requests_held", "requests_queued", "pipes"] {
        // looked at once a second
        eventually(gauge, || metric(&mut api, gauge) == 0.0);
    }
    for host in ["a.com", "empty.com"] {
        eventually(&format!("no request of {host} is open"), || {
            let open = api.get(&format!("/stats/{host}/"))["open_requests"].as_u64();
            open.unwrap_or(0) == 0
        });
    }
    daemon.expect_running();
}

#[test]
fn panic_at_a_head_ends_one_connection() {
    let Some(mut daemon) = fragile(Setup::new()) else { return };
    let mut other = daemon.connect();
    assert_eq!(other.exchange(get("empty.com", "/")).status(), 403);
    let files = daemon.open_files();
    for n in 1..=20 {
        let mut client = daemon.connect();
        client.send(get("empty.com", &format!("/{TEXT}")));
        client.expect_end();
        expect_only(&mut daemon, n, &mut other);
    }
    eventually("descriptors are given back", || daemon.open_files() <= files + 4);
}

/// The log names the connection that a panic ends, and what it was doing.
#[test]
fn panic_is_told_with_its_connection_and_phase() {
    let backend = Backend::new();
    let Some(mut daemon) = fragile(Setup::new().rule("a.com", backend.rule())) else { return };
    daemon.may_panic = true;
    let address = |client: &Connection| {
        let address = client.sender().local_addr().expect("an address");
        format!("the connection of {address}: ")
    };
    let mut client = daemon.connect();
    client.send(get("a.com", &format!("/{TEXT}")));
    daemon.expect_log(&[&address(&client), "reading_head"]);
    let upload = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 100\r\n\r\n";
    let (mut client, _server) = asked_for(&daemon, &backend, upload);
    client.send(TEXT);
    daemon.expect_log(&[&address(&client), "sending_request"]);
    let (client, mut server) = asked(&daemon, &backend);
    server.send(ok(TEXT));
    daemon.expect_log(&[&address(&client), "awaiting_response"]);
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    client.expect_status(200);
    server.send(TEXT);
    daemon.expect_log(&[&address(&client), "relaying"]);
    let (client, mut server) = tunnelled(&daemon, &backend);
    server.send(TEXT);
    daemon.expect_log(&[&address(&client), "tunnel"]);
    let mut client = daemon.connect();
    let last = "GET / HTTP/1.1\r\nHost: empty.com\r\nConnection: close\r\n\r\n";
    assert_eq!(client.exchange(last).status(), 403);
    client.send(TEXT);
    daemon.expect_log(&[&address(&client), "lingering"]);
}

/// While it has a place at a backend that has only one: the place is free again.
#[test]
fn panic_at_a_response_gives_the_permit_back() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule_with(json!({ "max_connections": 1 })));
    let Some(mut daemon) = fragile(setup) else { return };
    let mut other = daemon.connect();
    for n in 1..=5 {
        let (mut client, mut server) = asked(&daemon, &backend);
        server.send(ok(TEXT));
        client.expect_end();
        server.expect_end();
        expect_only(&mut daemon, n, &mut other);
    }
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(ok("fine"));
    assert_eq!(client.expect_answer().text(), "fine");
}

/// What was cut off looks cut off, however the end of the body is told.
#[test]
fn panic_within_a_response_looks_cut_off() {
    let backend = Backend::new();
    let Some(mut daemon) = fragile(Setup::new().rule("a.com", backend.rule())) else { return };
    let mut other = daemon.connect();
    for (n, field) in
        ["", "Transfer-Encoding: chunked\r\n", "Content-Length: 1000\r\n"].into_iter().enumerate()
    {
        let (mut client, mut server) = asked(&daemon, &backend);
        server.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n5\r\nhello\r\n"));
        client.expect_status(200);
        client.expect_body("5\r\nhello\r\n");
        server.send(TEXT);
        assert_eq!(client.expect_end(), Ending::Reset, "{field:?}");
        server.expect_end();
        expect_only(&mut daemon, n + 1, &mut other);
    }
}

#[test]
fn panic_within_an_upload_or_a_tunnel_ends_both_sides() {
    let backend = Backend::new();
    let Some(mut daemon) = fragile(Setup::new().rule("a.com", backend.rule())) else { return };
    let mut other = daemon.connect();
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 100\r\n\r\n",
    );
    client.send(TEXT);
    client.expect_end();
    server.expect_end();
    expect_only(&mut daemon, 1, &mut other);
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    server.send(TEXT);
    assert_eq!(client.expect_end(), Ending::Reset);
    server.expect_end();
    expect_only(&mut daemon, 2, &mut other);
}

/// Others were held and queued behind it: they go on in their order.
#[test]
fn panic_leaves_the_queue_in_order() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule_with(json!({ "max_connections": 1 })));
    let Some(mut daemon) = fragile(setup) else { return };
    let mut other = daemon.connect();
    let (mut first, mut server) = asked(&daemon, &backend);
    let mut queued: Vec<Connection> = (0..4).map(|_| daemon.connect()).collect();
    let mut api = daemon.api();
    for (n, client) in queued.iter_mut().enumerate() {
        client.send(get("a.com", &format!("/{n}")));
        eventually("it waits", || metric(&mut api, "requests_queued") == (n + 1) as f64);
    }
    server.send(ok(TEXT));
    first.expect_end();
    server.expect_end();
    let mut server = backend.accept();
    let (mut order, mut answers) = (String::new(), String::new());
    for (n, client) in queued.iter_mut().enumerate() {
        write!(order, "{} ", server.expect_head().target()).expect("a string");
        write!(answers, "/{n} ").expect("a string");
        server.send(ok("turn"));
        assert_eq!(client.expect_answer().text(), "turn");
    }
    assert_eq!(order, answers);
    drop(queued);
    expect_only(&mut daemon, 1, &mut other);
}
