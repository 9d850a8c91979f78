//! `spin`, `flip` and `restart`: what a host did before is kept and comes back, whatever goes wrong
//! between.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Way, way, ways};
use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::expect_held;

const HOST: &str = "/hostname/a.com/";

fn spun(before: &Value, more: Value) -> Value {
    let mut arguments = more;
    arguments["then"] = before.clone();
    json!(["spin", arguments, true])
}

/// A request that is held.
#[track_caller]
fn held(daemon: &Daemon) -> Connection {
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    expect_held(&mut daemon.api(), "a.com", 1);
    client
}

#[test]
fn spin_holds_and_flip_lets_go() {
    let backend = Backend::new().serve_text("hello");
    let setup = Setup::new().management_tcp().rule("a.com", backend.rule());
    let daemon = setup.start();
    let mut api = daemon.api();
    for way in ways(&daemon) {
        way.prints("spin a.com --timeout 60 --release-rate 500", "");
        let limits = json!({"timeout": 60, "release_rate": 500});
        assert_eq!(api.get(HOST), spun(&backend.rule(), limits));
        let mut client = held(&daemon);
        // again, with another limit: what it did before stays
        let again = way.call("spin a.com --max-held 7").finish();
        again.expect(0, &["a.com held its requests already"]);
        let limits = json!({"timeout": 60, "release_rate": 500, "max_held": 7});
        assert_eq!(api.get(HOST), spun(&backend.rule(), limits));
        way.prints("flip a.com", "1 request was held\n");
        assert_eq!(client.expect_answer().text(), "hello");
        assert_eq!(api.get(HOST), backend.rule());
        way.prints("spin a.com --wake http://127.0.0.1:1/x --idle 60", "");
        let told = json!({"wake": "http://127.0.0.1:1/x", "idle": 60});
        assert_eq!(api.get(HOST), spun(&backend.rule(), told));
        assert_eq!(way.json("flip a.com --json"), json!({"ok": true, "held": 0}));
        assert_eq!(way.json("spin a.com --json"), json!({"ok": true}));
        way.prints("flip a.com", "no request was held\n");
    }
}

#[test]
fn host_that_holds_nothing_is_not_flipped() {
    let daemon =
        Setup::new().rule("a.com", empty(402)).rule("b.com", json!(["spin", {}, false])).start();
    let way = way(&daemon);
    let before = daemon.api().get("/hostname/");
    way.fails(
        "flip a.com",
        &["a.com holds no requests", "its rule is empty", "nothing was changed"],
    );
    way.fails("flip b.com", &["b.com", "not in its rule", "mantrid-client set b.com proxy"]);
    for command in ["flip c.com", "spin x.a.com", "restart c.com -- true"] {
        way.fails(command, &["no rule of its own", "mantrid-client set"]);
    }
    way.fails(
        "restart a.com -- true",
        &["a.com has no application", "empty", "nothing was changed"],
    );
    way.fails("restart b.com -- true", &["b.com", "not in its rule"]);
    way.fails("spin a.com --timeout soon", &["a.com", "timeout", "soon"]);
    way.fails("restart a.com --ready soon -- true", &["--ready", "soon", "30s"]);
    for command in ["spin", "flip", "restart a.com", "restart a.com --"] {
        way.call(command).finish().expect(1, &["Usage"]);
    }
    for command in ["spin", "flip"] {
        way.words(&[command, ""]).finish().expect(1, &["You must supply a hostname."]);
    }
    assert_eq!(daemon.api().get("/hostname/"), before);
}

/// Others change the table all the time: that is no reason to fail, and nothing of theirs is lost.
#[test]
fn spin_and_flip_succeed_among_changes_of_others() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let way = way(&daemon);
    let spin_and_flip = || {
        way.prints("spin a.com", "");
        way.prints("flip a.com", "no request was held\n");
    };
    let began = Instant::now();
    spin_and_flip();
    // As fast as they can they would be faster each time: some come within each of the two.
    let pause = began.elapsed() / 8;
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let (mut api, mut last) = (daemon.api(), 0);
            for round in 0_u16.. {
                last = 402 + round % 40;
                api.put("/hostname/b.com/", &empty(last));
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::park_timeout(pause);
            }
            last
        });
        let done = catch_unwind(AssertUnwindSafe(|| (0..5).for_each(|_| spin_and_flip())));
        is_over.store(true, Ordering::Relaxed);
        let last = changing.join().expect("all changes are made");
        done.unwrap_or_else(|panic| resume_unwind(panic));
        last
    });
    let table = daemon.api().get("/hostname/");
    assert_eq!(table, json!({"a.com": empty(402), "b.com": empty(last)}));
}

