//! `GET /which/HOST` and `mantrid-client which`: what is told of a host is what its next request
//! meets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::client_daemon::way;
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::manage::Api;
use crate::message::{get, ok};
use crate::script::Connection;

/// What is told, and the outcome in it.
#[track_caller]
fn which(api: &mut Api, host: &str) -> (Value, String) {
    let told = api.get(&format!("/which/{host}"));
    let outcome = told["outcome"].as_str().expect("an outcome").to_owned();
    (told, outcome)
}

fn status(daemon: &Daemon, host: &str) -> u16 {
    daemon.connect().exchange(get(host, "/")).status()
}

#[test]
fn rule_alias_and_backends_are_told() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("b.com", json!(["alias", {"hostname": "c.com"}, true]))
        .rule("c.com", json!(["alias", {"hostname": "a.com"}, false]))
        .start();
    let mut api = daemon.api();
    assert_eq!(status(&daemon, "www.b.com"), 200);
    api.counted("b.com", 1);
    let answer = api.ask("GET", "/which/www.b.com").expect_status(200);
    let (tag, told) = (answer.etag(), answer.json());
    assert_eq!(tag, api.etag());
    let address = format!("127.0.0.1:{}", backend.port);
    let expected = json!({
        "host": "www.b.com",
        "scheme": "http",
        "name": "b.com",
        "alias": ["c.com", "a.com"],
        "rule": backend.rule(),
        "action": "proxy",
        "backends": [{
            "backend": address,
            "address": address,
            "weight": 1,
            "backup": false,
            "health": "up",
            "reason": null,
            "open_requests": 0,
        }],
        "held": 0,
        "open_requests": 0,
        "timeouts": {"connect": 5, "server": 60, "tunnel": 3600},
        "outcome": "proxied",
        "would": format!("passed on to {address}"),
    });
    assert_eq!(told, expected);
}

#[test]
fn answer_is_what_a_request_meets() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("proxy.com", backend.rule())
        .rule("empty.com", empty(402))
        .rule("redirect.com", json!(["redirect", {"redirect_to": "a.com", "code": 301}, false]))
        .rule("static.com", json!(["static", {"type": "test"}, false]))
        .rule("unknown.com", json!(["unknown", {}, false]))
        .rule("lost.com", rule_for(&[closed_port()], json!({})))
        .start();
    let mut api = daemon.api();
    for (host, outcome, code, words) in [
        ("proxy.com", "proxied", 200, format!("passed on to 127.0.0.1:{}", backend.port)),
        ("www.proxy.com", "proxied", 200, format!("passed on to 127.0.0.1:{}", backend.port)),
        ("empty.com", "replied", 402, "gets the status 402".to_owned()),
        ("www.empty.com", "replied", 503, "no rule is for www.empty.com".to_owned()),
        ("redirect.com", "replied", 301, "gets a redirect (301) to a.com".to_owned()),
        ("static.com", "replied", 200, "gets the page test (200)".to_owned()),
        ("unknown.com", "replied", 503, "its rule is unknown".to_owned()),
        ("nowhere.com", "replied", 503, "no rule is for nowhere.com".to_owned()),
        // nobody knows before the first request
        ("lost.com", "proxied", 502, "passed on to 127.0.0.1:".to_owned()),
    ] {
        let (told, found) = which(&mut api, host);
        assert_eq!(found, outcome, "{told}");
        let sentence = told["would"].as_str().expect("a sentence");
        assert!(sentence.contains(&words), "{host}: {sentence}");
        assert_eq!(status(&daemon, host), code, "{host}: {sentence}");
    }
    let (told, _) = which(&mut api, "nowhere.com");
    for key in ["name", "rule", "action", "held", "open_requests"] {
        assert_eq!(told[key], Value::Null, "{key}");
    }
    assert_eq!((&told["alias"], &told["backends"]), (&json!([]), &json!([])));
    let empty_table = Setup::new().start();
    let (told, _) = which(&mut empty_table.api(), "a.com");
    assert_eq!(told["would"], "gets the page no-hosts (503): the table has no rules");
}

