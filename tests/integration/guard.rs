//! Who may use the management API: holders of the token where there is one, and never a browser on
//! behalf of another page. And the socket: whose it is, and what stands in its place already.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::script::Connection;

pub const TOKEN: &str = "s3cret/with+all=kinds_of~it.";

/// A setup with this in its token file.
pub fn with_token(text: &[u8]) -> Setup {
    let setup = Setup::new();
    let file = setup.path("token");
    fs::write(&file, text).expect("a token file");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode");
    setup.set("management_token_file", file.display())
}

fn everything() -> Vec<(&'static str, &'static str)> {
    vec![
        ("GET", "/hostname/"),
        ("PUT", "/hostname/"),
        ("PATCH", "/hostname/"),
        ("GET", "/hostname/a.com/"),
        ("PUT", "/hostname/a.com/"),
        ("DELETE", "/hostname/a.com/"),
        ("GET", "/stats/"),
        ("GET", "/stats/a.com/"),
        ("GET", "/backends/"),
        ("GET", "/metrics"),
        ("GET", "/events"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("GET", "/hostname/%ff"),
        ("PUT", "/"),
    ]
}

#[test]
fn page_alone_is_served_without_the_token() {
    let daemon = with_token(format!("{TOKEN}\n").as_bytes())
        .rule("a.com", empty(402))
        .management_tcp()
        .start();
    for over in [Daemon::api, Daemon::api_tcp] {
        for (method, path) in everything() {
            let mut bare = over(&daemon);
            let answer = bare.tell(method, path, &json!({}));
            // a write to the page is none that is allowed, token or not
            if (method, path) != ("PUT", "/") {
                answer.expect_error(401, "token_missing");
                let asks = answer.head.field("WWW-Authenticate").unwrap_or_default();
                assert!(asks.starts_with("Bearer"), "{asks}");
            }
            for wrong in [
                "Bearer ",
                "Bearer x",
                "Bearer s3cret",
                "Basic czNjcmV0",
                "bearer",
                "",
                TOKEN,
                "Bearer s3cret/with+all=kinds_of~it",
                "Bearer s3cret/with+all=kinds_of~it..",
                "Bearer S3CRET/WITH+ALL=KINDS_OF~IT.",
            ] {
                let mut api = over(&daemon).with(&format!("Authorization: {wrong}"));
                let answer = api.tell(method, path, &json!({}));
                if (method, path) != ("PUT", "/") {
                    answer.expect_error(401, "token_wrong");
                }
            }
        }
        let mut bare = over(&daemon);
        let page = bare.ask("GET", "/").expect_status(200);
        assert!(!page.text().contains(TOKEN) && !page.text().contains("a.com"));
        let mut holder = over(&daemon).with(&format!("Authorization: Bearer {TOKEN}"));
        assert_eq!(holder.get("/hostname/"), json!({"a.com": empty(402)}));
        holder.put("/hostname/a.com/", &empty(402));
        // the field is case-insensitive in its scheme, and a token makes any Host good
        let mut holder = Api::over(over(&daemon).wire)
            .with("Authorization: bEARER s3cret/with+all=kinds_of~it.");
        holder.get("/stats/");
        let named = format!(
            "GET /healthz HTTP/1.1\r\nHost: proxy.example:8042\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        );
        holder.wire.exchange(named).expect_status(200);
    }
    daemon.expect_log(&["Ready"]);
    assert!(!daemon.log.text().contains(TOKEN), "the token is not for the log");
}

/// Two of them: which one counts would be a matter of opinion.
#[test]
fn second_token_in_a_request_is_refused() {
    let daemon = with_token(TOKEN.as_bytes()).start();
    let mut api = daemon
        .api()
        .with("Authorization: Bearer x")
        .with(&format!("Authorization: Bearer {TOKEN}"));
    api.ask("GET", "/hostname/").expect_error(401, "token_wrong");
}

#[test]
fn token_files_without_a_token_stop_the_start() {
    for text in [
        &b""[..],
        b"\n",
        b" \t\r\n ",
        b"two words",
        b"two\nlines",
        b"\xff\xfe",
        b"a\0b",
        "ü".as_bytes(),
    ] {
        for arguments in [&["--check"][..], &[]] {
            let finished = with_token(text).run(arguments);
            finished.expect(1, &["management_token_file", "token"]);
        }
    }
    let setup = Setup::new();
    let missing = setup.path("missing").display().to_string();
    setup
        .set("management_token_file", &missing)
        .run(&[])
        .expect(1, &["management_token_file", &missing]);
}

#[test]
fn a_token_file_that_others_may_read_is_told_of() {
    let setup = with_token(TOKEN.as_bytes());
    fs::set_permissions(setup.path("token"), PermissionsExt::from_mode(0o644)).expect("its mode");
    setup.start().expect_log(&["management_token_file", "others"]);
}

#[test]
fn open_address_needs_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "*:0"] {
        for arguments in [&["--check"][..], &[]] {
            let open = Setup::new().set("bind_management", address);
            open.run(arguments).expect(1, &["bind_management", "management_token_file"]);
        }
    }
    let daemon = with_token(TOKEN.as_bytes()).set("bind_management", "0.0.0.0:0").start();
    let port = daemon.api_address().port();
    let mut api = Api::over(Connection::client(([127, 0, 0, 1], port).into()));
    api.ask("GET", "/hostname/").expect_error(401, "token_missing");
    let mut api = api.with(&format!("Authorization: Bearer {TOKEN}"));
    assert_eq!(api.get("/hostname/"), json!({}));
}

