//! The demo's backends: two small servers on loopback that say which one they are.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_lite::stream;

/// Longest delay of `/slow`, milliseconds.
const SLOW_MS_MAX: u64 = 60_000;
/// Most bytes of `/big`.
const BIG_BYTES_MAX: u64 = 1 << 40;
/// Bytes that `/big` sends at a time.
static PIECE: [u8; 64 * 1024] = [b'.'; 64 * 1024];

/// Starts a backend on a thread of its own: it must not share a thread with the proxy that it
/// demonstrates.
pub(super) fn start(name: &'static str) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("backend-{name}")).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            // The server ends with the process.
            let _ = axum::serve(listener, routes(name)).await;
        });
    })?;
    Ok(address)
}

fn routes(name: &'static str) -> Router {
    Router::new()
        .route("/", get(async |State(name): State<&str>| format!("Hello from backend {name}.\n")))
        .route("/headers", get(headers))
        .route("/slow", get(slow))
        .route("/big", get(big))
        .route("/echo", post(async |body: Body| body))
        .fallback(async || {
            let there = "There are /, /headers, /slow?ms=, /big?bytes= and, for POST, /echo.\n";
            (StatusCode::NOT_FOUND, there)
        })
        .with_state(name)
}

async fn headers(State(name): State<&'static str>, request: Request) -> String {
    let mut text = format!("To backend {name}:\n\n");
    // Writing to a String does not fail.
    let _ = writeln!(text, "{} {} {:?}", request.method(), request.uri(), request.version());
    for (field, value) in request.headers() {
        let _ = writeln!(text, "{field}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

async fn slow(State(name): State<&'static str>, RawQuery(query): RawQuery) -> Response {
    let Some(ms) = number(query, "ms", 1000, SLOW_MS_MAX) else {
        return mistake("ms", SLOW_MS_MAX);
    };
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("Backend {name} took {ms} ms.\n").into_response()
}

async fn big(RawQuery(query): RawQuery) -> Response {
    let Some(bytes) = number(query, "bytes", 1_000_000, BIG_BYTES_MAX) else {
        return mistake("bytes", BIG_BYTES_MAX);
    };
    let pieces = stream::unfold(bytes, async |left| {
        let now = left.min(PIECE.len() as u64);
        let piece = Bytes::from_static(&PIECE[..now as usize]);
        (now != 0).then(|| (Ok::<_, Infallible>(piece), left - now))
    });
    ([(header::CONTENT_LENGTH, bytes)], Body::from_stream(pieces)).into_response()
}

fn mistake(name: &str, max: u64) -> Response {
    let text = format!("{name} must be a number up to {max}.\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}

/// Returns the number under `name` in a query; `default` if the name is absent; `None` if the value
/// is not a number.
fn number(query: Option<String>, name: &str, default: u64, max: u64) -> Option<u64> {
    let query = query.unwrap_or_default();
    let given = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    given.map_or(Some(default), |text| text.parse().ok()).filter(|number| *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_queries() {
        let number = |query: &str| number(Some(query.to_owned()), "ms", 7, 100);
        assert_eq!(number(""), Some(7));
        assert_eq!(number("a=1&ms=5"), Some(5));
        assert_eq!(number("ms=101"), None);
        assert_eq!(number("ms=x"), None);
    }
}
