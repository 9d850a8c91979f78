//! Backends that are Unix sockets, as rules and statistics name them: what is given is given back,
//! what can't be one is refused, and no rule leads to a socket of the daemon's own.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::access_log::{logging, wait_for};
use crate::backend::{Backend, rule_to};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::management::Call;
use crate::message::{get, ok};

fn rule(backends: Value) -> Value {
    json!(["proxy", { "backends": backends }, true])
}

#[test]
fn socket_of_a_rule_is_given_back() {
    let setup = Setup::new();
    let mixed = json!(["unix:/run/a.sock", ["10.0.0.1", 80], "unix:@a/b", ["app.internal", 81]]);
    let odd = json!(["unix:/run/a, \"b\" \u{fc}.sock"]);
    {
        let daemon = setup.clone().start();
        let mut api = daemon.api();
        for backends in [&mixed, &odd] {
            api.put("/hostname/a.com/", &rule(backends.clone()));
            assert_eq!(api.get("/hostname/a.com/"), rule(backends.clone()));
        }
        // As the command line of the original would send it, and as its fork writes backends.
        for (given, backends) in [
            (json!("unix:/run/a.sock, unix:@b"), json!(["unix:/run/a.sock", "unix:@b"])),
            (json!([{"__backend__": "unix:/run/a.sock"}]), json!(["unix:/run/a.sock"])),
        ] {
            api.put("/hostname/b.com/", &rule(given));
            assert_eq!(api.get("/hostname/b.com/"), rule(backends));
        }
        api.put("/hostname/b.com/", &json!(["spin", {"then": rule(mixed.clone())}, true]));
        daemon.terminate();
    }
    let daemon = setup.start();
    let mut api = daemon.api();
    assert_eq!(api.get("/hostname/a.com/"), rule(odd));
    assert_eq!(api.get("/hostname/b.com/")[1]["then"], rule(mixed));
}

#[test]
fn text_that_names_no_socket_is_refused() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let long = format!("unix:/{}", "a".repeat(107));
    let longer = format!("unix:@{}", "a".repeat(108));
    for (backend, words) in [
        (json!("unix:run/app.sock"), "\"unix:/path\" or \"unix:@abstract-name\""),
        (json!("unix:"), "\"unix:/path\" or \"unix:@abstract-name\""),
        (json!("unix:80"), "\"unix:/path\" or \"unix:@abstract-name\""),
        (json!("unix:@"), "name of the Unix socket is missing"),
        (json!("unix:/run/"), "name of the Unix socket is missing"),
        (json!(long), "at most 107 bytes"),
        (json!(longer), "at most 107 bytes"),
        (json!("unix:/run/a\u{0}b"), "no NUL"),
        (json!("unix:/run/a\nb"), "no control character"),
        (json!(["unix:/run/app.sock", 80]), "a Unix socket has no port"),
    ] {
        let answer = api.tell("PUT", "/hostname/a.com/", &rule(json!([backend])));
        let sentence = answer.expect_error(400, "a.com:host_kwarg_invalid:backends");
        let all = ["a.com: a backend of proxy is ", words, "\"unix:/path\""];
        assert!(all.iter().all(|words| sentence.contains(words)), "{backend}: {sentence}");
    }
    // A comma ends a backend where all of them are one string.
    let answer = api.tell("PUT", "/hostname/a.com/", &rule(json!("unix:/run/a,b.sock")));
    let sentence = answer.expect_error(400, "a.com:host_kwarg_invalid:backends");
    assert!(sentence.contains("is \"b.sock\": it has no port"), "{sentence}");
    assert_eq!(api.get("/hostname/"), json!({}));
}

