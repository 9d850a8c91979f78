//! Fleets: several daemons with one table, on a real etcd.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port};
use crate::daemon::{Daemon, Setup, eventually};
use crate::etcd::{Etcd, is_installed};
use crate::manage::Api;
use crate::message::{get, ok};

/// A node of the fleet `f` that knows these members.
pub fn node(name: &str, urls: &[String]) -> Setup {
    let mut setup = Setup::new().set("fleet", "f").set("fleet_node", name).set("fleet_start", "2s");
    for url in urls {
        setup = setup.add("fleet_endpoints", url);
    }
    setup
}

/// Waits until the watch of a node brings what happens.
#[track_caller]
pub fn connected(daemon: &Daemon) -> Api {
    // Longer than for most: a table may have to be read first.
    let until = Instant::now() + Duration::from_secs(60);
    let mut api = daemon.api();
    while api.get("/fleet/")["connected"] != true {
        assert!(Instant::now() < until, "the node does not connect");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    api
}

/// The rules of a node and their tag.
pub fn table(api: &mut Api) -> (String, Value) {
    let answer = api.ask("GET", "/hostname/").expect_status(200);
    (answer.etag(), answer.json())
}

#[track_caller]
pub fn expect_equal(apis: &mut [&mut Api]) -> (String, Value) {
    eventually("all nodes have the same table", || {
        let tables: Vec<_> = apis.iter_mut().map(|api| table(api)).collect();
        tables.iter().all(|other| *other == tables[0])
    });
    table(apis[0])
}

/// Compares large tables, which one connection after another asks for: one that waits while
/// others are busy with theirs is closed.
#[track_caller]
pub fn expect_equal_nodes(nodes: &[&Daemon]) -> (String, Value) {
    eventually("all nodes have the same tag", || {
        let tags: Vec<String> = nodes.iter().map(|node| node.api().etag()).collect();
        tags.iter().all(|tag| *tag == tags[0])
    });
    let tables = nodes.iter().map(|node| table(&mut long(node)));
    let mut tables: Vec<(String, Value)> = tables.collect();
    assert!(tables.iter().all(|other| *other == tables[0]), "of one tag, and not the same");
    tables.swap_remove(0)
}

/// As `connected`, for requests that are much work.
#[track_caller]
pub fn long(daemon: &Daemon) -> Api {
    let mut api = connected(daemon);
    api.wire.wait_long();
    api
}

pub fn rule(code: u16) -> Value {
    json!(["empty", {"code": code}, true])
}

#[test]
fn a_change_by_any_node_is_in_force_on_all() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut a, mut to_b] = [&a, &b].map(connected);
    eventually("both know each other", || {
        a.get("/fleet/")["nodes"].as_object().is_some_and(|nodes| nodes.len() == 2)
    });
    let answer = a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(418)).expect_status(200);
    assert_eq!(answer.json(), json!({"ok": true, "fleet": {"nodes": 2, "applied": 2}}));
    // No waiting: it was waited for.
    let mut client = b.connect();
    assert_eq!(client.exchange(get("x.a.com", "/")).status(), 418);
    assert_eq!(answer.etag(), to_b.etag());
    // By the tag of one node the table of another is changed.
    let condition = format!("If-Match: {}\r\n", answer.etag());
    let second = to_b.tell_with(&condition, "PUT", "/hostname/b.com/", &rule(204)).expect_made();
    a.tell_with(&condition, "PUT", "/hostname/b.com/", &rule(201))
        .expect_error(412, "precondition_failed");
    to_b.ask("DELETE", "/hostname/a.com/?wait=fleet").expect_status(200);
    let (tag, rules) = expect_equal(&mut [&mut a, &mut to_b]);
    assert_ne!(tag, second);
    assert_eq!(rules, json!({"b.com": rule(204)}));
    // What is refused is refused as by a single daemon.
    let alias = json!(["alias", {"hostname": "nowhere.com"}, true]);
    a.tell("PUT", "/hostname/c.com/", &alias).expect_error(400, "c.com:alias_missing");
    assert_eq!(a.etag(), tag);
}

#[test]
fn writers_on_all_nodes_lose_nothing() {
    let Some(etcd) = Etcd::start(3, &[]) else { return };
    let nodes = ["a", "b", "c"].map(|name| node(name, &etcd.urls()).start());
    let mut apis = nodes.each_ref().map(connected);
    std::thread::scope(|scope| {
        for (name, api) in ["a", "b", "c"].iter().zip(&mut apis) {
            scope.spawn(move || {
                for at in 0..60 {
                    api.put(&format!("/hostname/{name}{at}.com/"), &rule(200 + at));
                    api.patch(&json!({"shared.com": rule(200 + at)}));
                }
            });
        }
    });
    let [a, b, c] = &mut apis;
    let (_, rules) = expect_equal(&mut [a, b, c]);
    assert_eq!(rules.as_object().map(|rules| rules.len()), Some(181));
}

