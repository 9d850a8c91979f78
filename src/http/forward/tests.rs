//! Tables of heads as they come and as they are forwarded.

use super::super::{HeadScan, Method, field_room, parse_request, parse_response};
use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const ADDED: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n";

const HOW: RequestForward = RequestForward {
    client: CLIENT,
    trusted: false,
    scheme: Scheme::Http,
    request_id: 0,
    via: Via::NONE,
};

fn forward(head: &str, trusted: bool) -> String {
    let length = HeadScan::default().advance(head.as_bytes()).unwrap();
    assert_eq!(length, Some(head.len()), "{head:?}");
    let mut room = field_room();
    let parsed = parse_request(head.as_bytes(), &mut room).unwrap();
    let mut out = Vec::new();
    let how = RequestForward { trusted, ..HOW };
    write_request(&parsed, how, &mut out);
    String::from_utf8(out).unwrap()
}

/// Checks how a request head is forwarded. `expected` lacks the final empty line and, on an
/// untrusted listener, the fields that Mantrid adds before it.
#[track_caller]
fn check(head: &str, expected: &str) {
    assert_eq!(forward(head, false), format!("{expected}{ADDED}\r\n"), "untrusted, {head:?}");
}

#[track_caller]
fn check_trusted(head: &str, expected: &str) {
    assert_eq!(forward(head, true), format!("{expected}\r\n"), "trusted, {head:?}");
}

#[test]
fn a_plain_request_goes_on_as_it_came() {
    let plain = "GET /a?b HTTP/1.1\r\nHost: a.com\r\nUser-Agent:x\r\nAccept:  y \r\nX-U: é\r\n";
    check(&format!("{plain}\r\n"), plain);
    check_trusted(&format!("{plain}\r\n"), plain);
    check_trusted(&format!("\r\n{plain}\r\n"), plain);
}

#[test]
fn the_version_is_ours() {
    check("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n");
    check(
        "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n",
    );
}

#[test]
fn hop_by_hop_fields_stay_here() {
    check(
        "GET / HTTP/1.1\r\nConnection: close, x-a , TE\r\nHost: a\r\nKeep-Alive: 5\r\nX-A: 1\r\n\
         X-B: 2\r\nTE: gzip\r\nProxy-Connection: close\r\nx-a: 3\r\nX-C: 4\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-B: 2\r\nX-C: 4\r\n",
    );
    check(
        "GET / HTTP/1.1\r\nTE: a\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
    );
}

#[test]
fn connection_strips_nothing_that_frames_or_routes() {
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\
         Connection: host, content-length, Expect, X-Forwarded-For, X-Forwarded-Proto\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n",
    );
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
         Connection: transfer-encoding\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    );
    check_trusted(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nX_Real_IP: 2\r\n\
         Connection: x-forwarded-for, x_real_ip\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nX_Real_IP: 2\r\n",
    );
}

#[test]
fn forwarding_fields_are_believed_from_trusted_peers_only() {
    let fields = "X-Forwarded-For: 1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Protocol: ssl\r\n\
                  X-Forwarded-Host: h\r\nX-Forwarded-Port: 1\r\nForwarded: for=1\r\nX-Real-IP: 1\r\n\
                  x_forwarded_for: 1\r\nX_Forwarded-Proto: 1\r\nX-Forwarded_Protocol: 1\r\n\
                  X_FORWARDED_HOST: 1\r\nX-Forwarded_Port: 1\r\nX_Real-IP: 1\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}B: c\r\n\r\n");
    check(&head, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n");
    check_trusted(&head, &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}B: c\r\n"));
}

#[test]
fn an_absolute_target_wins() {
    for (target, line) in [
        ("GET http://b.com:81/x?y", "GET /x?y"),
        ("GET HTTP://b.com:81", "GET /"),
        ("GET http://b.com:81?y", "GET /?y"),
        ("OPTIONS http://b.com:81", "OPTIONS *"),
        ("OPTIONS http://b.com:81/", "OPTIONS /"),
    ] {
        check(
            &format!("{target} HTTP/1.1\r\nA: b\r\nHost: a\r\n\r\n"),
            &format!("{line} HTTP/1.1\r\nHost: b.com:81\r\nA: b\r\n"),
        );
    }
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n");
}

