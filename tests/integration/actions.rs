//! The answers that are our own: empty, static, redirect, unknown, no_hosts, alias, and spin's
//! page.

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{Answer, Framing, Head, get};

fn with(host: &str, rule: Value) -> Daemon {
    Setup::new().rule(host, rule).start()
}

/// Asks once by GET and once by HEAD; the heads must be the same, and only GET has a body.
#[track_caller]
fn ask(daemon: &Daemon, host: &str) -> Answer {
    let mut client = daemon.connect();
    let answer = client.exchange(get(host, "/"));
    client.send(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let head = client.expect_head();
    // A second may have begun between the two.
    let fields = |head: &Head| -> Vec<_> {
        head.fields.iter().filter(|(name, _)| name != "Date").cloned().collect()
    };
    let parts = |head: &Head| (head.start.clone(), fields(head));
    assert_eq!(parts(&answer.head), parts(&head), "the heads to GET and HEAD for {host}");
    assert_eq!(answer.head.fields.len(), head.fields.len(), "a Date in one of the two");
    let again = client.exchange(get(host, "/"));
    assert_eq!(answer.body, again.body, "nothing of a body came after the head to HEAD");
    answer
}

#[test]
fn empty_replies_with_its_code_alone() {
    for (code, line, length) in [
        (json!(500), "HTTP/1.1 500 Internal Server Error", Some("0")),
        (json!("403"), "HTTP/1.1 403 Forbidden", Some("0")),
        (json!(402), "HTTP/1.1 402 Payment Required", Some("0")),
        (json!(200), "HTTP/1.1 200 OK", Some("0")),
        (json!(204), "HTTP/1.1 204 No Content", None),
        (json!(429), "HTTP/1.1 429 Too Many Requests", Some("0")),
    ] {
        let daemon = with("a.com", json!(["empty", { "code": code }, true]));
        let answer = ask(&daemon, "a.com");
        assert_eq!(answer.head.start, line);
        assert_eq!(answer.head.field("Content-Length"), length, "{line}");
        assert!(!answer.head.says_close(), "{line}");
    }
    let daemon = with("a.com", json!(["empty", { "code": 599 }, true]));
    assert_eq!(ask(&daemon, "a.com").status(), 599);
}

#[test]
fn static_replies_with_the_built_in_pages() {
    let daemon = Setup::new()
        .rule("static.com", json!(["static", { "type": "test" }, false]))
        .rule("unknown.com", json!(["unknown", {}, false]))
        .rule("no-hosts.com", json!(["no_hosts", {}, false]))
        .start();
    for (host, status) in
        [("static.com", 200), ("unknown.com", 503), ("no-hosts.com", 503), ("no-rule.com", 503)]
    {
        let answer = ask(&daemon, host);
        assert_eq!(answer.status(), status, "{host}");
        assert_eq!(answer.head.framing(), Framing::Length(answer.body.len()), "{host}");
        assert!(answer.text().contains("<h1>"), "a page for people: {}", answer.text());
        let kind = answer.head.field("Content-Type").expect("a Content-Type");
        assert!(kind.starts_with("text/html"), "{kind}");
    }
    let body = |host| ask(&daemon, host).text();
    assert_eq!(body("unknown.com"), body("no-rule.com"), "the action and no match are one page");
    assert_ne!(body("unknown.com"), body("no-hosts.com"));
    let empty = Setup::new().start();
    assert_eq!(
        ask(&empty, "any.com").text(),
        body("no-hosts.com"),
        "the action and no rules at all"
    );
}

const PAGE: &str = "HTTP/1.0 418 I'm a teapot\r\nContent-Type: text/plain\r\nContent-Length: 12345\r\n\
     Connection: close\r\nX-Page: mine\r\n\r\nshort and stout\n";

#[test]
fn static_replies_with_the_pages_of_the_operator() {
    let daemon = Setup::new()
        .rule("own.com", json!(["static", { "type": "teapot" }, false]))
        .rule("lf.com", json!(["static", { "type": "lines" }, false]))
        .page("teapot.http", PAGE)
        .page(
            "unknown.http",
            &PAGE.replace("418 I'm a teapot", "404 Not Found").replace("short", "sought"),
        )
        .page("lines.http", &PAGE.replace("\r\n", "\n"))
        .start();
    for (host, line, body) in [
        ("own.com", "HTTP/1.1 418 I'm a teapot", "short and stout\n"),
        ("lf.com", "HTTP/1.1 418 I'm a teapot", "short and stout\n"),
        ("no-rule.com", "HTTP/1.1 404 Not Found", "sought and stout\n"),
    ] {
        let answer = ask(&daemon, host);
        assert_eq!((answer.head.start.as_str(), answer.text().as_str()), (line, body), "{host}");
        assert_eq!(answer.head.field("X-Page"), Some("mine"), "{host}");
        assert!(!answer.head.says_close(), "length and connection are ours: {:#?}", answer.head);
    }
}

#[test]
fn pages_are_sent_to_http_1_0_clients() {
    let daemon = with("a.com", json!(["static", { "type": "test" }, false]));
    let mut client = daemon.connect();
    let answer = client.exchange("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    assert_eq!(answer.status(), 200);
    client.expect_close();
}

/// Where a redirect leads, and that it is an answer without a body.
#[track_caller]
fn check_redirect(to: &str, target: &str, https: bool, expected: &str) {
    let rule = json!(["redirect", { "redirect_to": to }, true]);
    let daemon = Setup::new().internal().rule("a.com", rule).start();
    let scheme = if https { "X-Forwarded-Protocol: SSL\r\n" } else { "" };
    let mut client = daemon.connect_internal();
    let answer = client.exchange(format!("GET {target} HTTP/1.1\r\nHost: a.com\r\n{scheme}\r\n"));
    let found = answer.head.field("Location");
    assert_eq!(found, Some(expected), "redirect_to {to}, target {target}");
    assert_eq!(answer.head.start, "HTTP/1.1 302 Found");
    assert_eq!(answer.head.field("Content-Length"), Some("0"));
}

#[test]
fn redirect_joins_target_and_path() {
    check_redirect("http://tigers.net", "/", false, "http://tigers.net/");
    check_redirect("http://tigers.net", "/bears/", false, "http://tigers.net/bears/");
    check_redirect(
        "https://meme-overload.com",
        "/bears2/",
        false,
        "https://meme-overload.com/bears2/",
    );
    check_redirect("example.net", "/test/", false, "http://example.net/test/");
    check_redirect("example.net", "/test/", true, "https://example.net/test/");
    check_redirect("http://example.net", "/test/", true, "http://example.net/test/");
    check_redirect("example.net/x/", "/a/b?c=d&e=/f", false, "http://example.net/x/a/b?c=d&e=/f");
    check_redirect("example.net/x", "/a", false, "http://example.net/x/a");
    check_redirect("example.net", "//evil.com/x", false, "http://example.net/evil.com/x");
    check_redirect("example.net", "http://a.com", false, "http://example.net/");
    check_redirect("example.net", "http://a.com/x?y", false, "http://example.net/x?y");
    check_redirect(
        "example.net",
        "/?q=a%0d%0aX:%20y",
        false,
        "http://example.net/?q=a%0d%0aX:%20y",
    );
}

#[test]
fn redirect_has_the_code_of_its_rule() {
    for (code, line) in [
        (json!(301), "HTTP/1.1 301 Moved Permanently"),
        (json!("307"), "HTTP/1.1 307 Temporary Redirect"),
        (json!(308), "HTTP/1.1 308 Permanent Redirect"),
    ] {
        let rule = json!(["redirect", { "redirect_to": "example.net", "code": code }, false]);
        let daemon = with("a.com", rule);
        let answer = ask(&daemon, "a.com");
        assert_eq!(answer.head.start, line);
        assert_eq!(answer.head.field("Location"), Some("http://example.net/"));
    }
}

#[test]
fn alias_does_as_the_rule_that_it_leads_to() {
    let backend = Backend::new().serve_text("the real one");
    let daemon = Setup::new()
        .rule("real.com", backend.rule())
        .rule("other.com", json!(["alias", { "hostname": "real.com" }, true]))
        .rule("further.com", json!(["alias", { "hostname": "other.com" }, false]))
        .rule("shut.com", json!(["empty", { "code": 403 }, false]))
        .rule("closed.com", json!(["alias", { "hostname": "shut.com" }, false]))
        .start();
    for host in ["real.com", "other.com", "sub.other.com", "further.com"] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).text(), "the real one", "{host}");
    }
    assert_eq!(ask(&daemon, "closed.com").status(), 403);
    assert_eq!(
        ask(&daemon, "sub.closed.com").status(),
        503,
        "an alias has a subdomain flag of its own"
    );
    let seen: Vec<String> = backend
        .take_heads()
        .iter()
        .filter_map(|head| head.field("Host").map(str::to_owned))
        .collect();
    assert_eq!(seen, ["real.com", "other.com", "sub.other.com", "further.com"], "Host stays");
}

