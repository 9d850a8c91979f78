//! `max_open_requests`: requests of one rule that are open at all its backends together.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Backend, accept_any, closed_port, rule_for};
use crate::balance::Crowd;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::metric;

fn limited(ports: &[u16], most: u32) -> Value {
    rule_for(ports, json!({"max_open_requests": most, "algorithm": "round_robin"}))
}

#[test]
fn request_past_the_limit_waits_whatever_its_backend() {
    let backends = [Backend::new(), Backend::new()];
    let ports = [backends[0].port, backends[1].port];
    let daemon =
        Setup::new().set("timeout_connect", "1h").rule("a.com", limited(&ports, 1)).start();
    let mut clients: Vec<Connection> = (0..3).map(|_| daemon.connect()).collect();
    let mut api = daemon.api();
    clients[0].send(get("a.com", "/0"));
    let (first, server) = accept_any(&[&backends[0], &backends[1]]);
    let mut servers: Vec<Option<Connection>> = vec![None, None];
    servers[first] = Some(server);
    for (n, client) in clients.iter_mut().enumerate().skip(1) {
        client.send(get("a.com", &format!("/{n}")));
        eventually("it waits", || metric(&mut api, "requests_queued") == n as f64);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        // in the order in which they came, and one at a time
        let moment = Duration::from_millis(1);
        let mut came = (n == 0).then_some(first);
        eventually("a request at one of them", || {
            came = came.or_else(|| {
                (0..2).find(|at| match &mut servers[*at] {
                    None => {
                        servers[*at] = backends[*at].accept_within(moment);
                        servers[*at].is_some()
                    }
                    Some(server) => server.came_within(moment),
                })
            });
            came.is_some()
        });
        let at = came.expect("a request at one of them");
        let server = servers[at].as_mut().expect("it");
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        for (other, server) in servers.iter_mut().enumerate() {
            match server {
                Some(server) if other != at => server.expect_nothing_more(),
                Some(_) => {}
                None => backends[other].expect_no_connection(),
            }
        }
        servers[at].as_mut().expect("it").send(ok(n.to_string()));
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
}

#[test]
fn limit_holds_over_all_shards_and_backends() {
    let crowd = Crowd::default();
    let backends = [crowd.serve(), crowd.serve(), crowd.serve()];
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    let most = crowd.of_waves(limited(&ports, 2));
    assert!(most <= 2, "{most} requests at the same time, of a rule limited to 2");
    assert_eq!(backends.iter().map(|backend| backend.requests()).sum::<usize>(), 60);
}

#[test]
fn wait_ends_with_503() {
    let backend = Backend::new();
    let setup = Setup::new().set("timeout_connect", "300ms").set("access_log", "stdout");
    let daemon = setup.rule("a.com", limited(&[backend.port], 1)).start();
    let (mut first, mut second) = (daemon.connect(), daemon.connect());
    first.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    assert_eq!(second.exchange(get("a.com", "/")).status(), 503);
    daemon.expect_printed("\"termination\":\"backend_queue\"");
    server.send(ok("fine"));
    assert_eq!(first.expect_answer().text(), "fine");
    // Its permit came back with its response.
    second.send(get("a.com", "/"));
    server.expect_head();
    server.send(ok("next"));
    assert_eq!(second.expect_answer().text(), "next");
}

#[test]
fn rules_with_one_backend_have_a_limit_each() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", limited(&[backend.port], 1));
    let setup = setup.rule("b.com", limited(&[backend.port], 1));
    let alias = json!(["alias", {"hostname": "a.com"}, false]);
    let daemon = setup.rule("c.com", alias).set("timeout_connect", "1h").start();
    let ask = |host: &str| {
        let mut client = daemon.connect();
        client.send(get(host, &format!("/{host}")));
        client
    };
    let mut clients = Vec::new();
    let mut servers = ["a.com", "b.com"].map(|host| {
        clients.push(ask(host));
        let mut server = backend.accept();
        server.expect_head();
        server
    });
    // An alias falls under the rule that it leads to.
    clients.push(ask("c.com"));
    let mut api = daemon.api();
    eventually("it waits", || metric(&mut api, "requests_queued") == 1.0);
    backend.expect_no_connection();
    servers.iter_mut().for_each(|server| server.send(ok("")));
    let came = |server: &mut Connection| server.came_within(Duration::from_millis(50));
    let mut at = None;
    eventually("the alias's request", || {
        at = servers.iter_mut().position(came);
        at.is_some()
    });
    let last = &mut servers[at.expect("the alias's request")];
    last.expect_request("GET /c.com HTTP/1.1");
    last.send(ok("last"));
    assert_eq!(clients[2].expect_answer().text(), "last");
}

