//! Connections to backends: idle ones kept for the next request, and permits of limited backends.
//!
//! An idle connection has a receive armed. So a connection that the backend closed, reset, or sent
//! bytes on is known to be dead before it is used, without a system call.
//!
//! A connection is lent again only after the kernel was seen to hold nothing for it: bytes behind a
//! response would become the beginning of the next client's response. The receives made during the
//! exchange prove nothing: the response may have been spliced, it may have filled its buffer, or
//! the bytes may have come a moment later. So:
//!
//! - The receive armed at [`Pool::give`] tries to receive before it polls. After one turn of the
//!   ring it has brought the bytes that were there, or there were none. (A poll would not do: since
//!   Linux 6.13 a turn runs no more than 20 of the receives that became ready, so readiness may be
//!   reported some turns later.)
//! - Connections given back in an earlier turn are lent first, without a system call. If there are
//!   none, one given back in this turn is peeked at.
//! - After some small responses the receive goes on by itself, and may bring bytes some turns late.
//!   Such a connection counts as one of an earlier turn once a mark of the ring has passed. Before
//!   that it is lent only for a request that can be sent again: the ring withdraws the request if
//!   the mark shows that there were bytes ([`Stream::begin_send_if_quiet`]).
//! - Bytes that come later are reported in the order of their arrival: bytes that were there before
//!   the next request are seen before the request is. Only bytes that come between the request's
//!   arrival and its departure can't be told from its response, as in any proxy.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::waiting::{Line, Permit};
use super::{Shard, call};
use crate::address::{Address, UnixPath};
use crate::limits;
use crate::link::{BackendCount, Counter};
use crate::ring::{Deadline, KnownFrom, Quiet, Ring, Stream};

/// Terms on which a backend's connection can be kept, as its response says.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct KeepTerms {
    /// Seconds after which the backend closes an idle connection.
    pub(super) seconds: Option<u16>,
    /// The response named a body where none may be; the backend may send it yet.
    pub(super) is_doubtful: bool,
    /// The backend asks for credentials that authenticate the connection, which then is its
    /// client's own.
    pub(super) authenticates: bool,
}

struct Backend {
    /// Slot in which the backend is counted.
    slot: u32,
    /// The path of a Unix socket, so that it is known while anything is under way there.
    _path: Option<Arc<UnixPath>>,
    /// Idle connections, used from the end: the one used last comes first, so that the others can
    /// time out.
    idle: Vec<Idle>,
    /// Exchanges under way, for `least_connections`.
    busy: u32,
    /// Exchanges that wait for a permit; set once a request has come that `max_connections` limits.
    line: Option<Rc<Line>>,
}

struct Idle {
    stream: Stream,
    open: OpenConnection,
    permit: Option<Permit>,
    since: Instant,
    /// Moment from which the backend may close the connection.
    until: Instant,
    /// Moment from which the ring knows what the connection held when it was given back. In order,
    /// the latest last, but for connections of the two kinds that were given back together.
    known_from: KnownFrom,
    /// The last response named a body where none may be: the backend may still send it.
    is_doubtful: bool,
}

