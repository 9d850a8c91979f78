//! Backends that are down, as control tells the shards: a set that is replaced whole, and nearly
//! always empty. A request looks at one flag; only when that is set, at the set.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::address::Address;

type Addresses = HashSet<Address, foldhash::fast::RandomState>;

/// Backends that requests pass over while there are others. Shards read the set, control replaces
/// it, and no shard need be woken: the next request sees it.
#[derive(Default)]
pub(crate) struct Down {
    any: AtomicBool,
    addresses: ArcSwap<Addresses>,
}

impl Down {
    /// Whether every backend is well, as far as is known.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // No order is needed: a request that comes a moment too early passes over the same backends
        // as the one before it.
        !self.any.load(Ordering::Relaxed)
    }

    pub(crate) fn contains(&self, backend: Address) -> bool {
        !self.is_empty() && self.addresses.load().contains(&backend)
    }

    /// Replaces the set. Called by control only.
    pub(crate) fn publish(&self, backends: impl Iterator<Item = Address>) {
        let addresses: Addresses = backends.collect();
        let any = !addresses.is_empty();
        self.addresses.store(Arc::new(addresses));
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
        let down = Down::default();
        assert!(down.is_empty() && !down.contains(a));
        down.publish([a].into_iter());
        assert!(!down.is_empty() && down.contains(a) && !down.contains(b));
        down.publish([b].into_iter());
        assert!(!down.contains(a) && down.contains(b));
        down.publish([].into_iter());
        assert!(down.is_empty() && !down.contains(b));
    }
}
