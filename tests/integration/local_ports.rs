//! A machine that has no port left for connections to backends: no backend is to blame.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use crate::daemon::{Setup, eventually};
use crate::message::{get, ok};
use crate::script::{Connection, PATIENCE};
use crate::spin::metric;

const UP: &str = "ip link set lo up && echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range";

/// Runs `act` in the network of the process.
fn inside(pid: u32, act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let network =
                    std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("its network");
                nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
                act();
            })
            .join()
            .expect("what is done inside");
    });
}

/// A client with a port that is none of the two.
fn client(port: u16) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("its port");
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], 80)).into()).expect("a connection");
    Connection::new("client", socket.into())
}

/// The next connection of the daemon.
fn accept(listener: &TcpListener) -> Connection {
    SockRef::from(listener).set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Connection::new("backend", listener.accept().expect("a connection").0)
}

#[test]
fn backend_is_not_blamed_for_a_want_of_ports() {
    let tried = Command::new("unshare").args(["-n", "sh", "-c", UP]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: a network of one's own is not allowed here: {tried:?}");
        return;
    }
    let first = format!("exec unshare -n sh -c '{UP} && exec \"$0\" \"$@\"' \"$0\" \"$@\"; false");
    let one = json!(["proxy", {"backends": ["127.0.0.1:7001"]}, false]);
    let two = json!(["proxy", {"backends": ["127.0.0.1:7001", "127.0.0.1:7002"]}, false]);
    let setup = Setup::new().set("bind", "127.0.0.1:80").rule("one.com", one).rule("two.com", two);
    let log = setup.path("access.log");
    let daemon = setup.set("access_log", log.display()).first(first).start();
    let mut api = daemon.api();
    let (done, is_done) = channel::<()>();
    inside(daemon.pid(), move || {
        let busy = TcpListener::bind("127.0.0.1:7001").expect("a backend");
        let free = TcpListener::bind("127.0.0.1:7002").expect("a backend");
        // Both ports go to the first backend.
        let mut taken: Vec<(Connection, Connection)> = (0..2)
            .map(|n| {
                let mut client = client(50_000 + n);
                client.send(get("one.com", "/"));
                let mut server = accept(&busy);
                server.expect_head();
                (client, server)
            })
            .collect();
        for n in 0..5 {
            let mut client = client(50_010 + n);
            assert_eq!(client.exchange(get("one.com", "/")).status(), 503);
        }
        // Another backend, to which a port is free, is tried at once.
        let mut other = None;
        for n in 0..8 {
            let mut client = client(50_020 + n);
            client.send(get("two.com", "/"));
            let server = other.get_or_insert_with(|| accept(&free));
            server.expect_head();
            server.send(ok("hi"));
            assert_eq!(client.expect_answer().text(), "hi");
        }
        let (mut first, mut server) = taken.pop().expect("one");
        server.send(ok("at last"));
        assert_eq!(first.expect_answer().text(), "at last");
        let mut again = client(50_030);
        again.send(get("one.com", "/"));
        server.expect_head();
        server.send(ok("again"));
        assert_eq!(again.expect_answer().text(), "again");
        done.send(()).expect("told");
    });
    is_done.recv().expect("it went well");
    eventually("it is counted", || metric(&mut api, "shed_total{reason=\"local_connect\"}") == 5.0);
    assert_eq!(metric(&mut api, "connect_failures_total"), 0.0);
    eventually("it is logged", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.matches("\"termination\":\"no_connection\"").count() == 5
    });
}
