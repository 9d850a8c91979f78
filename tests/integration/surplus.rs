//! Backends that send more than their answer. Every request has a token of its own, every answer
//! says whose it is, and what is behind an answer looks like an answer for somebody else: nobody
//! may get it. Each test is made with a backend on a TCP port, and with one on a Unix socket.

use serde_json::json;

use crate::backend::{Backend, Serving};
use crate::daemon::{Daemon, Setup, asked_for};
use crate::message::{Head, chunk, get, ok};
use crate::script::{Connection, PATIENCE};

/// Bytes of a buffer of the ring: head and body that fill it exactly leave the rest in the kernel.
const BUFFER: usize = 20 * 1024;

/// Requests of each client for each kind of answer.
const TURNS: usize = 12;

/// Small honest answers after which the receive of a backend's connection goes on by itself.
const HONEST: usize = 5;

/// The shapes of an answer, by the first part of the request's path.
const KINDS: [&str; 13] = [
    "small",
    "in-place",
    "buffer",
    "spliced",
    "huge",
    "chunked",
    "chunked-in-place",
    "no-content",
    "not-modified",
    "interim",
    "head",
    "close",
    "upload",
];

fn head_with(status: &str, token: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nX-Token: {token}\r\n{fields}\r\n")
}

fn with_length(token: &str, length: usize, fields: &str) -> Vec<u8> {
    let head = head_with("200 OK", token, &format!("Content-Length: {length}\r\n{fields}"));
    [head.into_bytes(), vec![b'x'; length]].concat()
}

/// A whole answer of this kind.
fn answer(kind: &str, token: &str) -> Vec<u8> {
    match kind {
        "buffer" => {
            let head = with_length(token, 10_000, "").len() - 10_000;
            with_length(token, BUFFER - head, "")
        }
        // Not copied: its head for the client is written in front of it.
        "in-place" => with_length(token, 4000, ""),
        "spliced" => with_length(token, 40_000, ""),
        "huge" => with_length(token, 1_000_000, ""),
        "chunked" | "chunked-in-place" => {
            let head = head_with("200 OK", token, "Transfer-Encoding: chunked\r\n");
            let length = if kind == "chunked" { 4 } else { 4000 };
            [head.into_bytes(), chunk(vec![b'x'; length]), b"0\r\n\r\n".to_vec()].concat()
        }
        "no-content" => head_with("204 No Content", token, "").into_bytes(),
        "not-modified" => head_with("304 Not Modified", token, "Content-Length: 5\r\n").into(),
        "interim" => {
            let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
            [hints, with_length(token, 5, "")].concat()
        }
        "head" => head_with("200 OK", token, "Content-Length: 5\r\n").into_bytes(),
        "close" => with_length(token, 5, "Connection: close\r\n"),
        _ => with_length(token, 5, ""),
    }
}

/// What nobody asked for.
fn surplus() -> Vec<u8> {
    with_length("of-another", 5, "")
}

fn request(host: &str, kind: &str, token: &str) -> String {
    let method = match kind {
        "head" => "HEAD",
        "upload" => "POST",
        _ => "GET",
    };
    let body =
        if kind == "upload" { "Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n" } else { "" };
    format!("{method} /{kind}/{token} HTTP/1.1\r\nHost: {host}\r\n{body}\r\n")
}

#[track_caller]
fn expect_own(client: &mut Connection, kind: &str, token: &str) {
    let mut head = client.expect_head();
    if head.status() == 103 {
        head = client.expect_head();
    }
    assert_eq!(head.field("X-Token"), Some(token), "{kind}: whose answer this is: {head:#?}");
    if kind != "head" {
        match head.framing() {
            crate::message::Framing::Chunked => drop(client.expect_chunked()),
            crate::message::Framing::Length(length) => drop(client.read_exactly(length)),
            _ => {}
        }
    }
}

/// Answers with a surplus in the same piece, unless it is asked for something honest.
fn lying(new: fn() -> Backend) -> Serving {
    new().serve(|head: &Head, server: &mut Connection| {
        let mut parts = head.target()[1..].split('/');
        let (kind, token) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        if kind == "upload" {
            server.expect_chunked();
        }
        let surplus = if kind == "honest" { Vec::new() } else { surplus() };
        drop(server.try_send([answer(kind, token), surplus].concat()));
    })
}

