//! The PROXY protocol: whose connection it is, as somebody in front says; from whom it is believed,
//! and where it shows.

use serde_json::json;

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::message::get;
use crate::script::Connection;
use crate::spin::{metric, spin};

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 4000 80\r\n";

/// Version 2, for 198.51.100.8.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
    header.extend([198, 51, 100, 8, 192, 0, 2, 1, 0x10, 0, 0, 80]);
    // an extension, as they come from clouds
    header.extend([4, 0, 0]);
    header
}

fn behind(backend: &Backend) -> Daemon {
    Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .add("bind_tcp", "127.0.0.1:0 a.com accept-proxy")
        .set("trusted_sources", "127.0.0.0/8")
        .rule("a.com", backend.rule())
        .start()
}

#[test]
fn client_is_the_one_that_the_header_names() {
    let backend = Backend::new();
    let daemon = behind(&backend);
    for (header, client) in [
        (V1.to_vec(), "198.51.100.7"),
        (v2(), "198.51.100.8"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 80\r\n".to_vec(), "2001:db8::1"),
        // of the sender's own: it looks whether we are well
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "127.0.0.1"),
    ] {
        for cut in [0, 1, 14, header.len()] {
            let mut connection = daemon.connect();
            connection.send(&header[..cut]);
            std::thread::yield_now();
            connection.send(&header[cut..]);
            for turn in ["/first", "/second"] {
                connection.send(get("a.com", turn));
                let mut server = backend.accept();
                let head = server.expect_head();
                assert_eq!(head.field("X-Forwarded-For"), Some(client), "{turn}");
                server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                assert_eq!(connection.expect_answer().status(), 200);
            }
        }
    }
}

#[test]
fn raw_connections_lose_the_header() {
    let backend = Backend::new();
    let daemon = behind(&backend);
    let mut client = Connection::client(daemon.raw_address("TCP"));
    client.send([V1, b"hello"].concat());
    let mut server = backend.accept();
    server.expect_body("hello");
    server.send("there");
    client.expect_body("there");
}

/// No header, a wrong one, one of somebody who is not believed: closed, and nothing goes anywhere.
#[test]
fn connection_without_a_header_is_closed() {
    let backend = Backend::new();
    let daemon = behind(&backend);
    for wrong in [
        get("a.com", "/"),
        "PROXY TCP4 198.51.100.7\r\n".to_owned(),
        format!("PROXY TCP4 {}", "1".repeat(200)),
    ] {
        let mut client = daemon.connect();
        client.send(wrong);
        client.expect_end();
    }
    backend.expect_no_connection();
    let setup = Setup::new().set("bind", "127.0.0.1:0 accept-proxy");
    let daemon = setup.set("trusted_sources", "192.0.2.0/24").rule("a.com", empty(402)).start();
    daemon.connect().expect_end();
    assert_eq!(metric(&mut daemon.api(), "connections_shed_total"), 1.0);
}

/// Whoever does not say so takes no header: it is a bad request.
#[test]
fn header_on_a_plain_address_is_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut client = daemon.connect();
    client.send([V1, get("a.com", "/").as_bytes()].concat());
    assert_eq!(client.expect_answer().status(), 400);
}

/// Limits of one address are those of the client, not of whoever stands in front.
#[test]
fn limits_are_of_the_client() {
    let daemon = Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("trusted_sources", "127.0.0.1")
        .set("max_held_per_source", 1)
        .rule("a.com", spin(json!({})))
        .start();
    let ask = |last: u8| {
        let mut client = daemon.connect();
        client.send(format!("PROXY TCP4 198.51.100.{last} 192.0.2.1 1 80\r\n"));
        client.send(get("a.com", "/"));
        client
    };
    let (_one, _two) = (ask(1), ask(2));
    crate::spin::expect_held(&mut daemon.api(), "a.com", 2);
    assert_eq!(ask(2).expect_answer().status(), 503);
}

// ---- sending it

/// What a backend is told: a line, and then what belongs to the connection.
#[track_caller]
fn told(server: &mut Connection) -> String {
    let line = server.expect_line();
    String::from_utf8(line).expect("text")
}

fn header_of(client: &Connection, target: std::net::SocketAddr) -> String {
    let own = client.sender().local_addr().expect("an address");
    let (from, to) = (own.port(), target.port());
    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}")
}

