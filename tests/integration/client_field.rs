//! `client_field`: the client of a request behind proxies, for everything that depends on who it
//! is; and `trusted_sources`, also from files that are read again.

use std::fs;

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::expect_held;

/// Behind a terminator on this machine, which is trusted; clients in 203.0.113.0/24 are served.
fn setup() -> Setup {
    let rule = json!(["empty", { "code": 204, "allow": ["203.0.113.0/24"] }, false]);
    Setup::new()
        .internal()
        .set("client_field", "X-Forwarded-For")
        .set("trusted_sources", "127.0.0.0/8, 10.0.0.0/8")
        .rule("a.com", rule)
}

/// A request with these field lines.
fn request(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.com\r\n{lines}\r\n")
}

fn forwarded(value: &str) -> String {
    request(&format!("X-Forwarded-For: {value}\r\n"))
}

#[track_caller]
fn status(client: &mut Connection, value: &str) -> u16 {
    client.exchange(forwarded(value)).status()
}

#[test]
fn rightmost_address_that_is_not_trusted_is_the_client() {
    let (setup, path) = logging(setup());
    let daemon = setup.start();
    // one connection: each request says whose it is
    let mut client = daemon.connect_internal();
    let own = client.sender().local_addr().expect("its address").to_string();
    let mut expected = Vec::new();
    let mut expect = |lines: &str, served: bool, who: &str| {
        let found = client.exchange(request(lines)).status();
        assert_eq!(found, if served { 204 } else { 403 }, "{lines:?}");
        expected.push(who.to_owned());
    };
    expect("X-Forwarded-For: 203.0.113.7\r\n", true, "203.0.113.7:0");
    expect("x-forwarded-for: 203.0.113.7, 198.51.100.1\r\n", false, "198.51.100.1:0");
    expect("X-Forwarded-For: 198.51.100.1, 203.0.113.8, 10.0.0.3\r\n", true, "203.0.113.8:0");
    let lines = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: ::ffff:203.0.113.9\r\n";
    expect(lines, true, "203.0.113.9:0");
    expect("X-Forwarded-For: 2001:db8::7\r\n", false, "[2001:db8::7]:0");
    expect("X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", false, "10.0.0.1:0");
    expect("", false, &own);
    expect("X-Forwarded-For: 203.0.113.7\r\n", true, "203.0.113.7:0");
    for garbage in ["", "unknown", "203.0.113.7:80", "\"203.0.113.7\"", "[2001:db8::7]", "203.0.113"]
    {
        expect(&format!("X-Forwarded-For: 203.0.113.7, {garbage}\r\n"), false, &own);
    }
    expect("X-Forwarded-For: 203.0.113.7, unknown, 10.0.0.4\r\n", false, "10.0.0.4:0");
    expect("X_Forwarded_For: 203.0.113.7\r\n", false, &own);
    let lines = wait_for(&path, expected.len());
    let found: Vec<&str> = lines.iter().map(|line| line["client"].as_str().expect("text")).collect();
    assert_eq!(found, expected);
}

#[test]
fn field_is_believed_behind_a_terminator_alone() {
    let daemon = setup().start();
    assert_eq!(status(&mut daemon.connect_internal(), "203.0.113.7"), 204);
    assert_eq!(status(&mut daemon.connect(), "203.0.113.7"), 403);
    let setup = setup().unset("bind").set("bind_internal", "127.0.0.1:0 accept-proxy");
    let daemon = setup.start();
    let mut client = Connection::client(daemon.addresses[0]);
    client.send("PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n");
    assert_eq!(status(&mut client, "203.0.113.7"), 403, "the header of the connection counts");
}

#[test]
fn refused_head_is_the_connected_peer_s() {
    let (setup, path) = logging(setup());
    let daemon = setup.start();
    let mut client = daemon.connect_internal();
    let own = client.sender().local_addr().expect("its address").to_string();
    assert_eq!(status(&mut client, "203.0.113.7"), 204);
    let bad = "GET / HTTP/1.1\r\nHost: a b\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    assert_eq!(client.exchange(bad).status(), 400);
    let mut client = daemon.connect_internal();
    let other = client.sender().local_addr().expect("its address").to_string();
    assert_eq!(status(&mut client, "203.0.113.7"), 204);
    client.send("GET / HTTP/1.1\nHost: a.com\n\n");
    assert_eq!(client.expect_answer().status(), 400);
    let lines = wait_for(&path, 4);
    let clients: Vec<&Value> = lines.iter().map(|line| &line["client"]).collect();
    assert_eq!(clients[2], "203.0.113.7:0");
    assert_eq!(clients[3], &json!(other));
    // a head that is HTTP but for its host names its client
    assert!([json!("203.0.113.7:0"), json!(own)].contains(clients[1]), "{clients:?}");
}

#[test]
fn backends_are_told_of_the_client() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({ "send_proxy": "v1" }));
    let daemon = setup().rule("a.com", rule).start();
    let mut client = daemon.connect_internal();
    for (value, expected) in [
        ("203.0.113.7, 10.0.0.1", "PROXY TCP4 203.0.113.7 "),
        ("2001:db8::7", "PROXY TCP6 2001:db8::7 "),
    ] {
        client.send(forwarded(value));
        let mut server = backend.accept();
        server.expect_body(expected);
        let _rest = server.expect_line();
        let head = server.expect_head();
        assert_eq!(head.all("X-Forwarded-For"), [value], "it goes on as it came");
        server.send(ok("served"));
        client.expect_answer();
    }
}

