//! Checks whether a backend of a rule answers. The client itself asks it, after the command of
//! `restart`.

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

/// A backend, in the form in which the daemon writes rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Application {
    Tcp(String, u16),
    /// A path, or `@` and an abstract name.
    Unix(String),
}

/// The backends of a `proxy` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applications {
    /// Backends that get the requests of the rule.
    pub used: Vec<Application>,
    /// Backends that get the requests while none of `used` is usable.
    pub backup: Vec<Application>,
}

impl Applications {
    pub fn of(rule: &Value) -> Applications {
        let list = |name: &str| rule[1][name].as_array().into_iter().flatten();
        let weights: Vec<&Value> = list("weights").collect();
        let is_drained = |at: usize| weights.get(at).is_some_and(|weight| **weight == 0);
        let all = || list("backends").enumerate();
        let read = |(_, backend): (usize, &Value)| Application::read(backend);
        let used: Vec<_> = all().filter(|(at, _)| !is_drained(*at)).filter_map(read).collect();
        let backup: Vec<_> = list("backup").filter_map(Application::read).collect();
        match (used.is_empty(), backup.is_empty()) {
            (false, _) => Applications { used, backup },
            (true, false) => Applications { used: backup, backup: used },
            // All are drained: there are no others to ask.
            (true, true) => Applications { used: all().filter_map(read).collect(), backup },
        }
    }
}

impl Application {
    fn read(value: &Value) -> Option<Application> {
        if let Some(path) = value.as_str().and_then(|text| text.strip_prefix("unix:")) {
            return Some(Application::Unix(path.to_owned()));
        }
        let port = value[1].as_u64().and_then(|port| u16::try_from(port).ok());
        Some(Application::Tcp(value[0].as_str()?.to_owned(), port?))
    }

    /// Whether the application accepts connections; with a check, whether it answers as expected.
    pub async fn look(&self, check: Option<&Check<'_>>) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        match self {
            Application::Tcp(host, port) => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(text)?;
                ask(stream, check, self).await
            }
            Application::Unix(name) => {
                let name = match name.strip_prefix('@') {
                    Some(name) => format!("\0{name}"),
                    None => name.clone(),
                };
                let stream = UnixStream::connect(name).await.map_err(text)?;
                ask(stream, check, self).await
            }
        }
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Application::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Application::Tcp(host, port) => write!(f, "{host}:{port}"),
            Application::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Check of a rule that is an HTTP request.
pub struct Check<'r> {
    path: &'r str,
    /// Host of the request; `backend`: the name and port of the backend.
    host: &'r str,
    statuses: Vec<(u16, u16)>,
}

impl<'r> Check<'r> {
    /// The HTTP check of the rule of this name, if it has one.
    pub fn of(name: &'r str, arguments: &'r Value) -> Option<Check<'r>> {
        let path = arguments["check"].as_str().filter(|check| check.starts_with('/'))?;
        let own = name.split_once("://").map_or(name, |(_, host)| host);
        let own = if own == "*" { "backend" } else { own };
        let given = ["check_host", "host"].into_iter().find_map(|name| arguments[name].as_str());
        let host = given.unwrap_or(own);
        let statuses = match &arguments["check_status"] {
            Value::Array(items) => items.iter().map(ToString::to_string).collect(),
            Value::Null => vec!["200-399".to_owned()],
            one => vec![one.to_string()],
        };
        let statuses = statuses.iter().flat_map(|text| text.split(',')).filter_map(range);
        Some(Check { path, host, statuses: statuses.collect() })
    }

    fn expects(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// A status or a range of them, as JSON or a part of it.
fn range(text: &str) -> Option<(u16, u16)> {
    let text = text.trim_matches(['"', ' ']);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    check: Option<&Check<'_>>,
    backend: &Application,
) -> Result<(), String> {
    let Some(check) = check else { return Ok(()) };
    let host = match (check.host, backend) {
        ("backend", Application::Unix(_)) => "localhost".to_owned(),
        ("backend", backend) => backend.to_string(),
        (host, _) => host.to_owned(),
    };
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(connection);
    let request = Request::get(check.path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let status = sender.send_request(request).await.map_err(text)?.status();
    match check.expects(status.as_u16()) {
        true => Ok(()),
        false => Err(format!("{} answers {status}", check.path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn backends_are_read_as_the_daemon_writes_them() {
        let backends = json!([["::1", 80], ["b.internal", 443], "unix:/run/a.sock", "unix:@b"]);
        let all = Applications::of(&json!(["proxy", {"backends": backends}, true]));
        let shown: Vec<String> = all.used.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[::1]:80", "b.internal:443", "unix:/run/a.sock", "unix:@b"]);
    }

    #[test]
    fn check_asks_for_the_host_of_requests() {
        for (arguments, host) in [
            (json!({"check": "/"}), "a.com"),
            (json!({"check": "/", "host": "b.com:81"}), "b.com:81"),
            (json!({"check": "/", "host": "b.com", "check_host": "c.com"}), "c.com"),
            (json!({"check": "/", "host": "backend"}), "backend"),
        ] {
            let check = Check::of("https://a.com", &arguments).expect("a check");
            assert_eq!(check.host, host, "{arguments}");
        }
        // `*` is no host; the daemon's probes name the backend, too.
        let arguments = json!({"check": "/"});
        assert_eq!(Check::of("*", &arguments).expect("a check").host, "backend");
    }

    #[test]
    fn drained_backends_are_not_asked() {
        for (arguments, used, backup) in [
            (json!({"weights": [0, 3]}), &["b:2"][..], &[][..]),
            (json!({"weights": [0, 3], "backup": [["c", 3]]}), &["b:2"], &["c:3"]),
            (json!({"weights": [0, 0], "backup": [["c", 3]]}), &["c:3"], &[]),
            (json!({"weights": [0, 0]}), &["a:1", "b:2"], &[]),
        ] {
            let mut rule = json!(["proxy", arguments, true]);
            rule[1]["backends"] = json!([["a", 1], ["b", 2]]);
            let found = Applications::of(&rule);
            let shown = |all: &[Application]| all.iter().map(ToString::to_string).collect();
            let found: [Vec<String>; 2] = [shown(&found.used), shown(&found.backup)];
            assert_eq!(found, [used, backup], "{rule}");
        }
    }
}
