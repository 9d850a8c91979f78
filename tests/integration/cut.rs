//! Answers and tunnels that are cut off: what was received arrives, and the end looks like what it
//! was.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use serde_json::json;

use crate::backend::Backend;
use crate::bulk::{MIB, bytes_at, expect_plain, send_plain};
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::message::{get, ok};
use crate::script::{Connection, Ending};
use crate::tunnel::tunnelled;

/// More than the kernel holds for a client that does not read, and less than it and the daemon do.
const RECEIVED: usize = 1_000_000;

/// Less than the kernel takes for a client that does not read, and more than that client's own
/// buffer.
const WAITING: usize = 100_000;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum End {
    Close,
    Reset,
    Silence,
}

/// A client that reads slowly has asked, and the backend has answered with `head` and `RECEIVED`
/// bytes of a body before it ended so.
#[track_caller]
fn cut_off(daemon: &Daemon, backend: &Backend, version: &str, head: &str, end: End) -> Connection {
    let mut client = Connection::client_with_small_buffer(daemon.address());
    client.send(format!("GET / {version}\r\nHost: a.com\r\n\r\n"));
    let mut server = backend.accept();
    server.expect_head();
    let chunked = head.contains("chunked");
    server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
    if chunked {
        server.send(format!("{:x}\r\n", 2 * RECEIVED));
    }
    let mut stream = server.sender();
    let sending = std::thread::spawn(move || send_plain(&mut stream, 0, RECEIVED));
    client.expect_status(200);
    if chunked && version == "HTTP/1.1" {
        client.expect_line();
    }
    // half of it, so that all has left the backend before it ends
    expect_plain(&mut client, 0, RECEIVED / 2);
    sending.join().expect("the sending thread").expect("the daemon takes it");
    match end {
        End::Close => drop(server),
        End::Reset => {
            // A reset takes what has not been received.
            server.wait_until_acknowledged();
            server.reset();
        }
        End::Silence => std::mem::forget(server),
    }
    client
}

/// Where a length or chunks show it, a clean end is enough; where nothing does, a reset comes
/// behind all that was received.
#[test]
fn cut_answer_delivers_what_was_received() {
    let backend = Backend::new();
    for end in [End::Close, End::Reset, End::Silence] {
        let daemon = Setup::new()
            .rule("a.com", backend.rule())
            .set("timeout_server", if end == End::Silence { "1s" } else { "60s" })
            .start();
        for (version, head, ending) in [
            ("HTTP/1.1", "Content-Length: 2000000\r\n", Ending::Closed),
            ("HTTP/1.1", "Transfer-Encoding: chunked\r\n", Ending::Closed),
            ("HTTP/1.0", "Content-Length: 2000000\r\n", Ending::Closed),
            ("HTTP/1.0", "Transfer-Encoding: chunked\r\n", Ending::Reset),
            ("HTTP/1.1", "", Ending::Reset),
        ] {
            if head.is_empty() && end == End::Close {
                continue;
            }
            let mut client = cut_off(&daemon, &backend, version, head, end);
            expect_plain(&mut client, RECEIVED / 2, RECEIVED);
            let found = client.expect_end();
            assert_eq!(found, ending, "{version}, {head:?}, {end:?}");
        }
    }
}

/// A request that nobody will answer any more lies behind a broken answer: what came before it
/// arrives.
#[test]
fn broken_answer_leaves_complete_ones_before_it() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for (head, ending) in [
        ("Content-Length: 10\r\n", Ending::Closed),
        ("Transfer-Encoding: chunked\r\n", Ending::Closed),
        ("", Ending::Reset),
    ] {
        let mut client = Connection::client_with_small_buffer(daemon.address());
        client.send([get("a.com", "/1"), get("a.com", "/2"), get("a.com", "/3")].concat());
        let mut server = backend.accept();
        server.expect_request("GET /1 HTTP/1.1");
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {WAITING}\r\n\r\n"));
        server.send(bytes_at(0, WAITING));
        server.expect_request("GET /2 HTTP/1.1");
        server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n3\r\nab"));
        server.wait_until_acknowledged();
        server.reset();
        // Nothing is read before it is over for the daemon.
        let mut api = daemon.api();
        eventually("the second answer is broken", || {
            api.get("/stats/a.com/")["open_requests"] == json!(0)
        });
        client.expect_status(200);
        expect_plain(&mut client, 0, WAITING);
        client.expect_status(200);
        let (rest, found) = client.read_to_end();
        assert_eq!((rest, found), (b"3\r\nab".to_vec(), ending), "{head:?}");
    }
}

