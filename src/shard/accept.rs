//! Accepts connections, under a limit. Connections that speak HTTP are idle at first; each of the
//! others has a task.
//!
//! When descriptors run out, accept would spin on EMFILE. So idle connections to backends are
//! closed, and accept rests 100 ms. If no descriptor is left even after that, clients are turned
//! away with a 503: one descriptor is kept in reserve for this, and given up for a moment.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use futures_lite::FutureExt;

use super::client::{ClientSide, Idleness, OpenClient, is_welcome};
use super::closing::read_off;
use super::connection::Connection;
use super::hold::Waited;
use super::request::Client;
use super::serving::spawn_caught;
use super::{Shard, TrustedPeers, raw};
use crate::limits;
use crate::link::{Counter, HandedOver, Protocol, Shed, is_shortage};
use crate::ring::{Deadline, Listener, Stream, drop_received};

const SHED: &[u8] = b"Content-Type: text/plain\r\n\
    Content-Length: 25\r\nRetry-After: 1\r\nConnection: close\r\n\r\nToo many connections now.";

pub(super) async fn accept_loop(
    shard: Rc<Shard>,
    listener: Listener,
    speaks: Protocol,
    believes: Option<TrustedPeers>,
) {
    shard.listeners.set(shard.listeners.get() + 1);
    let pause = Deadline::new(&shard.ring);
    let mut spare = reserve();
    let mut was_short = false;
    while !shard.closing() {
        let next = std::pin::pin!(listener.accept());
        let stop = std::pin::pin!(shard.drain.notified());
        let accepted = async { Some(next.await) }.or(async {
            stop.await;
            None
        });
        match accepted.await {
            Some(Ok(socket)) => {
                was_short = false;
                admit(&shard, socket, &speaks, believes.as_ref());
            }
            Some(Err(error)) => {
                if is_shortage(&error) {
                    let is_relieved = shard.pool.close_idle(&shard, limits::SHED_BATCH);
                    // Shed only at the second shortage: clients that have left are about to free
                    // descriptors as well.
                    if was_short && !is_relieved {
                        drop(spare.take());
                        shed_waiting(&shard, &listener, &speaks);
                        spare = reserve();
                    }
                    was_short = true;
                }
                pause.set(limits::ACCEPT_PAUSE);
                pause.expired().await;
            }
            None => {}
        }
    }
    listener.stopped().await;
    // The close would reset connections that are in the queue already: serve them first. If another
    // process has the same queue, it may not know of them: the kernel wakes only one of those that
    // wait, and that may have been us.
    for _ in 0..limits::BACKLOG {
        let Ok(socket) = listener.accept_now() else { break };
        admit(&shard, socket, &speaks, believes.as_ref());
    }
    drop(listener);
    // Several listeners may wait, and the one that was notified took the flag: notify the next.
    shard.drain.notify();
    shard.listeners.set(shard.listeners.get() - 1);
    shard.one_less();
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

fn shed_waiting(shard: &Rc<Shard>, listener: &Listener, speaks: &Protocol) {
    for _ in 0..limits::SHED_BATCH {
        match listener.accept_now() {
            Ok(socket) => shed(shard, socket, speaks, Shed::Descriptors),
            Err(_) => return,
        }
    }
}

/// Turns a connection away. The reply is complete, and the socket buffer is empty, so sending never
/// blocks. Connections of other protocols than HTTP are closed without a reply.
fn shed(shard: &Rc<Shard>, socket: OwnedFd, speaks: &Protocol, why: Shed) {
    shard.count(Counter::Accepted);
    shard.end.counters().add_shed(why);
    if !matches!(speaks, Protocol::Http { .. }) {
        return;
    }
    let mut answer = shard.ring.take_vec();
    answer.extend_from_slice(b"HTTP/1.1 503 Service Unavailable\r\n");
    shard.date().write(&mut answer);
    answer.extend_from_slice(SHED);
    let _ = rustix::net::send(&socket, &answer, rustix::net::SendFlags::DONTWAIT);
    shard.ring.give_vec(answer);
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
    // Bytes left unread would turn the close into a reset that overtakes the reply.
    drop_received(socket.as_fd());
    if why != Shed::Descriptors && shard.shed_lingering.get() < limits::SHED_LINGERING_MAX {
        shard.shed_lingering.set(shard.shed_lingering.get() + 1);
        let stream = Stream::new(&shard.ring, socket);
        let shard = shard.clone();
        shard.clone().spawn(async move {
            let deadline = Deadline::new(&shard.ring);
            read_off(&shard, &stream, &deadline, limits::LINGER_SHED).await;
            shard.shed_lingering.set(shard.shed_lingering.get() - 1);
        });
    }
}

fn admit(shard: &Rc<Shard>, socket: OwnedFd, speaks: &Protocol, believes: Option<&TrustedPeers>) {
    let Some((peer, port)) = peer_address(&socket) else {
        shard.count(Counter::Accepted);
        return shard.end.counters().add_shed(Shed::Vanished);
    };
    let is_untrusted = believes.is_some_and(|believes| !believes(peer));
    if is_untrusted {
        shard.count(Counter::Accepted);
        return shard.end.counters().add_shed(Shed::Untrusted);
    }
    if shard.connections.get() >= shard.tuning().connections_max {
        return shed(shard, socket, speaks, Shed::Room);
    }
    // Bytes behind a PROXY protocol header are the client's own, so its fields are not trusted.
    let trusted = believes.is_none() && matches!(speaks, Protocol::Http { trusted: true, .. });
    let secure = matches!(speaks, Protocol::Http { secure: true, .. });
    let mut client = Client { peer, port, trusted, secure, request_id: 0, is_counted: false };
    // If a PROXY protocol header is to name the client, the connection counts as that client's
    // later.
    if believes.is_none() && !is_welcome(shard, &mut client) {
        return shed(shard, socket, speaks, Shed::Source);
    }
    shard.count(Counter::Accepted);
    let open = OpenClient::new(shard);
    let stream = Stream::new(&shard.ring, socket);
    let is_introduced = believes.is_some();
    let side = ClientSide::new(shard.clone(), stream, client);
    match speaks {
        Protocol::Http { .. } if is_introduced => {
            let mut connection = Connection::new(side, open);
            let shard = shard.clone();
            spawn_caught(&shard.clone(), async move {
                if connection.side.read_proxy_header().await {
                    connection.await_head(Idleness::New);
                    shard.seat(connection);
                }
            });
        }
        Protocol::Http { .. } => shard.seat(Connection::new(side, open)),
        raw => {
            side.stream.set_keepalive();
            serve_raw(side, raw.clone(), open, is_introduced, None);
        }
    }
}

fn serve_raw(
    mut side: ClientSide,
    speaks: Protocol,
    open: OpenClient,
    is_introduced: bool,
    waited: Option<Box<Waited>>,
) {
    let shard = side.shard.clone();
    spawn_caught(&shard, async move {
        // Dropped last: the shard may end with its last connection.
        let _open = open;
        if is_introduced && !Box::pin(side.read_proxy_header()).await {
            return;
        }
        raw::serve(&mut side, speaks, waited).await;
    });
}

/// Takes in a connection that another process has handed over, past all limits: it was admitted
/// there.
pub(super) fn adopt(shard: &Rc<Shard>, handed: HandedOver) {
    let HandedOver { socket, peer, port, secure, speaks, bytes, held } = handed;
    let open = OpenClient::new(shard);
    let stream = Stream::new(&shard.ring, socket);
    let trusted = matches!(speaks, Protocol::Http { trusted: true, .. });
    let mut client = Client { peer, port, trusted, secure, request_id: 0, is_counted: false };
    is_welcome(shard, &mut client);
    let waited = held.and_then(|held| Waited::elsewhere(shard.ring.now(), held));
    let mut side = ClientSide::new(shard.clone(), stream, client);
    side.inbox = bytes.into();
    match speaks {
        Protocol::Http { .. } => {
            let mut connection = Connection::new(side, open);
            connection.note_waited(waited);
            shard.seat(connection);
        }
        raw => serve_raw(side, raw, open, false, waited),
    }
}

/// The client's address. `None`: the client has reset the connection (ENOTCONN), so the client
/// waits for no reply. A multishot accept reports no addresses: all its completions would write to
/// the same memory.
fn peer_address(socket: &OwnedFd) -> Option<(IpAddr, u16)> {
    let address = rustix::net::getpeername(socket).ok()??;
    let address = SocketAddr::try_from(address).ok()?;
    Some((address.ip().to_canonical(), address.port()))
}
