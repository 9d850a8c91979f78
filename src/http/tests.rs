//! Tests of the heads and bodies in `tests/data`, each named by the slug of the expected result,
//! and of the properties, over these and over generated input.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::properties;
use super::*;

/// Returns every file of a folder below `tests/data`: its name, the slug (the name up to `-` or
/// `.`), and its bytes.
fn samples(folder: &str) -> Vec<(String, String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let slug = name.split(['-', '.']).next().unwrap().to_owned();
        samples.push((name, slug, std::fs::read(path).unwrap()));
    }
    assert!(!samples.is_empty(), "{folder} holds nothing");
    samples
}

fn read_request(bytes: &[u8]) -> Result<(), Refusal> {
    let length = HeadScan::default().advance(bytes)?.expect("a whole head");
    assert_eq!(length, bytes.len());
    parse_request(bytes, &mut field_room()).map(drop)
}

fn read_response(bytes: &[u8]) -> Result<(), BadResponse> {
    let length = HeadScan::default().advance(bytes)?.expect("a whole head");
    assert_eq!(length, bytes.len());
    parse_response(bytes, &mut field_room(), Method::Get).map(drop)
}

#[test]
fn sample_requests() {
    for (name, _, bytes) in samples("heads/accepted") {
        assert_eq!(read_request(&bytes), Ok(()), "{name}");
        properties::head(&bytes);
    }
    let mut seen = BTreeSet::new();
    for (name, slug, bytes) in samples("heads/refused") {
        let refusal = read_request(&bytes).expect_err(&name);
        assert_eq!(refusal.slug(), slug, "{name}");
        properties::head(&bytes);
        seen.insert(slug);
    }
    // Refusals that no head can cause are about time, size or body.
    let other = [
        "head_too_large",
        "target_too_long",
        "head_timeout",
        "body_timeout",
        "body_too_large",
        "bad_chunk",
        "bad_trailer",
    ];
    seen.extend(other.map(str::to_owned));
    let all = Refusal::ALL.iter().map(|refusal| refusal.slug().to_owned()).collect();
    assert_eq!(seen, all, "each refusal has a sample, and only those");
}

#[test]
fn sample_responses() {
    for (name, _, bytes) in samples("response_heads/accepted") {
        assert_eq!(read_response(&bytes), Ok(()), "{name}");
        properties::response_head(&bytes);
    }
    for (name, slug, bytes) in samples("response_heads/refused") {
        let bad = read_response(&bytes).expect_err(&name);
        assert_eq!(bad.slug(), slug, "{name}");
        properties::response_head(&bytes);
    }
}

#[test]
fn sample_bodies() {
    let rules = TrailerRules::of_request(Default::default(), false, false);
    for (name, slug, bytes) in samples("chunked/accepted") {
        let mut body = Chunked::new(rules);
        let consumed = body.advance(&bytes).expect(&name).consumed;
        assert_eq!(body.is_done(), slug != "open", "{name}");
        assert_eq!(consumed < bytes.len(), slug == "next_request", "{name}");
        properties::chunked(&bytes);
    }
    for (name, slug, bytes) in samples("chunked/refused") {
        let refusal = Chunked::new(rules).advance(&bytes).expect_err(&name);
        assert_eq!(refusal.slug(), slug, "{name}");
        properties::chunked(&bytes);
    }
}

#[test]
fn the_canary_sings() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sang = std::panic::catch_unwind(|| properties::canary(bytes)).is_err();
    assert!(sang, "a property that must fail held");
}

#[test]
fn refusals_are_named_once() {
    let slugs: BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.slug()).collect();
    assert_eq!(slugs.len(), Refusal::ALL.len());
    for refusal in Refusal::ALL {
        assert!((400..600).contains(&refusal.status()), "{refusal:?}");
        assert_ne!(reason(refusal.status()), "Unknown", "{refusal:?}");
        assert!(refusal.sentence().ends_with('.'), "{refusal:?}");
        assert!(refusal.slug().bytes().all(|b| b.is_ascii_lowercase() || b"_01".contains(&b)));
    }
}

