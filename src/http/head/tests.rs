//! Tests of the contents of accepted heads. Refused heads are in `tests/data`.

use super::*;

/// Parses a request line and fields, which lack the final CRLFs, and calls `look` with the head.
#[track_caller]
fn request<T>(head: &str, look: impl FnOnce(RequestHead<'_, '_>) -> T) -> T {
    let head = format!("{head}\r\n\r\n");
    look(parse_request(head.as_bytes(), &mut field_room()).expect(&head))
}

#[test]
fn methods() {
    for (name, method, idempotent, safe) in [
        ("GET", Method::Get, true, true),
        ("HEAD", Method::Head, true, true),
        ("OPTIONS", Method::Options, true, true),
        ("TRACE", Method::Trace, true, true),
        ("PUT", Method::Put, true, false),
        ("DELETE", Method::Delete, true, false),
        ("POST", Method::Post, false, false),
        ("PATCH", Method::Patch, false, false),
        ("get", Method::Other, false, false),
        ("PROPFIND", Method::OtherSafe, true, true),
        ("REPORT", Method::OtherSafe, true, true),
        ("SEARCH", Method::OtherSafe, true, true),
        ("QUERY", Method::OtherSafe, true, true),
        ("MKCOL", Method::OtherIdempotent, true, false),
        ("VERSION-CONTROL", Method::OtherIdempotent, true, false),
        ("LOCK", Method::Other, false, false),
        ("query", Method::Other, false, false),
    ] {
        request(&format!("{name} / HTTP/1.1\r\nHost: a"), |head| {
            assert_eq!(head.method, method);
            assert_eq!(head.method_bytes, name.as_bytes());
            assert_eq!(head.method.is_idempotent(), idempotent, "{name}");
            assert_eq!(head.method.is_safe(), safe, "{name}");
        });
    }
}

#[test]
fn keep_alive() {
    for (version, connection, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: x, \tclose ,y\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Proxy-Connection: close\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Proxy-Connection: keep-alive\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\n{connection}Host: a");
        request(&head, |parsed| assert_eq!(parsed.keep_alive, expected, "{head}"));
    }
}

#[test]
fn hosts() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: A.com:80", Some("A.com:80")),
        ("GET / HTTP/1.1\r\nHost:\t a \t", Some("a")),
        ("GET / HTTP/1.0", None),
        ("GET http://b:8/ HTTP/1.1\r\nHost: a", Some("b:8")),
        ("GET http://b HTTP/1.0", Some("b")),
    ] {
        request(head, |parsed| {
            assert_eq!(parsed.host, expected.map(str::as_bytes), "{head}");
        });
    }
}

#[test]
fn paths() {
    for (target, expected) in [
        ("GET /a?b", "/a?b"),
        ("GET http://a", ""),
        ("GET http://a?b", "?b"),
        ("GET http://a/?b", "/?b"),
        ("OPTIONS *", ""),
    ] {
        request(&format!("{target} HTTP/1.1\r\nHost: a"), |head| {
            assert_eq!(head.path_and_query(), expected.as_bytes(), "{target}");
        });
    }
}

#[test]
fn framing_of_requests() {
    for (fields, expected) in [
        ("", RequestFraming::None),
        ("Content-Length: 0\r\n", RequestFraming::Length(0)),
        ("content-length:\t12 \r\n", RequestFraming::Length(12)),
        ("Transfer-Encoding: chunked\r\n", RequestFraming::Chunked),
        ("TRANSFER-ENCODING:CHUNKED\t\r\n", RequestFraming::Chunked),
        ("Connection: content-length\r\nContent-Length: 3\r\n", RequestFraming::Length(3)),
    ] {
        request(&format!("POST / HTTP/1.1\r\n{fields}Host: a"), |head| {
            assert_eq!(head.framing, expected, "{fields:?}");
        });
    }
}

#[test]
fn expectations() {
    for (version, expected) in [("1.1", true), ("1.0", false)] {
        let head = format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue");
        request(&head, |parsed| assert_eq!(parsed.expect_continue, expected, "{head}"));
    }
}

#[test]
fn forwarded_schemes() {
    for (fields, expected) in [
        ("", None),
        ("X-Forwarded-Proto: https\r\n", Some(Scheme::Https)),
        ("X-Forwarded-Proto: HTTPS\r\n", Some(Scheme::Https)),
        ("X-Forwarded-Proto: http\r\n", Some(Scheme::Http)),
        ("X-Forwarded-Proto:\r\n", Some(Scheme::Http)),
        ("X-Forwarded-Protocol: ssl\r\n", Some(Scheme::Https)),
        ("X-Forwarded-Proto: http\r\nX-Forwarded-Protocol: SSL\r\n", Some(Scheme::Https)),
        ("X-Forwarded-Protocol: http\r\nX-Forwarded-Proto: https\r\n", Some(Scheme::Http)),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", Some(Scheme::Http)),
        ("X_Forwarded_Proto: https\r\n", None),
    ] {
        request(&format!("GET / HTTP/1.1\r\n{fields}Host: a"), |head| {
            assert_eq!(head.forwarded_scheme, expected, "{fields:?}");
        });
    }
}

#[track_caller]
fn check_response(to: Method, head: &str, framing: ResponseFraming, keep_alive: bool) {
    let bytes = format!("{head}\r\n\r\n");
    let mut room = field_room();
    let parsed = parse_response(bytes.as_bytes(), &mut room, to).expect(head);
    assert_eq!(parsed.framing, framing, "{head}");
    assert_eq!(parsed.keep_alive, keep_alive, "{head}");
}

#[test]
fn framing_of_responses() {
    use ResponseFraming::*;
    let get = Method::Get;
    check_response(get, "HTTP/1.1 200 OK", UntilClose, false);
    check_response(get, "HTTP/1.1 200 OK\r\nContent-Length: 5", Length(5), true);
    check_response(get, "HTTP/1.1 200 OK\r\nContent-Length: 0", Length(0), true);
    check_response(get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Chunked, true);
    check_response(
        get,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5",
        Length(5),
        false,
    );
    check_response(get, "HTTP/1.0 200 OK\r\nContent-Length: 5", Length(5), false);
    check_response(
        get,
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5",
        Length(5),
        true,
    );
    check_response(get, "HTTP/1.0 200 OK\r\nConnection: keep-alive", UntilClose, false);
    check_response(get, "HTTP/1.1 204 No Content", None, true);
    check_response(get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5", None, true);
    check_response(get, "HTTP/1.1 100 Continue", None, true);
    check_response(Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 5", None, true);
    check_response(Method::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", None, true);
    check_response(Method::Head, "HTTP/1.1 200 OK", None, true);
}

#[test]
fn a_head_is_all_of_its_bytes() {
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(parse_request(bytes, &mut field_room()).err(), Some(Refusal::BadRequestLine));
        let mut room = field_room();
        let response = parse_response(bytes, &mut room, Method::Get);
        assert_eq!(response.err(), Some(BadResponse::StatusLine));
    }
}
