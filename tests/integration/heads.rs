//! Heads as a rule changes them: `host`, `set_request`, `set_response`.

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked, asked_for};
use crate::message::{Head, get, ok};
use crate::script::Connection;

/// A rule with these arguments, and the head that its backend gets for this request.
#[track_caller]
fn forwarded(arguments: Value, request: impl AsRef<[u8]>) -> Head {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(arguments));
    let mut client = daemon.connect();
    client.send(request);
    backend.accept().expect_head()
}

/// The head that the client gets, for a response of this backend.
#[track_caller]
fn answered(arguments: Value, response: &str) -> (Scene, Connection, Head) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(arguments));
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send(response);
    let head = client.expect_head();
    (Scene { _daemon: daemon, _server: server }, client, head)
}

/// The rest of a connection, kept open.
struct Scene {
    _daemon: Daemon,
    _server: Connection,
}

#[test]
fn host_that_is_fixed_takes_the_place_of_the_clients() {
    for (host, expected) in [
        ("App.Example.", "app.example"),
        ("app.example:8080", "app.example:8080"),
        ("[2001:DB8::0:1]:80", "[2001:db8::1]:80"),
    ] {
        for request in [
            "GET /x HTTP/1.1\r\nX-A: 1\r\nhost:  A.com:80\r\nX-B: 2\r\n\r\n",
            "GET http://A.com:80/x HTTP/1.1\r\nHost: b.com\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
            "GET /x HTTP/1.0\r\nHost: A.com:80\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
        ] {
            let head = forwarded(json!({ "host": host }), request);
            let expected = format!(
                "GET /x HTTP/1.1\nHost: {expected}\nX-A: 1\nX-B: 2\nX-Forwarded-Host: A.com:80\n"
            );
            assert_eq!(head.lines(), expected, "{request}");
        }
    }
}

#[test]
fn host_of_the_backend_is_as_the_rule_has_it() {
    let head = forwarded(json!({"host": "backend"}), get("a.com", "/"));
    let host = head.field("Host").expect("a Host");
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    let backend = Backend::new();
    let port = backend.port;
    let rule = json!(["proxy", {"backends": [["LocalHost", port]], "host": "backend"}, true]);
    let daemon = Daemon::proxying(rule);
    // With a body, too, which travels in the same buffer or behind it.
    for body in ["", "Content-Length: 5\r\n\r\nhello", "Content-Length: 6\r\n\r\nhello"] {
        let mut client = daemon.connect();
        let fields = if body.is_empty() { "\r\n" } else { body };
        client.send(format!("PUT / HTTP/1.1\r\nHost: a.com\r\nX-A: 1\r\n{fields}"));
        let mut server = backend.accept();
        let head = server.expect_head();
        assert_eq!(head.field("Host"), Some(format!("localhost:{port}").as_str()));
        assert_eq!(head.field("X-Forwarded-Host"), Some("a.com"));
        assert_eq!(head.fields[0].0, "Host");
        if !body.is_empty() {
            server.expect_body("hello");
        }
    }
}

/// Each attempt names the backend that it goes to, also one on another connection.
#[test]
fn host_of_the_backend_is_that_of_the_attempt() {
    let backend = Backend::new();
    let arguments =
        json!({"host": "backend", "attempts": 2, "delay": 0, "algorithm": "round_robin"});
    let daemon = Daemon::proxying(rule_for(&[closed_port(), backend.port], arguments));
    let expected = format!("127.0.0.1:{}", backend.port);
    let mut client = daemon.connect();
    for _ in 0..2 {
        client.send(get("a.com", "/"));
        let mut server = backend.accept();
        assert_eq!(server.expect_head().field("Host"), Some(expected.as_str()));
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.expect_answer().text(), "ok");
        // The idle connection takes the next request, and ends without a word.
        client.send(get("a.com", "/again"));
        let head = server.expect_request("GET /again HTTP/1.1");
        assert_eq!(head.field("Host"), Some(expected.as_str()));
        drop(server);
        let mut server = backend.accept();
        let again = server.expect_request("GET /again HTTP/1.1");
        assert_eq!(again, head, "the request that goes out again");
        server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.expect_answer().text(), "ok");
    }
}

