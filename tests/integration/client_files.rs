//! `diff`, `check` and `load --dry-run`: files of rules beside the table of a daemon, and without
//! one.

use std::fs;

use serde_json::{Value, json};

use crate::api::empty;
use crate::client_daemon::way;
use crate::daemon::{Daemon, Finished, Setup};
use crate::management::Call;

fn table() -> Value {
    json!({
        "a.com": empty(402),
        "b.com": ["proxy", {"backends": [["127.0.0.1", 1], ["::1", 2]], "attempts": 2}, true],
        "https://c.com": ["alias", {"hostname": "a.com"}, false],
    })
}

fn daemon() -> Daemon {
    let daemon = Setup::new().start();
    daemon.api().put("/hostname/", &table());
    daemon
}

#[track_caller]
fn expect(finished: &Finished, code: i32, out: &str) {
    finished.expect(code, &[]);
    assert_eq!((finished.out.as_str(), finished.err.as_str()), (out, ""));
}

#[test]
fn same_tables_do_not_differ_however_they_are_written() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/", &table());
    let way = way(&daemon);
    let other = json!({
        "A.com.": ["empty", {"code": "402"}, false],
        "b.com": ["proxy", {"attempts": "2", "backends": "127.0.0.1:1,[0::1]:2"}, true],
        "HTTPS://c.com": ["alias", {"hostname": "A.com"}, false],
    });
    let state = json!({"hosts": table(), "stats": {}, "sequence": 3});
    for file in [table(), other, state] {
        let finished = way.call("diff -").reading(&file.to_string()).finish();
        expect(&finished, 0, "");
    }
    let dumped = way.call("dump").finish().out;
    expect(&way.call("diff -").reading(&dumped).finish(), 0, "");
    // also that of a daemon that has ended
    daemon.terminate();
    daemon.expect_clean_exit();
    let file = setup.path("state.json");
    let again = setup.start();
    let way = crate::client_daemon::way(&again);
    expect(&way.call(&format!("diff {}", file.display())).finish(), 0, "");
}

#[test]
fn each_rule_that_differs_has_a_line() {
    let daemon = daemon();
    let (way, mut api) = (way(&daemon), daemon.api());
    let before = api.etag();
    let file = json!({
        "a.com": empty(403),
        "b.com": ["proxy", {"backends": "127.0.0.1:1", "weights": "3"}, false],
        "d.com": ["spin", {}, true],
    });
    let lines = "~ a.com code 402 -> 403\n\
                 ~ b.com subdoms true -> false; backends 127.0.0.1:1,[::1]:2 -> 127.0.0.1:1; \
                 attempts 2 -> none; weights none -> [3]\n\
                 + d.com [\"spin\",{},true]\n\
                 - https://c.com [\"alias\",{\"hostname\":\"a.com\"},false]\n";
    expect(&way.call("diff -").reading(&file.to_string()).finish(), 1, lines);
    let json = way.call("diff --json -").reading(&file.to_string()).finish();
    json.expect(1, &[]);
    let told: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(told["added"], json!({"d.com": ["spin", {}, true]}));
    assert_eq!(told["removed"], json!({"https://c.com": table()["https://c.com"]}));
    assert_eq!(told["changed"]["a.com"], json!([empty(402), empty(403)]));
    // a file of changes says nothing about other hosts
    let changes = json!({"a.com": null, "d.com": empty(404), "gone.com": null});
    let lines =
        "- a.com [\"empty\",{\"code\":402},false]\n+ d.com [\"empty\",{\"code\":404},false]\n";
    expect(&way.call("diff --merge -").reading(&changes.to_string()).finish(), 1, lines);
    assert_eq!((api.get("/hostname/"), api.etag()), (table(), before));
}

