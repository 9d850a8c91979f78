//! What an upgrade takes along besides connections, and what the old daemon still has to do:
//! nothing of it is lost, done twice or out of sight.

use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::backend::{Backend, closed_port, held_port, rule_for};
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, spin};
use crate::tunnel::tunnelled;

#[track_caller]
pub fn expect_gone(daemon: &mut Daemon) {
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
}

/// A mount that gives the daemon files of its own in `/etc`, where that is allowed.
fn mounted(setup: &Setup, files: &[&str]) -> Option<String> {
    let mounts: Vec<String> = files
        .iter()
        .map(|name| format!("mount --bind {} /etc/{name}", setup.path(name).display()))
        .collect();
    let mounts = mounts.join(" && ");
    let tried = Command::new("unshare").args(["-m", "sh", "-c", &mounts]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: names of its own are not allowed here: {tried:?}");
        return None;
    }
    Some(mounts)
}

/// A daemon to be whose `/etc/hosts` is this text, and that file, where that is allowed.
pub fn with_hosts(text: &str) -> Option<(Setup, PathBuf)> {
    let setup = Setup::new();
    let hosts = setup.path("hosts");
    std::fs::write(&hosts, text).expect("a file of hosts");
    let mount = mounted(&setup, &["hosts"])?;
    Some((setup.first_unshared(mount), hosts))
}

/// Names are not found any more when the new daemon starts: it goes on with what the old one knew.
#[test]
fn addresses_of_names_go_along() {
    let Some((setup, hosts)) = with_hosts("127.0.0.1 app.invalid\n") else { return };
    let backend = Backend::new().serve_text("hello");
    let rule = json!(["proxy", {"backends": [["app.invalid", backend.port]]}, true]);
    let mut daemon = setup.rule("a.com", rule).start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "hello");
    std::fs::write(&hosts, "").expect("a file of hosts");
    for _ in 0..2 {
        daemon.upgrade();
        expect_gone(&mut daemon);
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "hello");
    }
    assert!(daemon.log.wait_count("going on with 127.0.0.1", 1));
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "hello");
}

/// A refused connection asks for a new lookup: the usual one is half a minute away.
#[test]
fn a_refused_connection_has_its_name_looked_up() {
    let Some((setup, hosts)) = with_hosts("127.0.0.2 app.invalid\n") else { return };
    let backend = Backend::new().serve_text("hello");
    let port = backend.port;
    let rule = json!(["proxy", {"backends": [["app.invalid", port]]}, true]);
    let late = json!(["proxy", {"backends": [["late.invalid", port]]}, true]);
    let daemon = setup.rule("a.com", rule).rule("late.com", late).start();
    for host in ["a.com", "late.com"] {
        assert_eq!(daemon.connect().exchange(get(host, "/")).status(), 502);
    }
    std::fs::write(&hosts, "127.0.0.1 app.invalid\n127.0.0.1 late.invalid\n").expect("a file");
    // one whose address refuses, and one that has none
    for host in ["a.com", "late.com"] {
        eventually("it is found", || daemon.connect().exchange(get(host, "/")).status() == 200);
    }
}

/// A probe that fails asks for a new lookup, too: no request has to fail first.
#[test]
fn a_failing_probe_has_its_name_looked_up() {
    let Some((setup, hosts)) = with_hosts("127.0.0.2 app.invalid\n") else { return };
    let backend = Backend::new().serve_text("hello");
    let port = backend.port;
    let rule = json!(["proxy", {"backends": [["app.invalid", port]], "check": "tcp"}, true]);
    let daemon = setup.rule("a.com", rule).start();
    let is = |ip: &str, state: &str| {
        daemon.api().get("/backends/")[format!("{ip}:{port}")]["state"] == state
    };
    eventually("it is down", || is("127.0.0.2", "down"));
    std::fs::write(&hosts, "127.0.0.1 app.invalid\n").expect("a file of hosts");
    eventually("it is found", || is("127.0.0.1", "up"));
}

