//! Fleets while etcd, or the way to it, fails.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::eventually;
use crate::etcd::{Etcd, Passing, Way};
use crate::fleet::{connected, expect_equal, expect_equal_nodes, long, node, rule, table};
use crate::message::get;

fn rules(api: &mut crate::manage::Api) -> usize {
    table(api).1.as_object().map_or(0, serde_json::Map::len)
}

/// An answer that stays away says nothing of the change: it is made once, by another member.
#[test]
fn a_change_whose_answer_is_lost_is_made_once() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (first, second) = (Way::to(&etcd.members[0].url), Way::to(&etcd.members[0].url));
    let a = node("a", &[first.url.clone(), second.url.clone()]).start();
    let mut api = connected(&a);
    let before = api.get("/fleet/")["sequence"].as_u64().expect("a number");
    for (at, passing) in [Passing::Requests, Passing::Nothing, Passing::Cut].into_iter().enumerate()
    {
        first.set(passing);
        api.put(&format!("/hostname/a{at}.com/"), &rule(418));
        second.set(passing);
        first.set(Passing::All);
        api.put(&format!("/hostname/b{at}.com/"), &rule(418));
        second.set(Passing::All);
    }
    assert_eq!(rules(&mut api), 6);
    assert_eq!(api.get("/fleet/")["sequence"].as_u64(), Some(before + 6), "each was made once");
    assert_eq!(a.connect().exchange(get("a0.com", "/")).status(), 418);
}

/// No answer ever comes: the client is told that nobody knows.
#[test]
fn a_change_of_unknown_outcome_is_said_to_be_one() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let way = Way::to(&etcd.members[0].url);
    let a = node("a", std::slice::from_ref(&way.url)).start();
    let mut api = connected(&a);
    way.set(Passing::Requests);
    let error = api.tell("PUT", "/hostname/a.com/", &rule(418));
    let sentence = error.expect_error(503, "fleet_unreachable");
    assert!(sentence.contains("may have been made"), "{sentence}");
    way.set(Passing::All);
    // It was, and the watch brings it.
    eventually("it is in force", || a.connect().exchange(get("a.com", "/")).status() == 418);
}

/// Connections that stay open and bring nothing are found out.
#[test]
fn a_watch_that_falls_silent_is_left() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let way = Way::to(&etcd.members[0].url);
    let a = node("a", &[way.url.clone(), etcd.members[0].url.clone()]).start();
    let b = node("b", &etcd.urls()).start();
    let [_, mut to_b] = [&a, &b].map(connected);
    way.set(Passing::Nothing);
    to_b.put("/hostname/b.com/", &rule(418));
    // HTTP/2's pings take their time.
    let until = Instant::now() + Duration::from_secs(60);
    while a.connect().exchange(get("b.com", "/")).status() != 418 {
        assert!(Instant::now() < until, "a has found no other way");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    to_a.put("/hostname/a.com/", &rule(418));
    expect_equal(&mut [&mut to_a, &mut to_b]);
}

