//! `add-backend`, `remove-backend` and `backend …`: backends of one rule and of all, changed beside
//! other clients, all or nothing.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, rule_for};
use crate::client_daemon::{Way, way};
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::management::{Call, answer, expect_asked, json_ok};
use crate::message::{get, ok};

fn rule(backends: &[(&str, u16)], more: Value) -> Value {
    let mut arguments = more;
    arguments["backends"] =
        backends.iter().map(|(host, port)| json!([host, port])).collect::<Vec<_>>().into();
    json!(["proxy", arguments, false])
}

#[track_caller]
fn arguments(daemon: &Daemon, host: &str) -> (Value, Value) {
    let rule = daemon.api().get(&format!("/hostname/{host}/"));
    (rule[1]["backends"].clone(), rule[1]["weights"].clone())
}

#[test]
fn backends_are_added_and_removed_with_their_weights() {
    let weighed = rule(&[("127.0.0.1", 1), ("127.0.0.1", 2)], json!({"weights": [3, 4]}));
    let daemon = Setup::new()
        .rule("a.com", rule(&[("127.0.0.1", 1)], json!({"attempts": 2})))
        .rule("b.com", weighed)
        .start();
    let way = way(&daemon);
    way.prints("add-backend a.com localhost:8000", "");
    way.prints("add-backend a.com [::1]:8001", "");
    assert_eq!(
        daemon.api().get("/hostname/a.com/"),
        rule(&[("127.0.0.1", 1), ("localhost", 8000), ("::1", 8001)], json!({"attempts": 2}))
            .as_array()
            .map(|rule| json!([rule[0], {"backends": rule[1]["backends"], "attempts": 2}, rule[2]]))
            .expect("a rule")
    );
    way.prints("remove-backend a.com LOCALHOST.:8000", "");
    assert_eq!(
        arguments(&daemon, "a.com"),
        (json!([["127.0.0.1", 1], ["::1", 8001]]), json!(null))
    );
    way.prints("add-backend b.com 127.0.0.1:3 --weight 5", "");
    way.prints("remove-backend b.com 127.0.0.1:1", "");
    assert_eq!(
        arguments(&daemon, "b.com"),
        (json!([["127.0.0.1", 2], ["127.0.0.1", 3]]), json!([4, 5]))
    );
    way.prints("add-backend b.com 127.0.0.1:2 --weight 5", "");
    assert_eq!(arguments(&daemon, "b.com").1, json!([5, 5]));
}

#[test]
fn backups_are_added_and_change_places() {
    let daemon = Setup::new().rule("a.com", rule(&[("127.0.0.1", 1)], json!({}))).start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let mut expect = |line: &str, backends: Value, backup: Value| {
        way.prints(line, "");
        let rule = api.get("/hostname/a.com/");
        assert_eq!((&rule[1]["backends"], &rule[1]["backup"]), (&backends, &backup), "{line}");
    };
    let at = |port: u16| json!(["127.0.0.1", port]);
    expect("add-backend a.com 127.0.0.1:2 --backup", json!([at(1)]), json!([at(2)]));
    expect("add-backend a.com 127.0.0.1:3 --backup", json!([at(1)]), json!([at(2), at(3)]));
    // One that is a backup becomes one of the others, and the other way round: it is never both.
    expect("add-backend a.com 127.0.0.1:2", json!([at(1), at(2)]), json!([at(3)]));
    expect("add-backend a.com 127.0.0.1:1 --backup", json!([at(2)]), json!([at(3), at(1)]));
    let twice = way.call("add-backend a.com 127.0.0.1:3 --backup").finish();
    twice.expect(0, &["a.com has the backend 127.0.0.1:3 already"]);
    way.fails("add-backend a.com 127.0.0.1:2 --backup", &["the only backend of a.com"]);
    way.fails("add-backend a.com 127.0.0.1:4 --backup --weight 2", &["--weight", "--backup"]);
}

