//! Counters that one shard alone writes and anybody may read: no locked instruction, no shared line.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a shard counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Counter {
    /// Client connections accepted.
    Accepted,
    /// Client connections turned away for want of room or descriptors.
    Shed,
    /// Client connections open now.
    Open,
    /// Requests whose head was complete and accepted.
    Requests,
    /// Heads and bodies refused.
    Refused,
    /// Connections opened to backends.
    Connects,
    /// Requests sent on an idle connection.
    Reused,
    /// Attempts to connect that failed.
    ConnectFailures,
    /// Requests sent once more because the idle connection turned out dead.
    Retries,
    /// Tasks that panicked and were caught.
    Panics,
}

const COUNTERS: usize = Counter::Panics as usize + 1;

/// Aligned so that no two shards' counters share a cache line (pairs are prefetched: 128).
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters([AtomicU64; COUNTERS]);

impl Counters {
    /// By the owning shard only: a load and a store, not a locked add.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, counter: Counter, n: u64) {
        self.add(counter, n.wrapping_neg());
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}
