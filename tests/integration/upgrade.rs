//! SIGUSR2: a new daemon takes over and nobody notices, or it does not and nothing has happened.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::backend::{Backend, closed_port};
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::{expect_held, spin};

#[track_caller]
fn expect_gone(daemon: &mut Daemon) {
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
    let status = daemon.has_exited().expect("its status");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn open_connections_go_on() {
    let backend = Backend::new().serve_text("hello");
    let mut daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", backend.rule())
        .rule("empty.com", json!(["empty", { "code": 403 }, false]))
        .start();
    let mut clients: Vec<Connection> = (0..20).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    }
    let mut silent = daemon.connect();
    let mut halfway = daemon.connect();
    halfway.send("GET / HTTP/1.1\r\nHost: em");
    daemon.upgrade();
    expect_gone(&mut daemon);
    for client in &mut clients {
        assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
    }
    assert_eq!(silent.exchange(get("empty.com", "/")).status(), 403);
    halfway.send("pty.com\r\n\r\n");
    assert_eq!(halfway.expect_answer().status(), 403);
    assert_eq!(daemon.connect().exchange(get("empty.com", "/")).status(), 403);
}

#[test]
fn an_exchange_under_way_is_finished_and_its_connection_goes_on() {
    let backend = Backend::new();
    let mut daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    client.expect_nothing_more();
    server.send(ok("finished"));
    let answer = client.expect_answer();
    assert_eq!(answer.text(), "finished");
    assert!(!answer.head.says_close(), "{:#?}", answer.head);
    expect_gone(&mut daemon);
    client.send(get("a.com", "/again"));
    let mut server = backend.accept();
    server.expect_request("GET /again HTTP/1.1");
    server.send(ok("again"));
    assert_eq!(client.expect_answer().text(), "again");
}

#[test]
fn held_requests_are_held_on_in_their_order() {
    let backend = Backend::new();
    let mut daemon = Setup::new().rule("a.com", spin(json!({}))).start();
    let mut clients = Vec::new();
    let mut api = daemon.api();
    for number in 0..6_u64 {
        let mut client = daemon.connect();
        client
            .send(format!("POST /{number} HTTP/1.1\r\nHost: a.com\r\nContent-Length: 4\r\n\r\nbo"));
        clients.push(client);
        expect_held(&mut api, "a.com", number + 1);
    }
    daemon.upgrade();
    expect_gone(&mut daemon);
    let mut api = daemon.api();
    expect_held(&mut api, "a.com", 6);
    let mut late = daemon.connect();
    late.send(get("a.com", "/6"));
    expect_held(&mut api, "a.com", 7);
    // one that leaves is noticed by the new daemon
    drop(clients.remove(2));
    expect_held(&mut api, "a.com", 6);
    let mut rule = backend.rule();
    rule[1]["max_connections"] = json!(1);
    api.put("/hostname/a.com/", &rule);
    for client in &mut clients {
        client.send("dy");
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let mut server = backend.accept();
        let head = server.expect_head();
        order.push(head.target().to_owned());
        if head.target() != "/6" {
            server.expect_body("body");
        }
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    assert_eq!(order, ["/0", "/1", "/3", "/4", "/5", "/6"]);
    for mut client in clients.into_iter().chain([late]) {
        assert_eq!(client.expect_answer().status(), 200);
    }
}

#[test]
fn raw_connections_are_held_on() {
    let backend = Backend::new();
    let mut daemon =
        Setup::new().add("bind_tcp", "127.0.0.1:0 db.com").rule("db.com", spin(json!({}))).start();
    let mut client = Connection::client(daemon.raw_address("TCP"));
    client.send("hello");
    expect_held(&mut daemon.api(), "db.com", 1);
    daemon.upgrade();
    expect_gone(&mut daemon);
    let mut api = daemon.api();
    expect_held(&mut api, "db.com", 1);
    api.put("/hostname/db.com/", &backend.rule());
    let mut server = backend.accept();
    server.expect_body("hello");
    server.send("world");
    client.expect_body("world");
}

#[test]
fn the_table_and_the_counters_go_on() {
    let mut daemon = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])).start();
    let mut api = daemon.api();
    api.put("/hostname/b.com/", &json!(["empty", { "code": 402 }, false]));
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    api.counted("a.com", 1);
    drop(api);
    daemon.upgrade();
    let mut api = daemon.api();
    assert_eq!(api.get("/hostname/b.com/")[1]["code"], 402);
    assert_eq!(api.get("/stats/a.com/")["completed_requests"], 1);
    api.put("/hostname/c.com/", &json!(["empty", { "code": 401 }, false]));
    assert_eq!(daemon.connect().exchange(get("c.com", "/")).status(), 401);
    expect_gone(&mut daemon);
    // and once more, from the one that took over
    drop(api);
    daemon.upgrade();
    assert_eq!(daemon.api().get("/hostname/c.com/")[1]["code"], 401);
}

