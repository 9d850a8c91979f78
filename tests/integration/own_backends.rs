//! NTLM and Negotiate authenticate a connection: the backend takes whatever comes on it for that
//! user's. Such a connection is its client's alone. And how long, or whether at all, other
//! connections are kept.

use std::time::Duration;

use serde_json::json;

use crate::backend::{Backend, rule_for};
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::message::{get, ok};
use crate::script::Connection;

/// Ways in which a backend asks for such credentials.
const CHALLENGES: [&str; 8] = [
    "WWW-Authenticate: NTLM\r\n",
    "WWW-Authenticate: Negotiate\r\n",
    "www-authenticate: negotiate YIIJvwYGKwYBBQUCoIIJszCC\r\n",
    "WWW-Authenticate: Basic realm=\"x\", ntlm\r\n",
    "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: NEGOTIATE\r\nWWW-Authenticate: NTLM\r\n",
    "WWW-Authenticate: Basic realm=\"x\",NTLM TlRMTVNTUAACAAAADAAMADgAAAA=\r\n",
    "WWW-Authenticate: ,\tNegotiate , Basic realm=\"x\"\r\n",
    "WWW-Authenticate: Nego2\r\n",
];

fn unauthorized(fields: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\n{fields}Content-Length: 0\r\n\r\n")
}

fn two_hosts(backend: &Backend) -> Daemon {
    Setup::new().rule("a.com", backend.rule()).rule("b.com", backend.rule()).start()
}

/// The next request of this client goes out here, and is answered.
#[track_caller]
fn expect_next(client: &mut Connection, host: &str, server: &mut Connection) {
    client.send(get(host, "/mine"));
    server.expect_request("GET /mine HTTP/1.1");
    server.send(ok("mine"));
    assert_eq!(client.expect_answer().text(), "mine");
}

/// Another client of either host has a connection of its own, which it leaves to be shared.
#[track_caller]
fn expect_others_elsewhere(daemon: &Daemon, backend: &Backend) -> Connection {
    let (mut other, mut fresh) = asked_for(daemon, backend, get("a.com", "/other"));
    fresh.send(ok("other"));
    assert_eq!(other.expect_answer().text(), "other");
    let mut third = daemon.connect();
    third.send(get("b.com", "/third"));
    fresh.expect_request("GET /third HTTP/1.1");
    fresh.send(ok("third"));
    assert_eq!(third.expect_answer().text(), "third");
    fresh
}

#[test]
fn challenge_makes_a_connection_its_clients_own() {
    for challenge in CHALLENGES {
        let backend = Backend::new();
        let daemon = two_hosts(&backend);
        let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
        server.send(unauthorized(challenge));
        assert_eq!(client.expect_answer().status(), 401);
        expect_next(&mut client, "a.com", &mut server);
        let mut fresh = expect_others_elsewhere(&daemon, &backend);
        for _ in 0..3 {
            expect_next(&mut client, "a.com", &mut server);
        }
        // it ends with its client, and nobody gets it
        drop(client);
        server.expect_end();
        let mut client = daemon.connect();
        expect_next(&mut client, "a.com", &mut fresh);
        backend.expect_no_connection();
    }
}

#[test]
fn credentials_make_a_connection_its_clients_own() {
    for credentials in
        ["NTLM TlRMTVNTUAAB", "ntlm TlRMTVNTUAAB", "Negotiate YIIJ", "NEGOTIATE YIIJ"]
    {
        for body in ["", "Content-Length: 2\r\n\r\nup", "Transfer-Encoding: chunked\r\n\r\n"] {
            let backend = Backend::new();
            let daemon = two_hosts(&backend);
            let method = if body.is_empty() { "GET" } else { "POST" };
            let rest = if body.is_empty() { "\r\n" } else { body };
            let request = format!(
                "{method} / HTTP/1.1\r\nHost: a.com\r\nAuthorization: {credentials}\r\n{rest}"
            );
            let (mut client, mut server) = asked_for(&daemon, &backend, request);
            if body.contains("chunked") {
                client.send("0\r\n\r\n");
                server.expect_chunked();
            } else if !body.is_empty() {
                server.expect_body("up");
            }
            server.send(ok("welcome"));
            assert_eq!(client.expect_answer().text(), "welcome");
            expect_next(&mut client, "a.com", &mut server);
            expect_others_elsewhere(&daemon, &backend);
            expect_next(&mut client, "a.com", &mut server);
        }
    }
}

/// Other schemes authenticate the request: their connections are shared.
#[test]
fn other_credentials_keep_a_connection_shared() {
    let backend = Backend::new();
    let daemon = two_hosts(&backend);
    let basic = "GET / HTTP/1.1\r\nHost: a.com\r\nAuthorization: Basic bnRsbTpudGxt\r\n\r\n";
    let (mut client, mut server) = asked_for(&daemon, &backend, basic);
    server.send(unauthorized("WWW-Authenticate: Basic realm=\"negotiate\"\r\nX-Auth: NTLM\r\n"));
    assert_eq!(client.expect_answer().status(), 401);
    let mut other = daemon.connect();
    expect_next(&mut other, "b.com", &mut server);
    backend.expect_no_connection();
}

