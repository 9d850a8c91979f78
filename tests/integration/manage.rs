//! A client of the management API: one connection over TCP or a Unix socket, kept alive, with JSON
//! in both directions. What it sends is plain, so that a test can say the rest itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{Daemon, eventually};
use crate::message::Answer;
use crate::script::Connection;

pub struct Api {
    pub wire: Connection,
    /// Lines that each request has besides its own.
    fields: String,
    /// Where a daemon of the test has it.
    place: Option<Place>,
    /// Moment of the last answer.
    used: Instant,
}

enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Place {
    #[track_caller]
    fn connect(&self) -> Connection {
        match self {
            Place::Unix(path) => Connection::unix(path),
            Place::Tcp(address) => Connection::client(*address),
        }
    }
}

/// A connection that nothing comes on is closed after ten seconds, which pass between two requests
/// on a slow machine: from half of them on, the next request has another.
const IDLE: Duration = Duration::from_secs(5);

impl Api {
    pub fn over(wire: Connection) -> Api {
        let fields = "Host: localhost\r\n".to_owned();
        Api { wire, fields, place: None, used: Instant::now() }
    }

    #[track_caller]
    fn at(place: Place) -> Api {
        let wire = place.connect();
        Api { place: Some(place), ..Api::over(wire) }
    }

    #[track_caller]
    fn exchange(&mut self, request: String) -> Answer {
        if let Some(place) = self.place.as_ref().filter(|_| IDLE < self.used.elapsed()) {
            self.wire = place.connect().with_patience_of(&self.wire);
        }
        let answer = self.wire.exchange(request);
        self.used = Instant::now();
        answer
    }

    /// From now on each request has this line, too.
    pub fn with(mut self, line: &str) -> Api {
        self.fields.push_str(&format!("{line}\r\n"));
        self
    }

    /// The bytes of a request.
    pub fn request(&self, method: &str, path: &str, lines: &str, body: &str) -> String {
        let (fields, length) = (&self.fields, body.len());
        let content = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n")
        };
        format!("{method} {path} HTTP/1.1\r\n{fields}{lines}{content}\r\n{body}")
    }

    /// A request without a body.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str) -> Answer {
        let request = self.request(method, path, "", "");
        self.exchange(request)
    }

    /// A request with a body.
    #[track_caller]
    pub fn tell(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let request = self.request(method, path, "", &body.to_string());
        self.exchange(request)
    }

    /// The same with more lines in its head.
    #[track_caller]
    pub fn tell_with(&mut self, lines: &str, method: &str, path: &str, body: &Value) -> Answer {
        let request = self.request(method, path, lines, &body.to_string());
        self.exchange(request)
    }

    /// What stands there.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Value {
        self.ask("GET", path).expect_status(200).json()
    }

    /// A change that is made; the table's tag afterwards.
    #[track_caller]
    pub fn put(&mut self, path: &str, body: &Value) -> String {
        self.tell("PUT", path, body).expect_made()
    }

    #[track_caller]
    pub fn patch(&mut self, body: &Value) -> String {
        self.tell("PATCH", "/hostname/", body).expect_made()
    }

    #[track_caller]
    pub fn delete(&mut self, host: &str) -> String {
        self.ask("DELETE", &format!("/hostname/{host}/")).expect_made()
    }

    /// The table's tag.
    #[track_caller]
    pub fn etag(&mut self) -> String {
        self.ask("GET", "/hostname/?limit=0").expect_status(200).etag()
    }

    /// The counters of a host once it has so many ended requests and none open: a request is
    /// counted to its end, which is a moment after its client has the answer.
    #[track_caller]
    pub fn counted(&mut self, host: &str, completed: u64) -> Value {
        let path = format!("/stats/{host}/");
        let expected = (Some(completed), Some(0));
        let mut found = Value::Null;
        eventually(&format!("{completed} requests of {host}"), || {
            found = self.get(&path);
            (found["completed_requests"].as_u64(), found["open_requests"].as_u64()) == expected
        });
        found
    }
}

impl Daemon {
    /// Over its Unix socket.
    #[track_caller]
    pub fn api(&self) -> Api {
        let path = self.management.iter().find_map(|one| one.strip_prefix("unix:"));
        Api::at(Place::Unix(path.expect("a Unix socket").into()))
    }

    #[track_caller]
    pub fn api_address(&self) -> SocketAddr {
        let address = self.management.iter().find_map(|one| one.strip_prefix("http://"));
        let address = address.expect("a TCP address").trim_end_matches('/');
        address.parse().expect("an address")
    }

    /// Over its TCP address.
    #[track_caller]
    pub fn api_tcp(&self) -> Api {
        Api::at(Place::Tcp(self.api_address()))
    }
}

/// Answers of the API.
impl Answer {
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Answer {
        assert!(
            self.status() == status,
            "expected {status}, found\n{:#?}\n{}",
            self.head,
            self.text()
        );
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.head.field("Content-Type"), Some("application/json"), "{:#?}", self.head);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    #[track_caller]
    pub fn etag(&self) -> String {
        let tag = self.head.field("ETag").unwrap_or_else(|| panic!("no ETag in {:#?}", self.head));
        assert!(tag.starts_with('"') && tag.ends_with('"') && 2 < tag.len(), "{tag}");
        tag.to_owned()
    }

    /// 200 and `{"ok": true}`: the change was made.
    #[track_caller]
    pub fn expect_made(self) -> String {
        let answer = self.expect_status(200);
        assert_eq!(answer.json(), json!({"ok": true}));
        answer.etag()
    }

    /// An error as the API writes them; its sentence.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> String {
        assert!(self.status() == status, "expected {status} {code}, found\n{}", self.text());
        let error = self.json();
        assert_eq!(error["error"], code, "{error}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(10 < message.len(), "a sentence for people: {error}");
        message.to_owned()
    }
}
