//! How busy a shard is: what the kernel says of its thread, its own work for it included.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::spin::metric;

/// Nanoseconds on a CPU, and waiting for one, of the first shard's thread.
fn schedstat(daemon: &Daemon) -> Option<[f64; 2]> {
    let folder = format!("/proc/{}/task", daemon.current_pid());
    let tasks = std::fs::read_dir(folder).expect("its threads").flatten();
    let mut tasks = tasks.map(|task| task.path());
    let is_shard = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "shard-0")
    };
    let task = tasks.find(is_shard)?;
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map_while(|number| number.parse::<f64>().ok());
    Some([numbers.next()? / 1e9, numbers.next()? / 1e9])
}

#[test]
fn cpu_time_is_what_the_kernel_says() {
    let backend = Backend::new().serve(|_, connection| {
        drop(connection.try_send(crate::message::ok(vec![b'x'; 200_000])));
    });
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let Some(_) = schedstat(&daemon) else {
        return eprintln!("skipped: this kernel has no schedstat");
    };
    let mut client = daemon.connect();
    for _ in 0..300 {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    }
    let mut api = daemon.api();
    // noted about once a second, so that it may be a little behind
    let near = |ours: f64, kernel: f64| (ours - kernel).abs() < 0.1 * kernel + 0.03;
    eventually("the time on a CPU is known", || {
        let ours = metric(&mut api, "shard_cpu_seconds_total");
        0.0 < ours && near(ours, schedstat(&daemon).expect("its times")[0])
    });
    eventually("the time without one is known", || {
        let ours = metric(&mut api, "shard_cpu_wait_seconds_total");
        near(ours, schedstat(&daemon).expect("its times")[1])
    });
    // the old name goes on, as the rest of the time
    let asleep = metric(&mut api, "asleep_seconds_total");
    eventually("time goes on", || asleep < metric(&mut api, "asleep_seconds_total"));
}

/// What `/events` tells is the same.
#[test]
fn busy_is_time_on_a_cpu() {
    let daemon = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])).start();
    let mut client = daemon.connect();
    let mut events = daemon.api();
    events.wire.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    events.wire.expect_status(200);
    let mut highest = 0.0_f64;
    let mut looked = 0;
    while looked < 3 {
        for _ in 0..100 {
            assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
        }
        let line = String::from_utf8(events.wire.expect_line()).expect("text");
        let Some((_, rest)) = line.split_once("\"busy\":") else { continue };
        let number = rest.split([',', '}']).next().unwrap_or_default();
        highest = highest.max(number.parse().expect("a number"));
        looked += 1;
    }
    assert!(0.0 < highest && highest <= 1.0, "{highest}");
}