#[test]
fn new_daemon_may_have_other_shards_and_addresses() {
    let setup =
        Setup::new().set("shards", 3).rule("a.com", json!(["empty", { "code": 403 }, false]));
    let mut daemon = setup.clone().start();
    let second = SocketAddr::from(([127, 0, 0, 1], closed_port()));
    for shards in [1, 4] {
        setup.clone().set("shards", shards).add("bind", second).write_files();
        daemon.upgrade();
        for _ in 0..30 {
            assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
            assert_eq!(Connection::client(second).exchange(get("a.com", "/")).status(), 403);
        }
    }
}

#[test]
fn program_that_does_not_get_ready_changes_nothing() {
    let setup = Setup::new().copied().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let mut daemon = setup.clone().start();
    let mut client = daemon.connect();
    let mut check = |daemon: &mut Daemon, code: u16| {
        daemon.expect_running();
        assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
        daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": code }, false]));
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), code);
    };
    setup.clone().set("timeout_client", "soon").write_files();
    daemon.signal("USR2");
    daemon.expect_log(&["upgrade: it did not get ready"]);
    check(&mut daemon, 401);
    setup.write_files();
    setup.replace_program(Some("exit 3"));
    daemon.signal("USR2");
    assert!(daemon.log.wait_count("Going on as if nothing had happened", 2));
    daemon.expect_log(&["upgrade: it did not get ready", "exit status: 3"]);
    check(&mut daemon, 402);
    // its end is not the first that is seen of it, and it still has to say why: nothing tells it
    // that it was seen to let go, and without a pause a daemon that kills it at once might come too
    // late
    setup.replace_program(Some("exec 0<&-; sleep 0.3; echo last words >&2; exit 4"));
    daemon.signal("USR2");
    daemon.expect_log(&["exit status: 4"]);
    daemon.expect_log(&["last words"]);
    check(&mut daemon, 404);
    // one that takes all, and then nothing comes of it
    setup.replace_program(Some("exec head -c 30 > /dev/null"));
    daemon.signal("USR2");
    assert!(daemon.log.wait_count("Going on as if nothing had happened", 4));
    check(&mut daemon, 405);
    // one that can't have an address that it wants besides
    setup.replace_program(None);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    setup.clone().add("bind", address).write_files();
    daemon.signal("USR2");
    daemon.expect_log(&[&format!("bind = {address}: the port is in use")]);
    assert!(daemon.log.wait_count("Going on as if nothing had happened", 5));
    check(&mut daemon, 406);
    setup.write_files();
    daemon.upgrade();
    expect_gone(&mut daemon);
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 406);
}

/// Its minute is waited for; the old daemon serves, takes changes and hears its operator meanwhile.
#[test]
fn program_that_hangs_changes_nothing() {
    let setup = Setup::new().copied().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let path = setup.path("access.log");
    let setup = setup.set("access_log", path.display()).set("timeout_http_keep_alive", "1h");
    let mut daemon = setup.clone().start();
    setup.replace_program(Some("exec sleep 1000"));
    daemon.signal("USR2");
    daemon.expect_log(&["is to take over"]);
    let mut client = daemon.connect();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": 401 }, false]));
    daemon.signal("USR1");
    daemon.expect_log(&["access_log", "opened anew"]);
    daemon.signal("HUP");
    let patience = Duration::from_secs(75);
    assert!(daemon.log.wait_count_for("it was not ready after 60s", 1, patience), "it is given up");
    daemon.expect_log(&["Going on as if nothing had happened"]);
    let begun = daemon.log.text();
    let begun = begun.split_once("process ").and_then(|(_, rest)| rest.split(' ').next());
    let process = begun.and_then(|pid| pid.parse().ok()).expect("its number");
    let is_gone = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None).is_err();
    eventually("it is ended", is_gone);
    // the reload waited, and is one: the program that hangs is not tried a second time by itself
    daemon.expect_log(&["SIGHUP", "in force"]);
    assert!(!daemon.log.text().contains("there is a new program"));
    assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 401);
    daemon.expect_running();
}

