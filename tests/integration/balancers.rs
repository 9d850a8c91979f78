//! Behind load balancers that say in a header of the PROXY protocol, or by the address they come
//! to, who the client is and that it speaks TLS: where that shows, and that a client can't say it
//! of itself.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{Head, get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, spin};

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 4000 80\r\n";
const TCP4: [u8; 12] = [198, 51, 100, 8, 192, 0, 2, 1, 0x10, 0, 0, 80];
/// The extension of a client that came over TLS.
const SSL: [u8; 8] = [0x20, 0, 5, 1, 0, 0, 0, 1];

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, &rest].concat()
}

fn over_tls() -> Vec<u8> {
    v2(1, 0x11, &[&TCP4, &SSL])
}

/// What a client writes that wants to be taken for another.
fn forged(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-For: 192.0.2.66\r\n\
         X-Forwarded-Proto: {}\r\nForwarded: for=192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\n\r\n",
        if path.contains("https") { "https" } else { "http" }
    )
}

fn setup(backend: &Backend) -> Setup {
    Setup::new().set("trusted_sources", "127.0.0.0/8").rule("a.com", backend.rule())
}

/// Sends a request and answers it; the head that the backend got.
#[track_caller]
fn seen(client: &mut Connection, backend: &Backend, request: &str) -> Head {
    client.send(request);
    let mut server = backend.accept();
    let head = server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.expect_answer().status(), 200);
    head
}

#[track_caller]
fn expect_fields(head: &Head, client: &str, scheme: &str) {
    assert_eq!(head.all("X-Forwarded-For"), [client], "{head:#?}");
    assert_eq!(head.all("X-Forwarded-Proto"), [scheme], "{head:#?}");
    assert_eq!(head.field("Forwarded").or(head.field("X-Real-IP")), None, "{head:#?}");
}

/// Every request of a connection is the client's that the header names, on `bind` and
/// `bind_internal`.
#[test]
fn fields_come_from_the_header_alone() {
    let backend = Backend::new();
    let daemon = setup(&backend)
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("bind_internal", "127.0.0.1:0 accept-proxy")
        .start();
    for (header, client, scheme) in [
        (V1.to_vec(), "198.51.100.7", "http"),
        (v2(1, 0x11, &[&TCP4]), "198.51.100.8", "http"),
        (over_tls(), "198.51.100.8", "https"),
        (v2(1, 0, &[&SSL]), "127.0.0.1", "https"),
        (v2(0, 0x11, &[&TCP4, &SSL]), "127.0.0.1", "http"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "http"),
    ] {
        for mut connection in [daemon.connect(), daemon.connect_internal()] {
            connection.send(&header);
            for path in ["/http", "/https", "/again"] {
                let head = seen(&mut connection, &backend, &forged(path));
                expect_fields(&head, client, scheme);
            }
        }
    }
}

/// By the flag `https`: where no header can say it, and for balancers that send version 1.
#[test]
fn an_address_can_be_for_https() {
    let backend = Backend::new();
    let start = |setup: Setup| setup.start();
    let daemon = start(setup(&backend).set("bind", "127.0.0.1:0 accept-proxy https"));
    let mut client = daemon.connect();
    client.send(V1);
    for path in ["/http", "/https"] {
        expect_fields(&seen(&mut client, &backend, &forged(path)), "198.51.100.7", "https");
    }
    let daemon = start(setup(&backend).set("bind", "127.0.0.1:0 https"));
    let head = seen(&mut daemon.connect(), &backend, &forged("/http"));
    expect_fields(&head, "127.0.0.1", "https");
    // a terminator's own fields are better informed; without them the address counts
    let daemon = start(
        setup(&backend).set("bind_internal", "127.0.0.1:0 https").rule("r.com", redirect("r.com")),
    );
    let location = |scheme: &str| {
        let mut client = daemon.connect_internal();
        client.send(format!("GET /x HTTP/1.1\r\nHost: r.com\r\n{scheme}\r\n"));
        client.expect_answer().head.field("Location").expect("a place").to_owned()
    };
    assert_eq!(location(""), "https://www.r.com/x");
    assert_eq!(location("X-Forwarded-Proto: http\r\n"), "http://www.r.com/x");
    let head = seen(&mut daemon.connect_internal(), &backend, &forged("/http"));
    assert_eq!(head.all("X-Forwarded-For"), ["192.0.2.66"]);
}

