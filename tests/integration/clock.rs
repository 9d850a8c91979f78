//! Clocks that jump. The wall clock is for what people read (log lines, records): set forward or
//! back by years, it moves nothing else. The monotonic clock jumps, for us, when the whole daemon
//! stood still: what is due is due, what came meanwhile counts, and it goes on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, metric};
use crate::tunnel::tunnelled;

/// The wall clock of a daemon.
struct WallClock(File);

impl WallClock {
    /// `None` where there is no C compiler to build what stands in front of the C library.
    fn of(setup: Setup) -> Option<(WallClock, Setup)> {
        let (library, offset) = (setup.path("clock.so"), setup.path("clock.offset"));
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        match compiler.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr))
            }
            Err(_) => {
                eprintln!("skipped: there is no cc");
                return None;
            }
        }
        let file = File::create(&offset).expect("a file");
        let clock = WallClock(file);
        clock.set(0);
        let first =
            format!("export MANTRID_CLOCK={} LD_PRELOAD={}", offset.display(), library.display());
        Some((clock, setup.first(first)))
    }

    /// So many seconds from what it is.
    fn set(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).expect("a write");
    }
}

const YEAR: i64 = 365 * 24 * 3600;

fn limited(backend: &crate::backend::Serving, rate: u32) -> Value {
    let mut rule = backend.rule();
    rule[1]["max_requests_per_second"] = json!(rate);
    rule
}

/// How many of 20 requests pass.
fn passed(daemon: &Daemon, host: &str) -> usize {
    let mut client = daemon.connect();
    (0..20).filter(|_| client.exchange(get(host, "/")).status() == 200).count()
}

fn lines_of(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn jump_of_the_wall_clock_disturbs_nothing() {
    let backend = Backend::new().serve_text("hello");
    let setup = Setup::new();
    let log = setup.path("access.log");
    let setup = setup
        .set("access_log", log.display())
        .set("timeout_http_keep_alive", "60s")
        .rule("a.com", backend.rule())
        .rule("slow.com", limited(&backend, 4))
        .rule("held.com", json!(["spin", { "timeout": 600 }, false]))
        .rule("brief.com", json!(["spin", { "timeout": 1 }, false]));
    let journal = setup.path("state.json.journal");
    let Some((clock, setup)) = WallClock::of(setup) else { return };
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut open = daemon.connect();
    assert_eq!(open.exchange(get("a.com", "/")).text(), "hello");
    let mut held: Vec<Connection> = Vec::new();
    // forward, back before 1970, and to where it was
    for (n, jump) in [30 * YEAR, -70 * YEAR, 0].into_iter().enumerate() {
        let mut waits = daemon.connect();
        waits.send(get("held.com", "/"));
        held.push(waits);
        expect_held(&mut api, "held.com", held.len() as u64);
        let began = Instant::now();
        let mut brief = daemon.connect();
        brief.send(get("brief.com", "/"));
        expect_held(&mut api, "brief.com", 1);
        clock.set(jump);
        // no time-out came, and what is open goes on
        assert_eq!(open.exchange(get("a.com", "/jumped")).text(), "hello");
        assert_eq!(daemon.connect().exchange(get("a.com", "/jumped")).text(), "hello");
        held.iter_mut().for_each(Connection::expect_nothing_more);
        // those that are due come in their time
        assert_eq!(brief.expect_answer().status(), 503);
        let took = began.elapsed();
        assert!(Duration::from_millis(500) < took && took < Duration::from_secs(6), "{took:?}");
        // a rate is neither forgotten nor stuck
        let asked = Instant::now();
        let first = passed(&daemon, "slow.com");
        let most = 15 + 4 * asked.elapsed().as_secs() as usize;
        assert!((4..most).contains(&first), "{first} of 20 at once, where 4 a second may pass");
        eventually("its pace goes on", || {
            daemon.connect().exchange(get("slow.com", "/")).status() == 200
        });
        api.put(&format!("/hostname/new{n}.com/"), &json!(["empty", { "code": 403 }, false]));
        assert_eq!(daemon.connect().exchange(get(&format!("new{n}.com"), "/")).status(), 403);
        let changed = api.ask("GET", "/metrics").expect_status(200).text();
        assert!(!changed.contains("NaN"), "{changed}");
    }
    // the log tells the time as it was set: the clock did jump
    let year_of = |line: &Value| line["time"].as_str().and_then(|time| time[..4].parse().ok());
    eventually("lines of the access log", || {
        let years: Vec<u32> = lines_of(&log)
            .iter()
            .filter(|line| line["target"] == "/jumped")
            .filter_map(year_of)
            .collect();
        years.len() == 6 && years.iter().any(|year| 2050 < *year) && years.contains(&1970)
    });
    for line in lines_of(&log) {
        let total = line["total_ms"].as_f64().expect("a time");
        assert!((0.0..60_000.0).contains(&total), "{line}");
    }
    // statistics are saved at their own pace: within 10 s
    clock.set(-3 * YEAR);
    assert_eq!(open.exchange(get("a.com", "/")).text(), "hello");
    let requests = 8;
    let is_asked = |stats: &Value| stats["a.com"]["completed_requests"].as_u64() == Some(requests);
    let is_saved = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().any(|line| is_asked(&line["stats"]))
    };
    let began = Instant::now();
    while !is_saved() {
        assert!(began.elapsed() < Duration::from_secs(25), "statistics are not saved");
        open.expect_nothing_within(Duration::from_millis(100));
    }
    api.put("/hostname/held.com/", &backend.rule());
    for client in &mut held {
        assert_eq!(client.expect_answer().text(), "hello");
    }
}

