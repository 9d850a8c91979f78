//! Backends that fail, as this shard sees it. One that refused is passed over for a moment; one
//! that failed several times in a row is reported, and control ejects it for all shards. A backend
//! that works is not in here: while all is well, a request finds this empty and goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use super::Shard;
use crate::address::Address;
use crate::limits;
use crate::link::{Failure, ShardReport};
use crate::table::Proxy;

/// Failing backends by address, each until it responds, or has not failed for long.
#[derive(Default)]
pub(super) struct Failures {
    by_address: RefCell<HashMap<Address, Failing, foldhash::fast::RandomState>>,
}

struct Failing {
    /// Failures in a row.
    count: u32,
    /// The last of them.
    at: Instant,
    /// Passed over until then.
    refused_until: Option<Instant>,
    /// Control knows.
    is_told: bool,
}

impl Failures {
    fn is_empty(&self) -> bool {
        self.by_address.borrow().is_empty()
    }

    fn has_refused(&self, now: Instant, address: Address) -> bool {
        let by_address = self.by_address.borrow();
        let until = by_address.get(&address).and_then(|failing| failing.refused_until);
        until.is_some_and(|until| now < until)
    }

    /// Forgets what is long ago.
    pub(super) fn sweep(&self, now: Instant) {
        let is_recent =
            |failing: &Failing| now.saturating_duration_since(failing.at) < limits::FAILING_KEPT;
        self.by_address.borrow_mut().retain(|_, failing| is_recent(failing));
    }
}

impl Shard {
    /// Whether the rule's check of a backend fails, or the rule heeds failed requests and it was
    /// ejected, or refused a moment ago.
    pub(super) fn passes_over(&self, proxy: &Proxy, address: Address) -> bool {
        let down = &self.published().down;
        if down.is_empty() && self.failures.is_empty() {
            return false;
        }
        (proxy.healthcheck()
            && (down.is_ejected(address) || self.failures.has_refused(self.ring.now(), address)))
            || proxy.check().is_some_and(|check| down.is_failing(address, check.id()))
    }

    /// A request of a rule with `healthcheck` failed at a backend.
    pub(super) fn note_failure(&self, address: Address, how: Failure) {
        let now = self.ring.now();
        let mut by_address = self.failures.by_address.borrow_mut();
        if limits::FAILING_MAX <= by_address.len() && !by_address.contains_key(&address) {
            return;
        }
        let unknown = Failing { count: 0, at: now, refused_until: None, is_told: false };
        let failing = by_address.entry(address).or_insert(unknown);
        if failing.is_told && !self.published().down.is_ejected(address) {
            // Control has found it well again meanwhile: this is the first failure since.
            (failing.count, failing.is_told) = (0, false);
        }
        failing.count = failing.count.saturating_add(1);
        failing.at = now;
        if matches!(how, Failure::Unreachable(_)) {
            failing.refused_until = Some(now + limits::EJECTION_TIME);
        }
        if limits::EJECT_AFTER <= failing.count && !failing.is_told {
            failing.is_told = self.end.report(ShardReport::Failed { address, how });
        }
    }

    /// A backend that refused has accepted a connection.
    pub(super) fn note_connected(&self, address: Address) {
        if self.failures.is_empty() {
            return;
        }
        if let Some(failing) = self.failures.by_address.borrow_mut().get_mut(&address) {
            failing.refused_until = None;
        }
    }

    /// A backend has answered a request.
    pub(super) fn note_answer(&self, address: Address) {
        if self.failures.is_empty() {
            return;
        }
        let failing = self.failures.by_address.borrow_mut().remove(&address);
        if failing.is_some_and(|failing| failing.is_told) {
            // Should there be no room for it, a probe will find out.
            let _ = self.end.report(ShardReport::Answered { address });
        }
    }
}