/// An address that answers nothing is not waited for alone.
#[test]
fn a_silent_address_is_passed_over() {
    let Some((setup, _hosts)) = with_hosts("127.0.0.1 two.invalid\n127.0.0.2 two.invalid\n") else {
        return;
    };
    let backend = Backend::new().serve(|_, connection| {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        drop(connection.try_send(answer));
    });
    // its queue is full: the kernel drops what comes
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = SocketAddr::from(([127, 0, 0, 2], backend.port));
    silent.bind(&address.into()).expect("a free address");
    silent.listen(0).expect("a listener");
    let full: Vec<_> = (0..4)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok())
        .collect();
    assert!(full.len() < 4, "the queue is never full");
    let rule = |is_checked: bool| {
        let backends = json!([["two.invalid", backend.port]]);
        json!(["proxy", {"backends": backends, "healthcheck": is_checked}, false])
    };
    let setup =
        setup.set("timeout_connect", "60s").rule("a.com", rule(true)).rule("b.com", rule(false));
    let daemon = setup.start();
    let mut client = daemon.connect();
    for _ in 0..12 {
        assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
        assert_eq!(client.exchange(get("b.com", "/")).text(), "hello");
    }
}

/// A resolver that answers some names and says nothing of others.
fn resolver() -> Option<(SocketAddr, std::net::UdpSocket)> {
    let own = std::process::id();
    let ip = [127, 77, (own >> 8) as u8, own as u8];
    let address = SocketAddr::from((ip, 53));
    match std::net::UdpSocket::bind(address) {
        Ok(socket) => Some((address, socket)),
        Err(error) => {
            eprintln!("skipped: no port for a resolver: {error}");
            None
        }
    }
}

/// Answers A with 127.0.0.1, other types with nothing; of names under `dead` never.
fn answer(socket: &std::net::UdpSocket) {
    let mut room = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut room) {
        let question = &room[..count];
        if question.windows(5).any(|word| word == b"\x04dead") || count < 17 {
            continue;
        }
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
        let is_a = question[end - 4..end - 2] == [0, 1];
        let mut text = question[..2].to_vec();
        text.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        text.extend(&question[12..end]);
        if is_a {
            text.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        let _ = socket.send_to(&text, from);
    }
}

/// However many names time out, others are found, a new rule's at once.
#[test]
fn names_that_time_out_hold_up_nobody() {
    let setup = Setup::new();
    let Some((address, socket)) = resolver() else { return };
    std::fs::write(setup.path("resolv.conf"), format!("nameserver {}\n", address.ip()))
        .expect("a file");
    std::fs::write(setup.path("hosts"), "").expect("a file");
    std::fs::write(setup.path("nsswitch.conf"), "hosts: files dns\n").expect("a file");
    let Some(mount) = mounted(&setup, &["resolv.conf", "hosts", "nsswitch.conf"]) else { return };
    std::thread::spawn(move || answer(&socket));
    let backend = Backend::new().serve_text("hello");
    let rule = |name: &str| json!(["proxy", {"backends": [[name, backend.port]]}, true]);
    let mut setup = setup;
    for number in 0..200 {
        setup = setup.rule(&format!("dead{number}.com"), rule(&format!("x{number}.dead.invalid")));
    }
    let mut daemon = setup.rule("a.com", rule("a.good.invalid")).first_unshared(mount).start();
    eventually("it is found", || daemon.connect().exchange(get("a.com", "/")).status() == 200);
    let began = std::time::Instant::now();
    daemon.api().put("/hostname/new.com/", &rule("new.good.invalid"));
    assert_eq!(daemon.connect().exchange(get("new.com", "/")).text(), "hello");
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for the others");
    daemon.upgrade();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "hello");
    assert_eq!(daemon.connect().exchange(get("new.com", "/")).text(), "hello");
}

/// One that hangs is known to: nobody has to find out again.
#[test]
fn health_goes_along() {
    let (hung, well) = (Backend::new(), Backend::new().serve_text("well"));
    let rule = rule_for(&[hung.port, well.port], json!({"check": "/up"}));
    let gone = rule_for(
        &[closed_port(), well.port],
        json!({"algorithm": "round_robin", "attempts": 2, "delay": 0}),
    );
    let setup = Setup::new().set("timeout_server", "3s").rule("a.com", rule).rule("b.com", gone);
    let mut daemon = setup.start();
    daemon.expect_log(&[&format!("127.0.0.1:{} is down", hung.port)]);
    eventually("it is ejected", || {
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).text(), "well");
        daemon.log.text().contains("is ejected")
    });
    daemon.upgrade();
    expect_gone(&mut daemon);
    for _ in 0..20 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "well");
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).text(), "well");
    }
    assert_eq!(daemon.log.text().matches("is down").count(), 1);
    assert_eq!(daemon.log.text().matches("is ejected").count(), 1);
}

