//! The table on disk, seen from outside: what was changed is there after a stop, files of others
//! load, damage stops the start and is left as it is, and two daemons never share a state.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::get;

#[track_caller]
fn code_of(daemon: &Daemon, host: &str) -> u16 {
    daemon.connect().exchange(get(host, "/")).status()
}

/// The files beside the state file that say something, and what they say.
fn files_of(setup: &Setup) -> Vec<(String, Vec<u8>)> {
    let names =
        ["state.json", "state.json.journal", "state.json.journal.folding", "state.json.rejected"];
    let read = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), fs::read(setup.path(name)).ok()?)));
    read.collect()
}

#[test]
fn changes_outlive_a_stop_and_a_crash() {
    let setup = Setup::new().rule("first.com", empty(402));
    let mut expected = json!({"first.com": empty(402)});
    for round in 0..6 {
        let mut daemon = setup.clone().start();
        let mut api = daemon.api();
        assert_eq!(api.get("/hostname/"), expected, "round {round}");
        let name = format!("r{round}.com");
        api.put(&format!("/hostname/{name}/"), &json!(["alias", {"hostname": "first.com"}, true]));
        api.patch(&json!({"gone.com": empty(403), "first.com": empty(400 + round)}));
        api.delete("gone.com");
        expected[name] = json!(["alias", {"hostname": "first.com"}, true]);
        expected["first.com"] = empty(400 + round);
        assert_eq!(code_of(&daemon, &format!("x.r{round}.com")), 400 + round);
        if round % 2 == 0 {
            daemon.kill();
        } else {
            daemon.terminate();
            daemon.expect_clean_exit();
            assert!(fs::read(setup.path("state.json.journal")).expect("a journal").is_empty());
            let state: Value =
                serde_json::from_slice(&fs::read(setup.path("state.json")).expect("state"))
                    .expect("JSON");
            assert_eq!(state["hosts"], expected, "one tidy file");
        }
    }
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/", &json!({}));
    assert_eq!(code_of(&daemon, "first.com"), 503);
    daemon.kill();
    assert_eq!(setup.start().api().get("/hostname/"), json!({}), "an emptied table stays empty");
}

/// A tag of before a restart says nothing about the table after it.
#[test]
fn tags_do_not_outlive_the_process() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    let tag = daemon.api().put("/hostname/a.com/", &empty(402));
    daemon.kill();
    let daemon = setup.start();
    let if_match = format!("If-Match: {tag}\r\n");
    let answer = daemon.api().tell_with(&if_match, "PUT", "/hostname/a.com/", &empty(403));
    answer.expect_error(412, "precondition_failed");
}

#[test]
fn a_second_daemon_is_refused_by_name() {
    let setup = Setup::new().rule("a.com", empty(402));
    let mut daemon = setup.clone().start();
    let path = setup.path("other.sock").display().to_string();
    let second = setup.clone().set("bind_management", format!("unix:{path}"));
    let pid = daemon.pid().to_string();
    second.run(&[]).expect(1, &["state_file", "state.json", &format!("pid {pid}")]);
    // by way of a link it is the same state
    let link = setup.path("link.json");
    std::os::unix::fs::symlink("state.json", &link).expect("a link");
    let linked = second.clone().set("state_file", link.display());
    linked.run(&[]).expect(1, &["state_file", &format!("pid {pid}")]);
    let mut api = daemon.api();
    api.put("/hostname/b.com/", &empty(403));
    // a crash leaves the file of the lock behind, but no lock
    daemon.kill();
    let table = json!({"a.com": empty(402), "b.com": empty(403)});
    assert_eq!(second.start().api().get("/hostname/"), table);
}

#[test]
fn check_works_beside_a_running_daemon() {
    let setup = Setup::new().rule("a.com", empty(402));
    let daemon = setup.clone().start();
    daemon.api().put("/hostname/b.com/", &empty(403));
    let before = files_of(&setup);
    let finished = setup.run(&["--check"]);
    finished.expect(0, &[]);
    let said = format!("{}{}", finished.out, finished.err);
    assert!(said.contains("2 rules from"), "the journal counts: {said}");
    assert_eq!(files_of(&setup), before);
    daemon.api().put("/hostname/c.com/", &empty(404));
}

