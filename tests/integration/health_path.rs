//! `health_path` and `timeout_unhealthy`: replies to health checks of balancers in front, and a
//! stop that they notice before anything is refused.

use serde_json::json;

use crate::access_log::{logging, wait_for};
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;

const CHECK: &str = "GET /-/healthy HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n\r\n";

fn setup() -> Setup {
    let rule = json!(["empty", { "code": 418 }, true]);
    Setup::new().set("health_path", "/-/healthy").rule("a.com", rule)
}

#[track_caller]
fn status(daemon: &Daemon, request: &str) -> u16 {
    daemon.connect().exchange(request).status()
}

#[test]
fn health_check_is_replied_to_for_any_host() {
    let daemon = setup().internal().start();
    for request in [
        CHECK,
        "GET /-/healthy HTTP/1.0\r\n\r\n",
        "GET /-/healthy?from=lb-1 HTTP/1.1\r\nHost: a.com\r\n\r\n",
        "GET http://a.com/-/healthy HTTP/1.1\r\nHost: a.com\r\n\r\n",
    ] {
        assert_eq!(status(&daemon, request), 200, "{request:?}");
        assert_eq!(daemon.connect_internal().exchange(request).status(), 200, "{request:?}");
    }
    let mut client = daemon.connect();
    client.send("HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = client.expect_head();
    assert_eq!((head.status(), head.says_close()), (200, false));
    assert_eq!(client.exchange(CHECK).text(), "200 OK\n", "the connection goes on");
    for (request, expected) in [
        ("POST /-/healthy HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n", 418),
        ("GET /-/healthy/ HTTP/1.1\r\nHost: a.com\r\n\r\n", 418),
        ("GET /-/health HTTP/1.1\r\nHost: a.com\r\n\r\n", 418),
        ("GET /?/-/healthy HTTP/1.1\r\nHost: a.com\r\n\r\n", 418),
        ("GET /-/Healthy HTTP/1.1\r\nHost: b.com\r\n\r\n", 503),
        ("GET /-/healthy HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /-/healthy HTTP/1.1\r\n\r\n", 400),
    ] {
        assert_eq!(status(&daemon, request), expected, "{request:?}");
    }
    let daemon = Setup::new().set("health_path", "/-/healthy").start();
    assert_eq!(status(&daemon, CHECK), 200, "also without a rule");
}

#[test]
fn health_check_is_counted_under_no_host_and_not_logged() {
    let (setup, path) = logging(setup());
    let daemon = setup.start();
    let mut client = daemon.connect();
    for _ in 0..3 {
        assert_eq!(client.exchange(CHECK).status(), 200);
    }
    let with_body = "GET /-/healthy HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nxyz";
    assert_eq!(client.exchange(with_body).status(), 200);
    assert_eq!(client.exchange(get("a.com", "/")).status(), 418);
    let mut api = daemon.api();
    api.counted("a.com", 1);
    let hosts = api.get("/stats/");
    let names: Vec<&String> = hosts.as_object().expect("stats").keys().collect();
    assert_eq!(names, ["a.com"], "nothing is unknown");
    let lines = wait_for(&path, 1);
    assert_eq!((lines.len(), &lines[0]["status"]), (1, &json!(418)));
}

#[test]
fn stop_is_told_to_health_checks_first() {
    let backend = Backend::new();
    let mut daemon = setup()
        .set("shards", 2)
        .set("timeout_unhealthy", "1h")
        .rule("b.com", backend.rule())
        .start();
    let mut open = daemon.connect();
    assert_eq!(open.exchange(CHECK).status(), 200);
    daemon.terminate();
    daemon.expect_log(&["SIGTERM", "health checks fail from now on"]);
    eventually("new connections hear of it", || status(&daemon, CHECK) == 503);
    eventually("open ones, too", || open.exchange(CHECK).status() == 503);
    let answer = open.exchange(get("a.com", "/"));
    assert_eq!((answer.status(), answer.head.says_close()), (418, false), "all else is as before");
    assert_eq!(status(&daemon, &get("a.com", "/")), 418, "accepting goes on");
    // neither a reload nor an upgrade makes it well again
    daemon.signal("HUP");
    daemon.signal("USR2");
    assert_eq!(open.exchange(CHECK).status(), 503);
    let (_client, _server) = crate::daemon::asked_for(&daemon, &backend, get("b.com", "/"));
    daemon.expect_running();
    daemon.terminate();
    daemon.expect_clean_exit();
}

#[test]
fn stop_goes_on_after_its_time() {
    let backend = Backend::new();
    let mut daemon =
        setup().set("timeout_unhealthy", "300ms").rule("b.com", backend.rule()).start();
    let (mut client, mut server) = crate::daemon::asked_for(&daemon, &backend, get("b.com", "/"));
    daemon.terminate();
    daemon.expect_log(&["SIGTERM", "health checks fail from now on"]);
    daemon.expect_log(&["SIGTERM: stopping"]);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast");
    assert_eq!(client.expect_answer().text(), "last", "what is under way is finished");
    daemon.expect_clean_exit();
}

#[test]
fn health_path_is_read_again_and_outlives_an_upgrade() {
    let setup = setup();
    let mut daemon = setup.clone().start();
    daemon.upgrade();
    assert_eq!(status(&daemon, CHECK), 200);
    setup.set("health_path", "/up").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    eventually("the path is another", || status(&daemon, &get("b.com", "/up")) == 200);
    assert_eq!(status(&daemon, CHECK), 503, "an unknown host");
}

#[test]
fn mistakes_in_the_keys_are_named() {
    for (key, value, words) in [
        ("health_path", "healthy", "expected a path without a query"),
        ("timeout_unhealthy", "10", "has no unit"),
    ] {
        let setup = setup().set(key, value);
        setup.run(&["--check"]).expect(1, &[key, words]);
    }
    let setup = setup().unset("health_path").set("timeout_unhealthy", "10s");
    setup.run(&["--check"]).expect(1, &["timeout_unhealthy", "Set health_path"]);
}