#[test]
fn host_is_read_as_that_of_a_request() {
    let daemon = Setup::new()
        .rule("a.com", empty(402))
        .rule("https://a.com", empty(403))
        .rule("xn--bcher-kva.example", empty(404))
        .start();
    let mut api = daemon.api();
    for (asked, host, name) in [
        ("A.com", "a.com", "a.com"),
        ("a.com.:8080", "a.com", "a.com"),
        ("a.com:443/", "a.com", "a.com"),
        ("%61.com%3A80", "a.com", "a.com"),
        ("a.com?scheme=https", "a.com", "https://a.com"),
        ("a.com?scheme=http", "a.com", "a.com"),
        ("B%C3%BCcher.example:80", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ] {
        let (told, _) = which(&mut api, asked);
        assert_eq!((&told["host"], &told["name"]), (&json!(host), &json!(name)), "{asked}");
    }
    for (path, code, word) in [
        ("/which/a%20b", "a b:hostname_invalid", "letters, digits"),
        ("/which/https://a.com", "https://a.com:hostname_invalid", "?scheme=https"),
        ("/which/", ":hostname_invalid", "name a host"),
        ("/which/a.com?scheme=ftp", "query_invalid", "http, https, tcp, tls"),
        ("/which/a.com?source=a.com", "query_invalid", "an address of a client"),
        ("/which/a.com?domain=b.com", "query_unknown", "scheme"),
    ] {
        let message = api.ask("GET", path).expect_error(400, code);
        assert!(message.contains(word), "{path}: {message}");
    }
    api.ask("PUT", "/which/a.com").expect_error(405, "method_not_allowed");
}

#[test]
fn client_that_is_kept_out_is_told() {
    let daemon = Setup::new()
        .rule("a.com", json!(["empty", {"code": 402, "deny": "127.0.0.1"}, false]))
        .start();
    let mut api = daemon.api();
    assert_eq!(status(&daemon, "a.com"), 403);
    for (source, outcome, word) in [
        ("?source=127.0.0.1", "denied", "403"),
        ("?source=::ffff:127.0.0.1", "denied", "127.0.0.1 out"),
        ("?source=127.0.0.2", "replied", "402"),
        ("", "replied", "some clients"),
    ] {
        let (told, found) = which(&mut api, &format!("a.com{source}"));
        assert_eq!(found, outcome, "{told}");
        assert!(told["would"].as_str().is_some_and(|would| would.contains(word)), "{told}");
    }
    let told = way(&daemon).call("which a.com --source 127.0.0.1").finish();
    told.expect(0, &[]);
    assert!(told.out.contains("gets the status 403"), "{}", told.out);
}

/// A rule for all names is no reason to get a certificate for each.
#[test]
fn rule_for_all_names_is_told_and_is_no_site() {
    let daemon = Setup::new()
        .set("unknown_status", 404)
        .rule("*", empty(402))
        .rule("a.com", empty(403))
        .start();
    let mut api = daemon.api();
    assert_eq!(status(&daemon, "b.com"), 402);
    assert_eq!(which(&mut api, "b.com").0["name"], "*");
    api.ask("GET", "/which/?domain=b.com").expect_error(404, "no_rule");
    api.ask("GET", "/which/?domain=a.com").expect_status(200);
    api.delete("*");
    assert_eq!(status(&daemon, "b.com"), 404);
    let (told, _) = which(&mut api, "b.com");
    assert!(told["would"].as_str().is_some_and(|would| would.contains("(404)")), "{told}");
}

#[test]
fn raw_connections_are_told_of_as_well() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("tcp://a.com", backend.rule())
        .rule("a.com", empty(402))
        .rule("https://b.com", backend.rule())
        .start();
    let mut api = daemon.api();
    for (asked, name, outcome) in [
        ("a.com?scheme=tcp", "tcp://a.com", "proxied"),
        ("a.com?scheme=tls", "a.com", "closed"),
        ("b.com?scheme=tls", "https://b.com", "proxied"),
    ] {
        let (told, found) = which(&mut api, asked);
        assert_eq!((&told["name"], &*found), (&json!(name), outcome), "{told}");
    }
}

