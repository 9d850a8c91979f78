//! What happens when someone is slow: each timeout, who is told what, and when. These tests measure
//! time because time is their subject; each waits for the event that ends it.

use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::backend::{Backend, rule_for};
use crate::daemon::{Setup, asked, asked_for};
use crate::message::{get, ok, show};
use crate::script::{Connection, Ending, find};
use crate::tunnel::tunnelled;

/// The time from `began` to now is about `expected`: timers may be coarse, machines busy.
#[track_caller]
pub fn expect_about(expected: Duration, began: Instant) {
    let took = began.elapsed();
    let between = expected.mul_f32(0.8)..expected + Duration::from_secs(4);
    assert!(between.contains(&took), "it took {took:?}, not about {expected:?}");
}

fn with(key: &str, milliseconds: u64) -> (Setup, Duration) {
    let setup = Setup::new().set(key, format!("{milliseconds}ms"));
    (setup, Duration::from_millis(milliseconds))
}

const HEAD: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n";

#[test]
fn timeout_http_request_ends_half_a_head() {
    let (setup, time) = with("timeout_http_request", 300);
    let daemon = setup.start();
    let began = Instant::now();
    let mut client = daemon.connect();
    client.send(HEAD);
    let answer = client.expect_answer();
    expect_about(time, began);
    assert_eq!((answer.status(), answer.head.says_close()), (408, true));
    client.expect_end();
}

#[test]
fn timeout_http_request_is_for_the_whole_head() {
    let (setup, time) = with("timeout_http_request", 600);
    let daemon = setup.start();
    let began = Instant::now();
    let mut client = daemon.connect();
    let mut sent = 0;
    // a byte every 50 ms would keep a timeout between two reads from ever coming
    while client.try_send(&HEAD[sent..=sent]).is_ok() {
        sent += 1;
        if client.came_within(Duration::from_millis(50)) {
            break;
        }
        assert!(sent < HEAD.len(), "the head was finished in {:?}", began.elapsed());
    }
    assert_eq!(client.expect_answer().status(), 408);
    expect_about(time, began);
}

#[test]
fn timeout_http_request_ends_a_silent_connection() {
    let (setup, time) = with("timeout_http_request", 300);
    let daemon = setup.start();
    let began = Instant::now();
    let mut client = daemon.connect();
    // told or not, a connection that never asks anything is closed
    let (bytes, _ending) = client.read_to_end();
    expect_about(time, began);
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 "), "{}", show(&bytes));
}

#[test]
fn timeout_http_request_holds_after_a_first_request() {
    let (setup, time) = with("timeout_http_request", 300);
    let daemon = setup.rule("a.com", json!(["empty", { "code": 204 }, false])).start();
    let mut client = daemon.connect();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 204);
    // idle for longer than that: another timeout's matter
    client.expect_nothing_within(time * 2);
    let began = Instant::now();
    client.send(HEAD);
    assert_eq!(client.expect_answer().status(), 408);
    expect_about(time, began);
}

#[test]
fn timeout_http_keep_alive_ends_an_idle_connection() {
    let (setup, time) = with("timeout_http_keep_alive", 300);
    let daemon = setup.rule("a.com", json!(["empty", { "code": 204 }, false])).start();
    let mut client = daemon.connect();
    let began = Instant::now();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 204);
    client.expect_close();
    expect_about(time, began);
}

#[test]
fn timeout_connect_ends_an_attempt() {
    let (setup, time) = with("timeout_connect", 300);
    let full = FullListener::new();
    let daemon = setup.rule("a.com", rule_for(&[full.port], json!({}))).start();
    let mut client = daemon.connect();
    let began = Instant::now();
    let status = client.exchange(get("a.com", "/")).status();
    expect_about(time, began);
    assert_eq!(status, 502, "a backend that can't be reached");
}

/// A listener whose queue is full: the kernel ignores what else wants to connect.
pub struct FullListener {
    pub port: u16,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl FullListener {
    pub fn new() -> FullListener {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("a queue of one");
        let address = listener.local_addr().expect("its address");
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let full = socket.connect_timeout(&address, Duration::from_millis(200)).is_err();
            queued.push(socket);
            if full {
                break;
            }
        }
        let port = address.as_socket_ipv4().expect("an IPv4 address").port();
        FullListener { port, _listener: listener, _queued: queued }
    }
}

#[test]
fn timeout_server_ends_a_wait_for_a_response() {
    let (setup, time) = with("timeout_server", 300);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    for begun in ["", "HTTP/1.1 200 OK\r\nConte"] {
        let mut client = daemon.connect();
        let began = Instant::now();
        client.send(get("a.com", "/"));
        let mut server = backend.accept();
        server.expect_head();
        server.send(begun);
        assert_eq!(client.expect_answer().status(), 504);
        expect_about(time, began);
        // a late answer must find nobody
        server.expect_end();
    }
}

