//! The pure part of a request's path: a head measured, parsed and forwarded; a chunked body
//! checked.
//!
//! Each asserts its result inside, so that nothing is measured that does not work.
#![allow(missing_docs)] // criterion's macro writes a public function without
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mantrid::http::{
    Chunked, FramingOut, HeadScan, HttpDate, Method, RequestForward, RequestFraming,
    ResponseForward, ResponseFraming, Scheme, Version, Via, field_room, parse_request,
    parse_response, write_request, write_response,
};

/// What `wrk` sends.
const SHORT: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
const BROWSER: &[u8] = include_bytes!("../tests/data/heads/accepted/browser.http");
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 06 Nov 1994 08:49:37 \
    GMT\r\nContent-Type: text/html\r\nContent-Length: 64\r\nConnection: keep-alive\r\n\r\n";
/// What a site answers a browser: caching, cookies, policies.
const LONG_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 06 Nov 1994 08:49:37 \
    GMT\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 64\r\nConnection: keep-alive\r\nVary: \
    Accept-Encoding, Cookie\r\nCache-Control: private, max-age=0, must-revalidate\r\nETag: \
    \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nSet-Cookie: \
    id=f3a1c2d4e5b6978812345678; Path=/; Secure; HttpOnly; SameSite=Lax\r\nSet-Cookie: theme=dark; Path=/; \
    Max-Age=31536000\r\nContent-Security-Policy: default-src 'self'; img-src 'self' data: https:; script-src \
    'self' https://static.example.com; object-src 'none'\r\nStrict-Transport-Security: \
    max-age=63072000\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\r\n";

fn hundred_fields() -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    for index in 0..99 {
        head.extend_from_slice(format!("X-Field-{index}: some value {index}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn heads(criterion: &mut Criterion) {
    let hundred = hundred_fields();
    for (name, head, fields) in
        [("short", SHORT, 1), ("browser", BROWSER, 17), ("100", &hundred, 100)]
    {
        let lines = head.iter().filter(|&&b| b == b'\n').count();
        assert_eq!(lines, fields + 2, "{name}");
        let mut group = criterion.benchmark_group("head");
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(format!("scan/{name}"), |bencher| {
            bencher.iter(|| {
                let end = HeadScan::default().advance(black_box(head));
                assert_eq!(end, Ok(Some(head.len())));
            });
        });
        group.bench_function(format!("parse/{name}"), |bencher| {
            bencher.iter(|| {
                let mut room = field_room();
                let parsed = parse_request(black_box(head), &mut room).expect("a good head");
                assert_eq!(parsed.framing, RequestFraming::None);
                black_box(parsed);
            });
        });
    }
}

fn forward(criterion: &mut Criterion) {
    let hundred = hundred_fields();
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    let how = RequestForward {
        client,
        trusted: false,
        scheme: Scheme::Http,
        request_id: 0,
        via: Via::NONE,
    };
    let mut out = Vec::with_capacity(16 * 1024);
    for (name, head) in [("short", SHORT), ("browser", BROWSER), ("100", &hundred)] {
        let mut group = criterion.benchmark_group("forward");
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(format!("write/{name}"), |bencher| {
            let mut room = field_room();
            let parsed = parse_request(head, &mut room).expect("a good head");
            bencher.iter(|| {
                out.clear();
                write_request(black_box(&parsed), how, &mut out);
                assert!(out.ends_with(b"\r\nX-Forwarded-Proto: http\r\n\r\n"));
            });
        });
        group.bench_function(format!("all/{name}"), |bencher| {
            bencher.iter(|| {
                let end = HeadScan::default().advance(black_box(head));
                assert_eq!(end, Ok(Some(head.len())));
                let mut room = field_room();
                let parsed = parse_request(head, &mut room).expect("a good head");
                out.clear();
                write_request(&parsed, how, &mut out);
                assert!(out.ends_with(b"\r\nX-Forwarded-Proto: http\r\n\r\n"));
            });
        });
    }
    let how = ResponseForward {
        client_version: Version::Http11,
        keep_alive: true,
        framing_out: FramingOut::AsIs,
        date: HttpDate::at(0),
        via: Via::NONE,
    };
    for (name, head) in [("response", RESPONSE), ("response_long", LONG_RESPONSE)] {
        let mut group = criterion.benchmark_group("forward");
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(format!("all/{name}"), |bencher| {
            bencher.iter(|| {
                let end = HeadScan::default().advance(black_box(head));
                assert_eq!(end, Ok(Some(head.len())));
                let mut room = field_room();
                let parsed = parse_response(head, &mut room, Method::Get).expect("a good head");
                assert_eq!(parsed.framing, ResponseFraming::Length(64));
                out.clear();
                write_response(&parsed, how, &mut out);
                assert_eq!(out.len(), head.len() - b"Connection: keep-alive\r\n".len());
            });
        });
    }
}

fn chunked(criterion: &mut Criterion) {
    let mut room = field_room();
    let rules = parse_request(SHORT, &mut room).expect("a good head").trailers(false, false);
    let mut group = criterion.benchmark_group("chunked");
    for size in [1usize, 16, 1024, 64 * 1024] {
        let count = 64 * 1024 / size;
        let chunk = [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
        let body = [chunk.repeat(count).as_slice(), b"0\r\n\r\n"].concat();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("check/{size}"), |bencher| {
            bencher.iter(|| {
                let mut chunked = Chunked::new(rules);
                let passed = chunked.advance(black_box(&body)).map(|passed| passed.as_is);
                assert_eq!(passed, Ok(body.len()));
                assert!(chunked.is_done());
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = heads, forward, chunked
}
criterion_main!(benches);
