//! What a head looks like on the other side: hop-by-hop fields out, forwarding fields by trust, our
//! own version, origin form, and everything else byte for byte and in order.

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked};
use crate::message::{Head, assert_same, get, ok};

/// What the backend gets for this request on the untrusted address.
#[track_caller]
fn forwarded(request: impl AsRef<[u8]>) -> Head {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(request);
    backend.accept().expect_head()
}

#[track_caller]
fn check(request: &str, expected: &str) {
    let found = forwarded(request).lines();
    assert_same(
        &format!("the head forwarded for\n{request}"),
        expected.as_bytes(),
        found.as_bytes(),
    );
}

#[test]
fn order_case_and_bytes_of_fields_stay() {
    check(
        "GET /a?b=c HTTP/1.1\r\nX-One: 1\r\nhost: A.com:80\r\nx-ONE:  two  words\t\r\nCookie: a=b; c=d\r\n\
         X-Latin: \u{fc}\r\nX-Empty:\r\nAccept: */*\r\n\r\n",
        "GET /a?b=c HTTP/1.1\nX-One: 1\nhost: A.com:80\nx-ONE: two  words\nCookie: a=b; c=d\n\
         X-Latin: \u{c3}\u{bc}\nX-Empty: \nAccept: */*\n",
    );
}

#[test]
fn hop_by_hop_fields_are_removed() {
    check(
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, X-Mine , x-other\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-Mine: 1\r\nX-Stays: 2\r\nX-OTHER: 3\r\n\
         Upgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.com\nX-Stays: 2\n",
    );
    check(
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.com\n",
    );
    check(
        "GET / HTTP/1.1\r\nConnection: X-A\r\nX-A: 1\r\nConnection: x-b\r\nHost: a.com\r\nX-B: 1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.com\n",
    );
}

#[test]
fn connection_field_strips_nothing_that_frames_or_routes() {
    check(
        "POST / HTTP/1.1\r\nConnection: Host, Content-Length, close\r\nHost: a.com\r\n\
         Content-Length: 2\r\n\r\nok",
        "POST / HTTP/1.1\nHost: a.com\nContent-Length: 2\n",
    );
    check(
        "POST / HTTP/1.1\r\nConnection: Transfer-Encoding\r\nHost: a.com\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\nHost: a.com\nTransfer-Encoding: chunked\n",
    );
    let head = forwarded(
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: X-Forwarded-For, X-Forwarded-Proto\r\n\r\n",
    );
    assert_eq!(head.field("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(head.field("X-Forwarded-Proto"), Some("http"));
}

/// Every spelling that an application might believe.
const FORWARDING: [&str; 9] = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Protocol: https",
    "X-Forwarded-Host: evil.com",
    "X-Forwarded-Port: 666",
    "Forwarded: for=6.6.6.6;host=evil.com",
    "X-Real-IP: 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "x_real-IP: 6.6.6.6",
];

#[test]
fn forwarding_fields_of_a_client_are_replaced() {
    let fields = FORWARDING.join("\r\n");
    let head =
        forwarded(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{fields}\r\nX-Stays: 1\r\n\r\n"));
    let mut expected = vec!["Host: a.com", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http"];
    expected.push("X-Stays: 1");
    let mut found: Vec<String> =
        head.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    found.sort();
    assert_eq!(expected, found);
}

#[test]
fn forwarding_fields_of_a_terminator_pass() {
    let backend = Backend::new();
    let daemon = Setup::new().internal().rule("a.com", backend.rule()).start();
    let mut client = daemon.connect_internal();
    let fields = FORWARDING.join("\r\n");
    client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{fields}\r\nX-Stays: 1\r\n\r\n"));
    let head = backend.accept().expect_head();
    let found: Vec<String> =
        head.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let expected: Vec<&str> =
        ["Host: a.com"].into_iter().chain(FORWARDING).chain(["X-Stays: 1"]).collect();
    assert_eq!(expected, found);
}

#[test]
fn an_absolute_target_goes_on_in_origin_form() {
    check(
        "GET http://a.com/x?y HTTP/1.1\r\nHost: b.com\r\nX: 1\r\n\r\n",
        "GET /x?y HTTP/1.1\nHost: a.com\nX: 1\n",
    );
    check(
        "GET http://A.com:80 HTTP/1.1\r\nHost: b.com\r\nX: 1\r\n\r\n",
        "GET / HTTP/1.1\nHost: A.com:80\nX: 1\n",
    );
    check(
        "GET http://a.com?y=/ HTTP/1.1\r\nHost: a.com\r\n\r\n",
        "GET /?y=/ HTTP/1.1\nHost: a.com\n",
    );
    check("GET HTTPS://a.com/x HTTP/1.1\r\nHost: a.com\r\n\r\n", "GET /x HTTP/1.1\nHost: a.com\n");
}

#[test]
fn absolute_target_of_http_1_0_becomes_the_host() {
    let head = forwarded("GET http://a.com/x HTTP/1.0\r\nX: 1\r\n\r\n");
    assert_eq!((head.start.as_str(), head.field("Host")), ("GET /x HTTP/1.1", Some("a.com")));
}

#[test]
fn the_version_is_ours() {
    check("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n", "GET / HTTP/1.1\nHost: a.com\n");
    check(
        "GET / HTTP/1.0\r\nHost: a.com\r\nConnection: keep-alive\r\nKeep-Alive: 9\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.com\n",
    );
}

/// What the client gets for an answer of the backend, without the body.
#[track_caller]
fn check_answer(answer: impl AsRef<[u8]>, expected: &str) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(&answer);
    let mut head = client.expect_head();
    // These answers have none of their own.
    head.fields.retain(|(name, _)| name != "Date");
    let found = head.lines();
    assert_same("the head of the answer", expected.as_bytes(), found.as_bytes());
}

#[test]
fn answers_keep_what_is_theirs() {
    check_answer(
        "HTTP/1.1 299 Very  Odd: reason \r\nSet-Cookie: a=1\r\nX: 1\r\nset-cookie: b=2\r\nX-Latin: \u{fc}\r\n\
         Content-Length: 0\r\nServer: theirs\r\n\r\n",
        "HTTP/1.1 299 Very  Odd: reason \nSet-Cookie: a=1\nX: 1\nset-cookie: b=2\nX-Latin: \u{c3}\u{bc}\n\
         Content-Length: 0\nServer: theirs\n",
    );
    check_answer("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \nContent-Length: 0\n");
}

#[test]
fn answers_lose_their_hop_by_hop_fields() {
    check_answer(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Mine, Content-Length\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\n\
         Proxy-Connection: close\r\nUpgrade: h2c\r\nContent-Length: 0\r\nX-Stays: 1\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\nX-Stays: 1\n",
    );
    check_answer(
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n",
    );
}

#[test]
fn a_client_on_ipv6_is_told_so() {
    let backend = Backend::new();
    let daemon = Setup::new().set("bind", "[::1]:0").rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    assert_eq!(server.expect_head().field("X-Forwarded-For"), Some("::1"));
    server.send(ok(""));
    client.expect_status(200);
}