/// Exchanges so many small honest messages that the connection to the backend counts as one of
/// those.
#[track_caller]
fn be_honest(client: &mut Connection, host: &str) {
    for turn in 0..HONEST {
        let token = format!("honest-{turn}");
        client.send(request(host, "honest", &token));
        expect_own(client, "honest", &token);
    }
}

fn daemon_for(backend: &Serving, arguments: serde_json::Value) -> Daemon {
    Setup::new()
        .rule("a.com", backend.rule_with(arguments.clone()))
        .rule("b.com", backend.rule_with(arguments))
        .start()
}

/// Makes each test for both kinds of backends.
macro_rules! for_both {
    ($($name:ident)*) => {
        mod tcp {
            $(#[test] fn $name() { super::$name(super::Backend::new) })*
        }
        mod unix {
            $(#[test] fn $name() { super::$name(super::Backend::unix) })*
        }
    };
}

for_both! {
    pipelined_request_gets_its_own_answer
    client_in_line_for_a_place_gets_its_own_answer
    clients_beside_each_other_get_their_own_answers
    surplus_in_a_later_segment_reaches_nobody
    surplus_after_a_retry_reaches_nobody
    body_after_an_answer_to_head_does_no_harm_to_the_next_request
}

/// The next request lies in our hands already when an answer is through: it is sent in the same
/// turn of the ring in which the connection was given back.
fn pipelined_request_gets_its_own_answer(new: fn() -> Backend) {
    let backend = lying(new);
    for arguments in [json!({}), json!({"hold": 5}), json!({"max_connections": 2})] {
        let daemon = daemon_for(&backend, arguments);
        for kind in KINDS {
            let mut client = daemon.connect();
            for turn in 0..TURNS {
                if turn % 2 == 1 {
                    be_honest(&mut client, "b.com");
                }
                let (one, two) = (format!("one-{turn}"), format!("two-{turn}"));
                let both = [request("a.com", kind, &one), request("b.com", "honest", &two)];
                client.send(both.concat());
                expect_own(&mut client, kind, &one);
                expect_own(&mut client, "honest", &two);
            }
        }
    }
}

/// Another client waits for the only place at the backend, and is let go when it is given back.
fn client_in_line_for_a_place_gets_its_own_answer(new: fn() -> Backend) {
    let backend = lying(new);
    for kind in KINDS {
        let daemon = daemon_for(&backend, json!({"max_connections": 1}));
        let threads = (0..4).map(|number| {
            let (mut client, host) = (daemon.connect(), ["a.com", "b.com"][number % 2]);
            std::thread::spawn(move || {
                for turn in 0..TURNS {
                    if turn % 2 == 1 {
                        be_honest(&mut client, host);
                    }
                    let token = format!("{number}-{turn}");
                    client.send(request(host, kind, &token));
                    expect_own(&mut client, kind, &token);
                }
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap_or_else(|_| panic!("{kind}: a client got something else"));
        }
    }
}

/// Many clients of two hosts with one backend; two shards; the surplus with the answer.
fn clients_beside_each_other_get_their_own_answers(new: fn() -> Backend) {
    let backend = lying(new);
    let daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", backend.rule())
        .rule("b.com", backend.rule())
        .start();
    let threads = (0..8).map(|number| {
        let (mut client, host) = (daemon.connect(), ["a.com", "b.com"][number % 2]);
        std::thread::spawn(move || {
            for turn in 0..TURNS * KINDS.len() {
                if turn % 3 == number % 3 {
                    be_honest(&mut client, host);
                }
                let kind = KINDS[(turn + number) % KINDS.len()];
                let token = format!("{number}-{turn}");
                client.send(request(host, kind, &token));
                expect_own(&mut client, kind, &token);
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a client got something else");
    }
}

/// One client after another; the surplus in a segment of its own, right behind the answer or only
/// when the client has that.
fn surplus_in_a_later_segment_reaches_nobody(new: fn() -> Backend) {
    let backend = new();
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("b.com", backend.rule_with(json!({"hold": 5})))
        .start();
    for kind in KINDS {
        for (at_once, honest) in [(true, 0), (false, 0), (true, HONEST), (false, HONEST)] {
            let (mut client, mut server) = asked_after(&daemon, &backend, kind, honest);
            if kind == "upload" {
                server.expect_chunked();
            }
            let mut sender = server.sender();
            let bytes = answer(kind, "first");
            let sending = std::thread::spawn(move || {
                let sent = std::io::Write::write_all(&mut sender, &bytes);
                if at_once {
                    drop(std::io::Write::write_all(&mut sender, &surplus()));
                }
                sent
            });
            if at_once {
                sending.join().expect("the sending thread").expect("the answer was taken");
                expect_own(&mut client, kind, "first");
            } else {
                expect_own(&mut client, kind, "first");
                sending.join().expect("the sending thread").expect("the answer was taken");
                drop(server.try_send(surplus()));
            }
            // the same client, and another of another host
            let mut other = daemon.connect();
            client.send(request("b.com", "small", "second"));
            let mut fresh = backend.accept();
            fresh.expect_request("GET /small/second HTTP/1.1");
            other.send(request("b.com", "small", "third"));
            let mut fresh_too = backend.accept();
            fresh_too.expect_request("GET /small/third HTTP/1.1");
            fresh.send(answer("close", "second"));
            fresh_too.send(answer("close", "third"));
            expect_own(&mut client, "small", "second");
            expect_own(&mut other, "small", "third");
            server.expect_end();
        }
    }
}

/// A client that has asked for an answer of this kind, and its backend, after so many honest ones.
fn asked_after(
    daemon: &Daemon,
    backend: &Backend,
    kind: &str,
    honest: usize,
) -> (Connection, Connection) {
    let first = request("a.com", kind, "first");
    if honest == 0 {
        return asked_for(daemon, backend, first);
    }
    let again = request("a.com", "small", "again");
    let (mut client, mut server) = asked_for(daemon, backend, &again);
    for turn in 0..honest {
        if 0 < turn {
            client.send(&again);
            server.expect_head();
        }
        server.send(answer("small", "again"));
        expect_own(&mut client, "small", "again");
    }
    client.send(first);
    server.expect_head();
    (client, server)
}

/// The first connection from the pool is dead; the one that is opened instead brings more than its
/// answer.
fn surplus_after_a_retry_reaches_nobody(new: fn() -> Backend) {
    let backend = new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    for turn in 0..5 {
        client.send(request("a.com", "small", "first"));
        let mut server = backend.accept();
        server.expect_head();
        server.send(answer("small", "first"));
        expect_own(&mut client, "small", "first");
        // reused, and dead before its answer
        client.send(
            [request("a.com", "small", "second"), request("a.com", "small", "third")].concat(),
        );
        server.expect_head();
        drop(server);
        let mut server = backend.accept();
        server.expect_request("GET /small/second HTTP/1.1");
        let sent = if turn % 2 == 0 { answer("small", "second") } else { answer("huge", "second") };
        let mut sender = server.sender();
        let sending = std::thread::spawn(move || {
            std::io::Write::write_all(&mut sender, &[sent, surplus()].concat())
        });
        expect_own(&mut client, "small", "second");
        sending.join().expect("the sending thread").expect("the answer was taken");
        let mut server = backend.accept();
        server.expect_request("GET /small/third HTTP/1.1");
        server.send(answer("close", "third"));
        expect_own(&mut client, "small", "third");
    }
}

/// The body that an origin sends to HEAD comes while the next request is on its way: that is sent
/// again where it may be, and meets no such connection where it may not.
fn body_after_an_answer_to_head_does_no_harm_to_the_next_request(new: fn() -> Backend) {
    let backend = new();
    let daemon = Daemon::proxying(backend.rule());
    let bodies = ["<html>what GET would have brought</html>", "\r\n", "x", "HTTP"];
    for body in bodies {
        let (mut client, mut server) =
            asked_for(&daemon, &backend, "HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n");
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n");
        client.expect_status(200);
        client.send(get("a.com", "/next"));
        server.expect_request("GET /next HTTP/1.1");
        server.send([body.as_bytes(), &ok("late")].concat());
        let mut server = backend.accept();
        server.expect_request("GET /next HTTP/1.1");
        server.send(ok("right"));
        assert_eq!(client.expect_answer().text(), "right", "behind {body:?}");
        // a POST is not sent twice, so it must not go where a body may still come
        client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n");
        server.expect_head();
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n");
        client.expect_status(200);
        client.send("POST /post HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nup");
        let mut fresh = backend.accept_within(PATIENCE).expect("a connection of its own");
        fresh.expect_request("POST /post HTTP/1.1");
        fresh.expect_body("up");
        drop(server.try_send(body));
        fresh.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.expect_answer().text(), "ok", "behind {body:?}");
    }
}
