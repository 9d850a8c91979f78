//! Asks the management API of the other nodes, for statistics of all of them.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Fleet;
use crate::limits;

/// Time that another node has for its answer.
const PEER_TIME: Duration = Duration::from_secs(1);

impl Fleet {
    /// Asks all other nodes at the same time. Returns the answers, and the names of the nodes that
    /// gave none.
    pub(in crate::control) async fn ask_others(
        &self,
        path: &str,
        token: Option<&str>,
    ) -> (Vec<Value>, Vec<String>) {
        let mut asked = tokio::task::JoinSet::new();
        for (name, url) in self.others() {
            let (path, token) = (path.to_owned(), token.map(str::to_owned));
            asked.spawn(async move {
                let answer = timeout(PEER_TIME, get(&url, &path, token.as_deref())).await;
                (name, answer.ok().and_then(Result::ok))
            });
        }
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        while let Some(joined) = asked.join_next().await {
            match joined {
                Ok((_, Some(answer))) => answers.push(answer),
                Ok((name, None)) => missing.push(name),
                Err(_) => {}
            }
        }
        missing.sort_unstable();
        (answers, missing)
    }
}

async fn get(url: &str, path: &str, token: Option<&str>) -> Result<Value, String> {
    let uri: Uri = url.parse().map_err(|_| "no address")?;
    let authority = uri.authority().ok_or("no address")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let bearer = token.and_then(|token| format!("Bearer {token}").parse().ok());
    if let Some(bearer) = bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let exchange = async {
        let answer = requests.send_request(request).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), limits::MANAGEMENT_BODY_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection drives the exchange. When it has ended, the rest is here or never comes.
        _ = connection => exchange.await,
    }
}

/// Members of the JSON that can't be added up.
const PERCENTILES: &[&str] = &["p50", "p95", "p99"];

/// Adds the numbers of one answer to those of another, at every depth.
pub(in crate::control) fn add(sum: &mut Value, more: &Value) {
    match (sum, more) {
        (Value::Object(sum), Value::Object(more)) => {
            for (name, value) in more {
                match sum.get_mut(name) {
                    // A sum of percentiles says nothing: take the slowest node's.
                    Some(own) if PERCENTILES.contains(&&**name) => {
                        if own.as_f64() < value.as_f64() {
                            *own = value.clone();
                        }
                    }
                    Some(own) => add(own, value),
                    None => drop(sum.insert(name.clone(), value.clone())),
                }
            }
        }
        (sum, more) => {
            if let (Some(a), Some(b)) = (sum.as_u64(), more.as_u64()) {
                *sum = a.saturating_add(b).into();
            } else if let (Some(a), Some(b)) = (sum.as_f64(), more.as_f64()) {
                *sum = (a + b).into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_added_at_every_depth() {
        let mut sum = json!({"a.com": {"completed": 1, "rate": 0.5}, "only": {"completed": 2}});
        add(&mut sum, &json!({"a.com": {"completed": 2, "rate": 1.0}, "b.com": {"completed": 7}}));
        let expected = json!({
            "a.com": {"completed": 3, "rate": 1.5}, "only": {"completed": 2},
            "b.com": {"completed": 7},
        });
        assert_eq!(sum, expected);
    }

    #[test]
    fn percentile_of_the_slowest_node_is_told() {
        let mut sum = json!({"a.com": {"p50": 0.5, "p95": null, "p99": 2.0}});
        add(&mut sum, &json!({"a.com": {"p50": 0.25, "p95": 0.75, "p99": null}}));
        assert_eq!(sum, json!({"a.com": {"p50": 0.5, "p95": 0.75, "p99": 2.0}}));
    }
}
