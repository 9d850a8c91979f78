//! Answers that reach a client which is still sending: one that writes all of its body before it
//! reads, as most libraries do, one that is slow, and one that sends more behind its last request.

use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked_for};
use crate::message::{get, ok};
use crate::script::{Connection, Ending, PATIENCE};

const MIB: usize = 1024 * 1024;

fn head_of(host: &str, framing: &str, version: &str) -> String {
    format!("POST / HTTP/{version}\r\nHost: {host}\r\n{framing}\r\n\r\n")
}

/// Writes the head and all of the body, and only then reads.
#[track_caller]
fn upload_all(client: &mut Connection, head: &str, bytes: usize) {
    client.send(head);
    let piece = vec![b'x'; MIB];
    if head.contains("chunked") {
        let chunk = [format!("{MIB:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
        (0..bytes / MIB).for_each(|_| client.send(&chunk));
        client.send("0\r\n\r\n");
    } else {
        (0..bytes / MIB).for_each(|_| client.send(&piece));
    }
}

/// A host for each of our own answers.
fn answering(setup: Setup) -> Daemon {
    setup
        .rule("down.com", rule_for(&[closed_port()], json!({})))
        .rule("redirect.com", json!(["redirect", {"redirect_to": "x.com"}, false]))
        .rule("empty.com", json!(["empty", {"code": 403}, false]))
        .rule("long.com", json!(["static", {"type": "long"}, false]))
        .rule("held.com", json!(["spin", {"timeout": 0.1}, false]))
        .start()
}

#[test]
fn own_answers_reach_clients_that_write_first() {
    let long = "z".repeat(MIB - 100);
    let page = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    let daemon = answering(Setup::new().page("long.http", &page));
    for (host, status) in [
        ("down.com", 502),
        ("redirect.com", 302),
        ("empty.com", 403),
        ("unknown.com", 503),
        ("held.com", 503),
        ("long.com", 200),
        ("bad host", 400),
    ] {
        for (framing, version) in [
            (format!("Content-Length: {}", 20 * MIB), "1.1"),
            ("Transfer-Encoding: chunked".to_owned(), "1.1"),
            (format!("Content-Length: {}", 20 * MIB), "1.0"),
            (format!("Content-Length: {}\r\nExpect: 100-continue", 20 * MIB), "1.1"),
        ] {
            let mut client = daemon.connect();
            upload_all(&mut client, &head_of(host, &framing, version), 20 * MIB);
            assert_eq!(client.expect_answer().status(), status, "{host}, {framing}, {version}");
            client.expect_close();
        }
    }
}

#[test]
fn rejected_rate_reaches_clients_that_write_first() {
    let backend = Backend::new().serve(|head, server| {
        if head.field("Content-Length").is_some() {
            server.read_exactly(20 * MIB);
        }
        drop(server.try_send(ok("hello")));
    });
    let daemon = Daemon::proxying(backend.rule_with(json!({"max_requests_per_second": 1})));
    let framing = format!("Content-Length: {}", 20 * MIB);
    // One passes where a second is over since the request before it.
    let mut rejected = (0..20).map(|_| {
        drop(daemon.connect().exchange(get("a.com", "/")));
        let mut client = daemon.connect();
        upload_all(&mut client, &head_of("a.com", &framing, "1.1"), 20 * MIB);
        (client.expect_answer().status(), client)
    });
    let (_, mut client) = rejected.find(|(status, _)| *status == 429).expect("a rejected upload");
    client.expect_close();
}

/// Refusals of what comes later than the head.
#[test]
fn refused_body_is_read_off() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) =
        asked_for(&daemon, &backend, head_of("a.com", "Transfer-Encoding: chunked", "1.1"));
    client.send("xyz\r\n");
    (0..20).for_each(|_| client.send(vec![b'x'; MIB]));
    assert_eq!(client.expect_answer().status(), 400);
    client.expect_close();
    server.expect_end();
}

/// An early answer of the backend, which then closes with most of the body unread.
#[test]
fn early_answer_reaches_clients_that_write_first() {
    // Neither the client nor the backend reads for a while. So the longer answer is no longer than
    // what a send buffer of loopback has room for from the start (Linux: ten segments of 64 KiB,
    // each counted as 128 KiB, twice: 2.6 MB).
    for (framing, body) in [
        ("Content-Length: 9\r\n", b"too large".to_vec()),
        ("Content-Length: 2000000\r\n", vec![b'y'; 2_000_000]),
    ] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let answer = [
            format!("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n{framing}\r\n")
                .as_bytes(),
            &body,
        ]
        .concat();
        let serving: JoinHandle<()> = std::thread::spawn(move || {
            let mut server = backend.accept();
            server.expect_head();
            server.send(answer);
            server.half_close();
            // Reads nothing more; the end of the connection comes when the answer has been taken.
            server.wait_until_acknowledged();
        });
        let mut client = daemon.connect();
        let framing = format!("Content-Length: {}", 20 * MIB);
        upload_all(&mut client, &head_of("a.com", &framing, "1.1"), 20 * MIB);
        client.expect_status(413);
        client.expect_body(&body);
        serving.join().expect("the backend");
    }
}