#[test]
fn a_table_of_many_pieces_arrives_whole() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, _] = [&a, &b].map(long);
    let many = |count: usize, code: u16| -> Value {
        (0..count).map(|at| (format!("host-{at}.example.com"), rule(code))).collect()
    };
    let answer = to_a.tell("PUT", "/hostname/?wait=fleet", &many(60_000, 418)).expect_status(200);
    assert_eq!(answer.json()["fleet"]["applied"], 2);
    assert!(1 < etcd.count("/mantrid/f/bulk/chunk/"));
    let (_, rules) = expect_equal_nodes(&[&a, &b]);
    assert_eq!(rules, many(60_000, 418));
    // It makes the log longer than what a table of that size is worth, so that it is folded, and
    // its chunks go when the log has moved on.
    let mut to_b = long(&b);
    for code in 0..5 {
        to_b.tell("PATCH", "/hostname/", &many(30_000, 200 + code)).expect_made();
    }
    eventually("the log is folded", || {
        let base = etcd.control(&["get", "--print-value-only", "/mantrid/f/live/base"]);
        let base: Value = serde_json::from_str(&base).expect("JSON");
        base["sequence"].as_u64() >= Some(1)
    });
    // A new node begins with the folded table.
    let c = node("c", &etcd.urls()).start();
    connected(&c);
    let (_, rules) = expect_equal_nodes(&[&a, &b, &c]);
    assert_eq!(rules["host-29999.example.com"], rule(204));
    assert_eq!(rules["host-30000.example.com"], rule(418));
}

#[test]
fn a_node_joins_with_an_equal_table_or_is_told_to_decide() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let a = node("a", &etcd.urls()).rule("a.com", rule(418)).start();
    let mut to_a = connected(&a);
    let equal = node("b", &etcd.urls()).rule("a.com", rule(418)).start();
    let mut to_b = connected(&equal);
    assert_eq!(to_a.etag(), to_b.etag());
    // The node that created the fleet had its table; the one that joined has read it.
    let loads = "mantrid_fleet_loads_total{reason=\"start\"}";
    assert_eq!([metric(&mut to_a, loads), metric(&mut to_b, loads)], [0.0, 1.0]);
    let other = node("c", &etcd.urls()).rule("a.com", rule(200)).rule("c.com", rule(200));
    let finished = other.run(&[]);
    finished
        .expect(1, &["fleet = f", "1 rules that the fleet has not", "1 that differ", "--adopt"]);
    // As it was: nothing has changed here or there.
    let state = std::fs::read_to_string(other.path("state.json")).expect("a state file");
    assert!(state.contains("c.com"), "{state}");
    assert_eq!(to_a.get("/hostname/"), json!({"a.com": rule(418)}));
}

#[test]
fn a_node_serves_its_copy_while_the_store_is_away_and_catches_up() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()));
    let mut daemon_a = a.clone().start();
    let daemon_b = b.start();
    let mut to_b = connected(&daemon_b);
    connected(&daemon_a).tell("PUT", "/hostname/a.com/?wait=fleet", &rule(418)).expect_status(200);
    daemon_a.terminate();
    daemon_a.expect_clean_exit();
    to_b.put("/hostname/b.com/", &rule(418));
    etcd.kill(0);
    // It starts without the store, at once, with what it had.
    let daemon_a = a.start();
    assert_eq!(daemon_a.connect().exchange(get("a.com", "/")).status(), 418);
    let mut to_a = daemon_a.api();
    to_a.tell("PUT", "/hostname/c.com/", &rule(200)).expect_error(503, "fleet_unreachable");
    eventually("b has noticed", || to_b.get("/fleet/")["connected"] == false);
    to_b.tell("PUT", "/hostname/c.com/", &rule(200)).expect_error(503, "fleet_unreachable");
    assert_eq!(daemon_b.connect().exchange(get("b.com", "/")).status(), 418);
    etcd.start_member(0);
    etcd.wait();
    connected(&daemon_a);
    connected(&daemon_b);
    let (_, rules) = expect_equal(&mut [&mut to_a, &mut to_b]);
    assert_eq!(rules, json!({"a.com": rule(418), "b.com": rule(418)}));
    to_a.tell("PUT", "/hostname/c.com/?wait=fleet", &rule(200)).expect_status(200);
    expect_equal(&mut [&mut to_a, &mut to_b]);
}

