//! A connection for an exchange: choose a backend, wait for a permit, reuse or connect, try again.

use std::future::{Future, poll_fn};
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Shard;
use super::client::Waiter;
use super::ending::Ending;
use super::phase::Phase;
use super::pool::{Busy, Lease, OwnConnection, Wait};
use super::ramp::Ramp;
use super::request::{Client, RequestTicket};
use super::waiting::Permit;
use crate::address::Address;
use crate::limits;
use crate::link::{
    Counter, Failure, HoldReason, ShardReport, Shed, SlotTime, Turn, Unreached, is_local_fault,
    is_shortage,
};
use crate::proxy_protocol::{self, Version};
use crate::ring::{Abort, Deadline, EndCounts, SendBuf, Stream};
use crate::table::{Algorithm, Draw, Name, Proxy, SendProxy, Target, choose};

/// Demand of a request for a connection.
#[derive(Copy, Clone)]
pub(super) struct Asking<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) client: Client,
    pub(super) ticket: RequestTicket,
    /// Takes no connection from the pool: that was tried.
    pub(super) fresh: bool,
    /// The request may be sent a second time, if its connection turns out dead.
    pub(super) repeatable: bool,
    /// The connection carries bytes of any kind, so none on which HTTP was spoken will do.
    pub(super) raw: bool,
    /// How long the request may wait for a permit.
    pub(super) patience: Duration,
    /// End of the client's bytes that counts as leaving.
    pub(super) ends: EndCounts,
}

impl Asking<'_> {
    /// Whether the connection is of no use to other requests, nor theirs to this one.
    fn is_unshared(&self) -> bool {
        self.raw || self.proxy.send_proxy().is_some() || !self.proxy.keep_alive()
    }

    /// Whether the request was sent once already, on an idle connection that turned out dead.
    fn is_repeated(&self) -> bool {
        self.fresh && !self.raw
    }
}