/// A daemon that was killed after some changes; its files.
fn crashed(setup: &Setup) -> Vec<u8> {
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    for n in 0..10 {
        api.put(&format!("/hostname/h{n}.com/"), &empty(400 + n));
    }
    daemon.kill();
    fs::read(setup.path("state.json.journal")).expect("a journal")
}

#[test]
fn a_damaged_journal_stops_the_start_and_stays() {
    let setup = Setup::new().rule("a.com", empty(402));
    let journal = crashed(&setup);
    let lines: Vec<&[u8]> = journal.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 10);
    let with = |at: usize, line: &[u8]| {
        let mut lines = lines.clone();
        lines[at] = line;
        lines.concat()
    };
    let mut flipped = lines[4].to_vec();
    flipped[20] ^= 1;
    let mut other_code = lines[4].to_vec();
    let at = crate::script::find(&other_code, b"404").expect("its code");
    other_code[at + 2] = b'5';
    for (what, damaged, line) in [
        ("a flipped bit", with(4, &flipped), "line 5"),
        ("another rule", with(4, &other_code), "line 5"),
        ("a line missing", with(4, b""), "line 5"),
        ("a line twice", with(4, lines[3]), "line 5"),
        ("an empty line", with(4, b"\n"), "line 5"),
        ("zeroes", with(4, &[0; 4096]), "line 5"),
        ("half a line", with(4, &lines[4][..10]), "line 5"),
        ("the first line", with(0, b"{}\n"), "line 1"),
    ] {
        fs::write(setup.path("state.json.journal"), &damaged).expect("a journal");
        let before = files_of(&setup);
        for arguments in [&["--check"][..], &[]] {
            let finished = setup.run(arguments);
            assert_eq!(finished.code, Some(1), "{what}: it started\n{}", finished.err);
            finished.expect(1, &["state.json.journal", line, "it was left"]);
            assert_eq!(files_of(&setup), before, "{what}");
        }
    }
    fs::write(setup.path("state.json.journal"), &journal).expect("a journal");
    let table = setup.start().api().get("/hostname/");
    assert_eq!(table.as_object().map(serde_json::Map::len), Some(11), "mended");
}