#[test]
fn node_without_a_copy_does_not_start_without_the_store() {
    let gone = [format!("http://127.0.0.1:{}", closed_port())];
    let finished = node("a", &gone).run(&[]);
    // A state file without a fleet is a table, but not the fleet's.
    finished.expect(1, &["fleet", "out of reach", "fleet_start"]);
}

#[test]
fn a_node_that_was_killed_has_all_again() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let setup = node("a", &etcd.urls());
    let mut daemon = setup.clone().start();
    let mut api = connected(&daemon);
    for at in 0..20 {
        api.put(&format!("/hostname/a{at}.com/"), &rule(200 + at));
    }
    let before = table(&mut api);
    daemon.kill();
    let daemon = setup.start();
    let mut api = connected(&daemon);
    assert_eq!(table(&mut api), before);
    // The lease of the one that was killed has not ended; it is the same node.
    api.put("/hostname/b.com/", &rule(200));
}

#[test]
fn a_name_that_is_in_use_is_refused() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let first = node("a", &etcd.urls()).start();
    let mut api = connected(&first);
    eventually("it has a key", || !api.get("/fleet/")["nodes"]["a"].is_null());
    let finished = node("a", &etcd.urls()).run(&[]);
    finished.expect(1, &["fleet_node = a", "another node has this name"]);
}

#[test]
fn a_store_that_was_lost_is_not_taken_for_an_empty_table() {
    let Some(mut etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(418)).expect_status(200);
    etcd.lose();
    for api in [&mut to_a, &mut to_b] {
        eventually("the node knows", || api.get("/fleet/")["lost"].is_string());
        api.tell("PUT", "/hostname/b.com/", &rule(200)).expect_error(503, "fleet_lost");
    }
    assert_eq!(b.connect().exchange(get("a.com", "/")).status(), 418);
    to_a.ask("POST", "/fleet/init").expect_status(200);
    connected(&a);
    connected(&b);
    let answer = to_b.tell("PUT", "/hostname/b.com/?wait=fleet", &rule(200)).expect_status(200);
    assert_eq!(answer.json()["ok"], true);
    let (_, rules) = expect_equal(&mut [&mut to_a, &mut to_b]);
    assert_eq!(rules, json!({"a.com": rule(418), "b.com": rule(200)}));
}

#[test]
fn a_node_that_leaves_keeps_its_table() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(418)).expect_status(200);
    to_a.ask("POST", "/fleet/leave").expect_status(200);
    assert_eq!(to_a.get("/fleet/"), Value::Null);
    to_a.put("/hostname/own.com/", &rule(200));
    to_b.put("/hostname/b.com/", &rule(200));
    assert_eq!(to_a.get("/hostname/"), json!({"a.com": rule(418), "own.com": rule(200)}));
    assert_eq!(to_b.get("/hostname/"), json!({"a.com": rule(418), "b.com": rule(200)}));
    to_a.ask("POST", "/fleet/leave").expect_error(409, "no_fleet");
}

#[test]
fn a_request_held_on_one_node_is_let_go_by_a_flip_on_another() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    let spin = json!(["spin", {}, true]);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &spin).expect_status(200);
    eventually("a has it", || to_b.get("/hostname/a.com/")[0] == "spin");
    let mut client = b.connect();
    client.send(get("a.com", "/"));
    eventually("it is held", || to_b.get("/stats/a.com/")["held_requests"] == 1);
    to_a.put("/hostname/a.com/", &rule(204));
    client.expect_status(204);
}

#[test]
fn a_daemon_without_a_fleet_has_none() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    assert_eq!(api.get("/fleet/"), Value::Null);
    let answer = api.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(200)).expect_status(200);
    assert_eq!(answer.json(), json!({"ok": true, "fleet": null}));
    api.ask("POST", "/fleet/init").expect_error(409, "no_fleet");
    Setup::new().run(&["--adopt"]).expect(1, &["--adopt", "fleet"]);
}

/// Metrics by name, without labels.
fn metric(api: &mut Api, name: &str) -> f64 {
    let text = api.ask("GET", "/metrics").expect_status(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
}

#[test]
fn removed_backends_drain_on_all_nodes() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    eventually("both know each other", || metric(&mut to_a, "mantrid_fleet_nodes") == 2.0);
    let backend = Backend::new();
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &backend.rule()).expect_status(200);
    let mut client = b.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    let path = "/hostname/a.com/?wait=drained&timeout=300ms";
    let answer = to_a.tell("PUT", path, &rule(204)).expect_status(200).json();
    assert_eq!((&answer["drained"], &answer["fleet"]["applied"]), (&json!(false), &json!(2)));
    let address = format!("127.0.0.1:{}", backend.port);
    assert_eq!(answer["in_flight"], json!({ address: 1 }), "{answer}");
    // Now it ends while it is waited for.
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &backend.rule()).expect_status(200);
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    let path = "/hostname/a.com/?wait=drained&timeout=30s";
    let answer = to_b.tell("PUT", path, &rule(204)).expect_status(200).json();
    assert_eq!(answer["drained"], true, "{answer}");
}