#[test]
fn rule_without_backends_is_refused_by_name() {
    let daemon = Setup::new()
        .rule("a.com", rule(&[("127.0.0.1", 1)], json!({})))
        .rule("b.com", json!(["alias", {"hostname": "a.com"}, false]))
        .rule("c.com", empty(402))
        .start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let before = (api.get("/hostname/"), api.etag());
    let twice = way.call("add-backend a.com 127.0.0.1:1").finish();
    twice.expect(0, &["a.com has the backend 127.0.0.1:1 already", "nothing was changed"]);
    for (line, words) in [
        ("remove-backend a.com 127.0.0.1:1", &["the only backend of a.com", "add-backend"][..]),
        ("remove-backend a.com 127.0.0.1:2", &["a.com has no backend 127.0.0.1:2", "127.0.0.1:1"]),
        ("add-backend b.com 127.0.0.1:2", &["b.com is an alias of a.com: name that"]),
        ("add-backend c.com 127.0.0.1:2", &["c.com is empty<402>, which has no backends"]),
        ("add-backend d.com 127.0.0.1:2", &["d.com has no rule of its own"]),
        ("add-backend a.com 127.0.0.1", &["is not a backend", "host:port"]),
        ("backend remove 127.0.0.1:1", &["the only backend of a.com: nothing was changed"]),
        ("backend remove 127.0.0.1:9", &["no rule has the backend 127.0.0.1:9"]),
        ("backend move 127.0.0.1:9 127.0.0.1:1", &["no rule has the backend 127.0.0.1:9"]),
        ("backend list 127.0.0.1:9", &["no rule has the backend 127.0.0.1:9"]),
        ("backend move 127.0.0.1:1 frob", &["\"frob\" is not a backend"]),
        ("backend drain 127.0.0.1:1 --wait --timeout soon", &["--timeout \"soon\""]),
    ] {
        way.fails(line, words);
    }
    assert_eq!((api.get("/hostname/"), api.etag()), before);
}

#[test]
fn dry_runs_show_the_difference_and_change_nothing() {
    let two = rule(&[("127.0.0.1", 1), ("127.0.0.1", 2)], json!({}));
    let daemon = Setup::new().rule("a.com", two.clone()).rule("b.com", two).start();
    let (way, mut api) = (way(&daemon), daemon.api());
    let before = api.etag();
    way.prints(
        "add-backend a.com 127.0.0.1:3 --dry-run",
        "~ a.com backends 127.0.0.1:1,127.0.0.1:2 -> 127.0.0.1:1,127.0.0.1:2,127.0.0.1:3\n",
    );
    way.prints(
        "remove-backend a.com 127.0.0.1:2 --dry-run",
        "~ a.com backends 127.0.0.1:1,127.0.0.1:2 -> 127.0.0.1:1\n",
    );
    let finished = way.call("backend drain 127.0.0.1:2 --dry-run").finish();
    finished.expect(0, &["127.0.0.1:2: 2 rules would be changed; none was"]);
    assert_eq!(finished.out, "~ a.com weights none -> [1,0]\n~ b.com weights none -> [1,0]\n");
    assert_eq!(api.etag(), before);
}

/// Each reads, changes and writes the same rule: without a condition most would be lost.
#[test]
fn additions_at_the_same_time_are_all_kept() {
    const CLIENTS: u16 = 12;
    let daemon = Setup::new().rule("a.com", rule(&[("127.0.0.1", 1)], json!({}))).start();
    let way = way(&daemon);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| way.call(&format!("add-backend a.com 127.0.0.1:{}", 100 + n)).start())
        .collect();
    clients.into_iter().for_each(|client| client.expect_printed(""));
    let (backends, _) = arguments(&daemon, "a.com");
    let mut ports: Vec<u64> =
        backends.as_array().expect("a list").iter().filter_map(|one| one[1].as_u64()).collect();
    ports.sort_unstable();
    let expected: Vec<u64> =
        [1].into_iter().chain((0..CLIENTS).map(|n| u64::from(100 + n))).collect();
    assert_eq!(ports, expected);
}

