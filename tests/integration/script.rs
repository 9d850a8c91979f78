//! The scripted peer: one TCP connection, as a client of the daemon or as a backend that accepted
//! it, driven verb by verb from the test itself. Every wait is for an event and ends in a failure
//! after `PATIENCE`.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::message::{Answer, Framing, Head, assert_same, show};

/// How long any single event may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ended, seen from here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Closed,
    Reset,
}

pub struct Connection {
    name: String,
    stream: TcpStream,
    /// Received, not yet looked at.
    unread: Vec<u8>,
    /// Counts what is received, for those who must know that nothing was.
    received: Arc<AtomicU64>,
    patience: Duration,
}

/// A body in chunks, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    pub data: Vec<u8>,
    /// The trailer section's lines.
    pub trailers: Vec<String>,
    /// Everything as it came, so that a test can ask for "forwarded as it was sent".
    pub wire: Vec<u8>,
}

impl Connection {
    pub fn new(name: &str, stream: TcpStream) -> Connection {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Connection::with(name, stream)
    }

    /// A connection that a backend accepted, of TCP or a Unix socket.
    pub fn of_backend(stream: TcpStream) -> Connection {
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Connection::with("backend", stream)
    }

    fn with(name: &str, stream: TcpStream) -> Connection {
        Connection {
            name: name.to_owned(),
            stream,
            unread: Vec::new(),
            received: Arc::default(),
            patience: PATIENCE,
        }
    }