/// What it missed is gone from etcd's history, and from its log.
#[test]
fn a_node_that_was_away_for_long_loads_the_table() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let way = Way::to(&etcd.members[0].url);
    let a = node("a", std::slice::from_ref(&way.url)).start();
    let b = node("b", &etcd.urls()).start();
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    to_b.put("/hostname/b.com/", &rule(418));
    expect_equal(&mut [&mut to_a, &mut to_b]);
    way.set(Passing::Cut);
    for at in 0..20 {
        to_b.put(&format!("/hostname/b{at}.com/"), &rule(200 + at));
        etcd.compact();
    }
    to_b.delete("b.com");
    way.set(Passing::All);
    connected(&a);
    expect_equal_nodes(&[&a, &b]);
    // Likewise where entries of the log itself are missing.
    way.set(Passing::Cut);
    let large: Value =
        (0..40_000).map(|at| (format!("host-{at}.example.com"), rule(418))).collect();
    let mut to_b = long(&b);
    for code in 0..4 {
        let mut some = large.clone();
        some["host-0.example.com"] = rule(200 + code);
        to_b.tell("PATCH", "/hostname/", &some).expect_made();
    }
    let key = "/mantrid/f/live/base";
    let mut folded = 0;
    eventually("the log is folded", || {
        let base = etcd.control(&["get", "--print-value-only", key]);
        let base: Value = serde_json::from_str(&base).unwrap_or_default();
        folded = base["sequence"].as_u64().unwrap_or_default();
        23 <= folded
    });
    // What the folded table has is in the log no more; what came behind it is.
    let entry = |sequence: u64| format!("/mantrid/f/live/log/{sequence:020}");
    etcd.control(&["del", &entry(0), &entry(folded + 1)]);
    etcd.compact();
    way.set(Passing::All);
    connected(&a);
    expect_equal_nodes(&[&a, &b]);
    long(&b).put("/hostname/after.com/", &rule(200));
    expect_equal_nodes(&[&a, &b]);
}

/// Members go and come while all nodes write.
#[test]
fn members_that_are_killed_or_stopped_lose_no_change() {
    let Some(mut etcd) = Etcd::start(3, &[]) else { return };
    let nodes = ["a", "b", "c"].map(|name| node(name, &etcd.urls()).start());
    let mut apis = nodes.each_ref().map(connected);
    let made: usize = std::thread::scope(|scope| {
        let writers = ["a", "b", "c"].iter().zip(&mut apis).map(|(name, api)| {
            scope.spawn(move || {
                let mut made = 0;
                for at in 0..40 {
                    let path = format!("/hostname/{name}{at}.com/");
                    // A member that leads and goes takes a second or two with it.
                    let answer = api.tell("PUT", &path, &rule(200 + at));
                    made += usize::from(answer.status() == 200);
                }
                made
            })
        });
        let writers: Vec<_> = writers.collect();
        for at in 0..3 {
            etcd.kill(at);
            std::thread::park_timeout(Duration::from_millis(300));
            etcd.start_member(at);
            etcd.wait();
            etcd.signal(at, Signal::SIGSTOP);
            std::thread::park_timeout(Duration::from_millis(300));
            etcd.signal(at, Signal::SIGCONT);
        }
        writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
    });
    let [a, b, c] = &mut apis;
    expect_equal(&mut [a, b, c]);
    let there = rules(a);
    assert!(made <= there, "{made} were acknowledged, {there} are there");
    assert!(100 < made, "only {made} of 120 were made");
}

#[test]
fn a_store_without_space_is_told_from_one_that_is_away() {
    let Some(etcd) = Etcd::start(1, &["--quota-backend-bytes=3000000"]) else { return };
    let a = node("a", &etcd.urls()).start();
    let mut api = connected(&a);
    let large: Value = (0..8000).map(|at| (format!("host-{at}.example.com"), rule(418))).collect();
    let mut sentence = None;
    for _ in 0..20 {
        let answer = api.tell("PATCH", "/hostname/", &large);
        if answer.status() == 507 {
            sentence = Some(answer.expect_error(507, "fleet_no_space"));
            break;
        }
    }
    let sentence = sentence.expect("the quota is spent");
    assert!(sentence.contains("alarm disarm"), "{sentence}");
    assert_eq!(a.connect().exchange(get("host-7.example.com", "/")).status(), 418);
}

