//! Backends, on a TCP port or a Unix socket. `Backend` is driven from the test: accept, expect,
//! send. `Serving` answers by itself in threads, counts, and remembers what it was asked, for tests
//! with many connections.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use crate::daemon::eventually;
use crate::message::{Head, ok};
use crate::script::{Connection, PATIENCE};

pub struct Backend {
    listener: Listener,
    /// The port, or 0 of a Unix socket.
    pub port: u16,
    /// As rules name it.
    pub target: Value,
}

enum Listener {
    Tcp(TcpListener),
    /// With the folder of its socket.
    Unix(UnixListener, Option<TempDir>),
}

impl Listener {
    /// A connection, as a `TcpStream` in either case: what is done with it here is done alike.
    fn accept(&self) -> std::io::Result<TcpStream> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| {
                stream.set_nodelay(true).expect("TCP_NODELAY");
                stream
            }),
            Listener::Unix(listener, _) => {
                listener.accept().map(|(stream, _)| TcpStream::from(OwnedFd::from(stream)))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Backend {
    pub fn new() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a backend's listener");
        Backend::of(listener)
    }

    /// One whose port nobody else is given when it is gone: the daemon goes on to connect there,
    /// and whoever is next on a free port might be another test's.
    pub fn keeping_port() -> Backend {
        Backend::on(closed_port())
    }

    fn of(listener: TcpListener) -> Backend {
        let port = listener.local_addr().expect("its address").port();
        Backend { listener: Listener::Tcp(listener), port, target: json!(["127.0.0.1", port]) }
    }

    /// One on a Unix socket in a folder of its own.
    pub fn unix() -> Backend {
        let folder = tempfile::Builder::new().prefix("app-").tempdir().expect("a folder");
        let mut backend = Backend::unix_at(folder.path().join("app.sock"));
        if let Listener::Unix(_, own) = &mut backend.listener {
            *own = Some(folder);
        }
        backend
    }

    /// One on a Unix socket at this path.
    pub fn unix_at(path: PathBuf) -> Backend {
        let listener = UnixListener::bind(&path).expect("a backend's socket");
        let target = json!(format!("unix:{}", path.display()));
        Backend { listener: Listener::Unix(listener, None), port: 0, target }
    }

    /// One on an abstract Unix socket, whose name no other test has.
    pub fn unix_abstract(name: &str) -> Backend {
        let name = format!("mantrid-test-{}-{name}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a backend's socket");
        let target = json!(format!("unix:@{name}"));
        Backend { listener: Listener::Unix(listener, None), port: 0, target }
    }

    /// Path of its Unix socket.
    pub fn path(&self) -> PathBuf {
        let target = self.target.as_str().expect("a Unix socket");
        PathBuf::from(target.trim_start_matches("unix:"))
    }

    /// One whose kernel takes little before it is read.
    pub fn with_small_buffer() -> Backend {
        let backend = Backend::new();
        let buffer = SockRef::from(&backend.listener).set_recv_buffer_size(8 * 1024);
        buffer.expect("a receive buffer size");
        backend
    }

    /// On the port of a `closed_port`, which thereby opens.
    pub fn on(port: u16) -> Backend {
        let mut bound = TcpListener::bind(("127.0.0.1", port));
        let until = Instant::now() + PATIENCE;
        // Another test may be starting a program: until that is another program, it has our
        // descriptors, and among them perhaps the listener that was here before.
        while matches!(&bound, Err(error) if error.kind() == ErrorKind::AddrInUse)
            && Instant::now() < until
        {
            std::thread::park_timeout(Duration::from_millis(1));
            bound = TcpListener::bind(("127.0.0.1", port));
        }
        Backend::of(bound.expect("a port that we hold"))
    }

    /// A rule that proxies to this backend alone.
    pub fn rule(&self) -> Value {
        self.rule_with(json!({}))
    }

    /// The same with more arguments.
    pub fn rule_with(&self, arguments: Value) -> Value {
        rule_to(&[&self.target], arguments)
    }

    /// The next connection that the daemon makes.
    #[track_caller]
    pub fn accept(&self) -> Connection {
        self.accept_within(PATIENCE).unwrap_or_else(|| {
            panic!("backend: waited {PATIENCE:?} in vain for a connection");
        })
    }

    /// The same where it may not come.
    pub fn accept_within(&self, patience: Duration) -> Option<Connection> {
        SockRef::from(&self.listener).set_read_timeout(Some(patience)).expect("a timeout");
        match self.listener.accept() {
            Ok(stream) => Some(Connection::of_backend(stream)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("backend: accept: {error}"),
        }
    }

    /// No connection waits to be accepted.
    #[track_caller]
    pub fn expect_no_connection(&self) {
        if let Some(mut connection) = self.accept_within(Duration::from_millis(1)) {
            connection.expect_nothing_more();
            panic!("backend: an unexpected connection");
        }
    }

    /// From now on each request is answered by `answer`, on a thread for each connection.
    pub fn serve<F>(self, answer: F) -> Serving
    where
        F: Fn(&Head, &mut Connection) + Send + Sync + 'static,
    {
        let counts = Arc::new(Counts::default());
        let (port, target) = (self.port, self.target.clone());
        let seen = Arc::clone(&counts);
        let answer = Arc::new(answer);
        let acceptor = std::thread::spawn(move || {
            while let Ok(stream) = self.listener.accept() {
                if seen.over.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                // Here and not in its thread: whoever joins this one then knows of them all.
                let open = Open::count(&seen, &stream);
                std::thread::spawn(move || {
                    let _open = open;
                    let mut connection = Connection::of_backend(stream);
                    connection.count_received_in(&seen.received);
                    while let Ok(head) = connection.next_head() {
                        seen.requests.fetch_add(1, Ordering::SeqCst);
                        seen.heads.lock().expect("heads").push(head.clone());
                        answer(&head, &mut connection);
                    }
                });
            }
        });
        Serving { port, target, counts, acceptor: Some(acceptor) }
    }

    /// Answers every request with 200 and this body.
    pub fn serve_text(self, body: &'static str) -> Serving {
        self.serve(move |_, connection| drop(connection.try_send(ok(body))))
    }
}

/// The next connection that one of these gets, and which of them it is.
#[track_caller]
pub fn accept_any(backends: &[&Backend]) -> (usize, Connection) {
    let mut found = None;
    eventually("a connection to one of the backends", || {
        let moment = Duration::from_millis(1);
        let next = |at: usize| Some((at, backends[at].accept_within(moment)?));
        found = (0..backends.len()).find_map(next);
        found.is_some()
    });
    found.expect("a connection")
}

/// A rule that proxies to backends on these ports of the loopback.
pub fn rule_for(ports: &[u16], arguments: Value) -> Value {
    let targets: Vec<Value> = ports.iter().map(|port| json!(["127.0.0.1", port])).collect();
    rule_to(&targets.iter().collect::<Vec<_>>(), arguments)
}

/// A rule that proxies to these backends.
pub fn rule_to(targets: &[&Value], mut arguments: Value) -> Value {
    arguments["backends"] = json!(targets);
    json!(["proxy", arguments, true])
}

/// A port of the loopback on which nobody listens: connecting is refused. It is held until the end
/// of all tests, or one that runs beside this one might be given it, and answer.
pub fn closed_port() -> u16 {
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // lets `Backend::on` bind it as well
    holder.set_reuse_address(true).expect("SO_REUSEADDR");
    holder.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = holder.local_addr().expect("its address").as_socket_ipv4();
    std::mem::forget(holder);
    address.expect("an IPv4 address").port()
}

/// One of these ports that nobody has at this address, and that nobody else finds, in this run or
/// another beside it; the daemon may bind it. It is held until the end of all tests.
pub fn held_port(mut ports: impl Iterator<Item = u16>, address: IpAddr) -> u16 {
    let hold = |port: u16| {
        let address = SocketAddr::new(address, port);
        let holder = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
        if address.is_ipv6() {
            holder.set_only_v6(false).ok()?;
        }
        // Alone: of two that try it at the same time one finds another port.
        holder.bind(&address.into()).ok()?;
        // And from now on beside the daemon.
        holder.set_reuse_address(true).ok()?;
        std::mem::forget(holder);
        Some(port)
    };
    ports.find_map(hold).expect("a free port")
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    received: Arc<AtomicU64>,
    heads: Mutex<Vec<Head>>,
    open: Mutex<HashMap<usize, TcpStream>>,
    over: AtomicBool,
}

/// Counts a connection while it is open, even when its thread panics.
struct Open(Arc<Counts>, usize);

impl Open {
    fn count(counts: &Arc<Counts>, stream: &TcpStream) -> Open {
        let number = counts.connections.fetch_add(1, Ordering::SeqCst);
        let handle = stream.try_clone().expect("a second handle");
        counts.open.lock().expect("connections").insert(number, handle);
        Open(Arc::clone(counts), number)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.lock().expect("connections").remove(&self.1);
    }
}

/// A backend that answers by itself until it is dropped.
pub struct Serving {
    pub port: u16,
    /// As rules name it.
    pub target: Value,
    counts: Arc<Counts>,
    acceptor: Option<JoinHandle<()>>,
}

impl Serving {
    pub fn rule(&self) -> Value {
        self.rule_with(json!({}))
    }

    /// The same with more arguments.
    pub fn rule_with(&self, arguments: Value) -> Value {
        rule_to(&[&self.target], arguments)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.counts.open.lock().expect("connections").len()
    }

    /// Request heads received so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Bytes received since the last call, whatever they meant.
    pub fn take_received_bytes(&self) -> u64 {
        self.counts.received.swap(0, Ordering::SeqCst)
    }

    /// The heads received since the last call.
    pub fn take_heads(&self) -> Vec<Head> {
        std::mem::take(&mut *self.counts.heads.lock().expect("heads"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.counts.over.store(true, Ordering::SeqCst);
        // wakes the acceptor, which sees `over` and ends; its listener closes with it
        match self.target.as_str().map(|target| target.trim_start_matches("unix:")) {
            None => {
                let address = SocketAddr::from(([127, 0, 0, 1], self.port));
                drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
            }
            Some(path) => match path.strip_prefix('@') {
                None => drop(UnixStream::connect(path)),
                Some(name) => {
                    let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
                    drop(UnixStream::connect_addr(&address.expect("a name")));
                }
            },
        }
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in self.counts.open.lock().expect("connections").values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// A backend with a text, whose `/health` is answered with the status that stands in `status`.
pub fn checked(text: &'static str, status: &Arc<AtomicU16>) -> Serving {
    let status = Arc::clone(status);
    Backend::new().serve(move |head, server| {
        let answer = match head.target() {
            "/health" => {
                let status = status.load(Ordering::SeqCst);
                format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            _ => ok(text),
        };
        // a prober that has seen enough is gone
        drop(server.try_send(answer));
    })
}
