//! Traffic to backends that are Unix sockets: all that goes to a TCP port goes there, too.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, rule_to};
use crate::bulk::{MIB, bytes_at, expect_chunked, expect_plain, send_chunked, send_plain};
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::raw::expect_sides_to_end_one_by_one;
use crate::script::Connection;
use crate::tunnel::tunnelled;

/// Large enough to be spliced, and to fill every buffer on the way.
const LARGE: usize = 5 * MIB + 12_345;

#[test]
fn path_and_abstract_name_are_reached() {
    let path = Backend::unix().serve_text("at a path");
    let name = Backend::unix_abstract("reached").serve_text("at a name");
    let daemon = Setup::new().rule("path.com", path.rule()).rule("name.com", name.rule()).start();
    let mut client = daemon.connect();
    for _ in 0..3 {
        assert_eq!(client.exchange(get("path.com", "/")).text(), "at a path");
        assert_eq!(client.exchange(get("name.com", "/")).text(), "at a name");
    }
    assert_eq!((path.connections(), name.connections()), (1, 1), "kept for the next request");
    let head = &path.take_heads()[0];
    assert_eq!(
        (head.field("Host"), head.field("X-Forwarded-For")),
        (Some("path.com"), Some("127.0.0.1"))
    );
}

#[test]
fn large_responses_arrive_whole() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    for framing in ["length", "chunks", "close"] {
        let (mut client, mut server) = asked(&daemon, &backend);
        let mut sender = server.sender();
        let sending = std::thread::spawn(move || match framing {
            "length" => {
                server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
                send_plain(&mut sender, 0, LARGE)
            }
            "chunks" => {
                server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                send_chunked(&mut sender, LARGE)
            }
            _ => {
                server.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                send_plain(&mut sender, 0, LARGE)
            }
        });
        client.expect_status(200);
        match framing {
            "chunks" => expect_chunked(&mut client, LARGE),
            _ => expect_plain(&mut client, 0, LARGE),
        }
        sending.join().expect("the sending thread").expect("all was taken");
        if framing == "close" {
            client.expect_close();
        }
    }
}

#[test]
fn large_uploads_arrive_whole() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    for is_chunked in [false, true] {
        let framing = match is_chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {LARGE}"),
        };
        let request = format!("POST /up HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n");
        let (mut client, mut server) = asked_for(&daemon, &backend, request);
        let mut sender = client.sender();
        let sending = std::thread::spawn(move || match is_chunked {
            true => send_chunked(&mut sender, LARGE),
            false => send_plain(&mut sender, 0, LARGE),
        });
        match is_chunked {
            true => expect_chunked(&mut server, LARGE),
            false => expect_plain(&mut server, 0, LARGE),
        }
        sending.join().expect("the sending thread").expect("all was taken");
        server.send(ok("taken"));
        assert_eq!(client.expect_answer().text(), "taken");
    }
}

/// The backend responds before it has read the request, and closes.
#[test]
fn early_response_to_an_upload_is_passed_on() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    let request = "POST /up HTTP/1.1\r\nHost: a.com\r\nContent-Length: 50000000\r\n\r\n";
    let (mut client, mut server) = asked_for(&daemon, &backend, request);
    client.send(bytes_at(0, MIB / 2));
    server.send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch");
    drop(server);
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "much"));
}

#[test]
fn response_that_breaks_off_looks_cut_off() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    drop(server);
    client.expect_status(200);
    let (body, _) = client.read_to_end();
    assert_eq!(body, b"hello");
    let (mut client, server) = asked(&daemon, &backend);
    drop(server);
    client.expect_status(502);
}

#[test]
fn tunnel_carries_bytes_both_ways() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    client.send("ping");
    server.expect_body("ping");
    server.send("pong");
    client.expect_body("pong");
    let (mut up, mut down) = (client.sender(), server.sender());
    let sending = [
        std::thread::spawn(move || send_plain(&mut up, 0, LARGE)),
        std::thread::spawn(move || send_plain(&mut down, 7, LARGE)),
    ];
    let receiving = std::thread::spawn(move || {
        expect_plain(&mut server, 0, LARGE);
        server
    });
    expect_plain(&mut client, 7, LARGE);
    let mut server = receiving.join().expect("the backend's side");
    for thread in sending {
        thread.join().expect("a sending thread").expect("all was taken");
    }
    client.half_close();
    server.expect_close();
    server.send("bye");
    client.expect_body("bye");
    drop(server);
    client.expect_close();
}

