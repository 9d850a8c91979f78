//! `docs/examples/docker-waker.py` as `docs/holding.md` has it, with a stand-in for Docker: a
//! socket that says what it was asked.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::script::{Connection, find};

/// A stand-in for Docker's socket.
#[derive(Clone, Default)]
struct Docker {
    asked: Arc<Mutex<Vec<String>>>,
    /// Replies to the next questions after a container; then it runs, without a health check.
    states: Arc<Mutex<VecDeque<Value>>>,
    /// Status of the replies to `start`.
    start: Arc<Mutex<Option<u16>>>,
}

impl Docker {
    fn listen(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("a Unix socket");
        let docker = self.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                docker.reply(stream);
            }
        });
    }

    fn reply(&self, mut stream: UnixStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while find(&head, b"\r\n\r\n").is_none() && matches!(stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.lines().next().unwrap_or_default().to_owned();
        let (status, body) = match line.as_str() {
            line if line.starts_with("GET ") => {
                let next = self.states.lock().expect("states").pop_front();
                let state = next.unwrap_or_else(|| json!({"Running": true}));
                (200, json!({ "State": state }).to_string())
            }
            line if line.contains("/start ") => {
                let status = self.start.lock().expect("a status").unwrap_or(204);
                (status, String::new())
            }
            _ => (304, String::new()),
        };
        self.asked.lock().expect("questions").push(line);
        let reply = match status {
            204 | 304 => format!("HTTP/1.1 {status} So\r\n\r\n"),
            _ => format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        };
        drop(stream.write_all(reply.as_bytes()));
    }

    fn asked(&self, line: &str) -> usize {
        let asked = self.asked.lock().expect("questions");
        asked.iter().filter(|known| known.starts_with(line)).count()
    }
}

struct Waker(Child);

impl Drop for Waker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const START: &str = "POST /containers/shop/start ";
const STOP: &str = "POST /containers/shop/stop ";
const LOOK: &str = "GET /containers/shop/json ";

/// A host that is asleep, with its waker, and the rule for when it runs.
fn asleep(docker: &Docker, port: u16) -> Option<(Daemon, Waker, Value)> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3 here");
        return None;
    }
    let waker = closed_port();
    let url = format!("http://127.0.0.1:{waker}/");
    let awake = rule_for(&[port], json!({"idle": 1, "wake": url}));
    let asleep = json!(["spin", {"then": awake, "wake": url}, true]);
    let setup = Setup::new().management_tcp();
    let daemon = setup.clone().rule("a.com", asleep).start();
    docker.listen(&setup.path("docker.sock"));
    let sites = setup.path("sites.json");
    let site = json!({"container": "shop", "address": format!("127.0.0.1:{port}")});
    fs::write(&sites, json!({"a.com": site}).to_string()).expect("sites");
    let child = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/docker-waker.py"))
        .args(["--listen", &format!("127.0.0.1:{waker}")])
        .arg("--docker")
        .arg(setup.path("docker.sock"))
        .arg(&sites)
        .env("MANTRID_URL", format!("http://{}", daemon.api_address()))
        .env_remove("MANTRID_TOKEN")
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let child = Waker(child);
    eventually("the waker listens", || TcpStream::connect(("127.0.0.1", waker)).is_ok());
    Some((daemon, child, awake))
}

fn visit(daemon: &Daemon) -> Connection {
    let mut visitor = daemon.connect();
    visitor.send(get("a.com", "/"));
    visitor
}

#[test]
fn container_is_started_by_a_visitor_and_stopped_when_idle() {
    let (docker, port) = (Docker::default(), closed_port());
    let Some((daemon, _waker, awake)) = asleep(&docker, port) else { return };
    let mut api = daemon.api();
    for round in 1..=2 {
        let mut visitor = visit(&daemon);
        eventually("the container is started", || docker.asked(START) == round);
        let backend = Backend::on(port).serve_text("awake");
        assert_eq!(visitor.expect_answer().text(), "awake");
        drop(visitor);
        eventually("the container is stopped", || docker.asked(STOP) == round);
        // It was awake in between, for as long as nobody asked.
        let changes = api.get("/changes/?host=a.com");
        assert_eq!((&changes[0]["before"], &changes[1]["rule"]), (&awake, &awake));
        let rule = api.get("/hostname/a.com/");
        assert_eq!((&rule[0], &rule[1]["then"], &rule[2]), (&json!("spin"), &awake, &json!(true)));
        drop(backend);
    }
}

/// An address may accept connections long before the application works.
#[test]
fn container_with_a_health_check_is_waited_for() {
    let docker = Docker::default();
    let health = |status: &str| json!({"Running": true, "Health": {"Status": status}});
    let states = ["starting", "starting", "healthy"].map(health);
    docker.states.lock().expect("states").extend(states);
    let backend = Backend::new().serve_text("awake");
    let Some((daemon, _waker, _)) = asleep(&docker, backend.port) else { return };
    let mut visitor = visit(&daemon);
    assert_eq!(visitor.expect_answer().text(), "awake");
    assert_eq!(docker.asked(LOOK), 3);
}

/// Visitors wait on, and Mantrid does not take it for awake.
#[test]
fn container_that_does_not_start_leaves_the_host_held() {
    let docker = Docker::default();
    *docker.start.lock().expect("a status") = Some(404);
    let backend = Backend::new().serve_text("awake");
    let Some((daemon, _waker, awake)) = asleep(&docker, backend.port) else { return };
    let mut visitor = visit(&daemon);
    eventually("it was to start", || docker.asked(START) == 1);
    visitor.expect_nothing_more();
    let mut api = daemon.api();
    assert_eq!(api.get("/hostname/a.com/")[0], "spin");
    assert_eq!(docker.asked(LOOK), 0);
    api.put("/hostname/a.com/", &awake);
    assert_eq!(visitor.expect_answer().text(), "awake");
}
