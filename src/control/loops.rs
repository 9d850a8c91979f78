//! Warnings about rules whose backend is this daemon itself. Such rules are accepted, because they
//! may make sense once the daemon is configured with other addresses. Until then their requests get
//! 502.

use std::collections::HashMap;
use std::time::Instant;

use tracing::warn;

use crate::address::Address;
use crate::limits;
use crate::link::{Own, is_local};
use crate::table::Rule;

/// Warns about those of these rules that lead to this daemon itself. Names the first few, and
/// counts the others.
pub(super) fn warn_of<'r>(own: &Own, rules: impl Iterator<Item = (&'r str, &'r Rule)>) {
    let mut count = 0;
    for (name, rule) in rules {
        if let Some(address) = own_backend(own, rule) {
            count += 1;
            if count <= limits::LOOPS_TOLD_MAX {
                warn!("{name}: the backend {address} is this daemon itself: requests get 502");
            }
        }
    }
    if limits::LOOPS_TOLD_MAX < count {
        let more = count - limits::LOOPS_TOLD_MAX;
        warn!("{more} more rules have this daemon itself as a backend");
    }
}

fn own_backend(own: &Own, rule: &Rule) -> Option<Address> {
    let mut found = None;
    rule.each_address(|address| {
        if found.is_none() && own.has(address, is_local) {
            found = Some(address);
        }
    });
    found
}

/// Loops that requests ran into. Each address is logged once per `LOOP_AGAIN` at most.
#[derive(Default)]
pub(super) struct Met(HashMap<Address, Instant>);

impl Met {
    pub(super) fn note(&mut self, address: Address, now: Instant) {
        self.0.retain(|_, told| now.saturating_duration_since(*told) < limits::LOOP_AGAIN);
        if self.0.contains_key(&address) || limits::LOOPS_TOLD_MAX <= self.0.len() {
            return;
        }
        self.0.insert(address, now);
        warn!("A request was to go to {address}, where this daemon itself listens: it got 502");
    }
}
