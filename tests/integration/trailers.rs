//! Trailers: in answers none makes an end of a good one, in requests those of a proxy and of the
//! connection stay here. Wherever the segments end.

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, asked_for};
use crate::message::{get, ok};
use crate::script::Connection;

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Named\r\n\r\n";
const BODY: &str = "5\r\nhello\r\n0\r\n";

/// A client's request that has arrived at the backend.
struct Scene {
    _daemon: Daemon,
    client: Connection,
    server: Connection,
    backend: Backend,
}

fn scene() -> Scene {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (client, server) = asked(&daemon, &backend);
    Scene { _daemon: daemon, client, server, backend }
}

const PASSING: [&str; 8] = [
    "X-Request-Id",
    "X-Real-Ip",
    "Forwarded",
    "X-Forwarded-For",
    "Host",
    "Expect",
    "Grpc-Status",
    "Date",
];
const STAYING: [&str; 9] = [
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Upgrade",
    "Trailer",
    "X-Named",
];

#[test]
fn trailers_of_a_response_end_nothing() {
    let Scene { _daemon, mut client, mut server, backend } = scene();
    for name in PASSING.into_iter().chain(STAYING) {
        let trailer = format!("{name}: 5");
        for slowly in [false, true] {
            server.send(CHUNKED);
            client.expect_status(200);
            let rest = format!("{BODY}{trailer}\r\nX-Last: 1\r\n\r\n");
            if slowly {
                server.send_slowly(rest);
            } else {
                server.send(rest);
            }
            let chunks = client.expect_chunked();
            assert_eq!(chunks.data, b"hello", "{name}");
            let passes = PASSING.contains(&name);
            let expected = [trailer.as_str(), "X-Last: 1"];
            assert_eq!(chunks.trailers, expected[usize::from(!passes)..], "{name}");
            // both connections live on
            client.send(get("a.com", "/"));
            server.expect_head();
        }
    }
    backend.expect_no_connection();
}

#[test]
fn a_trailer_that_came_with_the_head_passes_as_well() {
    let Scene { _daemon, mut client, mut server, .. } = scene();
    for name in ["X-Request-Id", "Content-Length"] {
        server.send(format!("{CHUNKED}{BODY}{name}: 5\r\n\r\n"));
        client.expect_status(200);
        let chunks = client.expect_chunked();
        assert_eq!(
            (chunks.data.as_slice(), chunks.trailers.len()),
            (&b"hello"[..], usize::from(name == "X-Request-Id"))
        );
        client.send(get("a.com", "/"));
        server.expect_head();
    }
}

#[test]
fn an_answer_to_an_old_client_ends_well_for_all_trailers() {
    for name in ["X-Request-Id", "Host", "Content-Length"] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let (mut client, mut server) =
            asked_for(&daemon, &backend, "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
        server.send(format!("{CHUNKED}{BODY}{name}: 5\r\n\r\n"));
        assert_eq!(client.expect_answer().text(), "hello", "{name}");
    }
}

/// What the backend gets of these trailers.
#[track_caller]
fn uploaded(
    client: &mut Connection,
    server: &mut Connection,
    fields: &str,
    trailers: &str,
    slowly: bool,
) -> Vec<String> {
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n{fields}\r\n"
    ));
    let body = format!("{BODY}{trailers}\r\n");
    if slowly {
        client.send_slowly(body);
    } else {
        client.send(body);
    }
    server.expect_head();
    let chunks = server.expect_chunked();
    assert_eq!(chunks.data, b"hello");
    server.send(ok(""));
    client.expect_answer().expect_status(200);
    chunks.trailers
}

#[test]
fn trailers_of_a_request_pass_as_its_fields_do() {
    let backend = Backend::new();
    let daemon = Setup::new().internal().rule("a.com", backend.rule()).start();
    let trailers = "X-Request-Id: 1\r\nX-Forwarded-For: 2\r\nx_forwarded.by: 3\r\nForwarded: 4\r\n\
                    Client-IP: 5\r\nX-Named: 6\r\nX-Sum: 7\r\nX!Real!IP: 8\r\n";
    let named = "Connection: x-named, X-Forwarded-For\r\n";
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(ok(""));
    client.expect_answer().expect_status(200);
    let mut terminator = daemon.connect_internal();
    for slowly in [false, true] {
        let found = uploaded(&mut client, &mut server, named, trailers, slowly);
        assert_eq!(found, ["X-Request-Id: 1", "X-Sum: 7"]);
        let found = uploaded(&mut terminator, &mut server, named, trailers, slowly);
        let all: Vec<&str> = trailers.lines().filter(|line| !line.starts_with("X-Named")).collect();
        assert_eq!(found, all);
        let none =
            uploaded(&mut client, &mut server, named, "X-Named: 1\r\nForwarded: 2\r\n", slowly);
        assert_eq!(none, [""; 0]);
    }
}

#[test]
fn trailers_that_frame_or_route_a_request_are_refused() {
    for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection"] {
        let backend = Backend::new();
        let daemon = Daemon::proxying(backend.rule());
        let mut client = daemon.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}{name}: 5\r\n\r\n"
        ));
        client.expect_status(400);
        backend.expect_no_connection();
    }
}