#[test]
fn backend_that_is_down_is_told_with_the_reason() {
    let health = Arc::new(AtomicU16::new(500));
    let seen = Arc::clone(&health);
    let sick = Backend::new().serve(move |head, server| {
        let code = if head.target() == "/health" { seen.load(Ordering::SeqCst) } else { 200 };
        let answer = format!("HTTP/1.1 {code} So\r\nContent-Length: 0\r\n\r\n");
        drop(server.try_send(answer));
    });
    let well = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("a.com", rule_for(&[sick.port, well.port], json!({"check": "/health"})))
        .rule("b.com", rule_for(&[sick.port], json!({"check": "/health", "hold": 60})))
        .start();
    let mut api = daemon.api();
    let address = format!("127.0.0.1:{}", sick.port);
    eventually("the sick one is down", || {
        let (told, _) = which(&mut api, "a.com");
        told["backends"][0]["health"] == "down"
    });
    let (told, outcome) = which(&mut api, "a.com");
    let reason = told["backends"][0]["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("answered 500"), "{told}");
    assert_eq!(told["backends"][1]["health"], "up", "{told}");
    let sentence = format!("passed on to 127.0.0.1:{}; {address} is down ({reason})", well.port);
    assert_eq!((&*outcome, &told["would"]), ("proxied", &json!(sentence)));
    eventually("requests of b.com would wait", || {
        let (told, outcome) = which(&mut api, "b.com");
        outcome == "held" && told["would"].as_str().is_some_and(|would| would.contains("60 s"))
    });
    health.store(200, Ordering::SeqCst);
    eventually("both are well", || which(&mut api, "b.com").1 == "proxied");
}

#[test]
fn backup_and_drained_backends_are_told() {
    let [first, spare] = ["first", "spare"].map(|name| Backend::new().serve_text(name));
    let rule = |weights: Value, more: Value| {
        let mut more = more;
        more["weights"] = weights;
        rule_for(&[first.port], more)
    };
    let backup = json!({"backup": [["127.0.0.1", spare.port]]});
    let daemon = Setup::new()
        .rule("a.com", rule(json!([1]), backup.clone()))
        .rule("b.com", rule(json!([0]), backup))
        .rule("c.com", rule(json!([0]), json!({})))
        .start();
    let mut api = daemon.api();
    let to = |port: u16| format!("passed on to 127.0.0.1:{port}");
    let drained = format!("127.0.0.1:{} is drained (weight 0)", first.port);
    for (host, outcome, would, code) in [
        ("a.com", "proxied", to(first.port), 200),
        ("b.com", "proxied", format!("{}; {drained}", to(spare.port)), 200),
        ("c.com", "failed", format!("gets the status 503: {drained}"), 503),
    ] {
        let (told, found) = which(&mut api, host);
        assert_eq!((&*found, &told["would"]), (outcome, &json!(would)));
        assert_eq!(status(&daemon, host), code, "{told}");
    }
    let (told, _) = which(&mut api, "a.com");
    let kinds: Vec<&Value> =
        told["backends"].as_array().expect("a list").iter().map(|one| &one["backup"]).collect();
    assert_eq!(kinds, [&json!(false), &json!(true)]);
    assert_eq!((first.requests(), spare.requests()), (1, 1));
}

#[test]
fn request_that_would_wait_is_told_why() {
    let backend = Backend::keeping_port();
    let daemon = Setup::new()
        .rule("spin.com", json!(["spin", {"timeout": 60, "max_held": 1}, false]))
        .rule("full.com", backend.rule_with(json!({"max_connections": 1})))
        .rule("slow.com", rule_for(&[backend.port], json!({"max_requests_per_second": 1})))
        .start();
    let mut api = daemon.api();
    let (told, outcome) = which(&mut api, "spin.com");
    assert_eq!((&*outcome, &told["held"]), ("held", &json!(0)), "{told}");
    let mut held = daemon.connect();
    held.send(get("spin.com", "/"));
    eventually("a request is held", || which(&mut api, "spin.com").0["held"] == 1);
    let (told, outcome) = which(&mut api, "spin.com");
    let full = "gets the page timeout (503): 1 request is held, and max_held is 1";
    assert_eq!((&*outcome, &told["would"]), ("replied", &json!(full)));
    assert_eq!(status(&daemon, "spin.com"), 503);

    assert_eq!(which(&mut api, "full.com").1, "proxied");
    let (mut client, mut server) = asked_for(&daemon, &backend, get("full.com", "/"));
    eventually("its place is taken", || which(&mut api, "full.com").1 == "queued");
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    drop((client, server));

    drop(backend);
    assert_eq!(which(&mut api, "slow.com").1, "proxied");
    eventually("the rate is spent", || {
        drop(daemon.connect().exchange(get("slow.com", "/")));
        which(&mut api, "slow.com").1 == "limited"
    });
}

#[track_caller]
fn expect_told(api: &mut Api, asked: &str, outcome: &str, words: &[&str]) {
    let (told, found) = which(api, asked);
    let would = told["would"].as_str().expect("a sentence");
    let has_all = words.iter().all(|word| would.contains(word));
    assert!(found == outcome && has_all, "{asked}: {outcome} {words:?}, but {told}");
}

#[test]
fn line_of_a_rule_with_as_many_open_requests_as_it_may_have_is_told() {
    let backend = Backend::new();
    let limit = json!({"max_open_requests": 1, "timeout_connect": 7});
    let daemon = Setup::new()
        .rule("a.com", backend.rule_with(limit))
        .rule("b.com", json!(["alias", {"hostname": "a.com"}, false]))
        .start();
    let mut api = daemon.api();
    expect_told(&mut api, "a.com", "proxied", &["passed on to"]);
    let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
    eventually("its permit is taken", || which(&mut api, "a.com").1 == "queued");
    for host in ["a.com", "b.com"] {
        let words = ["waits up to 7 s in line", "max_open_requests = 1"];
        expect_told(&mut api, host, "queued", &words);
    }
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    eventually("its permit is back", || which(&mut api, "a.com").1 == "proxied");
}

#[test]
fn rate_of_the_client_in_question_is_told() {
    let backend = Backend::new().serve_text("hello");
    let rule = backend.rule_with(json!({"max_requests_per_second_per_source": 1}));
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut api = daemon.api();
    expect_told(&mut api, "a.com", "proxied", &["_per_source = 1 limits each client"]);
    eventually("the rate is spent", || {
        drop(daemon.connect().exchange(get("a.com", "/")));
        which(&mut api, "a.com?source=127.0.0.1").1 == "limited"
    });
    let words = ["gets the status 429", "max_requests_per_second_per_source = 1 is spent"];
    eventually("the reason is told", || {
        drop(daemon.connect().exchange(get("a.com", "/")));
        let (told, _) = which(&mut api, "a.com?source=127.0.0.1");
        told["would"].as_str().is_some_and(|would| words.iter().all(|word| would.contains(word)))
    });
    let (told, outcome) = which(&mut api, "a.com?source=127.0.0.2");
    let passed = format!("passed on to 127.0.0.1:{}", backend.port);
    assert_eq!((&*outcome, &told["would"]), ("proxied", &json!(passed)));
}

#[test]
fn body_that_is_too_large_is_told() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("a.com", backend.rule_with(json!({"max_body": 10})))
        .rule("b.com", json!(["spin", {"max_body": 10}, false]))
        .rule("tcp://a.com", backend.rule_with(json!({"max_body": 10})))
        .start();
    let mut api = daemon.api();
    let note = "a body of more than 10 bytes gets 413";
    expect_told(&mut api, "a.com", "proxied", &[note]);
    expect_told(&mut api, "b.com", "held", &[note]);
    for host in ["a.com", "b.com"] {
        let asked = format!("{host}?body=11");
        expect_told(&mut api, &asked, "refused", &["gets the status 413", "max_body = 10"]);
    }
    for asked in ["a.com?body=10", "a.com?scheme=tcp", "a.com?scheme=tcp&body=11"] {
        let (told, outcome) = which(&mut api, asked);
        let passed = format!("passed on to 127.0.0.1:{}", backend.port);
        assert_eq!((&*outcome, &told["would"]), ("proxied", &json!(passed)), "{asked}");
    }
    api.ask("GET", "/which/a.com?body=x").expect_error(400, "query_invalid");
    let told = way(&daemon).call("which a.com --body 11").finish();
    told.expect(0, &[]);
    assert!(told.out.contains("gets the status 413"), "{}", told.out);
}

