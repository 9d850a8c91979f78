//! A connection for an exchange: choose a backend, wait for a place, reuse or connect, try again.

use std::future::Future;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::plan::Client;
use super::pool::{Lease, Wait};
use super::record::Cause;
use super::tally::Tally;
use super::{Shard, is_shortage};
use crate::link::{Counter, Failure, Shed};
use crate::proxy_protocol::{self, Version};
use crate::ring::{Abort, Deadline, SendBuf, Stream};
use crate::table::{Algorithm, Draw, Proxy, SendProxy, Target, choose};

/// Why there is no connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum NoBackend {
    /// Every attempt was refused, timed out, or had no address to try: 502.
    Unreachable,
    /// No place came free in time, or no descriptor is left: 503.
    Queue,
    /// The client left meanwhile: nobody to answer.
    ClientGone,
}

impl NoBackend {
    /// For the access log.
    pub(super) fn cause(self) -> Cause {
        match self {
            NoBackend::Unreachable => Cause::NoBackend,
            NoBackend::Queue => Cause::BackendQueue,
            NoBackend::ClientGone => Cause::ClientGone,
        }
    }
}

/// Which request asks for a connection, and of what kind.
#[derive(Copy, Clone)]
pub(super) struct Asking<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) client: Client,
    pub(super) tally: Tally,
    /// None from the pool: that was tried.
    pub(super) fresh: bool,
    /// For bytes of any kind: no connection on which HTTP was spoken, at all.
    pub(super) raw: bool,
    /// How long it may wait for a place.
    pub(super) patience: Duration,
}

impl Asking<'_> {
    /// Whether its connection is of no use to others, nor those of others to it.
    fn is_unshared(&self) -> bool {
        self.raw || self.proxy.send_proxy().is_some()
    }
}

