//! The access log: one line of JSON a request, wherever it went; opened anew, switched, never
//! waited for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::message::{get, ok};
use crate::script::{Connection, PATIENCE};
use crate::spin::{expect_held, metric};
use crate::tunnel::tunnelled;

pub fn logging(setup: Setup) -> (Setup, PathBuf) {
    let path = setup.path("access.log");
    (setup.set("access_log", path.display()), path)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The address in a rule with one backend.
fn backend_name(rule: &Value) -> String {
    let backend = &rule[1]["backends"][0];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match backend.as_array() {
        Some(pair) => format!("{}:{}", text(&pair[0]), text(&pair[1])),
        None => text(backend),
    }
}

#[track_caller]
pub fn wait_for(path: &Path, count: usize) -> Vec<Value> {
    eventually("the lines are there", || count <= lines(path).len());
    lines(path)
}

#[test]
fn line_says_what_became_of_its_request() {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().rule("a.com", backend.rule()));
    let daemon = setup.start();
    let (mut client, mut server) = asked_for(
        &daemon,
        &backend,
        "POST /up?x=\"1\" HTTP/1.1\r\nHost: A.com:80\r\nContent-Length: 5\r\n\r\nhello",
    );
    server.expect_body("hello");
    server.send(ok("answered"));
    assert_eq!(client.expect_answer().text(), "answered");
    let line = &wait_for(&path, 1)[0];
    let has = |key: &str, value: Value| assert_eq!(line[key], value, "{key} of {line}");
    has("host", json!("a.com"));
    has("method", json!("POST"));
    has("target", json!("/up?x=\"1\""));
    has("version", json!("1.1"));
    has("scheme", json!("http"));
    has("status", json!(200));
    has("backend", json!(backend_name(&backend.rule())));
    has("termination", json!("complete"));
    has("request_id", Value::Null);
    has("client", json!(client.sender().local_addr().expect("its address").to_string()));
    let millis = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} of {line}"));
    assert!(millis("first_byte_ms") <= millis("total_ms") && 0.0 < millis("connect_ms"));
    assert_eq!((millis("held_ms"), millis("queue_ms")), (0.0, 0.0));
    let stats = daemon.api().get("/stats/a.com/");
    has("bytes_sent", stats["bytes_sent"].clone());
    has("bytes_received", stats["bytes_received"].clone());
    let time = line["time"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 24, "{time}");
}

#[test]
fn line_names_how_its_request_ended() {
    let dead = json!(["proxy", { "backends": ["127.0.0.1:1"] }, false]);
    let (silent, quick) = (Backend::new(), Backend::new().serve_text(""));
    let (setup, path) = logging(
        Setup::new()
            .set("timeout_server", "200ms")
            .rule("empty.com", json!(["empty", { "code": 403 }, false]))
            .rule("dead.com", dead)
            .rule("held.com", json!(["spin", { "timeout": 0.2 }, false]))
            .rule("slow.com", silent.rule())
            .rule("limited.com", quick.rule_with(json!({"max_requests_per_second": 1}))),
    );
    let daemon = setup.start();
    let mut expected = Vec::new();
    let mut count = 0;
    let mut ask = |request: String, status: u16, cause: &str| {
        assert_eq!(daemon.connect().exchange(request).status(), status);
        count += 1;
        let line = wait_for(&path, count).pop().expect("a line");
        assert_eq!((&line["status"], &line["termination"]), (&json!(status), &json!(cause)));
        expected.push(line);
    };
    ask(get("empty.com", "/"), 403, "local");
    ask(get("unknown.com", "/"), 503, "local");
    ask(get("dead.com", "/"), 502, "no_backend");
    ask(get("held.com", "/"), 503, "held_timeout");
    ask(get("slow.com", "/"), 504, "backend_timeout");
    ask("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400, "refused");
    let held = expected[3]["held_ms"].as_f64().expect("a time");
    assert!((150.0..5000.0).contains(&held), "{held}");
    assert_eq!(expected[5]["reason"], "bad_host");
    assert_eq!(expected[5]["host"], Value::Null);
    // Others pass before the one that is turned away where a second is over between two.
    let mut client = daemon.connect();
    let is_limited = |_: &usize| client.exchange(get("limited.com", "/")).status() == 429;
    let asked = (1..100).find(is_limited).expect("no client sends so few in a second");
    let line = wait_for(&path, expected.len() + asked).pop().expect("a line");
    assert_eq!((&line["status"], &line["termination"]), (&json!(429), &json!("rate_limited")));
}

#[test]
fn client_that_leaves_has_an_ending_of_its_own() {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().rule("a.com", backend.rule()));
    let daemon = setup.start();
    let (client, _server) = asked(&daemon, &backend);
    client.reset();
    let line = &wait_for(&path, 1)[0];
    assert_eq!((&line["termination"], &line["status"]), (&json!("client_gone"), &Value::Null));
}