#[test]
fn raw_connection_leads_to_a_socket() {
    let backend = Backend::unix();
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 db.com");
    let daemon = setup.rule("db.com", backend.rule()).start();
    let mut client = Connection::client(daemon.raw_address("TCP"));
    let mut server = backend.accept();
    server.send("220 hello\r\n");
    client.expect_body("220 hello\r\n");
    let mut up = client.sender();
    let sending = std::thread::spawn(move || send_plain(&mut up, 0, LARGE));
    expect_plain(&mut server, 0, LARGE);
    sending.join().expect("the sending thread").expect("all was taken");
    expect_sides_to_end_one_by_one(client, server);
    let found = daemon.api().counted("db.com", 1);
    assert_eq!((&found["bytes_received"], &found["bytes_sent"]), (&json!(LARGE), &json!(14)));
}

/// The header names the client and the address that it connected to, as HAProxy's does.
#[test]
fn socket_is_told_whose_a_connection_is() {
    let backend = Backend::unix();
    let rule = backend.rule_with(json!({ "send_proxy": "v1" }));
    let daemon = Setup::new().rule("a.com", rule).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    let (from, to) = (client.sender().local_addr().expect("an address"), daemon.address());
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", from.port(), to.port());
    assert_eq!(server.expect_line(), expected.as_bytes());
    server.expect_request("GET / HTTP/1.1");
    server.send(ok("v1"));
    assert_eq!(client.expect_answer().text(), "v1");
    server.expect_end();
    let rule = backend.rule_with(json!({ "send_proxy": "v2" }));
    daemon.api().put("/hostname/a.com/", &rule);
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    let header = server.read_exactly(28);
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(header[24..28], [from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
    server.expect_request("GET / HTTP/1.1");
    server.send(ok("v2"));
    assert_eq!(client.expect_answer().text(), "v2");
}

fn backends(count: usize) -> Vec<Serving> {
    (0..count).map(|_| Backend::unix().serve_text("")).collect()
}

/// How many of `count` requests each backend got, one client after another.
#[track_caller]
fn spread(count: usize, backends: &[Serving], arguments: Value) -> Vec<usize> {
    let targets: Vec<&Value> = backends.iter().map(|backend| &backend.target).collect();
    let daemon = Daemon::proxying(rule_to(&targets, arguments));
    for _ in 0..count {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    }
    backends.iter().map(Serving::requests).collect()
}

#[test]
fn each_algorithm_chooses_among_sockets() {
    let counts = spread(120, &backends(3), json!({}));
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
    let turns = json!({ "algorithm": "round_robin", "weights": [3, 1, 0] });
    assert_eq!(spread(40, &backends(3), turns), [30, 10, 0]);
    let mut counts = spread(20, &backends(3), json!({ "algorithm": "source" }));
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 20]);
}

#[test]
fn fewest_requests_count_at_a_socket_too() {
    let (one, two) = (Backend::unix(), Backend::new());
    let arguments = json!({ "algorithm": "least_connections" });
    let daemon = Daemon::proxying(rule_to(&[&one.target, &two.target], arguments));
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = daemon.connect();
        client.send(get("a.com", "/"));
        open.push(client);
        let count = open.len() as u64;
        eventually("it is under way", || {
            let all = daemon.api().get("/backends/");
            let open = all
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(_, it)| it["open_requests"].as_u64());
            open.sum::<u64>() == count
        });
    }
    let mut servers = [one.accept(), one.accept(), two.accept(), two.accept()];
    for server in &mut servers {
        server.expect_head();
    }
}

#[test]
fn places_at_a_socket_are_counted_over_shards() {
    let backend = Arc::new(Backend::unix());
    let rule = backend.rule_with(json!({ "max_connections": 1 }));
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let mut waiting: Vec<Connection> = (0..6).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.send(get("a.com", "/"));
    }
    let mut api = daemon.api();
    eventually("all others wait", || crate::spin::metric(&mut api, "requests_queued") == 6.0);
    backend.expect_no_connection();
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst");
    assert_eq!(client.expect_answer().text(), "first");
    drop(server);
    for _ in 0..6 {
        let mut server = backend.accept();
        backend.expect_no_connection();
        server.expect_head();
        server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnext");
    }
    for client in &mut waiting {
        assert_eq!(client.expect_answer().text(), "next");
    }
}

/// A kept connection that the backend has closed costs no request.
#[test]
fn dead_kept_connection_is_no_error() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(ok("first"));
    assert_eq!(client.expect_answer().text(), "first");
    // The request finds the connection alive, and it ends before a byte of the response.
    client.send(get("a.com", "/again"));
    server.expect_request("GET /again HTTP/1.1");
    drop(server);
    let mut server = backend.accept();
    server.expect_request("GET /again HTTP/1.1");
    server.send(ok("again"));
    assert_eq!(client.expect_answer().text(), "again");
}