fn redirect(host: &str) -> Value {
    json!(["redirect", { "redirect_to": format!("www.{host}") }, false])
}

/// A redirect to https must not loop, and rules for one scheme must be found.
#[test]
fn rules_see_the_scheme_of_the_header() {
    let daemon = Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("trusted_sources", "127.0.0.1")
        .set("access_log", "stdout")
        .rule("http://a.com", json!(["redirect", { "redirect_to": "https://a.com" }, false]))
        .rule("https://a.com", empty(402))
        .rule("r.com", redirect("r.com"))
        .start();
    for (header, status, scheme) in [
        (V1.to_vec(), 302, "http"),
        (v2(1, 0x11, &[&TCP4]), 302, "http"),
        (over_tls(), 402, "https"),
    ] {
        let mut client = daemon.connect();
        client.send(header);
        for path in ["/1", "/2"] {
            assert_eq!(client.exchange(get("a.com", path)).status(), status, "{scheme}");
        }
        let answer = client.exchange(get("r.com", "/x"));
        let location = format!("{scheme}://www.r.com/x");
        assert_eq!(answer.head.field("Location"), Some(&*location));
    }
    // the access log
    assert!(daemon.out.wait_count("\"scheme\":\"https\"", 3));
    assert!(daemon.out.wait_count("\"scheme\":\"http\"", 6));
    assert!(daemon.out.wait_count("198.51.100.7:4000", 3));
}

#[test]
fn an_upgrade_keeps_what_the_header_said() {
    let backend = Backend::new();
    let mut daemon = setup(&backend)
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("bind_internal", "127.0.0.1:0 accept-proxy")
        .add("bind_tcp", "127.0.0.1:0 db.com accept-proxy")
        .rule("held.com", spin(json!({})))
        .rule("db.com", spin(json!({})))
        .start();
    let mut clients = [daemon.connect(), daemon.connect_internal()];
    for client in &mut clients {
        client.send(over_tls());
        expect_fields(&seen(client, &backend, &forged("/1")), "198.51.100.8", "https");
    }
    let mut held = daemon.connect();
    held.send([over_tls(), get("held.com", "/").into_bytes()].concat());
    expect_held(&mut daemon.api(), "held.com", 1);
    let mut raw = Connection::client(daemon.raw_address("TCP"));
    raw.send(over_tls());
    expect_held(&mut daemon.api(), "db.com", 1);
    daemon.upgrade();
    for client in &mut clients {
        expect_fields(&seen(client, &backend, &forged("/2")), "198.51.100.8", "https");
    }
    expect_held(&mut daemon.api(), "held.com", 1);
    expect_held(&mut daemon.api(), "db.com", 1);
    daemon.api().put("/hostname/held.com/", &backend.rule());
    let mut server = backend.accept();
    expect_fields(&server.expect_head(), "198.51.100.8", "https");
    server.send(ok("late"));
    assert_eq!(held.expect_answer().text(), "late");
    daemon.api().put("/hostname/db.com/", &backend.rule_with(json!({"send_proxy": "v2"})));
    let expected = v2(1, 0x11, &[&TCP4[..4], &[127, 0, 0, 1], &TCP4[8..10]]);
    let mut server = backend.accept();
    let header = server.read_exactly(36);
    assert_eq!(header[16..24], expected[16..24]);
    assert_eq!(header[28..], SSL);
}

