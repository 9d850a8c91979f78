//! An upgrade on a request with a body (`docker exec` is one): the 101 is taken once the body is
//! through, and no byte of one is taken for the other. And interim answers in any number.

use crate::backend::Backend;
use crate::daemon::{Daemon, asked, asked_for};
use crate::message::{get, ok};
use crate::script::Connection;

const SWITCHING: &str = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

fn request(framing: &str) -> String {
    format!(
        "POST /exec/1/start HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{framing}\r\n\r\n"
    )
}

struct Scene {
    _daemon: Daemon,
    backend: Backend,
    client: Connection,
    server: Connection,
}

/// The head with the first part of a body has arrived at the backend.
#[track_caller]
fn begun(framing: &str, first: &str) -> Scene {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(request(framing) + first);
    let mut server = backend.accept();
    let head = server.expect_request("POST /exec/1/start HTTP/1.1");
    assert_eq!((head.field("Upgrade"), head.field("Connection")), (Some("tcp"), Some("upgrade")));
    server.expect_body(first);
    Scene { _daemon: daemon, backend, client, server }
}

#[track_caller]
fn expect_tunnel(client: &mut Connection, server: &mut Connection) {
    let head = client.expect_status(101);
    assert_eq!(head.field("Upgrade"), Some("tcp"));
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\n\r\n");
        server.expect_body("GET / HTTP/1.1\r\n\r\n");
        server.send("0\r\n\r\n");
        client.expect_body("0\r\n\r\n");
    }
}

#[test]
fn a_body_that_came_whole_is_followed_by_the_tunnel() {
    for (framing, body) in
        [("Content-Length: 4", "{  }"), ("Transfer-Encoding: chunked", "4\r\n{  }\r\n0\r\n\r\n")]
    {
        let Scene { _daemon, mut client, mut server, .. } = begun(framing, body);
        server.send(SWITCHING);
        expect_tunnel(&mut client, &mut server);
    }
}

#[test]
fn a_body_in_pieces_is_followed_by_the_tunnel() {
    for (framing, first, rest) in [
        ("Content-Length: 8", "{  }", "more"),
        ("Transfer-Encoding: chunked", "4\r\n{  }\r\n", "4\r\nmore\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ] {
        let Scene { _daemon, mut client, mut server, .. } = begun(framing, first);
        client.send(rest);
        server.expect_body(rest);
        server.send(SWITCHING);
        expect_tunnel(&mut client, &mut server);
    }
}

#[test]
fn an_early_101_waits_for_the_rest_of_the_body() {
    let Scene { _daemon, mut client, mut server, .. } = begun("Content-Length: 8", "{  }");
    // the first bytes of the tunnel travel with it
    server.send(format!("{SWITCHING}hello"));
    client.expect_nothing_more();
    // what follows the body belongs to the tunnel
    client.send("mo");
    server.expect_body("mo");
    client.expect_nothing_more();
    client.send("rebehind");
    server.expect_body("rebehind");
    client.expect_status(101);
    client.expect_body("hello");
    client.send("on");
    server.expect_body("on");
}

#[test]
fn an_early_101_to_a_body_that_breaks_opens_nothing() {
    let Scene { _daemon, mut client, mut server, .. } =
        begun("Transfer-Encoding: chunked", "4\r\n{  }\r\n");
    server.send(SWITCHING);
    client.send("x\r\n");
    client.expect_status(400);
    server.expect_end();
    let Scene { _daemon, client, mut server, .. } = begun("Content-Length: 8", "{  }");
    server.send(SWITCHING);
    drop(client);
    server.expect_end();
}

#[test]
fn an_early_101_of_a_backend_that_takes_no_more_is_a_502() {
    let Scene { _daemon, mut client, mut server, .. } = begun("Content-Length: 4000000", "{  }");
    server.send(SWITCHING);
    server.reset();
    let mut stream = client.sender();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        // as much as is taken
        drop(stream.write_all(&vec![b'x'; 3_000_000]));
    });
    let head = client.try_head().expect("an answer");
    assert!([502, 504].contains(&head.status()), "{head:?}");
    drop(client);
    drop(sending.join());
}

#[test]
fn an_upgrade_that_is_declined_is_followed_by_requests() {
    let Scene { _daemon, mut client, mut server, backend } = begun("Content-Length: 4", "body");
    client.send(get("a.com", "/next"));
    server.expect_nothing_more();
    server.send(ok("one"));
    assert_eq!(client.expect_answer().text(), "one");
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("two"));
    assert_eq!(client.expect_answer().text(), "two");
    backend.expect_no_connection();
}

#[test]
fn another_version_of_http_is_not_offered_with_a_body() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAA\r\nContent-Length: 4\r\n\r\nbody",
    );
    let mut server = backend.accept();
    let head = server.expect_head();
    assert_eq!((head.field("Upgrade"), head.field("HTTP2-Settings")), (None, None));
    server.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n");
    client.expect_status(502);
}

/// Rails sends a 103 for each asset.
#[test]
fn interim_answers_come_in_any_number() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    server.send(hints.repeat(1000) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for _ in 0..1000 {
        client.expect_status(103);
    }
    assert_eq!(client.expect_answer().text(), "ok");
    let mut old = daemon.connect();
    old.send("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    server.expect_head();
    server.send(hints.repeat(100) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(old.expect_answer().text(), "ok");
}

#[test]
fn interim_answers_without_end_are_a_502() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, server) =
        asked_for(&daemon, &backend, "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    let long = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "a".repeat(8000));
    let mut stream = server.sender();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        // until the daemon has seen enough
        while stream.write_all(long.as_bytes()).is_ok() {}
    });
    client.expect_answer().expect_status(502);
    sending.join().expect("the backend is closed on");
}
