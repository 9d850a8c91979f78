//! Recent arrivals of backends, kept for as long as a rule with `slow_start` may need them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::limits;
use crate::link::{Arrival, Arrivals};
use crate::table::{Action, Proxy, Rule, Snapshot};

/// Recent arrivals. There are none while no rule has a `slow_start`.
#[derive(Default)]
pub(super) struct RecentArrivals {
    arrivals: Arrivals,
    /// Number of rules for each `slow_start`.
    slow_starts: BTreeMap<Duration, usize>,
    is_changed: bool,
}

impl RecentArrivals {
    /// Takes a rule that was added, or a changed rule as it is now.
    pub(super) fn rule_came(
        &mut self,
        name: &str,
        old: Option<&Rule>,
        new: Option<&Rule>,
        now: Instant,
    ) {
        let Some(slow_start) = slow_start(new) else { return };
        *self.slow_starts.entry(slow_start).or_default() += 1;
        // The backends of a new rule all begin at the same time, so none of them arrives.
        let before = addresses(old);
        if before.is_empty() {
            return;
        }
        let rule = Snapshot::default().key(name);
        for address in addresses(new).difference(&before) {
            self.note(Arrival::Added(*address, rule), now);
        }
    }

    /// Takes a rule that was deleted, or a changed rule as it was before.
    pub(super) fn rule_went(&mut self, old: Option<&Rule>) {
        let Some(slow_start) = slow_start(old) else { return };
        if let Some(count) = self.slow_starts.get_mut(&slow_start) {
            *count -= 1;
            if *count == 0 {
                self.slow_starts.remove(&slow_start);
            }
        }
    }

    pub(super) fn note(&mut self, arrival: Arrival, now: Instant) {
        if !self.slow_starts.is_empty() && self.arrivals.len() < limits::ARRIVALS_MAX {
            self.arrivals.insert(arrival, now);
            self.is_changed = true;
        }
    }

    fn longest(&self) -> Duration {
        self.slow_starts.last_key_value().map_or(Duration::ZERO, |(time, _)| *time)
    }

    /// Time at which the oldest arrival no longer matters.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_changed {
            return None;
        }
        self.arrivals.values().min().map(|since| *since + self.longest())
    }

    /// Returns the arrivals, if they have changed since the last call.
    pub(super) fn take(&mut self, now: Instant) -> Option<Arrivals> {
        let (longest, before) = (self.longest(), self.arrivals.len());
        self.arrivals.retain(|_, since| now < *since + longest);
        let is_changed = std::mem::take(&mut self.is_changed) || before != self.arrivals.len();
        is_changed.then(|| self.arrivals.clone())
    }

    /// The arrivals with their ages, for another process.
    pub(super) fn ages(&self, now: Instant) -> impl Iterator<Item = (Arrival, Duration)> {
        self.arrivals
            .iter()
            .map(move |(arrival, since)| (*arrival, now.saturating_duration_since(*since)))
    }
}

fn slow_start(rule: Option<&Rule>) -> Option<Duration> {
    match &rule?.action {
        Action::Proxy(proxy) => Proxy::slow_start(proxy),
        _ => None,
    }
}

fn addresses(rule: Option<&Rule>) -> HashSet<Address> {
    let mut found = HashSet::new();
    rule.iter().for_each(|rule| rule.each_open_address(|address| _ = found.insert(address)));
    found
}
