//! What idle connections and held requests cost. User memory only: the kernel's part is not ours to
//! choose.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::Setup;
use crate::message::get;
use crate::script::Connection;
use crate::spin::{expect_held, spinning};

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
fn idle_connections_cost_little_memory() {
    const COUNT: u64 = 5000;
    // As with held requests: measured in an unoptimized build.
    const EACH_BYTES_MAX: u64 = 1024;
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
    eprintln!("{COUNT} idle, {each} bytes each");
    // they are alive
    for (n, client) in clients.iter_mut().enumerate().step_by(100) {
        request(client, n as u64);
    }
}

/// They wait in one queue, and go on when their host is flipped. The clients are of many addresses,
/// as one has only so many ports.
#[test]
fn held_requests_cost_little_memory() {
    const WANTED: u64 = 15_000;
    // An unoptimized build's futures are larger than the program's; by runs it differs by 50 bytes.
    const EACH_BYTES_MAX: u64 = 3200;
    // On their way at the same time, at most: receive buffers that more would touch are not theirs.
    const COMING: u64 = 100;
    let (soft, _hard) =
        rlimit::getrlimit(rlimit::Resource::NOFILE).expect("the limit of open files");
    // The daemon wants more than two for each, and a sixth more as shards have equal parts.
    let count = WANTED.min(soft.saturating_sub(5000) * 2 / 5);
    if count < WANTED {
        eprintln!("{count} and not {WANTED}, as `ulimit -n` is {soft}");
    }
    if count < 1000 {
        return eprintln!("skipped: that is too few");
    }
    let daemon = Setup::new()
        .set("shards", 2)
        .set("max_connections", count + count / 6)
        .set("max_held", count)
        .set("max_held_per_source", count)
        .rule("a.com", json!(["spin", { "timeout": 600 }, true]))
        .start();
    let mut api = daemon.api();
    // 500 bytes, as browsers send
    let head = "GET / HTTP/1.1\r\nHost: a.com\r\nCookie: \r\n\r\n";
    let request = head.replace("Cookie: ", &format!("Cookie: {}", "x".repeat(500 - head.len())));
    let ask = |number: u64| {
        let source = [127, 0, 1, (number / 4000) as u8 + 1];
        let mut client = Connection::client_from(source.into(), daemon.address());
        client.send(&request);
        client
    };
    let mut clients: Vec<Connection> = (0..COMING).map(ask).collect();
    expect_held(&mut api, "a.com", COMING);
    let before = daemon.resident_bytes();
    for number in COMING..count {
        clients.push(ask(number));
        if (number + 1) % COMING == 0 || number + 1 == count {
            expect_held(&mut api, "a.com", number + 1);
        }
    }
    let each = daemon.resident_bytes().saturating_sub(before) / (count - COMING);
    assert!(each <= EACH_BYTES_MAX, "a held request costs {each} bytes, over {EACH_BYTES_MAX}");
    // one more than may be held
    assert_eq!(ask(0).expect_answer().status(), 503);
    let began = Instant::now();
    api.put("/hostname/a.com/", &json!(["empty", { "code": 403 }, false]));
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 403);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} for {count}");
    eprintln!("{count} held, {each} bytes each; the last answer {took:?} after the flip");
}

/// Heads of requests that come in one moment are in the shard's buffers together, which were
/// untouched before: that costs what those are, beside what each of the requests keeps.
#[test]
fn burst_of_requests_touches_no_more_than_the_buffers() {
    const BURST: u64 = 1000;
    const EACH_BYTES_MAX: u64 = 3200;
    // 256 of 20 KiB, and 64 of 64 KiB.
    const BUFFERS_BYTES: u64 = 9 * 1024 * 1024;
    let (daemon, mut api) = spinning(Setup::new(), json!({"timeout": 600}));
    let before = daemon.resident_bytes();
    daemon.signal("STOP");
    let ask = |_| {
        let mut client = daemon.connect();
        client.send(get("a.com", &format!("/{}", "x".repeat(450))));
        client
    };
    let _clients: Vec<Connection> = (0..BURST).map(ask).collect();
    daemon.signal("CONT");
    expect_held(&mut api, "a.com", BURST);
    let grown = daemon.resident_bytes().saturating_sub(before);
    eprintln!("{grown} bytes for a burst of {BURST}");
    let most = BURST * EACH_BYTES_MAX + BUFFERS_BYTES;
    assert!(grown <= most, "{grown} bytes for a burst of {BURST}, over {most}");
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
