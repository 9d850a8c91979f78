//! `GET /held/`: which requests wait, from where, since when and for what.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::backend::closed_port;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::spin::{expect_held, spin, spinning};

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs_f64()
}

#[test]
fn held_requests_are_listed_oldest_first() {
    let (daemon, mut api) = spinning(Setup::new(), json!({"timeout": 600}));
    assert_eq!(api.get("/held/"), json!([]));
    let before = now();
    let mut first = daemon.connect();
    first.send(get("www.a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    let mut second = daemon.connect();
    second.send(get("a.com", "/"));
    expect_held(&mut api, "a.com", 2);
    let listed = api.get("/held/?host=a.com");
    let told = |member: &str| -> Vec<Value> {
        listed.as_array().expect("a list").iter().map(|held| held[member].clone()).collect()
    };
    assert_eq!(told("name"), [json!("www.a.com"), json!("a.com")]);
    assert_eq!(told("host"), [json!("a.com"), json!("a.com")]);
    assert_eq!(told("source"), [json!("127.0.0.1"), json!("127.0.0.1")]);
    assert_eq!(told("awaits"), [json!("rule"), json!("rule")]);
    for since in told("since") {
        let since = since.as_f64().expect("seconds");
        assert!(
            before - 0.01 <= since && since <= now() + 0.01,
            "{since} between {before} and now"
        );
    }
    assert_eq!(api.get("/held/?limit=1").as_array().map(Vec::len), Some(1));
    assert_eq!(api.get("/held/?host=b.com"), json!([]));
    // The client that leaves, and those that go on, are in it no more.
    drop(first);
    expect_held(&mut api, "a.com", 1);
    assert_eq!(api.get("/held/")[0]["name"], json!("a.com"));
    api.put("/hostname/a.com/", &json!(["empty", {"code": 402}, true]));
    second.expect_status(402);
    assert_eq!(api.get("/held/"), json!([]));
}

#[test]
fn held_list_says_who_waits_for_a_backend() {
    let rule = crate::backend::rule_for(&[closed_port()], json!({"hold": 600}));
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut api = daemon.api();
    expect_held(&mut api, "a.com", 1);
    assert_eq!(api.get("/held/?host=a.com")[0]["awaits"], json!("backend"));
}

/// The age of a request goes along when a new daemon takes it over.
#[test]
fn an_upgrade_keeps_the_age() {
    let mut daemon = Setup::new().rule("a.com", spin(json!({"timeout": 600}))).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    expect_held(&mut daemon.api(), "a.com", 1);
    let since = |daemon: &Daemon| {
        daemon.api().get("/held/")[0]["since"].as_f64().expect("a time of a held request")
    };
    let began = since(&daemon);
    eventually("the request is a second old", || now() >= began + 1.0);
    let upgraded = now();
    daemon.upgrade();
    expect_held(&mut daemon.api(), "a.com", 1);
    // The age stands still while it travels, and nothing else of it is lost.
    let (travelled, after) = (now() - upgraded, since(&daemon));
    assert!(after < began + travelled + 0.05, "{began}, {after} after {travelled} s of upgrade");
}