/// The old daemon's requests are waited for like one's own, by backend and rule.
#[test]
fn requests_in_the_old_daemon_are_waited_for() {
    let (backend, other) = (Backend::new(), Backend::new());
    let setup = Setup::new().set("shards", 2).rule("a.com", backend.rule());
    let mut daemon = setup.rule("b.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let mut elsewhere = daemon.connect();
    elsewhere.send(get("b.com", "/"));
    let mut elsewhere_server = backend.accept();
    elsewhere_server.expect_head();
    daemon.upgrade();
    let mut api = daemon.api();
    eventually("it is seen", || api.get("/stats/a.com/")["open_requests"] == 1);
    let path = "/hostname/a.com/?wait=drained&timeout=";
    let answer = api.tell("PUT", &format!("{path}200ms"), &other.rule()).json();
    let left = json!({ format!("127.0.0.1:{}", backend.port): 1 });
    assert_eq!(answer, json!({"ok": true, "drained": false, "in_flight": left}));
    api.put("/hostname/a.com/", &backend.rule());
    let mut asker = daemon.api();
    let request = asker.request("PUT", &format!("{path}60s"), "", &other.rule().to_string());
    asker.wire.send(request);
    asker.wire.expect_nothing_within(Duration::from_millis(300));
    server.send(ok("finished"));
    assert_eq!(client.expect_answer().text(), "finished");
    // that of the other rule is under way yet
    assert_eq!(asker.wire.expect_answer().json(), json!({"ok": true, "drained": true}));
    eventually("it is not open any more", || api.get("/stats/a.com/")["open_requests"] == 0);
    assert_eq!(api.get("/stats/b.com/")["open_requests"], 1);
    elsewhere_server.send(ok("finished"));
    assert_eq!(elsewhere.expect_answer().text(), "finished");
    expect_gone(&mut daemon);
    let answer = api.tell("DELETE", "/hostname/b.com/?wait=drained", &Value::Null).json();
    assert_eq!(answer["drained"], true);
}

/// A limit holds for both together.
#[test]
fn max_connections_counts_the_old_daemon_s() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"max_connections": 1}));
    let mut daemon = Setup::new().set("shards", 2).rule("a.com", rule).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    let mut second = daemon.connect();
    second.send(get("a.com", "/second"));
    assert!(backend.accept_within(Duration::from_millis(500)).is_none(), "a second connection");
    server.send(ok("finished"));
    assert_eq!(client.expect_answer().text(), "finished");
    let mut server = backend.accept();
    server.expect_request("GET /second HTTP/1.1");
    server.send(ok("second"));
    assert_eq!(second.expect_answer().text(), "second");
}

/// A host is asleep once, and is told once, whoever tells it; one with a tunnel in the old daemon
/// is not idle.
#[test]
fn wake_that_the_old_daemon_told_is_not_told_again() {
    let (waker, backend) = (Backend::new(), Backend::new());
    let url = format!("http://127.0.0.1:{}/wake", waker.port);
    let told = |expected: &str, host: &str| {
        let mut wire = waker.accept();
        let head = wire.expect_request("POST /wake HTTP/1.1");
        let length = head.field("Content-Length").expect("a length").parse().expect("a number");
        let body: Value = serde_json::from_slice(&wire.read_exactly(length)).expect("JSON");
        assert_eq!((&body["event"], &body["host"]), (&json!(expected), &json!(host)));
        wire.send("HTTP/1.1 204 No Content\r\n\r\n");
    };
    let mut daemon = Setup::new()
        .set("shards", 2)
        .rule("s.com", spin(json!({"timeout": 600, "wake": url})))
        .rule("i.com", backend.rule_with(json!({"idle": 1, "wake": url})))
        .rule("a.com", backend.rule_with(json!({"idle": 2, "wake": url})))
        .start();
    let (mut client, mut server) = tunnelled(&daemon, &backend);
    told("idle", "i.com");
    let mut waits = daemon.connect();
    waits.send(get("s.com", "/"));
    told("held", "s.com");
    daemon.expect_log(&["s.com", "was told that it is held"]);
    daemon.upgrade();
    expect_held(&mut daemon.api(), "s.com", 1);
    assert!(waker.accept_within(Duration::from_millis(4_500)).is_none(), "somebody was told again");
    client.send("x");
    server.expect_body("x");
    drop((client, server));
    told("idle", "a.com");
}

