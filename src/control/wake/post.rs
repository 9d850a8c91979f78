//! One POST to the address that a rule names, within its time. Only the status of the response
//! counts.

use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits;

/// Sends `body` as JSON; the error says why no 2xx came within `patience`.
pub(super) async fn post(url: &str, body: String, patience: Duration) -> Result<(), String> {
    match timeout(patience, attempt(url, body)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer in {patience:?}")),
    }
}

/// Connects to the first address that accepts. Attempts begin one after another, a moment apart,
/// and run side by side.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for (at, address) in tokio::net::lookup_host((host, port)).await?.enumerate() {
        attempts.spawn(async move {
            tokio::time::sleep(limits::NEXT_ADDRESS * at as u32).await;
            TcpStream::connect(address).await
        });
    }
    let mut why = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    while let Some(ended) = attempts.join_next().await {
        match ended {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error,
            Err(_) => {}
        }
    }
    Err(why)
}

async fn attempt(url: &str, body: String) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|error| format!("no address: {error}"))?;
    let authority = uri.authority().ok_or("no address: it has no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let stream = connect(host, port).await.map_err(|error| format!("no connection: {error}"))?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("mantrid/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("no address: {error}"))?;
    let mut answer = std::pin::pin!(requests.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection drives the exchange. When it has ended, the response is here or never
        // comes.
        _ = connection => answer.await,
    };
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The outcome of a POST that is answered with these bytes, and the request that was sent.
    fn posted(answer: &'static str) -> (Result<(), String>, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let address = listener.local_addr().expect("its address");
            let other = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut got = Vec::new();
                while !got.ends_with(b"{}") {
                    assert_ne!(stream.read_buf(&mut got).await.expect("bytes"), 0);
                }
                stream.write_all(answer.as_bytes()).await.expect("room for an answer");
                String::from_utf8(got).expect("text")
            };
            let url = format!("http://{address}/wake?app=1");
            tokio::join!(post(&url, "{}".to_owned(), Duration::from_secs(5)), other)
        })
    }

    #[test]
    fn a_2xx_is_success_and_nothing_else() {
        let (result, sent) = posted("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(result, Ok(()));
        assert!(sent.starts_with("POST /wake?app=1 HTTP/1.1\r\n"), "{sent:?}");
        assert!(sent.contains("content-type: application/json\r\n"), "{sent:?}");
        let (result, _) = posted("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(result, Err("answered 500 Internal Server Error".to_owned()));
        let (result, _) = posted("hello");
        assert!(result.is_err());
    }

    #[test]
    fn what_can_not_be_reached_is_said() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let url = format!("http://{}/", listener.local_addr().expect("its address"));
            drop(listener);
            post(&url, String::new(), Duration::from_secs(5)).await
        });
        assert!(result.is_err_and(|why| why.starts_with("no connection: ")));
    }
}
