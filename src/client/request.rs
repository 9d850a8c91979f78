//! One request to the management API and its answer, on a connection of its own, with timeouts.

use std::io::{self, Cursor, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_MATCH, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::address::Address;
use super::failure::{ANSWER_BYTES_MAX, CONNECT_PATIENCE, RequestError};
use super::print::plain;

/// Longest time without a byte of the answer, at its beginning and between its parts.
pub const PATIENCE: Duration = Duration::from_secs(60);
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Most bytes that are read from a file at once. A request in flight has no more of it in memory.
const PIECE_BYTES: usize = 64 * 1024;

/// A request to the API.
pub struct Ask {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub body: Option<Sending>,
    pub if_match: Option<String>,
    pub patience: Duration,
}

impl Ask {
    pub fn get(target: impl Into<String>) -> Ask {
        Ask {
            method: Method::GET,
            target: target.into(),
            body: None,
            if_match: None,
            patience: PATIENCE,
        }
    }
}

/// The body of a request, read as the connection takes it.
pub struct Sending {
    reader: Box<dyn Read + Send>,
    left: u64,
}

impl Sending {
    /// `reader` gives exactly so many bytes.
    pub fn new(reader: impl Read + Send + 'static, bytes: u64) -> Sending {
        Sending { reader: Box::new(reader), left: bytes }
    }

    pub fn json(value: &Value) -> Sending {
        let text = value.to_string();
        let bytes = text.len() as u64;
        Sending::new(Cursor::new(text), bytes)
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    // The file is read here, on the thread that sends, which has nothing else to do.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(self.left).unwrap_or(usize::MAX))];
        Poll::Ready(Some(match self.reader.read(&mut piece) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            )),
            Ok(count) => {
                piece.truncate(count);
                self.left -= count as u64;
                Ok(Frame::data(piece.into()))
            }
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The management API of one daemon.
#[derive(Clone)]
pub struct Api {
    address: Address,
    token: Option<HeaderValue>,
}

impl Api {
    /// Makes the API of a daemon; the error says what is wrong with the token.
    pub fn new(address: Address, token: Option<&str>) -> Result<Api, String> {
        let token = token.map(str::trim).filter(|token| !token.is_empty());
        let field = |token: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(
                |_| "MANTRID_TOKEN holds characters that can't be sent; expected one line of ASCII",
            )?;
            value.set_sensitive(true);
            Ok::<_, &str>(value)
        };
        Ok(Api { address, token: token.map(field).transpose()? })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks, and takes the head of an answer that says 200 and is of this type.
    pub async fn ask(&self, ask: Ask, content_type: &'static str) -> Result<Answer, RequestError> {
        let patience = ask.patience;
        let request = self.request(ask, content_type).map_err(RequestError::Unsendable)?;
        let mut sender = self.connect().await?;
        let answered = match timeout(patience, sender.send_request(request)).await {
            Ok(answered) => answered.map_err(|error| self.cut_off(&error))?,
            Err(_) => return Err(RequestError::Silent { address: self.address.clone(), patience }),
        };
        let answer = Answer { address: self.address.clone(), response: answered, patience };
        let status = answer.response.status();
        let found = answer.field(CONTENT_TYPE.as_str()).unwrap_or_default();
        if status != StatusCode::OK {
            return Err(answer.into_refusal().await);
        }
        if !found.starts_with(content_type) {
            let what = format!("{:?} where {content_type} was expected", plain(&found));
            return Err(RequestError::Foreign { address: self.address.clone(), what });
        }
        Ok(answer)
    }

    /// Asks, and takes a whole answer in JSON.
    pub async fn fetch(&self, ask: Ask) -> Result<Fetched, RequestError> {
        let mut answer = self.ask(ask, "application/json").await?;
        let etag = answer.etag();
        let in_fleet = answer.field("mantrid-fleet").is_some();
        let body = answer.whole(ANSWER_BYTES_MAX).await?;
        Ok(Fetched { address: self.address.clone(), etag, in_fleet, body })
    }

    fn request(&self, ask: Ask, accept: &'static str) -> Result<Request<Sending>, String> {
        let body = ask.body.unwrap_or_else(|| Sending::new(io::empty(), 0));
        let mut request = Request::new(body);
        *request.method_mut() = ask.method;
        let target = ask.target;
        *request.uri_mut() = target
            .parse()
            .map_err(|_| format!("a path of {} bytes can't be asked for", target.len()))?;
        let fields = request.headers_mut();
        let host = HeaderValue::from_str(&self.address.authority());
        fields.insert(HOST, host.map_err(|_| format!("{} can't be sent", self.address))?);
        let agent = HeaderValue::from_static(concat!("mantrid-client/", env!("CARGO_PKG_VERSION")));
        fields.insert(USER_AGENT, agent);
        fields.insert(ACCEPT, HeaderValue::from_static(accept));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            fields.insert(AUTHORIZATION, token.clone());
        }
        if let Some(etag) = ask.if_match {
            fields.insert(IF_MATCH, quoted(&etag)?);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<SendRequest<Sending>, RequestError> {
        let opened = match &self.address {
            Address::Tcp { host, port } => match connect_tcp(host, *port).await {
                Ok(stream) => Ok(shake_hands(TokioIo::new(stream)).await),
                Err(why) => Err(why),
            },
            Address::Socket(path) => {
                match within(CONNECT_PATIENCE, UnixStream::connect(path)).await {
                    Ok(stream) => Ok(shake_hands(TokioIo::new(stream)).await),
                    Err(why) => Err(why),
                }
            }
        };
        opened
            .map_err(|why| RequestError::Unreachable { address: self.address.clone(), why })?
            .map_err(|error| self.cut_off(&error))
    }

    fn cut_off(&self, error: &hyper::Error) -> RequestError {
        cut_off(&self.address, error)
    }
}

/// An ETag as the value of a field. Adds the quotes that shells remove.
fn quoted(etag: &str) -> Result<HeaderValue, String> {
    let is_whole = etag == "*" || etag.starts_with('"') || etag.starts_with("W/");
    let text = if is_whole { etag.to_owned() } else { format!("\"{etag}\"") };
    let value = HeaderValue::from_str(&text);
    value.map_err(|_| format!("--if-match {etag:?} is no ETag; `get` prints the one of the table"))
}

fn cut_off(address: &Address, error: &hyper::Error) -> RequestError {
    if error.is_parse() {
        let what = format!("what is not HTTP ({error})");
        return RequestError::Foreign { address: address.clone(), what };
    }
    // hyper's own message is general; the cause says what happened.
    let why = std::error::Error::source(error);
    let why = why.map_or_else(|| error.to_string(), ToString::to_string);
    RequestError::CutOff { address: address.clone(), why }
}

async fn within<T>(
    patience: Duration,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(patience, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tries every address of the host in turn.
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    // A machine may lack one of these addresses in its table of names, or IPv6 altogether.
    let addresses: Vec<SocketAddr> = if host == "localhost" {
        vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]
    } else {
        within(CONNECT_PATIENCE, lookup_host((host, port))).await?.collect()
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match within(CONNECT_PATIENCE, TcpStream::connect(address)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn shake_hands<S>(stream: TokioIo<S>) -> hyper::Result<SendRequest<Sending>>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // The caller that waits for the answer gets any error of the connection.
    tokio::spawn(connection);
    Ok(sender)
}

/// An answer whose head has come.
pub struct Answer {
    address: Address,
    response: Response<Incoming>,
    patience: Duration,
}

impl Answer {
    fn field(&self, name: &str) -> Option<String> {
        let value = self.response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    pub fn etag(&self) -> Option<String> {
        self.field(ETAG.as_str())
    }

    /// The next piece of the body; `None` when it has ended as it should.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let frame = timeout(self.patience, self.response.body_mut().frame()).await;
            let Ok(frame) = frame else {
                let (address, patience) = (self.address.clone(), self.patience);
                return Err(RequestError::Silent { address, patience });
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| cut_off(&self.address, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    async fn whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, RequestError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if bytes_max < body.len() + piece.len() {
                return Err(RequestError::TooLong { address: self.address.clone() });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Reads why an answer is not 200: its `message`, if the answer is the daemon's.
    async fn into_refusal(mut self) -> RequestError {
        let (address, status) = (self.address.clone(), self.response.status());
        let body = self.whole(ERROR_BYTES_MAX).await.unwrap_or_default();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = ["message", "error"].iter().find_map(|key| value.get(key)?.as_str());
        match said {
            Some(message) => RequestError::Refused { address, status, message: plain(message) },
            None => RequestError::Foreign { address, what: format!("{status} without a reason") },
        }
    }
}

/// A whole answer.
pub struct Fetched {
    address: Address,
    pub etag: Option<String>,
    /// Whether the daemon is a node of a fleet.
    pub in_fleet: bool,
    pub body: Vec<u8>,
}

impl Fetched {
    pub fn value(&self) -> Result<Value, RequestError> {
        serde_json::from_slice(&self.body).map_err(|error| self.foreign(&error))
    }

    /// The error for a body that is JSON, but not of the form that was asked for.
    pub fn foreign(&self, error: &serde_json::Error) -> RequestError {
        let what = format!("JSON that is not what was asked for ({error})");
        RequestError::Foreign { address: self.address.clone(), what }
    }
}

/// `host` as one segment of a path.
pub fn encoded(host: &str) -> String {
    let mut text = String::with_capacity(host.len());
    for byte in host.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_paths() {
        assert_eq!(encoded("a-b_c.com"), "a-b_c.com");
        assert_eq!(encoded("https://a.com"), "https%3A%2F%2Fa.com");
        assert_eq!(encoded("ä.com/../b?c#d e%"), "%C3%A4.com%2F..%2Fb%3Fc%23d%20e%25");
    }

    #[test]
    fn tokens_that_can_be_sent() {
        let api = |token| Api::new(Address::local(), Some(token));
        assert!(api("se-cret_1 ").is_ok_and(|api| api.token.is_some()));
        assert!(api("").is_ok_and(|api| api.token.is_none()));
        assert!(api("a\nb").is_err_and(|error| error.contains("MANTRID_TOKEN")));
    }

    #[test]
    fn etags() {
        let sent = |etag| quoted(etag).map(|value| value.to_str().map(str::to_owned).ok());
        for (etag, expected) in
            [("7", "\"7\""), ("\"7\"", "\"7\""), ("W/\"7\"", "W/\"7\""), ("*", "*")]
        {
            assert_eq!(sent(etag), Ok(Some(expected.to_owned())));
        }
        assert!(sent("a\r\nb").is_err_and(|error| error.contains("no ETag")));
    }

    #[test]
    fn unsendable_text_is_not_sent() {
        let api = Api::new(Address::local(), None).expect("no token");
        let ask = Ask::get(format!("/hostname/{}/", "a".repeat(70_000)));
        assert!(api.request(ask, "application/json").is_err_and(|error| error.contains("70011")));
        let ask = Ask { if_match: Some("\n".to_owned()), ..Ask::get("/hostname/") };
        assert!(api.request(ask, "application/json").is_err());
    }
}
