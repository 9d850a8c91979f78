//! The management API: what each request answers, and that a change is made whole or not at all,
//! and is in force everywhere once it is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};

use serde_json::{Map, Value, json};

use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::message::get;
use crate::script::Connection;

pub fn empty(code: u16) -> Value {
    json!(["empty", { "code": code }, false])
}

/// What a request for this host gets.
#[track_caller]
fn status(daemon: &Daemon, host: &str) -> u16 {
    daemon.connect().exchange(get(host, "/")).status()
}

#[track_caller]
fn every_request(daemon: &Daemon, mut api: Api) {
    assert_eq!(api.get("/hostname/"), json!({}));
    assert_eq!(api.get("/stats/"), json!({}));
    assert_eq!(api.get("/hostname/a.com/"), Value::Null);
    assert_eq!(api.get("/stats/a.com/"), json!({}));
    api.put("/hostname/a.com/", &empty(402));
    assert_eq!(api.get("/hostname/a.com/"), empty(402));
    assert_eq!(api.get("/stats/"), json!({"a.com": {}}), "a host never hit");
    assert_eq!(status(daemon, "a.com"), 402);
    api.put("/hostname/", &json!({"b.com": empty(403), "c.com": empty(404)}));
    assert_eq!(api.get("/hostname/"), json!({"b.com": empty(403), "c.com": empty(404)}));
    assert_eq!((status(daemon, "a.com"), status(daemon, "b.com")), (503, 403));
    api.patch(&json!({"b.com": null, "c.com": empty(405), "d.com": empty(406)}));
    assert_eq!(api.get("/hostname/"), json!({"c.com": empty(405), "d.com": empty(406)}));
    let patched: Vec<u16> = ["b.com", "c.com", "d.com"].map(|host| status(daemon, host)).into();
    assert_eq!(patched, [503, 405, 406]);
    api.delete("c.com");
    api.delete("was-never-there.com");
    api.patch(&json!({"nor-this.com": null}));
    assert_eq!(api.get("/hostname/"), json!({"d.com": empty(406)}));
    assert_eq!(api.get("/healthz"), json!({"ok": true}));
    assert!(api.get("/backends/").is_object());
    let metrics = api.ask("GET", "/metrics").expect_status(200);
    assert!(metrics.text().contains("# TYPE mantrid_rules gauge\n"), "{}", metrics.text());
    let page = api.ask("GET", "/").expect_status(200);
    assert!(page.head.field("Content-Type").is_some_and(|kind| kind.starts_with("text/html")));
    api.put("/hostname/", &json!({}));
    assert_eq!(api.get("/hostname/"), json!({}));
}

#[test]
fn api_serves_each_request_of_its_table() {
    let daemon = Setup::new().start();
    every_request(&daemon, daemon.api());
    let daemon = Setup::new().management_tcp().start();
    every_request(&daemon, daemon.api_tcp());
}

#[test]
fn paths_are_taken_as_people_type_them() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for path in ["/hostname/a.com", "/HOSTNAME/a.com/", "/Hostname/A.COM"] {
        api.put(path, &empty(402));
        assert_eq!(api.get(path), empty(402));
        assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
        assert_eq!(api.get("/hostname"), json!({"a.com": empty(402)}));
        assert_eq!((api.get("/stats"), api.get("/STATS/A.com")), (json!({"a.com": {}}), json!({})));
        api.ask("DELETE", path).expect_made();
        assert_eq!(api.get("/hostname/"), json!({}));
    }
}

