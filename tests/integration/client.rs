//! `mantrid-client`: what it asks of the management API, what it prints, and what it says when it
//! can't. The API is scripted here, so that what it answers can be wrong as well.

mod events;
mod load;
mod problems;
pub mod top;

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::management::{Call, answer, expect_asked, json_ok, on_socket};

#[test]
fn list_prints_the_original_table() {
    let server = Backend::new();
    let client = Call::to(&server, &["list"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
    asked.send(json_ok(&json!({
        "localhost": ["proxy", {"backends": [["127.0.0.1", 8000]]}, true],
        "a.com": ["static", {"type": "test"}, false],
    })));
    client.expect_printed(
        "HOST                                ACTION                    SUBDOMS \n\
         a.com                               static<test>              False   \n\
         localhost                           proxy<127.0.0.1:8000>     True    \n",
    );
}

/// Any reading command with --json gives the answer as it came.
#[test]
fn json_is_the_answer_as_it_came() {
    let body = "{\"b.com\":  [\"spin\", {}, true],\n \"a.com\": {}}";
    for (arguments, line) in [
        (&["list", "--json"][..], "GET /hostname/ HTTP/1.1"),
        (&["--json", "list"], "GET /hostname/ HTTP/1.1"),
        (&["stats", "--json"], "GET /stats/ HTTP/1.1"),
        (&["stats", "a.com", "--json"], "GET /stats/a.com/ HTTP/1.1"),
        (&["get", "a.com", "--json"], "GET /hostname/a.com/ HTTP/1.1"),
        (&["dump", "--json"], "GET /hostname/ HTTP/1.1"),
        (&["dump"], "GET /hostname/ HTTP/1.1"),
    ] {
        let server = Backend::new();
        let client = Call::to(&server, arguments).start();
        let mut asked = server.accept();
        expect_asked(&mut asked, line);
        asked.send(answer("200 OK", "", body));
        client.expect_printed(&format!("{body}\n"));
    }
}

#[test]
fn set_sends_what_the_original_sent() {
    for (words, path, rule) in [
        (
            "localhost proxy true backends=localhost:8000,[::1]:8001 attempts=3",
            "localhost",
            json!(["proxy", {"backends": [["localhost", 8000], ["::1", 8001]], "attempts": "3"}, true]),
        ),
        (
            "top-secret.com empty True code=403",
            "top-secret.com",
            json!(["empty", {"code": "403"}, true]),
        ),
        ("https://a.com spin FALSE", "https%3A%2F%2Fa.com", json!(["spin", {}, false])),
        ("-new.example.com spin true", "-new.example.com", json!(["spin", {}, true])),
    ] {
        let server = Backend::new();
        let words: Vec<&str> = ["set"].into_iter().chain(words.split(' ')).collect();
        let client = Call::to(&server, &words).start();
        let mut asked = server.accept();
        let (head, body) = expect_asked(&mut asked, &format!("PUT /hostname/{path}/ HTTP/1.1"));
        assert_eq!(head.field("Content-Type"), Some("application/json"));
        assert_eq!(head.field("Host"), Some(&*format!("127.0.0.1:{}", server.port)));
        assert_eq!(head.field("If-Match"), None);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body, rule);
        asked.send(json_ok(&json!({"ok": true})));
        client.expect_printed("");
    }
}

#[test]
fn delete_is_silent() {
    let server = Backend::new();
    let client = Call::to(&server, &["delete", "a.com"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
    asked.send(json_ok(&json!({"ok": true})));
    client.expect_printed("");
}

#[test]
fn complaints_of_the_original_come_without_a_daemon() {
    let usage = "Usage: set <hostname> <action> <subdoms> [option=value, ...]\n";
    for (words, complaint) in [
        (&["set"][..], format!("You must supply a hostname.\n{usage}")),
        (&["set", "a"], format!("You must supply an action.\n{usage}")),
        (
            &["set", "a", "spin", "maybe"],
            format!("You must supply True or False for the subdomains flag.\n{usage}"),
        ),
        (&["set", "a", "proxy", "true", "x"], "x is not a valid option (no =)\n".to_owned()),
        (
            &["set", "a", "proxy", "true"],
            "The proxy action requires a backends option.\n".to_owned(),
        ),
        (&["frob"], "Action frob does not exist.\n".to_owned()),
        (
            &[],
            "Please provide an action (add-backend, backend, changes, check, completions, delete, diff, \
             dump, events, fleet, flip, get, list, load, man, remove-backend, restart, set, spin, stats, support, top, \
             which).\n"
                .to_owned(),
        ),
    ] {
        let finished = Call::new(words).finish();
        assert_eq!(
            (finished.code, finished.out.as_str(), finished.err.as_str()),
            (Some(1), "", complaint.as_str()),
            "{words:?}"
        );
    }
}

#[test]
fn dry_run_says_that_nothing_was_changed() {
    let server = Backend::new();
    let client = Call::to(&server, &["set", "a.com", "spin", "true", "--dry-run"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "PUT /hostname/a.com/?dry_run=1 HTTP/1.1");
    asked.send(json_ok(&json!({"ok": true, "dry_run": true})));
    let finished = client.finish();
    finished.expect(0, &["a.com", "nothing was"]);
    assert_eq!(finished.out, "");
}

#[test]
fn change_carries_the_tag_that_was_looked_at() {
    for (given, sent) in [("7", "\"7\""), ("\"7\"", "\"7\"")] {
        let server = Backend::new();
        let client = Call::to(&server, &["delete", "a.com", "--if-match", given]).start();
        let mut asked = server.accept();
        let (head, _) = expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
        assert_eq!(head.field("If-Match"), Some(sent));
        let body = json!({"error": "precondition_failed", "message": "the table is at \"8\""});
        asked.send(answer("412 Precondition Failed", "", &body.to_string()));
        client.finish().expect(1, &["the table is at \"8\"", "--if-match"]);
    }
}

#[test]
fn client_waits_for_old_backends_and_says_what_is_left() {
    for (reply, code, words) in [
        (json!({"ok": true, "drained": true}), 0, &[][..]),
        (
            json!({"ok": true, "drained": false, "in_flight": {"127.0.0.1:8000": 2}}),
            1,
            &["a.com is changed", "after 2s", "127.0.0.1:8000 (2)"],
        ),
    ] {
        let server = Backend::new();
        let words_given = ["set", "a.com", "spin", "true", "--wait", "--timeout", "2s"];
        let client = Call::to(&server, &words_given).start();
        let mut asked = server.accept();
        expect_asked(&mut asked, "PUT /hostname/a.com/?wait=drained&timeout=2s HTTP/1.1");
        asked.send(json_ok(&reply));
        client.finish().expect(code, words);
    }
    Call::new(&["delete", "a.com", "--wait", "--timeout", "soon"])
        .finish()
        .expect(1, &["--timeout \"soon\"", "30s"]);
}

#[test]
fn stats_are_printed_for_all_hosts_and_for_one() {
    let counters = json!({
        "open_requests": 1, "completed_requests": 3, "bytes_sent": 171, "bytes_received": 95,
        "held_requests": 2, "answers": {"2xx": 7, "3xx": 8, "4xx": 9, "5xx": 10},
    });
    let header = "HOST                                OPEN        COMPLETED   BYTES IN    \
         BYTES OUT   HELD        2XX         3XX         4XX         5XX        \n";
    let row = "a.com                               1           3           95          \
         171         2           7           8           9           10         \n";
    let empty = "b.com                               0           0           0           \
         0           0           0           0           0           0          \n";
    for (arguments, path, reply, rows) in [
        (&["stats"][..], "", json!({"b.com": {}, "a.com": counters}), format!("{row}{empty}")),
        (&["stats", "a.com"], "a.com/", counters.clone(), row.to_owned()),
        (&["stats", "b.com"], "b.com/", json!({}), empty.to_owned()),
    ] {
        let server = Backend::new();
        let client = Call::to(&server, arguments).start();
        let mut asked = server.accept();
        expect_asked(&mut asked, &format!("GET /stats/{path} HTTP/1.1"));
        asked.send(json_ok(&reply));
        client.expect_printed(&format!("{header}{rows}"));
    }
}

#[test]
fn get_shows_a_rule_or_says_that_there_is_none() {
    let server = Backend::new();
    let client = Call::to(&server, &["get", "a.com"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /hostname/a.com/ HTTP/1.1");
    asked.send(answer("200 OK", "ETag: \"7\"\r\n", r#"["static", {"type": "test"}, true]"#));
    client.expect_printed(
        "host                     a.com\n\
         action                   static\n\
         subdoms                  true\n\
         type                     test\n\
         etag                     \"7\"\n",
    );
    for (arguments, out) in [(&["get", "a.com"][..], ""), (&["get", "a.com", "--json"], "null\n")] {
        let client = Call::to(&server, arguments).start();
        let mut asked = server.accept();
        expect_asked(&mut asked, "GET /hostname/a.com/ HTTP/1.1");
        asked.send(answer("200 OK", "", "null"));
        let finished = client.finish();
        finished.expect(1, &["a.com has no rule"]);
        assert_eq!(finished.out, out);
    }
}

#[test]
fn dump_passes_the_table_on_as_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let etag = folder.path().join("etag");
    let server = Backend::new();
    let client = Call::to(&server, &["dump", "--etag", etag.to_str().expect("UTF-8")]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
    asked.send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"7\"\r\n\
         Transfer-Encoding: chunked\r\n\r\n8\r\n{\"a.com\"\r\n",
    );
    client.expect_out("{\"a.com\"");
    asked.send("4\r\n:[]}\r\n0\r\n\r\n");
    client.expect_printed("{\"a.com\":[]}\n");
    assert_eq!(std::fs::read_to_string(etag).expect("a file"), "\"7\"");
}

/// A table that was cut off must not look whole to whoever asks for the exit code.
#[test]
fn a_dump_that_is_cut_off_fails() {
    for start in ["Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "Content-Length: 9\r\n\r\n{}"] {
        let server = Backend::new();
        let client = Call::to(&server, &["dump"]).start();
        let mut asked = server.accept();
        expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
        asked.send(format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{start}"));
        drop(asked);
        client.finish().expect(1, &["before its answer was whole"]);
    }
}

#[test]
fn client_speaks_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("management.sock");
    let server = Backend::new();
    on_socket(&server, &path);
    let path = path.to_str().expect("UTF-8");
    let unix = format!("unix:{path}");
    for call in [
        Call::new(&["--socket", path, "delete", "a.com"]),
        Call::new(&["delete", "a.com", "--url", &unix]),
        Call::new(&["delete", "a.com"]).env("MANTRID_URL", &unix),
    ] {
        let client = call.start();
        let mut asked = server.accept();
        let (head, _) = expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
        assert_eq!(head.field("Host"), Some("localhost"));
        asked.send(json_ok(&json!({"ok": true})));
        client.expect_printed("");
    }
}

/// Also where only one of the two loopbacks answers.
#[test]
fn localhost_is_either_loopback() {
    let server = Backend::new();
    let address = format!("http://localhost:{}", server.port);
    let client = Call::new(&["delete", "a.com"]).env("MANTRID_URL", &address).start();
    let mut asked = server.accept();
    let (head, _) = expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
    assert_eq!(head.field("Host"), Some(&*format!("localhost:{}", server.port)));
    asked.send(json_ok(&json!({"ok": true})));
    client.expect_printed("");
}

#[test]
fn the_token_is_sent() {
    let server = Backend::new();
    let call = Call::to(&server, &["delete", "a.com"]);
    let client = call.env("MANTRID_TOKEN", "se-cret").start();
    let mut asked = server.accept();
    let (head, _) = expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
    assert_eq!(head.field("Authorization"), Some("Bearer se-cret"));
    asked.send(json_ok(&json!({"ok": true})));
    client.expect_printed("");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = Call::new(&["completions", shell]).finish();
        finished.expect(0, &[]);
        assert!(finished.out.contains("mantrid-client complete --"), "{}", finished.out);
    }
    let page = Call::new(&["man"]).finish();
    page.expect(0, &[]);
    assert!(page.out.contains(".TH mantrid-client 1") && page.out.contains("MANTRID_TOKEN"));
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    Call::new(&["man", pages.to_str().expect("UTF-8")]).finish().expect(0, &[]);
    for page in ["mantrid-client.1", "mantrid-client-set.1", "mantrid-client-load.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}

#[test]
fn help_is_help() {
    for arguments in [&["--help"][..], &["help"], &["set", "--help"], &["help", "set"]] {
        let finished = Call::new(arguments).finish();
        finished.expect(0, &[]);
        assert!(finished.out.contains("backends"), "{arguments:?}: {}", finished.out);
    }
    let list = Call::new(&["list", "--help"]).finish().out;
    assert!(list.contains("--search <TEXT>") && list.contains("--action <NAME>"), "{list}");
    Call::new(&["list", "--frob"]).finish().expect(1, &["--frob"]);
}
