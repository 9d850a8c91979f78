//! What the tests of the original Mantrid said, as far as it can be seen from outside, and the
//! habits of its client on the wire. Where we differ on purpose, the test says so.

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::message::{Answer, get};
use crate::script::Connection;

/// As httplib2 under Python 2 sends it: a JSON body with every request, and no Content-Type.
fn as_the_client(method: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:8042\r\nContent-Length: {}\r\n\
         accept-encoding: gzip, deflate\r\nuser-agent: Python-httplib2/0.7.2 (gzip)\r\n\r\n{body}",
        body.len()
    )
}

/// The original's `MantridClient`.
struct Client(Connection);

impl Client {
    fn of(daemon: &Daemon) -> Client {
        Client(Connection::client(daemon.api_address()))
    }

    fn request(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        self.0.exchange(as_the_client(method, path, body))
    }

    /// Takes 200 and JSON for success, and nothing else.
    #[track_caller]
    fn succeed(&mut self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, path, body).expect_status(200).json()
    }

    #[track_caller]
    fn get_all(&mut self) -> Value {
        self.succeed("GET", "/hostname/", &Value::Null)
    }

    #[track_caller]
    fn set_all(&mut self, mapping: &Value) {
        assert_eq!(self.succeed("PUT", "/hostname/", mapping), json!({"ok": true}));
    }

    #[track_caller]
    fn set(&mut self, hostname: &str, entry: &Value) {
        let path = format!("/hostname/{hostname}/");
        assert_eq!(self.succeed("PUT", &path, entry), json!({"ok": true}));
    }

    #[track_caller]
    fn delete(&mut self, hostname: &str) {
        let path = format!("/hostname/{hostname}/");
        assert_eq!(self.succeed("DELETE", &path, &Value::Null), json!({"ok": true}));
    }

    #[track_caller]
    fn stats(&mut self) -> Value {
        self.succeed("GET", "/stats/", &Value::Null)
    }
}

fn fetched(daemon: &Daemon, host: &str, target: &str) -> Answer {
    daemon.connect().exchange(get(host, target))
}

#[test]
fn original_client_sets_one_rule() {
    let daemon = Setup::new().management_tcp().start();
    let mut client = Client::of(&daemon);
    assert_eq!((client.get_all(), client.stats()), (json!({}), json!({})));
    client.set("test-host.com", &json!(["spin", {}, false]));
    assert_eq!(client.get_all(), json!({"test-host.com": ["spin", {}, false]}));
    assert_eq!(client.stats(), json!({"test-host.com": {}}));
    client.set("test-host.com", &json!(["unknown", {}, true]));
    assert_eq!(client.get_all(), json!({"test-host.com": ["unknown", {}, true]}));
    assert_eq!(client.stats(), json!({"test-host.com": {}}));
    let bad = json!(["do-da-be-dee", {}, "bruce"]);
    let refused = client.request("PUT", "/hostname/test-host.com/", &bad);
    refused.expect_error(400, "test-host.com:host_action_invalid:do-da-be-dee");
    client.delete("test-host.com");
    assert_eq!((client.get_all(), client.stats()), (json!({}), json!({})));
}

#[test]
fn original_client_sets_the_table() {
    let daemon = Setup::new().management_tcp().start();
    let mut client = Client::of(&daemon);
    let first =
        json!({"kittens.net": ["static", {"type": "test"}, true], "b.org": ["spin", {}, false]});
    client.set_all(&first);
    assert_eq!(client.get_all(), first);
    assert_eq!(client.stats(), json!({"b.org": {}, "kittens.net": {}}));
    let second =
        json!({"kittens.net": ["empty", {"code": 500}, true], "c.org": ["spin", {}, false]});
    client.set_all(&second);
    assert_eq!(client.get_all(), second);
    assert_eq!(client.stats(), json!({"c.org": {}, "kittens.net": {}}));
}

