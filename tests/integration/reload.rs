//! SIGHUP: what of the configuration is in force afterwards, and what a bad one changes.

use serde_json::json;

use crate::daemon::Setup;
use crate::message::get;

#[test]
fn keys_in_force_at_once_change_with_a_reload() {
    let setup = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let daemon = setup.clone().start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.com\r\n\r\n", "x".repeat(2000));
    let mut open = daemon.connect();
    assert_eq!(open.exchange(long.as_str()).status(), 403);
    setup.set("max_head", "1k").set("shards", 3).write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    daemon.expect_log(&["shards has changed", "restart"]);
    assert!([414, 431].contains(&open.exchange(long.as_str()).status()), "for open ones, too");
    assert!([414, 431].contains(&daemon.connect().exchange(long.as_str()).status()));
}

/// It is needed only at the end, and once was that of the start.
#[test]
fn the_time_to_drain_is_the_new_one() {
    let backend = crate::backend::Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule()).set("timeout_drain", "1h");
    let mut daemon = setup.clone().start();
    setup.set("timeout_drain", "300ms").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    let (mut client, _server) = crate::daemon::asked(&daemon, &backend);
    daemon.terminate();
    client.read_to_end();
    daemon.expect_clean_exit();
}

#[test]
fn a_bad_file_changes_nothing() {
    let setup = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let mut daemon = setup.clone().start();
    setup
        .clone()
        .set("max_head", "1k")
        .set("timeout_client", "soon")
        .add("wibble", 1)
        .write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "timeout_client", "mantrid.conf:"]);
    daemon.expect_log(&["SIGHUP", "wibble"]);
    daemon.expect_log(&["SIGHUP", "stays as it was"]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.com\r\n\r\n", "x".repeat(2000));
    assert_eq!(daemon.connect().exchange(long).status(), 403);
    setup.set("max_head", "2k").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    daemon.expect_running();
}

#[test]
fn pages_are_read_at_once() {
    let setup = Setup::new().rule("a.com", json!(["static", { "type": "test" }, false]));
    let daemon = setup.clone().start();
    let mut client = daemon.connect();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    let _ = setup.page("test.http", "HTTP/1.0 418 Teapot\r\n\r\nshort and stout");
    daemon.signal("HUP");
    crate::daemon::eventually("the page is there", || {
        client.exchange(get("a.com", "/")).status() == 418
    });
}

#[test]
fn the_access_log_moves() {
    let setup = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let daemon = setup.clone().start();
    let path = setup.path("access.log");
    let bad = setup.clone().set("access_log", "/nowhere/at/all").set("max_head", "1k");
    bad.write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["access_log = /nowhere/at/all", "No such file"]);
    setup.set("access_log", path.display()).write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["access_log: now"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    crate::daemon::eventually("the line is there", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("a.com"))
    });
}