#[test]
fn a_backend_is_told_who_it_is() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"send_proxy": "v1"}));
    let daemon =
        Setup::new().add("bind_tcp", "127.0.0.1:0 a.com").rule("a.com", rule.clone()).start();
    assert_eq!(daemon.api().get("/hostname/a.com/"), rule);
    // raw
    let address = daemon.raw_address("TCP");
    let mut client = Connection::client(address);
    client.send("hello");
    let mut server = backend.accept();
    assert_eq!(told(&mut server), header_of(&client, address));
    server.expect_body("hello");
    server.send("there");
    client.expect_body("there");
    drop((client, server));
    // HTTP: a connection is one client's, and not even that one's for long
    let mut first = daemon.connect();
    let mut second = daemon.connect();
    for client in [&mut first, &mut second] {
        for path in ["/1", "/2"] {
            client.send(get("a.com", path));
            let mut server = backend.accept();
            assert_eq!(told(&mut server), header_of(client, daemon.address()));
            server.expect_request(&format!("GET {path} HTTP/1.1"));
            server.send(crate::message::ok("hello"));
            assert_eq!(client.expect_answer().text(), "hello");
            server.expect_end();
        }
    }
    // those of a rule without it are not mixed up with them
    daemon.api().put("/hostname/b.com/", &backend.rule());
    first.send(get("b.com", "/"));
    let mut server = backend.accept();
    server.expect_request("GET / HTTP/1.1");
    server.send(crate::message::ok("plain"));
    assert_eq!(first.expect_answer().text(), "plain");
    first.send(get("a.com", "/"));
    let mut other = backend.accept();
    assert_eq!(told(&mut other), header_of(&first, daemon.address()));
    drop(server);
}

/// In binary, and of whom somebody else said that it is.
#[test]
fn client_of_a_header_is_passed_on_in_binary() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("bind", "127.0.0.1:0 accept-proxy")
        .set("trusted_sources", "127.0.0.1")
        .rule("a.com", backend.rule_with(json!({"send_proxy": "v2"})))
        .start();
    let mut client = daemon.connect();
    client.send(V1);
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nhello");
    let mut server = backend.accept();
    let header = server.read_exactly(28);
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(header[16..20], [198, 51, 100, 7]);
    assert_eq!(header[24..26], 4000_u16.to_be_bytes());
    let head = server.expect_request("POST / HTTP/1.1");
    assert_eq!(head.field("X-Forwarded-For"), Some("198.51.100.7"));
    server.expect_body("hello");
    server.send(crate::message::ok("taken"));
    assert_eq!(client.expect_answer().text(), "taken");
}

/// HAProxy in front says whose connection it is, HAProxy behind is told.
#[test]
fn haproxy_on_both_sides_understands_the_headers() {
    let backend = Backend::new().serve(|head, connection| {
        let client = head.field("X-Seen").unwrap_or("nobody").to_owned();
        drop(connection.try_send(crate::message::ok(client)));
    });
    let setup =
        Setup::new().set("bind", "127.0.0.1:0 accept-proxy").set("trusted_sources", "127.0.0.1");
    let (front, behind) = (crate::backend::closed_port(), crate::backend::closed_port());
    let rule = crate::backend::rule_for(
        &[behind],
        json!({"send_proxy": "v2", "attempts": 50, "delay": 0.1}),
    );
    let daemon = setup.clone().rule("a.com", rule).start();
    let config = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
         frontend front\n mode tcp\n bind 127.0.0.1:{front}\n default_backend us\n\
         backend us\n mode tcp\n server us {} send-proxy-v2\n\
         frontend behind\n bind 127.0.0.1:{behind} accept-proxy\n default_backend application\n\
         backend application\n http-request set-header X-Seen %[src]:%[src_port]\n server one 127.0.0.1:{}\n",
        daemon.address(),
        backend.port
    );
    let file = setup.path("haproxy.cfg");
    std::fs::write(&file, config).expect("a configuration");
    let started = std::process::Command::new("haproxy").arg("-db").arg("-f").arg(&file).spawn();
    let Ok(mut haproxy) = started else { return eprintln!("skipped: no haproxy here") };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], front));
    crate::daemon::eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
    let mut client = Connection::client(address);
    let own = client.sender().local_addr().expect("an address");
    client.send(get("a.com", "/"));
    let found = client.expect_answer().text();
    drop(haproxy.kill());
    drop(haproxy.wait());
    assert_eq!(found, own.to_string());
}