/// Scripted, so that the other change surely comes in between.
#[test]
fn change_in_between_is_read_again() {
    let rule_of = |port: u16| rule(&[("127.0.0.1", port), ("127.0.0.1", 9)], json!({}));
    let changed = json!({"error": "precondition_failed", "message": "the table has changed"});
    let one = ["remove-backend", "a.com", "127.0.0.1:9"];
    let all = ["backend", "remove", "127.0.0.1:9"];
    for (words, read, write) in [
        (&one, "GET /hostname/a.com/ HTTP/1.1", "PUT /hostname/a.com/ HTTP/1.1"),
        (&all, "GET /hostname/ HTTP/1.1", "PATCH /hostname/?wait=fleet HTTP/1.1"),
    ] {
        let server = Backend::new();
        let client = Call::to(&server, words).start();
        for (port, tag, status) in [(1, "\"7\"", "412 Precondition Failed"), (2, "\"8\"", "200 OK")]
        {
            let body = match words[0] {
                "backend" => json!({"a.com": rule_of(port), "b.com": empty(402)}),
                _ => rule_of(port),
            };
            let mut asked = server.accept();
            expect_asked(&mut asked, read);
            asked.send(answer("200 OK", &format!("ETag: {tag}\r\n"), &body.to_string()));
            let mut asked = server.accept();
            let (head, body) = expect_asked(&mut asked, write);
            assert_eq!(head.field("If-Match"), Some(tag));
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let expected = rule(&[("127.0.0.1", port)], json!({}));
            match words[0] {
                "backend" => assert_eq!(body, json!({"a.com": expected})),
                _ => assert_eq!(body, expected),
            }
            match status {
                "200 OK" => asked.send(json_ok(&json!({"ok": true}))),
                refused => asked.send(answer(refused, "", &changed.to_string())),
            }
        }
        client.finish().expect(0, &[]);
    }
}

/// A daemon with two applications behind two rules, and a held one that goes back to the first.
fn two_rules(first: u16, second: u16) -> Daemon {
    let both = rule_for(&[first, second], json!({"algorithm": "round_robin"}));
    Setup::new()
        .rule("a.com", both.clone())
        .rule("b.com", both)
        .rule("held.com", json!(["spin", {"then": rule_for(&[first], json!({}))}, false]))
        .rule("other.com", empty(402))
        .start()
}

fn texts(daemon: &Daemon, host: &str) -> Vec<String> {
    (0..4).map(|_| daemon.connect().exchange(get(host, "/")).text()).collect()
}

#[test]
fn backend_is_moved_in_every_rule() {
    let [first, second, third] =
        ["first", "second", "third"].map(|name| Backend::new().serve_text(name));
    let daemon = two_rules(first.port, second.port);
    let way = way(&daemon);
    let line = format!("backend move 127.0.0.1:{} 127.0.0.1:{}", first.port, third.port);
    let told = format!("127.0.0.1:{}: 3 rules changed", first.port);
    way.call(&line).finish().expect(0, &[&told]);
    for host in ["a.com", "b.com"] {
        let mut found = texts(&daemon, host);
        found.sort_unstable();
        assert_eq!(found, ["second", "second", "third", "third"]);
    }
    way.call("flip held.com").finish().expect(0, &[]);
    assert_eq!(texts(&daemon, "held.com"), ["third"; 4]);
    assert_eq!(first.requests(), 0);
    assert_eq!(daemon.connect().exchange(get("other.com", "/")).status(), 402);
}

