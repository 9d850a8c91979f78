//! What idle connections cost. User memory only: the kernel's part is not ours to choose.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::Setup;
use crate::message::get;
use crate::script::Connection;

/// Whether `count` connections fit into the limit of open files, with room for all other tests.
fn enough_files_for(count: u64) -> bool {
    let (soft, _hard) =
        rlimit::getrlimit(rlimit::Resource::NOFILE).expect("the limit of open files");
    let enough = count + 500 < soft;
    if !enough {
        eprintln!("skipped: {count} connections do not fit into `ulimit -n` {soft}");
    }
    enough
}

#[test]
fn idle_connections() {
    const COUNT: u64 = 5000;
    const EACH_BYTES_MAX: u64 = 2048;
    if !enough_files_for(COUNT) {
        return;
    }
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .rule("a.com", backend.rule())
        .start();
    let request = |client: &mut Connection, n: u64| {
        let host = if n.is_multiple_of(2) { "empty.com" } else { "a.com" };
        let status = client.exchange(get(host, "/")).status();
        assert_eq!(status, if n.is_multiple_of(2) { 403 } else { 200 });
    };
    let mut first = daemon.connect();
    (0..100).for_each(|n| request(&mut first, n));
    let before = daemon.resident_bytes();
    let mut clients: Vec<Connection> = Vec::new();
    for n in 0..COUNT {
        let mut client = daemon.connect();
        request(&mut client, n);
        clients.push(client);
    }
    let each = daemon.resident_bytes().saturating_sub(before) / COUNT;
    assert!(each <= EACH_BYTES_MAX, "an idle connection costs {each} bytes, over {EACH_BYTES_MAX}");
    // they are alive
    for (n, client) in clients.iter_mut().enumerate().step_by(100) {
        request(client, n as u64);
    }
}

/// Traffic does not add to it: buffers are given back.
#[test]
fn traffic_leaves_nothing_behind() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let mut clients: Vec<Connection> = (0..50).map(|_| daemon.connect()).collect();
    let body = "x".repeat(20_000);
    let request =
        format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut round = |count: usize| {
        for _ in 0..count {
            for client in &mut clients {
                client.send(get("a.com", "/"));
            }
            for client in &mut clients {
                assert_eq!(client.expect_answer().status(), 200);
            }
        }
    };
    round(20);
    let before = daemon.resident_bytes();
    round(100);
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 1024 * 1024, "5,000 requests left {grown} bytes behind");
    drop((request, body));
}
