//! A million chunks of one byte each, in both directions: the same bytes arrive, memory stays as it
//! was, one chunk costs little, and others are served meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::backend::Backend;
use crate::bulk::MIB;
use crate::daemon::{Daemon, Setup, asked_for};
use crate::message::{get, ok};
use crate::script::Connection;

const COUNT: usize = 1_000_000;
const CHUNK: &[u8] = b"1\r\nx\r\n";
const END: &[u8] = b"0\r\n\r\n";

/// Of a build without optimisation, on a machine that runs other tests.
const EACH_MOST: Duration = Duration::from_micros(20);

fn setup() -> Setup {
    Setup::new().rule("empty.com", json!(["empty", { "code": 403 }, false]))
}

/// The wire's bytes of a body of `count` such chunks, in pieces that end anywhere.
fn send_body(connection: &Connection, count: usize) -> std::thread::JoinHandle<()> {
    let mut stream = connection.sender();
    std::thread::spawn(move || {
        use std::io::Write;
        let block = CHUNK.repeat(10_007);
        let mut left = count * CHUNK.len();
        while 0 < left {
            let piece = &block[..left.min(block.len())];
            stream.write_all(piece).expect("the body is taken");
            left -= piece.len();
        }
        stream.write_all(END).expect("the body is taken");
    })
}

/// Reads such a body, unchanged.
#[track_caller]
fn expect_body(connection: &mut Connection, count: usize) {
    let mut room = vec![0; 65536];
    let expected = CHUNK.repeat(room.len() / CHUNK.len() + 2);
    let (mut at, total) = (0, count * CHUNK.len());
    while at < total {
        let most = room.len().min(total - at);
        let found = connection.read_some(&mut room[..most]);
        let start = at % CHUNK.len();
        assert!(room[..found] == expected[start..start + found], "other bytes at {at}");
        at += found;
    }
    connection.expect_body(END);
}

/// What it cost, and that others did not pay for it.
struct Cost {
    resident: u64,
    used: Duration,
}

impl Cost {
    fn of(daemon: &Daemon) -> Cost {
        Cost { resident: daemon.resident_bytes(), used: daemon.cpu_time() }
    }

    #[track_caller]
    fn expect_little(self, daemon: &Daemon) {
        let grown = daemon.resident_bytes().saturating_sub(self.resident);
        assert!(grown < 8 * MIB as u64, "{grown} bytes more than before");
        let used = daemon.cpu_time() - self.used;
        assert!(used < EACH_MOST * COUNT as u32, "{used:?} for {COUNT} chunks");
    }
}

/// Serves others while `done` is not yet true.
#[track_caller]
fn serve_meanwhile(daemon: &Daemon, done: impl Fn() -> bool) -> usize {
    let mut others = 0;
    while !done() {
        assert_eq!(daemon.connect().exchange(get("empty.com", "/")).status(), 403);
        others += 1;
    }
    others
}

#[test]
fn upload_in_tiny_chunks_arrives_whole() {
    let backend = Backend::new();
    let daemon = setup().rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    let cost = Cost::of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = send_body(&client, COUNT);
    let mut server = backend.accept();
    server.expect_head();
    let receiving = std::thread::spawn(move || {
        expect_body(&mut server, COUNT);
        server
    });
    let others = serve_meanwhile(&daemon, || receiving.is_finished());
    let mut server = receiving.join().expect("the body as it was sent");
    sending.join().expect("the body is sent");
    assert!(0 < others);
    cost.expect_little(&daemon);
    server.send(ok("counted"));
    assert_eq!(client.expect_answer().text(), "counted");
    // still framed right: what follows is the next request
    client.send(get("a.com", "/next"));
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("next"));
    assert_eq!(client.expect_answer().text(), "next");
}

#[test]
fn response_in_tiny_chunks_arrives_whole() {
    let backend = Backend::new();
    let daemon = setup().rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    let cost = Cost::of(&daemon);
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = send_body(&server, COUNT);
    client.expect_status(200);
    let receiving = std::thread::spawn(move || {
        expect_body(&mut client, COUNT);
        client
    });
    let others = serve_meanwhile(&daemon, || receiving.is_finished());
    let mut client = receiving.join().expect("the body as it was sent");
    sending.join().expect("the body is sent");
    assert!(0 < others);
    cost.expect_little(&daemon);
    client.send(get("a.com", "/next"));
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("next"));
    assert_eq!(client.expect_answer().text(), "next");
}

/// To a client of HTTP/1.0, which gets the data alone.
#[test]
fn tiny_chunks_are_decoded_for_old_clients() {
    let backend = Backend::new();
    let daemon = setup().rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    let cost = Cost::of(&daemon);
    client.send("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = send_body(&server, COUNT);
    let answer = client.expect_answer();
    sending.join().expect("the body is sent");
    assert_eq!(answer.status(), 200);
    assert!(answer.body == vec![b'x'; COUNT], "{} bytes", answer.body.len());
    cost.expect_little(&daemon);
}

/// Each in a segment of its own: nothing is put together that the sender did not send together.
#[test]
fn tiny_chunks_in_a_segment_each_arrive_whole() {
    const SEGMENTS: usize = 50_000;
    let backend = Backend::new();
    let daemon = setup().rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let cost = Cost::of(&daemon);
    let mut stream = client.sender();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        for _ in 0..SEGMENTS {
            stream.write_all(CHUNK).expect("the body is taken");
        }
        stream.write_all(END).expect("the body is taken");
    });
    expect_body(&mut server, SEGMENTS);
    sending.join().expect("the body is sent");
    cost.expect_little(&daemon);
    server.send(ok("counted"));
    assert_eq!(client.expect_answer().text(), "counted");
}