#[test]
fn a_torn_end_is_dropped_and_told() {
    let setup = Setup::new().rule("a.com", empty(402));
    let journal = crashed(&setup);
    let last =
        journal[..journal.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    for kept in [1, 2, 30, journal.len() - last - 1] {
        fs::write(setup.path("state.json.journal"), &journal[..last + kept]).expect("a journal");
        let mut daemon = setup.clone().start();
        daemon.expect_log(&["state.json.journal", "line 10", "dropped"]);
        let mut api = daemon.api();
        let table = api.get("/hostname/");
        let whole = kept == journal.len() - last - 1 && table.get("h9.com").is_some();
        assert_eq!(table.as_object().map(serde_json::Map::len), Some(if whole { 11 } else { 10 }));
        // and what comes behind it is not lost with it
        api.put("/hostname/h9.com/", &empty(409));
        api.put("/hostname/h10.com/", &empty(410));
        daemon.kill();
        let table = setup.clone().start().api().get("/hostname/");
        assert_eq!((&table["h9.com"], &table["h10.com"]), (&empty(409), &empty(410)));
        fs::write(
            setup.path("state.json"),
            json!({"hosts": {"a.com": empty(402)}, "stats": {}}).to_string(),
        )
        .expect("state");
    }
}

#[test]
fn state_files_of_the_original_and_its_fork_load() {
    let original = r#"{"stats": {"a.com": {"open_requests": 3, "completed_requests": 17, "bytes_sent": 1700, "bytes_received": 170}, "never.com": {}, "unknown": {"open_requests": 0, "completed_requests": 2, "bytes_sent": 20, "bytes_received": 2}}, "hosts": {"a.com": ["empty", {"code": "403"}, true], "http://b.com": ["redirect", {"redirect_to": "https://b.com"}, false], "never.com": ["static", {"type": "test"}, true], "spun.com": ["spin", {"timeout": "60", "check_interval": 1}, false], "p.com": ["proxy", {"backends": [["127.0.0.1", 1]], "attempts": "3", "delay": "0.1"}, true], "plain.com": ["unknown", {}, false], "none.com": ["no_hosts", {}, false]}}"#;
    let setup = Setup::new();
    fs::write(setup.path("state.json"), original).expect("a state file");
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    assert_eq!(api.get("/hostname/a.com/"), json!(["empty", {"code": 403}, true]));
    assert_eq!(api.get("/hostname/").as_object().map(serde_json::Map::len), Some(7));
    let a = api.get("/stats/a.com/");
    assert_eq!((&a["open_requests"], &a["completed_requests"]), (&json!(0), &json!(17)));
    assert_eq!((&a["bytes_sent"], &a["bytes_received"]), (&json!(1700), &json!(170)));
    assert_eq!(api.get("/stats/unknown/")["completed_requests"], 2);
    let codes = ["x.a.com", "never.com", "b.com", "plain.com"].map(|host| code_of(&daemon, host));
    assert_eq!(codes, [403, 200, 302, 503]);
    api.counted("a.com", 18);
    daemon.terminate();
    daemon.expect_clean_exit();
    let daemon = setup.start();
    assert_eq!(daemon.api().get("/hostname/").as_object().map(serde_json::Map::len), Some(7));
    assert_eq!(daemon.api().get("/stats/a.com/")["completed_requests"], 18);

    let fork = r#"{"hosts": {"f.com": ["proxy", {"backends": [{"__backend__": ["127.0.0.1", 1]}], "algorithm": "least_connections", "healthcheck": true}, false], "al.com": ["alias", {"hostname": "f.com"}, false]}, "stats": {}}"#;
    let setup = Setup::new();
    fs::write(setup.path("state.json"), fork).expect("a state file");
    let daemon = setup.start();
    let rule = json!(["proxy", {"backends": [["127.0.0.1", 1]], "algorithm": "least_connections", "healthcheck": true}, false]);
    assert_eq!(daemon.api().get("/hostname/f.com/"), rule);
    assert_eq!(code_of(&daemon, "al.com"), 502);
}

/// What could not be used is kept beside, and a change does not lose it.
#[test]
fn rules_that_are_not_valid_are_kept() {
    let setup =
        Setup::new().rule("good.com", empty(402)).rule("bad.com", json!(["frob", {}, true]));
    for _ in 0..2 {
        let mut daemon = setup.clone().start();
        daemon.api().put("/hostname/more.com/", &empty(403));
        daemon.terminate();
        daemon.expect_clean_exit();
        let kept = fs::read_to_string(setup.path("state.json.rejected")).expect("the kept rules");
        assert_eq!(kept.lines().count(), 1, "{kept}");
        assert!(kept.contains("bad.com") && kept.contains("frob"), "{kept}");
    }
    assert_eq!(
        setup.start().api().get("/hostname/"),
        json!({"good.com": empty(402), "more.com": empty(403)})
    );
}

#[test]
fn statistics_outlive_a_restart() {
    let setup = Setup::new().rule("a.com", empty(402)).rule("b.com", empty(403));
    let mut daemon = setup.clone().start();
    let request = get("a.com", "/");
    for _ in 0..5 {
        code_of(&daemon, "a.com");
    }
    code_of(&daemon, "nobody.com");
    let mut api = daemon.api();
    let before = api.counted("a.com", 5);
    assert_eq!(before["bytes_received"], 5 * request.len());
    let unknown = api.counted("unknown", 1);
    daemon.terminate();
    daemon.expect_clean_exit();
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    let same = |found: &Value, expected: &Value| {
        for key in ["open_requests", "completed_requests", "bytes_sent", "bytes_received"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
    };
    same(&api.get("/stats/a.com/"), &before);
    same(&api.get("/stats/unknown/"), &unknown);
    assert_eq!(api.get("/stats/b.com/"), json!({}));
    code_of(&daemon, "a.com");
    api.counted("a.com", 6);
    // a deleted one's are not found again
    api.delete("a.com");
    api.put("/hostname/a.com/", &empty(402));
    daemon.terminate();
    daemon.expect_clean_exit();
    let api = setup.start().api().get("/stats/a.com/");
    assert!(api == json!({}) || api["completed_requests"] == 0, "{api}");
}

/// The journal grows past the size from which on it is folded, while small changes go on.
#[test]
fn a_long_journal_is_folded_while_writers_go_on() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    let size = |name: &str| fs::metadata(setup.path(name)).map_or(0, |found| found.len());
    let (stop, mut small) = (std::sync::mpsc::channel::<()>(), daemon.api());
    let (stop, stopped) = stop;
    let writer = std::thread::spawn(move || {
        let mut count = 0_u16;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            count += 1;
            small.put("/hostname/small.com/", &empty(400 + count % 100));
        }
        400 + count % 100
    });
    let mut api = daemon.api();
    let long = |round: usize| -> Value {
        let to = format!("http://{round}.example/{}", "x".repeat(2000));
        (0..1000)
            .map(|n| (format!("h{n}.com"), json!(["redirect", {"redirect_to": to}, false])))
            .collect()
    };
    // 2 MB each; past 8 MiB it is folded
    for round in 0..6 {
        api.patch(&long(round));
    }
    eventually("the journal is folded", || {
        1_500_000 < size("state.json")
            && size("state.json.journal") < 8_000_000
            && !setup.path("state.json.journal.folding").exists()
    });
    drop(stop);
    let last = writer.join().expect("the writer");
    let table = api.get("/hostname/");
    assert_eq!(table["small.com"], empty(last));
    daemon.kill();
    let found = setup.start().api().get("/hostname/");
    assert!(found == table, "after a fold and a crash it is another table");
}