/// Two names for one address: a virtual host each.
#[test]
fn host_of_the_backend_is_that_of_the_name_that_was_chosen() {
    let [one, other] = ["localhost", "127.0.0.1"];
    let backend = Backend::new();
    let port = backend.port;
    let rule = json!(["proxy", {"backends": [[one, port], [other, port]], "host": "backend",
        "algorithm": "round_robin"}, true]);
    let daemon = Daemon::proxying(rule);
    let mut seen = Vec::new();
    let mut client = daemon.connect();
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    for number in 0..4 {
        if 0 < number {
            client.send(get("a.com", "/"));
        }
        seen.push(server.expect_head().field("Host").expect("a Host").to_owned());
        server.send(ok("kept"));
        client.expect_answer();
    }
    seen.sort();
    seen.dedup();
    let mut expected = vec![format!("{one}:{port}"), format!("{other}:{port}")];
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn forwarded_host_of_a_terminator_stays() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"host": "app.example"}));
    let daemon = Setup::new().internal().rule("a.com", rule).start();
    for (field, expected) in [
        ("X-Forwarded-Host: b.com\r\n", "b.com"),
        ("X_Forwarded_Host: c.com\r\n", "c.com"),
        ("", "a.com"),
    ] {
        let mut client = daemon.connect_internal();
        client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{field}\r\n"));
        let head = backend.accept().expect_head();
        let found = [head.all("X-Forwarded-Host"), head.all("X_Forwarded_Host")].concat();
        assert_eq!(found, [expected]);
        assert_eq!(head.field("Host"), Some("app.example"));
    }
    // One that is not believed is replaced.
    let mut client = daemon.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-Host: evil.com\r\n\r\n");
    assert_eq!(backend.accept().expect_head().field("X-Forwarded-Host"), Some("a.com"));
}

#[test]
fn request_without_a_host_gets_one() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"host": "app.example"}));
    // HTTP/1.0 without Host falls under no rule; with an absolute target it has one.
    let daemon = Daemon::proxying(rule);
    let mut client = daemon.connect();
    client.send("GET http://a.com/ HTTP/1.0\r\n\r\n");
    let head = backend.accept().expect_head();
    assert_eq!(head.field("Host"), Some("app.example"));
    assert_eq!(head.field("X-Forwarded-Host"), Some("a.com"));
}

#[test]
fn fields_of_a_request_are_set_and_removed() {
    let changes = json!({"set_request": {"X-User": "nobody", "X-New": "a b", "Cookie": null,
        "Accept-Encoding": null, "X-Empty": ""}});
    let head = forwarded(
        changes,
        "GET / HTTP/1.1\r\nHost: a.com\r\nX-User: root\r\nCookie: a=b\r\nX_User: admin\r\n\
         x.user: me\r\nX-Stays: 1\r\nCOOKIE: c=d\r\nConnection: X-New, close\r\n\r\n",
    );
    assert_eq!(
        head.lines(),
        "GET / HTTP/1.1\nHost: a.com\nX-Stays: 1\nX-User: nobody\nX-New: a b\nX-Empty: \n"
    );
    assert_eq!(head.field("X-Forwarded-For"), Some("127.0.0.1"));
}

#[test]
fn trailers_do_not_bring_back_what_a_rule_sets() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"set_request": {"X-User": "nobody"},
        "set_response": {"X-Secret": null}}));
    let daemon = Daemon::proxying(rule);
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\nX_User: root\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(server.expect_chunked().trailers, ["X-Sum: 1"]);
    server.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-secret: 1\r\nX-Sum: 2\r\n\r\n",
    );
    client.expect_status(200);
    assert_eq!(client.expect_chunked().trailers, ["X-Sum: 2"]);
}

