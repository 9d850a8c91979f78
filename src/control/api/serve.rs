//! Management connections, over TCP and Unix sockets: HTTP/1 by hyper, a task each, under a limit.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, warn};

use super::Api;
use super::guard::Peer;
use super::paced::Paced;
use crate::limits;

/// A bound management address.
pub(crate) enum Management {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Management {
    /// Where it listens, over TCP.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Management::Tcp(_, address) => Some(*address),
            Management::Unix(..) => None,
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

/// Serves all addresses for ever; nobody is taken in while it is `paused`.
pub(in crate::control) async fn serve(
    api: Arc<Api>,
    bound: Vec<Management>,
    paused: &watch::Sender<bool>,
) -> Infallible {
    for one in bound {
        let name = one.to_string();
        match Listener::new(one) {
            Ok(listener) => {
                tokio::spawn(accept(api.clone(), listener, paused.subscribe()));
            }
            Err(error) => warn!("{name}: can't listen: {error}"),
        }
    }
    std::future::pending().await
}

async fn accept(api: Arc<Api>, listener: Listener, mut paused: watch::Receiver<bool>) {
    loop {
        if paused.wait_for(|paused| !paused).await.is_err() {
            return;
        }
        let Ok(place) = api.places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = accept_one(&api, &listener, place) => accepted,
            _ = paused.changed() => continue,
        };
        if let Err(error) = accepted {
            warn!("management: can't accept: {error}");
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
        }
    }
}

async fn accept_one(
    api: &Arc<Api>,
    listener: &Listener,
    place: OwnedSemaphorePermit,
) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Small answers, at once.
            let _ = stream.set_nodelay(true);
            let peer = SocketAddr::new(address.ip().to_canonical(), address.port());
            tokio::spawn(connection(api.clone(), stream, Peer::Tcp(peer), place));
        }
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred().ok().map(|who| who.uid());
            tokio::spawn(connection(api.clone(), stream, Peer::Unix(uid), place));
        }
    }
    Ok(())
}

async fn connection<S>(api: Arc<Api>, stream: S, peer: Peer, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(|request: Request<Incoming>| {
        let (api, peer) = (&api, &peer);
        async move { Ok::<_, Infallible>(api.answer(peer, request.map(Body::new)).await) }
    });
    let stream = Paced::new(stream, limits::MANAGEMENT_WRITE_TIME);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::MANAGEMENT_HEAD_TIME)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!("management: {peer}: {error}");
    }
}