#[test]
fn limits_are_for_the_client_and_not_for_the_terminator() {
    let rule = json!(["spin", { "timeout": 60 }, false]);
    let setup = setup().rule("a.com", rule).set("max_held_per_source", 1);
    let mut daemon = setup.start();
    let mut api = daemon.api();
    let ask = |daemon: &Daemon, value: &str| {
        let mut client = daemon.connect_internal();
        client.send(forwarded(value));
        client
    };
    let _one = ask(&daemon, "203.0.113.1");
    expect_held(&mut api, "a.com", 1);
    let _two = ask(&daemon, "203.0.113.2");
    expect_held(&mut api, "a.com", 2);
    assert_eq!(ask(&daemon, "203.0.113.2").expect_answer().status(), 503, "one of each is held");
    // those that are held are the same clients in the next process
    daemon.upgrade();
    let mut api = daemon.api();
    expect_held(&mut api, "a.com", 2);
    assert_eq!(ask(&daemon, "203.0.113.1").expect_answer().status(), 503);
}

#[test]
fn connection_that_is_handed_over_keeps_its_peer() {
    let (setup, path) = logging(setup());
    let mut daemon = setup.start();
    let mut client = daemon.connect_internal();
    let own = client.sender().local_addr().expect("its address").to_string();
    assert_eq!(status(&mut client, "203.0.113.7"), 204);
    daemon.upgrade();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    assert_eq!(status(&mut client, "203.0.113.8"), 204);
    let lines = wait_for(&path, 3);
    let clients: Vec<&str> = lines.iter().map(|line| line["client"].as_str().expect("text")).collect();
    assert_eq!(clients, ["203.0.113.7:0", &own, "203.0.113.8:0"]);
}

#[test]
fn networks_in_a_file_are_read_again() {
    let setup = setup();
    let file = setup.path("cdn.txt");
    fs::write(&file, "# the CDN\n198.51.100.0/24  # one of it\n\n2001:db8::/32\n").expect("a file");
    let setup = setup.set("trusted_sources", format!("127.0.0.1, @{}", file.display()));
    setup.run(&["--check"]).expect(0, &[]);
    let mut daemon = setup.clone().start();
    let mut client = daemon.connect_internal();
    assert_eq!(status(&mut client, "203.0.113.7, 198.51.100.9"), 204);
    assert_eq!(status(&mut client, "203.0.113.7, 2001:db8:ffff::9"), 204);
    assert_eq!(status(&mut client, "203.0.113.7, 192.0.2.9"), 403);
    fs::write(&file, "192.0.2.0/24\n").expect("a file");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    crate::daemon::eventually("the file is read again", || {
        status(&mut client, "203.0.113.7, 192.0.2.9") == 204
    });
    assert_eq!(status(&mut client, "203.0.113.7, 198.51.100.9"), 403);
    // a broken one leaves all as it was
    for (text, words) in [
        ("192.0.2.0/24\n<html>\n", &["cdn.txt:2:", "<html>", "expected an address or a network"][..]),
        ("# nothing\n", &["cdn.txt", "no network in it"]),
    ] {
        fs::write(&file, text).expect("a file");
        daemon.signal("HUP");
        daemon.expect_log(&[&["SIGHUP", "trusted_sources"], words].concat());
        setup.run(&["--check"]).expect(1, words);
    }
    fs::remove_file(&file).expect("it is there");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "cdn.txt", "No such file"]);
    let told = daemon.log.wait_count("stays as it was", 3);
    assert!(told, "each says that nothing has changed");
    assert_eq!(status(&mut client, "203.0.113.7, 192.0.2.9"), 204);
    setup.run(&["--check"]).expect(1, &["cdn.txt", "No such file"]);
    daemon.terminate();
    client.half_close();
    daemon.expect_clean_exit();
}

#[test]
fn field_is_taken_at_once() {
    let setup = setup().unset("client_field");
    let daemon = setup.clone().start();
    let mut client = daemon.connect_internal();
    assert_eq!(status(&mut client, "203.0.113.7"), 403);
    setup.set("client_field", "X-Real-IP").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    crate::daemon::eventually("the field counts", || {
        client.exchange(request("X-Real-IP: 203.0.113.7\r\n")).status() == 204
    });
    assert_eq!(status(&mut client, "203.0.113.7"), 403, "it is another field now");
}

/// A file of networks serves senders of the PROXY protocol, too.
#[test]
fn senders_of_proxy_headers_may_be_in_a_file() {
    let setup = Setup::new().set("bind", "127.0.0.1:0 accept-proxy");
    let file = setup.path("balancers.txt");
    fs::write(&file, "127.0.0.0/8\n").expect("a file");
    let setup = setup
        .set("trusted_sources", format!("@{}", file.display()))
        .rule("a.com", json!(["empty", { "code": 204 }, false]));
    let daemon = setup.start();
    let mut client = daemon.connect();
    client.send(format!("PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n{}", get("a.com", "/")));
    assert_eq!(client.expect_answer().status(), 204);
}