#[test]
fn odd_spelling_of_framing_and_host_stops_here() {
    check(
        "POST / HTTP/1.1\r\nHost:\ta\r\nContent-Length:\t005 \r\nB: c\r\n\r\n",
        "POST / HTTP/1.1\r\nB: c\r\nHost: a\r\nContent-Length: 5\r\n",
    );
    for coding in [":\tchunked", ": Chunked", ": chunked ", ":chunked", ": \tCHUNKED\t"] {
        check(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding{coding}\r\nB: c\r\n\r\n"),
            "POST / HTTP/1.1\r\nHost: a\r\nB: c\r\nTransfer-Encoding: chunked\r\n",
        );
    }
}

#[test]
fn upgrades() {
    let upgraded = |head: &str, expected: &str| {
        let tail = "Connection: upgrade\r\n";
        assert_eq!(forward(head, true), format!("{expected}{tail}\r\n"), "{head:?}");
    };
    upgraded(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
         Connection: keep-alive, Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
    );
    for not in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n",
        "Upgrade: websocket, h2c\r\nConnection: upgrade\r\n",
        "Upgrade: websocket\r\nUpgrade: H2C\r\nConnection: upgrade\r\n",
        "Upgrade: HTTP/2.0\r\nConnection: upgrade\r\n",
        "Upgrade:\r\nConnection: upgrade\r\n",
    ] {
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{not}\r\n"), "GET / HTTP/1.1\r\nHost: a\r\n");
    }
    check(
        "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
    );
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\
         Content-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
    );
    for body in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        upgraded(
            &format!(
                "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n{body}\r\n\r\n"
            ),
            &format!("POST / HTTP/1.1\r\nHost: a\r\nUpgrade: tcp\r\n{body}\r\n"),
        );
    }
}

#[test]
fn an_upgrade_that_the_caller_declines_stays_here() {
    let head = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nHost: a\r\n\r\n";
    let mut room = field_room();
    let mut parsed = parse_request(head, &mut room).unwrap();
    parsed.upgrade = false;
    let mut out = Vec::new();
    let how = RequestForward { trusted: true, ..HOW };
    write_request(&parsed, how, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn addresses_and_schemes() {
    for (client, expected) in [
        ("0.0.0.0", "0.0.0.0"),
        ("255.10.9.100", "255.10.9.100"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ] {
        let mut room = field_room();
        let head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut room).unwrap();
        let mut out = Vec::new();
        let client = client.parse().unwrap();
        let how = RequestForward { client, scheme: Scheme::Https, ..HOW };
        write_request(&head, how, &mut out);
        let expected = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {expected}\r\n\
             X-Forwarded-Proto: https\r\n\r\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn numbers() {
    for number in [0, 9, 10, 99, 100, 65535, u64::MAX] {
        let mut out = Vec::new();
        write_number(number, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
    }
}

const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

fn keep() -> ResponseForward {
    ResponseForward {
        client_version: Version::Http11,
        keep_alive: true,
        framing_out: FramingOut::AsIs,
        date: HttpDate::at(0),
        via: Via::NONE,
    }
}

fn close() -> ResponseForward {
    ResponseForward { keep_alive: false, ..keep() }
}

fn keep_10() -> ResponseForward {
    ResponseForward { client_version: Version::Http10, ..keep() }
}

fn decode() -> ResponseForward {
    ResponseForward { framing_out: FramingOut::DecodeChunked, ..keep_10() }
}

/// Checks how a response head is forwarded. `expected` lacks the Date that is added.
#[track_caller]
fn check_response(to: Method, how: ResponseForward, head: &str, expected: &str) {
    let mut room = field_room();
    let parsed = parse_response(head.as_bytes(), &mut room, to).unwrap();
    let mut out = Vec::new();
    write_response(&parsed, how, &mut out);
    let found = String::from_utf8_lossy(&out);
    assert_eq!(found.contains(DATE), parsed.status >= 200, "{found}");
    assert_eq!(found.replacen(DATE, "", 1), expected, "{head:?} {how:?}");
}

#[test]
fn a_response_goes_on_as_it_came() {
    let head = "HTTP/1.1 200 Fine, thanks\r\nContent-Length: 5\r\nServer:x\r\n\r\n";
    check_response(Method::Get, keep(), head, head);
    // Fields that have a meaning only in requests are left alone in a response.
    let head = "HTTP/1.1 200 \r\nHost: x\r\nX-Forwarded-For: 1\r\nContent-Length: 5\r\n\r\n";
    check_response(Method::Get, keep(), head, head);
}

#[test]
fn the_status_line_is_mended() {
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.0 200\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n",
    );
}

#[test]
fn response_connection_is_ours() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close, X-A\r\nX-A: b\r\nKeep-Alive: 1\r\n\
                Proxy-Connection: x\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n";
    let line = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
    check_response(Method::Get, keep(), head, &format!("{line}\r\n"));
    check_response(Method::Get, close(), head, &format!("{line}Connection: close\r\n\r\n"));
    check_response(Method::Get, keep_10(), head, &format!("{line}Connection: keep-alive\r\n\r\n"));
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    );
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.1 200 OK\r\nConnection: content-length, transfer-encoding\r\n\
         Content-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    );
}

#[test]
fn chunks_go_to_those_who_can_read_them() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nA: b\r\n\r\n";
    check_response(Method::Get, keep(), head, head);
    let decoded = "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n";
    check_response(Method::Get, decode(), head, decoded);
    let without = "HTTP/1.1 200 OK\r\nA: b\r\nConnection: keep-alive\r\n\r\n";
    check_response(Method::Head, keep_10(), head, without);
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding:\tChunked \r\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
}