/// A script that asks for the exit code must not take a broken daemon for a difference.
#[test]
fn difference_that_can_not_be_said_is_2() {
    let daemon = daemon();
    let way = way(&daemon);
    for (text, words) in [
        ("{", &["standard input", "EOF"][..]),
        (r#"{"a.com": ["frob", {}, true]}"#, &["a.com", "no action \"frob\""]),
        (r#"{"a.com": ["alias", {"hostname": "b.com"}, true]}"#, &["no rule", "a.com"]),
    ] {
        let finished = way.call("diff -").reading(text).finish();
        finished.expect(2, words);
        assert_eq!(finished.out, "");
    }
    let nobody = format!("http://127.0.0.1:{}", crate::backend::closed_port());
    let finished = Call::at(&nobody, &["diff", "-"]).reading("{}").finish();
    finished.expect(2, &["no daemon answers"]);
    way.call("diff /nowhere/table.json").finish().expect(2, &["/nowhere/table.json"]);
}

#[test]
fn dry_run_shows_the_difference_and_changes_nothing() {
    let daemon = daemon();
    let (way, mut api) = (way(&daemon), daemon.api());
    let before = api.etag();
    let file = json!({"a.com": empty(403), "b.com": table()["b.com"]});
    let load = |line: &str| way.call(line).reading(&file.to_string()).finish();
    let finished = load("load --dry-run -");
    finished.expect(0, &["2 rules of standard input checked; nothing was changed"]);
    let difference = "~ a.com code 402 -> 403\n\
                      - https://c.com [\"alias\",{\"hostname\":\"a.com\"},false]\n";
    assert_eq!(finished.out, difference);
    let finished = load("load --merge --dry-run -");
    finished.expect(0, &[]);
    assert_eq!(finished.out, "~ a.com code 402 -> 403\n");
    let finished = load("load --dry-run --json -");
    finished.expect(0, &[]);
    assert_eq!(finished.out, "{\"ok\":true,\"dry_run\":true}\n");
    assert_eq!((api.get("/hostname/"), api.etag()), (table(), before));
    load("load --merge -").expect(0, &["loaded"]);
    let finished = load("load --merge --dry-run -");
    finished.expect(0, &[]);
    assert_eq!(finished.out, "", "nothing is left to do");
}

#[test]
fn files_are_checked_without_a_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.json");
    let check = |table: &Value, options: &[&str]| {
        fs::write(&file, table.to_string()).expect("a file");
        let words = [&["check", file.to_str().expect("UTF-8")], options].concat();
        Call::new(&words).finish()
    };
    let finished = check(&table(), &[]);
    expect(&finished, 0, &format!("3 rules of {} are right\n", file.display()));
    expect(&check(&json!({"a.com": empty(402)}), &["--json"]), 0, "{\"rules\":1,\"wrong\":[]}\n");
    let state = json!({"hosts": table(), "stats": {}, "sequence": 3});
    check(&state, &[]).expect(0, &[]);
    let wrong = json!({
        "a.com": ["empty", {"code": 99}, true],
        "b.com": ["frob", {}, true],
        "c d": empty(402),
        "e.com": ["alias", {"hostname": "nowhere.com"}, true],
        "f.com": ["alias", {"hostname": "a.com"}, true],
        "g.com": ["redirect", {"redirect_to": "http://g.com"}, false],
        "h.com": ["proxy", {"backends": "x:1", "frob": 1}, true],
        "i.com": empty(402),
    });
    let finished = check(&wrong, &[]);
    let name = file.display().to_string();
    let words = [
        &*format!("{name}: a.com: "),
        "200 to 599",
        "b.com: there is no action \"frob\"",
        "c d: the host name may hold letters",
        "e.com is an alias of nowhere.com",
        "g.com would be redirected for ever",
        "h.com: proxy has no argument frob",
        "6 rules wrong",
    ];
    finished.expect(1, &words);
    assert_eq!((finished.out.as_str(), finished.err.lines().count()), ("", 7), "{}", finished.err);
    let changes = json!({"a.com": null, "b.com": ["alias", {"hostname": "elsewhere.com"}, false]});
    check(&changes, &["--merge"]).expect(0, &[]);
    check(&changes, &[]).expect(1, &["a.com", "--merge"]);
    let twice = r#"{"a.com": ["empty", {"code": 402}, true], "A.com": ["spin", {}, true]}"#;
    let finished = Call::new(&["check", "-"]).reading(twice).finish();
    finished.expect(0, &["\"A.com\" is named twice"]);
    for text in ["", "[]", "{\"a.com\": [}"] {
        Call::new(&["check", "-"]).reading(text).finish().expect(1, &["standard input: "]);
    }
}

/// What passes the check is taken, and what does not is refused by the daemon as well.
#[test]
fn check_and_daemon_agree() {
    let daemon = Setup::new().start();
    let way = way(&daemon);
    for (table, is_right) in [
        (table(), true),
        (json!({"a.com": ["alias", {"hostname": "a.com"}, true]}), false),
        (json!({"a.com": ["redirect", {"redirect_to": "ftp://b.com"}, true]}), false),
        (json!({"a.com": ["proxy", {"backends": []}, true]}), false),
        (json!({"a.com": ["empty", {"code": 402}, 1]}), false),
        (json!({"a..com": empty(402)}), false),
        (json!({"http://a.com": ["redirect", {"redirect_to": "https://a.com"}, true]}), true),
    ] {
        let text = table.to_string();
        let code = i32::from(!is_right);
        Call::new(&["check", "-"]).reading(&text).finish().expect(code, &[]);
        way.call("load --dry-run -").reading(&text).finish().expect(code, &[]);
    }
}
