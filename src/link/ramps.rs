//! Backends that came back or were added recently, for rules with `slow_start`. Control replaces
//! the map as a whole, and it is nearly always empty. Rules without `slow_start` never look at it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::address::Address;

/// Arrival of a backend.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Arrival {
    /// The backend was ejected and is back.
    Back(Address),
    /// The check with this id succeeds again.
    Well(Address, u64),
    /// The backend was added to the rule with this key, which had other backends before.
    Added(Address, u64),
}

/// Arrivals with their times.
pub(crate) type Arrivals = HashMap<Arrival, Instant, foldhash::fast::RandomState>;

/// Steps in which the weight of a backend grows: it begins with one tenth of its weight and ends
/// with all of it.
pub(crate) const RAMP_STEPS: u32 = 10;

/// Recent arrivals. Control replaces the map, shards read it.
#[derive(Default)]
pub(crate) struct Ramps {
    any: AtomicBool,
    arrivals: ArcSwap<Arrivals>,
}

impl Ramps {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // No memory ordering is needed, for the reason given in `Down::is_empty`.
        !self.any.load(Ordering::Relaxed)
    }

    /// Number of steps of its weight that a backend has at `now`, out of [`RAMP_STEPS`], counted
    /// from the latest of these arrivals.
    pub(crate) fn steps(
        &self,
        arrivals: impl Iterator<Item = Arrival>,
        slow_start: Duration,
        now: Instant,
    ) -> u32 {
        let known = self.arrivals.load();
        let latest = arrivals.filter_map(|arrival| known.get(&arrival)).max();
        let age = latest.map_or(slow_start, |since| now.saturating_duration_since(*since));
        if slow_start <= age {
            return RAMP_STEPS;
        }
        let steps = age.as_micros() * u128::from(RAMP_STEPS - 1) / slow_start.as_micros().max(1);
        1 + steps as u32
    }

    /// Replaces the map. Only control may call this.
    pub(crate) fn publish(&self, arrivals: Arrivals) {
        let any = !arrivals.is_empty();
        self.arrivals.store(Arc::new(arrivals));
        self.any.store(any, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn weight_grows_from_a_tenth_to_all_of_it() {
        let backend = Address::from(SocketAddr::from(([10, 0, 0, 1], 80)));
        let (other, start) = (Address::from(SocketAddr::from(([10, 0, 0, 2], 80))), Instant::now());
        let ramps = Ramps::default();
        let steps = |seconds: u64, arrival: Arrival| {
            let now = start + Duration::from_secs(seconds);
            ramps.steps([arrival].into_iter(), Duration::from_secs(90), now)
        };
        assert!(ramps.is_empty());
        assert_eq!(steps(0, Arrival::Back(backend)), 10);
        ramps.publish([(Arrival::Back(backend), start)].into_iter().collect());
        assert!(!ramps.is_empty());
        let grown = [0, 9, 10, 45, 89, 90, 1000].map(|at| steps(at, Arrival::Back(backend)));
        assert_eq!(grown, [1, 1, 2, 5, 9, 10, 10]);
        assert_eq!(steps(0, Arrival::Back(other)), 10);
        assert_eq!(steps(0, Arrival::Well(backend, 7)), 10);
        // The latest arrival counts.
        let later = start + Duration::from_secs(60);
        let both = [(Arrival::Back(backend), start), (Arrival::Added(backend, 7), later)];
        ramps.publish(both.into_iter().collect());
        let all = || [Arrival::Back(backend), Arrival::Added(backend, 7)].into_iter();
        assert_eq!(ramps.steps(all(), Duration::from_secs(90), later), 1);
        ramps.publish(Arrivals::default());
        assert!(ramps.is_empty());
    }
}
