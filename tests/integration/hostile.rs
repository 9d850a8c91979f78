//! Peers that misbehave: killed, resetting, half-closing, stalling, lying. The client gets a
//! correct error or a closed connection, never a wrong body; nobody else notices.

use std::time::Duration;

use serde_json::json;

use crate::backend::{Backend, closed_port, rule_for};
use crate::bulk::{MIB, send_plain};
use crate::daemon::{Daemon, Setup, asked, asked_for};
use crate::message::{get, ok, show};
use crate::script::{Connection, Ending, find};

/// The daemon serves others as if nothing had been.
#[track_caller]
fn expect_unharmed(daemon: &Daemon, backend: &Backend) {
    let (mut client, mut server) = asked(daemon, backend);
    server.send(ok("unharmed"));
    assert_eq!(client.expect_answer().text(), "unharmed");
}

#[test]
fn answer_that_ends_early_looks_cut_off() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for resets in [false, true] {
        for (answer, head) in [
            ("", 502),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n", 502),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678", 200),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n", 200),
            ("HTTP/1.1 100 Continue\r\n\r\n", 100),
        ] {
            let (mut client, mut server) = asked(&daemon, &backend);
            server.send(answer);
            if head != 502 {
                client.expect_status(head);
            }
            if resets {
                server.reset();
            } else {
                drop(server);
            }
            if head == 200 {
                let (rest, _ending) = client.read_to_end();
                let whole = rest.len() >= 10 && !answer.contains("chunked")
                    || find(&rest, b"0\r\n\r\n").is_some();
                assert!(!whole, "{answer:?}: the client saw a whole body:\n{}", show(&rest));
            } else {
                let answer = client.expect_answer();
                assert_eq!(answer.status(), 502);
            }
            expect_unharmed(&daemon, &backend);
        }
    }
}

#[test]
fn half_close_behind_an_answer_costs_nothing() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(ok("whole"));
    server.half_close();
    assert_eq!(client.expect_answer().text(), "whole");
    server.expect_end();
    client.expect_nothing_more();
    expect_unharmed(&daemon, &backend);
}

#[test]
fn half_close_before_an_answer_is_a_502() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.half_close();
    assert_eq!(client.expect_answer().status(), 502);
    server.expect_end();
    expect_unharmed(&daemon, &backend);
}

#[test]
fn answer_byte_by_byte_is_passed_on() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send_slowly("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.expect_answer().text(), "hello");
    client.send(get("a.com", "/"));
    server.expect_head();
    server.send_slowly(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    );
    assert_eq!(client.expect_answer().text(), "hello");
}

#[test]
fn answer_before_the_request_is_one_answer() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for body in ["", "0123456789"] {
        let mut client = daemon.connect();
        let length = 10;
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let mut server = backend.accept();
        server.send(ok("too eager"));
        let answer = client.expect_answer();
        // whether such an answer is believed or not, it is one answer
        assert!([200, 502].contains(&answer.status()), "{:#?}", answer.head);
        drop(server);
        drop(client);
    }
    expect_unharmed(&daemon, &backend);
}

#[test]
fn backend_that_resets_an_upload_is_a_502_or_a_close() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", 64 * MIB));
    let mut stream = client.sender();
    let sending = std::thread::spawn(move || drop(send_plain(&mut stream, 0, 64 * MIB)));
    let mut server = backend.accept();
    server.expect_head();
    server.reset();
    // a 502 where it still could be told, else a closed connection
    let (bytes, _ending) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 502 "), "{}", show(&bytes));
    sending.join().expect("the upload");
    expect_unharmed(&daemon, &backend);
}

#[test]
fn a_client_that_resets_while_it_waits_ends_its_exchange() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (client, mut server) = asked(&daemon, &backend);
    client.reset();
    server.expect_end();
    expect_unharmed(&daemon, &backend);
}

/// A backend that has nothing to say for an hour (server-sent events, long polling) would otherwise
/// keep its connection, and ours, as long.
#[test]
fn a_client_that_resets_in_the_middle_of_its_answer_ends_its_exchange() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for (framing, part) in [
        ("Content-Length: 10\r\n", "hello"),
        ("Content-Length: 1000000000\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("", "hello"),
    ] {
        let (mut client, mut server) = asked(&daemon, &backend);
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{part}"));
        client.expect_status(200);
        client.reset();
        server.expect_end();
        expect_unharmed(&daemon, &backend);
    }
}