#[test]
fn timeout_server_ends_a_response_that_stalls() {
    let (setup, time) = with("timeout_server", 1000);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    for (head, part) in [
        ("Content-Length: 10\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("", "hello"),
    ] {
        let (mut client, mut server) = asked(&daemon, &backend);
        let began = Instant::now();
        server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{part}"));
        let until_close =
            client.expect_status(200).framing() == crate::message::Framing::UntilClose;
        let (rest, ending) = client.read_to_end();
        expect_about(time, began);
        assert!(find(&rest, b"0\r\n\r\n").is_none(), "cut off, not ended: {}", show(&rest));
        assert!(!until_close || ending == Ending::Reset, "a cut-off body must not end cleanly");
    }
}

#[test]
fn timeout_server_counts_from_the_last_byte() {
    let (setup, time) = with("timeout_server", 1500);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    client.expect_status(200);
    for byte in ["a", "b", "c", "d", "e", "f"] {
        client.expect_nothing_within(time / 3);
        server.send(byte);
        client.expect_body(byte);
    }
}

#[test]
fn timeout_client_ends_an_upload_that_stalls() {
    let (setup, time) = with("timeout_client", 300);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    let began = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhello");
    let mut server = backend.accept();
    server.expect_head();
    server.expect_body("hello");
    server.expect_end();
    expect_about(time, began);
    let (bytes, _ending) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 "), "{}", show(&bytes));
}

#[test]
fn timeout_client_ends_a_client_that_does_not_read() {
    let (setup, _time) = with("timeout_client", 500);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    let mut client = Connection::client_with_small_buffer(daemon.address());
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    // sends until the daemon has given the client up, and the backend with it
    let block = vec![b'x'; 1 << 20];
    let began = Instant::now();
    while server.try_send(&block).is_ok() {
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "the daemon holds on to a client that stalls"
        );
    }
    expect_about(Duration::from_millis(500), began);
}

#[test]
fn timeout_tunnel_ends_a_silent_tunnel() {
    let (setup, time) = with("timeout_tunnel", 300);
    let backend = Backend::new();
    let daemon = setup.rule("a.com", backend.rule()).start();
    let began = Instant::now();
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    server.expect_end();
    client.expect_end();
    expect_about(time, began);
}

#[test]
fn timeouts_end_nothing_that_goes_well() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("timeout_http_request", "400ms")
        .set("timeout_client", "400ms")
        .set("timeout_server", "10s")
        .rule("a.com", backend.rule())
        .start();
    let (mut client, mut server) = asked(&daemon, &backend);
    // the client has nothing to do but wait: its own timeouts do not run
    client.expect_nothing_within(Duration::from_millis(1000));
    server.send(ok("slow but fine"));
    assert_eq!(client.expect_answer().text(), "slow but fine");
}

/// An upload that pauses while its answer streams, and an answer that pauses while its upload does.
#[test]
fn silence_in_one_direction_counts_only_when_the_other_is_silent_too() {
    let backend = Backend::new();
    let (setup, time) = with("timeout_client", 1500);
    let daemon = setup.set("timeout_server", "1500ms").rule("a.com", backend.rule()).start();
    for (framing, last) in [("Content-Length: 3", "c"), ("Transfer-Encoding: chunked", "0\r\n\r\n")]
    {
        let chunked = last.len() > 1;
        let mut client = daemon.connect();
        let first = if chunked { "1\r\na\r\n" } else { "a" };
        let next = if chunked { "1\r\nb\r\n" } else { "b" };
        client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n{first}"));
        let mut server = backend.accept();
        server.expect_head();
        server.expect_body(first);
        server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.expect_status(200);
        // The upload is silent for longer than its time-out.
        for _ in 0..4 {
            std::thread::park_timeout(time / 3);
            server.send("1\r\nx\r\n");
            client.expect_body("1\r\nx\r\n");
        }
        client.send(next);
        server.expect_body(next);
        server.send("0\r\n\r\n");
        client.expect_body("0\r\n\r\n");
        client.send(last);
        server.expect_body(last);
        server.send("x");
    }
    // Both are silent: it ends.
    let began = Instant::now();
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\na",
    );
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx");
    client.expect_status(200);
    client.read_to_end();
    expect_about(time, began);
}

/// A backend that streams its answer only while it is sent something.
#[test]
fn backend_that_takes_an_upload_is_not_silent() {
    let backend = Backend::new();
    let (setup, time) = with("timeout_server", 1500);
    let daemon = setup.rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\n0",
    );
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx");
    client.expect_status(200);
    for n in 1..5 {
        std::thread::park_timeout(time / 3);
        client.send(n.to_string());
    }
    server.expect_body("01234");
    server.send("y");
    client.expect_body("xy");
}