#[test]
fn page_that_a_client_would_get_is_told() {
    let page = |status: u16| format!("HTTP/1.1 {status} Ours\r\n\r\nours\n");
    let with = |mut rule: Value, name: &str| {
        rule[1]["pages"] = json!(name);
        rule
    };
    let drained = rule_for(&[1], json!({"weights": [0]}));
    let denied = json!(["empty", {"code": 204, "deny": "127.0.0.1"}, false]);
    let full = json!(["spin", {"max_held": 1, "timeout": 60}, false]);
    let lost = json!(["proxy", {"backends": [["name.invalid", 1]]}, false]);
    let daemon = Setup::new()
        .page("shop.403.http", &page(404))
        .page("shop.502.http", &page(502))
        .page("shop.timeout.http", &page(500))
        .page("503.http", &page(503))
        .rule("denied.com", with(denied, "shop"))
        .rule("full.com", with(full, "shop"))
        .rule("lost.com", with(lost.clone(), "shop"))
        .rule("plain.com", with(lost, "other"))
        .rule("drained.com", with(drained, "shop"))
        .start();
    let mut api = daemon.api();
    let mut held = daemon.connect();
    held.send(get("full.com", "/"));
    eventually("a request is held", || which(&mut api, "full.com").0["held"] == 1);
    for (asked, outcome, code, words) in [
        ("denied.com?source=127.0.0.1", "denied", 404, "gets the page shop.403 (404)"),
        ("full.com", "replied", 500, "gets the page shop.timeout (500)"),
        ("lost.com", "failed", 502, "gets the page shop.502 (502)"),
        ("plain.com", "failed", 502, "gets the page 502 (502)"),
        ("drained.com", "failed", 503, "gets the page 503 (503)"),
    ] {
        expect_told(&mut api, asked, outcome, &[words]);
        let host = asked.split('?').next().expect("a host");
        assert_eq!(status(&daemon, host), code, "{host}");
    }
}