/// A link stays one; the file that it leads to is the state.
#[test]
fn state_file_behind_a_link_stays_behind_it() {
    let setup = Setup::new();
    let real = setup.path("real");
    fs::create_dir(&real).expect("a folder");
    fs::write(
        real.join("s.json"),
        json!({"hosts": {"a.com": empty(402)}, "stats": {}}).to_string(),
    )
    .expect("state");
    let link = setup.path("link.json");
    std::os::unix::fs::symlink("real/s.json", &link).expect("a link");
    let setup = setup.set("state_file", link.display());
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/b.com/", &empty(403));
    daemon.terminate();
    daemon.expect_clean_exit();
    assert!(fs::symlink_metadata(&link).expect("it").is_symlink());
    let table = json!({"a.com": empty(402), "b.com": empty(403)});
    assert_eq!(state_in(&real.join("s.json")), table);
    assert_eq!(setup.start().api().get("/hostname/"), table);
}

fn state_in(path: &Path) -> Value {
    let text = fs::read(path).expect("a state file");
    let state: Value = serde_json::from_slice(&text).expect("JSON");
    state["hosts"].clone()
}

/// What an operator does by hand while the daemon is down counts.
#[test]
fn state_file_edited_by_hand_is_read() {
    let setup = Setup::new().rule("a.com", empty(402));
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/b.com/", &empty(403));
    daemon.terminate();
    daemon.expect_clean_exit();
    let path = setup.path("state.json");
    let text = fs::read_to_string(&path).expect("the state").replace("403", "404");
    fs::write(&path, text).expect("the state");
    let mut daemon = setup.clone().start();
    assert_eq!(code_of(&daemon, "b.com"), 404);
    let mut api: Api = daemon.api();
    api.put("/hostname/c.com/", &empty(405));
    daemon.kill();
    let table = json!({"a.com": empty(402), "b.com": empty(404), "c.com": empty(405)});
    assert_eq!(setup.start().api().get("/hostname/"), table);
}
