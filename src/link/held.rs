//! Messages between a shard and control about held requests. A held request stays on its shard;
//! control knows only that the request waits, for what, and since when, and says when it may go on.
//!
//! Neither side waits for the other. The queues need no bound of their own: a connection has at
//! most one held request, and the number of connections is bounded.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::slots::{ByKey, KeyHasher};
use crate::table::Scheme;

/// Number of a held request, unique on its shard and never used twice.
pub(crate) type Ticket = u64;
/// Position in the order in which requests began to wait, on all shards.
pub(crate) type Rank = u64;
/// Rank of the first request that this process has held. The requests that it took over rank
/// before: their ranks are smaller by the time they have waited, in nanoseconds.
pub(crate) const RANK_FIRST: Rank = 1 << 62;

/// Reason for which a request is held.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum HoldReason {
    /// The rule of the request has the action `spin`.
    Spin,
    /// No backend of its rule can be reached, and the rule has `hold`.
    NoBackend,
    /// The backends of its rule did not serve the request: no response came, or no connection was
    /// opened within the rule's own timeout. They may still serve other rules. The rule has `hold`.
    Unserved,
    /// Other requests already wait for the same rule, so the request queues behind them.
    Behind,
}

/// Report that a request waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Waits {
    pub(crate) shard: usize,
    pub(crate) ticket: Ticket,
    pub(crate) why: HoldReason,
    /// Rank that the request had, if it was released before and has to wait again.
    pub(crate) place: Option<Rank>,
    /// Host of the request, in canonical form.
    pub(crate) host: Box<str>,
    pub(crate) scheme: Scheme,
    pub(crate) source: IpAddr,
}

/// Report of a shard about a held request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    Waits(Waits),
    /// The request waits no more: its client left, or its time was up.
    Left {
        shard: usize,
        ticket: Ticket,
    },
}

/// Decision of control about a held request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// The request is released and routed by the table as it is now.
    Go(Rank),
    /// The request is refused because the limit on held requests is reached.
    Full,
}

/// Rules and hosts at which requests already wait, so that a new request must queue behind them;
/// and how long it may wait. Nearly always empty. Only control replaces the map; shards read it.
#[derive(Default)]
pub(crate) struct Lines {
    any: AtomicBool,
    waits: ArcSwap<HashMap<u64, Duration, BuildHasherDefault<KeyHasher>>>,
}

impl Lines {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Control publishes the lines before the table that needs them, and the table with a
        // release. So a request that is routed by that table sees its lines.
        !self.any.load(Ordering::Acquire)
    }

    /// How long a request under one of these keys may wait behind others; `None`: no others wait.
    pub(crate) fn wait(&self, keys: &[u64]) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        let waits = self.waits.load();
        keys.iter().find_map(|key| waits.get(key).copied())
    }

    /// Replaces all lines. Only control may call this.
    pub(crate) fn publish(&self, waits: ByKey<Duration>) {
        let any = !waits.is_empty();
        self.waits.store(Arc::new(waits));
        self.any.store(any, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_all_there_is() {
        let lines = Lines::default();
        assert!(lines.is_empty() && lines.wait(&[1]).is_none());
        let second = Duration::from_secs(1);
        lines.publish([(7, second)].into_iter().collect());
        assert_eq!((lines.wait(&[1, 7]), lines.wait(&[1, 2])), (Some(second), None));
        lines.publish(ByKey::default());
        assert!(lines.is_empty() && lines.wait(&[7]).is_none());
    }
}