#[test]
fn original_client_reads_one_rule() {
    let daemon = Setup::new().management_tcp().start();
    let mut client = Client::of(&daemon);
    let one = |client: &mut Client, path: &str| client.succeed("GET", path, &Value::Null);
    assert_eq!(one(&mut client, "/hostname/a.com/"), Value::Null, "200 and null where none is");
    assert_eq!(one(&mut client, "/stats/a.com/"), json!({}));
    client.delete("a.com");
    client.set("a.com", &empty(402));
    assert_eq!(one(&mut client, "/hostname/a.com/"), empty(402));
    fetched(&daemon, "a.com", "/");
    daemon.api().counted("a.com", 1);
    let counters = one(&mut client, "/stats/a.com/");
    for key in ["open_requests", "completed_requests", "bytes_sent", "bytes_received"] {
        assert!(counters[key].is_u64(), "{key} in {counters}");
    }
    // its command line prints these four and takes the rest for no harm
    let all = client.stats();
    assert_eq!(all["a.com"]["completed_requests"], 1);
}

/// Its command line sends what was typed as strings; they come back as what they mean.
#[test]
fn original_client_sends_strings_for_numbers() {
    let daemon = Setup::new().management_tcp().start();
    let mut client = Client::of(&daemon);
    for (sent, kept) in [
        (json!(["empty", {"code": "403"}, true]), json!(["empty", {"code": 403}, true])),
        (
            json!(["spin", {"timeout": "60", "check_interval": "0.5"}, false]),
            json!(["spin", {"timeout": 60, "check_interval": 0.5}, false]),
        ),
        (
            json!(["proxy", {"backends": [["127.0.0.1", 8000], ["127.0.0.1", 8001]], "attempts": "3", "delay": "1"}, true]),
            json!(["proxy", {"backends": [["127.0.0.1", 8000], ["127.0.0.1", 8001]], "attempts": 3, "delay": 1}, true]),
        ),
        (
            json!(["proxy", {"backends": [{"__backend__": ["127.0.0.1", 8000]}], "algorithm": "random", "healthcheck": "false"}, true]),
            json!(["proxy", {"backends": [["127.0.0.1", 8000]], "algorithm": "random", "healthcheck": false}, true]),
        ),
    ] {
        client.set("a.com", &sent);
        assert_eq!(client.get_all(), json!({"a.com": kept}));
    }
}

#[test]
fn original_paths_and_methods_are_served() {
    let daemon = Setup::new().management_tcp().start();
    let mut client = Client::of(&daemon);
    client.set("A.com", &empty(402));
    assert_eq!(client.succeed("GET", "/HOSTNAME/A.COM", &Value::Null), empty(402));
    for (method, path) in [
        ("POST", "/hostname/"),
        ("DELETE", "/hostname/"),
        ("PUT", "/stats/"),
        ("POST", "/hostname/a.com/"),
        ("DELETE", "/stats/a.com/"),
    ] {
        client.request(method, path, &Value::Null).expect_error(405, "method_not_allowed");
    }
    client.request("GET", "/nothing/", &Value::Null).expect_error(404, "not_found");
}

/// Our pages are others, and HTTP/1.1 with a length; what they say is the same.
#[test]
fn empty_rule_answers_as_the_original_did() {
    let daemon = Setup::new().rule("a.com", empty(500)).start();
    let answer = fetched(&daemon, "a.com", "/");
    assert_eq!(answer.head.start, "HTTP/1.1 500 Internal Server Error");
    assert_eq!((answer.head.field("Content-Length"), answer.text().as_str()), (Some("0"), ""));
}