/// Opens or reuses a connection for a request, by the rule's balancing, attempts and limits. The
/// client's `own` connection to one of the rule's backends takes precedence over balancing: the
/// client is logged in only there. Watches the client: nothing is opened for a client that has
/// left.
pub(super) async fn acquire(
    mut waiter: Waiter<'_>,
    asking: Asking<'_>,
    own: Option<Box<OwnConnection>>,
) -> Result<Lease, Ending> {
    let shard = waiter.shard;
    let own = own.filter(|own| own.is_usable(shard));
    // The common case touches neither timers nor futures.
    let first = match &own {
        None => pick(shard, asking, &[]),
        Some(own) => backend_at(asking.proxy, own.address()).map(|index| (index, own.address())),
    };
    if let Some((index, address)) = first
        && own.is_none()
        && let Some(mut lease) = reuse(shard, asking, address)
    {
        lease.backend = index as u16;
        return Ok(lease);
    }
    waiter.phase.set(Phase::Connecting);
    if first.is_none() {
        if asking.proxy.is_drained() {
            return Err(Ending::Drained);
        }
        doubt_unknown(shard, asking.proxy);
    }
    let (unlimited, own) = match asking.proxy.max_connections() {
        None => (own, None),
        Some(_) => (None, own),
    };
    if let Some(own) = unlimited {
        let address = own.address();
        let busy = shard.pool.engage(shard, address);
        shard.count(Counter::Reused);
        shard.chose(asking.ticket, address, busy.slot);
        let mut lease = shard.pool.lease_own(busy, *own, None);
        lease.backend = first.map_or(0, |(index, _)| index as u16);
        return Ok(lease);
    }
    if proxy_is_down(shard, asking) {
        return Err(Ending::NoBackend(None));
    }
    waiter.begin(Phase::Connecting);
    // Boxed: a connection that waits for its next request should not carry this path's state.
    let mut open = Box::pin(open(&waiter, asking, first, own));
    poll_fn(|cx| match open.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending if waiter.stream.poll_left(cx, asking.ends) => {
            Poll::Ready(Err(Ending::ClientGone))
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

async fn open(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    first: Option<(usize, Address)>,
    mut own: Option<Box<OwnConnection>>,
) -> Result<Lease, Ending> {
    let (shard, proxy) = (waiter.shard, asking.proxy);
    let deadline = Deadline::new(&shard.ring);
    let mut next = first;
    // The list grows only when attempts fail.
    let mut tried = Vec::new();
    let mut none = None;
    let mut spared = 0;
    for attempt in 0..proxy.attempts().max(1) {
        if attempt > 0 {
            deadline.set(proxy.delay());
            deadline.expired().await;
            next = pick(shard, asking, &tried);
        }
        while let Some((index, first)) = next.take() {
            tried.push(index);
            match attempt_one(waiter, asking, own.take(), (index, first), &deadline).await {
                // The attempt ended at once, before a packet was sent: another backend may be tried
                // in its place.
                Err(Ending::NoConnection) if spared < limits::LOCAL_TRIES => {
                    spared += 1;
                    none = none.or(Some(Ending::NoConnection));
                    next = pick(shard, asking, &tried).filter(|(index, _)| !tried.contains(index));
                }
                Err(Ending::NoConnection) => none = none.or(Some(Ending::NoConnection)),
                Err(why @ (Ending::NoBackend(_) | Ending::OwnAddress)) => none = Some(why),
                Ok(mut lease) => {
                    lease.backend = index as u16;
                    return Ok(lease);
                }
                Err(ending) => return Err(ending),
            }
        }
    }
    if none == Some(Ending::NoConnection) {
        shard.end.counters().add_shed(Shed::Local);
    }
    Err(none.unwrap_or(Ending::NoBackend(None)))
}

/// Makes one attempt: at the address of a backend, or at all addresses of its name.
async fn attempt_one(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    own: Option<Box<OwnConnection>>,
    (index, first): (usize, Address),
    deadline: &Deadline,
) -> Result<Lease, Ending> {
    let (shard, proxy) = (waiter.shard, asking.proxy);
    match proxy.backend(index).target() {
        // The client's own connection is open already: there is no other address to race it with.
        Target::Name(name) if own.is_none() => {
            let result = open_any(waiter, asking, first, name).await;
            if matches!(result, Err(Ending::NoBackend(_))) {
                doubt(shard, name);
            }
            result
        }
        Target::Name(_) | Target::Address(_) => {
            let result = open_one(waiter, asking, own, first, deadline).await;
            if let Err(Ending::NoBackend(why)) = result {
                note_unreachable(shard, asking, first, why);
            }
            result
        }
    }
}

/// Time limit for opening one connection to a backend of the rule, and for waiting for a permit of
/// a backend.
pub(super) fn timeout_connect(shard: &Shard, proxy: &Proxy) -> Duration {
    proxy.timeout_connect().unwrap_or_else(|| shard.timeouts().connect)
}

/// Whether a failure may concern this rule alone: the connection was not open within the rule's own
/// timeout, or did not take the rule's PROXY protocol header.
fn is_own_failure(proxy: &Proxy, why: Option<Unreached>) -> bool {
    match why {
        None => true,
        Some(Unreached::TimedOut | Unreached::QueueFull) => proxy.timeout_connect().is_some(),
        Some(_) => false,
    }
}

/// Reason to hold a request of a rule whose search for a backend ended in this way.
pub(super) fn hold_reason(proxy: &Proxy, ending: Ending) -> HoldReason {
    match ending {
        Ending::NoBackend(why) if !is_own_failure(proxy, why) => HoldReason::NoBackend,
        _ => HoldReason::Unserved,
    }
}

/// Notes that no connection to a backend could be opened. That counts for every rule, unless the
/// failure may concern this rule alone.
fn note_unreachable(shard: &Shard, asking: Asking<'_>, address: Address, why: Option<Unreached>) {
    let Asking { proxy, ticket, .. } = asking;
    if proxy.healthcheck() {
        let rule = is_own_failure(proxy, why).then(|| shard.rule_of(ticket));
        shard.note_failure(address, rule, Failure::Unreachable(why));
    }
}

/// Has a name looked up again because its addresses do not answer.
fn doubt(shard: &Shard, name: &Arc<Name>) {
    if name.doubt() {
        // If there is no room for the report, the usual lookup finds out.
        let _ = shard.end.report(ShardReport::NameFailed { name: name.clone() });
    }
}

/// Has names looked up again that have no address at all.
fn doubt_unknown(shard: &Shard, proxy: &Proxy) {
    for backend in proxy.all_backends() {
        if let Target::Name(name) = backend.target()
            && name.addresses().is_empty()
        {
            doubt(shard, name);
        }
    }
}

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Lease, Ending>> + 'a>>;

/// Connections to the addresses of one name, opened beside each other for one request.
struct Race<'a> {
    waiter: &'a Waiter<'a>,
    asking: Asking<'a>,
    opening: Vec<(Address, Instant, Opening<'a>)>,
    /// Addresses not tried yet; the last is next.
    left: Vec<Address>,
    /// Time that the latest attempt has to itself.
    pause: Deadline,
}

/// Event of a race.
enum RaceEvent {
    Open(Lease),
    Failed(Address, Ending),
    /// The latest attempt is silent: the next address may be tried beside it.
    Silent,
}

impl<'a> Race<'a> {
    fn new(waiter: &'a Waiter<'a>, asking: Asking<'a>, first: Address, name: &Name) -> Race<'a> {
        let mut left: Vec<Address> = name.addresses().iter().map(|it| (*it).into()).collect();
        left.retain(|address| *address != first);
        left.sort_by_key(|address| address.is_ipv4() != first.is_ipv4());
        let pause = Deadline::new(&waiter.shard.ring);
        let mut race = Race { waiter, asking, opening: Vec::with_capacity(1), left, pause };
        race.start(first);
        race
    }

    fn start(&mut self, address: Address) {
        let (waiter, asking) = (self.waiter, self.asking);
        let open = Box::pin(async move {
            let deadline = Deadline::new(&waiter.shard.ring);
            open_one(waiter, asking, None, address, &deadline).await
        });
        self.opening.push((address, waiter.shard.ring.now(), open));
        self.pause.set(limits::NEXT_ADDRESS);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RaceEvent> {
        for (at, (_, _, one)) in self.opening.iter_mut().enumerate() {
            if let Poll::Ready(result) = one.as_mut().poll(cx) {
                let (address, ..) = self.opening.swap_remove(at);
                let failed = |ending| RaceEvent::Failed(address, ending);
                return Poll::Ready(result.map_or_else(failed, RaceEvent::Open));
            }
        }
        let is_silent = !self.left.is_empty() && self.pause.poll_expired(cx);
        if is_silent { Poll::Ready(RaceEvent::Silent) } else { Poll::Pending }
    }

    /// Ends a race that one connection has won. Addresses that were tried for long enough are
    /// passed over from now on, unless the rule limits connections: then they may have waited for a
    /// permit.
    fn end(self) {
        let Race { waiter: Waiter { shard, .. }, asking, opening, .. } = self;
        let slow = shard.ring.now().checked_sub(limits::NEXT_ADDRESS);
        let slower = opening.iter().filter(|(_, since, _)| Some(*since) <= slow);
        let slower: Vec<_> = slower.map(|one| one.0).collect();
        drop(opening);
        if asking.proxy.max_connections().is_none() {
            let why = Some(Unreached::TimedOut);
            slower.into_iter().for_each(|it| note_unreachable(shard, asking, it, why));
        }
    }
}

/// Makes one attempt at a name. All its addresses together are one attempt, as with all programs
/// that connect to names: an application may well listen on only one of `localhost`'s two
/// addresses. An address that is silent is not waited for alone: after a moment the next one, of
/// the other family first, is tried beside it, and the first to answer is taken (RFC 8305).
async fn open_any(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    first: Address,
    name: &Name,
) -> Result<Lease, Ending> {
    let shard = waiter.shard;
    let until = shard.ring.now() + timeout_connect(shard, asking.proxy);
    let mut race = Race::new(waiter, asking, first, name);
    let mut none = Ending::NoConnection;
    loop {
        match poll_fn(|cx| race.poll(cx)).await {
            RaceEvent::Open(lease) => {
                race.end();
                shard.chose(asking.ticket, lease.address(), lease.slot());
                return Ok(lease);
            }
            RaceEvent::Failed(_, Ending::NoConnection) | RaceEvent::Silent => {}
            RaceEvent::Failed(address, Ending::NoBackend(why)) => {
                none = Ending::NoBackend(why);
                note_unreachable(shard, asking, address, why);
            }
            RaceEvent::Failed(_, Ending::OwnAddress) => none = Ending::OwnAddress,
            RaceEvent::Failed(_, ending) => return Err(ending),
        }
        let has_time = shard.ring.now() < until;
        match race.left.pop().filter(|_| has_time) {
            Some(next) => race.start(next),
            None if race.opening.is_empty() => return Err(none),
            None => {}
        }
    }
}

/// Takes an idle connection to a backend, if the request may be sent on one.
fn reuse(shard: &Rc<Shard>, asking: Asking<'_>, address: Address) -> Option<Lease> {
    if asking.fresh || asking.is_unshared() {
        return None;
    }
    let lease = shard.pool.take(shard, address, asking.repeatable)?;
    shard.count(Counter::Reused);
    shard.chose(asking.ticket, address, lease.slot());
    Some(lease)
}

async fn open_one(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    own: Option<Box<OwnConnection>>,
    address: Address,
    deadline: &Deadline,
) -> Result<Lease, Ending> {
    let shard = waiter.shard;
    if own.is_none()
        && let Some(lease) = reuse(shard, asking, address)
    {
        return Ok(lease);
    }
    if shard.is_own(address) {
        shard.note_loop(address);
        return Err(Ending::OwnAddress);
    }
    let busy = shard.pool.engage(shard, address);
    shard.chose(asking.ticket, address, busy.slot);
    let mut permit = None;
    if let Some(limit) = asking.proxy.max_connections() {
        let takes_idle = !asking.is_unshared() && own.is_none();
        match queue(waiter, asking, (address, limit.get()), takes_idle, deadline).await? {
            Wait::Idle(lease) => {
                shard.count(Counter::Reused);
                return Ok(lease);
            }
            Wait::Permit(free) => permit = Some(free),
        }
        waiter.phase.set(Phase::Connecting);
    }
    match own {
        Some(own) => {
            shard.count(Counter::Reused);
            Ok(shard.pool.lease_own(busy, *own, permit))
        }
        None => connect(waiter, asking, busy, permit, deadline).await,
    }
}

/// Waits for a permit of a backend that has `limit` of them, for as long as the request may wait. A
/// connection may become idle meanwhile, which is of use only if the request `takes_idle`.
async fn queue(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    (address, limit): (Address, u32),
    takes_idle: bool,
    deadline: &Deadline,
) -> Result<Wait, Ending> {
    let shard = waiter.shard;
    let since = shard.ring.now();
    deadline.set(asking.patience);
    waiter.phase.set(Phase::Queueing);
    let wait = loop {
        match shard.pool.permit(shard, address, limit, deadline, asking.repeatable).await {
            // The connection is of no use here, but closing it frees its permit.
            Some(Wait::Idle(lease)) if !takes_idle => drop(lease),
            wait => break wait,
        }
    };
    shard.count_wait(asking.ticket, SlotTime::Queue, shard.time_since(since));
    if wait.is_none() {
        shard.end.counters().add_shed(Shed::Queue);
    }
    wait.ok_or(Ending::BackendQueue)
}

/// Opens a new connection to the backend with which `busy` counts the request.
async fn connect(
    waiter: &Waiter<'_>,
    asking: Asking<'_>,
    busy: Busy,
    permit: Option<Permit>,
    deadline: &Deadline,
) -> Result<Lease, Ending> {
    let Asking { proxy, ticket, .. } = asking;
    let (shard, address, slot) = (waiter.shard, busy.address, busy.slot);
    deadline.set(timeout_connect(shard, proxy));
    shard.count(Counter::Connects);
    shard.pool.make_room(shard);
    let begun = shard.ring.now();
    let Some(to) = address.to_system() else { return Err(Ending::NoBackend(None)) };
    let connected = Stream::connect(&shard.ring, &to, deadline).await;
    let stream = connected.map_err(|abort| not_connected(shard, address, slot, &abort))?;
    shard.count_connect(ticket, slot, shard.time_since(begun));
    shard.note_connected(address, ticket);
    let mut lease = shard.pool.lease(shard, busy, stream, permit);
    lease.watched = proxy.healthcheck();
    (lease.is_last, lease.unshared) = (!proxy.keep_alive(), asking.is_unshared());
    if let Some(version) = proxy.send_proxy() {
        introduce(waiter, &lease, version, asking, deadline).await?;
    }
    Ok(lease)
}

/// Counts a connection that could not be opened, and says whose fault that is.
fn not_connected(shard: &Shard, address: Address, slot: u32, abort: &Abort) -> Ending {
    match abort {
        // A shortage of descriptors is ours and not the backend's fault, and the next backend would
        // meet it as well.
        Abort::Io(error) if is_shortage(error) => {
            shard.end.counters().add_shed(Shed::Local);
            Ending::BackendQueue
        }
        // A Unix socket and its permissions are a part of the backend, so an error there is the
        // backend's.
        Abort::Io(error) if address.ip().is_some() && is_local_fault(error) => Ending::NoConnection,
        _ => {
            shard.count_failure(slot);
            Ending::NoBackend(Some(unreached(address, abort)))
        }
    }
}

fn unreached(address: Address, abort: &Abort) -> Unreached {
    match abort {
        Abort::Io(error) => Unreached::of(error),
        Abort::TimedOut if address.ip().is_none() => Unreached::QueueFull,
        Abort::TimedOut => Unreached::TimedOut,
    }
}

/// Sends the PROXY protocol header on a new connection. The header says which client the connection
/// is for, so no other client may use it from then on.
async fn introduce(
    waiter: &Waiter<'_>,
    lease: &Lease,
    version: SendProxy,
    asking: Asking<'_>,
    deadline: &Deadline,
) -> Result<(), Ending> {
    let shard = waiter.shard;
    let whose = asking.client;
    let source = SocketAddr::new(whose.peer, whose.port);
    let target = rustix::net::getsockname(waiter.stream).ok();
    let target = target.and_then(|address| SocketAddr::try_from(address).ok());
    let version = match version {
        SendProxy::V1 => Version::One,
        SendProxy::V2 => Version::Two,
    };
    let mut header = shard.ring.take_vec();
    let addresses = (source, target.unwrap_or(source));
    proxy_protocol::write(version, addresses, whose.secure, &mut header);
    lease.stream.begin_send(SendBuf::Vec(header));
    let sent = lease.stream.sent(deadline, timeout_connect(shard, asking.proxy)).await;
    sent.map_err(|_| Ending::NoBackend(None))
}

/// Finds the backend of a rule that has this address.
pub(super) fn backend_at(proxy: &Proxy, address: Address) -> Option<usize> {
    proxy.all_backends().position(|backend| match backend.target() {
        Target::Address(other) => other == address,
        Target::Name(name) => address.ip().is_some_and(|ip| name.addresses().contains(&ip)),
    })
}

/// Whether all backends of a rule with `hold` are known to be down, so that none need be tried.
fn proxy_is_down(shard: &Shard, asking: Asking<'_>) -> bool {
    let (proxy, down) = (asking.proxy, &shard.published().down);
    if down.is_empty() || proxy.hold().is_zero() {
        return false;
    }
    let is_down = |address: Address| {
        shard.is_ejected(asking.ticket, address, false)
            || proxy.check().is_some_and(|check| down.is_failing(address, check.id()))
    };
    let mut open = proxy.all_backends().filter(|backend| backend.weight() != 0);
    open.all(|backend| match backend.target() {
        // A backend that leads to this daemon itself is none that may come back.
        Target::Address(address) => is_down(address) && !shard.is_own(address),
        Target::Name(name) => name.addresses().iter().all(|address| is_down((*address).into())),
    })
}

/// Chooses the rule's next backend. Backends that were tried, have just refused or are down are
/// passed over while there are others, including those of `backup`.
fn pick(shard: &Shard, asking: Asking<'_>, tried: &[usize]) -> Option<(usize, Address)> {
    let Asking { proxy, ticket, client: Client { peer, .. }, .. } = asking;
    let (backends, backup) = (proxy.backends(), proxy.backup());
    let address = |index: usize| match proxy.backend(index).target() {
        Target::Address(address) => Some(address),
        Target::Name(name) => one_of(shard, asking, &name.addresses()),
    };
    if backends.len() == 1 && backends[0].weight() != 0 && backup.is_empty() {
        return Some((0, address(0)?));
    }
    let (algorithm, affinity) = match proxy.algorithm() {
        given @ (Algorithm::Cookie | Algorithm::Field) => match shard.affinity_of(ticket) {
            Some(affinity) => (given, Some(affinity)),
            None => (Algorithm::Random, None),
        },
        given => (given, None),
    };
    let turn = match algorithm {
        // Another attempt of the same request does not take a turn of its own.
        Algorithm::RoundRobin if tried.is_empty() && !asking.is_repeated() => {
            shard.turn(shard.rule_of(ticket), Turn::next)
        }
        Algorithm::RoundRobin => shard.turn(shard.rule_of(ticket), Turn::current),
        _ => 0,
    };
    let own = || SourceHash::with_seed(0).hash_one(peer);
    let source = affinity.map_or_else(own, NonZeroU64::get);
    let draw = Draw { random: shard.random(), turn, source };
    let open = |index| address(index).map_or(0, |address| shard.pool.busy(address));
    let is_usable =
        |address: &Address| !shard.passes_over(proxy, ticket, *address) && !shard.is_own(*address);
    let ramp = Ramp::of(shard, proxy, || shard.rule_of(ticket));
    let weight = |index| proxy.backend(index).weight();
    let share = |index| match address(index).filter(is_usable) {
        Some(at) if !tried.contains(&index) => ramp.share(shard, proxy, weight(index), at),
        _ => 0,
    };
    let any = |index| address(index).map_or(0, |_| weight(index).into());
    let (main, spare) = ((algorithm, backends), (algorithm, backup));
    let at = backends.len();
    choose(main, draw, open, share)
        .or_else(|| Some(at + choose(spare, draw, |it| open(at + it), |it| share(at + it))?))
        .or_else(|| choose(main, draw, open, any))
        .or_else(|| Some(at + choose(spare, draw, |_| 0, |it| any(at + it))?))
        .and_then(|index| Some((index, address(index)?)))
}

/// Chooses one of a name's addresses at random. An address that is to be passed over leaves its
/// share to the one behind it.
fn one_of(shard: &Shard, asking: Asking<'_>, addresses: &[SocketAddr]) -> Option<Address> {
    let at = shard.random() as usize % addresses.len().max(1);
    let (before, from) = addresses.split_at(at);
    let Asking { proxy, ticket, .. } = asking;
    let is_usable = |address: &&SocketAddr| !shard.passes_over(proxy, ticket, (**address).into());
    let one = from.iter().chain(before).find(is_usable).or(from.first());
    one.map(|address| (*address).into())
}

/// Hash with a fixed seed: a client must meet the same backend on every shard and after a restart.
struct SourceHash;

impl SourceHash {
    fn with_seed(seed: u64) -> foldhash::quality::FixedState {
        foldhash::quality::FixedState::with_seed(seed)
    }
}
