//! What the client says when it can't: the cause, and what to do next. Never a traceback, never a
//! panic, always 1.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port};
use crate::management::{Call, answer, expect_asked, json_ok};

#[test]
fn missing_daemon_is_named_with_its_address() {
    let port = closed_port();
    for host in ["127.0.0.1", "localhost"] {
        let address = format!("http://{host}:{port}");
        let expected = format!(
            "mantrid-client: no daemon answers on {address}: is mantrid running? \
             (systemctl status mantrid, or give --url or --socket)\n"
        );
        for command in ["list", "dump", "events"] {
            let finished = Call::new(&["--url", &address, command]).finish();
            finished.expect(1, &[]);
            assert_eq!((finished.out.as_str(), finished.err.as_str()), ("", expected.as_str()));
        }
    }
}

#[test]
fn missing_socket_is_named_with_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("management.sock");
    let call = || Call::new(&[Path::new("list"), Path::new("--socket"), &path]);
    call().finish().expect(1, &["there is no socket", "bind_management = unix:/"]);
    drop(UnixListener::bind(&path).expect("a socket"));
    call().finish().expect(1, &["no daemon answers on", "management.sock"]);
}

#[test]
fn socket_of_another_group_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("management.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    set(folder.path(), 0o755);
    set(&path, 0o000);
    let mut call = Call::new(&[Path::new("list"), Path::new("--socket"), &path]);
    if nix::unistd::geteuid().is_root() {
        // root needs no permission
        call.command().uid(65534).gid(65534);
    }
    call.finish().expect(1, &["no permission for", "group ", "usermod -aG"]);
}

#[test]
fn addresses_that_make_no_sense_are_refused() {
    for (url, words) in [
        ("https://localhost:8042", &["--url", "no TLS", "SSH tunnel"][..]),
        ("ftp://localhost", &["expected http://HOST[:PORT]"]),
        ("http://localhost:8042/hostname/", &["expected http://HOST[:PORT]"]),
    ] {
        Call::new(&["list", "--url", url]).finish().expect(1, words);
    }
    Call::new(&["list"]).env("MANTRID_URL", "x y").finish().expect(1, &["MANTRID_URL"]);
    let call = Call::new(&["list", "--url", "http://name.invalid:1"]);
    call.finish().expect(1, &["http://name.invalid:1", "--url"]);
}

#[track_caller]
fn expect_told(reply: &str, words: &[&str]) {
    let server = Backend::new();
    let client = Call::to(&server, &["list"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
    asked.send(reply);
    drop(asked);
    let finished = client.finish();
    finished.expect(1, words);
    assert_eq!(finished.out, "");
    assert!(!finished.err.contains('\u{1b}'), "{:?}", finished.err);
}

fn refusal(status: &str, error: &str, message: &str) -> String {
    answer(status, "", &json!({"error": error, "message": message}).to_string())
}

#[test]
fn refusals_are_told_with_the_way_out() {
    for (status, error, words) in [
        ("400 Bad Request", "a.com:host_action_invalid:x", &["the message"][..]),
        (
            "401 Unauthorized",
            "token_wrong",
            &["MANTRID_TOKEN", "management_token_file", "the message"],
        ),
        ("403 Forbidden", "host_not_allowed", &["the message"]),
        ("503 Service Unavailable", "busy", &["the message"]),
        ("507 Insufficient Storage", "state_not_written", &["the message"]),
    ] {
        expect_told(&refusal(status, error, "the message"), words);
    }
    // only what the original had
    expect_told(&answer("400 Bad Request", "", "{\"error\": \"a:b\"}"), &["a:b"]);
    // a terminal obeys nothing of it
    expect_told(&refusal("400 Bad Request", "x", "\u{1b}[2J\u{7}"), &["\\u{1b}[2J\\u{7}"]);
}

#[test]
fn answer_of_another_program_is_named() {
    let page = "<html></html>";
    let html = |status: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n{page}")
    };
    for reply in [
        html("200 OK"),
        html("404 Not Found"),
        html("204 No Content").replace("Content-Length: 13\r\n", "").replace(page, ""),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "\u{15}\u{3}\u{1}\r\n\r\n".to_owned(),
        answer("200 OK", "", "[]"),
        answer("200 OK", "", "{\"a.com\": "),
    ] {
        expect_told(&reply, &["is no management API", "bind_management"]);
    }
    expect_told("", &["closed the connection before its answer was whole"]);
    expect_told("HTTP/1.1 200 OK\r\nContent-", &["closed the connection"]);
}

/// Without an answer nobody knows: that is said, and it is not done again by itself.
#[test]
fn change_without_an_answer_may_have_been_made() {
    let server = Backend::new();
    let client = Call::to(&server, &["delete", "a.com"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "DELETE /hostname/a.com/ HTTP/1.1");
    drop(asked);
    client.finish().expect(1, &["may have been made"]);
    server.expect_no_connection();
}

/// What was not written is not done: a script must not take a part for the whole.
#[test]
fn a_full_disk_is_told() {
    for command in ["list", "dump"] {
        let server = Backend::new();
        let mut call = Call::to(&server, &[command]);
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        call.command().stdout(full);
        let client = call.start();
        let mut asked = server.accept();
        expect_asked(&mut asked, "GET /hostname/ HTTP/1.1");
        asked.send(json_ok(&json!({"a.com": ["spin", {}, true]})));
        client.finish().expect(1, &["standard output: No space left"]);
    }
}

/// `list | head -1`.
#[test]
fn closed_output_is_no_problem() {
    let table: serde_json::Map<String, Value> =
        (0..5000).map(|n| (format!("host-{n}"), json!(["spin", {}, true]))).collect();
    let table = Value::from(table);
    for arguments in [&["list"][..], &["list", "--json"], &["dump"], &["stats"], &["help"]] {
        let server = Backend::new();
        let (client, out) = Call::to(&server, arguments).start_unread();
        drop(out);
        if arguments != ["help"] {
            let mut asked = server.accept();
            asked.expect_head();
            asked.try_send(json_ok(&table)).ok();
        }
        let finished = client.finish();
        assert_eq!((finished.code, finished.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
