//! A limit that holds across all shards: on the connections to one backend, or on the open requests
//! of one rule.
//!
//! The gate of a backend counts its open connections. Idle ones count too, because a backend that
//! serves one connection at a time is also busy with an idle keep-alive connection. A shard that
//! finds the gate full notes that it waits, and is woken when a connection closes; shards with idle
//! connections are asked to close one. Only rules with `max_connections` or `max_open_requests` use
//! gates, so other requests never come here.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::registry::Registry;
use super::{Shares, Waker};
use crate::limits;

/// Counter of the connections to one backend, or of the open requests of one rule.
pub(crate) struct Gate {
    open: AtomicU32,
    /// Permits that the daemon before this one still has, while this one takes over.
    elder: AtomicU32,
    /// The shards that have requests waiting.
    waiting: ShardSet,
    /// The shards that have idle connections.
    idle: ShardSet,
    /// Wakers of the shards, by index.
    wakers: Arc<[Waker]>,
    shares: Arc<Shares>,
}

/// A set of shards, with one bit for each shard. Each shard adds and removes only itself.
struct ShardSet {
    words: Box<[AtomicU64]>,
}

impl ShardSet {
    fn new(shards: usize) -> ShardSet {
        ShardSet { words: (0..shards.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    fn set(&self, shard: usize, is_in: bool) {
        let (word, bit) = (&self.words[shard / 64], 1 << (shard % 64));
        match is_in {
            true => word.fetch_or(bit, Ordering::SeqCst),
            false => word.fetch_and(!bit, Ordering::SeqCst),
        };
    }

    fn contains(&self, shard: usize) -> bool {
        self.words[shard / 64].load(Ordering::SeqCst) & (1 << (shard % 64)) != 0
    }

    /// Whether any shard is in the set.
    fn is_used(&self) -> bool {
        self.words.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Whether a shard other than `shard` is in the set.
    fn has_others(&self, shard: usize) -> bool {
        self.words.iter().enumerate().any(|(index, word)| {
            let own = if index == shard / 64 { 1 << (shard % 64) } else { 0 };
            word.load(Ordering::SeqCst) & !own != 0
        })
    }
}

impl Gate {
    fn new(wakers: Arc<[Waker]>, shares: Arc<Shares>) -> Gate {
        let shards = wakers.len();
        Gate {
            open: AtomicU32::new(0),
            elder: AtomicU32::new(0),
            waiting: ShardSet::new(shards),
            idle: ShardSet::new(shards),
            wakers,
            shares,
        }
    }

    /// Whether `limit` permits are taken.
    fn is_full(&self, limit: u32) -> bool {
        let open = self.open.load(Ordering::Acquire);
        self.shares.of(limit) <= open.saturating_add(self.elder.load(Ordering::Acquire))
    }

    /// Takes a permit if fewer than `limit` are taken.
    pub(crate) fn enter(&self, limit: u32) -> bool {
        let limit = self.shares.of(limit);
        let elder = self.elder.load(Ordering::Acquire);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open.saturating_add(elder) < limit).then_some(open + 1)
            })
            .is_ok()
    }

    pub(crate) fn set_waiting(&self, shard: usize, waits: bool) {
        self.waiting.set(shard, waits);
    }

    pub(crate) fn set_idle(&self, shard: usize, has: bool) {
        self.idle.set(shard, has);
    }

    /// Whether a shard other than `shard` waits.
    pub(crate) fn others_wait(&self, shard: usize) -> bool {
        self.waiting.has_others(shard)
    }

    /// Gives a permit back and wakes the next waiting shard after `shard`, so that shards take
    /// turns.
    pub(crate) fn leave(&self, shard: usize) {
        let open = self.open.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(open, 0, "a permit that was not taken");
        self.wake_next(shard);
    }

    fn wake_next(&self, shard: usize) {
        if let Some(next) = self.next_waiting(shard) {
            self.wakers[next].wake();
        }
    }

    /// Asks the other shards that keep idle connections to close one.
    pub(crate) fn ask_for_idle(&self, shard: usize) {
        for (index, waker) in self.wakers.iter().enumerate() {
            if index != shard && self.idle.contains(index) {
                waker.wake();
            }
        }
    }

    /// Returns the first waiting shard after `shard`, in a circle; `shard` itself comes last.
    fn next_waiting(&self, shard: usize) -> Option<usize> {
        let shards = self.wakers.len();
        (1..=shards).map(|step| (shard + step) % shards).find(|next| self.waiting.contains(*next))
    }
}

/// All gates: those of backends by address, or those of rules by key.
pub(crate) struct Gates<K> {
    gates: Registry<K, Gate>,
    wakers: Arc<[Waker]>,
    shares: Arc<Shares>,
}

impl<K: Copy + Eq + Hash> Gates<K> {
    pub(super) fn new(wakers: Arc<[Waker]>, shares: Arc<Shares>) -> Gates<K> {
        Gates { gates: Registry::default(), wakers, shares }
    }

