//! Clients whose receives go on by themselves: small requests, then large ones on the same
//! connection, and back. Every byte has its place, so none can be lost, doubled or swapped.

use crate::backend::Backend;
use crate::daemon::Daemon;
use crate::message::{assert_same, chunk, get, ok};
use crate::script::Connection;

/// Requests without a body that make a habit.
const SMALL: usize = 8;

/// Bytes of which no two places that a fault could swap are the same.
fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn head(target: &str, framing: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n")
}

fn small_ones(client: &mut Connection, server: &mut Connection, name: &str) {
    for n in 0..SMALL {
        let target = format!("/{name}/{n}");
        client.send(get("a.com", &target));
        server.expect_request(&format!("GET {target} HTTP/1.1"));
        server.send(ok(&target));
        assert_eq!(client.expect_answer().text(), target);
    }
}

/// A connection of a client that has made small requests, and the backend's.
fn habit(daemon: &Daemon, backend: &Backend) -> (Connection, Connection) {
    let mut client = daemon.connect();
    client.send(get("a.com", "/first"));
    let mut server = backend.accept();
    server.expect_request("GET /first HTTP/1.1");
    server.send(ok("first"));
    assert_eq!(client.expect_answer().text(), "first");
    small_ones(&mut client, &mut server, "before");
    (client, server)
}

#[test]
fn large_upload_after_small_requests_is_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = habit(&daemon, &backend);
    for count in [20_000, 33_000, 70_000, 5_000_000] {
        let body = pattern(count);
        let mut sender = Connection::new("sender", client.sender());
        // A request behind the body is not part of it.
        let whole = [
            head("/up", &format!("Content-Length: {count}")).as_bytes(),
            &body,
            get("a.com", "/behind").as_bytes(),
        ]
        .concat();
        let writer = std::thread::spawn(move || sender.send(whole));
        server.expect_request("POST /up HTTP/1.1");
        assert_same("the body", &body, &server.read_exactly(count));
        server.send(ok("up"));
        server.expect_request("GET /behind HTTP/1.1");
        server.send(ok("behind"));
        writer.join().expect("the sender");
        assert_eq!(client.expect_answer().text(), "up");
        assert_eq!(client.expect_answer().text(), "behind");
        small_ones(&mut client, &mut server, "after");
    }
}

#[test]
fn chunked_upload_after_small_requests_is_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = habit(&daemon, &backend);
    for (size, count) in [(100, 50), (20_000, 20), (200_000, 10)] {
        let body = pattern(size * count);
        let chunks: Vec<u8> = body.chunks(size).flat_map(chunk).collect();
        let mut sender = Connection::new("sender", client.sender());
        let whole =
            [head("/up", "Transfer-Encoding: chunked").as_bytes(), &chunks, b"0\r\n\r\n"].concat();
        let writer = std::thread::spawn(move || sender.send(whole));
        server.expect_request("POST /up HTTP/1.1");
        assert_same("the data", &body, &server.expect_chunked().data);
        server.send(ok("up"));
        writer.join().expect("the sender");
        assert_eq!(client.expect_answer().text(), "up");
        small_ones(&mut client, &mut server, "after");
    }
}

/// A client that sends much more than its turn allows, while its first request waits.
#[test]
fn requests_that_wait_their_turn_are_all_answered() {
    const COUNT: usize = 20_000;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = habit(&daemon, &backend);
    let mut sender = Connection::new("sender", client.sender());
    let writer = std::thread::spawn(move || {
        sender.send((0..COUNT).map(|n| get("a.com", &format!("/{n}"))).collect::<String>());
    });
    let reader = std::thread::spawn(move || {
        for n in 0..COUNT {
            assert_eq!(client.expect_answer().text(), n.to_string());
        }
        client.expect_nothing_more();
    });
    for n in 0..COUNT {
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.send(ok(n.to_string()));
    }
    writer.join().expect("the sender");
    reader.join().expect("the reader");
}

/// Large responses to a client whose next request is there already.
#[test]
fn large_response_between_small_requests_is_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = habit(&daemon, &backend);
    for count in [20_000, 40_000, 3_000_000] {
        let body = pattern(count);
        client.send(get("a.com", "/large") + &get("a.com", "/behind"));
        server.expect_request("GET /large HTTP/1.1");
        let mut sender = Connection::new("sender", server.sender());
        let answer = ok(&body);
        let writer = std::thread::spawn(move || sender.send(answer));
        assert_same("the body", &body, &client.expect_answer().body);
        writer.join().expect("the sender");
        server.expect_request("GET /behind HTTP/1.1");
        server.send(ok("behind"));
        assert_eq!(client.expect_answer().text(), "behind");
        small_ones(&mut client, &mut server, "after");
    }
}