/// The kernel spreads connections over the shards; each of them must see each change.
#[test]
fn the_very_next_request_sees_a_change_on_every_shard() {
    let daemon = Setup::new().set("shards", 3).start();
    let mut api = daemon.api();
    let mut kept: Vec<Connection> = (0..24).map(|_| daemon.connect()).collect();
    let mut see = |expected: u16| {
        // sent to all before any is read: none has time to learn of it from another
        kept.iter_mut().for_each(|client| client.send(get("a.com", "/")));
        kept.iter_mut().for_each(|client| assert_eq!(client.expect_answer().status(), expected));
        let mut fresh: Vec<Connection> = (0..6).map(|_| daemon.connect()).collect();
        fresh.iter_mut().for_each(|client| client.send(get("a.com", "/")));
        fresh.iter_mut().for_each(|client| assert_eq!(client.expect_answer().status(), expected));
    };
    for code in 400..430 {
        match code % 3 {
            0 => drop(api.put("/hostname/a.com/", &empty(code))),
            1 => drop(api.put("/hostname/", &json!({"a.com": empty(code)}))),
            _ => drop(api.patch(&json!({"a.com": empty(code), "b.com": null}))),
        }
        see(code);
    }
    api.delete("a.com");
    see(503);
    let metrics = api.ask("GET", "/metrics").text();
    for shard in 0..3 {
        let line = format!("mantrid_requests_total{{shard=\"{shard}\"}} ");
        let count = metrics.lines().find_map(|known| known.strip_prefix(&*line));
        assert!(count.is_some_and(|count| count != "0"), "shard {shard} had none: {count:?}");
    }
}

/// Everything that a change would change.
fn state_of(setup: &Setup, api: &mut Api) -> (Value, String, Vec<u8>) {
    let table = api.ask("GET", "/hostname/");
    let journal = std::fs::read(setup.path("state.json.journal")).expect("the journal");
    (table.json(), table.etag(), journal)
}

#[test]
fn bad_rule_among_many_changes_nothing() {
    let setup = Setup::new();
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    api.put("/hostname/", &json!({"a.com": empty(402), "m.com": empty(402)}));
    let before = state_of(&setup, &mut api);
    for (host, bad, code, words) in [
        (
            "m.com",
            json!(["empty", {"code": "many"}, false]),
            "host_kwarg_invalid:code",
            "from 200 to 599",
        ),
        ("m.com", json!(["proxy", {}, false]), "host_kwarg_missing:backends", "[host, port]"),
        ("m.com", json!(["static", {"typ": "test"}, false]), "host_kwarg_unknown:typ", "type"),
        ("m.com", json!(["alias", {"hostname": "no.com"}, false]), "alias_missing", "no.com"),
        ("m..com", empty(402), "hostname_invalid", "label"),
    ] {
        for method in ["PUT", "PATCH"] {
            let good = (0..200).map(|n| (format!("x{n}.com"), empty(403)));
            let mut rules: Map<String, Value> = good.collect();
            rules.insert("a.com".to_owned(), empty(403));
            rules.insert(host.to_owned(), bad.clone());
            rules.extend((0..200).map(|n| (format!("y{n}.com"), empty(403))));
            let answer = api.tell(method, "/hostname/", &Value::Object(rules));
            let sentence = answer.expect_error(400, &format!("{host}:{code}"));
            assert!(sentence.contains(words), "{sentence:?} does not say {words:?}");
            assert_eq!(state_of(&setup, &mut api), before, "{method} {bad}");
        }
    }
    assert_eq!((status(&daemon, "a.com"), status(&daemon, "x1.com")), (402, 503));
}

#[test]
fn errors_have_the_codes_of_the_original() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let before = api.etag();
    for (rule, code) in [
        (json!({}), "host_details_not_list"),
        (json!(null), "host_details_not_list"),
        (json!("spin"), "host_details_not_list"),
        (json!([]), "host_details_wrong_length"),
        (json!(["spin", {}]), "host_details_wrong_length"),
        (json!(["spin", {}, true, 1]), "host_details_wrong_length"),
        (json!(["x", {}, true]), "host_action_invalid:x"),
        (json!(["SPIN", {}, true]), "host_action_invalid:SPIN"),
        (json!([1, {}, true]), "host_action_invalid:1"),
        (json!(["spin", [], true]), "host_kwargs_not_dict"),
        (json!(["spin", null, true]), "host_kwargs_not_dict"),
        (json!(["spin", {}, "bruce"]), "host_match_subdomains_not_bool"),
        (json!(["spin", {}, 1]), "host_match_subdomains_not_bool"),
        // in the original's order: the first that is wrong
        (json!(["x", [], 1]), "host_action_invalid:x"),
        (json!(["spin", [], 1]), "host_kwargs_not_dict"),
    ] {
        let code = format!("a.com:{code}");
        api.tell("PUT", "/hostname/a.com/", &rule).expect_error(400, &code);
        api.tell("PUT", "/hostname/", &json!({"a.com": rule})).expect_error(400, &code);
        if !rule.is_null() {
            api.tell("PATCH", "/hostname/", &json!({"a.com": rule})).expect_error(400, &code);
        }
    }
    for body in [json!([]), json!(null), json!("a.com"), json!(1), json!([["a.com", empty(402)]])] {
        for method in ["PUT", "PATCH"] {
            api.tell(method, "/hostname/", &body).expect_error(400, "body_not_a_dict");
        }
    }
    assert_eq!(api.etag(), before);
}