/// What is under way ends, then the command runs, then a backend has to answer, and those who
/// waited go on.
#[test]
fn restart_drains_runs_and_lets_go() {
    let old = Backend::keeping_port();
    let port = old.port;
    let daemon = Setup::new().rule("a.com", rule_for(&[port], json!({}))).start();
    let mut api = daemon.api();
    let (mut first, mut server) = crate::daemon::asked(&daemon, &old);
    let setup = Setup::new();
    let (began, go_on) = (setup.path("began"), setup.path("go-on"));
    // says that it runs, and waits until it may end
    let script = format!(
        "echo ran; touch {}; until [ -e {} ]; do sleep 0.01; done",
        began.display(),
        go_on.display()
    );
    let client = way(&daemon).words(&["restart", "a.com", "--", "sh", "-c", &script]).start();
    eventually("it is held", || api.get(HOST)[0] == "spin");
    assert!(!began.exists(), "a request is under way");
    server.send(ok("the last"));
    assert_eq!(first.expect_answer().text(), "the last");
    eventually("the command runs", || began.exists());
    let mut waits = held(&daemon);
    drop((old, server));
    std::fs::write(&go_on, "").expect("a file");
    client.expect_out("ran");
    waits.expect_nothing_within(Duration::from_millis(150));
    let _new = Backend::on(port).serve_text("the first");
    assert_eq!(waits.expect_answer().text(), "the first");
    client.expect_printed("ran\n1 request was held\n");
    assert_eq!(api.get(HOST), rule_for(&[port], json!({})));
}

/// A backend that listens and is not well yet is waited for, where the rule has a path to ask.
#[test]
fn restart_waits_for_the_check_of_the_rule() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let backend = Backend::new().serve(move |head, connection| {
        // the daemon's own probes say who asks
        let is_client = head.field("User-Agent").is_none();
        let well = !is_client || 3 < count.fetch_add(1, Ordering::SeqCst);
        let status = if well { "200 OK" } else { "503 Not yet" };
        drop(connection.try_send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")));
    });
    let rule = rule_for(&[backend.port], json!({"check": "/up"}));
    let daemon = Setup::new().rule("a.com", rule.clone()).start();
    let way = way(&daemon);
    way.prints("restart a.com -- true", "no request was held\n");
    assert!(3 < asked.load(Ordering::SeqCst), "{asked:?}");
    assert_eq!(daemon.api().get(HOST), rule);
}

/// The command's exit code is ours; the host stays held, or is put back where that was asked for.
#[test]
fn failed_restart_holds_on_or_restores_as_asked() {
    let port = closed_port();
    let rule = rule_for(&[port], json!({}));
    let daemon = Setup::new().rule("a.com", rule.clone()).start();
    let mut api = daemon.api();
    let way = way(&daemon);
    let run = |words: &[&str]| way.words(&[&["restart", "a.com"], words].concat()).finish();
    let stays = ["still holds its requests", "mantrid-client flip a.com"];
    run(&["--", "sh", "-c", "exit 7"]).expect(7, &[&["status 7"], &stays[..]].concat());
    assert_eq!(api.get(HOST), spun(&rule, json!({})));
    // from there as well
    run(&["--restore", "--", "sh", "-c", "exit 8"])
        .expect(8, &["status 8", "has its old rule back"]);
    assert_eq!(api.get(HOST), rule);
    run(&["--", "sh", "-c", "kill -9 $$"]).expect(128 + 9, &[&["signal 9"], &stays[..]].concat());
    way.prints("flip a.com", "no request was held\n");
    // nothing was done to the application
    run(&["--", "/no/such/program"]).expect(127, &["/no/such/program", "old rule back"]);
    assert_eq!(api.get(HOST), rule);
    let finished = run(&["--ready", "300ms", "--", "true"]);
    finished.expect(1, &["no backend answers", &port.to_string(), stays[0], stays[1]]);
    assert_eq!(api.get(HOST), spun(&rule, json!({})));
    run(&["--ready", "300ms", "--restore", "--", "true"]).expect(1, &["old rule back"]);
    assert_eq!(api.get(HOST), rule);
}

/// Backends that get no requests say nothing about the application.
#[test]
fn a_restart_asks_the_backends_that_get_requests() {
    let (port, well) = (closed_port(), Backend::new().serve_text("well"));
    let spare = json!([["127.0.0.1", well.port]]);
    let daemon = Setup::new().rule("a.com", rule_for(&[port], json!({}))).start();
    let mut api = daemon.api();
    let way = way(&daemon);
    let run = || way.words(&["restart", "a.com", "--ready", "300ms", "--", "true"]).finish();
    // one that is drained
    let drained = rule_for(&[port, well.port], json!({"weights": [1, 0]}));
    api.put(HOST, &drained);
    run().expect(1, &["no backend answers", &port.to_string(), "still holds"]);
    way.prints("flip a.com", "no request was held\n");
    // A backup that answers is no reason to go on before the application is back; but nobody waits
    // in vain for one that does not come back.
    let rule = rule_for(&[port], json!({"backup": spare, "attempts": 2, "delay": 0}));
    api.put(HOST, &rule);
    let client = way.words(&["restart", "a.com", "--ready", "2s", "--", "true"]).start();
    eventually("it is held", || api.get(HOST)[0] == "spin");
    let mut waits = held(&daemon);
    let words = ["no backend answers", &port.to_string(), "backup", &well.port.to_string()];
    let backup = format!("its backup 127.0.0.1:{} does", well.port);
    client.finish().expect(1, &[&words[..], &[&backup, "has its old rule back"]].concat());
    assert_eq!(waits.expect_answer().text(), "well");
    assert_eq!(api.get(HOST), rule);
    // where all others are drained the backup is the application
    api.put(HOST, &rule_for(&[port], json!({"backup": spare, "weights": [0]})));
    run().expect(0, &[]);
    // a rule that gets nothing at all is restarted by its backends as they are
    api.put(HOST, &rule_for(&[well.port], json!({"weights": [0]})));
    run().expect(0, &[]);
}