#[test]
fn fields_of_a_response_are_set_and_removed() {
    let changes = json!({"set_response": {"Server": null, "X-Powered-By": null,
        "Strict-Transport-Security": "max-age=31536000", "Cache-Control": "no-store"}});
    let (_scene, mut client, head) = answered(
        changes,
        "HTTP/1.1 200 OK\r\nServer: backend/1\r\nDate: now\r\nX-Powered-By: a\r\nX-POWERED-BY: b\r\n\
         Cache-Control: public\r\nX-Stays: 1\r\nContent-Length: 17\r\n\r\nServer: the body\n",
    );
    let names: Vec<&str> = head.fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected =
        ["Date", "X-Stays", "Content-Length", "Strict-Transport-Security", "Cache-Control"];
    assert_eq!(names, expected);
    assert_eq!(head.field("Cache-Control"), Some("no-store"));
    client.expect_body("Server: the body\n");
}

#[test]
fn interim_responses_stay_and_a_101_is_changed() {
    let changes = json!({"set_response": {"X-A": "set"}});
    let (_scene, mut client, head) = answered(
        changes.clone(),
        "HTTP/1.1 103 Early Hints\r\nX-A: hint\r\n\r\nHTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    );
    assert_eq!((head.status(), head.field("X-A")), (103, Some("hint")));
    assert_eq!(client.expect_status(204).field("X-A"), Some("set"));
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(changes));
    let upgrade = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let (mut client, mut server) = asked_for(&daemon, &backend, upgrade);
    server.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi");
    assert_eq!(client.expect_status(101).field("X-A"), Some("set"));
    client.expect_body("hi");
}

#[test]
fn responses_of_every_framing_are_changed() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(json!({"set_response": {"X-A": "set"}})));
    for (version, response, body) in [
        ("1.1", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "2\r\nhi\r\n0\r\n\r\n"),
        ("1.0", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"),
        ("1.1", "Connection: close\r\n\r\nhi", "hi"),
        ("1.0", "Content-Length: 2\r\n\r\nhi", "hi"),
    ] {
        let request = format!("GET / HTTP/{version}\r\nHost: a.com\r\n\r\n");
        let (mut client, mut server) = asked_for(&daemon, &backend, request);
        server.send(format!("HTTP/1.1 200 OK\r\n{response}"));
        drop(server);
        assert_eq!(client.expect_status(200).field("X-A"), Some("set"), "{version} {response}");
        client.expect_body(body);
    }
}

/// Replies that the rule is about: whole, by GET and by HEAD.
#[test]
fn replies_of_the_rule_are_changed() {
    let page = "HTTP/1.1 200 OK\r\nServer: mine\r\nX-Stays: 1\r\n\r\nServer: the body\n";
    let set = json!({"Server": null, "Strict-Transport-Security": "max-age=1", "Vary": "Accept"});
    for (action, arguments, status, body) in [
        ("redirect", json!({"redirect_to": "b.com"}), 302, ""),
        ("static", json!({"type": "own"}), 200, "Server: the body\n"),
        ("empty", json!({"code": 204}), 204, ""),
        ("empty", json!({"code": 401}), 401, ""),
    ] {
        let mut arguments = arguments;
        arguments["set_response"] = set.clone();
        let rule = json!([action, arguments, true]);
        let daemon = Setup::new().page("own.http", page).rule("a.com", rule).start();
        let mut client = daemon.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n");
        let head = client.expect_status(status);
        let answer = client.exchange(get("a.com", "/"));
        assert_eq!((&answer.head, answer.text().as_str()), (&head, body), "{action}");
        assert_eq!(head.field("Strict-Transport-Security"), Some("max-age=1"), "{head:?}");
        assert_eq!((head.field("Vary"), head.field("Server")), (Some("Accept"), None), "{head:?}");
        assert!(head.field("Date").is_some(), "{head:?}");
        client.expect_nothing_more();
    }
}