#[test]
fn if_match_lets_only_the_informed_write() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let first = api.put("/hostname/a.com/", &empty(402));
    let second = api.put("/hostname/a.com/", &empty(403));
    assert_ne!(first, second);
    assert_eq!(api.etag(), second);
    assert_eq!(api.ask("GET", "/hostname/a.com/").etag(), second);
    let (all, one) = (json!({"a.com": empty(404)}), empty(404));
    for (method, path, body) in [
        ("PUT", "/hostname/", &all),
        ("PATCH", "/hostname/", &all),
        ("PUT", "/hostname/a.com/", &one),
        ("DELETE", "/hostname/a.com/", &Value::Null),
        ("PUT", "/hostname/?dry_run=1", &all),
    ] {
        for tag in [&*first, "\"x\"", "nonsense", "", "\"x\", \"y\""] {
            let answer = api.tell_with(&format!("If-Match: {tag}\r\n"), method, path, body);
            answer.expect_error(412, "precondition_failed");
            assert_eq!(answer.etag(), second, "so that it can be tried again");
        }
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(403)}));
    let put = |api: &mut Api, tags: &str, code| {
        api.tell_with(&format!("If-Match: {tags}\r\n"), "PUT", "/hostname/a.com/", &empty(code))
    };
    let third = put(&mut api, &second, 405).expect_made();
    let fourth = put(&mut api, &format!("\"x\", {third}"), 406).expect_made();
    put(&mut api, "*", 407).expect_made();
    put(&mut api, &fourth, 408).expect_error(412, "precondition_failed");
    assert_eq!(api.get("/hostname/a.com/"), empty(407));
}

