//! `load`: the bytes of the file go out as they stand, in one request, or not at all.

use std::fs;

use serde_json::json;

use crate::backend::Backend;
use crate::management::{Call, answer, expect_asked, json_ok};
use crate::message::assert_same;
use crate::script::PATIENCE;

const TABLE: &str = "{\"a.com\":  [\"spin\", {}, true],\n \"b.com\": [\"spin\", {}, false]}";

#[test]
fn a_table_replaces_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = format!("{{\"stats\": {{\"a.com\": {{}}}}, \"hosts\": {TABLE}, \"sequence\": 3}}");
    for (name, text) in [("table.json", TABLE), ("state.json", &state)] {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("a file");
        let server = Backend::new();
        let client = Call::to(&server, &["load", file.to_str().expect("UTF-8")]).start();
        let mut asked = server.accept();
        let (head, body) = expect_asked(&mut asked, "PUT /hostname/ HTTP/1.1");
        assert_eq!(head.field("Content-Type"), Some("application/json"));
        assert_same(name, TABLE.as_bytes(), &body);
        asked.send(json_ok(&json!({"ok": true})));
        let finished = client.finish();
        finished.expect(0, &["2 rules of ", name, "loaded, in "]);
        assert_eq!(finished.out, "");
        assert_eq!(finished.err.lines().count(), 1, "no bar where there is no terminal");
    }
}

#[test]
fn changes_are_merged_from_standard_input() {
    let changes = r#"{"a.com": null, "b.com": ["spin", {}, true]}"#;
    let server = Backend::new();
    let call = Call::to(&server, &["load", "--merge", "--dry-run", "--if-match", "7", "-"]);
    let client = call.reading(changes);
    let mut asked = server.accept();
    let (head, body) = expect_asked(&mut asked, "PATCH /hostname/?dry_run=1 HTTP/1.1");
    assert_eq!(head.field("If-Match"), Some("\"7\""));
    assert_same("the changes", changes.as_bytes(), &body);
    asked.send(json_ok(&json!({"ok": true, "dry_run": true})));
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
    asked.send(json_ok(&json!({
        "a.com": ["empty", {"code": 402}, false], "c.com": ["spin", {}, true],
    })));
    let finished = client.finish();
    finished.expect(0, &["2 changes of standard input checked; nothing was changed"]);
    let difference = "- a.com [\"empty\",{\"code\":402},false]\n+ b.com [\"spin\",{},true]\n";
    assert_eq!(finished.out, difference);
}

/// More than any buffer in between holds.
#[test]
fn a_large_table_is_streamed() {
    let rules: serde_json::Map<_, _> = (0..50_000)
        .map(|n| (format!("host-{n}.example.com"), json!(["spin", {"timeout": n}, true])))
        .collect();
    let text = serde_json::Value::from(rules).to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.json");
    fs::write(&file, &text).expect("a file");
    let server = Backend::new();
    let client = Call::to(&server, &["load", file.to_str().expect("UTF-8")]).start();
    let mut asked = server.accept();
    let (_, body) = expect_asked(&mut asked, "PUT /hostname/ HTTP/1.1");
    assert_same("the table", text.as_bytes(), &body);
    asked.send(json_ok(&json!({"ok": true})));
    client.finish().expect(0, &["50000 rules"]);
}

#[test]
fn text_that_is_no_table_is_not_sent() {
    let server = Backend::new();
    for (text, words) in [
        ("", &["standard input: ", "nothing was sent"][..]),
        ("[]", &["expected an object of rules"]),
        ("{\"a.com\":\n  [\"spin\", {}, true]", &["line 2"]),
        ("{\"a.com\": null}", &["a.com", "--merge"]),
    ] {
        Call::to(&server, &["load", "-"]).reading(text).finish().expect(1, words);
    }
    let call = Call::to(&server, &["load", "/nowhere/table.json"]);
    call.finish().expect(1, &["/nowhere/table.json", "No such file"]);
    server.expect_no_connection();
}

#[test]
fn refusal_is_told_in_the_words_of_the_daemon() {
    let server = Backend::new();
    let client = Call::to(&server, &["load", "-"]).reading(TABLE);
    let mut asked = server.accept();
    expect_asked(&mut asked, "PUT /hostname/ HTTP/1.1");
    let body = json!({"error": "b.com:x", "message": "b.com: spin has no argument x"});
    asked.send(answer("400 Bad Request", "", &body.to_string()));
    let finished = client.finish();
    finished.expect(1, &["b.com: spin has no argument x"]);
    assert!(!finished.err.contains("loaded"), "{}", finished.err);
}

/// The answer may come, and the connection end, long before the body was sent.
#[test]
fn an_answer_before_the_body_is_heard() {
    let table = json!({"a.com": ["static", {"type": "x".repeat(20_000_000)}, true]}).to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.json");
    fs::write(&file, &table).expect("a file");
    let server = Backend::new();
    let client = Call::to(&server, &["load", file.to_str().expect("UTF-8")]).start();
    // A large file is read first.
    let mut asked = server.accept_within(6 * PATIENCE).expect("a connection");
    asked.expect_request("PUT /hostname/ HTTP/1.1");
    let body = json!({"error": "token_missing", "message": "a token is wanted"});
    asked.send(answer("401 Unauthorized", "Connection: close\r\n", &body.to_string()));
    asked.half_close();
    client.finish().expect(1, &["MANTRID_TOKEN"]);
}
