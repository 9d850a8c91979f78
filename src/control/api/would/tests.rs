//! Tests of the predicted outcome of a request in each situation, as a sentence.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::table::{Names, Rule, edit};

static PAGES: LazyLock<Pages> = LazyLock::new(Pages::builtin);

fn view(address: &str, health: &'static str) -> BackendView {
    let is_passed_over = matches!(health, "down" | "ejected");
    BackendView {
        target: address.to_owned(),
        address: Some(address.to_owned()),
        is_backup: false,
        weight: 1,
        health,
        reason: is_passed_over.then(|| "answered 500".to_owned()),
        is_own: false,
        is_passed_over,
        open_requests: 0,
    }
}

fn table(rule: Value) -> Snapshot {
    let rule = Rule::from_json("a.com", &rule, &mut Names::default()).expect("a rule");
    edit(&Snapshot::default(), vec![("a.com".to_owned(), Some(rule))]).expect("a table")
}

#[track_caller]
fn expect<'a>(rule: Value, change: impl FnOnce(&mut Situation<'a>), outcome: &str, sentence: &str) {
    let mut now = Situation {
        host: "a.com",
        scheme: Scheme::Http,
        pages: &PAGES,
        unknown_status: 503,
        connect: Duration::from_secs(5),
        source: None,
        body: None,
        line: None,
        spent: None,
        full: None,
        has_line: false,
        connections_max: None,
        held: 0,
        backends: &[],
    };
    change(&mut now);
    let table = table(rule);
    let found = would(&table, &table.lookup(now.host, now.scheme), &now);
    assert_eq!((found.outcome, &*found.sentence), (outcome, sentence));
}

#[test]
fn rules_that_reply_say_what() {
    for (rule, sentence) in [
        (json!(["empty", {"code": 403}, false]), "gets the status 403 without a body"),
        (
            json!(["redirect", {"redirect_to": "b.com", "code": 301}, false]),
            "gets a redirect (301) to b.com",
        ),
        (json!(["static", {"type": "test"}, false]), "gets the page test (200)"),
        (json!(["static", {"type": "gone"}, false]), "gets the status 500: there is no page gone"),
        (json!(["unknown", {}, false]), "gets the page unknown (503): its rule is unknown"),
    ] {
        expect(rule, |_| (), "replied", sentence);
    }
    let rule = json!(["empty", {"code": 403}, false]);
    expect(
        rule.clone(),
        |now| now.host = "x.b.com",
        "replied",
        "gets the page unknown (503): no rule is for x.b.com, nor for a parent of it with \
         match_subdomains",
    );
    expect(rule, |now| now.scheme = Scheme::Tcp, "closed", "closed: its rule is empty");
}

#[test]
fn requests_that_wait_say_for_how_long() {
    let spin = json!(["spin", {"timeout": 30, "max_held": 2}, false]);
    let held = "held for up to 30 s, until it falls under another rule";
    expect(spin.clone(), |now| now.held = 1, "held", held);
    let full = "gets the page timeout (503): 2 requests are held, and max_held is 2";
    let is_full = |now: &mut Situation<'static>| now.full = Some(Full::Rule { held: 2, most: 2 });
    expect(spin, is_full, "replied", full);
    let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
    let behind = |now: &mut Situation<'static>| {
        (now.line, now.held) = (Some(Duration::from_secs(7)), 1);
    };
    let sentence = "held for up to 7 s, behind others: 1 request is held";
    expect(rule, behind, "held", sentence);
    let rule = json!(["proxy", {"backends": "10.0.0.1:1", "hold": 9}, false]);
    let down = [view("10.0.0.1:1", "down")];
    let sentence = "held for up to 9 s, as no backend is usable: 10.0.0.1:1 is down (answered 500)";
    expect(rule, |now| now.backends = &down, "held", sentence);
}

#[test]
fn client_that_is_kept_out_is_denied() {
    let rule = || json!(["empty", {"code": 402, "deny": "10.0.0.0/8"}, false]);
    let from = |text: &str| text.parse::<IpAddr>().ok();
    let told = "gets the status 403: allow and deny of its rule keep 10.1.2.3 out";
    expect(rule(), |now| now.source = from("10.1.2.3"), "denied", told);
    let told = "gets the status 402 without a body";
    expect(rule(), |now| now.source = from("11.1.2.3"), "replied", told);
    let told = format!("{told}; allow and deny of its rule keep some clients out");
    expect(rule(), |_| (), "replied", &told);
}

#[test]
fn rate_of_each_client_is_told() {
    let arguments = json!({"backends": "10.0.0.1:1", "max_requests_per_second_per_source": 3});
    let one = [view("10.0.0.1:1", "up")];
    let told = "passed on to 10.0.0.1:1; max_requests_per_second_per_source = 3 limits each \
                client";
    expect(json!(["proxy", arguments, false]), |now| now.backends = &one, "proxied", told);
}

