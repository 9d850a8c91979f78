//! Management connections, over TCP and Unix sockets: HTTP/1 by hyper, a task for each connection,
//! and a limit on their number.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::Api;
use super::crowd::Seat;
use super::guard::Peer;
use super::write_timeout::WriteTimeout;
use crate::limits;

/// A bound management address.
pub(crate) enum Management {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Management {
    /// Address of a TCP socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Management::Tcp(_, address) => Some(*address),
            Management::Unix(..) => None,
        }
    }

    /// Path of a Unix socket.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Management::Tcp(..) => None,
            Management::Unix(_, path) => Some(path),
        }
    }
}

impl std::fmt::Display for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Management::Tcp(_, address) => write!(f, "http://{address}/"),
            Management::Unix(_, path) => write!(f, "unix:{}", path.display()),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(bound: Management) -> io::Result<Listener> {
        Ok(match bound {
            Management::Tcp(socket, _) => {
                socket.set_nonblocking(true)?;
                Listener::Tcp(TcpListener::from_std(socket)?)
            }
            Management::Unix(socket, _) => {
                socket.set_nonblocking(true)?;
                Listener::Unix(UnixListener::from_std(socket)?)
            }
        })
    }
}

/// Purpose of a bound address.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum Door {
    /// The whole API.
    Management,
    /// Only the metrics and the state of the daemon. No token is needed.
    Metrics,
}

impl Door {
    /// Marks each socket with its purpose.
    pub(in crate::control) fn of_each(
        management: Vec<Management>,
        metrics: Vec<Management>,
    ) -> Vec<(Door, Management)> {
        let management = management.into_iter().map(|one| (Door::Management, one));
        management.chain(metrics.into_iter().map(|one| (Door::Metrics, one))).collect()
    }
}

/// Whether management connections are accepted.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum AcceptState {
    Yes,
    /// Paused, because another process may take over.
    Paused,
    /// Over, because another process has taken over. The sockets are closed, so that the addresses
    /// that the other process does not use are free.
    Never,
}

/// Serves all addresses for ever, while `taking` allows it.
pub(in crate::control) async fn serve(
    api: Arc<Api>,
    bound: Vec<(Door, Management)>,
    taking: &watch::Sender<AcceptState>,
) -> Infallible {
    for (door, one) in bound {
        let name = one.to_string();
        match Listener::new(one) {
            Ok(listener) => {
                tokio::spawn(accept(api.clone(), door, listener, taking.subscribe()));
            }
            Err(error) => warn!("{name}: can't listen: {error}"),
        }
    }
    std::future::pending().await
}

async fn accept(
    api: Arc<Api>,
    door: Door,
    listener: Listener,
    mut taking: watch::Receiver<AcceptState>,
) {
    loop {
        match taking.wait_for(|taking| *taking != AcceptState::Paused).await.map(|taking| *taking) {
            Ok(AcceptState::Yes) => {}
            _ => return,
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = taking.changed() => continue,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("management: can't accept: {error}");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Take the place only after a connection has come: another connection may have to give its
        // place up for it.
        let Some(seat) = api.crowd.seat().await else { return };
        match accepted {
            Accepted::Tcp(stream, peer) => {
                tokio::spawn(connection(api.clone(), door, stream, Peer::Tcp(peer), seat));
            }
            Accepted::Unix(stream, uid) => {
                tokio::spawn(connection(api.clone(), door, stream, Peer::Unix(uid), seat));
            }
        }
    }
}

/// An accepted connection, with the address or user of its client.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, Option<u32>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Responses are small, and are to be sent at once.
                let _ = stream.set_nodelay(true);
                // Without this limit, the kernel would take megabytes for a peer that reads
                // nothing, and that would look like progress. The limit does not include bytes that
                // are under way in the network.
                let socket = socket2::SockRef::from(&stream);
                let _ = socket.set_tcp_notsent_lowat(limits::MANAGEMENT_UNSENT);
                let peer = SocketAddr::new(address.ip().to_canonical(), address.port());
                Ok(Accepted::Tcp(stream, peer))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|who| who.uid());
                Ok(Accepted::Unix(stream, uid))
            }
        }
    }
}

async fn connection<S>(api: Arc<Api>, door: Door, stream: S, peer: Peer, seat: Seat)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(|mut request: Request<Incoming>| {
        let (api, peer, seat) = (&api, &peer, &seat);
        async move {
            seat.ours();
            request.extensions_mut().insert(seat.clone());
            let answer = api.answer(door, peer, request.map(Body::new)).await;
            // We wait for the peer to read the response, and to send its next request.
            seat.peers();
            Ok::<_, Infallible>(answer)
        }
    });
    let stream = WriteTimeout::new(stream, limits::MANAGEMENT_WRITE_TIME, Some(seat.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::MANAGEMENT_HEAD_TIME)
        .serve_connection(TokioIo::new(stream), answer);
    let served = tokio::select! {
        served = served => served,
        () = seat.sent_away() => return debug!("management: {peer}: others need its place"),
    };
    if let Err(error) = served {
        debug!("management: {peer}: {error}");
    }
}