/// That the client came over TLS is passed on in version 2.
#[test]
fn backends_are_told_of_tls() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .add("bind_tcp", "127.0.0.1:0 a.com accept-proxy")
        .set("trusted_sources", "127.0.0.0/8")
        .rule("a.com", backend.rule_with(json!({"send_proxy": "v2"})))
        .start();
    let mut http = daemon.connect();
    http.send([over_tls(), get("a.com", "/").into_bytes()].concat());
    let mut server = backend.accept();
    let header = server.read_exactly(36);
    assert_eq!((&header[12..16], &header[28..]), (&[0x21, 0x11, 0, 20][..], &SSL[..]));
    server.expect_request("GET / HTTP/1.1");
    let mut raw = Connection::client(daemon.raw_address("TCP"));
    raw.send([&over_tls()[..], b"hello"].concat());
    let mut server = backend.accept();
    assert_eq!(server.read_exactly(36)[28..], SSL);
    server.expect_body("hello");
    let mut plain = Connection::client(daemon.raw_address("TCP"));
    plain.send([V1, b"hello"].concat());
    let mut server = backend.accept();
    assert_eq!(server.read_exactly(28)[12..16], [0x21, 0x11, 0, 12]);
    server.expect_body("hello");
}

fn accepting(key: &str) -> Daemon {
    Setup::new()
        .set("bind", format!("127.0.0.1:0 {key}"))
        .set("trusted_sources", "127.0.0.1")
        .set("max_head", "1k")
        .rule("a.com", empty(402))
        .start()
}

/// Whatever the sender says of its own connection, and in whatever pieces.
#[test]
fn headers_that_name_nobody_are_taken() {
    let daemon = accepting("accept-proxy");
    let junk = vec![0xff; 65_535];
    for header in [
        v2(0, 0, &[]),
        v2(0, 0x11, &[]),
        v2(0, 0x11, &[b"x"]),
        v2(0, 0x31, &[&TCP4]),
        v2(0, 0x55, &[&junk[..300]]),
        v2(0, 0xff, &[&junk]),
        v2(1, 0, &[]),
        v2(1, 0, &[b"x"]),
        v2(1, 0x12, &[&TCP4]),
        v2(1, 0x31, &[&[0; 216]]),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN \xff\xfe wibble\r\n".to_vec(),
        [b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat(),
    ] {
        for cut in [0, 13, 15, 16] {
            let mut client = daemon.connect();
            let cut = cut.min(header.len() - 1);
            client.send(&header[..cut]);
            std::thread::yield_now();
            client.send(&header[cut..]);
            assert_eq!(client.exchange(get("a.com", "/")).status(), 402, "{cut} of {header:?}");
        }
    }
}

#[test]
fn broken_headers_end_the_connection() {
    let daemon = accepting("accept-proxy");
    // a checksum of zeros, extensions past the end
    let wrong_sum = v2(1, 0x11, &[&TCP4, &[3, 0, 4, 0, 0, 0, 0]]);
    for header in [
        wrong_sum,
        v2(1, 0x11, &[&TCP4, &[3, 0, 3, 0, 0, 0]]),
        v2(1, 0x11, &[&TCP4, &[4, 0, 1]]),
        v2(1, 0x11, &[&TCP4, &[4, 0]]),
        v2(1, 0x11, &[&TCP4, &[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 9]]),
        v2(1, 0x11, &[&TCP4[..11]]),
        v2(1, 0x44, &[&TCP4]),
        v2(2, 0x11, &[&TCP4]),
        [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat(),
    ] {
        let mut client = daemon.connect();
        client.send(header);
        let _ = client.try_send(get("a.com", "/"));
        let (answer, _) = client.read_to_end();
        assert!(answer.is_empty(), "answered");
    }
    // CRC-32C of a header that is right
    let mut header = v2(1, 0x11, &[&TCP4, &[3, 0, 4, 0, 0, 0, 0]]);
    let sum = crc32c(&header);
    header[31..].copy_from_slice(&sum.to_be_bytes());
    let mut client = daemon.connect();
    client.send(header);
    assert_eq!(client.exchange(get("a.com", "/")).status(), 402);
}

/// Bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1)))
    })
}