/// Clients leave one after the other, each in another phase.
#[test]
fn failed_request_names_its_phase() {
    let backend = Backend::new();
    let spin = json!(["spin", {}, false]);
    let (setup, path) = logging(
        Setup::new()
            .rule("a.com", backend.rule_with(json!({ "max_connections": 1 })))
            .rule("held.com", spin)
            .rule("dead.com", json!(["proxy", { "backends": ["127.0.0.1:1"] }, false]))
            .rule("empty.com", json!(["empty", { "code": 403 }, false])),
    );
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut count = 0;
    let mut expect = |termination: &str, phase: Value| {
        count += 1;
        let line = wait_for(&path, count).pop().expect("a line");
        assert_eq!((&line["termination"], &line["phase"]), (&json!(termination), &phase), "{line}");
    };
    let mut client = daemon.connect();
    client.send(get("held.com", "/"));
    expect_held(&mut api, "held.com", 1);
    client.reset();
    expect("client_gone", json!("held"));
    let (client, _server) = asked(&daemon, &backend);
    let mut queued = daemon.connect();
    queued.send(get("a.com", "/"));
    eventually("it waits", || metric(&mut api, "requests_queued") == 1.0);
    queued.reset();
    expect("client_gone", json!("queueing"));
    client.reset();
    expect("client_gone", json!("awaiting_response"));
    let upload = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 100\r\n\r\n";
    // The backend stays: an end of its own would be another ending.
    let (client, _server) = asked_for(&daemon, &backend, upload);
    client.reset();
    expect("client_gone", json!("sending_request"));
    let (mut client, mut server) = asked(&daemon, &backend);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    client.expect_status(200);
    client.reset();
    expect("client_gone", json!("relaying"));
    let (client, _server) = tunnelled(&daemon, &backend);
    client.reset();
    expect("tunnel_cut", json!("tunnel"));
    assert_eq!(daemon.connect().exchange(get("dead.com", "/")).status(), 502);
    expect("no_backend", json!("connecting"));
    assert_eq!(daemon.connect().exchange("GET / HTTP/1.1\r\n\r\n").status(), 400);
    expect("refused", json!("reading_head"));
    assert_eq!(daemon.connect().exchange(get("empty.com", "/")).status(), 403);
    expect("local", Value::Null);
}

fn serve_one(daemon: &Daemon) {
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
}

#[test]
fn log_is_opened_anew_on_a_signal() {
    let (setup, path) =
        logging(Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false])));
    let daemon = setup.start();
    serve_one(&daemon);
    wait_for(&path, 1);
    let old = path.with_extension("old");
    fs::rename(&path, &old).expect("moved");
    serve_one(&daemon);
    wait_for(&old, 2);
    daemon.signal("USR1");
    daemon.expect_log(&["access_log", "opened anew"]);
    serve_one(&daemon);
    assert_eq!(wait_for(&path, 1).len(), 1);
    assert_eq!(lines(&old).len(), 2);
}

#[test]
fn nothing_is_lost_at_the_end() {
    let (setup, path) = logging(
        Setup::new().set("shards", 2).rule("a.com", json!(["empty", { "code": 403 }, false])),
    );
    let mut daemon = setup.start();
    (0..50).for_each(|_| serve_one(&daemon));
    daemon.terminate();
    daemon.expect_clean_exit();
    assert_eq!(lines(&path).len(), 50);
}

#[test]
fn a_full_disk_costs_lines_and_no_request() {
    let daemon = Setup::new()
        .set("access_log", "/dev/full")
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
        .start();
    serve_one(&daemon);
    daemon.expect_log(&["access_log", "lines are lost"]);
    serve_one(&daemon);
    eventually("they are counted", || dropped(&daemon) == 2);
}

/// Lines that were dropped, as the metrics have it.
fn dropped(daemon: &Daemon) -> u64 {
    let metrics = daemon.api().ask("GET", "/metrics").expect_status(200).text();
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("mantrid_access_log_dropped_total "));
    count.and_then(|count| count.parse().ok()).expect("a count")
}

