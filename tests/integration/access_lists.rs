//! `allow` and `deny` of a rule: which clients are served, over HTTP, raw TCP and TLS, before
//! anything else happens to their requests.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::client_daemon::way;
use crate::daemon::{Daemon, Setup};
use crate::message::get;
use crate::raw::hello;
use crate::script::Connection;
use crate::spin::{expect_held, metric};

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// The status of a request that comes from this address of the loopback.
#[track_caller]
fn status_from(source: &str, daemon: &Daemon, host: &str) -> u16 {
    let mut client = Connection::client_from(address(source), daemon.address());
    client.exchange(get(host, "/")).status()
}

fn with_lists(mut rule: Value, lists: &Value) -> Value {
    for (name, list) in lists.as_object().expect("lists") {
        rule[1][name] = list.clone();
    }
    rule
}

#[test]
fn longest_prefix_decides_who_is_served() {
    let rule = |lists: Value| with_lists(json!(["empty", { "code": 204 }, false]), &lists);
    let daemon = Setup::new()
        .rule("allow.com", rule(json!({ "allow": ["127.0.1.0/24", "127.0.2.2"] })))
        .rule("deny.com", rule(json!({ "deny": "127.0.1.0/24, 127.0.2.2" })))
        .rule(
            "both.com",
            rule(json!({ "allow": ["127.0.0.0/8"], "deny": ["127.0.1.0/24", "127.0.1.7/32"] })),
        )
        .rule("inner.com", rule(json!({ "deny": ["127.0.0.0/8"], "allow": ["127.0.1.7"] })))
        .rule("six.com", rule(json!({ "allow": ["::/0"] })))
        .rule("mapped.com", rule(json!({ "allow": ["::ffff:127.0.1.0/120"] })))
        .start();
    for (host, served, refused) in [
        ("allow.com", &["127.0.1.0", "127.0.1.255", "127.0.2.2"][..], &["127.0.0.1", "127.0.2.3"]),
        ("deny.com", &["127.0.0.1", "127.0.2.3"], &["127.0.1.1", "127.0.2.2"]),
        ("both.com", &["127.0.0.1", "127.0.2.2"], &["127.0.1.1", "127.0.1.7"]),
        ("inner.com", &["127.0.1.7"], &["127.0.1.6", "127.0.0.1"]),
        ("six.com", &[], &["127.0.0.1", "127.0.1.1"]),
        ("mapped.com", &["127.0.1.1"], &["127.0.0.1", "127.0.2.1"]),
    ] {
        for source in served {
            assert_eq!(status_from(source, &daemon, host), 204, "{source} at {host}");
        }
        for source in refused {
            assert_eq!(status_from(source, &daemon, host), 403, "{source} at {host}");
        }
    }
}

#[test]
fn every_action_refuses_alike() {
    let backend = Backend::new().serve_text("hello");
    let lists = json!({ "deny": ["127.0.0.2"] });
    let rules = [
        ("proxy.com", backend.rule(), 200),
        ("redirect.com", json!(["redirect", { "redirect_to": "a.com" }, false]), 302),
        ("static.com", json!(["static", { "type": "test" }, false]), 200),
        ("empty.com", json!(["empty", { "code": 418 }, false]), 418),
        ("*", json!(["empty", { "code": 419 }, false]), 419),
    ];
    let setup = rules.iter().fold(Setup::new(), |setup, (host, rule, _)| {
        setup.rule(host, with_lists(rule.clone(), &lists))
    });
    let alias = json!(["alias", { "hostname": "empty.com" }, false]);
    let daemon = setup.rule("alias.com", alias).start();
    let hosts = rules.iter().map(|(host, _, status)| (*host, *status));
    for (host, status) in hosts.chain([("alias.com", 418)]) {
        let host = if host == "*" { "any.com" } else { host };
        assert_eq!(status_from("127.0.0.1", &daemon, host), status, "{host}");
        assert_eq!(status_from("127.0.0.2", &daemon, host), 403, "{host}");
    }
    assert_eq!(backend.requests(), 1, "nothing of a refused request goes anywhere");
}

#[test]
fn refused_request_is_counted_and_named() {
    let rule = json!(["empty", { "code": 204, "deny": "127.0.0.0/8" }, false]);
    let (setup, path) = logging(Setup::new().set("shards", 2).rule("a.com", rule));
    let daemon =
        setup.page("403.http", "HTTP/1.0 403 Not you\r\nX-A: b\r\n\r\nmembers only").start();
    let mut client = daemon.connect();
    let reply = client.exchange(get("a.com", "/"));
    assert_eq!((reply.status(), reply.text().as_str()), (403, "members only"));
    client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let head = client.expect_head();
    assert_eq!((head.status(), head.field("Content-Length")), (403, Some("12")));
    let post = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nxy";
    assert_eq!(client.exchange(post).status(), 403, "its body is read");
    assert_eq!(client.exchange(get("a.com", "/")).status(), 403, "the connection goes on");
    let mut api = daemon.api();
    let found = api.counted("a.com", 4);
    assert_eq!(found["answers"]["4xx"], 4);
    for line in wait_for(&path, 4) {
        assert_eq!((&line["status"], &line["termination"]), (&json!(403), &json!("access_denied")));
    }
    let shed = api.ask("GET", "/metrics").text();
    assert!(shed.contains("mantrid_shed_total{reason=\"access_denied\"} 4"), "{shed}");
    assert_eq!(metric(&mut api, "answers_total"), 4.0);
}

