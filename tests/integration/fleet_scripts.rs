//! A fleet's node before a stand-in of etcd that does what the real one does only at the worst
//! moment: it loses events, cuts streams, makes a change and does not say so, refuses by a code.

use serde_json::{Value, json};
use tonic::Code;

use crate::daemon::{Daemon, eventually};
use crate::fleet::{connected, node, rule, table};
use crate::manage::Api;
use crate::message::get;
use crate::scripted_etcd::{Fate, ScriptedEtcd, WatchFate};

fn start() -> (ScriptedEtcd, Daemon, Api) {
    let etcd = ScriptedEtcd::start();
    let daemon = node("a", &etcd.urls()).start();
    let api = connected(&daemon);
    (etcd, daemon, api)
}

fn sequence(api: &mut Api) -> u64 {
    api.get("/fleet/")["sequence"].as_u64().expect("a number")
}

/// Writes an entry as another node does: with the head, in one transaction.
fn write_entry(etcd: &ScriptedEtcd, sequence: u64, rules: &Value) {
    let edits = json!([{"verb": "PATCH", "who": "z", "whole": false, "rules": rules}]);
    let entry = json!({"sequence": sequence, "node": "z", "nonce": "z", "edits": edits});
    let head = json!({"sequence": sequence, "nonce": "z"});
    etcd.write(&[
        (&format!("/mantrid/f/live/log/{sequence:020}"), &entry.to_string()),
        ("/mantrid/f/live/head", &head.to_string()),
    ]);
}

/// The numbers are consecutive, so the next entry shows that one is missing.
#[test]
fn entry_that_was_lost_is_a_gap_and_is_read() {
    let (etcd, daemon, mut api) = start();
    etcd.next_events(&[WatchFate::Lost]);
    write_entry(&etcd, 1, &json!({"lost.com": rule(418)}));
    write_entry(&etcd, 2, &json!({"next.com": rule(204)}));
    eventually("both are in force", || sequence(&mut api) == 2);
    let status = |host| daemon.connect().exchange(get(host, "/")).status();
    assert_eq!([status("lost.com"), status("next.com")], [418, 204]);
    assert!(etcd.is_played());
}

/// The event of a node's own change never comes: the node looks for it.
#[test]
fn own_change_whose_event_is_lost_is_found() {
    let (etcd, daemon, mut api) = start();
    for (at, fate) in
        [WatchFate::Lost, WatchFate::Cut, WatchFate::Silent, WatchFate::Canceled("a reason")]
            .into_iter()
            .enumerate()
    {
        etcd.next_events(&[fate]);
        api.put(&format!("/hostname/a{at}.com/"), &rule(418));
        assert_eq!(sequence(&mut api), at as u64 + 1, "{fate:?}");
        assert_eq!(daemon.connect().exchange(get(&format!("a{at}.com"), "/")).status(), 418);
    }
    assert!(etcd.is_played());
    eventually("each trouble was followed by a new watch", || etcd.watches() == 5);
}

#[test]
fn entry_that_comes_twice_or_in_parts_is_applied_once() {
    let (etcd, _daemon, mut api) = start();
    for (at, fate) in [WatchFate::Doubled, WatchFate::Split].into_iter().enumerate() {
        etcd.next_events(&[fate]);
        api.put(&format!("/hostname/a{at}.com/"), &rule(418));
    }
    api.put("/hostname/b.com/", &rule(418));
    assert_eq!(sequence(&mut api), 3);
    assert_eq!(table(&mut api).1.as_object().map(serde_json::Map::len), Some(3));
    assert_eq!(etcd.watches(), 1, "neither is a reason to begin anew");
}

/// A transaction whose outcome is unknown is one change or none, and the answer says which.
#[test]
fn change_of_unknown_outcome_is_made_once() {
    let (etcd, _daemon, mut api) = start();
    let away = "the transport is closing";
    let fates = [
        Fate::DoneWith(Code::Unavailable, away),
        Fate::Refused(Code::Unavailable, away),
        Fate::DoneWith(Code::DeadlineExceeded, "etcdserver: request timed out"),
        Fate::DoneInSilence,
        Fate::Silence,
    ];
    for (at, fate) in fates.into_iter().enumerate() {
        etcd.next_changes(&[fate]);
        let path = format!("/hostname/a{at}.com/");
        let answer = api.tell("PUT", &path, &rule(418));
        assert_eq!(answer.status(), 200, "{fate:?}: {}", answer.text());
        assert_eq!(sequence(&mut api), at as u64 + 1, "{fate:?}");
    }
    assert!(etcd.is_played());
}

#[test]
fn refusals_of_etcd_have_codes_of_their_own() {
    let (etcd, daemon, mut api) = start();
    let full = "etcdserver: mvcc: database space exceeded";
    etcd.next_changes(&[Fate::Refused(Code::ResourceExhausted, full)]);
    let sentence = api.tell("PUT", "/hostname/a.com/", &rule(418));
    let sentence = sentence.expect_error(507, "fleet_no_space");
    assert!(sentence.contains("alarm disarm"), "{sentence}");
    etcd.next_changes(&[Fate::Refused(Code::PermissionDenied, "etcdserver: permission denied")]);
    let sentence = api.tell("PUT", "/hostname/a.com/", &rule(418));
    let sentence = sentence.expect_error(503, "fleet_denied");
    assert!(sentence.contains("fleet_user"), "{sentence}");
    // Neither left anything.
    assert_eq!(sequence(&mut api), 0);
    assert_eq!(table(&mut api).1, json!({}));
    api.put("/hostname/a.com/", &rule(418));
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 418);
}

/// A token that has expired in the middle of the work costs a login, not a change.
#[test]
fn expired_token_is_renewed() {
    let etcd = ScriptedEtcd::start();
    etcd.set_token("first");
    let setup = node("a", &etcd.urls());
    let file = setup.path("password");
    std::fs::write(&file, "word\n").expect("a file");
    let setup = setup.set("fleet_user", "mantrid").set("fleet_password_file", file.display());
    let daemon = setup.start();
    let mut api = connected(&daemon);
    api.put("/hostname/a.com/", &rule(418));
    let before = etcd.logins();
    etcd.set_token("second");
    api.put("/hostname/b.com/", &rule(418));
    assert!(before < etcd.logins(), "nobody logged in anew");
    // The watch, too, begins with the new one.
    etcd.next_events(&[WatchFate::Cut]);
    etcd.set_token("third");
    api.put("/hostname/c.com/", &rule(418));
    assert_eq!(sequence(&mut api), 3);
}

/// What the log has no more is loaded whole.
#[test]
fn node_that_missed_what_was_compacted_loads_the_table() {
    let (etcd, daemon, mut api) = start();
    api.put("/hostname/a.com/", &rule(418));
    // The watch is cut, and before the next one begins the revisions behind it are gone.
    etcd.next_events(&[WatchFate::Cut]);
    write_entry(&etcd, 2, &json!({"b.com": rule(204)}));
    etcd.compact();
    write_entry(&etcd, 3, &json!({"a.com": null}));
    etcd.compact();
    eventually("it has all of it", || sequence(&mut api) == 3);
    let status = |host| daemon.connect().exchange(get(host, "/")).status();
    assert_eq!([status("a.com"), status("b.com")], [503, 204]);
}
