//! Whether a backend of a rule answers, asked by the client itself: after the command of `restart`.

use std::fmt;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A backend, as the daemon gives rules back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    Tcp(String, u16),
    /// A path, or `@` and an abstract name.
    Unix(String),
}

impl Backend {
    /// The backends of a `proxy` rule.
    pub fn all_of(rule: &Value) -> Vec<Backend> {
        let backends = rule[1]["backends"].as_array().into_iter().flatten();
        backends.filter_map(Backend::read).collect()
    }

    fn read(value: &Value) -> Option<Backend> {
        if let Some(path) = value.as_str().and_then(|text| text.strip_prefix("unix:")) {
            return Some(Backend::Unix(path.to_owned()));
        }
        let port = value[1].as_u64().and_then(|port| u16::try_from(port).ok());
        Some(Backend::Tcp(value[0].as_str()?.to_owned(), port?))
    }

    /// Whether it accepts connections; with a path, whether it answers 2xx or 3xx.
    pub async fn look(&self, path: Option<&str>) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        match self {
            Backend::Tcp(host, port) => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(text)?;
                ask(stream, &self.to_string(), path).await
            }
            Backend::Unix(name) => {
                let name = match name.strip_prefix('@') {
                    Some(name) => format!("\0{name}"),
                    None => name.clone(),
                };
                let stream = UnixStream::connect(name).await.map_err(text)?;
                ask(stream, "localhost", path).await
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Backend::Tcp(host, port) => write!(f, "{host}:{port}"),
            Backend::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: Option<&str>,
) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let status = sender.send_request(request).await.map_err(text)?.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("{path} answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn backends_are_read_as_the_daemon_writes_them() {
        let backends = json!([["::1", 80], ["b.internal", 443], "unix:/run/a.sock", "unix:@b"]);
        let all = Backend::all_of(&json!(["proxy", {"backends": backends}, true]));
        let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[::1]:80", "b.internal:443", "unix:/run/a.sock", "unix:@b"]);
    }
}
