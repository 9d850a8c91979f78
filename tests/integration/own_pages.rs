//! `pages` of a rule: replies of its own, before those of all hosts.

use std::fs;

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{Answer, get};
use crate::script::Connection;
use crate::spin::spin;

fn page(status: u16, text: &str) -> String {
    format!("HTTP/1.1 {status} Ours\r\nX-Page: {text}\r\n\r\n{text}\n")
}

/// Pages of `shop`, some of them, and one of all hosts for each status.
fn paged() -> Setup {
    let mut setup = Setup::new();
    for status in [413, 429, 502, 503, 504] {
        setup = setup.page(&format!("{status}.http"), &page(status, "all"));
        setup = setup.page(&format!("shop.{status}.http"), &page(status, "shop"));
    }
    setup
        .page("timeout.http", &page(503, "all-late"))
        .page("shop.timeout.http", &page(503, "shop-late"))
}

#[track_caller]
fn expect_page(answer: &Answer, status: u16, text: &str) {
    let found = (answer.status(), answer.head.field("X-Page"), answer.text());
    assert_eq!(found, (status, Some(text), format!("{text}\n")));
}

/// The rules of `a.com` and `b.com` are the same but for `pages`.
fn both(setup: Setup, rule: &Value) -> Daemon {
    let mut own = rule.clone();
    own[1]["pages"] = json!("shop");
    setup.rule("a.com", own).rule("b.com", rule.clone()).start()
}

#[test]
fn status_has_the_page_of_its_rule() {
    let dead = closed_port();
    let backend = Backend::new();
    let busy = Backend::new();
    let arguments = json!({"max_connections": 1, "timeout_connect": 0.1});
    for (status, rule) in [
        (502, rule_for(&[dead], json!({}))),
        (504, backend.rule_with(json!({"timeout_server": 0.1}))),
        (503, busy.rule_with(arguments)),
        (413, rule_for(&[dead], json!({"max_body": 1}))),
        (429, rule_for(&[dead], json!({"max_requests_per_second": 1}))),
    ] {
        let daemon = both(paged(), &rule);
        for (host, text) in [("a.com", "shop"), ("b.com", "all")] {
            let mut first = daemon.connect();
            let mut permits = Vec::new();
            if status == 503 {
                // Takes the only permit.
                first.send(get(host, "/"));
                permits.push(busy.accept());
            }
            let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nhi");
            let mut answer = daemon.connect().exchange(&request);
            if status == 429 {
                // The first one, and those that come a second behind another, pass.
                assert_eq!(answer.status(), 502);
                let mut others = (0..100).map(|_| daemon.connect().exchange(&request));
                answer = others.find(|answer| answer.status() == 429).expect("a spent rate");
            }
            expect_page(&answer, status, text);
            let retry = answer.head.field("Retry-After");
            assert_eq!(retry, (status == 429).then_some("1"), "{status}");
        }
    }
}

/// Whatever the rule does with the clients that it serves.
#[test]
fn client_that_is_kept_out_gets_the_page_of_the_rule() {
    for (action, arguments) in [
        ("proxy", json!({"backends": [["127.0.0.1", 1]]})),
        ("spin", json!({})),
        ("redirect", json!({"redirect_to": "b.com", "set_response": {"X-Page": "set"}})),
        ("static", json!({"type": "test"})),
        ("empty", json!({"code": 204})),
    ] {
        let mut rule = json!([action, arguments, true]);
        rule[1]["deny"] = json!(["127.0.0.0/8"]);
        let setup = Setup::new()
            .page("403.http", &page(403, "all"))
            .page("shop.403.http", &page(403, "shop"));
        let daemon = both(setup, &rule);
        for (host, text) in [("a.com", "shop"), ("b.com", "all")] {
            expect_page(&daemon.connect().exchange(get(host, "/")), 403, text);
        }
    }
}