#[test]
fn responses_without_a_body() {
    let head = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
    check_response(Method::Get, keep(), head, head);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    check_response(Method::Head, keep(), head, head);
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nA: b\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
    );
    check_response(
        Method::Get,
        close(),
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    );
}

#[test]
fn a_switch_keeps_its_upgrade() {
    check_response(
        Method::Get,
        keep(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\
         Connection: upgrade\r\n\r\n",
    );
}

#[test]
fn a_date_is_added_where_there_is_none() {
    let date = |head: &str| {
        let mut room = field_room();
        let parsed = parse_response(head.as_bytes(), &mut room, Method::Get).unwrap();
        let mut out = Vec::new();
        write_response(&parsed, keep(), &mut out);
        String::from_utf8(out).unwrap().matches("Date: ").count()
    };
    assert_eq!(date("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 1);
    assert_eq!(date("HTTP/1.1 500 No\r\nContent-Length: 0\r\nDate: x\r\n\r\n"), 1);
    assert_eq!(
        date("HTTP/1.1 200 OK\r\nConnection: date\r\nContent-Length: 0\r\nDate: x\r\n\r\n"),
        1
    );
    assert_eq!(date("HTTP/1.1 103 Early\r\n\r\n"), 0);
}

#[test]
fn a_426_says_what_to_upgrade_to() {
    let head = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/3.0, websocket\r\nConnection: Upgrade\r\n\
                Content-Length: 0\r\n\r\n";
    let line =
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/3.0, websocket\r\nContent-Length: 0\r\n";
    check_response(Method::Get, keep(), head, &format!("{line}Connection: upgrade\r\n\r\n"));
    check_response(
        Method::Get,
        close(),
        head,
        &format!("{line}Connection: upgrade, close\r\n\r\n"),
    );
    let kept = format!("{line}Connection: upgrade, keep-alive\r\n\r\n");
    check_response(Method::Get, keep_10(), head, &kept);
    let head = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n";
    check_response(Method::Get, keep(), head, head);
}

#[test]
fn te_passes_where_trailers_do() {
    let tail = "TE: trailers\r\nConnection: TE\r\n";
    for te in [
        "TE: trailers\r\nConnection: TE\r\n",
        "te: gzip;q=0.5, Trailers\r\nConnection: te, close\r\n",
        "TE:trailers\r\n",
    ] {
        let found = forward(&format!("GET / HTTP/1.1\r\n{te}Host: a\r\n\r\n"), true);
        assert_eq!(found, format!("GET / HTTP/1.1\r\nHost: a\r\n{tail}\r\n"), "{te}");
    }
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n";
    let both = format!("{upgrade}TE: trailers\r\nConnection: upgrade, TE\r\n\r\n");
    assert_eq!(forward(&both, true), both);
    check("GET / HTTP/1.0\r\nTE: trailers\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n");
}

#[test]
fn an_expectation_of_nothing_stays_here() {
    for empty in ["Expect:", "Expect: ,", "Expect: , ,\t", "Expect: \r\nexpect:,"] {
        check(
            &format!("GET / HTTP/1.1\r\n{empty}\r\nHost: a\r\n\r\n"),
            "GET / HTTP/1.1\r\nHost: a\r\n",
        );
    }
    let head = "GET / HTTP/1.1\r\nExpect: ,100-Continue,\r\nHost: a\r\n";
    check(&format!("{head}\r\n"), head);
}

#[test]
fn via_is_added_in_both_directions() {
    let via = Via::new("edge-1").unwrap();
    let mut room = field_room();
    let bytes = b"GET / HTTP/1.0\r\nVia: 1.1 a\r\nConnection: via\r\nHost: a\r\n\r\n";
    let head = parse_request(bytes, &mut room).unwrap();
    assert!(!head.came_through(&via) && head.came_through(&Via::new("A").unwrap()));
    let mut out = Vec::new();
    write_request(&head, RequestForward { trusted: true, via, ..HOW }, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET / HTTP/1.1\r\nVia: 1.1 a\r\nHost: a\r\nVia: 1.0 edge-1\r\n\r\n"
    );
    let mut room = field_room();
    let head =
        parse_response(b"HTTP/1.1 204 A\r\nDate: x\r\n\r\n", &mut room, Method::Get).unwrap();
    let mut out = Vec::new();
    write_response(&head, ResponseForward { via, ..keep() }, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 204 A\r\nDate: x\r\nVia: 1.1 edge-1\r\n\r\n"
    );
}

/// Names as clients may forge them, each with another character between the words.
#[test]
fn no_spelling_of_a_forwarding_field_passes() {
    for name in [
        "X-Forwarded",
        "X-Forwarded-",
        "X_Forwarded_For",
        "X.Forwarded.For",
        "X-FORWARDED-SSL",
        "x-forwarded-scheme",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "x!forwarded!by",
        "X`Forwarded|Path",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Tls-Client-Cert",
        "X-ForwardedFor",
        "X~Forwarded",
        "Forwarded",
        "FORWARDED",
        "X!Real!IP",
        "X_Real.IP",
        "True-Client-IP",
        "true_client_ip",
        "Client-IP",
        "Client.Ip",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-ProxyUser-Ip",
        "Front-End-Https",
        "front_end_https",
        "X-Original-URL",
        "X_Original_Url",
        "X-Rewrite-URL",
        "X-Original-Host",
        "X-Original-Forwarded-For",
        "X-Url-Scheme",
        "CF-Connecting-IP",
        "CF-Connecting-IPv6",
        "Fastly-Client-IP",
    ] {
        let line = format!("{name}: 1\r\n");
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}Connection: {name}\r\n\r\n");
        check(&head, "GET / HTTP/1.1\r\nHost: a\r\n");
        check_trusted(&head, &format!("GET / HTTP/1.1\r\nHost: a\r\n{line}"));
    }
    for name in [
        "XForwarded-For",
        "X-Forward",
        "X-Forwarde",
        "X--Forwarded-For",
        "XX-Forwarded-For",
        "Forwarded-For",
        "X-Real-IPs",
        "X-Http-Method-Override",
        "X-Original-Filename",
        "X-Host",
        "Client-IPs",
        "Clientxip",
        "X-Request-Id",
        "Front-End-Http",
        "Forwardee",
        "X-Rewrite-URI",
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 1\r\n");
        check(&format!("{head}\r\n"), &head);
    }
}
