//! Faults on purpose: now and then a receive, send, connect or accept fails in the ring (`src/ring/faults.rs`).
//! Requests may fail with it, and nothing else: afterwards all is as before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Setup, eventually};
use crate::message::get;
use crate::spin::metric;

/// Sends a request and reads to the end of the connection; whether the answer is whole.
fn ask(address: SocketAddr, request: &[u8], ends: &str) -> bool {
    let answered = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let is_whole = answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(ends.as_bytes());
        // What begins well and does not end well must look cut off, and it did: no length was kept.
        Ok(is_whole)
    };
    match answered() {
        Ok(is_whole) => is_whole,
        Err(error) => {
            let is_silent = matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            );
            assert!(!is_silent, "a client that nobody answers, nor tells");
            false
        }
    }
}

#[test]
fn requests_may_fail_and_nothing_else() {
    let long: &'static str = Box::leak(("x".repeat(300_000) + "end").into_boxed_str());
    let (short, long) = (Backend::new().serve_text("hello"), Backend::new().serve_text(long));
    let daemon = Setup::new()
        .rule("a.com", short.rule())
        .rule("b.com", long.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .first("export MANTRID_FAULTS='15 150 42'")
        .start();
    let files = daemon.open_files();
    let close = |host: &str| get(host, "/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let body = "y".repeat(20_000);
    let post = format!(
        "POST / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let requests = [(close("a.com"), "hello"), (close("b.com"), "end"), (post, "hello")];
    let (mut failed, mut in_a_row) = (0, 0);
    for turn in 0..5000 {
        let (request, ends) = &requests[turn % requests.len()];
        if ask(daemon.address(), request.as_bytes(), ends) {
            in_a_row += 1;
        } else {
            failed += 1;
            in_a_row = 0;
        }
        if failed != 0 && in_a_row == 300 {
            break;
        }
    }
    // each fault costs one request at most, where it is not made good by another attempt
    assert!((10..=150).contains(&failed), "{failed} requests failed");
    assert_eq!(in_a_row, 300, "and then no more");
    let mut api = daemon.api();
    assert_eq!(metric(&mut api, "panics_total"), 0.0);
    for host in ["a.com", "b.com"] {
        assert_eq!(api.get(&format!("/stats/{host}/"))["open_requests"], 0);
    }
    eventually("nothing is left open", || metric(&mut api, "connections_open") == 0.0);
    let left = daemon.open_files();
    assert!(left <= files + 16, "{files} descriptors before, {left} after");
}