/// As a machine that was suspended, or a virtual one that was moved.
#[test]
fn daemon_that_stood_still_goes_on() {
    // Longer than the times below, which are long enough for all that is begun before it.
    const STILL: Duration = Duration::from_secs(4);
    let backend = Backend::new();
    let daemon = [
        "timeout_http_request",
        "timeout_http_keep_alive",
        "timeout_client",
        "timeout_connect",
        "timeout_server",
        "timeout_tunnel",
    ]
    .into_iter()
    .fold(Setup::new(), |setup, key| setup.set(key, "3s"))
    .set("shards", 2)
    .rule("a.com", backend.rule())
    .rule("empty.com", json!(["empty", { "code": 403 }, false]))
    .rule("held.com", json!(["spin", { "timeout": 600 }, false]))
    .rule("brief.com", json!(["spin", { "timeout": 3 }, false]))
    .start();
    let mut api = daemon.api();
    let files = daemon.open_files();
    let asks = |host: &str| {
        let mut client = daemon.connect();
        client.send(get(host, "/"));
        client
    };
    let (mut held, mut brief) = (asks("held.com"), asks("brief.com"));
    expect_held(&mut api, "held.com", 1);
    let (mut tunnel, mut far) = tunnelled(&daemon, &backend);
    let mut unanswered = asks("a.com");
    let mut silent = backend.accept();
    silent.expect_head();
    let mut answered = asks("a.com");
    let mut server = backend.accept();
    server.expect_head();
    let (mut idle, mut late) = (asks("empty.com"), asks("empty.com"));
    for client in [&mut idle, &mut late] {
        assert_eq!(client.expect_answer().status(), 403);
    }
    let mut half = daemon.connect();
    half.send("GET / HTTP/1.1\r\nHost: empty.com\r\n");
    // it has been read
    assert_eq!(asks("empty.com").expect_answer().status(), 403);

    daemon.signal("STOP");
    server.send(ok("meanwhile"));
    late.send(get("empty.com", "/"));
    // the kernel takes it in, and nobody else
    let mut came = asks("empty.com");
    came.expect_nothing_within(STILL);
    daemon.signal("CONT");

    // what was sent in time is not lost because nobody looked in time
    assert_eq!(answered.expect_answer().text(), "meanwhile");
    assert_eq!(late.expect_answer().status(), 403);
    assert_eq!(came.expect_answer().status(), 403);
    // what was due is over, and says so
    assert_eq!(half.expect_answer().status(), 408);
    assert_eq!(unanswered.expect_answer().status(), 504);
    assert_eq!(brief.expect_answer().status(), 503);
    silent.expect_end();
    idle.expect_close();
    tunnel.expect_end();
    far.expect_end();
    // what is not goes on
    held.expect_nothing_more();
    api.put("/hostname/held.com/", &json!(["empty", { "code": 402 }, false]));
    assert_eq!(held.expect_answer().status(), 402);
    drop((answered, late, came, half, unanswered, brief, held, server));
    eventually("all is closed", || metric(&mut api, "connections_open") == 0.0);
    eventually("descriptors are given back", || daemon.open_files() <= files + 2);
    // and nothing turns in circles
    daemon.expect_rest();
}
