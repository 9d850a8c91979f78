//! Clients that leave, by an end of what they send or by a reset: with `abort_on_close` what they
//! asked for is given up, whatever is being waited for; without it an end alone is no reason.

use serde_json::json;

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, metric, spin};

/// How a client leaves.
#[derive(Copy, Clone, Debug, PartialEq)]
enum How {
    HalfCloses,
    Closes,
    Resets,
}

const HOW: [How; 3] = [How::HalfCloses, How::Closes, How::Resets];

/// Leaves; what is left of the connection.
fn leave(mut client: Connection, how: How) -> Option<Connection> {
    match how {
        How::HalfCloses => client.half_close(),
        How::Closes => return None,
        How::Resets => {
            client.reset();
            return None;
        }
    }
    Some(client)
}

fn keeping(backend: &Backend) -> Daemon {
    Setup::new().set("abort_on_close", "false").rule("a.com", backend.rule()).start()
}

#[test]
fn client_that_left_is_not_waited_for_while_its_answer_is_due() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let post = "POST / HTTP/1.1\r\nHost: a.com\r\n";
    let chunk = format!("{post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for request in [
        get("a.com", "/"),
        format!("{post}Content-Length: 3\r\n\r\nabc"),
        format!("{post}Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000)),
        chunk,
        upgrade.to_owned(),
        "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n".to_owned(),
    ] {
        for how in HOW {
            let (client, mut server) = asked_for(&daemon, &backend, &request);
            let body = request.len() - request.find("\r\n\r\n").expect("a head") - 4;
            server.read_exactly(body);
            let left = leave(client, how);
            server.expect_end();
            if let Some(mut client) = left {
                client.expect_end();
            }
        }
    }
}

#[test]
fn client_that_left_ends_its_answer_in_the_middle() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for (framing, part) in [
        ("Content-Length: 10\r\n", "hello"),
        ("Content-Length: 1000000000\r\n", "hello"),
        ("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("", "hello"),
    ] {
        for how in HOW {
            let (mut client, mut server) = asked(&daemon, &backend);
            server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{part}"));
            client.expect_status(200);
            client.expect_body(part);
            let _left = leave(client, how);
            server.expect_end();
        }
    }
}

/// It does not read, so that what is to be noticed lies behind a send that waits.
#[test]
fn client_that_left_is_noticed_while_it_takes_nothing() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for framing in ["Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        for how in [How::HalfCloses, How::Resets] {
            let mut client = Connection::client_with_small_buffer(daemon.address());
            client.send(get("a.com", "/"));
            let mut server = backend.accept();
            server.expect_head();
            server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
            let chunked = framing.starts_with('T');
            let piece = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
            let piece = if chunked { &piece[..] } else { &piece[7..7 + 0x10000] };
            // As much as all buffers take, so that the rest waits.
            let sender = server.sender();
            sender.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("set");
            while server.try_send(piece).is_ok() {}
            let _left = leave(client, how);
            eventually("the backend's connection is closed", || {
                server.try_send(piece).is_err_and(|error| {
                    !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    )
                })
            });
        }
    }
}

#[test]
fn client_that_left_gives_its_place_to_the_next() {
    let backend = Backend::new();
    let setup = Setup::new().set("timeout_connect", "60s");
    let daemon = setup.rule("a.com", backend.rule_with(json!({"max_connections": 2}))).start();
    for how in HOW {
        let first = asked(&daemon, &backend);
        let second = asked(&daemon, &backend);
        let mut third = daemon.connect();
        third.send(get("a.com", "/third"));
        let mut last = daemon.connect();
        let mut api = daemon.api();
        let mut queued = daemon.connect();
        queued.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 30000\r\n\r\n");
        queued.send([b'x'; 30_000]);
        eventually("two wait", || metric(&mut api, "requests_queued") == 2.0);
        last.send(get("a.com", "/last"));
        eventually("three wait", || metric(&mut api, "requests_queued") == 3.0);
        // Whoever waits for a place and leaves has none; whoever has one and leaves gives it up, to
        // the next in line.
        let _left = leave(queued, how);
        eventually("two wait", || metric(&mut api, "requests_queued") == 2.0);
        for (client, target, leaves) in
            [(&mut third, "/third", first.0), (&mut last, "/last", second.0)]
        {
            let _left = leave(leaves, how);
            let mut server = backend.accept();
            server.expect_request(&format!("GET {target} HTTP/1.1"));
            server.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(client.expect_answer().text(), "hi");
        }
    }
}

#[test]
fn client_that_left_is_forgotten_between_two_attempts() {
    let rule = rule_for(&[closed_port()], json!({"attempts": 1000, "delay": 60}));
    let setup = Setup::new().rule("a.com", rule);
    let log = setup.path("access.log");
    let daemon = setup.set("access_log", log.display()).start();
    for (count, how) in HOW.into_iter().enumerate() {
        let mut client = daemon.connect();
        client.send(get("a.com", "/"));
        let mut api = daemon.api();
        eventually("it was tried", || {
            count as f64 + 1.0 <= metric(&mut api, "connect_failures_total")
        });
        let _left = leave(client, how);
        eventually("it is logged", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.matches("\"termination\":\"client_gone\"").count() == count + 1
        });
    }
}