/// Requests with long lines, one after the other, until some line was dropped. None waits for
/// room: that comes only when somebody reads.
#[track_caller]
fn ask_until_dropped(daemon: &Daemon) {
    let request = get("a.com", &format!("/{}", "x".repeat(1900)));
    let mut client = daemon.connect();
    eventually("lines are dropped", || {
        for _ in 0..200 {
            assert_eq!(client.exchange(&*request).status(), 403);
        }
        0 < dropped(daemon)
    });
}

fn with_pipe() -> (Setup, PathBuf) {
    let setup = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]));
    let path = setup.path("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    (setup, path)
}

/// Neither the start, nor a request, nor a signal waits for whoever should read.
#[test]
fn a_pipe_that_nobody_reads_delays_nobody() {
    let (setup, path) = with_pipe();
    let setup = setup.set("access_log", path.display());
    let mut daemon = setup.clone().start();
    ask_until_dropped(&daemon);
    daemon.expect_log(&["access_log", "lines are lost"]);
    daemon.signal("USR1");
    daemon.expect_log(&["access_log", "opened anew"]);
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP", "in force"]);
    daemon.upgrade();
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
    serve_one(&daemon);
    daemon.terminate();
    daemon.expect_clean_exit();
}

#[test]
fn a_reader_who_comes_late_finds_whole_lines() {
    let (setup, path) = with_pipe();
    let daemon = setup.set("access_log", path.display()).start();
    ask_until_dropped(&daemon);
    // the writer has given the pipe up, too, and not just the shard its page
    daemon.expect_log(&["access_log", "lines are lost"]);
    let (last, read) = std::sync::mpsc::channel();
    let reader = fs::File::open(&path).expect("a reader");
    let thread = std::thread::spawn(move || {
        let (mut whole, mut torn) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = line.expect("text");
            match serde_json::from_str::<Value>(&line) {
                Ok(line) if line["target"] == "/last" => {
                    let _ = last.send(());
                    return (whole, torn);
                }
                Ok(_) => whole += 1,
                Err(_) => torn += 1,
            }
        }
        (whole, torn)
    });
    daemon.expect_log(&["access_log", "lost; now it can be written again"]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/last")).status(), 403);
    read.recv_timeout(PATIENCE).expect("the last line");
    let (whole, torn) = thread.join().expect("no panic");
    assert!(0 < whole && torn <= 1, "{whole} lines and {torn} that were not whole");
}

/// What is written to standard output can't be given up half-way; its writer may wait for ever.
#[test]
fn a_full_standard_output_delays_no_request_and_no_end() {
    let (setup, path) = with_pipe();
    let setup = setup.set("access_log", "stdout");
    let mut daemon = setup.first(format!("exec 1<>{}", path.display())).start();
    ask_until_dropped(&daemon);
    daemon.terminate();
    daemon.expect_clean_exit();
}

#[test]
fn log_that_can_t_be_opened_stops_the_start() {
    let setup = Setup::new().set("access_log", "/nowhere/at/all.log");
    setup.run(&[]).expect(1, &["access_log = /nowhere/at/all.log", "No such file"]);
    setup.run(&["--check"]).expect(1, &["access_log = /nowhere/at/all.log", "No such file"]);
}

#[test]
fn requests_have_an_id_when_asked_for() {
    let backend = Backend::new();
    let (setup, path) = logging(Setup::new().internal().rule("a.com", backend.rule()));
    let daemon = setup.set("request_id", "true").start();
    let forged = "GET / HTTP/1.1\r\nHost: a.com\r\nX-Request-Id: mine\r\nX_Request_Id: too\r\n\r\n";
    let ids = |mut client: Connection| {
        client.send(forged);
        let mut server = backend.accept();
        let head = server.expect_head();
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.expect_answer();
        [head.all("x-request-id"), head.all("x_request_id")]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<String>>()
    };
    let own = ids(daemon.connect());
    assert!(own.len() == 1 && own[0].len() == 32, "{own:?}");
    let taken_over = ids(daemon.connect_internal());
    assert_eq!(taken_over, ["mine", "too"], "as it came");
    let lines = wait_for(&path, 2);
    assert_eq!(lines[0]["request_id"], json!(own[0]));
    assert_eq!(lines[1]["request_id"], "mine");
}