impl Idle {
    fn new(
        shard: &Shard,
        stream: Stream,
        open: OpenConnection,
        permit: Option<Permit>,
        keeping: KeepTerms,
    ) -> Idle {
        let (known_from, since) = (stream.arm_at_once(), shard.ring.now());
        let kept = keeping.seconds.map_or(limits::IDLE_BACKEND_TIMEOUT, |seconds| {
            let kept = Duration::from_secs(seconds.into());
            let kept = kept - limits::IDLE_BACKEND_MARGIN.min(kept / 2);
            kept.min(limits::IDLE_BACKEND_TIMEOUT)
        });
        let is_doubtful = keeping.is_doubtful;
        Idle { stream, open, permit, since, until: since + kept, known_from, is_doubtful }
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// Whether the connection is quiet, as far as the ring or the kernel can tell. `None`: neither
    /// can.
    fn quiet(&self, ring: &Ring) -> Option<Quiet> {
        match ring.is_past(self.known_from) {
            true => Some(self.stream.quiet()),
            false => self.stream.quiet_by_peeking(),
        }
    }
}

/// A backend's connection that belongs to one client connection, because that one authenticated it:
/// the backend takes every request on it for one of that client's.
pub(super) struct OwnConnection {
    idle: Idle,
    address: Address,
}

impl OwnConnection {
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// Whether the next request can be sent on the connection.
    pub(super) fn is_usable(&self, shard: &Shard) -> bool {
        let quiet = self.idle.quiet(&shard.ring);
        !self.idle.is_stale(shard.ring.now()) && quiet == Some(Quiet::Yes)
    }
}

pub(super) struct Pool {
    backends: RefCell<HashMap<Address, Backend, foldhash::fast::RandomState>>,
    /// Connections to all backends, idle or not.
    open: Cell<usize>,
}

/// A connection to a backend, for one exchange.
pub(super) struct Lease {
    pub(super) stream: Stream,
    /// The connection was idle in the pool: the backend may have closed it while we were sending.
    pub(super) reused: bool,
    /// The connection is known to have held nothing when it was lent. Otherwise the ring has to
    /// find out before the request leaves.
    pub(super) is_known: bool,
    /// The connection is new, and its rule has `healthcheck`: if it ends without a response, that
    /// is a failure.
    pub(super) watched: bool,
    /// The backend was told whose connection it is, or the rule keeps no connections: no other
    /// client may ever use it.
    pub(super) unshared: bool,
    /// The rule keeps no connections, not even for the same client.
    pub(super) is_last: bool,
    /// The client has authenticated the connection, or is about to: it is kept for that client's
    /// next requests alone.
    pub(super) is_own: bool,
    /// Terms on which the connection can be kept, from the backend's response.
    pub(super) keeping: KeepTerms,
    /// Position of the backend in the rule of the exchange.
    pub(super) backend: u16,
    open: OpenConnection,
    permit: Option<Permit>,
    busy: Busy,
}

/// Counts one connection to a backend while it lives.
struct OpenConnection(Rc<Shard>);

impl OpenConnection {
    fn new(shard: &Rc<Shard>) -> OpenConnection {
        shard.pool.open.set(shard.pool.open.get() + 1);
        OpenConnection(shard.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.pool.open.set(self.0.pool.open.get() - 1);
    }
}

/// Counts an exchange with a backend while it lives.
pub(super) struct Busy {
    shard: Rc<Shard>,
    pub(super) address: Address,
    /// Slot in which the backend is counted.
    pub(super) slot: u32,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shard.end.backends().sub(self.slot, BackendCount::Open, 1);
        if let Some(backend) = self.shard.pool.backends.borrow_mut().get_mut(&self.address) {
            backend.busy -= 1;
        }
    }
}

impl Lease {
    fn new(stream: Stream, open: OpenConnection, permit: Option<Permit>, busy: Busy) -> Lease {
        Lease {
            stream,
            reused: false,
            is_known: true,
            watched: false,
            unshared: false,
            is_last: false,
            is_own: false,
            keeping: KeepTerms::default(),
            backend: 0,
            open,
            permit,
            busy,
        }
    }

    /// Slot in which the backend is counted.
    pub(super) fn slot(&self) -> u32 {
        self.busy.slot
    }

    pub(super) fn address(&self) -> Address {
        self.busy.address
    }
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool { backends: RefCell::default(), open: Cell::new(0) }
    }

    fn with<T>(&self, shard: &Shard, address: Address, act: impl FnOnce(&mut Backend) -> T) -> T {
        let mut backends = self.backends.borrow_mut();
        act(backends.entry(address).or_insert_with(|| Backend {
            slot: shard.open_backend_slot(address),
            _path: address.path(),
            idle: Vec::new(),
            busy: 0,
            line: None,
        }))
    }

    /// Exchanges under way with a backend, on this shard.
    pub(super) fn busy(&self, address: Address) -> u32 {
        self.backends.borrow().get(&address).map_or(0, |backend| backend.busy)
    }

    /// Takes an idle connection that is alive, if there is one. A request that is not `repeatable`
    /// gets none on which bytes may still come.
    pub(super) fn take(
        &self,
        shard: &Rc<Shard>,
        address: Address,
        repeatable: bool,
    ) -> Option<Lease> {
        let now = shard.ring.now();
        loop {
            let ((idle, quiet, is_known), slot) = {
                let mut backends = self.backends.borrow_mut();
                let backend = backends.get_mut(&address)?;
                let found = backend.pop_idle(&shard.ring, repeatable)?;
                backend.busy += 1;
                backend.note_idle(shard);
                (found, backend.slot)
            };
            let busy = self.busy_at(shard, address, slot);
            let is_doubtful = idle.is_doubtful && now < idle.since + limits::DOUBT_TIME;
            if quiet == Quiet::Yes && !idle.is_stale(now) && (repeatable || !is_doubtful) {
                let Idle { stream, open, permit, .. } = idle;
                let lease = Lease::new(stream, open, permit, busy);
                return Some(Lease { reused: true, is_known, ..lease });
            }
        }
    }