/// Start-lines and fields, valid and invalid.
const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "GET / HTTP/1.1",
    "POST /a?b HTTP/1.1",
    "POST /a HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "OPTIONS http://b.example HTTP/1.1",
    "PUT http://b.example:81?x HTTP/1.1",
    "HEAD https://b.example/x HTTP/1.0",
    "X-ODD / HTTP/1.1",
    "GET /#a HTTP/1.1",
    "GET / HTTP/1.2",
];
const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 103 ",
    "HTTP/1.1 426 Upgrade Required",
    "HTTP/1.1 099 Odd",
];
const FIELDS: &[&str] = &[
    "Host: a.example",
    "Host: a.example",
    "host:\tb.example ",
    "Content-Length: 5",
    "Content-Length: 0",
    "content-length:  007\t",
    "Content-Length: +5",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tChunked ",
    "Transfer-Encoding: gzip, chunked",
    "Connection: close",
    "Connection: keep-alive, X-A",
    "Connection: upgrade",
    "Connection: x-b,Host,content-length, transfer-encoding,x-forwarded-for,Trailer,,expect",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "HTTP2-Settings: AAA",
    "Expect: 100-continue",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "TE: trailers",
    "TE: gzip",
    "Expect: ,",
    "Date: x",
    "Via: 1.1 a",
    "X!Forwarded.By: a",
    "True-Client-IP: 1",
    "Trailer: X-A",
    "X-Forwarded-For: 1.2.3.4",
    "x_forwarded_for: 1.2.3.4",
    "X-Forwarded-Proto: https",
    "X-Forwarded_Proto: https",
    "X-Forwarded-Protocol: ssl",
    "Forwarded: for=1.2.3.4",
    "X-Real-IP: 1.2.3.4",
    "X-A: b",
    "X-A:",
    "X-B:\t c\u{e9} \t",
    "X-C : d",
    " folded",
    "no colon",
];

/// Makes a head from such lines, sometimes with a byte changed.
fn generated(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let fields = proptest::collection::vec(select(FIELDS), 0..9);
    let change = proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (any::<bool>(), select(lines), fields, change).prop_map(|(host, line, fields, change)| {
        let host: &[&str] = if host { &["Host: c.example"] } else { &[] };
        let mut head = [&[line], host, &fields, &["", ""]].concat().join("\r\n").into_bytes();
        if let Some((index, byte)) = change {
            let place = index.index(head.len());
            head[place] = byte;
        }
        head
    })
}

const CHUNK_PIECES: &[&str] = &[
    "0\r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "1\r\nx\r\n",
    "a;b=c\r\n0123456789\r\n",
    "003 ;x = \"\\\"\"",
    "\r",
    "\n",
    "X-A: b\r\n",
    "Host: a\r\n",
    "0\r\n",
    "X-Named: b\r\n",
    "x_Forwarded.for: b\r\n",
    "X-Request-Id: b\r\n",
    "Content-Length: 5\r\n",
    "Keep-Alive: 5\r\n",
    "0",
    "f",
    ";",
    "=",
    "\"",
    " ",
    ":",
    "ffffffffffffffff",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests(bytes in generated(REQUEST_LINES)) {
        properties::head(&bytes);
    }

    #[test]
    fn responses(bytes in generated(STATUS_LINES)) {
        properties::response_head(&bytes);
    }

    #[test]
    fn bodies(pieces in proptest::collection::vec(select(CHUNK_PIECES), 0..12)) {
        properties::chunked(pieces.concat().as_bytes());
    }

    #[test]
    fn clients_in_fields(bytes in "([ \\t]?(10[.]0[.]0[.][0-9]|2001:db8::[0-9]|::ffff:10[.]0[.]0[.][0-9]|unknown|)[ \\t]?[,\n]){0,8}[0-9a-f.:]{0,12}") {
        properties::client_field(bytes.as_bytes());
    }

    #[test]
    fn anything(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        properties::head(&bytes);
        properties::client_field(&bytes);
        properties::response_head(&bytes);
        properties::chunked(&bytes);
    }

    #[test]
    fn line_ends(bytes in proptest::collection::vec(select(&b"\r\n\r\n\0a :"[..]), 0..30)) {
        properties::head(&bytes);
        properties::chunked(&bytes);
    }
}
