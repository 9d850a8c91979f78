//! What makes no progress is named, with where it is; what has ended is not.

use std::time::Duration;

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::message::{get, ok};
use crate::service::{Hanging, Systemd};

#[test]
fn a_shard_and_control_that_stall_are_named() {
    let daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .start();
    for (thread, name) in [("shard-1", "shard 1"), ("mantrid", "control")] {
        let hanging = Hanging::thread(&daemon, thread);
        daemon.expect_log(&[&format!("{name} makes no progress for"), "stopped from outside"]);
        drop(hanging);
        daemon.expect_log(&[&format!("{name} goes on after")]);
    }
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    expect_none_stuck(&daemon, "shard 0 makes no progress");
}

/// A shard has a quarter of it to show that it runs: more than it waits for a CPU.
const WATCHDOG: Duration = Duration::from_secs(2);

/// No line says this, but of a thread that had no CPU: that is the machine's doing.
#[track_caller]
fn expect_none_stuck(daemon: &Daemon, words: &str) {
    let lines = daemon.log.lines();
    let mut told = lines.iter().filter(|line| line.contains(words));
    assert!(told.all(|line| line.contains("it waits for a CPU")), "{}", daemon.log.text());
}

/// The others may drain on for long after it: that is no reason to end them.
#[test]
fn a_shard_that_has_drained_is_not_stuck() {
    for is_upgrade in [false, true] {
        let backend = Backend::new();
        let setup = Setup::new().set("shards", 3).rule("a.com", backend.rule());
        let (systemd, mut daemon) = Systemd::of(setup, Some(WATCHDOG));
        let (mut client, mut server) = asked(&daemon, &backend);
        let old = daemon.pid();
        match is_upgrade {
            true => daemon.upgrade(),
            false => daemon.terminate(),
        }
        let shards = || {
            let tasks = std::fs::read_dir(format!("/proc/{old}/task")).expect("its threads");
            // each has a second thread of its name
            let names = tasks.flatten().filter_map(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
                name.starts_with("shard-").then_some(name)
            });
            names.collect::<std::collections::HashSet<_>>().len()
        };
        // what nobody reads would fill the socket, and block
        eventually("two of three have ended", || {
            systemd.forget();
            shards() == 1
        });
        systemd.forget();
        // For longer than the watchdog's time: it is fed four times in that.
        for _ in 0..5 {
            systemd.expect("WATCHDOG=1");
        }
        client.expect_nothing_within(Duration::from_millis(1_500));
        systemd.forget();
        server.send(ok("finished"));
        assert_eq!(client.expect_answer().text(), "finished");
        eventually("it is gone", || daemon.has_exited().is_some());
        expect_none_stuck(&daemon, "makes no progress");
    }
}