    /// Counts an exchange with a backend from the moment it was chosen.
    pub(super) fn engage(&self, shard: &Rc<Shard>, address: Address) -> Busy {
        let slot = self.with(shard, address, |backend| {
            backend.busy += 1;
            backend.slot
        });
        self.busy_at(shard, address, slot)
    }

    fn busy_at(&self, shard: &Rc<Shard>, address: Address, slot: u32) -> Busy {
        shard.end.backends().add(slot, BackendCount::Open, 1);
        Busy { shard: shard.clone(), address, slot }
    }

    /// Makes a new connection the lease of an exchange.
    pub(super) fn lease(
        &self,
        shard: &Rc<Shard>,
        busy: Busy,
        stream: Stream,
        permit: Option<Permit>,
    ) -> Lease {
        Lease::new(stream, OpenConnection::new(shard), permit, busy)
    }

    /// Makes the client's own connection the lease of an exchange.
    pub(super) fn lease_own(
        &self,
        busy: Busy,
        own: OwnConnection,
        permit: Option<Permit>,
    ) -> Lease {
        let Idle { stream, open, .. } = own.idle;
        Lease { reused: true, is_own: true, ..Lease::new(stream, open, permit, busy) }
    }

    /// Makes a connection whose last exchange is over the client's own. `None`: it can't be kept.
    /// Its permit of a limited backend is given back meanwhile: permits of such connections count
    /// requests, or idle clients would keep others out.
    pub(super) fn keep_own(&self, shard: &Rc<Shard>, lease: Lease) -> Option<Box<OwnConnection>> {
        let Lease { stream, open, busy, is_last, keeping, .. } = lease;
        let is_full = shard.tuning().connections_max <= self.open.get();
        if is_last || is_full || shard.stopping() || stream.quiet() == Quiet::No {
            return None;
        }
        let idle = Idle::new(shard, stream, open, None, keeping);
        Some(Box::new(OwnConnection { idle, address: busy.address }))
    }

    /// Keeps a connection whose last exchange is over. Closes it if too many are kept already, or
    /// if others wait for its permit.
    pub(super) fn give(&self, shard: &Rc<Shard>, lease: Lease) {
        let Lease { stream, open, permit, busy, unshared, keeping, .. } = lease;
        if unshared {
            return;
        }
        let address = busy.address;
        let wanted = permit.as_ref().is_some_and(Permit::is_wanted);
        if shard.closing() || wanted || stream.quiet() == Quiet::No {
            return;
        }
        let idle = Idle::new(shard, stream, open, permit, keeping);
        // A connection that does not fit is dropped after the borrow: a permit that is given back
        // looks at the pool again.
        let surplus = self.with(shard, address, |backend| {
            if backend.idle.len() >= limits::IDLE_PER_BACKEND_MAX {
                return Some(idle);
            }
            backend.idle.push(idle);
            backend.note_idle(shard);
            backend.wake_first();
            None
        });
        drop(surplus);
    }

    /// Closes idle connections until one more fits: descriptors are shared fairly with the
    /// clients'.
    pub(super) fn make_room(&self, shard: &Shard) {
        let surplus = (self.open.get() + 1).saturating_sub(shard.tuning().connections_max);
        self.close_idle(shard, surplus);
    }

    /// Closes up to `count` idle connections, of each backend the least recently used first.
    /// Returns `false` if there were none.
    pub(super) fn close_idle(&self, shard: &Shard, count: usize) -> bool {
        let mut surplus = Vec::new();
        for backend in self.backends.borrow_mut().values_mut() {
            if surplus.len() == count {
                break;
            }
            if !backend.idle.is_empty() {
                let some = backend.idle.len().min(count - surplus.len());
                surplus.extend(backend.idle.drain(..some));
                backend.note_idle(shard);
            }
        }
        !surplus.is_empty()
    }

