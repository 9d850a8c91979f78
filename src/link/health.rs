//! Backends that are unusable, as control tells the shards: sets that are replaced whole, and
//! nearly always empty. A request looks at one flag; only when that is set, at the sets.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::address::Address;

type Set<T> = HashSet<T, foldhash::fast::RandomState>;

#[derive(Default)]
struct Unusable {
    /// Addresses at which requests failed, of any rule.
    ejected: Set<Address>,
    /// Addresses with the id of a check that fails there.
    failing: Set<(Address, u64)>,
}

/// Backends that requests pass over while there are others. Shards read the sets, control replaces
/// them, and no shard need be woken: the next request sees it.
#[derive(Default)]
pub(crate) struct Down {
    any: AtomicBool,
    unusable: ArcSwap<Unusable>,
}

impl Down {
    /// Whether every backend is well, as far as is known.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // No order is needed: a request that comes a moment too early passes over the same backends
        // as the one before it.
        !self.any.load(Ordering::Relaxed)
    }

    /// Whether requests failed at a backend, and it is not back.
    pub(crate) fn is_ejected(&self, backend: Address) -> bool {
        !self.is_empty() && self.unusable.load().ejected.contains(&backend)
    }

    /// Whether the check with this id fails at a backend.
    pub(crate) fn is_failing(&self, backend: Address, check: u64) -> bool {
        !self.is_empty() && self.unusable.load().failing.contains(&(backend, check))
    }

    /// Replaces the sets. Called by control only.
    pub(crate) fn publish(
        &self,
        ejected: impl Iterator<Item = Address>,
        failing: impl Iterator<Item = (Address, u64)>,
    ) {
        let unusable = Unusable { ejected: ejected.collect(), failing: failing.collect() };
        let any = !unusable.ejected.is_empty() || !unusable.failing.is_empty();
        self.unusable.store(Arc::new(unusable));
        self.any.store(any, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn what_is_published_is_all_there_is() {
        let [a, b] = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 1], port)).into());
        let none = || std::iter::empty();
        let down = Down::default();
        assert!(down.is_empty() && !down.is_ejected(a));
        down.publish([a].into_iter(), none());
        assert!(!down.is_empty() && down.is_ejected(a) && !down.is_ejected(b));
        assert!(!down.is_failing(a, 7));
        down.publish([b].into_iter(), [(a, 7)].into_iter());
        assert!(!down.is_ejected(a) && down.is_ejected(b));
        assert!(down.is_failing(a, 7) && !down.is_failing(a, 8) && !down.is_failing(b, 7));
        down.publish(std::iter::empty(), [(b, 7)].into_iter());
        assert!(!down.is_empty() && !down.is_ejected(b) && down.is_failing(b, 7));
        down.publish(std::iter::empty(), none());
        assert!(down.is_empty() && !down.is_failing(b, 7));
    }
}