/// A login takes several requests, all of one connection: also where the rule has more backends.
#[test]
fn own_connection_comes_before_balancing() {
    let backends = [Backend::new(), Backend::new(), Backend::new()];
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    for arguments in [json!({"algorithm": "round_robin"}), json!({"max_connections": 1})] {
        let daemon = Setup::new().rule("a.com", rule_for(&ports, arguments)).start();
        let mut client = daemon.connect();
        client.send(get("a.com", "/"));
        let accepted = || {
            let within = Duration::from_millis(5);
            (0..1000).find_map(|turn| backends[turn % 3].accept_within(within))
        };
        let mut server = accepted().expect("a connection");
        server.expect_head();
        server.send(unauthorized("WWW-Authenticate: NTLM\r\n"));
        assert_eq!(client.expect_answer().status(), 401);
        for _ in 0..6 {
            expect_next(&mut client, "a.com", &mut server);
        }
    }
}

/// What is authenticated at one backend is nothing to another, and both stay.
#[test]
fn each_backend_has_an_own_connection() {
    let (one, two) = (Backend::new(), Backend::new());
    let daemon = Setup::new().rule("a.com", one.rule()).rule("b.com", two.rule()).start();
    let (mut client, mut first) = asked_for(&daemon, &one, get("a.com", "/"));
    first.send(unauthorized("WWW-Authenticate: NTLM\r\n"));
    assert_eq!(client.expect_answer().status(), 401);
    client.send(get("b.com", "/"));
    let mut second = two.accept();
    second.expect_head();
    second.send(unauthorized("WWW-Authenticate: Negotiate\r\n"));
    assert_eq!(client.expect_answer().status(), 401);
    for _ in 0..3 {
        expect_next(&mut client, "a.com", &mut first);
        expect_next(&mut client, "b.com", &mut second);
    }
}

/// A backend that ended it, or sent more than its answer, gets a new one.
#[test]
fn own_connection_that_is_dead_is_replaced() {
    let backend = Backend::new();
    let daemon = two_hosts(&backend);
    let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
    for turn in 0..4 {
        server.send(unauthorized("WWW-Authenticate: NTLM\r\n"));
        assert_eq!(client.expect_answer().status(), 401);
        expect_next(&mut client, "a.com", &mut server);
        match turn % 2 {
            0 => drop(server),
            _ => server.send(ok("nobody asked")),
        }
        client.send("POST /again HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nup");
        server = backend.accept();
        server.expect_request("POST /again HTTP/1.1");
        server.expect_body("up");
    }
}

/// A limit counts the requests that such clients make, not the clients that are idle.
#[test]
fn own_connections_keep_nobody_from_a_limited_backend() {
    let backend = Backend::new();
    let daemon =
        Setup::new().rule("a.com", backend.rule_with(json!({"max_connections": 1}))).start();
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
            server.send(unauthorized("WWW-Authenticate: NTLM\r\n"));
            assert_eq!(client.expect_answer().status(), 401);
            (client, server)
        })
        .collect();
    for (client, server) in &mut clients {
        expect_next(client, "a.com", server);
    }
    // one at a time
    clients[0].0.send(get("a.com", "/first"));
    clients[0].1.expect_request("GET /first HTTP/1.1");
    clients[1].0.send(get("a.com", "/second"));
    clients[1].1.expect_nothing_more();
    clients[0].1.send(ok("first"));
    assert_eq!(clients[0].0.expect_answer().text(), "first");
    clients[1].1.expect_request("GET /second HTTP/1.1");
    clients[1].1.send(ok("second"));
    assert_eq!(clients[1].0.expect_answer().text(), "second");
}

/// One that serves a single connection at a time is never kept from the next by one that idles.
#[test]
fn rule_without_keep_alive_shares_no_connection() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("a.com", backend.rule_with(json!({"keep_alive": false})))
        .rule("b.com", backend.rule())
        .start();
    // one that another rule left in the pool is not used either
    let (mut other, mut shared) = asked_for(&daemon, &backend, get("b.com", "/"));
    shared.send(ok("shared"));
    assert_eq!(other.expect_answer().text(), "shared");
    let mut client = daemon.connect();
    for challenge in ["", "", "WWW-Authenticate: NTLM\r\n", ""] {
        client.send(get("a.com", "/"));
        let mut server = backend.accept();
        let head = server.expect_head();
        assert!(head.says_close(), "the backend is told: {head:#?}");
        server.send(format!("HTTP/1.1 200 OK\r\n{challenge}Content-Length: 2\r\n\r\nok"));
        let answer = client.expect_answer();
        assert_eq!((answer.text().as_str(), answer.head.says_close()), ("ok", false));
        server.expect_close();
    }
    expect_next(&mut other, "b.com", &mut shared);
    // an upgrade says so itself
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let head = backend.accept().expect_head();
    assert_eq!(head.field("Connection"), Some("upgrade"));
}

/// What the backend says about how long it keeps an idle connection holds.
#[test]
fn backend_says_how_long_a_connection_is_kept() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for value in ["timeout=1", "timeout=1, max=100", "max=5,Timeout = \"1\"", "timeout=0"] {
        let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
        server
            .send(format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(client.expect_answer().text(), "ok");
        server.expect_close();
    }
    for value in ["timeout=60", "timeout=x", "max=1", "", "timeout"] {
        let (mut client, mut server) = asked_for(&daemon, &backend, get("a.com", "/"));
        server
            .send(format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(client.expect_answer().text(), "ok");
        expect_next(&mut client, "a.com", &mut server);
        drop(server);
        eventually("its end is seen", || {
            daemon.api().get("/stats/a.com/")["open_requests"] == json!(0)
        });
    }
}
