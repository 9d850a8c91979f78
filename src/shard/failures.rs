//! Backends that fail, as this shard sees it. A backend that refused a connection is passed over
//! for a moment. One that failed several times in a row is reported, and control ejects it for all
//! shards. A backend that works has no entry: while all is well, a request finds the map empty and
//! goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use super::Shard;
use super::request::RequestTicket;
use crate::address::Address;
use crate::limits;
use crate::link::{Ejected, Failure, ShardReport};
use crate::table::Proxy;

/// Failing backends. Each stays until it responds, or has not failed for long.
#[derive(Default)]
pub(super) struct Failures {
    failing: RefCell<HashMap<Ejected, Failing, foldhash::fast::RandomState>>,
}

struct Failing {
    /// Failures in a row.
    count: u32,
    /// Time of the last failure.
    at: Instant,
    /// The backend is passed over until then.
    refused_until: Option<Instant>,
    /// The failure was reported to control.
    is_told: bool,
}

impl Failures {
    fn is_empty(&self) -> bool {
        self.failing.borrow().is_empty()
    }

    fn has_refused(&self, now: Instant, ejected: Ejected) -> bool {
        let failing = self.failing.borrow();
        let until = failing.get(&ejected).and_then(|failing| failing.refused_until);
        until.is_some_and(|until| now < until)
    }

    /// Forgets backends whose last failure is long ago.
    pub(super) fn sweep(&self, now: Instant) {
        let is_recent =
            |failing: &Failing| now.saturating_duration_since(failing.at) < limits::FAILING_KEPT;
        self.failing.borrow_mut().retain(|_, failing| is_recent(failing));
    }
}

impl Shard {
    /// Whether a rule passes over a backend: the rule's check of it fails; or the rule heeds failed
    /// requests, and the backend was ejected, or refused a moment ago.
    pub(super) fn passes_over(
        &self,
        proxy: &Proxy,
        ticket: RequestTicket,
        address: Address,
    ) -> bool {
        let down = &self.published().down;
        if down.is_empty() && self.failures.is_empty() {
            return false;
        }
        proxy.healthcheck() && self.is_ejected(ticket, address, true)
            || proxy.check().is_some_and(|check| down.is_failing(address, check.id()))
    }

    /// Whether a backend was ejected because requests of this rule failed there or it can't be
    /// reached. With `or_refused`, also for a moment after a single attempt.
    pub(super) fn is_ejected(
        &self,
        ticket: RequestTicket,
        address: Address,
        or_refused: bool,
    ) -> bool {
        let (down, now) = (&self.published().down, self.ring.now());
        let rule = self.rule_of(ticket);
        let has_refused = |rule| self.failures.has_refused(now, Ejected { backend: address, rule });
        down.is_ejected(address)
            || down.is_ejected_for(address, rule)
            || or_refused && (has_refused(None) || has_refused(Some(rule)))
    }

    /// Notes that a request of a rule with `healthcheck` failed at a backend. `rule` is the rule's
    /// key if the failure may concern that rule alone: one tenant's failures must not take the
    /// backend from others.
    pub(super) fn note_failure(&self, backend: Address, rule: Option<u64>, how: Failure) {
        let now = self.ring.now();
        let ejected = Ejected { backend, rule };
        let mut all = self.failures.failing.borrow_mut();
        if limits::FAILING_MAX <= all.len() && !all.contains_key(&ejected) {
            return;
        }
        let unknown = Failing { count: 0, at: now, refused_until: None, is_told: false };
        let failing = all.entry(ejected).or_insert(unknown);
        let down = &self.published().down;
        let is_ejected = || match rule {
            None => down.is_ejected(backend),
            Some(rule) => down.is_ejected_for(backend, rule),
        };
        if failing.is_told && !is_ejected() {
            // Control has found the backend well again meanwhile: this is the first failure since
            // then.
            (failing.count, failing.is_told) = (0, false);
        }
        failing.count = failing.count.saturating_add(1);
        failing.at = now;
        if matches!(how, Failure::Unreachable(_)) {
            failing.refused_until = Some(now + limits::EJECTION_TIME);
        }
        if limits::EJECT_AFTER <= failing.count && !failing.is_told {
            failing.is_told = self.end.report(ShardReport::Failed { ejected, how });
        }
    }

    /// Notes that a backend has accepted a connection for this request: earlier refusals no longer
    /// count.
    pub(super) fn note_connected(&self, backend: Address, ticket: RequestTicket) {
        if self.failures.is_empty() {
            return;
        }
        let mut all = self.failures.failing.borrow_mut();
        for rule in [None, Some(self.rule_of(ticket))] {
            if let Some(failing) = all.get_mut(&Ejected { backend, rule }) {
                failing.refused_until = None;
            }
        }
    }

    /// Notes that a backend has responded to a request of this rule.
    pub(super) fn note_answer(&self, backend: Address, ticket: RequestTicket) {
        if self.failures.is_empty() {
            return;
        }
        for rule in [None, Some(self.rule_of(ticket))] {
            let ejected = Ejected { backend, rule };
            let failing = self.failures.failing.borrow_mut().remove(&ejected);
            if failing.is_some_and(|failing| failing.is_told) {
                // If there is no room for the report, a probe will find out.
                let _ = self.end.report(ShardReport::Answered { ejected });
            }
        }
    }
}
