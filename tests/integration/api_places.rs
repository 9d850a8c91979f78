//! Places at the API: whoever takes them and does nothing with them gives them up to those who ask,
//! whatever it is that he leaves half done, over TCP and over Unix sockets.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::script::{Connection, find};

/// How many places there are, with the descriptors of `setup`.
const PLACES: usize = 32;

fn setup() -> Setup {
    Setup::new().files_max(512).management_tcp().rule("a.com", json!(["spin", {}, true]))
}

fn connect(daemon: &Daemon, over_tcp: bool) -> Connection {
    match over_tcp {
        true => Connection::client_with_small_buffer(daemon.api_address()),
        false => {
            let path = daemon.management.iter().find_map(|one| one.strip_prefix("unix:"));
            Connection::unix(Path::new(path.expect("a Unix socket")))
        }
    }
}

/// Somebody new is answered, over either: alive, numbers, and a flip.
#[track_caller]
fn expect_served(daemon: &Daemon) {
    for over_tcp in [false, true] {
        for round in 0..3 {
            let api = || Api::over(connect(daemon, over_tcp));
            assert_eq!(api().get("/healthz"), json!({"ok": true}));
            assert!(api().ask("GET", "/metrics").text().contains("mantrid_rules"));
            api().put("/hostname/a.com/", &empty(402 + round));
        }
    }
}

/// Twice as many as there are places send this and then nothing.
fn crowd(daemon: &Daemon, over_tcp: bool, bytes: &str) -> Vec<Connection> {
    let one = |_| {
        let mut client = connect(daemon, over_tcp);
        // Some have been sent away before they are done.
        let _ = client.try_send(bytes);
        client
    };
    (0..2 * PLACES).map(one).collect()
}

#[test]
fn half_sent_requests_keep_nobody_out() {
    for over_tcp in [false, true] {
        let daemon = setup().start();
        for bytes in [
            "",
            "G",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "PUT /hostname/b.com/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[",
            "PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n{",
            "PATCH /hostname/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
            "PUT /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[",
        ] {
            let clients = crowd(&daemon, over_tcp, bytes);
            expect_served(&daemon);
            drop(clients);
        }
    }
}

/// Long answers, of which nothing is read.
#[test]
fn unread_answers_keep_nobody_out() {
    let daemon = setup().start();
    let long =
        json!(["redirect", {"redirect_to": format!("http://b.com/{}", "x".repeat(2000))}, true]);
    let table: serde_json::Value = (0..200).map(|n| (format!("h{n}.com"), long.clone())).collect();
    daemon.api().patch(&table);
    // More than the kernel keeps for each.
    let request = "GET /hostname/ HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    for over_tcp in [false, true] {
        let clients = crowd(&daemon, over_tcp, &request);
        expect_served(&daemon);
        drop(clients);
    }
}

/// Sending a body byte by byte is no progress while others want the place.
#[test]
fn a_trickle_keeps_nobody_out() {
    let daemon = setup().start();
    let head = "PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n{";
    for over_tcp in [false, true] {
        let mut clients = crowd(&daemon, over_tcp, head);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Those that were sent away are no matter.
                    clients.iter_mut().for_each(|client| drop(client.try_send(" ")));
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            });
            let served = catch_unwind(AssertUnwindSafe(|| expect_served(&daemon)));
            is_over.store(true, Ordering::Relaxed);
            served.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }
}

/// They stay, and there are only so many of them.
#[test]
fn readers_of_events_leave_places() {
    let daemon = setup().start();
    let request = "GET /events?only=change HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut clients = crowd(&daemon, false, request);
    let statuses: Vec<u16> =
        clients.iter_mut().map(|client| client.expect_head().status()).collect();
    let followed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(followed, PLACES / 2, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    expect_served(&daemon);
    // Others did not have them sent away.
    let _idle = crowd(&daemon, true, "GET ");
    expect_served(&daemon);
    for (client, _) in clients.iter_mut().zip(statuses).filter(|(_, status)| *status == 200) {
        let mut seen = Vec::new();
        let mut room = [0; 4096];
        while find(&seen, b"event: change").is_none() {
            let count = client.read_some(&mut room);
            assert_ne!(count, 0, "a reader of events was sent away");
            seen.extend_from_slice(&room[..count]);
        }
    }
}

/// A backend that is never drained.
#[test]
fn requests_that_wait_for_a_drain_leave_places() {
    let backend = Backend::new();
    let daemon = setup().rule("busy.com", backend.rule()).start();
    let mut visitor = daemon.connect();
    visitor.send(crate::message::get("busy.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    let body =
        |port: usize| json!(["proxy", {"backends": [["127.0.0.1", port]]}, true]).to_string();
    let mut clients: Vec<Connection> = Vec::new();
    for _ in 0..2 * PLACES {
        let mut client = connect(&daemon, false);
        // Each takes the busy backend out that the one before put in.
        for (rule, wait) in
            [(backend.rule().to_string(), ""), (body(1), "?wait=drained&timeout=1h")]
        {
            let length = rule.len();
            client.send(format!(
                "PUT /hostname/busy.com/{wait} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{rule}"
            ));
            if wait.is_empty() {
                assert_eq!(client.expect_answer().status(), 200);
            }
        }
        clients.push(client);
    }
    expect_served(&daemon);
}
