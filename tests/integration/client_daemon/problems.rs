//! What keeps a command from being done where there is, or was, a real daemon: exit code 1 and a
//! sentence that says what to do next.

use serde_json::{Map, Value, json};

use super::{Way, way, ways};
use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::guard::{TOKEN, with_token};

/// A command of every kind that asks the daemon.
const COMMANDS: &[&str] = &[
    "list",
    "set a.com spin true",
    "delete a.com",
    "stats",
    "stats a.com",
    "get a.com",
    "dump",
    "load TABLE",
    "load --merge TABLE",
    "events",
    "top --json",
];

#[track_caller]
fn all_fail(setup: &Setup, way: &Way, words: &[&str]) {
    let table = setup.path("table.json");
    std::fs::write(&table, "{}").expect("a file");
    for command in COMMANDS {
        way.fails(&command.replace("TABLE", &table.display().to_string()), words);
    }
}

#[test]
fn daemon_that_is_gone_is_named() {
    let setup = Setup::new().management_tcp();
    let mut daemon = setup.clone().start();
    // over TCP a daemon that runs has to keep the port, or another test's might be given it
    let socket = way(&daemon);
    daemon.kill();
    let words = ["no daemon answers on", "is mantrid running?", "systemctl status", "--url"];
    all_fail(&setup, &socket, &words);
    let mut daemon = setup.clone().start();
    daemon.terminate();
    daemon.expect_clean_exit();
    let words = ["management.sock", "is mantrid running?", "--socket"];
    all_fail(&setup, &socket, &words);
    let port = crate::backend::closed_port();
    let tcp = Way { url: format!("http://127.0.0.1:{port}"), ..socket };
    all_fail(&setup, &tcp, &["no daemon answers on", "is mantrid running?", "--socket"]);
}

#[test]
fn wrong_tokens_are_refused_by_name() {
    let setup = with_token(TOKEN.as_bytes()).rule("a.com", empty(402)).management_tcp();
    let daemon = setup.clone().start();
    for way in ways(&daemon) {
        let next = ["set MANTRID_TOKEN", "management_token_file"];
        all_fail(&setup, &way, &[&next[..], &["a token is needed"]].concat());
        for token in ["wrong", "", " ", &TOKEN.to_ascii_uppercase()] {
            let finished = way.call("list").env("MANTRID_TOKEN", token).finish();
            finished.expect(1, &next);
            assert_eq!(finished.out, "");
            assert!(token.trim().is_empty() || !finished.err.contains(token), "{}", finished.err);
        }
        // as `$(cat FILE)` and as an editor leave it
        for token in [TOKEN.to_owned(), format!("{TOKEN}\n")] {
            way.call("get a.com").env("MANTRID_TOKEN", &token).finish().expect(0, &[]);
        }
    }
    // a daemon without a token takes any
    let daemon = Setup::new().start();
    let finished = way(&daemon).call("list").env("MANTRID_TOKEN", "any").finish();
    finished.expect(0, &[]);
}

/// The port of the proxy itself, which is the one next to it in the configuration.
#[test]
fn port_of_requests_is_told_from_management() {
    let page = json!(["static", {"type": "test"}, true]);
    let setup = Setup::new().rule("127.0.0.1", page);
    for (setup, answered) in [(Setup::new(), "503"), (setup, "text/html")] {
        let daemon = setup.clone().start();
        let way = Way { url: format!("http://{}", daemon.address()), token: None };
        all_fail(&setup, &way, &["is no management API", answered, "bind_management", "8042"]);
    }
}

/// Another changed the table meanwhile.
#[test]
fn change_of_an_older_table_is_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let old = api.etag();
    let new = api.put("/hostname/b.com/", &empty(403));
    for line in ["set a.com spin true", "delete a.com", "set c.com spin true --dry-run"] {
        let words = |tag| [line.split(' ').collect(), vec!["--if-match", tag]].concat();
        let finished = way.words(&words(&old)).finish();
        finished.expect(1, &["changed since", "get", "dump --etag", "--if-match"]);
        assert_eq!(api.etag(), new, "{line}");
    }
    let get = way.call("get a.com").finish().out;
    let told = get.lines().find_map(|line| line.strip_prefix("etag")).expect("its tag").trim();
    assert_eq!(told, new);
    way.words(&["delete", "a.com", "--if-match", told]).start().expect_printed("");
    assert_eq!(api.get("/hostname/"), json!({"b.com": empty(403)}));
}

/// Files that may not grow are as good as a full disk.
#[test]
fn change_that_can_t_be_written_is_refused() {
    // blocks of 512 bytes
    let setup = Setup::new().rule("a.com", empty(402)).first("ulimit -S -f 32");
    let daemon = setup.start();
    let way = way(&daemon);
    let rule =
        json!(["redirect", {"redirect_to": format!("http://x/{}", "x".repeat(1000))}, false]);
    let many: Map<String, Value> = (0..40).map(|n| (format!("h{n}.com"), rule.clone())).collect();
    let many = Value::from(many).to_string();
    for line in ["load -", "load --merge -"] {
        let finished = way.call(line).reading(&many).finish();
        finished.expect(1, &["was not made", "state.json.journal", "File too large"]);
    }
    assert_eq!(way.json("dump"), json!({"a.com": empty(402)}));
}

/// Whoever follows events is told when they stop and when they go on.
#[test]
fn events_tell_when_the_daemon_stops_and_comes_back() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    let client = way(&daemon).call("events").start();
    client.expect_out("hello");
    stop(&mut daemon);
    client.expect_err("ended its events");
    client.expect_err("trying again");
    let daemon = setup.start();
    client.expect_err("answers again");
    daemon.api().put("/hostname/a.com/", &empty(402));
    client.expect_out("empty<402>");
}

#[track_caller]
fn stop(daemon: &mut Daemon) {
    daemon.terminate();
    daemon.expect_clean_exit();
}