/// Under systemd all that is left of the unit is killed when its main process has gone.
#[test]
fn a_stop_waits_for_the_old_daemon() {
    let backend = Backend::new();
    let mut daemon = Setup::new().set("shards", 2).rule("a.com", backend.rule()).start();
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    let new = daemon.current_pid();
    let runs = || std::path::Path::new(&format!("/proc/{new}")).exists();
    daemon.terminate();
    eventually("nobody is taken in", || TcpStream::connect(daemon.address()).is_err());
    client.expect_nothing_within(Duration::from_millis(300));
    assert!(runs(), "it did not wait");
    server.send(ok("finished"));
    let answer = client.expect_answer();
    assert_eq!(answer.text(), "finished");
    assert!(answer.head.says_close(), "{:#?}", answer.head);
    expect_gone(&mut daemon);
    assert!(daemon.log.wait_count("Stopped after", 2));
}

/// The second signal does not wait, and the first one that the old daemon gets does not cut.
#[test]
fn a_second_stop_ends_the_old_daemon_too() {
    let backend = Backend::new();
    let mut daemon = Daemon::proxying(backend.rule());
    let (mut client, _server) = asked(&daemon, &backend);
    daemon.upgrade();
    let old = nix::unistd::Pid::from_raw(daemon.pid() as i32);
    nix::sys::signal::kill(old, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    client.expect_nothing_within(Duration::from_millis(200));
    daemon.expect_running();
    daemon.terminate();
    daemon.expect_log(&["SIGTERM: stopping"]);
    client.expect_nothing_within(Duration::from_millis(200));
    daemon.terminate();
    expect_gone(&mut daemon);
    client.expect_end();
}

/// One that is no address any more refuses; one may become part of another, and the other way
/// round.
#[test]
fn addresses_may_go_and_change() {
    let rule = json!(["empty", { "code": 403 }, false]);
    // The kernel gives these to no client, whose closed connections would be in the way of `*` for
    // a minute.
    let start = 15_000 + std::process::id() as u16 % 10_000;
    let [first, second, api] = [(); 3].map(|()| {
        let port = held_port(start..start + 2_000, Ipv6Addr::UNSPECIFIED.into());
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    let setup = Setup::new().set("shards", 2).set("bind", first).rule("a.com", rule);
    let mut daemon = setup.clone().add("bind", second).add("bind_management", api).start();
    let answers = |address: SocketAddr| {
        assert_eq!(Connection::client(address).exchange(get("a.com", "/")).status(), 403);
    };
    [first, second].into_iter().for_each(answers);
    assert!(TcpStream::connect(api).is_ok());
    setup.write_files();
    daemon.upgrade();
    expect_gone(&mut daemon);
    for gone in [second, api] {
        eventually("it is closed", || TcpStream::connect(gone).is_err());
    }
    answers(first);
    let port = first.port();
    for bind in [format!("*:{port}"), first.to_string(), format!("127.0.0.2:{port}")] {
        setup.clone().set("bind", &bind).write_files();
        daemon.upgrade();
        let at = if bind.starts_with("127.0.0.2") { ([127, 0, 0, 2], port).into() } else { first };
        eventually("the old sockets are closed", || {
            let other = SocketAddr::from(([127, 0, 0, 3], port));
            bind.starts_with('*') == TcpStream::connect(other).is_ok()
        });
        for _ in 0..10 {
            answers(at);
        }
    }
    // management as well
    let [one, all] = [api.to_string(), format!("*:{}", api.port())];
    for bind in [&one, &all, &one] {
        let setup = setup.clone().set("bind", first).add("bind_management", bind);
        setup.set("management_insecure", true).write_files();
        daemon.upgrade();
        // who comes to the old socket while it is closed is sent away
        eventually("it answers", || {
            let mut api = Connection::client(api);
            drop(api.try_send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            api.next_head().is_ok_and(|head| head.status() == 200)
        });
    }
}