/// Until requests can be held, and after that when they were held too long: the page.
#[test]
fn spin_ends_with_the_timeout_page() {
    let daemon = with("a.com", json!(["spin", { "timeout": "1", "check_interval": 1 }, false]));
    let answer = daemon.connect().exchange(get("a.com", "/"));
    assert_eq!(answer.status(), 503);
    let retry: u32 =
        answer.head.field("Retry-After").and_then(|text| text.parse().ok()).expect("a number");
    assert!(retry > 0 && answer.text().contains("<h1>"), "{}", answer.text());
}

#[test]
fn a_short_body_does_not_disturb_our_own_answer() {
    let daemon = Setup::new()
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .rule("b.com", json!(["redirect", { "redirect_to": "a.com" }, false]))
        .start();
    let mut client = daemon.connect();
    for (host, status) in [("a.com", 403), ("b.com", 302), ("c.com", 503)] {
        let body = "GET /body HTTP/1.1\r\nHost: a.com\r\n\r\n";
        let length = body.len();
        client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"));
        client.send(body);
        let answer = client.expect_answer();
        assert_eq!(answer.status(), status, "{host}");
        if answer.head.says_close() {
            client.expect_end();
            client = daemon.connect();
        } else {
            client.expect_nothing_more();
        }
    }
}