/// Users, and a password in a file.
#[test]
fn a_user_of_etcd_is_enough() {
    let Some(etcd) = Etcd::start(1, &["--auth-token-ttl=1"]) else { return };
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "mantrid:word"],
        &["role", "add", "mantrid"],
        &["role", "grant-permission", "mantrid", "--prefix=true", "readwrite", "/mantrid/f/"],
        &["user", "grant-role", "mantrid", "mantrid"],
        &["auth", "enable"],
    ] {
        etcd.control(words);
    }
    let setup = node("a", &etcd.urls());
    let file = setup.path("password");
    std::fs::write(&file, "word\n").expect("a file");
    let with = |setup: crate::daemon::Setup| {
        setup.set("fleet_user", "mantrid").set("fleet_password_file", file.display())
    };
    let a = with(setup).start();
    let mut api = connected(&a);
    api.put("/hostname/a.com/", &rule(418));
    // After its time a token is no longer one.
    std::thread::park_timeout(Duration::from_millis(2500));
    api.put("/hostname/b.com/", &rule(418));
    std::fs::write(&file, "wrong\n").expect("a file");
    let other = with(node("b", &etcd.urls()));
    other.run(&[]).expect(1, &["fleet", "authentication failed"]);
    let without = node("c", &etcd.urls());
    without.run(&[]).expect(1, &["fleet", "it asks for a user and a password"]);
}

/// An entry that this version can't read does not stop the rest.
#[test]
fn an_entry_of_a_newer_version_is_named_and_passed_over() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let a = node("a", &etcd.urls()).start();
    let mut api = connected(&a);
    api.put("/hostname/a.com/", &rule(418));
    let put = |sequence: u64, edits: Value| {
        let entry = json!({"sequence": sequence, "node": "z", "nonce": "z", "edits": edits});
        etcd.control(&["put", &format!("/mantrid/f/live/log/{sequence:020}"), &entry.to_string()]);
        let head = json!({"sequence": sequence, "nonce": "z"});
        etcd.control(&["put", "/mantrid/f/live/head", &head.to_string()]);
    };
    let rules = json!({"a.com": ["teleport", {}, true], "b.com": rule(204)});
    put(2, json!([{"verb": "PATCH", "who": "z", "whole": false, "rules": rules}]));
    eventually("the rest is in force", || a.connect().exchange(get("b.com", "/")).status() == 204);
    assert_eq!(a.connect().exchange(get("a.com", "/")).status(), 418, "the last good rule");
    assert!(api.get("/fleet/")["rejected"]["a.com"].is_string());
    put(3, json!({"nothing": "that is known"}));
    eventually("it has passed it", || api.get("/fleet/")["sequence"] == 3);
    a.expect_log(&["entry 3", "can't be applied"]);
    eventually("the head is known", || {
        api.tell("PUT", "/hostname/c.com/", &rule(200)).status() == 200
    });
}

/// A certificate for 127.0.0.1 that an authority of the test's own has signed, and the authority's.
fn certificates(folder: &std::path::Path) -> bool {
    let script = "set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \\
            -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=mantrid -keyout one.key -out one.csr
        printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext
        openssl x509 -req -in one.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \\
            -extfile ext -out one.pem";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).current_dir(folder);
    shell.output().is_ok_and(|done| done.status.success())
}

#[test]
fn etcd_is_reached_by_tls_and_believed_by_its_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    if !certificates(folder.path()) {
        return println!("skipped: no openssl");
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        format!("--cert-file={}", path("one.pem")),
        format!("--key-file={}", path("one.key")),
        format!("--trusted-ca-file={}", path("ca.pem")),
        "--client-cert-auth".to_owned(),
    ];
    let arguments = arguments.each_ref().map(String::as_str);
    let Some(etcd) = Etcd::start(1, &arguments) else { return };
    let with_ca = |name| node(name, &etcd.urls()).set("fleet_ca", path("ca.pem"));
    let a = with_ca("a").set("fleet_cert", path("one.pem")).set("fleet_key", path("one.key"));
    let a = a.start();
    let mut api = connected(&a);
    api.put("/hostname/a.com/", &rule(418));
    // Without a certificate of its own, or a reason to believe etcd's, there is no way.
    with_ca("b").run(&[]).expect(1, &["fleet: ", "out of reach"]);
    assert!(certificates(folder.path()), "another authority");
    let c = with_ca("c").set("fleet_cert", path("one.pem")).set("fleet_key", path("one.key"));
    c.run(&[]).expect(1, &["fleet: ", "out of reach"]);
}