    pub(crate) fn get(&self, owner: K) -> Arc<Gate> {
        let new = || Gate::new(self.wakers.clone(), self.shares.clone());
        // A gate of which the daemon before still has permits must be kept, so that they count.
        let has_elder = |gate: &Gate| gate.elder.load(Ordering::Acquire) != 0;
        self.gates.get(owner, limits::GATES_KEPT, new, has_elder)
    }

    /// Whether one more request for a permit of `owner` would have to wait. Makes no gate.
    pub(crate) fn is_full(&self, owner: K, limit: u32) -> bool {
        self.gates.lock().get(&owner).is_some_and(|gate| gate.is_full(limit))
    }

    /// Counts the permits taken at each gate, for a daemon that takes over. A gate at which
    /// requests wait counts as at least one.
    pub(crate) fn taken(&self) -> Vec<(K, u32)> {
        let gates = self.gates.lock();
        let taken = gates.iter().map(|(owner, gate)| {
            let waits = u32::from(gate.waiting.is_used());
            (*owner, gate.open.load(Ordering::Acquire).max(waits))
        });
        taken.filter(|(_, taken)| *taken != 0).collect()
    }

    /// Sets the permits that the daemon before has taken at these gates. At all other gates it has
    /// none.
    pub(crate) fn set_elder(&self, taken: &HashMap<K, u32>) {
        // The limit also holds for backends and rules that no shard has met yet, so their gates are
        // made here. A gate with permits is kept.
        let kept: Vec<Arc<Gate>> = taken.keys().map(|owner| self.get(*owner)).collect();
        for (owner, gate) in self.gates.lock().iter() {
            let now = taken.get(owner).copied().unwrap_or(0);
            if now < gate.elder.swap(now, Ordering::AcqRel) {
                gate.wake_next(0);
            }
        }
        drop(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(shards: usize) -> Gate {
        // All shards share one eventfd: the test only asks which shard would be woken.
        let waker = Waker::new().expect("an eventfd");
        Gate::new(vec![waker; shards].into(), Arc::default())
    }

    #[test]
    fn shards_that_share_a_bit_modulo_64_are_told_apart() {
        for shards in [65, 128, limits::SHARDS_MAX] {
            let gate = gate(shards);
            gate.set_waiting(0, true);
            gate.set_waiting(64, true);
            assert!(gate.others_wait(0), "shard 64 waits, of {shards}");
            gate.set_waiting(0, false);
            assert!(gate.others_wait(0) && !gate.others_wait(64));
            assert_eq!(gate.next_waiting(0), Some(64));
            assert_eq!(gate.next_waiting(64), Some(64));
            gate.set_waiting(64, false);
            assert_eq!(gate.next_waiting(0), None);
            gate.set_idle(shards - 1, true);
            assert!(gate.idle.contains(shards - 1) && !gate.idle.contains(0));
        }
    }

    #[test]
    fn waiting_shards_have_their_turn_one_after_the_other() {
        let gate = gate(200);
        let waiting = [3, 67, 131, 195];
        for shard in waiting {
            gate.set_waiting(shard, true);
        }
        for (at, shard) in waiting.iter().enumerate() {
            assert_eq!(gate.next_waiting(*shard), Some(waiting[(at + 1) % 4]));
        }
    }

    #[test]
    fn gate_of_the_daemon_before_is_not_forgotten() {
        let waker = Waker::new().expect("an eventfd");
        let gates = Gates::new([waker].into(), Arc::default());
        gates.set_elder(&[(7, 1)].into());
        (100..100 + 2 * limits::GATES_KEPT as u64).for_each(|owner| drop(gates.get(owner)));
        assert!(!gates.get(7).enter(1), "its one permit is taken");
        assert!(gates.get(100).enter(1));
    }

    #[test]
    fn places_are_counted() {
        let gate = gate(1);
        assert!(gate.enter(2) && gate.enter(2) && !gate.enter(2));
        gate.leave(0);
        assert!(gate.enter(2) && !gate.enter(2));
    }
}
