//! Where a request ends: what must be accepted, however it is cut into segments.

use crate::backend::Backend;
use crate::daemon::{Daemon, asked_for};
use crate::message::{assert_same, chunk, get, ok};
use crate::script::Connection;

/// Sends `request`, and compares what the backend gets with a first line and a body. The exchange
/// ends with an answer, and the connection serves another request afterwards.
#[track_caller]
fn check(request: impl AsRef<[u8]>, line: &str, body: impl AsRef<[u8]>) {
    for slowly in [false, true] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let mut client = daemon.connect();
        if slowly {
            client.send_slowly(&request);
        } else {
            client.send(&request);
        }
        let mut server = backend.accept();
        let head = server.expect_request(line);
        let chunked = head.field("Transfer-Encoding") == Some("chunked");
        if chunked {
            assert_same("the chunked body", body.as_ref(), &server.expect_chunked().wire);
        } else {
            server.expect_body(&body);
        }
        server.send(ok("one"));
        client.expect_status(200);
        client.expect_body("one");
        second_request(&mut client, &mut server);
    }
}

/// Nothing was left over on either side.
#[track_caller]
fn second_request(client: &mut Connection, server: &mut Connection) {
    client.send(get("a.com", "/second"));
    server.expect_request("GET /second HTTP/1.1");
    server.expect_nothing_more();
    server.send(ok("two"));
    client.expect_status(200);
    client.expect_body("two");
    client.expect_nothing_more();
}

#[test]
fn requests_without_a_body_are_passed_on() {
    check(get("a.com", "/"), "GET / HTTP/1.1", "");
    check("DELETE /x HTTP/1.1\r\nHost: a.com\r\n\r\n", "DELETE /x HTTP/1.1", "");
    check("POST / HTTP/1.1\r\nHost: a.com\r\n\r\n", "POST / HTTP/1.1", "");
}

#[test]
fn bodies_with_a_length_are_passed_on() {
    let request = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nhello";
    check(request, "POST / HTTP/1.1", "hello");
    let request = "GET / HTTP/1.1\r\nContent-Length: 3\r\nHost: a.com\r\n\r\n\r\n\r";
    check(request, "GET / HTTP/1.1", "\r\n\r");
    let request = "PUT / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n";
    check(request, "PUT / HTTP/1.1", "");
}

#[test]
fn chunks_are_passed_on_as_they_came() {
    let head = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "1\r\na\r\n002\r\nbc\r\n0000\r\n\r\n",
        "A;name=value\r\n0123456789\r\n0;last\r\n\r\n",
        "5;a=\"quoted \\\" ; string\"\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Trailer: of the body\r\nX-More: 1\r\n\r\n",
        "4\r\n\r\n\r\n\r\n0\r\n\r\n",
    ] {
        check(format!("{head}{body}"), "POST / HTTP/1.1", body);
    }
    let upper = head.replace(": chunked", ": Chunked");
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (_client, mut server) = asked_for(&daemon, &backend, upper + "2\r\nok\r\n0\r\n\r\n");
    assert_eq!(server.expect_chunked().data, b"ok");
}

#[test]
fn empty_line_in_front_is_skipped() {
    check(format!("\r\n{}", get("a.com", "/")), "GET / HTTP/1.1", "");
}

#[test]
fn white_space_around_a_value_is_allowed() {
    let request = "GET / HTTP/1.1\r\nHost:\ta.com\t \r\nContent-Length: \t2 \t\r\n\r\nok";
    check(request, "GET / HTTP/1.1", "ok");
    check("GET / HTTP/1.1\r\nHost:a.com\r\nX:\r\n\r\n", "GET / HTTP/1.1", "");
}

#[test]
fn unknown_methods_and_strange_targets_are_passed_on() {
    for line in [
        "BREW /pot HTTP/1.1",
        "M-SEARCH / HTTP/1.1",
        "get / HTTP/1.1",
        "PROPFIND /a%20b?c=d&e=%00 HTTP/1.1",
        "GET //double//slash HTTP/1.1",
        "GET /?q=[]{}|^`\"<>\\ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        check(format!("{line}\r\nHost: a.com\r\n\r\n"), line, "");
    }
}

#[test]
fn body_is_passed_on_as_it_comes() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\n");
    let mut server = backend.accept();
    server.expect_request("POST / HTTP/1.1");
    server.expect_nothing_more();
    client.send("01234");
    server.expect_body("01234");
    client.send("56789");
    server.expect_body("56789");
    server.send(ok(""));
    client.expect_status(200);
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n");
    server.expect_request("POST / HTTP/1.1");
    client.send("3\r\nab");
    server.expect_body("3\r\nab");
    client.send("c\r\n");
    server.expect_body("c\r\n");
    client.send("0\r\n\r\n");
    server.expect_body("0\r\n\r\n");
    server.send(ok("end"));
    client.expect_status(200);
    client.expect_body("end");
    second_request(&mut client, &mut server);
}

#[test]
fn chunks_of_every_size_are_passed_on() {
    let mut body = Vec::new();
    for size in 1..300usize {
        body.extend(chunk(vec![b'a' + (size % 26) as u8; size]));
    }
    body.extend(b"0\r\n\r\n");
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_slowly(&body[..2000]);
    client.send(&body[2000..]);
    let mut server = backend.accept();
    server.expect_head();
    assert_same("the chunks", &body, &server.expect_chunked().wire);
}

#[test]
fn head_of_the_largest_size_is_accepted() {
    let start = "GET / HTTP/1.1\r\nHost: a.com\r\nX-Large: ";
    let value = "x".repeat(15 * 1024);
    check_once(&format!("{start}{value}\r\n\r\n"));
    let fields: String = (0..99).map(|n| format!("X-Field-{n}: {n}\r\n")).collect();
    check_once(&format!("GET / HTTP/1.1\r\nHost: a.com\r\n{fields}\r\n"));
}

#[track_caller]
fn check_once(request: &str) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(request);
    let mut server = backend.accept();
    let sent = request.matches("\r\nX-").count();
    let head = server.expect_head();
    let found =
        head.fields.iter().filter(|(name, _)| name == "X-Large" || name.starts_with("X-Field"));
    assert_eq!(sent, found.count(), "fields passed on");
    server.send(ok(""));
    client.expect_status(200);
}