#[test]
fn last_counts_of_the_old_daemon_are_not_lost() {
    let backend = Backend::new();
    let setup = Setup::new().set("shards", 2).rule("a.com", backend.rule());
    let state = setup.path("state.json");
    let mut daemon = setup.rule("b.com", json!(["empty", { "code": 403 }, false])).start();
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 403);
    let (mut client, mut server) = asked(&daemon, &backend);
    daemon.upgrade();
    // the new one counts as well, before it is told
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 403);
    let mut api = daemon.api();
    assert_eq!(api.get("/stats/a.com/")["completed_requests"], 0);
    server.send(ok("finished"));
    assert_eq!(client.expect_answer().text(), "finished");
    expect_gone(&mut daemon);
    let count = |api: &mut crate::manage::Api, host: &str, what: &str| {
        api.get(&format!("/stats/{host}/"))[what].as_u64().expect(what)
    };
    eventually("it is told", || count(&mut api, "a.com", "completed_requests") == 1);
    assert!("finished".len() < count(&mut api, "a.com", "bytes_sent") as usize);
    assert_eq!(count(&mut api, "b.com", "completed_requests"), 2);
    // and they are on disk in the end
    daemon.terminate();
    assert!(daemon.log.wait_count("Stopped after", 2));
    let text = std::fs::read_to_string(state).expect("a state file");
    let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(state["stats"]["a.com"]["completed_requests"], 1, "{text}");
    assert_eq!(state["stats"]["b.com"]["completed_requests"], 2, "{text}");
}

/// What `systemctl reload` sends after a package was installed.
#[test]
fn a_reload_with_a_new_program_is_an_upgrade() {
    let setup = Setup::new().copied().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let mut daemon = setup.clone().start();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    setup.replace_program(None);
    daemon.signal("HUP");
    daemon.expect_log(&["there is a new program"]);
    assert!(daemon.log.wait_count("has taken over", 1));
    expect_gone(&mut daemon);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
}

#[test]
fn a_stop_meanwhile_is_heard() {
    let setup = Setup::new().copied().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let mut daemon = setup.clone().start();
    setup.replace_program(Some("exec sleep 1000"));
    daemon.signal("USR2");
    daemon.expect_log(&["is to take over"]);
    daemon.terminate();
    daemon.expect_clean_exit();
}

/// Each sort of client, without a pause; not one request may fail. `MANTRID_UPGRADES` says how
/// often.
#[test]
fn upgrade_under_load_loses_no_request() {
    let times = std::env::var("MANTRID_UPGRADES").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let backend = Backend::new().serve_text("hello");
    let mut daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", backend.rule())
        .rule("held.com", spin(json!({})))
        .start();
    let mut held: Vec<Connection> = (0..10)
        .map(|_| {
            let mut client = daemon.connect();
            client.send(get("held.com", "/"));
            client
        })
        .collect();
    expect_held(&mut daemon.api(), "held.com", 10);
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = daemon.address();
    let count = || answered.fetch_add(1, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..3 {
            threads.push(scope.spawn(|| {
                let mut client = Connection::client(address);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
                    count();
                }
            }));
            threads.push(scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut client = Connection::client(address);
                    assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
                    count();
                }
            }));
        }
        let mut last = 0;
        for _ in 0..times {
            daemon.upgrade();
            let is_served = || last + 20 < answered.load(Ordering::Relaxed);
            eventually("requests are answered", || {
                is_served() || threads.iter().any(|thread| thread.is_finished())
            });
            last = answered.load(Ordering::Relaxed);
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        // Whoever waits now must not be helped by those who come later.
    });
    eprintln!("{} requests during {times} upgrades", answered.load(Ordering::Relaxed));
    let mut api = daemon.api();
    expect_held(&mut api, "held.com", 10);
    api.put("/hostname/held.com/", &backend.rule());
    for client in &mut held {
        assert_eq!(client.expect_answer().text(), "hello");
    }
}