/// Bytes of an upload are wrong while the answer is on its way already.
#[test]
fn answer_cut_off_by_its_upload_delivers_what_was_received() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let upload = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nup\r\n";
    for (head, ending) in [("Content-Length: 10\r\n", Ending::Closed), ("", Ending::Reset)] {
        let (mut client, mut server) = asked_for(&daemon, &backend, upload);
        server.expect_body("2\r\nup\r\n");
        server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\nhello"));
        client.expect_status(200);
        client.expect_body("hello");
        client.send("?\r\n");
        let found = client.expect_end();
        assert_eq!(found, ending, "{head:?}");
        server.expect_end();
    }
}

/// The last piece of an upload is not lost because its answer was there before it had been taken.
#[test]
fn tail_of_an_upload_behind_its_answer_arrives() {
    const TAIL: usize = 8 * MIB;
    for (head, answer) in [
        ("Transfer-Encoding: chunked\r\n", ok("early")),
        ("Content-Length: 8388608\r\n", ok("early")),
        (
            "Content-Length: 8388608\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly".to_vec(),
        ),
    ] {
        let backend = Backend::with_small_buffer();
        let daemon = Daemon::proxying(backend.rule());
        let request = format!("POST / HTTP/1.1\r\nHost: a.com\r\n{head}\r\n");
        let (mut client, mut server) = asked_for(&daemon, &backend, request);
        let chunked = head.contains("chunked");
        let closes = answer.windows(5).any(|word| word == b"close");
        let mut stream = client.sender();
        // With what the kernels take, all but the end of it is on its way when the backend begins
        // to read.
        let sending = std::thread::spawn(move || {
            for from in (0..TAIL).step_by(64 * 1024) {
                if chunked {
                    stream.write_all(b"10000\r\n")?;
                }
                stream.write_all(bytes_at(from, 64 * 1024))?;
                if chunked {
                    stream.write_all(b"\r\n")?;
                }
            }
            if chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
        });
        let read = |server: &mut Connection, from: usize, to: usize| {
            for from in (from..to).step_by(64 * 1024) {
                if chunked {
                    server.expect_body("10000\r\n");
                }
                expect_plain(server, from, from + 64 * 1024);
                if chunked {
                    server.expect_body("\r\n");
                }
            }
        };
        if closes {
            // All is sent, though not all read: one that closes is not waited for before.
            read(&mut server, 0, TAIL - 3 * 64 * 1024);
            sending.join().expect("the sending thread").expect("everything was taken");
            server.send(&answer);
            assert_eq!(client.expect_answer().text(), "early");
            read(&mut server, TAIL - 3 * 64 * 1024, TAIL);
            continue;
        }
        server.send(&answer);
        assert_eq!(client.expect_answer().text(), "early");
        read(&mut server, 0, TAIL);
        sending.join().expect("the sending thread").expect("everything was taken");
        if chunked {
            server.expect_body("0\r\n\r\n");
        }
        client.send(get("a.com", "/next"));
        server.expect_request("GET /next HTTP/1.1");
        server.send(ok("next"));
        assert_eq!(client.expect_answer().text(), "next");
    }
}

/// A raw connection of `db.com` and its far end.
#[track_caller]
fn raw(daemon: &Daemon, backend: &Backend) -> (Connection, Connection) {
    let mut client = Connection::client(daemon.raw_address("TCP"));
    client.send("hello");
    let mut server = backend.accept();
    server.expect_body("hello");
    (client, server)
}

