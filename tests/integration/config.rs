//! Configuration and start-up: what is accepted, and that whatever is wrong is named in one clear
//! line, with exit code 1.

use std::net::TcpListener;

use serde_json::json;

use crate::daemon::{Setup, run_with};
use crate::message::get;

/// `--check` refuses a configuration with this line in it and names each of `words`.
#[track_caller]
fn check_refused(key: &str, value: &str, words: &[&str]) {
    let setup = Setup::new().set(key, value);
    setup.run(&["--check"]).expect(1, words);
}

#[test]
fn good_configuration_passes_the_check() {
    for option in ["--check", "-t"] {
        Setup::new().run(&[option]).expect(0, &[]);
    }
    Setup::new()
        .internal()
        .add("bind", "[::1]:0")
        .set("timeout_client", "1m")
        .set("timeout_server", "1500ms")
        .set("timeout_tunnel", "2h")
        .set("max_head", "32k")
        .set("access_log", "off")
        .run(&["--check"])
        .expect(0, &[]);
}

#[test]
fn comments_and_spaces_are_skipped() {
    let setup =
        Setup::new().set("# comment", "x").set("  timeout_client  ", "  5s  ").set("\n\n#", "");
    setup.run(&["--check"]).expect(0, &[]);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    check_refused("bnid", "127.0.0.1:0", &["bnid", "mantrid.conf"]);
    let finished = Setup::new().set("no_such_key", 1).run(&[]);
    finished.expect(1, &["no_such_key"]);
    let finished = Setup::new().run(&["-o", "no_such_key=1"]);
    finished.expect(1, &["no_such_key"]);
}

#[test]
fn bad_values_are_refused_by_key() {
    for (key, value) in [
        ("bind", "nowhere"),
        ("bind", "127.0.0.1:99999"),
        ("bind", ""),
        ("bind_internal", "127.0.0.1"),
        ("bind_management", "unix:"),
        ("shards", "0"),
        ("shards", "many"),
        ("timeout_client", "5 parsecs"),
        ("timeout_client", "-1s"),
        ("timeout_connect", "fast"),
        ("max_connections", "-5"),
        ("max_head", "1"),
        ("uid", "no-such-user-here"),
    ] {
        check_refused(key, value, &[key]);
    }
}

#[test]
fn check_tells_all_problems_at_once() {
    let setup = Setup::new().set("shards", "none").set("timeout_client", "soon").set("bnid", 1);
    let finished = setup.run(&["--check"]);
    finished.expect(1, &["shards", "timeout_client", "bnid"]);
    let lines = finished.err.lines().count();
    assert!(lines >= 3, "one line per problem:\n{}", finished.err);
}

#[test]
fn line_without_a_key_is_refused() {
    let setup = Setup::new();
    let file = setup.path("broken.conf");
    std::fs::write(&file, "bind = 127.0.0.1:0\nwhat is this\n").expect("a file");
    let path = file.display().to_string();
    run_with(&["-c", &path, "--check"]).expect(1, &["broken.conf", "2"]);
}

#[test]
fn missing_file_is_named() {
    run_with(&["-c", "/no/such/mantrid.conf"]).expect(1, &["/no/such/mantrid.conf"]);
}

#[test]
fn management_in_the_open_needs_a_token() {
    check_refused("bind_management", "0.0.0.0:0", &["bind_management"]);
    let open = Setup::new().set("bind_management", "0.0.0.0:0").set("management_insecure", "true");
    open.run(&["--check"]).expect(0, &[]);
}

#[test]
fn options_win_over_the_file() {
    let setup = Setup::new().set("bind", "nowhere").set("shards", "none");
    setup.run(&["--check", "-o", "bind=127.0.0.1:0", "-o", "shards=1"]).expect(0, &[]);
}

#[test]
fn busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let finished = Setup::new().set("bind", &address).run(&[]);
    finished.expect(1, &[&address]);
}

/// Two daemons must not share a port by accident, though each of ours shares it between its shards.
#[test]
fn port_of_another_daemon_is_named() {
    let first = Setup::new()
        .set("shards", 2)
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let address = first.address().to_string();
    let finished = Setup::new().set("bind", &address).set("shards", 2).run(&[]);
    finished.expect(1, &[&address]);
    assert_eq!(first.connect().exchange(get("a.com", "/")).status(), 403);
}

#[test]
fn address_of_another_machine_is_named() {
    Setup::new().set("bind", "192.0.2.1:8080").run(&[]).expect(1, &["192.0.2.1:8080"]);
}

#[test]
fn a_broken_state_file_stops_the_start_and_is_left_alone() {
    for (text, line) in [
        ("{\"hosts\": {\n \"a.com\": [\"empty\", {\"code\": 403}, false],\n oops}}", "3"),
        ("[]", "state.json"),
        ("{\"hosts\": {\"a.com\"", "1"),
    ] {
        for arguments in [&["--check"][..], &[]] {
            let setup = Setup::new();
            let file = setup.path("state.json");
            std::fs::write(&file, text).expect("a state file");
            setup.run(arguments).expect(1, &["state.json", line]);
            assert_eq!(std::fs::read_to_string(&file).expect("the state file"), text);
        }
    }
}

#[test]
fn a_rule_that_is_not_valid_does_not_stop_the_others() {
    let daemon = Setup::new()
        .rule("good.com", json!(["empty", { "code": 403 }, false]))
        .rule("bad-action.com", json!(["do-da-be-dee", {}, false]))
        .rule("bad-argument.com", json!(["empty", { "cod": 403 }, false]))
        .rule("loop.com", json!(["alias", { "hostname": "loop.com" }, false]))
        .start();
    assert_eq!(daemon.connect().exchange(get("good.com", "/")).status(), 403);
    for host in ["bad-action.com", "bad-argument.com", "loop.com"] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), 503, "{host}");
        daemon.expect_log(&[host]);
    }
}

#[test]
fn no_state_file_is_an_empty_table() {
    let setup = Setup::new();
    let file = setup.path("none-yet.json").display().to_string();
    let daemon = setup.set("state_file", file).start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503);
}

#[test]
fn version_is_that_of_the_package() {
    let finished = run_with(&["--version"]);
    assert_eq!(
        (finished.code, finished.out.trim()),
        (Some(0), concat!("mantrid ", env!("CARGO_PKG_VERSION")))
    );
}
