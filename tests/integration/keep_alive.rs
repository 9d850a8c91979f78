//! Connections that serve more than one request: each routed by its own Host, backends re-used, and
//! the rules of HTTP/1.0 and `Connection: close`.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked_for};
use crate::message::{get, ok};

#[test]
fn each_request_goes_where_its_own_host_says() {
    let (one, two) = (Backend::new().serve_text("one"), Backend::new().serve_text("two"));
    let daemon = Setup::new()
        .rule("one.com", one.rule())
        .rule("two.com", two.rule())
        .rule("three.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut client = daemon.connect();
    for _ in 0..3 {
        assert_eq!(client.exchange(get("one.com", "/")).text(), "one");
        assert_eq!(client.exchange(get("two.com", "/")).text(), "two");
        assert_eq!(client.exchange(get("three.com", "/")).status(), 403);
        assert_eq!(client.exchange(get("four.com", "/")).status(), 503);
    }
    assert_eq!((one.requests(), two.requests()), (3, 3), "requests at each backend");
    assert_eq!((one.connections(), two.connections()), (1, 1), "connections to each backend");
}

#[test]
fn a_backend_connection_serves_one_client_after_another() {
    let backend = Backend::new().serve_text("again");
    let daemon = Daemon::proxying(backend.rule());
    for _ in 0..20 {
        let mut client = daemon.connect();
        assert_eq!(client.exchange(get("a.com", "/")).text(), "again");
    }
    assert_eq!((backend.requests(), backend.connections()), (20, 1), "requests, connections");
}

#[test]
fn requests_at_the_same_time_have_connections_of_their_own() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut clients: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    let mut servers = Vec::new();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get("a.com", &format!("/{n}")));
        let mut server = backend.accept();
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        servers.push(server);
    }
    for (n, (client, server)) in clients.iter_mut().zip(&mut servers).enumerate().rev() {
        server.send(ok(n.to_string()));
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
}

#[test]
fn bodies_both_ways_leave_nothing_behind() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send("POST /1 HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc");
    let mut server = backend.accept();
    for n in 1..20 {
        server.expect_request(&format!("POST /{n} HTTP/1.1"));
        if n % 2 == 1 {
            server.expect_body("abc");
            server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        } else {
            assert_eq!(server.expect_chunked().data, b"abc");
            server.send(ok("x"));
        }
        assert_eq!(client.expect_answer().text(), "x");
        server.expect_nothing_more();
        client.expect_nothing_more();
        let line = format!("POST /{} HTTP/1.1\r\nHost: a.com\r\n", n + 1);
        if n % 2 == 1 {
            client.send(line + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        } else {
            client.send(line + "Content-Length: 3\r\n\r\nabc");
        }
    }
    backend.expect_no_connection();
}

#[test]
fn client_that_says_close_is_closed_on() {
    let backend = Backend::new().serve_text("bye");
    let daemon = Daemon::proxying(backend.rule());
    for option in ["close", "Close", "x, close"] {
        let mut client = daemon.connect();
        let request = format!("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: {option}\r\n\r\n");
        let answer = client.exchange(request);
        assert!(answer.head.says_close(), "the answer does not say close: {:#?}", answer.head);
        assert_eq!(answer.text(), "bye");
        client.expect_close();
    }
    assert_eq!(backend.connections(), 1, "the backend connection outlives its clients");
}

#[test]
fn our_own_answers_keep_the_connection_too() {
    let daemon = Setup::new()
        .rule("empty.com", json!(["empty", { "code": 204 }, false]))
        .rule("static.com", json!(["static", { "type": "test" }, false]))
        .rule("redirect.com", json!(["redirect", { "redirect_to": "example.net" }, false]))
        .start();
    let mut client = daemon.connect();
    for (host, status) in [
        ("empty.com", 204),
        ("static.com", 200),
        ("redirect.com", 302),
        ("other", 503),
        ("empty.com", 204),
    ] {
        let answer = client.exchange(get(host, "/"));
        assert_eq!((answer.status(), answer.head.says_close()), (status, false), "{host}");
    }
    let request = "GET / HTTP/1.1\r\nHost: empty.com\r\nConnection: close\r\n\r\n";
    assert!(client.exchange(request).head.says_close());
    client.expect_close();
}

#[test]
fn http_1_0_closes_unless_asked_to_stay() {
    let backend = Backend::new().serve_text("old");
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    let answer = client.exchange("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    assert_eq!(answer.text(), "old");
    client.expect_close();
    let mut client = daemon.connect();
    for _ in 0..3 {
        let answer =
            client.exchange("GET / HTTP/1.0\r\nHost: a.com\r\nConnection: Keep-Alive\r\n\r\n");
        let says = answer.head.field("Connection").map(str::to_ascii_lowercase);
        assert_eq!(
            says.as_deref(),
            Some("keep-alive"),
            "a 1.0 client must be told: {:#?}",
            answer.head
        );
    }
    let answer = client.exchange("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    assert_eq!(answer.status(), 200);
    client.expect_close();
}

#[test]
fn a_backend_that_closes_does_not_close_the_client() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    for (n, answer) in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n1",
        "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n2",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, close\r\n\r\n3",
    ]
    .into_iter()
    .enumerate()
    {
        client.send(get("a.com", &format!("/{n}")));
        let mut server = backend.accept();
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.send(answer);
        let got = client.expect_answer();
        assert!(!got.head.says_close(), "the client need not close: {:#?}", got.head);
        server.expect_close();
    }
}

#[test]
fn a_backend_of_http_1_0_can_be_kept_alive() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    for _ in 0..3 {
        server.expect_head();
        server.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.expect_answer().text(), "x");
        client.send(get("a.com", "/"));
    }
    server.expect_head();
    backend.expect_no_connection();
}

#[test]
fn an_idle_backend_connection_that_closes_is_replaced() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    for n in 0..5 {
        // a POST: it would not be sent twice, so it must not meet the dead connection
        client.send(format!("POST /{n} HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1\r\n\r\nx"));
        let mut server = backend.accept();
        server.expect_request(&format!("POST /{n} HTTP/1.1"));
        server.expect_body("x");
        server.send(ok("fine"));
        assert_eq!(client.expect_answer().text(), "fine");
        // the daemon's own close says that it noticed
        server.half_close();
        server.expect_end();
    }
}

#[test]
fn bytes_on_an_idle_backend_connection_end_it() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/1"));
    server.send(ok("1"));
    assert_eq!(client.expect_answer().text(), "1");
    server.send(ok("nobody asked"));
    server.expect_end();
    client.expect_nothing_more();
    client.send(get("a.com", "/2"));
    let mut server = backend.accept();
    server.expect_request("GET /2 HTTP/1.1");
    server.send(ok("2"));
    assert_eq!(client.expect_answer().text(), "2");
}