#[test]
fn limits_are_divided_by_the_live_nodes() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    for api in [&mut to_a, &mut to_b] {
        eventually("each knows the other", || api.get("/fleet/")["limits_divided_by"] == 2);
    }
    let spin = json!(["spin", {"max_held": 3}, true]);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &spin).expect_status(200);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = b.connect();
            client.send(get("a.com", "/"));
            client
        })
        .collect();
    eventually("they are held", || to_b.get("/stats/a.com/")["held_requests"] == 2);
    // A half of three, rounded up.
    assert_eq!(b.connect().exchange(get("a.com", "/")).status(), 503);
    drop(held);
    // The other node goes: all three are for this one.
    drop(a);
    etcd.control(&["del", "/mantrid/f/live/nodes/a"]);
    eventually("it is alone", || to_b.get("/fleet/")["limits_divided_by"] == 1);
}

#[test]
fn statistics_of_all_nodes_are_added() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| {
        let setup = node(name, &etcd.urls()).unset("bind_management");
        let port = closed_port();
        setup.set("bind_management", format!("127.0.0.1:{port}")).start()
    });
    let mut to_a = a.api_tcp();
    eventually("both know each other", || {
        to_a.get("/fleet/")["nodes"].as_object().is_some_and(|nodes| nodes.len() == 2)
    });
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(204)).expect_status(200);
    for node in [&a, &b, &b] {
        assert_eq!(node.connect().exchange(get("a.com", "/")).status(), 204);
    }
    eventually("all three are counted", || {
        to_a.get("/stats/a.com/?fleet=1")["completed_requests"] == 3
    });
    let all = to_a.ask("GET", "/stats/?fleet=1").expect_status(200);
    assert_eq!(all.json()["a.com"]["completed_requests"], 3);
    assert_eq!(all.head.field("Mantrid-Fleet-Nodes"), Some("2"));
    assert_eq!(all.head.field("Mantrid-Fleet-Missing"), None);
    drop(b);
    let all = to_a.ask("GET", "/stats/?fleet=1").expect_status(200);
    assert_eq!(all.head.field("Mantrid-Fleet-Missing"), Some("b"));
    assert_eq!(all.json()["a.com"]["completed_requests"], 1);
}

#[test]
fn an_application_is_woken_once_for_the_fleet() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    let waker = Backend::new();
    let spin = json!(["spin", {"wake": format!("http://127.0.0.1:{}/", waker.port)}, true]);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &spin).expect_status(200);
    eventually("b has it", || to_b.get("/hostname/a.com/")[0] == "spin");
    let mut clients = [&a, &b].map(|node| {
        let mut client = node.connect();
        client.send(get("a.com", "/"));
        client
    });
    let mut post = waker.accept();
    post.expect_request("POST / HTTP/1.1");
    post.send(ok(""));
    waker.expect_no_connection();
    to_b.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(204)).expect_status(200);
    for client in &mut clients {
        client.expect_status(204);
    }
    // It sleeps anew, and is woken anew.
    eventually("the claim is given up", || etcd.count("/mantrid/f/live/wake/") == 0);
    to_b.tell("PUT", "/hostname/a.com/?wait=fleet", &spin).expect_status(200);
    eventually("a has it", || to_a.get("/hostname/a.com/")[0] == "spin");
    let mut client = a.connect();
    client.send(get("a.com", "/"));
    waker.accept().expect_request("POST / HTTP/1.1");
}

#[test]
fn an_application_is_idle_when_it_is_so_on_all_nodes() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    for api in [&mut to_a, &mut to_b] {
        eventually("each knows the other", || api.get("/fleet/")["limits_divided_by"] == 2);
    }
    let (backend, waker) = (Backend::new(), Backend::new());
    let wake = format!("http://127.0.0.1:{}/", waker.port);
    let proxy = backend.rule_with(json!({"idle": 1, "wake": wake}));
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &proxy).expect_status(200);
    eventually("b has it", || to_b.get("/hostname/a.com/")[0] == "proxy");
    // While a request is under way on one node, the other alone sees it idle.
    let mut client = b.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    eventually("a says so", || etcd.count("/mantrid/f/live/idle/") == 1);
    waker.expect_no_connection();
    server.send(ok("done"));
    client.expect_status(200);
    let mut post = waker.accept();
    post.expect_request("POST / HTTP/1.1");
    post.send(ok(""));
    waker.expect_no_connection();
}

