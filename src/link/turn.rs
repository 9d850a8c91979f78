//! Positions of `round_robin`: one for each rule, which all shards share, so that requests take
//! turns whichever shard they arrive on. Only rules with that algorithm have a position, so other
//! requests touch no shared word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::registry::Registry;
use crate::limits;

/// Position of one rule: a random start plus the number of requests that had a turn.
pub(crate) struct Turn(AtomicU64);

impl Turn {
    /// Moves on to the next position, for a request that begins.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Returns the last position again, for another attempt of a request: that is no turn of its
    /// own.
    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Positions of all rules with `round_robin`, by the key of the rule. Edits of a rule do not change
/// its key.
#[derive(Default)]
pub(crate) struct Turns(Registry<u64, Turn>);

impl Turns {
    /// Returns the position of the rule with this key; a new position begins at `start`.
    pub(crate) fn get(&self, rule: u64, start: u64) -> Arc<Turn> {
        // If no shard remembers a rule, its position starts anew, which does no harm.
        self.0.get(rule, limits::TURNS_MAX, || Turn(AtomicU64::new(start)), |_| false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_a_turn() {
        let turns = Turns::default();
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let each = || {
                let turn = turns.get(7, 100);
                (0..1000).map(|_| turn.next()).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(each)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        taken.sort_unstable();
        assert_eq!(taken, (101..=4100).collect::<Vec<u64>>());
        assert_eq!(turns.get(7, 0).current(), 4100);
    }
}
