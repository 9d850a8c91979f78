//! Whether a backend is this daemon itself: asked before a connection is opened, never for one
//! that is used again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Shard;
use crate::limits;
use crate::link::{BackendReport, is_local};

/// Memory of which addresses are this machine's, as the kernel said when it was asked.
#[derive(Default)]
pub(super) struct Locals {
    known: RefCell<HashMap<IpAddr, (bool, Instant), foldhash::fast::RandomState>>,
    /// Moment at which control was told of a loop last.
    told: Cell<Option<Instant>>,
}

impl Locals {
    fn has(&self, ip: IpAddr, now: Instant) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some((is_local, since)) = known.get(&ip)
            && now.saturating_duration_since(*since) < limits::LOCAL_KEPT
        {
            return *is_local;
        }
        if limits::LOCALS_MAX <= known.len() {
            known.clear();
        }
        let is_local = is_local(ip);
        known.insert(ip, (is_local, now));
        is_local
    }
}

impl Shard {
    /// Whether connecting to `address` would lead to this daemon.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        let now = self.ring.now();
        self.published().own.has(address, |ip| self.locals.has(ip, now))
    }

    /// Has control say so in the log, now and then.
    pub(super) fn note_loop(&self, address: SocketAddr) {
        let now = self.ring.now();
        let is_due = self
            .locals
            .told
            .get()
            .is_none_or(|told| limits::LOOP_TOLD_EVERY <= now.saturating_duration_since(told));
        if is_due && self.end.report_backend(BackendReport::Loop { address }) {
            self.locals.told.set(Some(now));
        }
    }
}
