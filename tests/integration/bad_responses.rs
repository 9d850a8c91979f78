//! The access log names the rule that a backend's response broke.

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::daemon::{Setup, asked};

/// Sends one response of a backend, and returns the status the client got and the line of the log.
#[track_caller]
fn line_for(response: &str) -> (u16, Value) {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().rule("a.com", backend.rule()));
    let daemon = setup.start();
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(response);
    server.half_close_if_open();
    let status = client.expect_head().status();
    if status == 200 {
        let _ = client.read_to_end();
    }
    (status, wait_for(&path, 1).remove(0))
}

#[track_caller]
fn expect_reason(response: &str, reason: &str) {
    let (status, line) = line_for(response);
    assert_eq!(status, 502, "{response:?}");
    let found = (&line["termination"], &line["reason"]);
    assert_eq!(found, (&json!("backend_bad_answer"), &json!(reason)), "{response:?}");
}

#[test]
fn bad_head_of_a_response_is_named() {
    expect_reason("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "bad_status_line");
    expect_reason("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "bad_length");
    expect_reason("HTTP/1.1 200 OK\r\nA\r\n\r\n", "bad_field");
    expect_reason("HTTP/1.1 200 OK\nA: b\r\n\r\n", "bare_lf");
    expect_reason("HTTP/1.1 101 Switching Protocols\r\n\r\n", "bad_switch");
}

#[test]
fn response_that_begins_or_ends_wrongly_is_named() {
    expect_reason("SSH-2.0-OpenSSH\r\n", "stray_bytes");
    expect_reason("HTTP/1.1 200 OK\r\nContent-Le", "head_cut");
    expect_reason(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "switch_unasked",
    );
}

#[test]
fn bad_body_of_a_response_is_named() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect_reason(&format!("{head}x\r\n"), "bad_chunk");
    let (status, line) = line_for("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!(status, 200);
    assert_eq!((&line["termination"], &line["reason"]), (&json!("backend_cut"), &Value::Null));
}
