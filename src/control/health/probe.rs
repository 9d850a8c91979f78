//! One probe of one backend: a connection, or a GET and the status of its response. The response is
//! not trusted: its head is read up to a bound, by the same parser as any response, and nothing
//! after it is read.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::address::{Address, UnixPath};
use crate::http::{self, HeadScan, Method};
use crate::limits;
use crate::link::{Unreached, is_local_fault, is_shortage};
use crate::table::{Check, HostSent};

/// One probe.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Probe {
    /// A connection that stays open for a moment.
    Connect,
    /// The probe of a rule's check, with the backend's name if the check sends that as `Host`.
    Check(Arc<Check>, Option<Box<str>>),
}

impl Probe {
    fn timeout(&self) -> Duration {
        match self {
            Probe::Connect => limits::PROBE_TIME,
            Probe::Check(check, _) => check.timeout(),
        }
    }
}

/// Writes the request of a check. If the check has no host, `Host` is the backend's IP address, or
/// `localhost` for a Unix socket.
fn request(path: &str, host: Option<&str>, address: Address) -> String {
    let own = || address.ip().map_or_else(|| "localhost".to_owned(), |ip| ip.to_string());
    let host = host.map_or_else(own, str::to_owned);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mantrid\r\nConnection: close\r\n\r\n"
    )
}

/// Outcome of a probe.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Finding {
    /// The backend accepts connections.
    Connected,
    /// The response has this status.
    Answered { status: u16, is_expected: bool },
    /// No connection could be opened.
    Unreachable(io::ErrorKind),
    /// No connection to the Unix socket could be opened.
    Unreached(Unreached),
    /// The address is one of this daemon itself.
    Own,
    /// The connection ended too early.
    Closed,
    /// The bytes that came are not an HTTP response.
    Garbled,
    /// The probe did not end within this time.
    TimedOut(Duration),
    /// The probe could not be made for want of descriptors, ports or permission, which is not the
    /// fault of the backend.
    Unable,
}

impl Finding {
    /// Whether the backend is well; `None`: nothing is known.
    pub(super) fn is_well(self) -> Option<bool> {
        match self {
            Finding::Unable => None,
            Finding::Connected => Some(true),
            Finding::Answered { is_expected, .. } => Some(is_expected),
            _ => Some(false),
        }
    }

    fn of_error(error: &io::Error) -> Finding {
        if is_shortage(error) || is_local_fault(error) {
            Finding::Unable
        } else {
            Finding::Unreachable(error.kind())
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Connected => f.write_str("accepts connections"),
            Finding::Answered { status, .. } => write!(f, "answered {status}"),
            Finding::Unreachable(kind) => kind.fmt(f),
            Finding::Unreached(why) => why.fmt(f),
            Finding::Own => f.write_str("is this daemon itself"),
            Finding::Closed => f.write_str("closed the connection"),
            Finding::Garbled => f.write_str("the answer is not HTTP"),
            Finding::TimedOut(time) => write!(f, "no answer in {time:?}"),
            Finding::Unable => {
                f.write_str("not probed for want of descriptors, ports or permission")
            }
        }
    }
}

/// Makes a probe.
pub(super) async fn run(address: Address, probe: Probe) -> Finding {
    let time = probe.timeout();
    let found = timeout(time, attempt(address, &probe)).await;
    found.unwrap_or(Finding::TimedOut(time))
}

async fn attempt(address: Address, probe: &Probe) -> Finding {
    let path = match address {
        Address::V4(address) => return attempt_tcp(address.into(), probe).await,
        Address::V6(address) => return attempt_tcp(address.into(), probe).await,
        Address::Unix(socket) => socket.path(),
    };
    let Some(path) = path else { return Finding::Unreached(Unreached::NoSocket) };
    match connect_unix(&path).await {
        Ok(stream) => ask(stream, address, probe).await,
        Err(error) if is_shortage(&error) => Finding::Unable,
        Err(error) => Finding::Unreached(Unreached::of(&error)),
    }
}