/// The bounds of the keys as well, and whatever the request would wait for.
#[test]
fn request_that_can_not_be_held_is_told() {
    let daemon = Setup::new()
        .set("max_held", 2)
        .set("max_held_per_source", 1)
        .rule("spin.com", json!(["spin", {}, false]))
        .rule("hold.com", json!(["proxy", {"backends": [["name.invalid", 1]], "hold": 60}, false]))
        .start();
    let mut api = daemon.api();
    let from = |source: &str| {
        let source = source.parse().expect("an address");
        let mut client = Connection::client_from(source, daemon.address());
        client.send(get("spin.com", "/"));
        client
    };
    expect_told(&mut api, "hold.com", "held", &["held for up to 60 s"]);
    let _one = from("127.0.0.1");
    eventually("one is held", || which(&mut api, "spin.com").0["held"] == 1);
    let words =
        ["gets the page timeout (503)", "1 request of 127.0.0.1 is held", "per_source is 1"];
    for host in ["spin.com", "hold.com"] {
        expect_told(&mut api, &format!("{host}?source=127.0.0.1"), "replied", &words);
        expect_told(&mut api, &format!("{host}?source=127.0.0.2"), "held", &[]);
        assert_eq!(status(&daemon, host), 503);
    }
    let _other = from("127.0.0.2");
    eventually("two are held", || which(&mut api, "spin.com").0["held"] == 2);
    let words = ["gets the page timeout (503)", "2 requests are held", "max_held is 2"];
    for host in ["spin.com", "hold.com"] {
        expect_told(&mut api, host, "replied", &words);
    }
}

#[test]
fn timeouts_in_force_are_told() {
    let own = json!({"timeout_server": 0.25, "timeout_tunnel": 9});
    let daemon = Setup::new()
        .set("timeout_connect", "3s")
        .set("timeout_server", "20s")
        .rule("a.com", rule_for(&[1], own))
        .rule("b.com", rule_for(&[1], json!({})))
        .rule("c.com", empty(402))
        .start();
    let mut api = daemon.api();
    let told = |api: &mut Api, host: &str| which(api, host).0["timeouts"].clone();
    let own = json!({"connect": 3, "server": 0.25, "tunnel": 9});
    assert_eq!(told(&mut api, "a.com"), own);
    assert_eq!(told(&mut api, "b.com"), json!({"connect": 3, "server": 20, "tunnel": 3600}));
    assert_eq!(told(&mut api, "c.com"), Value::Null);
    let told = way(&daemon).call("which a.com").finish();
    let line = "timeouts                 connect 3 s, server 0.25 s, tunnel 9 s\n";
    assert!(told.out.contains(line), "{}", told.out);
}

#[test]
fn backend_by_name_is_told_with_its_addresses() {
    let backend = Backend::new();
    let rule = |name: &str| json!(["proxy", {"backends": [[name, backend.port]]}, false]);
    let daemon =
        Setup::new().rule("a.com", rule("localhost")).rule("b.com", rule("name.invalid")).start();
    let mut api = daemon.api();
    let (told, _) = which(&mut api, "a.com");
    let backends = told["backends"].as_array().expect("a list");
    assert!(!backends.is_empty() && backends.len() <= 2, "{told}");
    for one in backends {
        assert_eq!(one["backend"], format!("localhost:{}", backend.port), "{told}");
        let address = one["address"].as_str().expect("an address");
        assert!(address.ends_with(&format!(":{}", backend.port)), "{told}");
    }
    let (told, outcome) = which(&mut api, "b.com");
    assert_eq!((&*outcome, &told["backends"][0]["address"]), ("failed", &Value::Null), "{told}");
    assert_eq!(status(&daemon, "b.com"), 502);
}

