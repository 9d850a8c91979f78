//! `--demo`: the newcomer's first minute, on loopback, leaving nothing behind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;

use super::Problems;
use super::arguments::Arguments;
use super::listen::Bound;
use crate::config::Config;

/// Settings of the demo where the command line has none.
pub(super) fn preset(overrides: &mut Vec<String>) {
    let has = |overrides: &[String], key: &str| {
        overrides.iter().any(|setting| setting.split('=').next().map(str::trim) == Some(key))
    };
    if !has(overrides, "bind") {
        overrides.push("bind=127.0.0.1:8080".to_owned());
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            overrides.push("bind=[::1]:8080".to_owned());
        }
    }
    for (key, value) in [("uid", "0"), ("gid", "0")] {
        // A playground on loopback with a table of its own: who starts it keeps his rights.
        if !has(overrides, key) {
            overrides.push(format!("{key}={value}"));
        }
    }
}

pub(super) fn run(mut config: Config, arguments: &Arguments) -> Result<(), Problems> {
    let folder = Folder::new().map_err(|error| vec![format!("no temporary folder: {error}")])?;
    let backends = (1..=2)
        .map(backend)
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|error| vec![format!("can't start the demo's backends: {error}")])?;
    config.state_file = folder.0.join("state.json");
    std::fs::write(&config.state_file, table(&backends).to_string())
        .map_err(|error| vec![format!("{}: {error}", config.state_file.display())])?;
    super::run(&config, arguments.debug, Some(&|bound| announce(bound, &backends)))
}

fn table(backends: &[SocketAddr]) -> serde_json::Value {
    let both: Vec<String> = backends.iter().map(ToString::to_string).collect();
    json!({"hosts": {
        "localhost": ["proxy", {"backends": both, "algorithm": "round_robin"}, true],
        "old.example": ["redirect", {"redirect_to": "new.example"}, true],
        "test.example": ["static", {"type": "test"}, false],
        "secret.example": ["empty", {"code": 403}, false],
        "down.example": ["proxy", {"backends": ["127.0.0.1:1"]}, false],
        "also.example": ["alias", {"hostname": "localhost"}, false],
    }, "stats": {}})
}

fn announce(bound: &[Bound], backends: &[SocketAddr]) {
    let at = bound.first().map_or(String::new(), |address| address.local.to_string());
    let port = bound.first().map_or(0, |address| address.local.port());
    println!(
        "\nMantrid's demo: one proxy on http://{at}/ and two small backends behind it ({}, {}).\n\n\
         Try, in another terminal:\n\n  \
         curl http://localhost:{port}/                                the two backends take turns\n  \
         curl http://localhost:{port}/headers                         what a backend gets to see\n  \
         curl 'http://localhost:{port}/big?bytes=100000000' -o /dev/null\n  \
         curl 'http://localhost:{port}/slow?ms=2000'                  an answer that takes its time\n  \
         curl --data-binary @Cargo.toml http://localhost:{port}/echo  a body, there and back\n  \
         curl -i -H 'Host: also.example' http://localhost:{port}/     an alias of localhost\n  \
         curl -i -H 'Host: old.example' http://localhost:{port}/a?b   a redirect\n  \
         curl -i -H 'Host: test.example' http://localhost:{port}/     a built-in page\n  \
         curl -i -H 'Host: secret.example' http://localhost:{port}/   an empty 403\n  \
         curl -i -H 'Host: down.example' http://localhost:{port}/     a backend that is not there\n  \
         curl -i -H 'Host: who.example' http://localhost:{port}/      a host without a rule\n\n\
         Ctrl-C ends it; nothing is left behind.\n",
        backends[0], backends[1]
    );
}

/// A backend on a thread of its own: it must not share the control shard with what it tests.
fn backend(number: usize) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("backend-{number}")).spawn(move || {
        runtime.block_on(async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                let _ = axum::serve(listener, routes(number)).await;
            }
        });
    })?;
    Ok(address)
}

fn routes(number: usize) -> Router {
    Router::new()
        .route("/", get(|State(number): State<usize>| async move {
            format!("Hello from backend {number}.\n")
        }))
        .route("/headers", get(headers))
        .route("/slow", get(slow))
        .route("/big", get(big))
        .route("/echo", axum::routing::post(|body: Body| async move { body }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "Nothing here.\n") })
        .with_state(number)
}

async fn headers(request: Request) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

type Parameters = std::collections::HashMap<String, u64>;

async fn slow(Query(parameters): Query<Parameters>) -> &'static str {
    let ms = parameters.get("ms").copied().unwrap_or(1000).min(30_000);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "Here at last.\n"
}

async fn big(Query(parameters): Query<Parameters>) -> Vec<u8> {
    let bytes = parameters.get("bytes").copied().unwrap_or(1_000_000).min(1 << 30);
    vec![b'x'; usize::try_from(bytes).unwrap_or(0)]
}

/// A folder that goes with the demo.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("mantrid-demo-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
