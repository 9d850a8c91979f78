//! Names in management requests: however they are written they mean one rule, and what can't be a
//! name is refused and named.

use serde_json::{Value, json};

use crate::api::{empty, encoded};
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::message::get;

#[track_caller]
fn code_of(daemon: &Daemon, host: &str) -> u16 {
    daemon.connect().exchange(get(host, "/")).status()
}

/// Sets a rule under each way to write its name, reads it under each other, and deletes it.
#[track_caller]
fn all_are(api: &mut Api, canonical: &str, written: &[&str]) {
    let expected = |code| json!({ canonical: empty(code) });
    for (code, name) in (400..).zip(written) {
        api.put(&format!("/hostname/{name}/"), &empty(code));
        assert_eq!(api.get("/hostname/"), expected(code), "{name}");
        for other in written {
            assert_eq!(api.get(&format!("/hostname/{other}")), empty(code), "{name} as {other}");
            assert_eq!(api.get(&format!("/stats/{other}/")), json!({}));
        }
    }
    for name in written {
        api.patch(&json!({canonical: empty(402)}));
        api.delete(name);
        assert_eq!(api.get("/hostname/"), json!({}), "{name}");
    }
}

#[test]
fn many_ways_to_write_one_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    all_are(&mut api, "a.com", &["a.com", "A.Com", "a.com.", "%61.com", "a%2Ecom", "A%2eCOM%2E"]);
    all_are(
        &mut api,
        "http://a.com",
        &[
            "http%3A%2F%2Fa.com",
            "http://a.com",
            "HTTP://A.com",
            "http:%2f/a.com",
            "http%3a%2f%2fA.COM.",
        ],
    );
    all_are(&mut api, "https://a.com", &["https%3A%2F%2Fa.com", "https://a.com"]);
    let idna = "xn--bcher-kva.example";
    all_are(
        &mut api,
        idna,
        &[idna, "b%C3%BCcher.example", "B%C3%9CCHER.example", "bu%CC%88cher.example"],
    );
    all_are(&mut api, "[::1]", &["%5B::1%5D", "%5B0:0::1%5D", "%5B%3A%3A1%5D"]);
    all_are(&mut api, "_dmarc.-x-.com", &["_dmarc.-x-.com"]);
    all_are(&mut api, "unknown", &["unknown"]);
    let long = format!("{}.com", "x".repeat(249));
    assert_eq!(long.len(), 253);
    all_are(&mut api, &long, &[&long, &format!("{long}."), &long.to_uppercase()]);
    all_are(&mut api, &format!("https://{long}"), &[&encoded(&format!("https://{long}"))]);
}

#[test]
fn a_request_meets_its_rule_however_it_was_named() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.patch(&json!({
        "BÜCHER.example.": empty(402),
        "HTTP://A.com": empty(403),
        "Upper.COM": ["empty", {"code": 404}, true],
    }));
    let all = api.get("/hostname/");
    let names: Vec<&String> = all.as_object().expect("rules").keys().collect();
    assert_eq!(names, ["http://a.com", "upper.com", "xn--bcher-kva.example"]);
    assert_eq!(code_of(&daemon, "xn--bcher-kva.example"), 402);
    assert_eq!(code_of(&daemon, "XN--BCHER-KVA.example.:80"), 402);
    assert_eq!(code_of(&daemon, "a.com"), 403);
    assert_eq!(code_of(&daemon, "x.y.upper.com"), 404);
    assert_eq!(code_of(&daemon, "upper.com.org"), 503);
    // an alias by another writing of the name
    api.put("/hostname/alias.com/", &json!(["alias", {"hostname": "Bücher.Example"}, false]));
    assert_eq!(code_of(&daemon, "alias.com"), 402);
}

/// Of two ways to write one name in one body the last counts, as with equal keys.
#[test]
fn last_of_two_spellings_counts() {
    let setup = Setup::new();
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    for (method, body, expected) in [
        (
            "PUT",
            r#"{"a.com": ["empty", {"code": 402}, false], "a.com": ["empty", {"code": 403}, false]}"#,
            403,
        ),
        (
            "PATCH",
            r#"{"a.com": ["empty", {"code": 404}, false], "A.com.": ["empty", {"code": 405}, false]}"#,
            405,
        ),
        (
            "PUT",
            r#"{"A.com": ["empty", {"code": 406}, false], "a.com": ["empty", {"code": 407}, false]}"#,
            407,
        ),
        ("PATCH", r#"{"a.com": null, "A.COM": ["empty", {"code": 408}, false]}"#, 408),
    ] {
        let request = api.request(method, "/hostname/", "", body);
        api.wire.exchange(request).expect_made();
        assert_eq!(api.get("/hostname/"), json!({"a.com": empty(expected)}));
        // and the journal means the same
        daemon.kill();
        daemon = setup.clone().start();
        api = daemon.api();
        assert_eq!(api.get("/hostname/"), json!({"a.com": empty(expected)}), "after a restart");
    }
    let request = api.request(
        "PATCH",
        "/hostname/",
        "",
        r#"{"A.com": ["unknown", {}, true], "a.com": null}"#,
    );
    api.wire.exchange(request).expect_made();
    assert_eq!(api.get("/hostname/"), json!({}));
}

#[test]
fn text_that_can_t_be_a_name_is_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    let long = format!("{}.com", "x".repeat(250));
    for name in [
        "a..com",
        ".com",
        "..",
        " ",
        "a b.com",
        "*.a.com",
        "a.com:80",
        "ftp://a.com",
        "http://",
        "http://http://a.com",
        "a.com/b",
        "a/",
        "[::1",
        "[nonsense]",
        "\u{0}",
        "a\tb",
        "a\r\nX: y",
        "a\u{7f}",
        "<script>",
        "xn--\u{fc}",
        "a.com..",
        "\u{202e}moc.a",
        &long,
    ] {
        let path = format!("/hostname/{}/", encoded(name));
        let code = format!("{name}:hostname_invalid");
        for method in ["GET", "PUT", "DELETE"] {
            api.tell(method, &path, &empty(403)).expect_error(400, &code);
        }
        api.ask("GET", &format!("/stats/{}/", encoded(name))).expect_error(400, &code);
        for method in ["PUT", "PATCH"] {
            api.tell(method, "/hostname/", &json!({name: empty(403)})).expect_error(400, &code);
        }
        api.ask("GET", &format!("/events?host={}", encoded(name))).expect_error(400, &code);
    }
    api.tell("PUT", "/hostname/", &json!({"": empty(403)})).expect_error(400, ":hostname_invalid");
    for path in ["/hostname/%ff/", "/hostname/%C3/", "/stats/%ff"] {
        api.tell("GET", path, &Value::Null).expect_error(400, "hostname_invalid");
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
}

/// What a browser or a log viewer may show comes back as data, never as bytes of a head.
#[test]
fn an_error_repeats_a_name_safely() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let name = "a\r\nSet-Cookie: x=y\r\n\r\n<script>";
    let answer = api.ask("GET", &format!("/hostname/{}/", encoded(name)));
    answer.expect_error(400, &format!("{name}:hostname_invalid"));
    assert_eq!(answer.head.field("Set-Cookie"), None);
    assert_eq!(answer.head.field("X-Content-Type-Options"), Some("nosniff"));
    // the log has one line for it, and no control characters
    let huge = "x".repeat(5000);
    let answer = api.ask("DELETE", &format!("/hostname/{huge}/"));
    assert_eq!(answer.status(), 400);
    assert!(answer.body.len() < 12_000, "{} bytes of error", answer.body.len());
}