/// As Caddy and others ask, before they get a certificate.
#[test]
fn terminator_is_told_whether_a_name_is_served() {
    let daemon = Setup::new()
        .rule("a.com", empty(402))
        .rule("http://plain.com", empty(402))
        .rule("wide.com", json!(["empty", {"code": 402}, true]))
        .rule("not.wide.com", json!(["unknown", {}, true]))
        .management_tcp()
        .start();
    let mut api = daemon.api_tcp();
    for (domain, code) in [
        ("a.com", 200),
        ("A.com", 200),
        ("www.a.com", 404),
        ("www.wide.com", 200),
        ("not.wide.com", 404),
        ("www.not.wide.com", 404),
        ("plain.com", 404),
        ("nowhere.com", 404),
    ] {
        for path in ["/which/", "/which"] {
            let answer = api.ask("GET", &format!("{path}?domain={domain}"));
            assert_eq!(answer.status(), code, "{domain}: {}", answer.text());
        }
    }
    api.ask("GET", "/which/?domain=nowhere.com").expect_error(404, "no_rule");
    api.ask("GET", "/which/?domain=a%20b").expect_error(400, "a b:hostname_invalid");
    assert_eq!(api.get("/which/?domain=plain.com&scheme=http")["name"], "http://plain.com");
}

/// Also where the rule is that of a parent, or at the end of an alias.
#[test]
fn tenant_is_told_of_its_own_rules_alone() {
    let setup = Setup::new();
    let file = setup.path("tokens");
    fs::write(&file, "shop read shop-0123456789 shop.example\n").expect("a file of tokens");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode");
    let daemon = setup
        .set("management_tokens_file", file.display())
        .rule("shop.example", empty(402))
        .rule("example", json!(["empty", {"code": 403}, true]))
        .rule("a.shop.example", json!(["alias", {"hostname": "other.com"}, false]))
        .rule("other.com", empty(404))
        .start();
    let mut api = daemon.api().with("Authorization: Bearer shop-0123456789");
    assert_eq!(api.get("/which/Shop.Example:80")["name"], "shop.example");
    assert_eq!(api.get("/which/?domain=shop.example")["name"], "shop.example");
    for (host, code) in [
        ("other.com", "other.com:outside_suffix"),
        ("?domain=other.com", "other.com:outside_suffix"),
        ("www.shop.example", "example:outside_suffix"),
        ("a.shop.example", "other.com:outside_suffix"),
    ] {
        api.ask("GET", &format!("/which/{host}")).expect_error(403, code);
    }
}

#[test]
fn client_prints_it_for_people_and_for_programs() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("https://b.com", json!(["alias", {"hostname": "a.com"}, false]))
        .start();
    let way = way(&daemon);
    let port = backend.port;
    let expected = |host: &str, scheme: &str, rule: &str, alias: &str| {
        format!(
            "host                     {host}\n\
             scheme                   {scheme}\n\
             rule                     {rule}\n\
             {alias}action                   proxy<127.0.0.1:{port}>\n\
             open                     0\n\
             held                     0\n\
             backend                  127.0.0.1:{port} up, weight 1, open 0\n\
             timeouts                 connect 5 s, server 60 s, tunnel 3600 s\n\
             would                    passed on to 127.0.0.1:{port}\n"
        )
    };
    way.prints("which www.a.com", &expected("www.a.com", "http", "a.com", ""));
    let https = expected("b.com", "https", "https://b.com", "alias of                 a.com\n");
    for line in ["which b.com --scheme https", "which https://me@B.com:443/path?x=y#z"] {
        way.prints(line, &https);
    }
    way.prints(
        "which b.com",
        "host                     b.com\n\
         scheme                   http\n\
         rule                     none\n\
         would                    gets the page unknown (503): no rule is for b.com, nor for a \
         parent of it with match_subdomains\n",
    );
    assert_eq!(way.json("which a.com --json"), daemon.api().get("/which/a.com"));
    way.fails("which a_b!.com", &["a_b!.com", "letters, digits"]);
    way.fails("which https://", &["You must supply a hostname."]);
}