/// Whoever interrupts it learns how things are.
#[test]
fn interrupted_restart_says_how_things_are() {
    let port = closed_port();
    let rule = rule_for(&[port], json!({}));
    let daemon = Setup::new().rule("a.com", rule.clone()).start();
    let mut api = daemon.api();
    let way: Way = way(&daemon);
    // while no backend answers
    let client = way.words(&["restart", "a.com", "--", "sh", "-c", "echo ran"]).start();
    client.expect_out("ran");
    client.interrupt();
    client.finish().expect(128 + 2, &["SIGINT", "still holds", "mantrid-client flip a.com"]);
    assert_eq!(api.get(HOST), spun(&rule, json!({})));
    way.prints("flip a.com", "no request was held\n");
    // while the command runs: it is passed on
    let script = "trap 'exit 5' TERM; echo ran; while :; do sleep 0.01; done";
    let client = way.words(&["restart", "a.com", "--restore", "--", "sh", "-c", script]).start();
    client.expect_out("ran");
    client.terminate();
    client.finish().expect(5, &["status 5", "old rule back"]);
    assert_eq!(api.get(HOST), rule);
    // before it runs
    let backend = Backend::new();
    api.put(HOST, &backend.rule());
    let (_client, _server) = crate::daemon::asked(&daemon, &backend);
    let client = way.words(&["restart", "a.com", "--", "echo", "ran"]).start();
    eventually("it is held", || api.get(HOST)[0] == "spin");
    client.terminate();
    client.finish().expect(128 + 15, &["SIGTERM", "before the command ran", "old rule back"]);
    assert_eq!(api.get(HOST), backend.rule());
}

/// However it is ended, the host is as it was told to be.
#[test]
fn restart_ended_by_a_signal_leaves_the_rule_as_told() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let mut api = daemon.api();
    let way = way(&daemon);
    let script = "trap '' HUP TERM INT QUIT; echo ran; sleep 0.3";
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let client =
            way.words(&["restart", "a.com", "--restore", "--", "sh", "-c", script]).start();
        client.expect_out("ran");
        client.signal(signal);
        let said = format!("{}, while", signal.as_str());
        client.finish().expect(128 + signal as i32, &[&said, "old rule back"]);
        assert_eq!(api.get(HOST), backend.rule());
    }
    // before it runs
    let silent = Backend::new();
    api.put(HOST, &silent.rule());
    let (_client, _server) = crate::daemon::asked(&daemon, &silent);
    let client = way.words(&["restart", "a.com", "--", "echo", "ran"]).start();
    eventually("it is held", || api.get(HOST)[0] == "spin");
    client.signal(Signal::SIGHUP);
    client.finish().expect(128 + 1, &["SIGHUP", "before the command ran", "old rule back"]);
    assert_eq!(api.get(HOST), silent.rule());
}

/// The second one waits for the first: neither lets requests go while the other's application is
/// down.
#[test]
fn second_restart_of_a_host_waits_for_the_first() {
    let backend = Backend::new().serve_text("hello");
    let rule = backend.rule();
    let daemon = Setup::new().rule("two-restarts.com", rule.clone()).start();
    let mut api = daemon.api();
    let way = way(&daemon);
    let setup = Setup::new();
    let run = |name: &str, host: &str| {
        let (began, go_on) = (setup.path(name), setup.path(&format!("{name}-on")));
        let (began, go_on) = (began.display(), go_on.display());
        let script = format!("touch {began}; until [ -e {go_on} ]; do sleep 0.01; done");
        way.words(&["restart", host, "--", "sh", "-c", &script]).start()
    };
    let go_on = |name: &str| std::fs::write(setup.path(&format!("{name}-on")), "").expect("a file");
    let first = run("first", "two-restarts.com");
    eventually("the first runs", || setup.path("first").exists());
    let second = run("second", "Two-Restarts.com.");
    second.expect_err("another restart of it is under way");
    let third = run("third", "two-restarts.com");
    third.expect_err("another restart of it is under way");
    third.interrupt();
    third.finish().expect(128 + 2, &["SIGINT", "nothing was changed"]);
    assert!(!setup.path("second").exists());
    go_on("first");
    first.finish().expect(0, &[]);
    eventually("the second runs", || setup.path("second").exists());
    assert_eq!(api.get("/hostname/two-restarts.com/")[0], "spin");
    go_on("second");
    second.finish().expect(0, &[]);
    assert_eq!(api.get("/hostname/two-restarts.com/"), rule);
}