#[test]
fn reset_in_the_middle_of_a_body_ends_its_exchange() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for (framing, part) in
        [("Content-Length: 10", "01234"), ("Transfer-Encoding: chunked", "5\r\n01234\r\n")]
    {
        for resets in [true, false] {
            let (client, mut server) = asked_for(
                &daemon,
                &backend,
                format!("POST / HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n{part}"),
            );
            server.expect_body(part);
            if resets {
                client.reset();
            } else {
                drop(client);
            }
            // the message is cut off: nothing more comes, no last chunk either
            server.expect_end();
        }
    }
    expect_unharmed(&daemon, &backend);
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let backend = Backend::new();
    let setup = Setup::new().set("abort_on_close", "false");
    let daemon = setup.rule("a.com", backend.rule()).start();
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut client = daemon.connect();
        client.send(get("a.com", "/"));
        client.half_close();
        let mut server = backend.accept();
        server.expect_head();
        server.expect_nothing_more();
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        server.send(if framing.contains("5") { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" });
        assert_eq!(client.expect_answer().text(), "hello");
        client.expect_close();
        drop(server);
    }
}

#[test]
fn half_close_in_the_middle_of_a_request_ends_it() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send("GET / HTTP/1.1\r\nHost: a");
    client.half_close();
    let (bytes, _ending) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "), "{}", show(&bytes));
    backend.expect_no_connection();
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\n01234");
    client.half_close();
    let (bytes, _ending) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "), "{}", show(&bytes));
    // The end may be seen before the request goes out, or after; it never looks complete.
    if let Some(mut server) = backend.accept_within(Duration::from_millis(1)) {
        let (seen, _ending) = server.read_to_end();
        let body = find(&seen, b"\r\n\r\n").map_or(&[][..], |end| &seen[end + 4..]);
        assert!(b"01234".starts_with(body), "{}", show(&seen));
    }
}

/// Our answer comes before the body does: what the client goes on sending is never a request.
#[test]
fn an_unread_body_is_not_taken_for_a_request() {
    let witness = Backend::new().serve_text("smuggled");
    let daemon = Setup::new()
        .rule("a.com", witness.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .rule("redirect.com", json!(["redirect", { "redirect_to": "x.com" }, false]))
        .rule("dead.com", rule_for(&[closed_port()], json!({})))
        .start();
    let smuggled = get("a.com", "/smuggled");
    let filler = "x".repeat(300_000);
    for host in ["empty.com", "redirect.com", "dead.com", "no-rule.com"] {
        for framing in [
            "Content-Length: 1000000".to_owned(),
            format!("Content-Length: {}", smuggled.len() + 10),
            "Transfer-Encoding: chunked".to_owned(),
            format!("Expect: 100-continue\r\nContent-Length: {}", smuggled.len() * 100),
        ] {
            let mut client = daemon.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n"));
            let answer = client.expect_answer();
            assert!(answer.status() >= 300, "{host}: {:#?}", answer.head);
            drop(client.try_send(&smuggled));
            drop(client.try_send(&filler));
            drop(client.try_send(&smuggled));
            client.half_close_if_open();
            let (rest, _ending) = client.read_to_end();
            assert!(find(&rest, b"smuggled").is_none(), "{host}, {framing}: {}", show(&rest));
            let second = find(&rest, b"HTTP/1.1 2").is_some();
            assert!(!second, "{host}, {framing}: an answer to nothing:\n{}", show(&rest));
        }
    }
    assert_eq!(witness.requests(), 0, "{:#?}", witness.take_heads());
}

#[test]
fn clients_that_never_read_their_refusal_harm_nobody() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let clients: Vec<Connection> = (0..50)
        .map(|_| {
            let mut client = Connection::client_with_small_buffer(daemon.address());
            client.send("bad\r\n\r\n");
            client
        })
        .collect();
    expect_unharmed(&daemon, &backend);
    drop(clients);
}

#[test]
fn garbage_is_refused_and_disturbs_nobody() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut state = 88_172_645_463_325_252_u64;
    for round in 0..300 {
        let garbage: Vec<u8> = (0..round * 7 % 500)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // every third byte from what heads are made of
                if state.is_multiple_of(3) {
                    b" \r\n:/GETHP1.0"[(state >> 32) as usize % 13]
                } else {
                    (state >> 16) as u8
                }
            })
            .collect();
        let mut client = daemon.connect();
        drop(client.try_send(&garbage));
        client.half_close_if_open();
        let (bytes, ending) = client.read_to_end();
        let fine = bytes.is_empty()
            || bytes.starts_with(b"HTTP/1.1 4")
            || bytes.starts_with(b"HTTP/1.1 5");
        assert!(fine, "to {}: {}", show(&garbage), show(&bytes));
        assert!(matches!(ending, Ending::Closed | Ending::Reset));
    }
    backend.expect_no_connection();
    expect_unharmed(&daemon, &backend);
}