#[test]
fn backend_is_drained_and_comes_back() {
    let [first, second] = ["first", "second"].map(|name| Backend::new().serve_text(name));
    let both = rule_for(&[first.port, second.port], json!({"algorithm": "round_robin"}));
    let daemon = Setup::new().rule("a.com", both.clone()).rule("b.com", both).start();
    let way = way(&daemon);
    let drain = format!("backend drain 127.0.0.1:{}", first.port);
    way.call(&drain).finish().expect(0, &["2 rules changed"]);
    assert_eq!(arguments(&daemon, "a.com").1, json!([0, 1]));
    for host in ["a.com", "b.com"] {
        assert_eq!(texts(&daemon, host), ["second"; 4]);
    }
    way.call(&drain).finish().expect(0, &["nothing to change"]);
    way.call(&format!("{drain} --undo")).finish().expect(0, &["2 rules changed"]);
    let mut found = texts(&daemon, "a.com");
    found.sort_unstable();
    assert_eq!(found, ["first", "first", "second", "second"]);
}

/// It is said which hosts are left with nothing, and made all the same.
#[test]
fn drain_of_the_only_backend_is_told() {
    let backend = Backend::new().serve_text("first");
    let spare = json!({"backup": [["127.0.0.1", 9]]});
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[backend.port], json!({})))
        .rule("b.com", rule_for(&[backend.port], spare))
        .start();
    let way = way(&daemon);
    let drain = format!("backend drain 127.0.0.1:{}", backend.port);
    way.call(&drain).finish().expect(0, &["2 rules changed", "they get 503: a.com\n"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503);
    way.call(&format!("{drain} --undo")).finish().expect(0, &["2 rules changed"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
}

#[test]
fn backend_is_removed_where_another_is_left() {
    let [first, second] = ["first", "second"].map(|name| Backend::new().serve_text(name));
    let daemon = two_rules(first.port, second.port);
    daemon.api().put("/hostname/alone.com/", &rule_for(&[first.port], json!({})));
    let way = way(&daemon);
    let address = format!("127.0.0.1:{}", first.port);
    let finished = way.call(&format!("backend remove {address}")).finish();
    let told = format!("{address}: 2 rules changed");
    finished.expect(1, &[&told, "still the only backend of alone.com, held.com", "don't stop"]);
    for host in ["a.com", "b.com"] {
        assert_eq!(texts(&daemon, host), ["second"; 4]);
    }
    assert_eq!(texts(&daemon, "alone.com"), ["first"; 4]);
}

/// Returns when the last request there has ended, and not before.
#[test]
fn requests_that_are_open_are_waited_for() {
    let [first, second] = [Backend::new(), Backend::new()];
    let rule = |more: &[u16]| rule_for(&[&[first.port], more].concat(), json!({}));
    let address = format!("127.0.0.1:{}", first.port);
    let other = format!("127.0.0.1:{}", second.port);
    for (line, gone) in [
        (format!("remove-backend a.com {address} --wait"), true),
        (format!("backend remove {address} --wait"), true),
        (format!("backend move {address} {other} --wait"), true),
        (format!("backend drain {address} --wait"), false),
    ] {
        let daemon = Setup::new().rule("a.com", rule(&[])).start();
        let way = way(&daemon);
        let (mut client, mut server) = asked_for(&daemon, &first, get("a.com", "/"));
        if !line.starts_with("backend move") {
            daemon.api().put("/hostname/a.com/", &rule(&[second.port]));
        }
        let left = format!("{address} (1)");
        way.fails(&format!("{line} --timeout 1s"), &[&left, "after 1s", "don't stop"]);
        if gone {
            daemon.api().put("/hostname/a.com/", &rule(&[second.port]));
        }
        let mut api = daemon.api();
        let before = api.etag();
        let waiting = way.call(&line).start();
        if gone {
            eventually("the change is made", || api.etag() != before);
        }
        server.send(ok("done"));
        assert_eq!(client.expect_answer().text(), "done");
        waiting.finish().expect(0, &[]);
    }
}

#[test]
fn backends_are_listed_with_health_and_rules() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[backend.port, 2], json!({"weights": [1, 0]})))
        .rule("b.com", rule(&[("localhost", backend.port)], json!({})))
        .rule("c.com", rule(&[("127.0.0.1", 2), ("127.0.0.1", backend.port)], json!({})))
        .rule("d.com", json!(["spin", {"then": rule_for(&[backend.port], json!({}))}, false]))
        .rule("e.com", rule_for(&[backend.port], json!({})))
        .rule("other.com", empty(402))
        .start();
    let way = way(&daemon);
    let (client, server) = asked_for(&daemon, &backend, get("e.com", "/"));
    let port = backend.port;
    eventually("the request is counted", || {
        let told = daemon.api().get(&format!("/backends/?address=127.0.0.1:{port}"));
        told[format!("127.0.0.1:{port}")]["open_requests"] == 1
    });
    let listed = way.call("backend list").finish();
    listed.expect(0, &[]);
    let words: Vec<Vec<&str>> =
        listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let at = format!("127.0.0.1:{port}");
    let name = format!("localhost:{port}");
    assert_eq!(words[0], ["BACKEND", "HEALTH", "OPEN", "RULES", "HOSTS"]);
    let row = |first: &str| {
        let row = words.iter().find(|row| row[0] == first);
        row.unwrap_or_else(|| panic!("no {first} in\n{}", listed.out))[1..].to_vec()
    };
    assert_eq!(row(&at), ["up", "1", "4", "a.com,", "c.com,", "d.com", "and", "1", "more"]);
    assert_eq!(row("127.0.0.1:2"), ["up", "0", "2", "a.com", "(drained),", "c.com"]);
    assert_eq!(row(&name), ["up", "1", "1", "b.com"]);
    let one = way.call(&format!("backend list {at}")).finish();
    one.expect(0, &[]);
    let rules: Vec<&str> = one.out.lines().skip(2).collect();
    let expected = ["  a.com weight 1", "  c.com weight 1", "  d.com weight 1", "  e.com weight 1"];
    assert_eq!(rules, expected);
    let json = way.json("backend list 127.0.0.1:2 --json");
    let expected = json!({"127.0.0.1:2": {
        "health": "up", "open_requests": 0, "rules": {"a.com": 0, "c.com": 1},
    }});
    assert_eq!(json, expected);
    drop((client, server));
}