#[test]
fn own_replies_are_not_changed() {
    let rule = rule_for(&[closed_port()], json!({"set_response": {"X-A": "set"}}));
    let daemon = Daemon::proxying(rule);
    let answer = daemon.connect().exchange(get("a.com", "/"));
    assert_eq!((answer.status(), answer.head.field("X-A")), (502, None));
}

/// Fields that frame, route or say whose a request is, in spellings that a reader takes for them.
#[test]
fn fields_that_no_rule_may_change_are_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for argument in ["set_request", "set_response"] {
        for field in [
            "Content-Length",
            "content_length",
            "Transfer-Encoding",
            "Transfer.Encoding",
            "Trailer",
            "Connection",
            "Keep-Alive",
            "keep_alive",
            "Upgrade",
            "TE",
            "Proxy-Connection",
            "Expect",
            "Host",
            "host",
            "X-Forwarded-For",
            "X_Forwarded-Proto",
            "x!forwarded!host",
            "Forwarded",
            "X-Real-IP",
            "X-Request-Id",
            "Via",
            "Date",
            "X-Request-Start",
            "X-Held_Ms",
            "a b",
            "",
            "a\r\nb",
        ] {
            for value in [json!("x"), Value::Null] {
                let rule = rule_for(&[1], json!({ argument: { field: value } }));
                let code = format!("a.com:host_kwarg_invalid:{argument}");
                let answer = api.tell("PUT", "/hostname/a.com/", &rule);
                let message = answer.expect_error(400, &code);
                let expected = format!("{argument} of proxy has the field {field:?}, which ");
                assert!(message.contains(&expected), "{message}");
            }
        }
        for (value, why) in [
            (json!({"X-A": "a\r\nX-B: b"}), "control character"),
            (json!({"X-A": "a\nb"}), "control character"),
            (json!({"X-A": "a\0"}), "control character"),
            (json!({"X-A": " a"}), "white space"),
            (json!({"X-A": 1}), "neither a string nor null"),
            (json!({"X-A": "1", "x_a": "2"}), "two spellings"),
            (json!(["X-A"]), "expected an object"),
            (json!("X-A: b"), "expected an object"),
            (
                json!(
                    (0..9)
                        .map(|n| (format!("X-{n}"), json!("1")))
                        .collect::<serde_json::Map<_, _>>()
                ),
                "at most 8 fields",
            ),
        ] {
            let rule = rule_for(&[1], json!({ argument: value }));
            let code = format!("a.com:host_kwarg_invalid:{argument}");
            let message = api.tell("PUT", "/hostname/a.com/", &rule).expect_error(400, &code);
            assert!(message.contains(why), "{message}");
        }
    }
}

#[test]
fn host_that_is_none_is_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for host in [
        json!(""),
        json!("a b"),
        json!("a:0"),
        json!("a:x"),
        json!("a:+1"),
        json!("http://a"),
        json!("::1"),
        json!("*.a"),
        json!(1),
    ] {
        let rule = rule_for(&[1], json!({ "host": host }));
        let code = "a.com:host_kwarg_invalid:host";
        let message = api.tell("PUT", "/hostname/a.com/", &rule).expect_error(400, code);
        assert!(
            message.contains("expected a host, with or without a port, or backend"),
            "{message}"
        );
    }
}

#[test]
fn fields_are_read_back_as_they_were_given() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let fields = json!({"X-B": "1", "X-A": null, "x-c": "\u{fc}"});
    let rule = json!(["proxy", {"backends": [["127.0.0.1", 1]], "host": "app.example:80",
        "set_request": fields, "set_response": {}}, true]);
    api.put("/hostname/a.com/", &rule);
    assert_eq!(api.get("/hostname/a.com/").to_string(), rule.to_string());
    // As the command line sends it.
    let text =
        json!(["proxy", {"backends": [["127.0.0.1", 1]], "set_request": fields.to_string()}, true]);
    api.put("/hostname/b.com/", &text);
    assert_eq!(api.get("/hostname/b.com/")[1]["set_request"], fields);
}
