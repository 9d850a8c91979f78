//! Fields that only a proxy may write, methods that may be repeated, Date, Via and TE.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked};
use crate::message::{get, ok};

/// Spellings that applications behind CGI, WSGI or Rack can't tell from ours.
const FORGED: [&str; 20] = [
    "X-Forwarded",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Prefix",
    "X-Forwarded-Tls-Client-Cert",
    "X_Forwarded_For",
    "X.Forwarded.For",
    "x!forwarded!by",
    "X-Forwarded_Anything",
    "Forwarded",
    "X!Real!IP",
    "X_Real-IP",
    "True-Client-IP",
    "Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Front-End-Https",
    "X-Original-URL",
    "X-Rewrite-URL",
    "CF-Connecting-IP",
];

/// The fields of a request with all of these, which its `Connection` names as well.
fn forged() -> String {
    let lines: Vec<String> = FORGED.iter().map(|name| format!("{name}: forged\r\n")).collect();
    format!("{}Connection: {}\r\n", lines.concat(), FORGED.join(", "))
}

#[test]
fn forged_fields_pass_on_the_internal_address_only() {
    let backend = Backend::new();
    let daemon = Setup::new().internal().rule("a.com", backend.rule()).start();
    let request = format!("GET / HTTP/1.1\r\nHost: a.com\r\n{}X-Stays: 1\r\n\r\n", forged());
    let mut client = daemon.connect();
    client.send(&request);
    let mut server = backend.accept();
    let head = server.expect_head();
    let names: Vec<&str> = head.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Stays", "X-Forwarded-For", "X-Forwarded-Proto"]);
    server.send(ok(""));
    client.expect_status(200);
    let mut terminator = daemon.connect_internal();
    terminator.send(&request);
    let head = server.expect_head();
    for name in FORGED {
        assert_eq!(head.field(name), Some("forged"), "{name} was stripped");
    }
}

#[test]
fn te_goes_on_where_trailers_do() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.com\r\nTE: trailers, deflate;q=0.5\r\nConnection: TE\r\n\r\n",
    );
    let mut server = backend.accept();
    let head = server.expect_head();
    assert_eq!((head.field("TE"), head.field("Connection")), (Some("trailers"), Some("TE")));
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n");
    client.expect_status(200);
    assert_eq!(client.expect_chunked().trailers, ["X-Sum: 1"]);
    // to a client of HTTP/1.0 none pass
    let mut old = daemon.connect();
    old.send("GET / HTTP/1.0\r\nHost: a.com\r\nTE: trailers\r\n\r\n");
    assert_eq!(server.expect_head().field("TE"), None);
}

#[test]
fn an_empty_expectation_expects_nothing() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    let mut server = None;
    for expect in ["Expect:", "Expect: ,", "Expect: , ,\r\nExpect:"] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{expect}\r\n\r\n"));
        let server = server.get_or_insert_with(|| backend.accept());
        server.expect_head();
        server.send(ok("served"));
        assert_eq!(client.expect_answer().text(), "served", "{expect:?}");
    }
}

#[test]
fn registered_methods_are_sent_again() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for method in ["PROPFIND", "REPORT", "SEARCH", "QUERY", "MKCOL"] {
        let (mut client, mut server) = asked(&daemon, &backend);
        server.send(ok(""));
        client.expect_status(200);
        // with its body, which is here already
        client.send(format!("{method} / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nab"));
        server.expect_request(&format!("{method} / HTTP/1.1"));
        drop(server);
        let mut second = backend.accept();
        second.expect_request(&format!("{method} / HTTP/1.1"));
        second.expect_body("ab");
        second.send("HTTP/1.1 207 Multi-Status\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.expect_status(207);
    }
}

#[test]
fn a_426_says_what_to_upgrade_to() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/3.0, websocket\r\nConnection: Upgrade\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let head = client.expect_status(426);
    assert_eq!(head.field("Upgrade"), Some("HTTP/3.0, websocket"));
    assert_eq!(head.field("Connection"), Some("upgrade"));
    client.send(get("a.com", "/next"));
    server.expect_request("GET /next HTTP/1.1");
}

/// Whether it is a date as messages have it.
fn is_date(text: &str) -> bool {
    text.len() == 29 && text.ends_with(" GMT") && text.as_bytes()[3] == b','
}

#[test]
fn every_final_answer_has_one_date() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .page("dated.http", "HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\n\n")
        .page("undated.http", "HTTP/1.1 200 OK\n\nhello")
        .rule("a.com", backend.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .rule("redirect.com", json!(["redirect", { "redirect_to": "b.com" }, false]))
        .rule("page.com", json!(["static", { "type": "undated" }, false]))
        .rule("dated.com", json!(["static", { "type": "dated" }, false]))
        .start();
    for host in ["empty.com", "redirect.com", "page.com", "unknown.com"] {
        let head = daemon.connect().exchange(get(host, "/")).head;
        let dates = head.all("Date");
        assert!(dates.len() == 1 && is_date(dates[0]), "{host}: {dates:?}");
    }
    let head = daemon.connect().exchange(get("dated.com", "/")).head;
    assert_eq!(head.all("Date"), ["Sun, 06 Nov 1994 08:49:37 GMT"]);
    let head = daemon.connect().exchange("GET / HTTP/1.1\r\nHost : a\r\n\r\n").head;
    assert!(head.status() == 400 && head.field("Date").is_some_and(is_date));

    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n");
    assert_eq!(client.expect_status(103).field("Date"), None);
    server.send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    assert!(client.expect_status(404).field("Date").is_some_and(is_date));
    client.send(get("a.com", "/"));
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\ndate: theirs\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.expect_status(200).all("Date"), ["theirs"]);
}

#[test]
fn via_names_this_proxy_and_ends_loops() {
    let backend = Backend::new();
    let daemon = Setup::new().set("via", "edge-1").rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    client.send(
        "GET / HTTP/1.0\r\nHost: a.com\r\nVia: 1.1 other\r\nConnection: keep-alive, Via\r\n\r\n",
    );
    let mut server = backend.accept();
    assert_eq!(server.expect_head().all("Via"), ["1.1 other", "1.0 edge-1"]);
    server.send(ok(""));
    assert_eq!(client.expect_answer().head.all("Via"), ["1.1 edge-1"]);
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nVia: 1.1 other (a, b), 1.1 EDGE-1 (x)\r\n\r\n");
    client.expect_answer().expect_status(508);
    server.expect_nothing_more();
    client.send("GET /x HTTP/1.1\r\nHost: a.com\r\nVia: 1.1 edge-10, 1.1 a (1.1 edge-1)\r\n\r\n");
    server.expect_request("GET /x HTTP/1.1");
}

#[test]
fn no_via_is_sent_by_default() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    assert_eq!(server.expect_head().field("Via"), None);
    server.send(ok(""));
    assert_eq!(client.expect_answer().head.field("Via"), None);
}