    pub fn client(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&address, PATIENCE);
        Connection::new(
            "client",
            stream.unwrap_or_else(|e| panic!("client: connect {address}: {e}")),
        )
    }

    /// The same from this address.
    pub fn client_from(source: IpAddr, address: SocketAddr) -> Connection {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("an address of this machine");
        socket.connect_timeout(&address.into(), PATIENCE).expect("a connection");
        Connection::new("client", socket.into())
    }

    /// A client of a Unix socket.
    pub fn unix(path: &Path) -> Connection {
        let stream = UnixStream::connect(path);
        let stream = stream.unwrap_or_else(|e| panic!("client: connect {}: {e}", path.display()));
        // Everything that is done with it here is done alike with both kinds.
        let stream = TcpStream::from(OwnedFd::from(stream));
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Connection::with("client", stream)
    }

    /// A client whose kernel takes little, so that not reading is felt by the sender soon.
    pub fn client_with_small_buffer(address: SocketAddr) -> Connection {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(8 * 1024).expect("a receive buffer size");
        socket.connect_timeout(&address.into(), PATIENCE).expect("a connection");
        Connection::new("client", socket.into())
    }

    /// Has patience with an answer that is much work on a slow machine.
    pub fn wait_long(&mut self) {
        self.patience = 6 * PATIENCE;
    }

    /// Has as much of it as another.
    pub fn with_patience_of(self, other: &Connection) -> Connection {
        Connection { patience: other.patience, ..self }
    }

    pub fn count_received_in(&mut self, counter: &Arc<AtomicU64>) {
        self.received = Arc::clone(counter);
    }

    // ---- sending

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("{}: {error} while sending\n{}", self.name, show(bytes));
        }
    }

    /// Sends to someone who may have gone already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A segment for each byte.
    #[track_caller]
    pub fn send_slowly(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref().chunks(1) {
            self.send(byte);
            std::thread::yield_now();
        }
    }

    /// Nothing more comes from this end; the other direction stays open.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("shutdown of the sending side");
    }

    /// The same to someone who may have gone already.
    pub fn half_close_if_open(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Waits until the other end's kernel has all that was sent: a reset would take the rest away.
    /// An end that was reset by the other one waits for nothing.
    #[track_caller]
    pub fn wait_until_acknowledged(&self) {
        let until = Instant::now() + PATIENCE;
        while self.unacknowledged().is_some_and(|count| 0 < count) {
            assert!(Instant::now() < until, "{}: not everything was received", self.name);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Bytes in this socket's send queue, as the kernel lists it. `None`: the connection is over.
    fn unacknowledged(&self) -> Option<u64> {
        let own = self.stream.local_addr().expect("an address").port();
        let other = self.stream.peer_addr().ok()?.port();
        let (own, other) = (format!(":{own:04X}"), format!(":{other:04X}"));
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the list of sockets");
        let queues = table.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_this = words[1].ends_with(&own) && words[2].ends_with(&other);
            is_this.then(|| words[4].split(':').next().unwrap_or("0").to_owned())
        })?;
        Some(u64::from_str_radix(&queues, 16).expect("a number"))
    }

    /// Drops the connection with a reset instead of a clean end.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    // ---- receiving

    /// Receives something: how many bytes, or how the connection ended. `None`: nothing in time.
    fn receive(&mut self, patience: Duration) -> Option<Result<usize, Ending>> {
        let patience = patience.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(patience)).expect("a read timeout");
        let mut room = [0; 64 * 1024];
        loop {
            return Some(match self.stream.read(&mut room) {
                Ok(0) => Err(Ending::Closed),
                Ok(count) => {
                    self.received.fetch_add(count as u64, Ordering::SeqCst);
                    self.unread.extend_from_slice(&room[..count]);
                    Ok(count)
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return None,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(Ending::Reset),
                    _ => panic!("{}: {error} while receiving", self.name),
                },
            });
        }
    }

    /// Receives something that must come.
    #[track_caller]
    fn receive_for(&mut self, what: &str) {
        match self.receive(self.patience) {
            Some(Ok(_)) => (),
            Some(Err(ending)) => self.fail(&format!("{ending:?} instead of {what}")),
            None => self.fail(&format!("waited {:?} in vain for {what}", self.patience)),
        }
    }

    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}; received and not yet used:\n{}", self.name, show(&self.unread))
    }

    /// The next head; fails when the connection ends before it is whole.
    #[track_caller]
    pub fn expect_head(&mut self) -> Head {
        let mut looked_at = 0;
        loop {
            if let Some(end) = find(&self.unread[looked_at..], b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..looked_at + end + 4).collect();
                return Head::parse(&head);
            }
            looked_at = self.unread.len().saturating_sub(3);
            self.receive_for("a head");
        }
    }

    /// The next head, or how the connection ended before it began.
    #[track_caller]
    pub fn next_head(&mut self) -> Result<Head, Ending> {
        while self.unread.is_empty() {
            match self.receive(Duration::from_secs(60)) {
                Some(Ok(_)) => (),
                Some(Err(ending)) => return Err(ending),
                None => return Err(Ending::Closed),
            }
        }
        Ok(self.expect_head())
    }

    /// The next head, if one comes before the connection ends.
    #[track_caller]
    pub fn try_head(&mut self) -> Option<Head> {
        while find(&self.unread, b"\r\n\r\n").is_none() {
            match self.receive(self.patience) {
                Some(Ok(_)) => (),
                Some(Err(_)) => return None,
                None => self.fail("neither a head nor an end"),
            }
        }
        Some(self.expect_head())
    }

    /// A request with exactly this first line.
    #[track_caller]
    pub fn expect_request(&mut self, line: &str) -> Head {
        let head = self.expect_head();
        assert_same("the request line", line.as_bytes(), head.start.as_bytes());
        head
    }

    /// An answer's head with this status.
    #[track_caller]
    pub fn expect_status(&mut self, status: u16) -> Head {
        let head = self.expect_head();
        assert!(head.status() == status, "expected status {status}, found\n{head:#?}");
        head
    }

    /// Exactly so many bytes, whatever they are.
    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let missing = count - self.unread.len();
            self.receive_for(&format!("{missing} of {count} bytes"));
        }
        self.unread.drain(..count).collect()
    }

    #[track_caller]
    pub fn expect_body(&mut self, expected: impl AsRef<[u8]>) {
        let found = self.read_exactly(expected.as_ref().len());
        assert_same(&format!("{}: the body", self.name), expected.as_ref(), &found);
    }

    /// Some bytes into `room`, or none when the connection has ended in whatever way.
    #[track_caller]
    pub fn read_or_end(&mut self, room: &mut [u8]) -> Option<usize> {
        if self.unread.is_empty() {
            match self.receive(self.patience) {
                Some(Ok(_)) => (),
                Some(Err(_)) => return None,
                None => self.fail("neither bytes nor an end"),
            }
        }
        Some(self.read_some(room))
    }

    /// Some bytes into `room`, at least one; fails at the end of the connection.
    #[track_caller]
    pub fn read_some(&mut self, room: &mut [u8]) -> usize {
        if self.unread.is_empty() {
            self.stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
            match self.stream.read(room) {
                Ok(0) => self.fail("the connection ended in the middle"),
                Ok(count) => return count,
                Err(error) => self.fail(&format!("{error} in the middle")),
            }
        }
        let count = room.len().min(self.unread.len());
        room[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        count
    }

    /// A line that ends with CRLF, without it.
    #[track_caller]
    pub fn expect_line(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = self.unread.drain(..end + 2).collect::<Vec<_>>();
                return line[..end].to_vec();
            }
            self.receive_for("a line");
        }
    }

    /// A whole chunked body, trailers included.
    #[track_caller]
    pub fn expect_chunked(&mut self) -> Chunks {
        let mut chunks = Chunks { data: Vec::new(), trailers: Vec::new(), wire: Vec::new() };
        loop {
            let line = self.expect_line();
            chunks.wire.extend_from_slice(&[&line, b"\r\n".as_slice()].concat());
            let text = String::from_utf8_lossy(&line).into_owned();
            let digits = text.split(';').next().unwrap_or_default();
            let Ok(size) = usize::from_str_radix(digits, 16) else {
                self.fail(&format!("not a chunk size: {text:?}"));
            };
            if size == 0 {
                break;
            }
            let data = self.read_exactly(size);
            chunks.wire.extend_from_slice(&data);
            chunks.wire.extend_from_slice(b"\r\n");
            chunks.data.extend_from_slice(&data);
            assert_same("the end of a chunk", b"\r\n", &self.read_exactly(2));
        }
        loop {
            let line = self.expect_line();
            chunks.wire.extend_from_slice(&[&line, b"\r\n".as_slice()].concat());
            if line.is_empty() {
                return chunks;
            }
            chunks.trailers.push(String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// A whole final answer to anything but HEAD.
    #[track_caller]
    pub fn expect_answer(&mut self) -> Answer {
        let head = self.expect_head();
        let body = match head.framing() {
            Framing::None => Vec::new(),
            Framing::Length(length) => self.read_exactly(length),
            Framing::Chunked => self.expect_chunked().data,
            Framing::UntilClose => {
                let (body, ending) = self.read_to_end();
                assert_eq!(
                    ending,
                    Ending::Closed,
                    "a body that ends with the connection was cut off"
                );
                body
            }
        };
        Answer { head, body }
    }

    /// Sends a request and takes its answer.
    #[track_caller]
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.expect_answer()
    }

    /// Everything until the connection ends, and how it ended.
    #[track_caller]
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ending) {
        loop {
            match self.receive(self.patience) {
                Some(Ok(_)) => (),
                Some(Err(ending)) => return (std::mem::take(&mut self.unread), ending),
                None => self.fail("the connection should have ended"),
            }
        }
    }

    /// The connection ends (cleanly or by reset) and not a byte comes before that.
    #[track_caller]
    pub fn expect_end(&mut self) -> Ending {
        let (rest, ending) = self.read_to_end();
        assert_same(&format!("{}: what came before the end", self.name), b"", &rest);
        ending
    }

    /// A clean close, nothing before it.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let ending = self.expect_end();
        assert_eq!(ending, Ending::Closed, "{}: reset instead of a clean close", self.name);
    }

    /// A reset, nothing before it.
    #[track_caller]
    pub fn expect_reset(&mut self) {
        let ending = self.expect_end();
        assert_eq!(ending, Ending::Reset, "{}: a clean close instead of a reset", self.name);
    }

    /// Nothing is here that was not asked for, and the connection is open.
    #[track_caller]
    pub fn expect_nothing_more(&mut self) {
        self.expect_nothing_within(Duration::from_millis(1));
    }

    /// Nothing comes and nothing ends for so long: where the passing of time is what is tested.
    #[track_caller]
    pub fn expect_nothing_within(&mut self, time: Duration) {
        let until = Instant::now() + time;
        if self.unread.is_empty() {
            match self.receive(until.saturating_duration_since(Instant::now())) {
                None => return,
                Some(Ok(_)) => (),
                Some(Err(ending)) => self.fail(&format!("{ending:?} instead of silence")),
            }
        }
        self.fail("expected nothing");
    }

    /// Whether something has come, or comes within this time.
    pub fn came_within(&mut self, time: Duration) -> bool {
        !self.unread.is_empty() || self.receive(time).is_some()
    }

    /// A second handle to the same connection, for a thread that sends while this one receives.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle")
    }
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