#[test]
fn static_rule_answers_with_the_page_of_its_name() {
    let own = "HTTP/1.0 502 Gateway Timeout\r\nContent-Type: text/html\r\n\r\n<h1>Mine</h1>";
    let rules = |setup: Setup| {
        setup
            .rule("timeout.com", json!(["static", {"type": "timeout"}, false]))
            .rule("unknown.com", json!(["unknown", {}, false]))
            .rule("none.com", json!(["no_hosts", {}, false]))
    };
    let daemon = rules(Setup::new()).start();
    let statuses =
        ["timeout.com", "unknown.com", "none.com"].map(|host| fetched(&daemon, host, "/").status());
    assert_eq!(statuses, [503, 503, 503]);
    let bodies = ["unknown.com", "never-heard-of.com", "none.com"]
        .map(|host| fetched(&daemon, host, "/").text());
    assert_eq!(bodies[0], bodies[1], "the action and the lack of a rule show the same page");
    assert_ne!(bodies[0], bodies[2]);
    let empty_table = Setup::new().start();
    assert_eq!(fetched(&empty_table, "any.com", "/").text(), bodies[2]);
    let daemon = rules(Setup::new().page("timeout.http", own)).start();
    let answer = fetched(&daemon, "timeout.com", "/");
    assert_eq!((answer.status(), answer.text().as_str()), (502, "<h1>Mine</h1>"));
}

#[test]
fn redirects_go_where_the_original_sent_them() {
    let to = |target: &str| json!(["redirect", {"redirect_to": target}, false]);
    let daemon = Setup::new()
        .rule("a.com", to("http://tigers.net"))
        .rule("b.com", to("https://meme-overload.com"))
        .rule("c.com", to("example.net"))
        .internal()
        .start();
    for (host, path, location) in [
        ("a.com", "/", "http://tigers.net/"),
        ("a.com", "/bears/", "http://tigers.net/bears/"),
        ("b.com", "/bears2/", "https://meme-overload.com/bears2/"),
        ("c.com", "/test/", "http://example.net/test/"),
    ] {
        let answer = fetched(&daemon, host, path);
        assert_eq!((answer.status(), answer.head.field("Location")), (302, Some(location)));
    }
    for field in ["X-Forwarded-Protocol: SSL", "X-Forwarded-Proto: https"] {
        let mut tls = daemon.connect_internal();
        let answer = tls.exchange(format!("GET /test/ HTTP/1.1\r\nHost: c.com\r\n{field}\r\n\r\n"));
        assert_eq!(answer.head.field("Location"), Some("https://example.net/test/"), "{field}");
    }
}

/// `ProxyAction` without backends failed when it was made, with every request; ours fails when it
/// is set.
#[test]
fn proxy_without_backends_is_refused_when_it_is_set() {
    let daemon = Setup::new().start();
    for arguments in [json!({"backends": []}), json!({})] {
        let rule = json!(["proxy", arguments, true]);
        let answer = daemon.api().tell("PUT", "/hostname/a.com/", &rule);
        assert_eq!(answer.status(), 400, "{}", answer.text());
    }
}

#[test]
fn unknown_host_is_a_503_as_in_the_original() {
    let daemon =
        Setup::new().rule("test-host.com", json!(["static", {"type": "test"}, true])).start();
    let by_address = fetched(&daemon, &daemon.address().to_string(), "/");
    assert_eq!(by_address.status(), 503);
    assert_eq!(fetched(&daemon, "x.test-host.com", "/").status(), 200);
}

#[test]
fn hosts_resolve_as_in_the_original() {
    let daemon = Setup::new()
        .rule("localhost", empty(402))
        .rule("local.ep.io", json!(["empty", {"code": 403}, true]))
        .rule("http://ep.io", json!(["redirect", {"redirect_to": "https://www.ep.io"}, true]))
        .rule("ep.io", json!(["empty", {"code": 405}, true]))
        .internal()
        .start();
    for (host, expected) in [
        ("localhost", 402),
        ("local.ep.io", 403),
        ("ep.io", 302),
        ("subdomain.localhost", 503),
        ("subdomain.local.ep.io", 403),
        ("subdomain.ep.io", 302),
        ("multi.level.subdomain.local.ep.io", 403),
        ("i-love-bees.com", 503),
    ] {
        assert_eq!(fetched(&daemon, host, "/").status(), expected, "{host}");
    }
    let mut tls = daemon.connect_internal();
    let request = "GET / HTTP/1.1\r\nHost: ep.io\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(tls.exchange(request).status(), 405);
}
