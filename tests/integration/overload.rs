//! Too much of everything: descriptors run out, floods come, backends vanish. The daemon survives,
//! keeps serving whom it serves, and recovers by itself.

use std::time::Duration;

use serde_json::json;

use crate::attack::counted;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::script::Connection;

pub const EMPTY: &str = "empty.com";

fn setup() -> Setup {
    Setup::new().rule(EMPTY, json!(["empty", { "code": 403 }, false]))
}

/// A new client is served, if not at once then soon.
#[track_caller]
fn expect_recovers(daemon: &Daemon) {
    eventually("a new client is served", || {
        let mut client = daemon.connect();
        client.try_send(get(EMPTY, "/")).is_ok()
            && client.try_head().is_some_and(|head| head.status() == 403)
    });
}

#[test]
fn clients_past_the_room_are_turned_away() {
    let mut daemon = setup().files_max(128).start();
    expect_survives_a_crowd(&mut daemon);
}

/// Fewer descriptors are left than was planned for, so accepting fails with EMFILE.
pub fn short_of_files() -> Setup {
    setup().files_max(400).inherits_files(280)
}

#[test]
fn clients_are_turned_away_where_descriptors_run_out() {
    let mut daemon = short_of_files().start();
    expect_survives_a_crowd(&mut daemon);
    assert!(0.0 < counted(&mut daemon.api(), "shed_total", "descriptors"));
}

#[track_caller]
fn expect_survives_a_crowd(daemon: &mut Daemon) {
    let mut old = daemon.connect();
    assert_eq!(old.exchange(get(EMPTY, "/")).status(), 403);
    let crowd: Vec<Connection> = (0..300).map(|_| daemon.connect()).collect();
    // who was there before is served, and nothing spins while others wait or are turned away
    assert_eq!(old.exchange(get(EMPTY, "/")).status(), 403);
    daemon.expect_rest();
    old.expect_nothing_more();
    assert_eq!(old.exchange(get(EMPTY, "/")).status(), 403);
    drop(crowd);
    expect_recovers(daemon);
    daemon.expect_running();
}

#[test]
fn each_client_gets_an_answer_where_descriptors_run_out() {
    let backend = Backend::new().serve_text("served");
    let mut daemon = short_of_files().rule("a.com", backend.rule()).start();
    let mut crowd: Vec<Connection> = (0..200).map(|_| daemon.connect()).collect();
    // all ask at the same time: each gets an answer, of the backend or ours, or is turned away
    for client in &mut crowd {
        drop(client.try_send(get("a.com", "/")));
    }
    for client in &mut crowd {
        if let Some(head) = client.try_head() {
            assert!([200, 502, 503].contains(&head.status()), "{head:#?}");
        }
    }
    drop(crowd);
    expect_recovers(&daemon);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "served");
    daemon.expect_running();
}

#[test]
fn flood_of_connections_leaves_nothing_behind() {
    let mut daemon = setup().set("shards", 2).start();
    expect_recovers(&daemon);
    let before = daemon.open_files();
    for round in 0..20 {
        let clients: Vec<Connection> = (0..100).map(|_| daemon.connect()).collect();
        for (n, mut client) in clients.into_iter().enumerate() {
            match (n + round) % 4 {
                0 => client.reset(),
                1 => drop(client),
                2 => drop(client.try_send("GET / HT")),
                _ => assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403),
            }
        }
    }
    daemon.expect_running();
    expect_recovers(&daemon);
    eventually("the flood's descriptors are closed", || daemon.open_files() <= before + 4);
}

#[test]
fn max_connections_turns_away_and_takes_in_again() {
    let daemon = setup().set("max_connections", 10).start();
    let mut inside: Vec<Connection> = (0..10).map(|_| daemon.connect()).collect();
    for client in &mut inside {
        assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403);
    }
    let mut outside = daemon.connect();
    drop(outside.try_send(get(EMPTY, "/")));
    // turned away politely, or left waiting: never served
    if outside.came_within(Duration::from_millis(200))
        && let Some(head) = outside.try_head()
    {
        assert_eq!((head.status(), head.says_close()), (503, true), "{head:#?}");
    }
    for client in &mut inside {
        assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403);
    }
    inside.pop();
    expect_recovers(&daemon);
}

#[test]
fn backend_that_vanishes_under_load_costs_502s_alone() {
    let backend = Backend::on(closed_port()).serve_text("here");
    let daemon = setup().rule("a.com", backend.rule()).start();
    let mut clients: Vec<Connection> = (0..50).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    }
    let mut busy: Vec<Connection> = (0..50).map(|_| daemon.connect()).collect();
    for client in &mut busy {
        client.send(get("a.com", "/"));
    }
    drop(backend);
    for client in &mut busy {
        let status = client.expect_answer().status();
        assert!(status == 200 || status == 502, "{status}");
    }
    eventually("it is noticed", || daemon.connect().exchange(get("a.com", "/")).status() == 502);
    for client in &mut clients {
        assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403);
    }
    drop((clients, busy));
}

#[test]
fn failing_requests_leave_no_descriptors() {
    let backend = Backend::new();
    let daemon = setup()
        .set("timeout_server", "200ms")
        .rule("silent.com", backend.rule())
        .rule("dead.com", rule_for(&[closed_port()], json!({})))
        .start();
    expect_recovers(&daemon);
    let before = daemon.open_files();
    let mut clients: Vec<Connection> = (0..60).map(|_| daemon.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get(if n % 2 == 0 { "silent.com" } else { "dead.com" }, "/"));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let expected = if n % 2 == 0 { 504 } else { 502 };
        assert_eq!(client.expect_answer().status(), expected);
    }
    drop(clients);
    eventually("descriptors are closed", || daemon.open_files() <= before + 4);
}

/// Connections to backends that idle in the pool give way to clients, and nobody is turned away
/// while descriptors are on their way back.
#[test]
fn idle_backend_connections_do_not_shut_clients_out() {
    let backend = Backend::new();
    let daemon = short_of_files().rule("a.com", backend.rule()).start();
    let free = daemon.free_files();
    let mut servers = Vec::new();
    let mut clients: Vec<Connection> = (0..20).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(get("a.com", "/"));
        servers.push(backend.accept());
    }
    for (client, server) in clients.iter_mut().zip(&mut servers) {
        server.expect_head();
        server.send(ok("x"));
        assert_eq!(client.expect_answer().status(), 200);
    }
    // it finds who left and who came in the same moment
    daemon.signal("STOP");
    drop(clients);
    let mut crowd: Vec<Connection> = (0..free - 5).map(|_| daemon.connect()).collect();
    for client in &mut crowd {
        client.send(get(EMPTY, "/"));
    }
    daemon.signal("CONT");
    for client in &mut crowd {
        assert_eq!(client.expect_answer().status(), 403);
    }
}
