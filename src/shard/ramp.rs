//! Shares of backends that grow, for rules with `slow_start`.

use std::time::Duration;

use super::Shard;
use crate::address::Address;
use crate::link::{Arrival, RAMP_STEPS};
use crate::table::Proxy;

/// Growth of the shares of a rule's backends.
#[derive(Copy, Clone)]
pub(super) struct Ramp {
    rule: u64,
    /// Time from a backend's arrival to its whole share; `None`: all backends have theirs.
    slow_start: Option<Duration>,
}

impl Ramp {
    /// The growth for requests of the rule with this key.
    pub(super) fn of(shard: &Shard, proxy: &Proxy, rule: impl FnOnce() -> u64) -> Ramp {
        let slow_start = proxy.slow_start().filter(|_| !shard.published().ramps.is_empty());
        Ramp { rule: slow_start.map_or(0, |_| rule()), slow_start }
    }

    /// The share of a backend with this weight at this address. Shares of one rule are in
    /// proportion to each other.
    pub(super) fn share(self, shard: &Shard, proxy: &Proxy, weight: u16, at: Address) -> u32 {
        let weight = u32::from(weight);
        let Some(slow_start) = self.slow_start else { return weight };
        let own = [Arrival::Back(at), Arrival::Added(at, self.rule)];
        let back = if proxy.healthcheck() { &own[..] } else { &own[1..] };
        let well = proxy.check().map(|check| Arrival::Well(at, check.id()));
        let arrivals = back.iter().copied().chain(well);
        let steps = shard.published().ramps.steps(arrivals, slow_start, shard.ring.now());
        debug_assert!((1..=RAMP_STEPS).contains(&steps), "{steps} steps");
        weight * steps
    }
}