/// A page of evil.example, whose name was made to lead to 127.0.0.1, is of the same origin as we
/// are to a browser: only its name tells it apart.
#[test]
fn host_names_of_other_machines_are_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).management_tcp().start();
    for (host, is_ours) in [
        ("localhost", true),
        ("LocalHost:8042", true),
        ("127.0.0.1:8042", true),
        ("[::1]:8042", true),
        ("192.0.2.7", true),
        ("evil.example", false),
        ("evil.example:8042", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example:8042", false),
        ("a.com", false),
        ("evil.example#localhost", false),
        ("localhost:8042@evil.example", false),
        ("127.0.0.1@evil.example", false),
        ("[::1]@evil.example", false),
        ("[::1].evil.example:8042", false),
        ("localhost:evil.example", false),
        ("localhost:8042:1", false),
        ("localhost:8042\u{e9}", false),
        ("", false),
    ] {
        for (method, path, body) in [
            ("GET", "/hostname/", ""),
            ("PUT", "/hostname/", "{\"b.com\": [\"unknown\", {}, true]}"),
            ("GET", "/", ""),
        ] {
            let mut wire = Connection::client(daemon.api_address());
            let length = body.len();
            wire.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            let answer = wire.expect_answer();
            if is_ours {
                answer.expect_status(200);
            } else {
                answer.expect_error(403, "host_not_allowed");
            }
        }
        daemon.api().put("/hostname/", &json!({"a.com": empty(402)}));
    }
    // a target with an authority has the last word over Host (RFC 9112 §3.2.2)
    let mut wire = Connection::client(daemon.api_address());
    wire.send("GET http://evil.example/hostname/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.expect_answer().expect_error(403, "host_not_allowed");
    let mut wire = Connection::client(daemon.api_address());
    wire.send("GET http://localhost:1@evil.example/stats/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.expect_answer().expect_error(403, "host_not_allowed");
    // and who sends no Host is no browser
    let mut wire = Connection::client(daemon.api_address());
    wire.send("GET /hostname/ HTTP/1.0\r\n\r\n");
    let (answer, _) = wire.read_to_end();
    assert!(answer.starts_with(b"HTTP/1.0 200"));
}

#[test]
fn writes_sent_by_other_pages_are_refused() {
    let daemon = Setup::new().rule("a.com", empty(402)).management_tcp().start();
    let mut api = daemon.api_tcp();
    let body = json!({"b.com": empty(403)});
    let one = empty(403);
    for (lines, status, code) in [
        ("Origin: http://evil.example\r\n", 403, "origin_foreign"),
        ("Origin: null\r\n", 403, "origin_foreign"),
        ("Origin: http://localhost:3000\r\n", 403, "origin_foreign"),
        ("Origin: http://localhost.evil.example\r\n", 403, "origin_foreign"),
        ("Origin: \r\n", 403, "origin_foreign"),
        ("Sec-Fetch-Site: cross-site\r\n", 403, "cross_site"),
        ("Sec-Fetch-Site: same-site\r\n", 403, "cross_site"),
        ("Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n", 403, "cross_site"),
    ] {
        for (method, path, body) in [
            ("PUT", "/hostname/", &body),
            ("PATCH", "/hostname/", &body),
            ("PUT", "/hostname/a.com/", &one),
            ("DELETE", "/hostname/a.com/", &json!(null)),
        ] {
            api.tell_with(lines, method, path, body).expect_error(status, code);
        }
        // whoever could read the answer to this is kept off by the browser: there is no CORS
        let request = api.request("GET", "/hostname/", lines, "");
        let answer = api.wire.exchange(request).expect_status(200);
        assert_eq!(answer.head.field("Access-Control-Allow-Origin"), None);
        let request = api.request("OPTIONS", "/hostname/", lines, "");
        assert_eq!(api.wire.exchange(request).head.field("Access-Control-Allow-Methods"), None);
    }
    for (kind, is_form) in [
        ("application/x-www-form-urlencoded", true),
        ("multipart/form-data; boundary=x", true),
        ("text/plain", true),
        ("TEXT/Plain;charset=utf-8", true),
        ("text/plain; charset=\u{e9}", true),
        (" text/plain ; x=y", true),
        ("application/json", false),
        ("application/json; charset=utf-8", false),
        ("application/merge-patch+json", false),
    ] {
        let text = body.to_string();
        for method in ["PUT", "PATCH"] {
            let length = text.len();
            api.wire.send(format!(
                "{method} /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
                 Content-Length: {length}\r\n\r\n{text}"
            ));
            let answer = api.wire.expect_answer();
            match is_form {
                true => drop(answer.expect_error(415, "content_type_form")),
                false => drop(answer.expect_made()),
            }
        }
        if !is_form {
            api.put("/hostname/", &json!({"a.com": empty(402)}));
        }
    }
    assert_eq!(api.get("/hostname/"), json!({"a.com": empty(402)}));
    // the dashboard itself writes like this
    let own = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n";
    api.tell_with(own, "PUT", "/hostname/", &body).expect_made();
}

#[test]
fn the_socket_is_for_its_group() {
    let setup = Setup::new();
    let path = setup.path("management.sock");
    let daemon = setup.start();
    let found = fs::symlink_metadata(&path).expect("the socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o660, "not for others");
    daemon.api().get("/hostname/");
    daemon.expect_log(&["Ready"]);
    daemon.api().put("/hostname/a.com/", &empty(402));
    let uid = nix::unistd::geteuid();
    daemon.expect_log(&["audit", &format!("uid {uid}"), "a.com"]);
}

/// Who was turned away or not understood is in the log as well as who made a change.
#[test]
fn changes_that_the_api_refuses_leave_a_line() {
    let daemon = with_token(TOKEN.as_bytes()).management_tcp().start();
    daemon
        .api_tcp()
        .tell("PUT", "/hostname/a.com/", &empty(402))
        .expect_error(401, "token_missing");
    daemon.expect_log(&["audit who=127.0.0.1:", "PUT", "/hostname/a.com/", "token_missing"]);
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let mut api = daemon.api_tcp().with(&authorization);
    api.tell("PATCH", "/hostname/", &json!([])).expect_error(400, "body_not_a_dict");
    daemon.expect_log(&["audit who=127.0.0.1:", "PATCH", "/hostname/", "body_not_a_dict"]);
    api.tell("PUT", "/hostname/b.com/?dry_run=1&dry_run=0", &empty(402))
        .expect_error(400, "query_invalid");
    // once each: an edit that the table refuses has its line already, reading leaves none
    let missing = json!(["alias", {"hostname": "c.com"}, false]);
    api.tell("PUT", "/hostname/d.com/", &missing).expect_error(400, "d.com:alias_missing");
    api.ask("GET", "/nothing").expect_error(404, "not_found");
    api.tell("DELETE", "/hostname/e.com/", &json!(null)).expect_made();
    daemon.expect_log(&["audit", "e.com", "done"]);
    let lines = daemon.log.lines();
    let audits = lines.iter().filter(|line| line.contains("audit")).count();
    assert_eq!(audits, 5, "{lines:#?}");
}

/// The rights go with the daemon's user, when root gives itself up.
#[test]
fn the_socket_belongs_to_whom_the_daemon_becomes() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let setup = Setup::new().unset("uid").unset("gid");
    fs::set_permissions(setup.path(""), PermissionsExt::from_mode(0o777))
        .expect("a folder for all");
    let path = setup.path("management.sock");
    let daemon = setup.start();
    let found = fs::symlink_metadata(&path).expect("the socket");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (4321, 4321, 0o660));
    daemon.api().put("/hostname/a.com/", &empty(402));
}

#[test]
fn stale_sockets_are_replaced_and_files_are_not() {
    // stale: whoever left it behind listens no more
    let setup = Setup::new();
    let path = setup.path("management.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let mut daemon = setup.clone().start();
    daemon.api().get("/hostname/");
    daemon.kill();
    // its own, after a crash
    let daemon = setup.start();
    daemon.api().get("/hostname/");
    drop(daemon);
    // somebody listens on it
    let setup = Setup::new();
    let path = setup.path("management.sock");
    let live = UnixListener::bind(&path).expect("a socket");
    setup.run(&[]).expect(1, &["bind_management", "management.sock", "listens"]);
    assert!(path.exists(), "it was not touched");
    drop(live);
    // no socket at all
    for make in [
        |path: &std::path::Path| fs::write(path, "precious").expect("a file"),
        |path: &std::path::Path| fs::create_dir(path).expect("a folder"),
        |path: &std::path::Path| std::os::unix::fs::symlink("elsewhere", path).expect("a link"),
    ] {
        let setup = Setup::new();
        let path = setup.path("management.sock");
        make(&path);
        let kind = fs::symlink_metadata(&path).expect("it").file_type();
        setup.run(&[]).expect(1, &["bind_management", "management.sock"]);
        assert_eq!(fs::symlink_metadata(&path).expect("it is there").file_type(), kind);
        if kind.is_file() {
            assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
        }
    }
    let setup = Setup::new();
    let path = setup.path("no/such/folder.sock").display().to_string();
    let finished = setup.set("bind_management", format!("unix:{path}")).run(&[]);
    finished.expect(1, &["bind_management", "no/such/folder.sock"]);
}

/// A second one on the same socket must not take it away from the first.
#[test]
fn second_daemon_leaves_the_socket_alone() {
    let setup = Setup::new().rule("a.com", empty(402));
    let daemon = setup.clone().start();
    let other = setup.path("other.json").display().to_string();
    setup.set("state_file", other).run(&[]).expect(1, &["bind_management", "management.sock"]);
    assert_eq!(daemon.api().get("/hostname/"), json!({"a.com": empty(402)}));
}