#[test]
fn a_check_tries_the_store() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let finished = node("a", &etcd.urls()).run(&["--check"]);
    finished.expect(0, &[]);
    assert!(finished.out.contains("fleet f does not exist yet"), "{}", finished.out);
    let gone = [format!("http://127.0.0.1:{}", closed_port())];
    node("a", &gone).run(&["--check"]).expect(1, &["fleet_endpoints = http://127.0.0.1"]);
    node("a", &[]).run(&["--check"]).expect(1, &["set fleet_endpoints"]);
    let open = ["http://etcd.example:2379".to_owned()];
    node("a", &open).run(&["--check"]).expect(1, &["fleet_insecure"]);
}

#[test]
fn a_demo_of_a_fleet_has_three_nodes_and_ends_with_them() {
    if !is_installed() {
        return;
    }
    let own = ["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0", "--fleet"];
    let mut daemon = Daemon::demo(&own);
    let printed = daemon.expect_printed("nothing is left behind");
    let of = |word: &str| -> Vec<std::net::SocketAddr> {
        let lines = printed.lines().filter_map(|line| line.split_once(word)?.1.split('/').next());
        lines.map(|address| address.parse().expect("an address")).collect()
    };
    let (serving, managing) = (of("requests at http://"), of("management at http://"));
    assert_eq!((serving.len(), managing.len()), (2, 2), "{printed}");
    let mut first = daemon.api_tcp();
    eventually("three nodes are there", || {
        first.get("/fleet/")["nodes"].as_object().is_some_and(|nodes| nodes.len() == 3)
    });
    let mut last = Api::over(crate::script::Connection::client(managing[1]));
    last.tell("PUT", "/hostname/every.example/?wait=fleet", &rule(418)).expect_status(200);
    for address in [daemon.address(), serving[0], serving[1]] {
        let mut client = crate::script::Connection::client(address);
        assert_eq!(client.exchange(get("every.example", "/")).status(), 418);
    }
    daemon.signal("INT");
    daemon.expect_clean_exit();
    // The kernel closes the sockets of a ring a moment after its process has ended.
    for address in serving {
        eventually("no node listens there", || std::net::TcpStream::connect(address).is_err());
    }
}

#[test]
fn a_node_that_is_upgraded_stays_in_its_fleet() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [mut a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let [mut to_a, mut to_b] = [&a, &b].map(connected);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule(418)).expect_status(200);
    let before = table(&mut to_a);
    a.upgrade();
    let mut to_a = connected(&a);
    assert_eq!(table(&mut to_a), before);
    to_b.tell("PUT", "/hostname/b.com/?wait=fleet", &rule(204)).expect_status(200);
    let (_, rules) = expect_equal(&mut [&mut to_a, &mut to_b]);
    assert_eq!(rules, json!({"a.com": rule(418), "b.com": rule(204)}));
    to_a.put("/hostname/c.com/", &rule(204));
}

#[test]
fn a_table_that_is_given_up_is_kept_beside() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let a = node("a", &etcd.urls()).rule("a.com", rule(418)).start();
    connected(&a);
    let setup = node("b", &etcd.urls()).rule("own.com", rule(200)).copied();
    let program = env!("CARGO_BIN_EXE_mantrid");
    setup.replace_program(Some(&format!("exec {program} --adopt \"$@\"")));
    let kept = setup.path("state.json.before-fleet");
    let b = setup.start();
    assert_eq!(connected(&b).get("/hostname/"), json!({"a.com": rule(418)}));
    let kept = std::fs::read_to_string(kept).expect("the old table");
    assert!(kept.contains("own.com"), "{kept}");
}

/// A name that is new to a node is looked up there before the rule is in force.
#[test]
fn a_name_that_a_change_brings_is_known_when_it_is_in_force() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let [a, b] = ["a", "b"].map(|name| node(name, &etcd.urls()).start());
    let mut to_a = connected(&a);
    connected(&b);
    eventually("both know each other", || metric(&mut to_a, "mantrid_fleet_nodes") == 2.0);
    let backend = Backend::new().serve_text("found");
    let port = backend.port;
    let rule = json!(["proxy", {"backends": [["localhost", port]]}, true]);
    to_a.tell("PUT", "/hostname/a.com/?wait=fleet", &rule).expect_status(200);
    assert_eq!(b.connect().exchange(get("a.com", "/")).text(), "found");
}
