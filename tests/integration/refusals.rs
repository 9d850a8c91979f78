//! What is refused: the client gets the status and a closed connection, and not one byte reached
//! the backend, neither of the head nor of what was sent behind it.

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{Head, assert_same, get, show};
use crate::script::{Connection, find};

/// Sends each request whole and then byte by byte, with another request right behind it.
#[track_caller]
fn check_all(cases: &[(&str, Vec<u8>, u16)]) {
    let backend = Backend::new().serve_text("from the backend");
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    for (name, request, expected) in cases {
        for slowly in [false, true] {
            let mut bytes = request.clone();
            bytes.extend_from_slice(get("a.com", "/smuggled").as_bytes());
            let mut client = daemon.connect();
            if slowly {
                // the refusal may come, and the connection end, before everything is sent
                bytes.chunks(1).take_while(|byte| client.try_send(byte).is_ok()).count();
            } else {
                client.send(&bytes);
            }
            expect_refusal(&mut client, name, request, *expected);
            expect_untouched(&daemon, &backend, name);
        }
    }
}

/// One answer with this status, that says close, and then the end.
#[track_caller]
fn expect_refusal(client: &mut Connection, name: &str, request: &[u8], expected: u16) {
    let (bytes, _ending) = client.read_to_end();
    let Some(end) = find(&bytes, b"\r\n\r\n") else {
        panic!("{name}: no whole answer to\n{}\n--- but\n{}", show(request), show(&bytes));
    };
    let head = Head::parse(&bytes[..end + 4]);
    let (found, body) = (head.status(), &bytes[end + 4..]);
    assert!(
        found == expected && head.says_close(),
        "{name}: expected {expected} and Connection: close, found\n{head:#?}\nto\n{}",
        show(request)
    );
    let length: usize =
        head.field("Content-Length").and_then(|text| text.parse().ok()).expect("a length");
    assert_eq!(length, body.len(), "{name}: length told and found, after it:\n{}", show(body));
}

/// A good request on a new connection is the next thing, and the only thing, that the backend gets.
#[track_caller]
fn expect_untouched(daemon: &Daemon, backend: &crate::backend::Serving, name: &str) {
    let answer = daemon.connect().exchange(get("a.com", "/marker"));
    assert_eq!(answer.status(), 200, "{name}: the next request");
    let heads = backend.take_heads();
    let targets: Vec<&str> = heads.iter().map(Head::target).collect();
    assert_eq!(targets, ["/marker"], "{name}: what reached the backend");
    let marker = heads[0].bytes as u64;
    assert_eq!(backend.take_received_bytes(), marker, "{name}: bytes at the backend");
}

fn with_fields(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a.com\r\n{fields}\r\n").into_bytes()
}