#[test]
fn refused_client_is_never_held() {
    let backend = Backend::new();
    let rule = json!(["spin", { "deny": ["127.0.0.2"] }, true]);
    let mut daemon = Setup::new().rule("a.com", rule).start();
    let mut api = daemon.api();
    assert_eq!(status_from("127.0.0.2", &daemon, "a.com"), 403);
    let mut held = Connection::client_from(address("127.0.0.3"), daemon.address());
    held.send(get("a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    let mut other = Connection::client_from(address("127.0.0.1"), daemon.address());
    other.send(get("a.com", "/"));
    expect_held(&mut api, "a.com", 2);
    daemon.upgrade();
    let mut api = daemon.api();
    expect_held(&mut api, "a.com", 2);
    // the rule that lets a request go may refuse it
    api.put("/hostname/a.com/", &backend.rule_with(json!({ "deny": "127.0.0.3" })));
    assert_eq!(held.expect_answer().status(), 403);
    backend.accept().expect_head();
    backend.expect_no_connection();
    drop(other);
}

/// A host that strangers can't reach stays closed to them while it spins, whoever holds it, and
/// whatever the rule was that stood before.
#[test]
fn spinning_host_has_the_lists_of_the_rule_before() {
    let backend = Backend::new().serve_text("hello");
    let rule = backend.rule_with(json!({ "deny": ["127.0.0.2"] }));
    let alias = |target: &str| json!(["alias", { "hostname": target }, false]);
    let held =
        |then: &Value, more: Value| with_lists(json!(["spin", { "then": then }, false]), &more);
    let mut daemon = Setup::new()
        .add("bind_tcp", "127.0.0.1:0 a.com")
        .rule("a.com", rule.clone())
        .rule("alias.com", held(&alias("a.com"), json!({})))
        // Aliases in `then` are followed, even those that lead nowhere or back.
        .rule("lost.com", held(&alias("gone.com"), json!({})))
        .rule("circle.com", held(&alias("circle.com"), json!({})))
        .rule("own.com", held(&rule, json!({ "deny": ["127.0.0.3"] })))
        .rule("open.com", held(&rule, json!({ "allow": ["0.0.0.0/0", "::/0"] })))
        .start();
    let mut api = daemon.api();
    way(&daemon).prints("spin a.com", "");
    let mut clients = Vec::new();
    for (host, refused) in [
        ("a.com", Some("127.0.0.2")),
        ("alias.com", Some("127.0.0.2")),
        ("lost.com", None),
        ("circle.com", None),
        ("own.com", Some("127.0.0.3")),
        ("open.com", None),
    ] {
        let mut count = 0;
        for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
            if refused == Some(source) {
                assert_eq!(status_from(source, &daemon, host), 403, "{source} at {host}");
                let told = api.get(&format!("/which/{host}?source={source}"));
                assert_eq!(told["outcome"], "denied", "{told}");
                continue;
            }
            let mut client = Connection::client_from(address(source), daemon.address());
            client.send(get(host, "/"));
            count += 1;
            expect_held(&mut api, host, count);
            clients.push(client);
        }
    }
    Connection::client_from(address("127.0.0.2"), daemon.raw_address("TCP")).expect_end();
    daemon.upgrade();
    let mut api = daemon.api();
    expect_held(&mut api, "a.com", 2);
    assert_eq!(status_from("127.0.0.2", &daemon, "a.com"), 403);
    way(&daemon).prints("flip a.com", "2 requests were held\n");
    assert_eq!(api.get("/hostname/a.com/"), rule);
    assert_eq!(status_from("127.0.0.1", &daemon, "a.com"), 200);
    assert_eq!(status_from("127.0.0.2", &daemon, "a.com"), 403);
}

#[test]
fn refused_raw_connection_is_closed() {
    let (tcp, tls) = (Backend::new(), Backend::new());
    let lists = json!({ "allow": ["127.0.0.5"] });
    let daemon = Setup::new()
        .add("bind_tcp", "127.0.0.1:0 db.com")
        .add("bind_tls", "127.0.0.1:0")
        .rule("db.com", with_lists(tcp.rule(), &lists))
        .rule("a.com", with_lists(tls.rule(), &lists))
        .start();
    let from = |source: &str, to: SocketAddr| Connection::client_from(address(source), to);
    let (raw, server_name) = (daemon.raw_address("TCP"), daemon.raw_address("TLS"));
    from("127.0.0.1", raw).expect_end();
    let mut client = from("127.0.0.1", server_name);
    client.send(hello(Some("a.com"), 1000));
    client.expect_body([21, 3, 3, 0, 2, 2, 49]);
    tcp.expect_no_connection();
    tls.expect_no_connection();
    let mut client = from("127.0.0.5", raw);
    client.send("x");
    tcp.accept().expect_body("x");
    let mut client = from("127.0.0.5", server_name);
    client.send(hello(Some("a.com"), 1000));
    tls.accept().expect_body(hello(Some("a.com"), 1000));
    let mut api = daemon.api();
    assert!(api.ask("GET", "/metrics").text().contains("reason=\"access_denied\"} 2"));
}

#[test]
fn address_of_a_proxy_header_is_the_client() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("trusted_sources", "127.0.0.0/8")
        .rule("a.com", backend.rule_with(json!({ "allow": ["192.0.2.0/24", "2001:db8::/32"] })))
        .start();
    for (header, is_served) in [
        ("PROXY TCP4 192.0.2.9 127.0.0.1 5 80\r\n", true),
        ("PROXY TCP6 ::ffff:192.0.2.9 ::1 5 80\r\n", true),
        ("PROXY TCP6 2001:db8::7 ::1 5 80\r\n", true),
        ("PROXY TCP4 192.0.3.9 127.0.0.1 5 80\r\n", false),
        ("PROXY UNKNOWN\r\n", false),
    ] {
        let mut client = daemon.connect();
        client.send(format!("{header}{}", get("a.com", "/")));
        if is_served {
            let mut server = backend.accept();
            server.expect_head();
            server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let expected = if is_served { 200 } else { 403 };
        assert_eq!(client.expect_answer().status(), expected, "{header:?}");
    }
}

#[test]
fn lists_are_read_strictly_and_read_back() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let mut put = |lists: Value| {
        let rule = with_lists(json!(["empty", { "code": 204 }, false]), &lists);
        api.tell("PUT", "/hostname/a.com/", &rule)
    };
    for (lists, argument, words) in [
        (json!({ "allow": [] }), "allow", "at least one network"),
        (json!({ "allow": "" }), "allow", "expected 192.0.2.0/24"),
        (json!({ "allow": 10 }), "allow", "a list of networks"),
        (json!({ "allow": [10] }), "allow", "a network in allow of empty is 10"),
        (json!({ "deny": ["10.0.0.0/8", "ten"] }), "deny", "\"ten\""),
        (json!({ "deny": ["10.0.0.0/33"] }), "deny", "10.0.0.0/33"),
        (json!({ "deny": ["[::1]"] }), "deny", "[::1]"),
        (json!({ "deny": ["10.0.0.1:80"] }), "deny", "10.0.0.1:80"),
        (json!({ "deny": ["localhost"] }), "deny", "localhost"),
        (json!({ "allow": ["10.0.0.1/8"] }), "allow", "expected 10.0.0.0/8"),
        (json!({ "allow": ["::1/64"] }), "allow", "expected ::/64"),
        (json!({ "allow": ["::1"], "deny": ["::1/128"] }), "deny", "::1 is in allow and in deny"),
        (json!({ "deny": vec!["10.0.0.1"; 1025] }), "deny", "expected at most 1024"),
    ] {
        let answer = put(lists.clone());
        let code = format!("a.com:host_kwarg_invalid:{argument}");
        let sentence = answer.expect_error(400, &code);
        assert!(sentence.contains(words), "{lists}: {sentence}");
    }
    let unknown = json!(["alias", { "hostname": "b.com", "allow": "::1" }, false]);
    let answer = api.tell("PUT", "/hostname/a.com/", &unknown);
    answer.expect_error(400, "a.com:host_kwarg_unknown:allow");
    let given = json!(["empty", { "code": 204, "allow": "2001:DB8::/32,::ffff:10.0.0.0/104",
        "deny": ["10.0.0.1/32"] }, false]);
    api.put("/hostname/a.com/", &given);
    let read = json!(["empty", { "code": 204, "allow": ["2001:db8::/32", "10.0.0.0/8"],
        "deny": ["10.0.0.1"] }, false]);
    assert_eq!(api.get("/hostname/a.com/"), read);
    api.put("/hostname/a.com/", &read);
    assert_eq!(api.get("/hostname/a.com/"), read);
}

#[test]
fn lists_outlive_a_restart() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    let rule = json!(["empty", { "code": 204, "deny": ["127.0.0.2"] }, false]);
    daemon.api().put("/hostname/a.com/", &rule);
    daemon.terminate();
    daemon.expect_clean_exit();
    setup.run(&["--check"]).expect(0, &[]);
    let daemon = setup.start();
    assert_eq!(daemon.api().get("/hostname/a.com/"), rule);
    assert_eq!(status_from("127.0.0.1", &daemon, "a.com"), 204);
    assert_eq!(status_from("127.0.0.2", &daemon, "a.com"), 403);
}