#[test]
fn conditional_write_succeeds_for_one_of_two() {
    const WRITERS: u16 = 4;
    let daemon = Setup::new().start();
    let barrier = Arc::new(Barrier::new(usize::from(WRITERS)));
    let writers = (0..WRITERS).map(|n| {
        let (mut api, barrier) = (daemon.api(), Arc::clone(&barrier));
        std::thread::spawn(move || {
            let mut won = Vec::new();
            for round in 0..40 {
                barrier.wait();
                let tag = format!("If-Match: {}\r\n", api.etag());
                // all have read before any writes
                barrier.wait();
                let answer = api.tell_with(&tag, "PUT", &format!("/hostname/w{n}/"), &empty(402));
                match answer.status() {
                    200 => won.push(round),
                    _ => drop(answer.expect_error(412, "precondition_failed")),
                }
            }
            won
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut won: Vec<i32> =
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect();
    won.sort_unstable();
    assert_eq!(won, (0..40).collect::<Vec<_>>(), "each round has one winner");
}

#[test]
fn a_dry_run_changes_nothing() {
    let setup = Setup::new();
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    api.put("/hostname/a.com/", &empty(402));
    let before = state_of(&setup, &mut api);
    let all = json!({"a.com": empty(403), "b.com": empty(403)});
    for (method, path, body) in [
        ("PUT", "/hostname/", all.clone()),
        ("PUT", "/hostname/", json!({})),
        ("PATCH", "/hostname/", all),
        ("PATCH", "/hostname/", json!({"a.com": null})),
        ("PUT", "/hostname/a.com/", empty(403)),
        ("DELETE", "/hostname/a.com/", Value::Null),
        // names are not looked up for it either
        ("PUT", "/hostname/n.com/", json!(["proxy", {"backends": ["no.invalid:80"]}, false])),
    ] {
        for flag in ["1", "true"] {
            let answer = api.tell(method, &format!("{path}?dry_run={flag}"), &body);
            let answer = answer.expect_status(200);
            assert_eq!(answer.json(), json!({"ok": true, "dry_run": true}));
            assert_eq!(answer.etag(), before.1);
            assert_eq!(state_of(&setup, &mut api), before, "{method} {path}");
        }
    }
    let bad = json!({"b.com": empty(403), "c.com": ["empty", {}, false]});
    let answer = api.tell("PATCH", "/hostname/?dry_run=1", &bad);
    answer.expect_error(400, "c.com:host_kwarg_missing:code");
    let waiting = api.tell("DELETE", "/hostname/a.com/?dry_run=1&wait=drained", &Value::Null);
    assert_eq!(waiting.json(), json!({"ok": true, "dry_run": true}));
    api.tell("PUT", "/hostname/?dry_run=maybe", &json!({})).expect_error(400, "query_invalid");
    assert_eq!(state_of(&setup, &mut api), before);
    api.put("/hostname/a.com/?dry_run=0", &empty(403));
}

/// A generator that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn table_is_read_page_by_page() {
    let mut numbers = Numbers(1);
    let mut model: BTreeMap<String, Value> = BTreeMap::new();
    let ends = ["com", "org", "co.uk", "xn--p1ai"];
    while model.len() < 3000 {
        let scheme = ["", "", "", "http://", "https://"][numbers.below(5)];
        let name = format!("{scheme}h{}.{}", numbers.below(2500), ends[numbers.below(4)]);
        let rule = match numbers.below(3) {
            0 => empty(402),
            1 => json!(["proxy", {"backends": [["10.0.0.1", 80]]}, true]),
            _ => json!(["unknown", {}, true]),
        };
        model.insert(name, rule);
    }
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.put("/hostname/", &json!(model));
    for _ in 0..60 {
        let search = ["", "h1", "H2", ".ORG", "http://", "zzz"][numbers.below(6)];
        let action = ["", "proxy", "empty", "spin"][numbers.below(4)];
        let limit = [0, 1, 7, 500, 5000][numbers.below(5)];
        let mut after = match numbers.below(3) {
            0 => String::new(),
            1 => model.keys().nth(numbers.below(3000)).cloned().unwrap_or_default(),
            _ => "h5".to_owned(),
        };
        let matching = || {
            let found = model.iter().filter(|(name, rule)| {
                name.contains(&search.to_lowercase()) && (action.is_empty() || rule[0] == action)
            });
            found.collect::<Vec<_>>()
        };
        // a few pages, each from where the one before ended
        for _ in 0..3 {
            let expected = matching().into_iter().filter(|(name, _)| after < **name).take(limit);
            let expected: Vec<(&String, &Value)> = expected.collect();
            let query = format!(
                "search={}&action={action}&limit={limit}&after={}",
                encoded(search),
                encoded(&after)
            );
            let answer = api.ask("GET", &format!("/hostname/?{query}")).expect_status(200);
            let found = answer.json();
            let found: Vec<(&String, &Value)> = found.as_object().expect("rules").iter().collect();
            assert!(found == expected, "{query}:\n{found:?}\nexpected\n{expected:?}");
            let count = |name| answer.head.field(name).and_then(|text| text.parse().ok());
            assert_eq!(count("Mantrid-Matched"), Some(matching().len()), "{query}");
            assert_eq!(count("Mantrid-Rules"), Some(3000));
            answer.etag();
            let Some((last, _)) = expected.last() else { break };
            after.clone_from(last);
        }
    }
    let whole = api.ask("GET", "/hostname/");
    let names: Vec<String> = whole.json().as_object().expect("rules").keys().cloned().collect();
    assert!(names.iter().eq(model.keys()), "all, sorted");
    api.ask("GET", "/hostname/?limit=-1").expect_error(400, "query_invalid");
    api.ask("GET", "/hostname/?limit=ten").expect_error(400, "query_invalid");
    let told = api.ask("GET", "/hostname/?action=prox").expect_error(400, "query_invalid");
    assert!(told.contains("prox:") && told.contains("proxy, spin"), "{told}");
}

/// Percent-encoded, everything that is not a letter or digit.
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => (byte as char).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Whoever reads the table gets one that was in force, and the tag that belongs to it.
#[test]
fn paging_copes_with_a_table_that_changes() {
    let daemon = Setup::new().start();
    let table = |version: u16| {
        let rules = (0..2500).map(|n| (format!("h{n}.com"), empty(400 + version)));
        Value::Object(rules.collect())
    };
    let mut writer = daemon.api();
    writer.put("/hostname/", &table(0));
    let readers = (0..2).map(|_| {
        let mut api = daemon.api();
        std::thread::spawn(move || {
            let mut seen: Vec<(String, Value)> = Vec::new();
            loop {
                let answer = api.ask("GET", "/hostname/").expect_status(200);
                let (table, tag) = (answer.json(), answer.etag());
                let rules = table.as_object().expect("rules");
                let first = rules["h0.com"].clone();
                assert_eq!(rules.len(), 2500);
                assert!(rules.values().all(|rule| *rule == first), "of two versions");
                let last = first == empty(408);
                seen.push((tag, first));
                if last {
                    return seen;
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let mut tags: BTreeMap<String, Value> = BTreeMap::from([(writer.etag(), empty(400))]);
    for version in 1..=8 {
        let tag = writer.put("/hostname/", &table(version));
        tags.insert(tag, empty(400 + version));
    }
    for reader in readers {
        for (tag, rule) in reader.join().expect("a reader") {
            assert_eq!(tags.get(&tag), Some(&rule), "{tag}");
        }
    }
}

#[test]
fn head_is_get_without_a_body() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    let paths =
        ["/hostname/", "/hostname/a.com/", "/stats/", "/backends/", "/healthz", "/", "/metrics"];
    for path in paths.iter().chain(&["/nothing/here", "/hostname/?limit=x"]) {
        let full = api.ask("GET", path);
        api.wire.send(api.request("HEAD", path, "", ""));
        let head = api.wire.expect_head();
        assert_eq!(head.status(), full.status(), "{path}");
        assert_eq!(head.field("ETag"), full.head.field("ETag"), "{path}");
        assert_eq!(head.field("Content-Type"), full.head.field("Content-Type"), "{path}");
        // RFC 9110 §8.6: the length that GET would have, or none; the metrics' changes by the
        // minute
        let length = head.field("Content-Length");
        let is_right = length.is_none() || length == full.head.field("Content-Length");
        assert!(is_right || *path == "/metrics", "{path}: Content-Length {length:?}");
        assert_ne!(length, Some("0"), "{path}");
    }
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    for path in ["/nothing", "/hostnames/", "/statistics/a.com/", "/metrics/x", "/../hostname/"] {
        for method in ["GET", "PUT", "DELETE"] {
            api.ask(method, path).expect_error(404, "not_found");
        }
    }
    for (path, allowed) in [
        ("/hostname/", "GET, HEAD, PUT, PATCH"),
        ("/hostname/a.com/", "GET, HEAD, PUT, DELETE"),
        ("/stats/", "GET, HEAD"),
        ("/stats/a.com/", "GET, HEAD"),
        ("/backends/", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/events", "GET, HEAD"),
        ("/", "GET, HEAD"),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if allowed.split(", ").any(|one| one == method) {
                continue;
            }
            let answer = api.tell(method, path, &json!({"a.com": empty(403)}));
            answer.expect_error(405, "method_not_allowed");
            assert_eq!(answer.head.field("Allow"), Some(allowed), "{method} {path}");
        }
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
}

/// A slip in an argument would silently do something else: `?dryrun=1` would make the change.
#[test]
fn unknown_arguments_are_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    let rules = json!({"b.com": empty(403)});
    for (method, path) in [
        ("GET", "/hostname/?serach=a"),
        ("GET", "/hostname/a.com/?limit=1"),
        ("PUT", "/hostname/?dryrun=1"),
        ("PATCH", "/hostname/?dry-run=1"),
        ("PUT", "/hostname/?wait=drained"),
        ("DELETE", "/hostname/a.com/?dry%5Frun=1&x"),
        ("GET", "/stats/?busy=1"),
        ("GET", "/stats/a.com/?busiest=1"),
        ("GET", "/backends/?all"),
        ("GET", "/metrics?x=1"),
        ("GET", "/events?hosts=a.com"),
        ("GET", "/healthz?x"),
    ] {
        let sentence = api.tell(method, path, &rules).expect_error(400, "query_unknown");
        assert!(sentence.contains("expected") || sentence.contains("none"), "{sentence}");
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
}
