//! Slips of people and scripts that would do much harm: an empty name, a name that is there twice,
//! a redirect that never ends.

use serde_json::{Value, json};

use crate::api::empty;
use crate::client_daemon::way;
use crate::daemon::Setup;

fn redirect(to: &str) -> Value {
    json!(["redirect", { "redirect_to": to }, false])
}

/// What a script makes of an empty variable: `/hostname/$host/`.
#[test]
fn an_empty_name_is_not_the_whole_table() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    for name in
        ["/", "%20/", "./", "%2e/", ".%2E/", "%2F", "%2f/", "//", "%09/", "%00/", "/?x=y", "/?"]
    {
        let path = format!("/hostname/{name}");
        for (method, body) in [
            ("PUT", json!({})),
            ("PUT", json!({"b.com": empty(403)})),
            ("PUT", empty(403)),
            ("DELETE", Value::Null),
            ("GET", Value::Null),
        ] {
            let answer = api.tell(method, &path, &body);
            assert_eq!(answer.status(), 400, "{method} {path}: {}", answer.text());
            let code = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert!(code.ends_with(":hostname_invalid"), "{method} {path}: {code}");
        }
        // which a single host does not take
        assert_ne!(api.tell("PATCH", &path, &json!({"a.com": null})).status(), 200, "{path}");
    }
    api.ask("GET", "/stats//").expect_error(400, ":hostname_invalid");
    let client = way(&daemon);
    for words in [
        &["set", "", "empty", "false", "code=404"][..],
        &["delete", ""],
        &["get", ""],
        &["set", ".", "empty", "false", "code=404"],
    ] {
        client.words(words).finish().expect(1, &["host"]);
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
}

#[test]
fn load_tells_of_a_host_that_is_named_twice() {
    let daemon = Setup::new().start();
    let client = way(&daemon);
    let table = r#"{"a.com": ["empty", {"code": 402}, false], "b.com": ["empty", {"code": 403}, false], "A.com.": ["empty", {"code": 404}, false]}"#;
    let finished = client.call("load -").reading(table).finish();
    finished.expect(0, &["\"A.com.\" is named twice", "loaded"]);
    assert!(!finished.err.contains("b.com"), "{}", finished.err);
    let finished = client.call("load --merge -").reading(r#"{"c": null, "c": null}"#).finish();
    finished.expect(0, &["\"c\" is named twice"]);
    let once = client.call("load -").reading(r#"{"a.com": ["empty", {"code": 402}, false]}"#);
    let once = once.finish();
    assert!(!once.err.contains("twice"), "{}", once.err);
}

#[test]
fn the_check_tells_of_a_host_that_is_there_twice() {
    let setup = Setup::new();
    let table = r#"{"hosts": {"a.com": ["empty", {"code": 402}, false], "A.com": ["empty", {"code": 403}, false], "b.com": ["unknown", {}, true], "b.com": ["unknown", {}, false]}, "stats": {}}"#;
    std::fs::write(setup.path("state.json"), table).expect("a state file");
    let finished = setup.run(&["--check"]);
    finished.expect(0, &[]);
    let said = format!("{}{}", finished.out, finished.err);
    for host in ["A.com:host_duplicate", "b.com:host_duplicate"] {
        assert!(said.contains(host), "{host} in\n{said}");
    }
}

#[test]
fn a_redirect_that_never_ends_is_refused() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for (name, to) in [
        ("a.com", "a.com"),
        ("a.com", "http://a.com/new"),
        ("http://a.com", "a.com"),
        ("https://a.com", "https://A.com.:443/"),
    ] {
        let code = format!("{name}:redirect_loop");
        let path = format!("/hostname/{name}/");
        api.tell("PUT", &path, &redirect(to)).expect_error(400, &code);
        for method in ["PUT", "PATCH"] {
            let table = json!({ name: redirect(to) });
            api.tell(method, "/hostname/", &table).expect_error(400, &code);
        }
    }
    // what is upgraded to https is not
    for name in ["a.com", "http://a.com"] {
        api.put(&format!("/hostname/{name}/"), &redirect("https://a.com"));
    }
    api.put("/hostname/b.com/", &redirect("c.com"));
    let back = api.tell("PUT", "/hostname/c.com/", &redirect("http://b.com"));
    back.expect_error(400, "c.com:redirect_loop");
    let alias = api.tell("PUT", "/hostname/c.com/", &json!(["alias", {"hostname": "b.com"}, true]));
    alias.expect_error(400, "c.com:redirect_loop");
    for to in ["ftp://d.com", "javascript:alert(1)", "mailto:me@d.com", "file:///etc/passwd"] {
        for rule in [redirect(to), json!(["spin", {"then": redirect(to)}, true])] {
            let answer = api.tell("PUT", "/hostname/d.com/", &rule);
            answer.expect_error(400, "d.com:host_kwarg_invalid:redirect_to");
        }
    }
}

/// What the original let through stays until somebody changes it.
#[test]
fn a_state_file_keeps_its_redirects() {
    let setup = Setup::new()
        .rule("a.com", redirect("a.com"))
        .rule("b.com", redirect("ftp://b.com"))
        .rule("c.com", empty(402));
    let expected = json!({
        "a.com": redirect("a.com"), "b.com": redirect("ftp://b.com"), "c.com": empty(403)
    });
    for _ in 0..2 {
        let mut daemon = setup.clone().start();
        daemon.api().put("/hostname/c.com/", &empty(403));
        assert_eq!(daemon.api().get("/hostname/"), expected);
        daemon.terminate();
        daemon.expect_clean_exit();
    }
}