/// Opens or reuses a connection for a request by the rule's balancing, attempts and limits.
/// Watches `client`: nothing is opened for one that left.
pub(super) async fn acquire(
    shard: &Rc<Shard>,
    asking: Asking<'_>,
    client: &Stream,
) -> Result<Lease, NoBackend> {
    // The common case touches neither timers nor futures.
    let first = pick(shard, asking, &[]);
    if let Some((_, address)) = first
        && !asking.fresh
        && !asking.is_unshared()
        && let Some(lease) = shard.pool.take(shard, address)
    {
        shard.count(Counter::Reused);
        shard.chose(asking.tally, address, lease.slot());
        return Ok(lease);
    }
    if proxy_is_down(shard, asking.proxy) {
        return Err(NoBackend::Unreachable);
    }
    client.arm();
    // Boxed: a connection that waits for its next request should not carry this path's state.
    let mut open = Box::pin(open(shard, asking, client, first));
    std::future::poll_fn(|cx| match open.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        // Who speaks anything may have ended its side and wait for an answer.
        Poll::Pending if asking.raw && !client.poll_reset(cx) => Poll::Pending,
        Poll::Pending if client.poll_gone(cx) => Poll::Ready(Err(NoBackend::ClientGone)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

async fn open(
    shard: &Rc<Shard>,
    asking: Asking<'_>,
    client: &Stream,
    first: Option<(usize, SocketAddr)>,
) -> Result<Lease, NoBackend> {
    let proxy = asking.proxy;
    let deadline = Deadline::new(&shard.ring);
    let mut next = first;
    // Grows only when attempts fail.
    let mut tried = Vec::new();
    for attempt in 0..proxy.attempts().max(1) {
        if attempt > 0 {
            deadline.set(proxy.delay());
            deadline.expired().await;
            next = pick(shard, asking, &tried);
        }
        let Some((index, first)) = next else { continue };
        tried.push(index);
        let until = shard.ring.now() + shard.timeouts().connect;
        let mut address = Some(first);
        let mut refused = Vec::new();
        while let Some(this) = address {
            match open_one(shard, asking, client, this, &deadline).await {
                Err(NoBackend::Unreachable) => {
                    if proxy.healthcheck() {
                        shard.note_failure(this, Failure::Unreachable);
                    }
                }
                result => return result,
            }
            refused.push(this);
            address = None;
            // All that a name stands for is one attempt, as with everybody who connects to names: an
            // application may well listen on one of `localhost`'s two addresses. One that is silent uses
            // up the time for the others.
            if let Target::Name(name) = proxy.backends()[index].target()
                && shard.ring.now() < until
            {
                let addresses = name.addresses();
                address = addresses.iter().find(|other| !refused.contains(other)).copied();
            }
        }
    }
    Err(NoBackend::Unreachable)
}

async fn open_one(
    shard: &Rc<Shard>,
    asking: Asking<'_>,
    client: &Stream,
    address: SocketAddr,
    deadline: &Deadline,
) -> Result<Lease, NoBackend> {
    let Asking { proxy, tally, fresh, .. } = asking;
    if !fresh
        && !asking.is_unshared()
        && let Some(lease) = shard.pool.take(shard, address)
    {
        shard.count(Counter::Reused);
        shard.chose(tally, address, lease.slot());
        return Ok(lease);
    }
    let busy = shard.pool.engage(shard, address);
    let slot = busy.slot;
    shard.chose(tally, address, slot);
    let mut place = None;
    deadline.set(asking.patience);
    if let Some(limit) = proxy.max_connections() {
        let since = shard.ring.now();
        let note = || {
            let waited = shard.ring.now().saturating_duration_since(since);
            shard.note(tally, |record| record.queued += waited);
        };
        while place.is_none() {
            match shard.pool.place(shard, address, limit.get(), deadline).await {
                // Its place is free when it is gone.
                Some(Wait::Idle(lease)) if asking.is_unshared() => drop(lease),
                Some(Wait::Idle(lease)) => {
                    shard.count(Counter::Reused);
                    note();
                    return Ok(lease);
                }
                Some(Wait::Place(free)) => place = Some(free),
                None => {
                    shard.end.counters().add_shed(Shed::Queue);
                    note();
                    return Err(NoBackend::Queue);
                }
            }
        }
        note();
    }
    deadline.set(shard.timeouts().connect);
    shard.count(Counter::Connects);
    shard.pool.make_room(shard);
    let begun = shard.ring.now();
    match Stream::connect(&shard.ring, address, deadline).await {
        Ok(stream) => {
            shard.count_connect(tally, slot, shard.ring.now().saturating_duration_since(begun));
            let mut lease = shard.pool.lease(shard, busy, stream, place);
            lease.watched = proxy.healthcheck();
            if let Some(version) = proxy.send_proxy() {
                introduce(shard, &mut lease, version, asking.client, client, deadline).await?;
            }
            Ok(lease)
        }
        // Our want of descriptors is not the backend's fault.
        Err(Abort::Io(error)) if is_shortage(&error) => Err(NoBackend::Queue),
        Err(Abort::TimedOut | Abort::Io(_)) => {
            shard.count_failure(slot);
            Err(NoBackend::Unreachable)
        }
    }
}

/// Says on a new connection whose it is; from then on it is nobody else's.
async fn introduce(
    shard: &Rc<Shard>,
    lease: &mut Lease,
    version: SendProxy,
    whose: Client,
    client: &Stream,
    deadline: &Deadline,
) -> Result<(), NoBackend> {
    let source = SocketAddr::new(whose.peer, whose.port);
    let target = rustix::net::getsockname(client).ok();
    let target = target.and_then(|address| SocketAddr::try_from(address).ok());
    let version = match version {
        SendProxy::V1 => Version::One,
        SendProxy::V2 => Version::Two,
    };
    let mut header = shard.ring.take_vec();
    let addresses = (source, target.unwrap_or(source));
    proxy_protocol::write(version, addresses, whose.secure, &mut header);
    lease.unshared = true;
    lease.stream.start_send(SendBuf::Vec(header), false);
    let sent = lease.stream.sent(deadline, shard.timeouts().connect).await;
    sent.map_err(|_| NoBackend::Unreachable)
}

/// Whether it is known that no backend of a rule with `hold` can take the request: then it need not be tried.
fn proxy_is_down(shard: &Shard, proxy: &Proxy) -> bool {
    let down = &shard.published().down;
    if down.is_empty() || proxy.hold().is_zero() {
        return false;
    }
    proxy.backends().iter().all(|backend| match backend.target() {
        Target::Address(address) => down.contains(address),
        Target::Name(name) => name.addresses().iter().all(|address| down.contains(*address)),
    })
}

/// The rule's next backend. Those tried, those that just refused and those that are down are passed over
/// while there are others.
fn pick(shard: &Shard, asking: Asking<'_>, tried: &[usize]) -> Option<(usize, SocketAddr)> {
    let Asking { proxy, client: Client { peer, .. }, .. } = asking;
    let backends = proxy.backends();
    let address = |index: usize| match backends[index].target() {
        Target::Address(address) => Some(address),
        Target::Name(name) => one_of(shard, proxy, &name.addresses()),
    };
    if backends.len() == 1 && backends[0].weight() != 0 {
        return Some((0, address(0)?));
    }
    let turn = match proxy.algorithm() {
        Algorithm::RoundRobin => shard.turn(std::ptr::from_ref(proxy).addr()),
        _ => 0,
    };
    let draw =
        Draw { random: shard.random(), turn, source: SourceHash::with_seed(0).hash_one(peer) };
    let open = |index| address(index).map_or(0, |address| shard.pool.busy(address));
    let usable = |index| {
        !tried.contains(&index)
            && address(index).is_some_and(|address| !shard.passes_over(proxy, address))
    };
    choose(proxy, draw, open, usable)
        .or_else(|| choose(proxy, draw, open, |index| address(index).is_some()))
        .and_then(|index| Some((index, address(index)?)))
}

/// One of a name's addresses by chance; those to be passed over leave their share to the one behind them.
fn one_of(shard: &Shard, proxy: &Proxy, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let at = shard.random() as usize % addresses.len().max(1);
    let (before, from) = addresses.split_at(at);
    let is_usable = |address: &&SocketAddr| !shard.passes_over(proxy, **address);
    from.iter().chain(before).find(is_usable).or(from.first()).copied()
}

/// The same client must meet the same backend on every shard and after a restart: a fixed seed.
struct SourceHash;

impl SourceHash {
    fn with_seed(seed: u64) -> foldhash::quality::FixedState {
        foldhash::quality::FixedState::with_seed(seed)
    }
}