/// For longer than a client may be silent, and more than any bound of bytes.
#[test]
fn slow_sender_gets_its_refusal() {
    let daemon = answering(Setup::new());
    let mut client = daemon.connect();
    client.send(head_of("empty.com", "Content-Length: 6000000", "1.1"));
    for _ in 0..60 {
        client.send(vec![b'x'; 100_000]);
        // Time is the subject: six seconds in all.
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(client.expect_answer().status(), 403);
    client.expect_close();
}

/// The bounds: `timeout_client` in all, and a stop.
#[test]
fn reading_off_ends() {
    let mut daemon = answering(Setup::new().set("timeout_client", "400ms"));
    let mut client = daemon.connect();
    client.send(head_of("empty.com", "Transfer-Encoding: chunked", "1.1"));
    let mut is_open = true;
    for _ in 0..PATIENCE.as_millis() / 20 {
        is_open = client.try_send("5\r\nhello\r\n").is_ok();
        if !is_open {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(!is_open, "it is read off for ever");
    let mut client = daemon.connect();
    client.send(head_of("empty.com", "Transfer-Encoding: chunked", "1.1"));
    assert_eq!(client.expect_answer().status(), 403);
    daemon.terminate();
    daemon.expect_clean_exit();
    drop(client);
}

#[test]
fn connections_turned_away_are_told_so() {
    for (key, rule) in [("max_connections", 1), ("max_connections_per_source", 1)] {
        let daemon = answering(Setup::new().set(key, rule));
        let mut first = daemon.connect();
        assert_eq!(first.exchange(get("empty.com", "/")).status(), 403);
        for framing in
            [format!("Content-Length: {}", 20 * MIB), "Transfer-Encoding: chunked".to_owned()]
        {
            let mut client = daemon.connect();
            upload_all(&mut client, &head_of("empty.com", &framing, "1.1"), 20 * MIB);
            assert_eq!(client.expect_answer().status(), 503, "{key}");
            client.expect_close();
        }
    }
}

/// Bytes behind the last request: there with it, and only after its answer has begun.
#[test]
fn late_bytes_do_not_cost_the_answer() {
    const BYTES: usize = 3_000_000;
    let body = vec![b'y'; BYTES];
    let answer = ok(&body);
    let backend = Backend::new().serve(move |_, server| drop(server.try_send(&answer)));
    let daemon = Daemon::proxying(backend.rule());
    let last = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let old = "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n";
    for request in [last, old] {
        for together in [true, false] {
            let mut client = daemon.connect();
            let more = get("a.com", "/more").repeat(1000);
            client.send(if together { request.to_owned() + &more } else { request.to_owned() });
            let head = client.expect_status(200);
            assert_eq!(head.field("Content-Length"), Some(BYTES.to_string()).as_deref());
            if !together {
                client.send(&more);
            }
            client.expect_body(&body);
            client.expect_close();
        }
    }
    assert_eq!(backend.requests(), 4);
}

/// A small response leaves in one send, and its connection is closed without lingering, unless more
/// has come meanwhile.
#[test]
fn bytes_behind_the_last_request_do_not_reset_a_small_answer() {
    let (asked, answers) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (tell, wait) = (asked.0, std::sync::Mutex::new(answers.1));
    let backend = Backend::new().serve(move |_, server| {
        tell.send(()).expect("a test that waits");
        wait.lock().expect("no panic").recv().expect("a test that goes on");
        server.send(ok("small"));
    });
    let daemon = Daemon::proxying(backend.rule());
    let last = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let old = "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n";
    let more = get("a.com", "/more").repeat(1000);
    for request in [last, old] {
        for together in [true, false] {
            let mut client = daemon.connect();
            client.send(if together { request.to_owned() + &more } else { request.to_owned() });
            asked.1.recv().expect("a request");
            if !together {
                client.send(&more);
            }
            answers.0.send(()).expect("a backend that waits");
            client.expect_status(200);
            client.expect_body("small");
            client.expect_close();
        }
    }
    assert_eq!(backend.requests(), 4);
}

/// A reader that was too slow has what the kernel had taken for it, and an end: its length shows
/// that it was cut.
#[test]
fn slow_reader_keeps_what_was_on_its_way() {
    let answer = ok(vec![b'y'; 20 * MIB]);
    let backend = Backend::new().serve(move |_, server| drop(server.try_send(&answer)));
    let setup = Setup::new().set("timeout_client", "300ms");
    let log = setup.path("access.log");
    let daemon = setup.rule("a.com", backend.rule()).set("access_log", log.display()).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    // More requests, which stay unread.
    client.send(get("a.com", "/more").repeat(100));
    crate::daemon::eventually("it is given up", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"termination\":\"client_gone\"")
    });
    let (bytes, ending) = client.read_to_end();
    assert_eq!(ending, Ending::Closed, "{} bytes", bytes.len());
    assert!(100_000 < bytes.len() && bytes.len() < 20 * MIB, "{} bytes", bytes.len());
    let logged = std::fs::read_to_string(&log).expect("the log");
    let line: Value = serde_json::from_str(logged.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["status"], 200);
}

/// Only a reset shows that an answer was cut off which ends with its connection.
#[test]
fn slow_reader_of_an_answer_until_close_is_reset() {
    let backend = Backend::new().serve(move |_, server| {
        drop(server.try_send("HTTP/1.1 200 OK\r\n\r\n"));
        while server.try_send(vec![b'y'; MIB]).is_ok() {}
    });
    let daemon = Setup::new().set("timeout_client", "300ms").rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut api = daemon.api();
    crate::daemon::eventually("it is given up", || {
        crate::spin::metric(&mut api, "requests_completed_total") == 1.0
    });
    assert_eq!(client.read_to_end().1, Ending::Reset);
}