#[test]
fn rate_that_is_spent_limits() {
    let arguments = json!({"backends": "10.0.0.1:1", "max_requests_per_second": 3});
    let rate = NonZeroU32::new(3).expect("not zero");
    let rule = || json!(["proxy", arguments, false]);
    let spent = |rate| Some((rate, Duration::from_millis(250)));
    let sentence = "gets the status 429: max_requests_per_second = 3 is spent for 250 ms";
    expect(rule(), |now| now.spent = spent(SpentRate::Rule(rate)), "limited", sentence);
    let of_source = |now: &mut Situation<'static>| {
        now.spent = spent(SpentRate::Source(rate));
        now.source = Some([192, 0, 2, 1].into());
    };
    let sentence = "gets the status 429: max_requests_per_second_per_source = 3 is spent by \
                    192.0.2.1 for 250 ms";
    expect(rule(), of_source, "limited", sentence);
}

#[test]
fn backends_that_get_the_request_are_named_and_the_others_explained() {
    let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
    let one = [view("10.0.0.1:1", "up")];
    expect(rule.clone(), |now| now.backends = &one, "proxied", "passed on to 10.0.0.1:1");
    let all = [
        view("10.0.0.1:1", "up"),
        view("10.0.0.2:1", "unknown"),
        view("10.0.0.3:1", "ejected"),
        BackendView { weight: 0, ..view("10.0.0.4:1", "up") },
    ];
    let sentence = "passed on to one of 10.0.0.1:1, 10.0.0.2:1 (random); 10.0.0.3:1 is ejected \
                    (answered 500), 10.0.0.4:1 is drained (weight 0)";
    expect(rule, |now| now.backends = &all, "proxied", sentence);
}

#[test]
fn algorithm_is_told_as_the_rule_has_it() {
    let two = [view("10.0.0.1:1", "up"), view("10.0.0.2:1", "up")];
    for algorithm in ["random", "least_connections", "source", "cookie:sid", "field:X-User"] {
        let arguments = json!({"backends": "10.0.0.1:1,10.0.0.2:1", "algorithm": algorithm});
        let sentence = format!("passed on to one of 10.0.0.1:1, 10.0.0.2:1 ({algorithm})");
        let rule = json!(["proxy", arguments, false]);
        expect(rule, |now| now.backends = &two, "proxied", &sentence);
    }
}

#[test]
fn where_no_backend_is_well_they_are_tried_all_the_same() {
    let rule = || json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
    let down = [view("10.0.0.1:1", "down")];
    let sentence = "passed on to 10.0.0.1:1 for want of another: 10.0.0.1:1 is down (answered 500)";
    expect(rule(), |now| now.backends = &down, "proxied", sentence);
    let own = [BackendView { is_own: true, ..view("10.0.0.1:1", "up") }];
    let sentence =
        "gets the page 502 (502): no backend is usable: 10.0.0.1:1 is this daemon itself";
    expect(rule(), |now| now.backends = &own, "failed", sentence);
    let lost = [BackendView { address: None, ..view("app.internal:1", "unknown") }];
    let sentence = "gets the page 502 (502): no backend is usable: app.internal:1 has no address";
    expect(rule(), |now| now.backends = &lost, "failed", sentence);
    let closed = "closed: no backend is usable: app.internal:1 has no address";
    expect(rule(), |now| (now.backends, now.scheme) = (&lost, Scheme::Tls), "closed", closed);
}

#[test]
fn full_backends_are_waited_for() {
    let arguments = json!({"backends": "10.0.0.1:1", "max_connections": 4});
    let full = [BackendView { open_requests: 4, ..view("10.0.0.1:1", "up") }];
    let sentence = "waits up to 5 s in line (max_connections = 4) at 10.0.0.1:1";
    // In a fleet, this node has only its share of `max_connections`.
    for share in [4, 2] {
        expect(
            json!(["proxy", arguments, false]),
            |now| (now.backends, now.connections_max) = (&full, Some(share)),
            "queued",
            sentence,
        );
    }
}

#[test]
fn of_many_a_few_are_named() {
    let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
    let all: Vec<BackendView> =
        (1..=limits::WOULD_NAMED_MAX + 2).map(|n| view(&format!("10.0.0.{n}:1"), "up")).collect();
    let table = table(rule);
    let now = Situation {
        host: "a.com",
        scheme: Scheme::Http,
        pages: &PAGES,
        unknown_status: 503,
        connect: Duration::ZERO,
        source: None,
        body: None,
        line: None,
        spent: None,
        full: None,
        has_line: false,
        connections_max: None,
        held: 0,
        backends: &all,
    };
    let found = would(&table, &table.lookup("a.com", Scheme::Http), &now);
    assert!(found.sentence.ends_with(" and 2 more (random)"), "{}", found.sentence);
}