#[test]
fn backends_of_the_api_are_found_by_address_and_name() {
    let backend = Backend::new();
    let daemon =
        Setup::new().rule("a.com", rule(&[("localhost", backend.port)], json!({}))).start();
    let mut api = daemon.api();
    let port = backend.port;
    // whatever is known of it
    let told = api.get("/backends/?address=10.9.8.7:65");
    assert_eq!(told["10.9.8.7:65"]["state"], "up");
    assert_eq!(told["10.9.8.7:65"]["names"], json!([]));
    let told = api.get(&format!("/backends/?address=LocalHost:{port}&address=10.9.8.7:65"));
    let told = told.as_object().expect("an object");
    let at = told.get(&format!("127.0.0.1:{port}")).or(told.get(&format!("[::1]:{port}")));
    assert_eq!(at.expect("an address")["names"], json!([format!("localhost:{port}")]));
    assert!(told.contains_key("10.9.8.7:65"));
    assert_eq!(api.get("/backends/?address=nobody.example:1"), json!({}));
    for bad in ["x", "x:", "a%20b:1", "a:65536"] {
        api.ask("GET", &format!("/backends/?address={bad}")).expect_error(400, "query_invalid");
    }
}

/// The changes of one command are one change of the table.
#[test]
fn batch_is_one_change() {
    let daemon = Setup::new().start();
    let both = rule(&[("127.0.0.1", 1), ("127.0.0.1", 2)], json!({}));
    let hosts = (0..300).map(|n| (format!("host-{n}.com"), both.clone()));
    daemon.api().put("/hostname/", &Value::Object(hosts.collect()));
    let way: Way = way(&daemon);
    let events = way.call("events --only change --json").start();
    events.expect_out("hello");
    way.call("backend move 127.0.0.1:1 10.0.0.1:1").finish().expect(0, &["300 rules changed"]);
    events.expect_out("\"changed\":300");
    events.terminate();
}