    /// Takes a permit of a backend that allows `limit` connections, or waits in line for a permit
    /// or an idle connection. `None`: `deadline` came first.
    pub(super) async fn permit(
        &self,
        shard: &Rc<Shard>,
        address: Address,
        limit: u32,
        deadline: &Deadline,
        repeatable: bool,
    ) -> Option<Wait> {
        let new = || Line::new(shard, shard.end.together.gates.get(address));
        let line =
            self.with(shard, address, |backend| backend.line.get_or_insert_with(new).clone());
        if let Some(permit) = line.enter(limit) {
            return Some(Wait::Permit(permit));
        }
        let take = || {
            if let Some(lease) = self.take(shard, address, repeatable) {
                return Some(Wait::Idle(lease));
            }
            let permit = line.permit(limit);
            if permit.is_none() {
                line.gate.ask_for_idle(shard.end.index);
            }
            permit.map(Wait::Permit)
        };
        line.wait(shard, deadline, take).await
    }

    /// Looks after limited backends when another shard gave a permit back or asks for one.
    pub(super) fn attend_gates(&self, shard: &Shard) {
        let mut surplus = Vec::new();
        for backend in self.backends.borrow_mut().values_mut() {
            let Some(line) = &backend.line else { continue };
            if line.gate.others_wait(shard.end.index) {
                surplus.extend(backend.idle.pop());
                backend.note_idle(shard);
            }
            backend.wake_first();
        }
        drop(surplus);
    }

    /// Closes every idle connection.
    pub(super) fn clear(&self) {
        let idle: Vec<Idle> = self
            .backends
            .borrow_mut()
            .values_mut()
            .flat_map(|backend| backend.idle.drain(..))
            .collect();
        drop(idle);
    }

    /// Closes idle connections that are dead or were idle for too long, and forgets backends
    /// without any use.
    fn sweep(&self, shard: &Shard) {
        let now = shard.ring.now();
        let mut surplus = Vec::new();
        let (mut idle_count, mut waiting_count) = (0, 0);
        self.backends.borrow_mut().retain(|_, backend| {
            let stale = |idle: &mut Idle| idle.is_stale(now) || idle.stream.quiet() == Quiet::No;
            surplus.extend(backend.idle.extract_if(.., stale));
            backend.note_idle(shard);
            idle_count += backend.idle.len();
            let waiting = backend.line.as_ref().map_or(0, |line| line.len());
            waiting_count += waiting;
            let is_used = !backend.idle.is_empty() || 0 < backend.busy || 0 < waiting;
            if !is_used {
                shard.retire_backend_slot(backend.slot);
            }
            is_used
        });
        drop(surplus);
        shard.end.counters().set(Counter::IdleConnections, idle_count as u64);
        waiting_count += shard.open_requests.sweep();
        shard.end.counters().set(Counter::Queued, waiting_count as u64);
    }
}

/// Result of the wait for a permit.
pub(super) enum Wait {
    /// A connection may be opened.
    Permit(Permit),
    /// A connection that became idle meanwhile.
    Idle(Lease),
}

impl Backend {
    /// Takes the last used of the idle connections that are known to hold nothing. If there is
    /// none, takes the last used of all. Also returns whether the connection is quiet, and whether
    /// that is known already.
    fn pop_idle(&mut self, ring: &Ring, repeatable: bool) -> Option<(Idle, Quiet, bool)> {
        let last = self.idle.last()?;
        let known = match ring.is_past(last.known_from) {
            true => self.idle.len(),
            false => self.idle.partition_point(|idle| ring.is_past(idle.known_from)),
        };
        let index = known.checked_sub(1).unwrap_or(self.idle.len() - 1);
        let idle = &self.idle[index];
        let waits = repeatable && idle.stream.is_flowing() && !ring.is_past(idle.known_from);
        let quiet = if waits { idle.stream.quiet() } else { idle.quiet(ring)? };
        Some((self.idle.remove(index), quiet, !waits))
    }

    fn note_idle(&self, shard: &Shard) {
        if let Some(slot) = shard.end.backends().get(self.slot) {
            slot.set(BackendCount::Idle, self.idle.len() as u64);
        }
        if let Some(line) = &self.line {
            line.gate.set_idle(shard.end.index, !self.idle.is_empty());
        }
    }

    fn wake_first(&self) {
        if let Some(line) = &self.line {
            line.wake_first();
        }
    }
}

/// Sweeps once a second while the shard lives.
pub(super) async fn sweep(shard: Rc<Shard>) {
    let pause = Deadline::new(&shard.ring);
    while !shard.closing() {
        pause.set(limits::IDLE_SWEEP);
        pause.expired().await;
        shard.pool.sweep(&shard);
        shard.failures.sweep(shard.ring.now());
        call::dismiss();
        shard.ring.note_runnable();
        shard.sweep_slots();
        shard.note_ring();
        shard.file_rest();
    }
}