#[test]
fn client_sets_and_shows_a_socket() {
    let backend = Backend::unix().serve_text("served");
    let daemon = Setup::new().start();
    let target = backend.target.as_str().expect("a Unix socket");
    let call = |arguments: &[&str]| Call::at(&daemon.management[0], arguments).finish();
    call(&["set", "a.com", "proxy", "true", &format!("backends={target},unix:@b,c:80")])
        .expect(0, &[]);
    assert_eq!(daemon.api().get("/hostname/a.com/"), rule(json!([target, "unix:@b", ["c", 80]])));
    let shown = call(&["get", "a.com"]);
    assert!(shown.out.contains(&format!("{target},unix:@b,c:80")), "{}", shown.out);
    // A restart looks whether the application answers there.
    call(&["set", "a.com", "proxy", "true", &format!("backends={target}"), "check=/"])
        .expect(0, &[]);
    call(&["restart", "a.com", "--", "true"]).expect(0, &[]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "served");
    let refused = call(&["set", "a.com", "proxy", "true", "backends=unix:run"]);
    refused.expect(1, &["a.com: a backend of proxy is \"unix:run\""]);
}

#[track_caller]
fn expect_no_loop(daemon: &Daemon, api: &mut Api, target: &Value) {
    api.put("/hostname/loop.com/", &rule_to(&[target], json!({})));
    let name = target.as_str().expect("a Unix socket");
    daemon.expect_log(&["loop.com: the backend", name, "is this daemon itself"]);
    daemon.connect().exchange(get("loop.com", "/hostname/")).expect_status(502);
    daemon.expect_log(&["was to go to", name, "where this daemon itself listens"]);
    let check = json!({ "check": "tcp", "hold": 60 });
    api.put("/hostname/loop.com/", &rule_to(&[target], check));
    daemon.expect_log(&[name, "is down: ", "is this daemon itself"]);
    daemon.connect().exchange(get("loop.com", "/hostname/")).expect_status(502);
}

#[test]
fn management_socket_is_no_backend() {
    let setup = Setup::new();
    let (own, link) = (setup.path("management.sock"), setup.path("link.sock"));
    symlink(&own, &link).expect("a link");
    let daemon = setup.start();
    let mut api = daemon.api();
    let target = json!(format!("unix:{}", own.display()));
    expect_no_loop(&daemon, &mut api, &target);
    // The other backends of the rule serve.
    let backend = Backend::unix().serve_text("served");
    api.put("/hostname/a.com/", &rule_to(&[&target, &backend.target], json!({})));
    for _ in 0..20 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).text(), "served");
    }
}

#[test]
fn link_to_the_management_socket_is_no_backend() {
    let setup = Setup::new();
    let link = setup.path("link.sock");
    symlink(setup.path("management.sock"), &link).expect("a link");
    let mut daemon = setup.start();
    let target = json!(format!("unix:{}", link.display()));
    expect_no_loop(&daemon, &mut daemon.api(), &target);
    daemon.upgrade();
    daemon.connect().exchange(get("loop.com", "/hostname/")).expect_status(502);
}

#[test]
fn socket_is_told_by_its_path() {
    let setup = Setup::new();
    let backend = Backend::unix_at(setup.path("an \"odd\" name.sock"));
    let (setup, log) = logging(setup.rule("a.com", backend.rule()));
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    let target = backend.target.as_str().expect("a Unix socket");
    let own = api.get("/backends/")[target].clone();
    assert_eq!((&own["open_requests"], &own["state"]), (&json!(1), &json!("up")), "{own}");
    server.send(ok("hello"));
    assert_eq!(client.expect_answer().text(), "hello");
    assert_eq!(wait_for(&log, 1)[0]["backend"], *target);
    api.counted("a.com", 1);
    // It is kept for the next request a moment after that has ended.
    let counts = ["requests", "connections", "failures", "idle_connections", "open_requests"];
    eventually("all is counted of the socket", || {
        let own = api.get("/backends/")[target].clone();
        counts.map(|count| own[count].clone()) == [1, 1, 0, 1, 0].map(Value::from)
    });
    let label = target.replace('"', "\\\"");
    let line = format!("mantrid_backend_requests_total{{backend=\"{label}\"}} 1");
    eventually(&line, || api.ask("GET", "/metrics").text().lines().any(|found| found == line));
}