/// Connections that are kept for the next request are no open requests; a raw one is, to its end.
#[test]
fn raw_connection_is_open_until_its_end() {
    let backend = Backend::new();
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 a.com").set("timeout_connect", "1h");
    let daemon = setup.rule("a.com", limited(&[backend.port], 1)).start();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send(ok("kept"));
    assert_eq!(client.expect_answer().text(), "kept");
    let mut raw = Connection::client(daemon.raw_address("TCP"));
    raw.send("hello");
    let mut raw_server = backend.accept();
    raw_server.expect_body("hello");
    let mut api = daemon.api();
    client.send(get("a.com", "/second"));
    eventually("it waits", || metric(&mut api, "requests_queued") == 1.0);
    server.expect_nothing_more();
    let mut other = Connection::client(daemon.raw_address("TCP"));
    other.send("other");
    eventually("both wait", || metric(&mut api, "requests_queued") == 2.0);
    backend.expect_no_connection();
    raw.half_close();
    raw_server.expect_close();
    drop(raw_server);
    raw.expect_close();
    server.expect_request("GET /second HTTP/1.1");
    server.send(ok("second"));
    assert_eq!(client.expect_answer().text(), "second");
    backend.accept().expect_body("other");
}

#[test]
fn client_that_leaves_the_line_is_not_served() {
    let backend = Backend::new();
    let setup = Setup::new().set("timeout_connect", "1h");
    let daemon = setup.rule("a.com", limited(&[backend.port], 1)).start();
    let (mut first, mut gone, mut last) = (daemon.connect(), daemon.connect(), daemon.connect());
    first.send(get("a.com", "/first"));
    let mut server = backend.accept();
    server.expect_request("GET /first HTTP/1.1");
    let mut api = daemon.api();
    gone.send(get("a.com", "/gone"));
    eventually("it waits", || metric(&mut api, "requests_queued") == 1.0);
    last.send(get("a.com", "/last"));
    eventually("both wait", || metric(&mut api, "requests_queued") == 2.0);
    gone.half_close();
    gone.expect_end();
    server.send(ok("first"));
    assert_eq!(first.expect_answer().text(), "first");
    server.expect_request("GET /last HTTP/1.1");
    server.send(ok("last"));
    assert_eq!(last.expect_answer().text(), "last");
}

#[test]
fn failed_request_gives_its_permit_back() {
    let daemon = Daemon::proxying(limited(&[closed_port()], 1));
    for _ in 0..6 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 502);
    }
}

#[test]
fn requests_of_the_old_daemon_count() {
    let backend = Backend::new();
    let setup = Setup::new().set("shards", 2).set("timeout_connect", "1h");
    let mut daemon = setup.rule("a.com", limited(&[backend.port], 1)).start();
    let mut first = daemon.connect();
    first.send(get("a.com", "/first"));
    let mut server = backend.accept();
    server.expect_request("GET /first HTTP/1.1");
    daemon.upgrade();
    let mut second = daemon.connect();
    second.send(get("a.com", "/second"));
    let mut api = daemon.api();
    eventually("both are open", || api.get("/stats/a.com/")["open_requests"] == 2);
    backend.expect_no_connection();
    server.send(ok("first"));
    assert_eq!(first.expect_answer().text(), "first");
    let mut server = backend.accept();
    server.expect_request("GET /second HTTP/1.1");
    server.send(ok("second"));
    assert_eq!(second.expect_answer().text(), "second");
}

#[test]
fn limit_is_read_back_and_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let rule = rule_for(&[1], json!({"max_open_requests": 7}));
    api.put("/hostname/a.com/", &rule);
    assert_eq!(api.get("/hostname/a.com/"), rule);
    for most in [json!(0), json!("many"), json!(-1)] {
        let rule = rule_for(&[1], json!({ "max_open_requests": most }));
        let answer = api.tell("PUT", "/hostname/a.com/", &rule);
        answer.expect_error(400, "a.com:host_kwarg_invalid:max_open_requests");
    }
}
