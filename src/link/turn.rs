//! The positions of `round_robin`, one for each rule and for all shards together: connections land
//! on any shard, and their clients are still to take turns. Only rules with that algorithm have
//! one, so the word that shards share is on no other request's path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::registry::Registry;
use crate::limits;

/// The position of one rule: how many requests had a turn, from a start by chance.
pub(crate) struct Turn(AtomicU64);

impl Turn {
    /// The next position, for a request that begins.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// The position that was given last: another attempt of a request is no turn of its own.
    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The positions of all rules that take turns, by the key of the rule, which edits leave as it is.
#[derive(Default)]
pub(crate) struct Turns(Registry<u64, Turn>);

impl Turns {
    /// The position of the rule with this key; a new one begins at `start`.
    pub(crate) fn get(&self, rule: u64, start: u64) -> Arc<Turn> {
        // A rule that no shard remembers starts anew, which does no harm.
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
