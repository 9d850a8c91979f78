//! Readiness apart from liveness, and addresses for metrics alone: `/readyz`, `bind_metrics`.

use std::net::SocketAddr;

use serde_json::json;

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked};
use crate::guard::{TOKEN, with_token};
use crate::manage::Api;
use crate::script::Connection;

impl Daemon {
    /// Over the address of the metrics that is the first told, or this one on a Unix socket.
    fn metrics(&self, socket: Option<&std::path::Path>) -> Api {
        if let Some(path) = socket {
            return Api::over(Connection::unix(path));
        }
        let lines = self.log.lines();
        let rest =
            lines.iter().find_map(|line| line.split_once("Listening for metrics on http://"));
        let (_, address) = rest.expect("an address");
        let address: SocketAddr = address.trim().trim_end_matches('/').parse().expect("an address");
        Api::over(Connection::client(address))
    }
}

#[test]
fn a_daemon_that_serves_is_ready() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    assert_eq!(api.get("/readyz"), json!({"ready": true}));
    assert_eq!(api.get("/ReadyZ/"), json!({"ready": true}));
    assert_eq!(api.get("/healthz"), json!({"ok": true}));
    api.ask("GET", "/readyz?x=1").expect_error(400, "query_unknown");
    api.ask("POST", "/readyz").expect_error(405, "method_not_allowed");
    assert!(api.ask("HEAD", "/healthz").body.is_empty());
}

/// A balancer in front sends new clients elsewhere while those here are served to the end.
#[test]
fn a_daemon_that_drains_is_alive_and_not_ready() {
    let backend = Backend::new();
    let setup = Setup::new().rule("a.com", backend.rule()).set("timeout_drain", "60s");
    let mut daemon = setup.start();
    let (mut client, mut server) = asked(&daemon, &backend);
    let mut api = daemon.api();
    assert_eq!(api.get("/readyz"), json!({"ready": true}));
    daemon.terminate();
    daemon.expect_log(&["SIGTERM: stopping"]);
    let answer = api.ask("GET", "/readyz");
    let message = answer.expect_error(503, "not_ready");
    assert!(message.contains("no more clients"), "{message}");
    assert_eq!(answer.json()["reasons"], json!(["draining"]));
    assert_eq!(api.get("/healthz"), json!({"ok": true}));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(200);
    daemon.expect_clean_exit();
}

#[test]
fn a_daemon_that_can_not_write_its_state_is_not_ready() {
    let setup = Setup::new().rule("a.com", empty(404));
    let folder = setup.path("state");
    let setup = setup.set("state_file", folder.join("s.json").display());
    let daemon = setup.start();
    let mut api = daemon.api();
    api.put("/hostname/b.com/", &empty(404));
    // In the place of its folder is a file: nothing can be written there, by root either.
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).expect("moved away");
    std::fs::write(&folder, "").expect("a file");
    api.tell("PUT", "/hostname/c.com/", &empty(404)).expect_error(507, "state_not_written");
    let answer = api.ask("GET", "/readyz");
    answer.expect_error(503, "not_ready");
    assert_eq!(answer.json()["reasons"], json!(["state_unwritable"]));
    assert_eq!(api.get("/healthz")["state_writable"], false);
    std::fs::remove_file(&folder).expect("removed");
    std::fs::rename(&aside, &folder).expect("moved back");
    crate::daemon::eventually("the state can be written again", || {
        api.tell("PUT", "/hostname/c.com/", &empty(404)).status() == 200
    });
    assert_eq!(api.get("/readyz"), json!({"ready": true}));
}

#[test]
fn an_address_of_metrics_has_them_alone_and_asks_for_no_token() {
    let setup = with_token(TOKEN.as_bytes()).rule("a.com", empty(404)).copied();
    let socket = setup.path("metrics.sock");
    let setup = setup
        .add("bind_metrics", "127.0.0.1:0")
        .add("bind_metrics", format!("unix:{}", socket.display()));
    let mut daemon = setup.start();
    for is_upgraded in [false, true] {
        if is_upgraded {
            daemon.upgrade();
        }
        for path in [None, Some(&*socket)] {
            let mut api = daemon.metrics(path);
            let named = "GET /metrics HTTP/1.1\r\nHost: proxy.example:9100\r\n\r\n";
            let text = api.wire.exchange(named).expect_status(200).text();
            assert!(text.contains("mantrid_rules 1"), "{text}");
            assert_eq!(api.get("/healthz"), json!({"ok": true}));
            assert_eq!(api.get("/readyz"), json!({"ready": true}));
            for path in
                ["/", "/hostname/", "/hostname/a.com/", "/stats/", "/events", "/fleet/", "/x"]
            {
                api.ask("GET", path).expect_error(404, "not_found");
            }
            for (method, path) in [("PUT", "/hostname/"), ("POST", "/fleet/leave")] {
                api.tell(method, path, &json!({})).expect_error(404, "not_found");
            }
            api.tell("PUT", "/metrics", &json!({})).expect_error(405, "method_not_allowed");
        }
        daemon.api().ask("GET", "/metrics").expect_error(401, "token_missing");
    }
}

#[test]
fn an_address_of_metrics_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for arguments in [&["--check"][..], &[]] {
        let setup = Setup::new().set("bind_metrics", &address);
        setup.run(arguments).expect(1, &["bind_metrics", &address]);
        let twice = Setup::new().set("bind_metrics", &address).add("bind_management", &address);
        twice.run(arguments).expect(1, &["bind_metrics", "taken by bind_management"]);
    }
}
