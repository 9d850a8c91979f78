//! What a body that is sent to the API may cost in memory, whatever it holds.

use serde_json::json;

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;

const MIB: u64 = 1 << 20;

/// The most memory that the daemon ever had.
fn most_bytes(daemon: &Daemon) -> u64 {
    let line = daemon.status_line("VmHWM:");
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("kB") * 1024
}

/// `item` again and again, with commas between, in so many bytes.
fn filled(item: &str, bytes: usize) -> String {
    vec![item; bytes / (item.len() + 1)].join(",")
}

/// Sends it to a fresh daemon; how many times its size that costs, at most.
fn cost(method: &str, body: &str, expect: impl FnOnce(&crate::message::Answer)) -> f64 {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    let before = most_bytes(&daemon);
    let request = api.request(method, "/hostname/", "", body);
    api.wire.wait_long();
    expect(&api.wire.exchange(request));
    let grown = most_bytes(&daemon) - before;
    eprintln!("{method} of {} MiB: {} MiB more", body.len() as u64 / MIB, grown / MIB);
    grown as f64 / body.len() as f64
}

/// Little text that would be a large tree.
#[test]
fn nonsense_costs_little_more_than_its_text() {
    const BYTES: usize = 6 << 20;
    for (rule, code) in [
        (format!("[{}]", filled("[]", BYTES)), "a.com:host_details_wrong_length"),
        (
            format!(r#"["proxy", {{"backends": [{}]}}, true]"#, filled("{}", BYTES)),
            "a.com:host_kwarg_invalid:backends",
        ),
        (
            format!(r#"["proxy", {{"backends": [{}]}}, true]"#, filled("\"b:1\"", BYTES)),
            "a.com:host_kwarg_invalid:backends",
        ),
        (
            format!(r#"["empty", {{"code": 402, {}}}, true]"#, filled("\"x\":{}", BYTES)),
            "a.com:host_kwarg_unknown:x",
        ),
        (
            "[".repeat(100) + &filled("0", BYTES) + &"]".repeat(100),
            "a.com:host_details_wrong_length",
        ),
        (
            format!(r#"["static", {{"type": "{}"}}, true]"#, "x".repeat(BYTES)),
            "a.com:host_kwarg_invalid:type",
        ),
    ] {
        let body = format!("{{\"a.com\": {rule}}}");
        let times = cost("PUT", &body, |answer| drop(answer.expect_error(400, code)));
        assert!(times < 2.5, "{code}: {times:.1} times its size");
    }
    // a name is repeated in the answer and the log, but not all of it
    let name = "x".repeat(BYTES);
    let body = format!("{{\"{name}\": null}}");
    let times = cost("PATCH", &body, |answer| {
        assert_eq!(answer.status(), 400);
        assert!(answer.body.len() < 20_000, "{} bytes of error", answer.body.len());
    });
    assert!(times < 3.5, "a long name: {times:.1} times its size");
}

/// A table is a few times its text while it is put in the place of another, deletions too.
#[test]
fn a_large_table_costs_a_few_times_its_text() {
    let rules: Vec<String> =
        (0..60_000).map(|n| format!(r#""{n:x}.com":["empty",{{"code":402}},false]"#)).collect();
    let times = cost("PUT", &format!("{{{}}}", rules.join(",")), |answer| {
        assert_eq!(answer.status(), 200, "{}", answer.text());
    });
    assert!(times < 14.0, "rules: {times:.1} times their text");
    let nulls: Vec<String> = (0..100_000).map(|n| format!("\"{n:x}\":null")).collect();
    let times = cost("PATCH", &format!("{{{}}}", nulls.join(",")), |answer| {
        assert_eq!(answer.status(), 200, "{}", answer.text());
    });
    assert!(times < 25.0, "deletions: {times:.1} times their text");
}

/// What is too much of it is dropped, and the rule is refused however good the rest.
#[test]
fn a_rule_that_is_too_long_is_refused() {
    let daemon = Setup::new().start();
    let mut api: Api = daemon.api();
    let long = format!(r#"["empty", {{"code": 402}}, true{}]"#, ", true".repeat(20_000));
    let rule = api.request("PUT", "/hostname/a.com/", "", &long);
    api.wire.exchange(rule).expect_error(400, "a.com:host_details_wrong_length");
    // arguments of one name, of which the last counts
    let same = vec![r#""code": 402"#; 20_000].join(",");
    let same = format!(r#"["empty", {{{same}}}, true]"#);
    let rule = api.request("PUT", "/hostname/a.com/", "", &same);
    api.wire.exchange(rule).expect_error(400, "a.com:host_details_too_long");
    // as many as a rule may have
    let backends: Vec<_> = (0..1024).map(|n| json!({"__backend__": ["10.0.0.1", 1 + n]})).collect();
    let proxy = json!(["proxy", {"backends": backends, "weights": vec![2; 1024]}, true]);
    api.put("/hostname/a.com/", &json!(["spin", {"then": proxy}, true]));
    assert_eq!(api.get("/hostname/").as_object().map(serde_json::Map::len), Some(1));
}
