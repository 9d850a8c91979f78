//! Unix sockets that are not there, not for us, full, or gone: what the client gets, what the log
//! says, and the way back.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::access_log::{logging, wait_for};
use crate::backend::{Backend, rule_to};
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::spin::expect_held;

fn rule(path: &Path, arguments: Value) -> Value {
    rule_to(&[&json!(format!("unix:{}", path.display()))], arguments)
}

fn state(daemon: &Daemon, path: &Path) -> Value {
    daemon.api().get("/backends/")[format!("unix:{}", path.display())].clone()
}

#[test]
fn socket_that_can_t_be_reached_is_named_with_the_reason() {
    let setup = Setup::new();
    let (missing, stale) = (setup.path("missing.sock"), setup.path("stale.sock"));
    let (datagram, folder) = (setup.path("datagram.sock"), setup.path("state.json/x.sock"));
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    let _datagram = UnixDatagram::bind(&datagram).expect("a socket");
    let (setup, log) = logging(setup);
    let daemon = setup.start();
    let mut count = 0;
    for (path, reason, sentence) in [
        (&missing, "no_socket", "there is no such socket"),
        (&folder, "no_socket", "there is no such socket"),
        (&stale, "refused", "connection refused"),
        (&datagram, "no_stream_socket", "the socket is none for streams"),
    ] {
        daemon.api().put("/hostname/a.com/", &rule(path, json!({})));
        for _ in 0..3 {
            assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
            count += 1;
        }
        let line = wait_for(&log, count).pop().expect("a line");
        let found = ["termination", "reason", "backend"].map(|key| line[key].clone());
        let backend = format!("unix:{}", path.display());
        assert_eq!(found, ["no_backend", reason, &backend].map(Value::from));
        daemon.expect_log(&[&backend, "is ejected: 3 connections in a row", sentence]);
        eventually("its failures are counted", || {
            let found = state(&daemon, path);
            (&found["state"], &found["failures"]) == (&json!("ejected"), &json!(3))
        });
    }
}

/// A user who may not connect is told so; root always may.
#[test]
fn socket_for_others_is_named_as_such() {
    if nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: root may connect to any socket");
    }
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    let backend = Backend::unix_at(setup.path("app.sock"));
    let none = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(backend.path(), none).expect("no rights");
    let daemon = setup.rule("a.com", backend.rule()).start();
    for _ in 0..3 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    }
    daemon.expect_log(&["is ejected: 3 connections in a row", "permission denied"]);
}

#[test]
fn other_backends_take_the_place_of_a_missing_socket() {
    let setup = Setup::new();
    let backend = Backend::unix().serve_text("served");
    let missing = json!(format!("unix:{}", setup.path("missing.sock").display()));
    let arguments = json!({ "attempts": 2, "delay": 0, "algorithm": "round_robin" });
    let daemon = setup.rule("a.com", rule_to(&[&missing, &backend.target], arguments)).start();
    for _ in 0..10 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "served");
    }
}

/// A listener that takes one connection and no more before it accepts.
fn with_short_queue(path: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(path).expect("a path")).expect("bound");
    socket.listen(0).expect("listening");
    socket
}

#[test]
fn full_queue_is_waited_for() {
    let setup = Setup::new();
    let path = setup.path("app.sock");
    let listener = with_short_queue(&path);
    let first = UnixStream::connect(&path).expect("a connection in the queue");
    let (setup, log) = logging(setup.rule("a.com", rule(&path, json!({}))));
    let daemon = setup.set("timeout_connect", "60s").start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    eventually("it is under way", || state(&daemon, &path)["open_requests"] == 1);
    client.expect_nothing_within(std::time::Duration::from_millis(100));
    drop((first, listener.accept().expect("the first connection")));
    let (server, _) = listener.accept().expect("that of the daemon");
    let mut server = crate::script::Connection::of_backend(server.into());
    server.expect_request("GET / HTTP/1.1");
    server.send(ok("served"));
    assert_eq!(client.expect_answer().text(), "served");
    assert_eq!(wait_for(&log, 1)[0]["termination"], "complete");
}

#[test]
fn queue_that_stays_full_gets_502_after_timeout_connect() {
    let setup = Setup::new();
    let path = setup.path("app.sock");
    let _listener = with_short_queue(&path);
    let _first = UnixStream::connect(&path).expect("a connection in the queue");
    let (setup, log) = logging(setup.rule("a.com", rule(&path, json!({}))));
    let daemon = setup.set("timeout_connect", "150ms").start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    let line = wait_for(&log, 1).pop().expect("a line");
    assert_eq!(
        (&line["termination"], &line["reason"]),
        (&json!("no_backend"), &json!("queue_full"))
    );
}

