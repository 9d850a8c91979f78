//! `GET /changes/`: who changed which rule, and what it was before.

use serde_json::{Map, Value, json};

use crate::api::empty;
use crate::daemon::Setup;
use crate::manage::Api;
use crate::management::Call;

fn pairs(changes: &Value) -> Vec<(String, Value, Value)> {
    let each = changes.as_array().expect("a list").iter();
    each.map(|change| {
        let host = change["host"].as_str().expect("a host").to_owned();
        (host, change["rule"].clone(), change["before"].clone())
    })
    .collect()
}

fn made(host: &str, rule: Value, before: Value) -> (String, Value, Value) {
    (host.to_owned(), rule, before)
}

#[test]
fn each_change_is_told_the_newest_first() {
    let daemon = Setup::new().rule("old.com", empty(402)).start();
    let mut api = daemon.api();
    assert_eq!(api.get("/changes/"), json!([]));
    api.put("/hostname/a.com/", &empty(403));
    let changes = api.get("/changes/");
    let names: Vec<&String> = changes[0].as_object().expect("an object").keys().collect();
    assert_eq!(names, ["time", "who", "verb", "host", "rule", "before"]);
    assert!(changes[0]["who"].as_str().is_some_and(|who| who.contains("uid")), "{changes}");
    assert!(1e9 < changes[0]["time"].as_f64().expect("a time"));
    api.put("/hostname/a.com/", &empty(404));
    api.put("/hostname/a.com/", &empty(404));
    api.patch(&json!({"b.com": empty(410), "old.com": null, "none.com": null}));
    let expected = [
        made("old.com", Value::Null, empty(402)),
        made("b.com", empty(410), Value::Null),
        made("a.com", empty(404), empty(403)),
        made("a.com", empty(403), Value::Null),
    ];
    let changes = api.get("/changes/");
    assert_eq!(pairs(&changes), expected, "a rule that stays as it was is no change");
    let verbs: Vec<_> =
        changes.as_array().expect("a list").iter().map(|one| &one["verb"]).collect();
    assert_eq!(verbs, ["PATCH", "PATCH", "PUT", "PUT"]);
    assert_eq!(pairs(&api.get("/changes/?host=A.com")), expected[2..]);
    assert_eq!(pairs(&api.get("/changes/?limit=1")), expected[..1]);
    assert_eq!(api.get("/changes/?host=nobody.com"), json!([]));
    // checked and refused changes are none
    api.tell("PUT", "/hostname/a.com/?dry_run=1", &empty(500)).expect_status(200);
    api.tell("PUT", "/hostname/a.com/", &empty(99)).expect_status(400);
    assert_eq!(pairs(&api.get("/changes/")).len(), 4);
}

#[test]
fn table_in_place_of_another_is_told_rule_by_rule_or_as_one() {
    let daemon = Setup::new().rule("a.com", empty(402)).rule("b.com", empty(403)).start();
    let mut api = daemon.api();
    api.put("/hostname/", &json!({"b.com": empty(403), "c.com": empty(404)}));
    let expected = [made("c.com", empty(404), Value::Null), made("a.com", Value::Null, empty(402))];
    assert_eq!(pairs(&api.get("/changes/")), expected);
    let many: Map<String, Value> = (0..101).map(|n| (format!("h{n}.com"), empty(403))).collect();
    api.put("/hostname/", &Value::Object(many));
    let changes = api.get("/changes/?host=h7.com");
    assert_eq!(pairs(&changes), [made("*", Value::Null, Value::Null)]);
    assert_eq!(changes[0]["changed"], 101);
}

#[test]
fn argument_that_makes_no_sense_is_named() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for (query, code, word) in [
        ("limit=5001", "query_invalid", "limit=5001: expected a whole number up to 5000"),
        ("limit=x", "query_invalid", "limit=x"),
        ("host=a.com&host=b.com", "query_invalid", "host: given twice"),
        ("since=1", "query_unknown", "host, limit"),
        ("host=a..b", "a..b:hostname_invalid", "empty label"),
    ] {
        let answer = api.ask("GET", &format!("/changes/?{query}"));
        let sentence = answer.expect_error(400, code);
        assert!(sentence.contains(word), "{query}: {sentence}");
    }
    api.ask("PUT", "/changes/").expect_error(405, "method_not_allowed");
}

#[test]
fn client_prints_them_as_a_log() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.put("/hostname/a.com/", &json!(["proxy", {"backends": ["127.0.0.1:8000"]}, true]));
    api.put("/hostname/b.com/", &empty(403));
    api.put("/hostname/a.com/", &json!(["spin", {}, true]));
    let url = daemon.management.iter().find(|one| one.starts_with("unix:")).expect("a socket");
    let run = |words: &[&str]| {
        let finished = Call::new(&[&["--url", url], words].concat()).finish();
        finished.expect(0, &[]);
        finished.out
    };
    let out = run(&["changes", "a.com"]);
    let lines: Vec<&str> = out.lines().collect();
    let [first, last] = lines[..] else { panic!("two lines: {out}") };
    assert!(first.contains("proxy<127.0.0.1:8000>, new, by uid"), "{out}");
    assert!(last.contains("spin, was proxy<127.0.0.1:8000>, by uid"), "{out}");
    assert_eq!(run(&["changes", "--limit", "1"]).lines().count(), 1);
    let listed: Value = serde_json::from_str(&run(&["changes", "--json"])).expect("JSON");
    assert_eq!(listed, api.get("/changes/"));
}

/// A client that may see some hosts sees their changes alone.
#[test]
fn changes_of_other_hosts_are_not_told() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    let file = setup.path("tokens");
    std::fs::write(&file, "all admin all-0123456789\nshop read shop-0123456789 shop.example\n")
        .expect("a file of tokens");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode");
    let daemon = setup.set("management_tokens_file", file.display()).start();
    let of = |name: &str| -> Api {
        daemon.api().with(&format!("Authorization: Bearer {name}-0123456789"))
    };
    of("all").put("/hostname/a.shop.example/", &empty(403));
    of("all").put("/hostname/other.example/", &empty(403));
    let changes = of("shop").get("/changes/");
    assert_eq!(pairs(&changes), [made("a.shop.example", empty(403), Value::Null)]);
    assert_eq!(changes[0]["who"], "all", "the name of the token");
    of("shop").ask("GET", "/changes/?host=other.example").expect_status(403);
    of("shop").ask("GET", "/history/?host=other.example").expect_status(403);
    of("shop").ask("GET", "/stats/?sort=requests").expect_status(200);
    let names = of("shop").get("/stats/?sort=requests");
    let names: Vec<&String> = names.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["a.shop.example"]);
}