/// Sends until what is on its way takes no more.
fn fill(from: &Connection, piece: usize) {
    let (stream, block) = (from.sender(), vec![b'x'; piece]);
    let mut stalls = 0;
    while stalls < 20 {
        let sent = rustix::net::send(&stream, &block, SendFlags::DONTWAIT);
        stalls = if sent.is_ok() { 0 } else { stalls + 1 };
        // Few at a time are copied only if they come one by one.
        std::thread::park_timeout(Duration::from_micros(if sent.is_ok() { 1 } else { 1000 }));
    }
}

/// Opens a connection through the daemon, from client to backend.
type Opening = fn(&Daemon, &Backend) -> (Connection, Connection);

/// Runs `act` with the ends of raw connections and tunnels, each end once as the one that leaves.
fn for_each_tunnel(act: impl Fn(&Daemon, Connection, Connection, &str)) {
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("db.com", backend.rule())
        .add("bind_tcp", "127.0.0.1:0 db.com")
        .start();
    let openings: [(Opening, &str); 2] = [(tunnelled, "a.com"), (raw, "db.com")];
    for (open, host) in openings {
        let (client, server) = open(&daemon, &backend);
        act(&daemon, client, server, host);
        let (client, server) = open(&daemon, &backend);
        act(&daemon, server, client, host);
    }
}

/// One side takes nothing of what the other says, and resets: nobody there takes that for an end.
#[test]
fn reset_of_a_side_that_does_not_read_looks_like_one() {
    for pieces in [(4000, 100), (65_536, 100), (4000, MIB), (65_536, MIB)] {
        for_each_tunnel(|_, left, mut stays, host| {
            fill(&stays, pieces.0);
            let mut up = left.sender();
            let sending = std::thread::spawn(move || up.write_all(&vec![b'x'; pieces.1]));
            stays.read_exactly(pieces.1);
            sending.join().expect("the sending thread").expect("all is taken");
            left.reset();
            let (_, ending) = stays.read_to_end();
            assert_eq!(ending, Ending::Reset, "{host}, pieces of {pieces:?}");
        });
    }
}

/// A reset that a send is told of leaves nothing to wait for: what the kernel still holds for the
/// client can't arrive any more.
#[test]
fn reset_of_a_client_that_does_not_read_ends_its_request_at_once() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule()).rule("db.com", backend.rule());
    let daemon = setup.add("bind_tcp", "127.0.0.1:0 db.com").start();
    let mut api = daemon.api();
    let openings: [(Opening, &str); 2] = [(tunnelled, "a.com"), (raw, "db.com")];
    for (open, host) in openings {
        for (n, piece) in (1..).zip([4000, 65_536]) {
            let (client, server) = open(&daemon, &backend);
            fill(&server, piece);
            let reset = Instant::now();
            client.reset();
            api.counted(host, n);
            let took = reset.elapsed();
            assert!(took < Duration::from_secs(4), "{host}, pieces of {piece}: {took:?}");
        }
    }
}

/// The kernel tells of a reset once: here to a send in the other direction, while bytes of the side
/// that reset are still to be passed on. The end behind them is none.
#[test]
fn reset_told_to_the_other_direction_looks_like_one() {
    for piece in [4000, 65_536] {
        for_each_tunnel(|daemon, left, mut stays, host| {
            let mut api = daemon.api();
            let mut moved = || {
                let found = api.get(&format!("/stats/{host}/"));
                ["bytes_sent", "bytes_received"].map(|name| found[name].as_u64().unwrap_or(0))
            };
            fill(&left, piece);
            left.reset();
            let before = moved();
            stays.send("too late");
            eventually("it is passed on", || moved() != before);
            let (_, ending) = stays.read_to_end();
            assert_eq!(ending, Ending::Reset, "{host}, pieces of {piece}");
        });
    }
}

/// A task that panics cuts its tunnel off, on both sides.
#[test]
fn tunnel_that_panics_looks_cut_off_to_its_backend() {
    if !cfg!(debug_assertions) {
        return;
    }
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule());
    let mut daemon = setup.first("export MANTRID_PANIC=xx-panic-xx").start();
    daemon.may_panic = true;
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    client.send("xx-panic-xx");
    assert_eq!(server.read_to_end().1, Ending::Reset);
    assert_eq!(client.read_to_end().1, Ending::Reset);
    eventually("it is told", || daemon.log.text().contains("panicked"));
}
