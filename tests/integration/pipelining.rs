//! Requests sent before the answers to the earlier ones: answered in order, whatever happens.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::{get, ok};

#[test]
fn answers_come_in_order() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(get("a.com", "/1") + &get("a.com", "/2") + &get("a.com", "/3"));
    let mut server = backend.accept();
    for n in 1..=3 {
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.expect_nothing_more();
        server.send(ok(n.to_string()));
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
    client.expect_nothing_more();
    backend.expect_no_connection();
}

#[test]
fn pipelined_requests_go_each_to_its_own_host() {
    let (slow, quick) = (Backend::new(), Backend::new().serve_text("quick"));
    let daemon = Setup::new()
        .rule("slow.com", slow.rule())
        .rule("quick.com", quick.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut client = daemon.connect();
    client.send(get("slow.com", "/") + &get("quick.com", "/") + &get("empty.com", "/"));
    let mut server = slow.accept();
    server.expect_head();
    client.expect_nothing_more();
    server.send(ok("slow"));
    assert_eq!(client.expect_answer().text(), "slow");
    assert_eq!(client.expect_answer().text(), "quick");
    assert_eq!(client.expect_answer().status(), 403);
}

#[test]
fn bodies_between_pipelined_requests_are_kept_apart() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(
        "POST /1 HTTP/1.1\r\nHost: a.com\r\nContent-Length: 4\r\n\r\nGET \
         POST /2 HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n\
         PUT /3 HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n\
         GET /4 HTTP/1.1\r\nHost: a.com\r\n\r\n",
    );
    let mut server = backend.accept();
    server.expect_request("POST /1 HTTP/1.1");
    server.expect_body("GET ");
    server.send(ok("1"));
    server.expect_request("POST /2 HTTP/1.1");
    let chunks = server.expect_chunked();
    assert_eq!(
        (chunks.data.as_slice(), chunks.trailers.as_slice()),
        (&b"abc"[..], &["X: y".to_owned()][..])
    );
    server.send(ok("2"));
    server.expect_request("PUT /3 HTTP/1.1");
    server.send(ok("3"));
    server.expect_request("GET /4 HTTP/1.1");
    server.send(ok("4"));
    for n in 1..=4 {
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
    client.expect_nothing_more();
}

#[test]
fn one_empty_line_between_requests_is_skipped() {
    let daemon = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])).start();
    let mut client = daemon.connect();
    let (request, line) = (get("a.com", "/"), "\r\n");
    client.send(format!("{request}{line}{request}{line}{line}{request}"));
    assert_eq!(client.expect_answer().status(), 403);
    assert_eq!(client.expect_answer().status(), 403);
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (400, true));
    client.expect_end();
}

#[test]
fn a_refusal_waits_for_its_turn() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client
        .send(get("a.com", "/1") + "GET / HTTP/1.1\r\nHost : a.com\r\n\r\n" + &get("a.com", "/3"));
    let mut server = backend.accept();
    server.expect_request("GET /1 HTTP/1.1");
    client.expect_nothing_more();
    server.send(ok("1"));
    assert_eq!(client.expect_answer().text(), "1");
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (400, true));
    client.expect_end();
    server.expect_nothing_more();
    backend.expect_no_connection();
}

#[test]
fn request_behind_connection_close_is_not_served() {
    let backend = Backend::new().serve_text("last");
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    let last = "GET /last HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    client.send(last.to_owned() + &get("a.com", "/after"));
    assert_eq!(client.expect_answer().text(), "last");
    client.expect_end();
    let heads = backend.take_heads();
    assert_eq!(heads.iter().map(|head| head.target()).collect::<Vec<_>>(), ["/last"]);
}

#[test]
fn a_half_closed_client_gets_every_answer() {
    let backend = Backend::new();
    let setup = Setup::new().set("abort_on_close", "false");
    let daemon = setup.rule("a.com", backend.rule()).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/1") + &get("a.com", "/2"));
    client.half_close();
    let mut server = backend.accept();
    for n in 1..=2 {
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.send(ok(n.to_string()));
    }
    assert_eq!(client.expect_answer().text(), "1");
    assert_eq!(client.expect_answer().text(), "2");
    client.expect_close();
}

#[test]
fn thousands_of_pipelined_requests_are_answered_in_order() {
    const COUNT: usize = 5000;
    let backend = Backend::new().serve(|head, server| server.send(ok(head.target())));
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || {
        let all: String = (0..COUNT).map(|n| get("a.com", &format!("/{n}"))).collect();
        std::io::Write::write_all(&mut sender, all.as_bytes()).expect("all is taken in the end");
    });
    for n in 0..COUNT {
        let answer = client.expect_answer();
        assert_eq!((answer.status(), answer.text()), (200, format!("/{n}")));
    }
    sending.join().expect("the sender");
    assert_eq!((backend.requests(), backend.connections()), (COUNT, 1));
}
