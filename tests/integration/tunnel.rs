//! Upgrades: after the backend's 101 the connection carries bytes both ways, and never a byte
//! before.

use crate::backend::Backend;
use crate::daemon::{Daemon, asked_for};
use crate::message::{assert_same, ok};
use crate::script::{Connection, Ending};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct Scene {
    daemon: Daemon,
    backend: Backend,
    client: Connection,
    server: Connection,
}

/// A request for an upgrade has arrived at the backend.
#[track_caller]
fn asked() -> Scene {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(UPGRADE);
    let mut server = backend.accept();
    let head = server.expect_request("GET /chat HTTP/1.1");
    assert_eq!(head.field("Upgrade"), Some("websocket"));
    let connection = head.field("Connection").map(str::to_ascii_lowercase);
    assert_eq!(connection.as_deref(), Some("upgrade"));
    assert_eq!(head.field("Sec-WebSocket-Key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    Scene { daemon, backend, client, server }
}

/// The backend has agreed.
#[track_caller]
fn open() -> Scene {
    let mut scene = asked();
    scene.server.send(SWITCHING);
    let head = scene.client.expect_status(101);
    assert_eq!(head.field("Upgrade"), Some("websocket"));
    let connection = head.field("Connection").map(str::to_ascii_lowercase);
    assert_eq!(connection.as_deref(), Some("upgrade"));
    assert_eq!(head.field("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    scene
}

/// A tunnel of a client that asks for `a.com`, and its far end: for tests of what becomes of one.
#[track_caller]
pub fn tunnelled(daemon: &Daemon, backend: &Backend) -> (Connection, Connection) {
    let (mut client, mut server) = asked_for(daemon, backend, UPGRADE);
    server.send(SWITCHING);
    client.expect_status(101);
    (client, server)
}

#[test]
fn bytes_pass_both_ways() {
    let Scene { daemon: _daemon, mut client, mut server, .. } = open();
    for _ in 0..10 {
        client.send("ping \0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        server.expect_body("ping \0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        server.send("pong \0\n\nHTTP/1.1 200 OK\r\n\r\n");
        client.expect_body("pong \0\n\nHTTP/1.1 200 OK\r\n\r\n");
    }
    // both at the same time, more than any buffer holds
    let block: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut up, mut down) = (client.sender(), server.sender());
    let (first, second) = (block.clone(), block.clone());
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut up, &first));
    let sending_too = std::thread::spawn(move || std::io::Write::write_all(&mut down, &second));
    let expected = block.clone();
    let receiving = std::thread::spawn(move || {
        assert_same("what came up", &expected, &server.read_exactly(expected.len()));
        server
    });
    assert_same("what came down", &block, &client.read_exactly(block.len()));
    let server = receiving.join().expect("the backend's side");
    sending.join().expect("a thread").expect("all sent up");
    sending_too.join().expect("a thread").expect("all sent down");
    drop(server);
    client.expect_end();
}

#[test]
fn nothing_passes_before_the_101() {
    let Scene { daemon: _daemon, mut client, mut server, .. } = asked();
    client.send("early bytes");
    server.expect_nothing_more();
    client.expect_nothing_more();
    server.send(SWITCHING);
    client.expect_status(101);
    server.expect_body("early bytes");
}

#[test]
fn bytes_right_behind_the_101_belong_to_the_tunnel() {
    let Scene { daemon: _daemon, mut client, mut server, .. } = asked();
    server.send(format!("{SWITCHING}first frame"));
    client.expect_status(101);
    client.expect_body("first frame");
    client.send("answer");
    server.expect_body("answer");
}

#[test]
fn a_refused_upgrade_goes_on_as_http() {
    let Scene { daemon: _daemon, backend, mut client, mut server } = asked();
    // a request behind the refused upgrade is a request, not bytes of a tunnel
    client.send("GET /next HTTP/1.1\r\nHost: a.com\r\n\r\n");
    server.expect_nothing_more();
    server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("next"));
    assert_eq!(client.expect_answer().text(), "next");
    backend.expect_no_connection();
}

#[test]
fn ignored_upgrade_goes_on_as_http() {
    let Scene { daemon: _daemon, mut client, mut server, .. } = asked();
    server.send(ok("plain"));
    assert_eq!(client.expect_answer().text(), "plain");
    client.send(UPGRADE);
    server.expect_request("GET /chat HTTP/1.1");
    server.send(SWITCHING);
    client.expect_status(101);
    client.send("now");
    server.expect_body("now");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.com\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let mut client = daemon.connect();
        client.send(request);
        let mut server = backend.accept();
        let head = server.expect_head();
        assert_eq!((head.field("Upgrade"), head.field("Connection")), (None, None), "{request:?}");
        server.send(SWITCHING);
        server.send("not for the client");
        let answer = client.expect_answer();
        assert_eq!(answer.status(), 502, "{request:?}");
        server.expect_end();
    }
}

#[test]
fn a_half_close_passes_through() {
    let Scene { daemon: _daemon, mut client, mut server, .. } = open();
    client.send("last words");
    client.half_close();
    server.expect_body("last words");
    server.expect_close();
    server.send("still here");
    client.expect_body("still here");
    server.send(" and done");
    server.half_close();
    client.expect_body(" and done");
    client.expect_close();
    let Scene { daemon: _daemon, mut client, mut server, .. } = open();
    server.half_close();
    client.expect_close();
    client.send("one way");
    server.expect_body("one way");
}

#[test]
fn a_reset_ends_both_sides() {
    let Scene { daemon: _daemon, client, mut server, .. } = open();
    client.reset();
    server.expect_end();
    let Scene { daemon: _daemon, mut client, server, .. } = open();
    server.reset();
    let ending = client.expect_end();
    assert!(matches!(ending, Ending::Reset | Ending::Closed));
}

#[test]
fn the_connection_is_not_pooled() {
    let Scene { daemon, backend, client, mut server } = open();
    drop(client);
    server.expect_end();
    let mut client = daemon.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let mut fresh = backend.accept();
    fresh.expect_request("GET / HTTP/1.1");
}
