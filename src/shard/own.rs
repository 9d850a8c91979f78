//! Whether a backend is this daemon itself. Asked before a connection is opened, never for one that
//! is used again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Instant;

use super::Shard;
use crate::address::{Address, UnixSocket};
use crate::limits;
use crate::link::{ShardReport, is_local};

/// Memory of which addresses are this machine's, as the kernel said when it was asked.
#[derive(Default)]
pub(super) struct Locals {
    known: RefCell<HashMap<IpAddr, (bool, Instant), foldhash::fast::RandomState>>,
    /// Unix sockets, for which the file that the path leads to decides.
    known_unix: RefCell<HashMap<UnixSocket, (bool, Instant), foldhash::fast::RandomState>>,
    /// Moment at which control was last told of a loop.
    told: Cell<Option<Instant>>,
}

impl Locals {
    fn has(&self, ip: IpAddr, now: Instant) -> bool {
        remember(&self.known, ip, now, || is_local(ip))
    }
}

/// Returns what was found of `key` lately, or finds it now.
fn remember<K: Eq + Hash>(
    known: &RefCell<HashMap<K, (bool, Instant), foldhash::fast::RandomState>>,
    key: K,
    now: Instant,
    find: impl FnOnce() -> bool,
) -> bool {
    let mut known = known.borrow_mut();
    if let Some((found, since)) = known.get(&key)
        && now.saturating_duration_since(*since) < limits::LOCAL_KEPT
    {
        return *found;
    }
    if limits::LOCALS_MAX <= known.len() {
        known.clear();
    }
    let found = find();
    known.insert(key, (found, now));
    found
}

impl Shard {
    /// Whether connecting to `address` would lead to this daemon.
    pub(super) fn is_own(&self, address: Address) -> bool {
        let now = self.ring.now();
        let own = &self.published().own;
        match address {
            Address::Unix(socket) if own.has_unix() => {
                remember(&self.locals.known_unix, socket, now, || own.is_unix(socket))
            }
            address => own.has(address, |ip| self.locals.has(ip, now)),
        }
    }

    /// Reports a loop to control, which logs it, at most once every [`limits::LOOP_TOLD_EVERY`].
    pub(super) fn note_loop(&self, address: Address) {
        let now = self.ring.now();
        let is_due = self
            .locals
            .told
            .get()
            .is_none_or(|told| limits::LOOP_TOLD_EVERY <= now.saturating_duration_since(told));
        if is_due && self.end.report(ShardReport::Loop { address }) {
            self.locals.told.set(Some(now));
        }
    }
}
