//! Stopping: what is open is finished, what is idle is closed, nobody new is taken in, and a second
//! signal does not wait.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::overload::{EMPTY, short_of_files};
use crate::script::Connection;
use crate::service::Hanging;
use crate::tunnel::tunnelled;

#[test]
fn daemon_with_nothing_open_stops_at_once() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Setup::new().start();
        let began = Instant::now();
        daemon.signal(signal);
        daemon.expect_clean_exit();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{signal}: there was nothing to wait for: {took:?}");
    }
}

/// Waits until the daemon takes in nobody new.
#[track_caller]
fn expect_refusing(daemon: &Daemon) {
    eventually("new connections are refused", || TcpStream::connect(daemon.address()).is_err());
}

#[test]
fn an_open_exchange_is_finished() {
    let backend = Backend::new();
    let mut daemon = Setup::new().set("shards", 2).rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.terminate();
    expect_refusing(&daemon);
    client.expect_nothing_more();
    server.send(ok("finished"));
    let answer = client.expect_answer();
    assert_eq!(answer.text(), "finished");
    assert!(answer.head.says_close(), "{:#?}", answer.head);
    client.expect_close();
    daemon.expect_clean_exit();
}

#[test]
fn an_answer_that_has_begun_is_finished() {
    let backend = Backend::new();
    let mut daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.expect_status(200);
    client.expect_body("hello");
    daemon.terminate();
    expect_refusing(&daemon);
    server.send("world");
    client.expect_body("world");
    client.expect_close();
    daemon.expect_clean_exit();
}

#[test]
fn an_upload_that_has_begun_is_finished() {
    let backend = Backend::new();
    let mut daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhello",
    );
    server.expect_body("hello");
    daemon.terminate();
    expect_refusing(&daemon);
    client.send("world");
    server.expect_body("world");
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    client.expect_close();
    daemon.expect_clean_exit();
}

#[test]
fn idle_connections_are_closed() {
    let backend = Backend::new();
    let mut daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut idle = daemon.connect();
    assert_eq!(idle.exchange(get("empty.com", "/")).status(), 403);
    let mut silent = daemon.connect();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.terminate();
    idle.expect_close();
    silent.expect_end();
    server.send(ok("still served"));
    assert_eq!(client.expect_answer().text(), "still served");
    daemon.expect_clean_exit();
    server.expect_end();
}

#[test]
fn a_head_that_has_begun_is_answered() {
    let mut daemon = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])).start();
    let mut client = daemon.connect();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    client.send("GET / HTTP/1.1\r\n");
    // answered on the same shard after that: the half head has been received
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    daemon.terminate();
    expect_refusing(&daemon);
    client.send("Host: a.com\r\n\r\n");
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (403, true));
    client.expect_close();
    daemon.expect_clean_exit();
}

#[test]
fn drain_has_an_end() {
    let backend = Backend::new();
    let mut daemon =
        Setup::new().set("timeout_drain", "400ms").rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let began = Instant::now();
    daemon.terminate();
    client.read_to_end();
    server.expect_end();
    daemon.expect_clean_exit();
    let took = began.elapsed();
    let between = Duration::from_millis(320)..Duration::from_secs(5);
    assert!(between.contains(&took), "{took:?}, not about 400 ms");
}

#[test]
fn a_second_signal_does_not_wait() {
    let backend = Backend::new();
    let mut daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.terminate();
    expect_refusing(&daemon);
    client.expect_nothing_more();
    let began = Instant::now();
    daemon.terminate();
    daemon.expect_clean_exit();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (bytes, _ending) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 50"), "no answer is made up");
    server.expect_end();
}

#[test]
fn a_tunnel_ends_with_the_drain() {
    let backend = Backend::new();
    let mut daemon =
        Setup::new().set("timeout_drain", "400ms").rule("a.com", backend.rule()).start();
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    client.send("open");
    server.expect_body("open");
    daemon.terminate();
    client.expect_end();
    server.expect_end();
    daemon.expect_clean_exit();
}

/// What came before the signal is answered: on connections that only the kernel knows of, on those
/// that are new here, on those that were idle.
#[test]
fn client_that_came_before_the_signal_is_served() {
    let mut daemon = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])).start();
    let mut clients: Vec<Connection> = (0..20).map(|_| daemon.connect()).collect();
    for idle in &mut clients[..10] {
        assert_eq!(idle.exchange(get("a.com", "/")).status(), 403);
    }
    // its shard hears of all of it in the same moment
    let hanging = Hanging::thread(&daemon, "shard-0");
    clients.extend((0..50).map(|_| daemon.connect()));
    for client in &mut clients {
        client.send(get("a.com", "/"));
    }
    daemon.terminate();
    daemon.expect_log(&["SIGTERM: stopping"]);
    // control does one thing after the other: when it has answered, the shard has been told
    daemon.api().get("/hostname/");
    drop(hanging);
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 403);
        client.expect_close();
    }
    daemon.expect_clean_exit();
}

/// Those as well that nobody has taken in yet, because there was no descriptor for them.
#[test]
fn client_that_waits_to_be_accepted_is_served() {
    let mut daemon = short_of_files().start();
    let mut crowd: Vec<Connection> = (0..daemon.free_files()).map(|_| daemon.connect()).collect();
    for client in &mut crowd {
        assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403);
    }
    assert_eq!(daemon.free_files(), 0);
    let hanging = Hanging::thread(&daemon, "shard-0");
    let mut waiting: Vec<Connection> = (0..10).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.send(get(EMPTY, "/"));
    }
    drop(crowd);
    daemon.terminate();
    daemon.expect_log(&["SIGTERM: stopping"]);
    drop(hanging);
    for client in &mut waiting {
        assert_eq!(client.expect_answer().status(), 403);
        client.expect_close();
    }
    daemon.expect_clean_exit();
}

/// Each listener has to hear of it: the second one once did not.
#[test]
fn several_addresses_are_all_let_go() {
    let mut daemon = Setup::new().internal().set("shards", 2).start();
    daemon.terminate();
    daemon.expect_clean_exit();
}