#[test]
fn ambiguous_lengths_are_refused() {
    let mut cases = vec![
        ("both_lengths", with_fields("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("both_lengths", with_fields("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400),
        ("differing_lengths", with_fields("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        ("differing_lengths", with_fields("Content-Length: 5, 6\r\n"), 400),
        (
            "differing_lengths",
            with_fields("Content-Length: 0\r\nX: y\r\ncontent-length: 1\r\n"),
            400,
        ),
    ];
    for value in [
        "",
        "+5",
        "-1",
        "5x",
        "x5",
        "0x5",
        "5 5",
        "5;",
        "\"5\"",
        "1.0",
        "1e1",
        ",",
        "5,",
        "5,,5",
        "٣",
        "18446744073709551616",
        "99999999999999999999999999",
        "9223372036854775808000",
    ] {
        cases.push(("bad_length", with_fields(&format!("Content-Length: {value}\r\n")), 400));
    }
    check_all(&cases);
}

#[test]
fn transfer_codings_but_chunked_are_refused() {
    let mut cases = Vec::new();
    for value in [
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "chunked x",
        "\"chunked\"",
        "\x0bchunked",
        "",
        "cow, ",
        "chunked,",
    ] {
        let request = with_fields(&format!("Transfer-Encoding: {value}\r\n"));
        cases.push(("bad_transfer_coding", request, 400));
    }
    let two = "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n";
    cases.push(("bad_transfer_coding", with_fields(two), 400));
    let old =
        b"POST / HTTP/1.0\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
    cases.push(("transfer_coding_in_1_0", old, 400));
    check_all(&cases);
}

#[test]
fn bare_line_ends_are_refused() {
    let mut cases = Vec::new();
    for (name, request) in [
        ("bare_lf", "GET / HTTP/1.1\nHost: a.com\r\n\r\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a.com\n\r\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a.com\r\nX: y\n\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a.com\r\n\n"),
        ("bare_lf", "GET / HTTP/1.1\nHost: a.com\n\n"),
        ("bare_lf", "\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a.com\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\rHost: a.com\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\r\nHost: a.com\r\nX: a\rb\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\r\nHost: a.com\r\nX: a\r\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\r\nHost: a.com\r\r\n\r\n"),
        ("bare_cr", "GET /\r HTTP/1.1\r\nHost: a.com\r\n\r\n"),
        ("nul", "GET / HTTP/1.1\r\nHost: a.com\r\nX: a\0b\r\n\r\n"),
        ("nul", "GET / HTTP/1.1\r\nHost: a.com\0\r\n\r\n"),
        ("nul", "GET /\0 HTTP/1.1\r\nHost: a.com\r\n\r\n"),
        ("nul", "GET / HTTP/1.1\r\nHost: a.com\r\nX\0: a\r\n\r\n"),
        ("two_empty_lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n"),
    ] {
        cases.push((name, request.as_bytes().to_vec(), 400));
    }
    check_all(&cases);
}

#[test]
fn malformed_fields_are_refused() {
    let mut cases = Vec::new();
    for (name, fields) in [
        ("space_before_colon", "Content-Length : 5\r\n"),
        ("space_before_colon", "Transfer-Encoding\t: chunked\r\n"),
        ("space_before_colon", "X : y\r\n"),
        ("folded_line", "X: a\r\n b\r\n"),
        ("folded_line", "X: a\r\n\tTransfer-Encoding: chunked\r\n"),
        ("folded_line", "X: a\r\n \r\n"),
        ("bad_field", "no colon\r\n"),
        ("bad_field", ": no name\r\n"),
        ("bad_field", "X(y): z\r\n"),
        ("bad_field", "X\u{e4}: z\r\n"),
        ("bad_field", "X y: z\r\n"),
    ] {
        cases.push((name, with_fields(fields), 400));
    }
    let first = b"GET / HTTP/1.1\r\n Host: a.com\r\nHost: a.com\r\n\r\n".to_vec();
    cases.push(("folded_line", first, 400));
    check_all(&cases);
}

#[test]
fn missing_double_and_invalid_hosts_are_refused() {
    let mut cases = vec![("no_host", b"GET / HTTP/1.1\r\nX: a.com\r\n\r\n".to_vec(), 400)];
    for (name, fields) in [
        ("two_hosts", "Host: a.com\r\nHost: b.com\r\n"),
        ("two_hosts", "Host: a.com\r\nX: y\r\nhost: a.com\r\n"),
    ] {
        cases.push((name, format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes(), 400));
    }
    for host in [
        "a..com",
        ".a.com",
        "a.com..",
        "a b.com",
        "a.com/x",
        "a.com:x",
        "a.com:80:80",
        "a.com,b.com",
        "a@a.com",
        "[::1",
        "::1",
        "a\u{e4}.com",
        "a%2ecom",
        "http://a.com",
        "a.com?x",
        "a.com#x",
        "a.com\\",
        "a\tb",
        "a.com:999999",
    ] {
        cases.push((
            "bad_host",
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
            400,
        ));
    }
    cases.push(("bad_host", b"GET http://a..com/ HTTP/1.1\r\nHost: a.com\r\n\r\n".to_vec(), 400));
    cases.push(("bad_host", b"GET http:///x HTTP/1.1\r\nHost: a.com\r\n\r\n".to_vec(), 400));
    cases.push(("bad_host", b"GET http://u@a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n".to_vec(), 400));
    // the target wins, and a bad Host beside it is refused all the same
    cases.push(("bad_host", b"GET http://a.com/ HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(), 400));
    cases.push(("no_host", b"GET http://a.com/ HTTP/1.1\r\n\r\n".to_vec(), 400));
    check_all(&cases);
}

#[test]
fn malformed_request_lines_are_refused() {
    let mut cases = Vec::new();
    for (line, status) in [
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        (" GET / HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET /", 400),
        ("GET", 400),
        ("/ HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
        ("GET relative HTTP/1.1", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET ftp://a.com/ HTTP/1.1", 400),
        ("GET / HTTP/11", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("CONNECT a.com:443 HTTP/1.1", 405),
        ("CONNECT / HTTP/1.1", 405),
    ] {
        let request = format!("{line}\r\nHost: a.com\r\n\r\n").into_bytes();
        cases.push((line, request, status));
    }
    cases.push((
        "no HTTP at all",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        400,
    ));
    check_all(&cases);
}

/// RFC 9110 §15.5.6: a 405 names what would be allowed.
#[test]
fn connect_is_refused_with_a_405() {
    let daemon = Daemon::proxying(serde_json::json!(["empty", {}, false]));
    let mut client = daemon.connect();
    let answer = client.exchange("CONNECT a.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert_eq!(answer.status(), 405);
    let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";
    assert_eq!(answer.head.field("Allow"), Some(allowed));
}

#[test]
fn unknown_expectations_are_refused() {
    check_all(&[
        ("bad_expectation", with_fields("Expect: 200-ok\r\nContent-Length: 5\r\n"), 417),
        ("bad_expectation", with_fields("Expect: 100-continue, x\r\nContent-Length: 5\r\n"), 417),
    ]);
}

#[test]
fn heads_past_the_limits_are_refused() {
    let fields: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let value = "x".repeat(20 * 1024);
    let target = format!("GET /{value} HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let backend = Backend::new().serve_text("from the backend");
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    for (name, request, status) in [
        ("too_many_fields", with_fields(&fields), 431),
        ("head_too_large", with_fields(&format!("X: {value}\r\n")), 431),
        ("target_too_long", target.into_bytes(), 414),
    ] {
        let mut client = daemon.connect();
        client.send(&request);
        expect_refusal(&mut client, name, &request, status);
        expect_untouched(&daemon, &backend, name);
    }
}

#[test]
fn max_head_bounds_the_head() {
    let backend = Backend::new().serve_text("from the backend");
    let daemon = Setup::new().rule("a.com", backend.rule()).set("max_head", "32k").start();
    let request = with_fields(&format!("X: {}\r\n", "x".repeat(20 * 1024)));
    assert_eq!(daemon.connect().exchange(request).status(), 200);
    backend.take_heads();
    backend.take_received_bytes();
    let mut client = daemon.connect();
    let request = with_fields(&format!("X: {}\r\n", "x".repeat(40 * 1024)));
    client.send(&request);
    expect_refusal(&mut client, "head_too_large", &request, 431);
    expect_untouched(&daemon, &backend, "head_too_large");
}

/// The head was good and is at the backend; its body never looks complete there.
#[test]
fn chunks_that_break_later_never_look_whole() {
    let head = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\r\nhello\r\nx\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n-1\r\n0\r\n\r\n",
        "5\r\nhello\r\n+0\r\n\r\n",
        "5\r\nhello\r\n0x0\r\n\r\n",
        "5\r\nhello\r\n 0\r\n\r\n",
        "5\r\nhello\r\n0 \r\n\r\n",
        "5\r\nhello\r\nffffffffffffffff\r\n0\r\n\r\n",
        "5\r\nhello\r\n10000000000000000\r\n0\r\n\r\n",
        "5\r\nhello\r\n00000000000000000\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0;a\nb\r\n\r\n",
        "5\r\nhello\r\n0;a\0\r\n\r\n",
        "5\r\nhello\r\n0;a\rb\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ] {
        check_broken(head, body);
    }
    let long = format!("5\r\nhello\r\n1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(100 * 1024));
    check_broken(head, &long);
    let trailers: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    check_broken(head, &format!("5\r\nhello\r\n0\r\n{trailers}\r\n"));
}

#[track_caller]
fn check_broken(head: &str, body: &str) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(head);
    client.send("3\r\nabc\r\n");
    let mut server = backend.accept();
    server.expect_request("POST / HTTP/1.1");
    server.expect_body("3\r\nabc\r\n");
    drop(client.try_send(format!("{body}{}", get("a.com", "/smuggled"))));
    let (came, _ending) = server.read_to_end();
    let good = b"5\r\nhello\r\n";
    let short: &[u8] = if came.len() < good.len() { &good[..came.len()] } else { good };
    assert_same(
        &format!("what came before the fault in {}", show(body.as_bytes())),
        short,
        &came[..short.len()],
    );
    let whole = find(&came, b"\r\n0\r\n\r\n").is_some() || came.ends_with(b"\r\n\r\n");
    assert!(!whole, "{}: the backend saw a whole body:\n{}", show(body.as_bytes()), show(&came));
    assert!(
        find(&came, b"smuggled").is_none(),
        "the next request is in the body:\n{}",
        show(&came)
    );
    let (answer, _ending) = client.read_to_end();
    if !answer.is_empty() {
        let end = find(&answer, b"\r\n\r\n").expect("a whole answer");
        let status = Head::parse(&answer[..end + 4]).status();
        assert!((400..500).contains(&status), "expected a 4xx, found {status}");
        assert!(find(&answer[end..], b"HTTP/1.1").is_none(), "two answers:\n{}", show(&answer));
    }
    backend.expect_no_connection();
}