/// `pages` and `max_body` of the rule before apply while its host spins; each gives way to that of
/// the spin itself.
#[test]
fn spinning_host_has_the_pages_and_the_bound_of_the_rule_before() {
    let then = json!(["redirect", {"redirect_to": "b.com", "pages": "shop"}, true]);
    let bounded = rule_for(&[closed_port()], json!({"max_body": 1, "pages": "shop"}));
    let mut setup = paged().page("own.timeout.http", &page(503, "own-late"));
    for (host, then, own) in [
        ("pages.com", &then, json!({})),
        ("own.com", &then, json!({"pages": "own"})),
        ("bound.com", &bounded, json!({})),
        ("both.com", &bounded, json!({"pages": "own"})),
        ("wide.com", &bounded, json!({"max_body": 9})),
    ] {
        let mut rule = spin(own);
        (rule[1]["then"], rule[1]["timeout"]) = (then.clone(), json!(0.1));
        setup = setup.rule(host, rule);
    }
    let daemon = setup.start();
    for (host, status, text) in [
        ("pages.com", 503, "shop-late"),
        ("own.com", 503, "own-late"),
        ("bound.com", 413, "shop"),
        ("both.com", 413, "all"),
        ("wide.com", 503, "shop-late"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nhi");
        expect_page(&daemon.connect().exchange(request), status, text);
    }
}

#[test]
fn chunks_that_are_too_many_have_the_page_of_their_rule() {
    let backend = Backend::new();
    let daemon = both(paged(), &backend.rule_with(json!({"max_body": 3})));
    for (host, text) in [("a.com", "shop"), ("b.com", "all")] {
        let mut client = daemon.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{head}2\r\nhi\r\n"));
        let mut server = backend.accept();
        server.expect_head();
        client.send("2\r\nho\r\n");
        expect_page(&client.expect_answer(), 413, text);
        client.expect_close();
    }
}

#[test]
fn request_that_was_held_too_long_has_the_page_of_its_rule() {
    let dead = closed_port();
    for rule in [spin(json!({"timeout": 0.1})), rule_for(&[dead], json!({"hold": 0.1}))] {
        let daemon = both(paged(), &rule);
        for (host, text) in [("a.com", "shop-late"), ("b.com", "all-late")] {
            let answer = daemon.connect().exchange(get(host, "/"));
            expect_page(&answer, 503, text);
            assert_eq!(answer.head.field("Retry-After"), Some("1"));
        }
    }
    // One that there is no room to hold.
    let daemon = both(paged(), &spin(json!({"max_held": 1})));
    let mut held = daemon.connect();
    held.send(get("a.com", "/"));
    crate::spin::expect_held(&mut daemon.api(), "a.com", 1);
    expect_page(&daemon.connect().exchange(get("a.com", "/")), 503, "shop-late");
}

#[test]
fn page_is_written_as_every_other_is() {
    let rule = rule_for(&[closed_port()], json!({"pages": "shop"}));
    let daemon = paged().rule("a.com", rule).start();
    let mut client = daemon.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let head = client.expect_status(502);
    assert_eq!((head.field("X-Page"), head.field("Content-Length")), (Some("shop"), Some("5")));
    // Nothing of a body came, and the connection goes on.
    expect_page(&client.exchange(get("a.com", "/")), 502, "shop");
    let mut old = Connection::client(daemon.address());
    old.send("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    expect_page(&old.expect_answer(), 502, "shop");
    old.expect_close();
}

#[test]
fn page_that_is_missing_gives_way_to_that_of_all_hosts() {
    let rule = rule_for(&[closed_port()], json!({"pages": "shop"}));
    let setup = Setup::new().rule("a.com", rule);
    let folder = setup.path("static");
    let daemon = setup.start();
    let ask = || daemon.connect().exchange(get("a.com", "/"));
    assert!(ask().text().contains("<h1>"), "the built-in page");
    let wait_for = |text: &str| {
        // Where there is nothing else that tells, a look each two seconds finds a file.
        daemon.signal("HUP");
        eventually(text, || ask().text().contains(text));
    };
    fs::write(folder.join("502.http"), page(502, "all")).expect("a page");
    wait_for("all");
    fs::write(folder.join("shop.502.http"), page(502, "shop")).expect("a page");
    wait_for("shop");
    fs::write(folder.join("shop.502.http"), page(502, "changed")).expect("a page");
    wait_for("changed");
    // A broken one changes nothing.
    fs::write(folder.join("shop.502.http"), "no page").expect("a file");
    daemon.signal("HUP");
    daemon.expect_log(&["shop.502.http", "page not used"]);
    assert!(ask().text().contains("changed"));
    fs::remove_file(folder.join("shop.502.http")).expect("it is there");
    wait_for("all");
}

#[test]
fn name_of_pages_is_checked_as_that_of_a_page() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for name in [json!(""), json!("../x"), json!("a/b"), json!(".a"), json!("a b"), json!(1)] {
        for (action, arguments) in [
            ("proxy", json!({"backends": [["127.0.0.1", 1]], "pages": name})),
            ("spin", json!({"pages": name})),
        ] {
            let answer = api.tell("PUT", "/hostname/a.com/", &json!([action, arguments, true]));
            let message = answer.expect_error(400, "a.com:host_kwarg_invalid:pages");
            assert!(message.contains(&format!("pages of {action} is {name}")), "{message}");
        }
    }
    for rule in [spin(json!({"pages": "shop.v2"})), rule_for(&[1], json!({"pages": "shop"}))] {
        api.put("/hostname/a.com/", &rule);
        assert_eq!(api.get("/hostname/a.com/"), rule);
    }
}