async fn attempt_tcp(address: SocketAddr, probe: &Probe) -> Finding {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Finding::of_error(&error),
    };
    // Close with a reset: closed in the usual way, so many connections would keep as many ports
    // busy.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    ask(stream, address.into(), probe).await
}

/// Connects to a Unix socket. A socket whose queue of connections is full is busy and not gone, so
/// it is tried again, as for a request.
async fn connect_unix(path: &UnixPath) -> io::Result<UnixStream> {
    // tokio and the standard library take an abstract name as a path with a NUL in front.
    let name = path.abstract_name().map(|name| format!("\0{name}"));
    loop {
        match UnixStream::connect(name.as_deref().unwrap_or(path.as_str())).await {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                sleep(limits::PROBE_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: Address,
    probe: &Probe,
) -> Finding {
    let Probe::Check(check, backend) = probe else { return stays_open(&mut stream, probe).await };
    let Some(path) = check.path() else { return stays_open(&mut stream, probe).await };
    let host = match check.host() {
        Some(HostSent::Fixed(host)) => Some(&**host),
        Some(HostSent::Backend) => backend.as_deref(),
        None => None,
    };
    let request = request(path, host, address);
    match stream.write_all(request.as_bytes()).await {
        Ok(()) => status(&mut stream, check).await,
        Err(_) => Finding::Closed,
    }
}

/// Waits a moment, because a backend that has no room for a connection may accept it and close it.
async fn stays_open(stream: &mut (impl AsyncRead + Unpin), probe: &Probe) -> Finding {
    let mut byte = [0];
    let moment = limits::PROBE_QUIET.min(probe.timeout() / 2);
    match timeout(moment, stream.read(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => Finding::Closed,
        Ok(Ok(_)) | Err(_) => Finding::Connected,
    }
}

/// Reads the status of the final response.
async fn status(stream: &mut (impl AsyncRead + Unpin), check: &Check) -> Finding {
    let mut bytes = Vec::new();
    let mut scan = HeadScan::default();
    loop {
        match scan.advance(&bytes) {
            Err(_) => return Finding::Garbled,
            Ok(Some(len)) => match parsed(&bytes[..len]) {
                // Skip interim responses. A 101 is none of them: no switch of protocols was asked
                // for.
                Some(100 | 102..=199) => {
                    bytes.drain(..len);
                    scan = HeadScan::default();
                }
                Some(status) => {
                    return Finding::Answered { status, is_expected: check.expects(status) };
                }
                None => return Finding::Garbled,
            },
            Ok(None) => {
                // The bound and the steps are those for a response to a client: a head that passes
                // there must count as well here.
                if limits::RESPONSE_HEAD_BYTES_MAX <= bytes.len() {
                    return Finding::Garbled;
                }
                let step = limits::RECV_BUFFER_BYTES;
                bytes.reserve(step as usize);
                match (&mut *stream).take(step.into()).read_buf(&mut bytes).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) if bytes.is_empty() => return Finding::Closed,
                    Ok(0) | Err(_) => return Finding::Garbled,
                }
            }
        }
    }
}

fn parsed(head: &[u8]) -> Option<u16> {
    let mut room = http::field_room();
    http::parse_response(head, &mut room, Method::Get).ok().map(|head| head.status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::table::{Action, Names, Rule};

    fn check(arguments: serde_json::Value) -> Probe {
        let mut given = json!({"backends": "10.0.0.1:80"});
        given.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
        let rule = Rule::from_json("a.com", &json!(["proxy", given, true]), &mut Names::default());
        match rule.expect("a rule").action {
            Action::Proxy(proxy) => Probe::Check(proxy.check().expect("a check").clone(), None),
            other => panic!("{other:?}"),
        }
    }

    /// The finding at a backend that answers with these bytes and closes, and the request it got.
    fn found(probe: Probe, answer: &'static [u8]) -> (Finding, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let address = listener.local_addr().expect("its address");
            let backend = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut asked = vec![0; 1024];
                let count = match &probe {
                    Probe::Connect => 0,
                    Probe::Check(..) => stream.read(&mut asked).await.expect("a request"),
                };
                // The prober may have seen enough and be gone by now.
                let _ = stream.write_all(answer).await;
                asked.truncate(count);
                String::from_utf8(asked).expect("text")
            };
            tokio::join!(run(address.into(), probe.clone()), backend)
        })
    }

    fn answered(status: u16, is_expected: bool) -> Finding {
        Finding::Answered { status, is_expected }
    }

    #[test]
    fn a_get_says_for_whom_it_is_and_takes_the_final_status() {
        let probe = check(json!({"check": "/health?a=1", "check_host": "app.internal:8000"}));
        let (finding, asked) = found(probe, b"HTTP/1.0 302 Found\r\n\r\n");
        assert_eq!(finding, Finding::Answered { status: 302, is_expected: true });
        let lines: Vec<&str> = asked.split("\r\n").collect();
        assert_eq!(lines[..2], ["GET /health?a=1 HTTP/1.1", "Host: app.internal:8000"]);
        let (_, asked) = found(check(json!({"check": "/"})), b"");
        assert!(asked.contains("\r\nHost: a.com\r\n"), "{asked:?}");
        assert!(lines.contains(&"Connection: close") && asked.ends_with("\r\n\r\n"), "{asked:?}");
    }

    #[test]
    fn what_is_no_answer_is_not_well() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &[b'a'; 90_000]].concat();
        for (answer, expected) in [
            (b"".as_slice(), Finding::Closed),
            (b"HTTP/1.1 200 OK\r\n", Finding::Garbled),
            (b"hello\r\n\r\n", Finding::Garbled),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Finding::Garbled),
            (b"HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n", Finding::Garbled),
            (endless.leak(), Finding::Garbled),
            (b"HTTP/1.1 101 Hi\r\n\r\n", Finding::Garbled),
            (b"HTTP/1.1 103 Hi\r\nLink: a\r\n\r\nHTTP/1.1 503 No\r\n\r\n", answered(503, false)),
            (b"HTTP/1.1 204 No Content\r\n\r\n", answered(204, true)),
        ] {
            let (finding, _) = found(check(json!({"check": "/"})), answer);
            assert_eq!(finding, expected, "{}", String::from_utf8_lossy(answer));
            assert_eq!(finding.is_well(), Some(finding == answered(204, true)));
        }
    }

    #[test]
    fn expected_statuses_are_those_of_the_check() {
        for (status, is_expected) in [(200, false), (401, true), (404, true), (405, false)] {
            let answer = format!("HTTP/1.1 {status} So\r\n\r\n").into_bytes();
            let probe = check(json!({"check": "/", "check_status": "204,401-404"}));
            assert_eq!(found(probe, answer.leak()).0, answered(status, is_expected));
        }
    }

    #[test]
    fn a_long_head_is_as_well_as_a_short_one() {
        for count in [20, 40, 60] {
            let fields = format!("X: {}\r\n", "a".repeat(1000)).repeat(count);
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();
            let (finding, _) = found(check(json!({"check": "/"})), answer.leak());
            assert_eq!(finding, answered(200, true), "{count}");
        }
    }

    #[test]
    fn a_connection_must_stay_open() {
        assert_eq!(found(Probe::Connect, b"").0, Finding::Closed);
        // a backend that speaks first
        assert_eq!(found(Probe::Connect, b"220 hello\r\n").0, Finding::Connected);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let address = listener.local_addr().expect("its address");
            // The kernel completes the connection, though nothing calls accept.
            assert_eq!(run(address.into(), Probe::Connect).await, Finding::Connected);
            drop(listener);
            let refused = Finding::Unreachable(io::ErrorKind::ConnectionRefused);
            assert_eq!(run(address.into(), Probe::Connect).await, refused);
            assert_eq!(refused.to_string(), "connection refused");
        });
    }
}