#[test]
fn request_is_held_until_the_socket_is_there() {
    let setup = Setup::new().set("shards", 2);
    let path = setup.path("app.sock");
    let daemon = setup.rule("a.com", rule(&path, json!({ "hold": 60 }))).start();
    let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(get("a.com", "/"));
    }
    expect_held(&mut daemon.api(), "a.com", 3);
    let backend = Backend::unix_at(path).serve_text("served");
    for client in &mut clients {
        assert_eq!(client.expect_answer().text(), "served");
    }
    assert_eq!(backend.requests(), 3);
}

#[test]
fn application_that_starts_anew_at_its_path_is_found() {
    let setup = Setup::new();
    let path = setup.path("app.sock");
    let first = Backend::unix_at(path.clone());
    let daemon = setup.rule("a.com", rule(&path, json!({}))).start();
    let (mut client, mut server) = asked(&daemon, &first);
    server.send(ok("first"));
    assert_eq!(client.expect_answer().text(), "first");
    drop((server, first));
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(client.exchange(get("a.com", "/")).status(), 502);
    let second = Backend::unix_at(path);
    client.send(get("a.com", "/"));
    let mut server = second.accept();
    server.expect_head();
    server.send(ok("second"));
    assert_eq!(client.expect_answer().text(), "second");
}

#[test]
fn check_connects_to_a_socket_or_asks_it() {
    let setup = Setup::new();
    let (tcp, http) = (setup.path("tcp.sock"), setup.path("http.sock"));
    let daemon = setup
        .rule("tcp.com", rule(&tcp, json!({ "check": "tcp" })))
        .rule("http.com", rule(&http, json!({ "check": "/up" })))
        .start();
    for path in [&tcp, &http] {
        daemon.expect_log(&[&path.display().to_string(), "is down: ", "there is no such socket"]);
    }
    let _tcp = Backend::unix_at(tcp.clone());
    let answering = Backend::unix_at(http.clone()).serve_text("up");
    for path in [&tcp, &http] {
        eventually("it is up", || state(&daemon, path)["state"] == "up");
    }
    let head = answering.take_heads().remove(0);
    assert_eq!((head.target(), head.field("Host")), ("/up", Some("http.com")));
}

/// What is known of a socket goes along to the daemon that takes over, as do those who are under
/// way there.
#[test]
fn upgrade_knows_what_was_known_of_a_socket() {
    let setup = Setup::new();
    let missing = setup.path("missing.sock");
    let backend = Backend::unix();
    let mut daemon = setup
        .rule("missing.com", rule(&missing, json!({ "check": "tcp" })))
        .rule("a.com", backend.rule_with(json!({ "max_connections": 1 })))
        .start();
    eventually("it is down", || state(&daemon, &missing)["state"] == "down");
    let since = state(&daemon, &missing)["since"].clone();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    let found = state(&daemon, &missing);
    assert_eq!((&found["state"], &found["since"]), (&json!("down"), &since), "{found}");
    // The one place at the other is taken, by the daemon before.
    let mut second = daemon.connect();
    second.send(get("a.com", "/second"));
    let mut api = daemon.api();
    eventually("it waits", || crate::spin::metric(&mut api, "requests_queued") == 1.0);
    backend.expect_no_connection();
    // A change that removes the socket waits for what is under way there.
    let mut asker = daemon.api();
    let other = json!(["empty", { "code": 403 }, true]);
    let request = asker.request("PUT", "/hostname/a.com/?wait=drained", "", &other.to_string());
    asker.wire.send(request);
    asker.wire.expect_nothing_within(std::time::Duration::from_millis(50));
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst");
    assert_eq!(client.expect_answer().text(), "first");
    drop(server);
    let mut server = backend.accept();
    server.expect_request("GET /second HTTP/1.1");
    server.send(ok("second"));
    assert_eq!(second.expect_answer().text(), "second");
    assert_eq!(asker.wire.expect_answer().json(), json!({ "ok": true, "drained": true }));
}

/// What is left at a socket is said by its name.
#[test]
fn change_names_the_socket_that_is_not_free() {
    let backend = Backend::unix();
    let daemon = Daemon::proxying(backend.rule());
    let (_client, _server) = asked_for(&daemon, &backend, get("a.com", "/"));
    let path = "/hostname/a.com/?wait=drained&timeout=50ms";
    let answer = daemon.api().tell("PUT", path, &json!(["empty", { "code": 403 }, true])).json();
    let target = backend.target.as_str().expect("a Unix socket");
    assert_eq!(answer, json!({ "ok": true, "drained": false, "in_flight": { target: 1 } }));
}
