//! The question whether a rule still has requests under way at backends that were removed from it.
//! Each shard answers for itself, and again whenever its count changes. Control waits until no
//! shard has any.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Waker;

use crate::address::Address;

/// Mark of a shard that has not answered yet.
const UNKNOWN: u32 = u32::MAX;

/// A question about requests under way.
pub(crate) struct Drain {
    /// The key of the rule.
    pub(crate) rule: u64,
    /// Backends that were removed from the rule.
    pub(crate) backends: Vec<Address>,
    /// Whether the change was made in the daemon that has taken over. Then this daemon still has
    /// the rule as it was before the change.
    pub(crate) is_elsewhere: bool,
    /// Counts of each shard: its requests under way at each backend, then its requests that were
    /// routed by the old rule and have no backend yet.
    under_way: Vec<AtomicU32>,
    waker: Waker,
}

impl Drain {
    pub(crate) fn new(rule: u64, backends: Vec<Address>, shards: usize) -> io::Result<Drain> {
        let under_way = (0..shards * (backends.len() + 1)).map(|_| AtomicU32::new(UNKNOWN));
        let under_way = under_way.collect();
        Ok(Drain { rule, backends, is_elsewhere: false, under_way, waker: Waker::new()? })
    }

    /// Makes the question about a change that was made in the daemon that has taken over.
    pub(crate) fn elsewhere(rule: u64, backends: Vec<Address>, shards: usize) -> io::Result<Drain> {
        Ok(Drain { is_elsewhere: true, ..Drain::new(rule, backends, shards)? })
    }

    /// Notes the answer of a shard: its requests at each backend, then its requests that have no
    /// backend yet.
    pub(crate) fn answer(&self, shard: usize, counts: impl Iterator<Item = u32>) {
        let from = shard * (self.backends.len() + 1);
        debug_assert!(from < self.under_way.len(), "there is no shard {shard}");
        for (cell, count) in self.under_way[from..].iter().zip(counts) {
            cell.store(count, Ordering::SeqCst);
        }
        self.waker.wake();
    }

    /// Number of requests under way on all shards; `None` while a shard has not answered.
    pub(crate) fn left(&self) -> Option<u32> {
        let mut counts = self.under_way.iter().map(|cell| cell.load(Ordering::SeqCst));
        counts.try_fold(0_u32, |sum, count| (count != UNKNOWN).then(|| sum.saturating_add(count)))
    }

    /// Requests under way at each backend.
    pub(crate) fn left_at(&self) -> impl Iterator<Item = (Address, u32)> {
        let width = self.backends.len() + 1;
        let at = move |index: usize| -> u32 {
            let column = self.under_way.iter().skip(index).step_by(width);
            let counts = column.map(|cell| cell.load(Ordering::SeqCst));
            counts.filter(|count| *count != UNKNOWN).sum()
        };
        self.backends.iter().enumerate().map(move |(index, backend)| (*backend, at(index)))
    }

    /// A descriptor that is readable when a shard has answered.
    pub(crate) fn answered(&self) -> io::Result<OwnedFd> {
        self.waker.receiver()
    }
}
