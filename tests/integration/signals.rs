//! Signals at moments at which nobody expects them, and programs that are not where they seem to
//! be.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::message::{get, ok};

fn answering() -> Setup {
    Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]))
}

/// Starts it with a configuration that comes only when these signals were sent: as often as it is
/// read.
fn starting(signals: &str, reads: usize) -> (Setup, Daemon) {
    let setup = answering();
    let log = setup.path("access.log");
    let setup = setup.set("access_log", log.display());
    let (file, real) = (setup.path("mantrid.conf"), setup.path("real.conf"));
    let (file, real) = (file.display(), real.display());
    // SigBlk: HUP, USR1 and USR2 are bits 0, 9 and 11
    let send = format!(
        "for i in $(seq 2000); do grep -q 'SigBlk:.*a01$' /proc/$$/status && break; sleep 0.01; done; \
         for s in {signals}; do kill -$s $$; done; \
         for i in $(seq {reads}); do timeout 20 sh -c 'cat {real} > {file}'; done"
    );
    let first = format!("mv {file} {real} && mkfifo {file} && {{ ({send}) & }}");
    let daemon = setup.clone().first(first).start();
    (setup, daemon)
}

#[test]
fn signals_before_ready_wait() {
    let (_setup, daemon) = starting("HUP USR1", 2);
    daemon.expect_log(&["SIGHUP", "in force"]);
    daemon.expect_log(&["access_log", "opened anew"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
}

#[test]
fn an_upgrade_before_ready_waits() {
    let (_setup, mut daemon) = starting("USR2", 2);
    assert!(daemon.log.wait_count("has taken over", 1), "nobody took over");
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
}

#[test]
fn signals_are_heard_while_a_second_upgrade_waits() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule());
    let log = setup.path("access.log");
    let mut daemon = setup.set("access_log", log.display()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    for _ in 0..2 {
        daemon.signal("USR2");
    }
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    daemon.signal("USR1");
    daemon.expect_log(&["access_log", "opened anew"]);
    assert!(!daemon.log.wait_count_for("has taken over", 2, std::time::Duration::from_millis(50)));
    server.send(ok("finished"));
    assert_eq!(client.expect_answer().text(), "finished");
    assert!(daemon.log.wait_count("has taken over", 2), "the second upgrade was lost");
}

fn link(to: &Path, at: &Path) {
    let new = at.with_extension("link");
    std::os::unix::fs::symlink(to, &new).expect("a link");
    std::fs::rename(new, at).expect("a link in its place");
}

/// The program and a folder on the way to it may be links, as where releases lie side by side.
#[test]
fn a_program_behind_a_link_is_the_one_that_it_leads_to() {
    for is_folder in [false, true] {
        let setup = answering().copied();
        let program = setup.path("mantrid");
        let releases = ["one", "two", "three"].map(|name| setup.path(name));
        for release in &releases {
            std::fs::create_dir(release).expect("a folder");
            let copied = Command::new("cp").arg(&program).arg(release.join("mantrid")).status();
            assert!(copied.expect("cp").success());
        }
        let point = |release: &Path| match is_folder {
            false => link(&release.join("mantrid"), &program),
            true => link(release, &setup.path("current")),
        };
        point(&releases[0]);
        let asked = if is_folder { setup.path("current/mantrid") } else { program.clone() };
        let mut daemon = setup.clone().program(&asked).start();
        let runs = |daemon: &Daemon| {
            std::fs::read_link(format!("/proc/{}/exe", daemon.current_pid())).expect("its program")
        };
        assert_eq!(runs(&daemon), releases[0].join("mantrid"));
        point(&releases[1]);
        daemon.upgrade();
        assert_eq!(runs(&daemon), releases[1].join("mantrid"));
        eventually("the old daemon is gone", || daemon.has_exited().is_some());
        point(&releases[2]);
        daemon.signal("HUP");
        daemon.expect_log(&["there is a new program"]);
        assert!(daemon.log.wait_count("has taken over", 2));
        assert_eq!(runs(&daemon), releases[2].join("mantrid"));
    }
}

/// It would end the container with it. What is orphaned there is its child.
#[test]
fn the_first_process_of_a_container_stays_and_reaps() {
    let tried = Command::new("unshare").args(["-pf", "true"]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return eprintln!("skipped: no process namespaces here");
    }
    let setup = answering().copied();
    let orphan = "(sleep 0.1 &); exec \"$0\" \"$@\"";
    let inside = format!("exec unshare -pf --kill-child sh -c '{orphan}' \"$0\" \"$@\"; false");
    let daemon = setup.clone().first(inside).start();
    let children = |pid: i32| -> Vec<i32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        text.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    let first = children(daemon.pid() as i32)[0];
    eventually("the orphan is gone", || children(first).is_empty());
    let send = |signal| kill(Pid::from_raw(first), signal).expect("it is there");
    send(Signal::SIGUSR2);
    daemon.expect_log(&["SIGUSR2: this is PID 1"]);
    setup.replace_program(None);
    send(Signal::SIGHUP);
    daemon.expect_log(&["SIGHUP", "in force"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    assert!(!daemon.log.text().contains("is to take over"));
}
