//! Which rule a request gets: host normalised, exact name first, then parents that allow
//! subdomains, the scheme's own rule before the plain one. Rules are told apart by the status of
//! `empty`.

use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};

fn empty(code: u16, match_subdomains: bool) -> Value {
    json!(["empty", { "code": code }, match_subdomains])
}

fn table() -> Setup {
    Setup::new()
        .internal()
        .rule("localhost", empty(410, false))
        .rule("local.ep.io", empty(411, true))
        .rule("http://ep.io", empty(412, true))
        .rule("ep.io", empty(413, true))
        .rule("only.tls", empty(421, false))
        .rule("https://only.tls", empty(422, false))
        .rule("deep.passed.over.net", empty(423, true))
        .rule("over.net", empty(424, false))
        .rule("net", empty(425, true))
        .rule("https://x.scheme.org", empty(426, false))
        .rule("x.scheme.org", empty(427, false))
        .rule("scheme.org", empty(428, true))
        .rule("under_score.com", empty(431, false))
        .rule("bücher.example", empty(432, true))
        .rule("MixedCase.com", empty(433, false))
        .rule("-new.example.com", empty(434, false))
        .rule("127.0.0.1", empty(435, false))
        .rule("[::1]", empty(436, false))
}

/// Sends one request by this scheme and compares the status.
#[track_caller]
fn check(daemon: &Daemon, scheme: &str, host: &str, expected: u16) {
    let mut client = daemon.connect_internal();
    let proto = format!("X-Forwarded-Proto: {scheme}\r\n");
    let answer = client.exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{proto}\r\n"));
    let found = answer.status();
    assert!(found == expected, "{scheme}://{host}: expected {expected}, found {found}");
}

#[test]
fn hosts_resolve_as_in_the_original_table() {
    let daemon = table().start();
    check(&daemon, "http", "localhost", 410);
    check(&daemon, "http", "local.ep.io", 411);
    check(&daemon, "http", "ep.io", 412);
    check(&daemon, "https", "ep.io", 413);
    check(&daemon, "http", "subdomain.localhost", 503);
    check(&daemon, "http", "subdomain.local.ep.io", 411);
    check(&daemon, "http", "subdomain.ep.io", 412);
    check(&daemon, "https", "subdomain.ep.io", 413);
    check(&daemon, "http", "multi.level.subdomain.local.ep.io", 411);
    check(&daemon, "http", "i-love-bees.com", 503);
}

#[test]
fn a_rule_without_subdomains_is_passed_over() {
    let daemon = table().start();
    check(&daemon, "http", "over.net", 424);
    check(&daemon, "http", "x.over.net", 425);
    check(&daemon, "http", "passed.over.net", 425);
    check(&daemon, "http", "deep.passed.over.net", 423);
    check(&daemon, "http", "very.deep.passed.over.net", 423);
    check(&daemon, "http", "net", 425);
}

#[test]
fn the_rule_of_the_scheme_wins_at_each_step() {
    let daemon = table().start();
    check(&daemon, "http", "only.tls", 421);
    check(&daemon, "https", "only.tls", 422);
    check(&daemon, "http", "x.scheme.org", 427);
    check(&daemon, "https", "x.scheme.org", 426);
    // neither rule of x.scheme.org allows subdomains: the parent's plain rule serves both
    check(&daemon, "http", "y.x.scheme.org", 428);
    check(&daemon, "https", "y.x.scheme.org", 428);
}

#[test]
fn hosts_are_normalised() {
    let daemon = table().start();
    for host in ["LOCALHOST", "localhost:80", "localhost:", "LocalHost.", "localhost.:8080"] {
        check(&daemon, "http", host, 410);
    }
    check(&daemon, "http", "\tlocalhost \t", 410);
    check(&daemon, "http", "under_score.com", 431);
    check(&daemon, "http", "xn--bcher-kva.example", 432);
    check(&daemon, "http", "shop.XN--BCHER-KVA.example", 432);
    check(&daemon, "http", "mixedcase.com", 433);
    check(&daemon, "http", "MIXEDCASE.COM", 433);
    check(&daemon, "http", "-new.example.com", 434);
    check(&daemon, "http", "127.0.0.1:8080", 435);
    check(&daemon, "http", "[::1]:8080", 436);
}

#[test]
fn a_long_name_is_fine_and_a_longer_one_is_refused() {
    let daemon = table().start();
    let label = "a".repeat(49);
    let long = format!("{label}.{label}.{label}.{label}.{label}.net");
    assert_eq!(long.len(), 253);
    check(&daemon, "http", &long, 425);
    check(&daemon, "http", &format!("{long}."), 425);
    check(&daemon, "http", &format!("{long}.:80"), 425);
    check(&daemon, "http", &format!("a{long}"), 400);
}

#[test]
fn the_scheme_is_believed_only_behind_a_terminator() {
    let daemon = table().start();
    for (field, internal, public) in [
        ("X-Forwarded-Proto: https", 422, 421),
        ("X-Forwarded-Protocol: https", 422, 421),
        ("X-Forwarded-Protocol: SSL", 422, 421),
        ("X-Forwarded-Proto: http", 421, 421),
        ("X-Other: https", 421, 421),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: only.tls\r\n{field}\r\n\r\n");
        let inside = daemon.connect_internal().exchange(&request).status();
        let outside = daemon.connect().exchange(&request).status();
        assert_eq!((internal, public), (inside, outside), "{field} on bind_internal and on bind");
    }
}

#[test]
fn missing_host_is_unknown_in_http_1_0_and_refused_in_1_1() {
    let daemon = table().start();
    assert_eq!(daemon.connect().exchange("GET / HTTP/1.0\r\n\r\n").status(), 503);
    assert_eq!(daemon.connect().exchange("GET / HTTP/1.1\r\n\r\n").status(), 400);
    assert_eq!(daemon.connect().exchange("GET / HTTP/1.0\r\nHost: ep.io\r\n\r\n").status(), 412);
}

#[test]
fn an_absolute_target_names_the_host() {
    let daemon = table().start();
    for (target, expected) in [
        ("http://localhost/", 410),
        ("http://LOCALHOST:8080/x", 410),
        ("http://ep.io?x", 412),
        ("HTTP://over.net", 424),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: i-love-bees.com\r\n\r\n");
        assert_eq!(daemon.connect().exchange(request).status(), expected, "{target}");
    }
}

#[test]
fn every_shard_has_the_table() {
    let daemon = table().set("shards", 2).start();
    for _ in 0..20 {
        check(&daemon, "http", "x.over.net", 425);
    }
}

#[test]
fn table_without_rules_has_a_page_of_its_own() {
    let daemon = Setup::new().start();
    let answer = daemon.connect().exchange("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert_eq!(answer.status(), 503);
    let missing = Setup::new().rule("b.com", empty(410, false)).start();
    let other = missing.connect().exchange("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert_eq!(other.status(), 503);
    assert_ne!(answer.text(), other.text(), "no rules and no match have pages of their own");
}
