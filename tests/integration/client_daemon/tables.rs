//! Whole tables through the client: listed, searched, dumped and loaded, all or nothing.

use std::fs;

use serde_json::{Map, Value, json};

use super::{LIST, way, ways};
use crate::api::empty;
use crate::daemon::Setup;
use crate::message::assert_same;

/// A table of every action.
fn table(rules: usize) -> Value {
    let rule = |n: usize| match n % 5 {
        0 => {
            json!(["proxy", {"backends": [["127.0.0.1", 1 + n], ["::1", 80]], "attempts": 3}, true])
        }
        1 => json!(["redirect", {"redirect_to": format!("http://b{n}.com")}, false]),
        2 => json!(["static", {"type": "test"}, true]),
        3 => json!(["spin", {"timeout": n}, false]),
        _ => json!(["alias", {"hostname": format!("host-{:05}.example.com", n - 1)}, false]),
    };
    let named = (0..rules).map(|n| (format!("host-{n:05}.example.com"), rule(n)));
    named.collect::<Map<_, _>>().into()
}

#[test]
fn a_table_goes_out_and_in() {
    for rules in [0, 1, 10_000] {
        let setup = Setup::new().management_tcp();
        let mut daemon = setup.clone().start();
        let expected = table(rules);
        let (file, second) = (setup.path("table.json"), setup.path("second.json"));
        let tag = setup.path("tag");
        fs::write(&file, expected.to_string()).expect("a file");
        for way in ways(&daemon) {
            daemon.api().put("/hostname/", &json!({"other.com": empty(402)}));
            let finished = way.call(&format!("load {}", file.display())).finish();
            let counted =
                if rules == 1 { "1 rule of ".into() } else { format!("{rules} rules of ") };
            finished.expect(0, &[&counted, "loaded"]);
            assert!(daemon.api().get("/hostname/") == expected, "{rules} rules");
            let list = way.call("list").finish().out;
            assert!(list.starts_with(LIST));
            assert_eq!(list.lines().count(), rules + 1);
            let dumped = way.call(&format!("dump --etag {}", tag.display())).finish();
            dumped.expect(0, &[]);
            assert!(dumped.out == format!("{expected}\n"), "{rules} rules");
            // only the table that was dumped is replaced by what was made of it
            fs::write(&second, &dumped.out).expect("a file");
            let tag = fs::read_to_string(&tag).expect("the tag");
            let load = ["load", second.to_str().expect("UTF-8"), "--if-match", &tag];
            way.words(&load).finish().expect(0, &["loaded"]);
            daemon.api().put("/hostname/new.com/", &empty(402));
            way.words(&load).finish().expect(1, &["changed since", "--if-match"]);
        }
        // what the daemon keeps of it can be loaded, too
        daemon.terminate();
        daemon.expect_clean_exit();
        let state = setup.path("state.json");
        let other = Setup::new().start();
        let way = way(&other);
        way.call(&format!("load {}", state.display())).finish().expect(0, &["loaded"]);
        assert_eq!(
            other.api().get("/hostname/").as_object().map(Map::len),
            Some(rules + 1),
            "and new.com"
        );
    }
}

/// The host that is wrong is named, wherever it stands, and nothing is changed.
#[test]
fn a_bad_table_changes_nothing() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let before = api.etag();
    for (host, rule, word) in [
        ("b.com", json!(["proxy", {"backends": []}, true]), "at least one backend"),
        ("b.com", json!(["proxy", {"backends": [["c", "x"]]}, true]), "backend"),
        ("b.com", json!(["frob", {}, true]), "no action \"frob\""),
        ("b.com", json!(["empty", {"code": 99}, true]), "200 to 599"),
        ("b.com", json!(["empty", {"code": 402}, 1]), "match_subdomains"),
        ("b.com", json!(["empty", {"code": 402}]), "three elements"),
        ("b.com", json!(["alias", {"hostname": "nowhere.com"}, true]), "nowhere.com"),
        ("b .com", empty(402), "letters, digits"),
        ("b..com", empty(402), "empty label"),
    ] {
        let mut table = table(500);
        table[host] = rule;
        table["z.com"] = empty(403);
        for options in ["", "--dry-run", "--merge", "--merge --dry-run"] {
            let line = format!("load {options} -");
            let finished = way.call(&line).reading(&table.to_string()).finish();
            finished.expect(1, &[host, word]);
            assert!(!finished.err.contains("loaded"), "{}", finished.err);
        }
        assert_eq!(
            (api.get("/hostname/"), api.etag()),
            (json!({"a.com": empty(402)}), before.clone())
        );
    }
}

#[test]
fn dry_runs_and_merges_change_what_they_say() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let (before, part) = (api.etag(), json!({"a.com": null, "b.com": empty(403)}));
    let load = |line: &str, table: &Value| way.call(line).reading(&table.to_string()).finish();
    let checked = "checked; nothing was changed";
    load("load --merge --dry-run -", &part).expect(0, &["2 changes", checked]);
    load("load --dry-run -", &table(10)).expect(0, &["10 rules", checked]);
    load("load --dry-run -", &part).expect(1, &["a.com", "--merge"]);
    assert_eq!(api.etag(), before);
    load("load --merge -", &part).expect(0, &["2 changes", "loaded"]);
    assert_eq!(api.get("/hostname/"), json!({"b.com": empty(403)}));
}

/// What is looked for is looked for by the daemon.
#[test]
fn list_shows_the_part_that_is_asked_for() {
    let daemon = Setup::new().management_tcp().start();
    daemon.api().put(
        "/hostname/",
        &json!({
            "a.com": empty(402),
            "www.a.com": ["spin", {}, true],
            "https://www.a.com": empty(403),
            "b.com": ["static", {"type": "test"}, false],
        }),
    );
    let rows = [
        "a.com                               empty<402>                False   \n",
        "b.com                               static<test>              False   \n",
        "https://www.a.com                   empty<403>                False   \n",
        "www.a.com                           spin                      True    \n",
    ];
    for way in ways(&daemon) {
        for (line, found) in [
            ("list", &[0, 1, 2, 3][..]),
            ("list --search a.com", &[0, 2, 3]),
            ("list --search=A.Com --action empty", &[0, 2]),
            ("list --action empty", &[0, 2]),
            ("list --action spin", &[3]),
            ("list --action proxy", &[]),
            ("list --search https://", &[2]),
            ("list --search -", &[]),
            ("list --search a&action=spin", &[]),
            ("list --search +%2e#?", &[]),
        ] {
            let found: String = found.iter().map(|n| rows[*n]).collect();
            way.prints(line, &format!("{LIST}{found}"));
        }
        let found = way.call("list --json --search www --action spin").finish();
        assert_same("JSON", b"{\"www.a.com\":[\"spin\",{},true]}\n", found.out.as_bytes());
        // a slip must not look like an empty table
        way.fails("list --action prox", &["prox", "proxy, spin, redirect"]);
    }
}
