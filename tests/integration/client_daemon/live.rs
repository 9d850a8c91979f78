//! `events` and `top` as changes are made and requests come, and how they end.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use super::{way, ways};
use crate::api::empty;
use crate::backend::{Backend, closed_port};
use crate::client::top::{ENTER, LEAVE, Terminal};
use crate::daemon::{Daemon, Setup, asked};
use crate::message::{get, ok};

/// Requests for this host, one after the other, until the daemon ends.
fn keep_busy(daemon: &Daemon, host: &str) {
    let (mut wire, request) = (daemon.connect(), get(host, "/"));
    std::thread::spawn(
        move || {
            while wire.try_send(&request).is_ok() && wire.try_head().is_some() {}
        },
    );
}

#[test]
fn events_are_shown_as_they_happen() {
    let backend = Backend::new();
    let daemon = Setup::new().management_tcp().start();
    for way in ways(&daemon) {
        let client = way.call("events --only change,traffic").start();
        client.expect_out(" rules, 1 shard\n");
        way.prints(&format!("set a.com proxy true backends=127.0.0.1:{}", backend.port), "");
        let action = format!("proxy<127.0.0.1:{}>, with subdomains, by ", backend.port);
        client.expect_out(&format!("change  {:<35} {action}", "a.com"));
        let (mut asker, mut server) = asked(&daemon, &backend);
        client.expect_out(" requests/s, 1 open, 0 held\n");
        server.send(ok("done"));
        asker.expect_answer();
        way.prints("delete a.com", "");
        client.expect_out("change  a.com                               deleted, by ");
        // Ctrl-C ends it as it ends `tail -f`: by the signal, without a word
        client.interrupt();
        let finished = client.finish();
        assert_eq!((finished.code, finished.err.as_str()), (None, ""));
        assert!(finished.out.ends_with('\n'), "whole lines: {:?}", finished.out);
    }
}

#[test]
fn health_of_backends_is_shown() {
    let daemon = Setup::new().start();
    let way = way(&daemon);
    let client = way.call("events").start();
    client.expect_out("hello");
    let port = closed_port();
    way.prints(&format!("set b.com proxy true backends=127.0.0.1:{port} check=tcp"), "");
    client.expect_out(&format!("health  {:<35} down", format!("127.0.0.1:{port}")));
}

/// `events --json | head -2`, and the same of `top`.
#[test]
fn json_lines_end_when_nobody_reads() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let way = way(&daemon);
    keep_busy(&daemon, "a.com");
    for (line, lines) in [("events --json --only traffic", 2), ("top --json", 1)] {
        let (client, out) = way.call(line).start_unread();
        let mut out = BufReader::new(out);
        for _ in 0..lines {
            let mut text = String::new();
            out.read_line(&mut text).expect("a line");
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{line}: {error} in {text:?}"));
            assert!(value.is_object(), "{value}");
        }
        drop(out);
        let finished = client.finish();
        assert_eq!((finished.code, finished.err.as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn top_shows_a_busy_host_and_gives_the_terminal_back() {
    let setup =
        Setup::new().rule("busy.example.com", empty(402)).rule("idle.example.com", empty(403));
    let daemon = setup.management_tcp().start();
    keep_busy(&daemon, "busy.example.com");
    for way in ways(&daemon) {
        let terminal = Terminal::new();
        let client = terminal.run(way.call("top"));
        client.expect_out(ENTER);
        client.expect_out("busy.example.com");
        terminal.expect_usual(false);
        terminal.press("q");
        client.expect_out(LEAVE);
        client.expect_exit(0);
        terminal.expect_usual(true);
    }
}

/// Its end is told on the screen, and that it came back.
#[test]
fn top_outlives_the_daemon() {
    let setup = Setup::new().rule("busy.example.com", empty(402));
    let mut daemon = setup.clone().start();
    let terminal = Terminal::new();
    let client = terminal.run(way(&daemon).call("top"));
    client.expect_out(ENTER);
    daemon.kill();
    client.expect_out("trying again");
    let daemon = setup.start();
    keep_busy(&daemon, "busy.example.com");
    client.expect_out("busy.example.com");
    client.interrupt();
    client.expect_out(LEAVE);
    client.expect_exit(0);
    terminal.expect_usual(true);
}