#[test]
fn client_that_left_in_an_upload_that_the_backend_does_not_take() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        for how in [How::HalfCloses, How::Resets] {
            let (mut client, mut server) = asked_for(
                &daemon,
                &backend,
                format!("POST / HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n"),
            );
            let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
            let sender = client.sender();
            sender.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("set");
            drop(sender);
            while client.try_send(&chunk).is_ok() {}
            let _left = leave(client, how);
            // What was on its way, and then an end, with no byte of the backend's.
            server.read_to_end();
        }
    }
}

#[test]
fn held_client_that_half_closes_is_forgotten_or_served() {
    for aborts in [true, false] {
        let backend = Backend::new().serve(|head, server| server.send(ok(head.target())));
        let setup = Setup::new().set("abort_on_close", aborts);
        let daemon = setup.rule("a.com", spin(json!({}))).start();
        let mut api = daemon.api();
        let mut client = daemon.connect();
        client.send(get("a.com", "/half"));
        let mut gone = daemon.connect();
        gone.send(get("a.com", "/gone"));
        expect_held(&mut api, "a.com", 2);
        client.half_close();
        // It half-closes first: a reset behind an end counts in either case.
        gone.half_close();
        if !aborts {
            client.expect_nothing_within(std::time::Duration::from_millis(50));
            expect_held(&mut api, "a.com", 2);
        }
        gone.reset();
        expect_held(&mut api, "a.com", if aborts { 0 } else { 1 });
        api.put("/hostname/a.com/", &backend.rule());
        if aborts {
            client.expect_end();
            assert_eq!(backend.requests(), 0);
        } else {
            assert_eq!(client.expect_answer().text(), "/half");
            client.expect_close();
            assert_eq!(backend.requests(), 1);
        }
    }
}

#[test]
fn client_that_half_closes_is_served_on_request_in_every_phase() {
    let backend = Backend::new();
    let setup = Setup::new().set("abort_on_close", "false").set("timeout_connect", "60s");
    let daemon = setup.rule("a.com", backend.rule_with(json!({"max_connections": 1}))).start();
    let mut api = daemon.api();
    let (mut first, mut server) = asked(&daemon, &backend);
    first.half_close();
    let mut queued = daemon.connect();
    queued.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 40000\r\n\r\n");
    queued.send("x".repeat(40_000));
    queued.half_close();
    eventually("it waits", || metric(&mut api, "requests_queued") == 1.0);
    server.expect_nothing_within(std::time::Duration::from_millis(50));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    first.expect_status(200);
    server.expect_nothing_within(std::time::Duration::from_millis(50));
    server.send("world");
    first.expect_body("helloworld");
    first.expect_close();
    server.expect_request("POST / HTTP/1.1");
    server.expect_body("x".repeat(40_000));
    server.send(ok("taken"));
    assert_eq!(queued.expect_answer().text(), "taken");
    queued.expect_close();
}

/// An end of what it sends is no news when it comes first.
#[test]
fn reset_behind_an_end_counts_as_leaving() {
    let backend = Backend::new();
    let daemon = keeping(&backend);
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"] {
        let (mut client, mut server) = asked(&daemon, &backend);
        client.half_close();
        if !part.is_empty() {
            server.send(part);
            client.expect_status(200);
            client.expect_body("hello");
        }
        server.expect_nothing_within(std::time::Duration::from_millis(50));
        client.reset();
        server.expect_end();
    }
}

/// Requests that wait their turn hide an end behind them: all but the last are answered.
#[test]
fn pipelining_client_that_half_closes_loses_its_last_answer_at_most() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(get("a.com", "/1") + &get("a.com", "/2") + &get("a.com", "/3"));
    client.half_close();
    let mut server = backend.accept();
    for n in 1..=2 {
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.send(ok(n.to_string()));
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
    server.expect_request("GET /3 HTTP/1.1");
    server.expect_end();
    client.expect_end();
}

#[test]
fn stop_does_not_wait_for_clients_that_left() {
    let backend = Backend::new();
    let setup = Setup::new().set("timeout_drain", "60s");
    let mut daemon = setup.rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.expect_status(200);
    let (mut waiting, _second) = asked(&daemon, &backend);
    daemon.terminate();
    client.half_close();
    waiting.half_close();
    daemon.expect_clean_exit();
}

/// A tunnel's directions end one by one, whatever the key says.
#[test]
fn tunnel_keeps_the_other_direction() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let request =
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (mut client, mut server) = asked_for(&daemon, &backend, request);
    server.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    client.expect_status(101);
    client.half_close();
    server.expect_close();
    server.send("still there");
    client.expect_body("still there");
    server.half_close();
    client.expect_close();
}

/// The kernel tells of an end with every poll: waiting for room behind one must not be asking all
/// the time.
#[test]
fn half_closed_client_that_takes_nothing_costs_nothing() {
    let backend = Backend::new();
    let daemon = keeping(&backend);
    for framing in ["Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = Connection::client_with_small_buffer(daemon.address());
        client.send(get("a.com", "/"));
        client.half_close();
        let mut server = backend.accept();
        server.expect_head();
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
        let piece = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
        let piece = if framing.starts_with('T') { &piece[..] } else { &piece[7..7 + 0x10000] };
        let sender = server.sender();
        sender.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("set");
        let mut sent = 0;
        while server.try_send(piece).is_ok() {
            sent += piece.len();
        }
        client.expect_status(200);
        eventually("it rests", || {
            let before = daemon.cpu_time();
            std::thread::park_timeout(std::time::Duration::from_millis(500));
            daemon.cpu_time() - before < std::time::Duration::from_millis(50)
        });
        // It goes on where there is room again.
        client.read_exactly(sent.min(8_000_000));
    }
}
