//! How many nodes of a fleet share the limits of rules.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// Number of nodes; 1 without a fleet.
pub(crate) struct Shares(AtomicU32);

impl Default for Shares {
    fn default() -> Shares {
        Shares(AtomicU32::new(1))
    }
}

impl Shares {
    pub(crate) fn set(&self, nodes: u32) {
        self.0.store(nodes.max(1), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns this node's share of a limit, rounded up.
    pub(crate) fn of(&self, limit: u32) -> u32 {
        match self.get() {
            1 => limit,
            nodes => limit.div_ceil(nodes),
        }
    }

    /// Returns this node's share of a rate, rounded up.
    pub(crate) fn of_rate(&self, rate: NonZeroU32) -> NonZeroU32 {
        NonZeroU32::new(self.of(rate.get())).unwrap_or(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up() {
        let shares = Shares::default();
        assert_eq!(shares.of(10), 10);
        shares.set(3);
        assert_eq!((shares.of(10), shares.of(9), shares.of(1)), (4, 3, 1));
        shares.set(0);
        assert_eq!(shares.of(10), 10);
    }
}
