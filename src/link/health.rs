//! Backends that are unusable, as control publishes them to the shards. Control always replaces the
//! sets as a whole, and they are nearly always empty: a request looks at one flag, and looks at the
//! sets only if that flag is set.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::address::Address;

/// A backend that is passed over because requests failed there.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ejected {
    pub(crate) backend: Address,
    /// Key of the rule whose requests pass over the backend; `None`: the requests of all rules do.
    pub(crate) rule: Option<u64>,
}

type Set<T> = HashSet<T, foldhash::fast::RandomState>;

#[derive(Default)]
struct Unusable {
    /// Addresses that can't be reached, for any rule.
    ejected: Set<Address>,
    /// Addresses at which requests of one rule failed, with the key of the rule.
    ejected_for: Set<(Address, u64)>,
    /// Addresses with the id of a check that fails there.
    failing: Set<(Address, u64)>,
}

/// Backends that requests pass over while there are others. Control replaces the sets and shards
/// read them. No shard is woken: its next request sees the new sets.
#[derive(Default)]
pub(crate) struct Down {
    any: AtomicBool,
    unusable: ArcSwap<Unusable>,
}

impl Down {
    /// Whether no backend is known to be unusable.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // No memory ordering is needed: a request that still sees the old value is treated like the
        // request before it.
        !self.any.load(Ordering::Relaxed)
    }

    /// Whether a backend could not be reached and is not back yet.
    pub(crate) fn is_ejected(&self, backend: Address) -> bool {
        !self.is_empty() && self.unusable.load().ejected.contains(&backend)
    }

    /// Whether requests of the rule with this key failed at a backend and the backend is not back
    /// yet.
    pub(crate) fn is_ejected_for(&self, backend: Address, rule: u64) -> bool {
        !self.is_empty() && self.unusable.load().ejected_for.contains(&(backend, rule))
    }

    /// Whether the check with this id fails at a backend.
    pub(crate) fn is_failing(&self, backend: Address, check: u64) -> bool {
        !self.is_empty() && self.unusable.load().failing.contains(&(backend, check))
    }

    /// Replaces the sets. Only control may call this.
    pub(crate) fn publish(
        &self,
        ejected: impl Iterator<Item = Ejected>,
        failing: impl Iterator<Item = (Address, u64)>,
    ) {
        let mut unusable = Unusable { failing: failing.collect(), ..Unusable::default() };
        let mut any = !unusable.failing.is_empty();
        for Ejected { backend, rule } in ejected {
            any = true;
            match rule {
                None => _ = unusable.ejected.insert(backend),
                Some(rule) => _ = unusable.ejected_for.insert((backend, rule)),
            }
        }
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
        let of = |backend, rule| [Ejected { backend, rule }].into_iter();
        let down = Down::default();
        assert!(down.is_empty() && !down.is_ejected(a));
        down.publish(of(a, None), none());
        assert!(!down.is_empty() && down.is_ejected(a) && !down.is_ejected(b));
        assert!(!down.is_failing(a, 7) && !down.is_ejected_for(a, 7));
        down.publish(of(b, None), [(a, 7)].into_iter());
        assert!(!down.is_ejected(a) && down.is_ejected(b));
        assert!(down.is_failing(a, 7) && !down.is_failing(a, 8) && !down.is_failing(b, 7));
        down.publish(of(a, Some(7)), none());
        assert!(!down.is_empty() && !down.is_ejected(a) && down.is_ejected_for(a, 7));
        assert!(!down.is_ejected_for(a, 8) && !down.is_ejected_for(b, 7));
        down.publish(std::iter::empty(), [(b, 7)].into_iter());
        assert!(!down.is_empty() && !down.is_ejected_for(a, 7) && down.is_failing(b, 7));
        down.publish(std::iter::empty(), none());
        assert!(down.is_empty() && !down.is_failing(b, 7));
    }
}
