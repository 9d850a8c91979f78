//! A limit on the connections to one backend that holds across all shards.
//!
//! A gate counts the connections that are open, idle ones included: a backend with one worker is busy
//! with an idle keep-alive connection too. A shard that finds it shut notes that it waits and is woken
//! when a connection closes; shards that keep idle ones are asked to let go of them. Only rules with
//! `max_connections` use gates: nothing here is on anybody else's path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Shares, Waker};

/// The connections to one backend.
#[derive(Default)]
pub(crate) struct Gate {
    open: AtomicU32,
    /// One bit per shard (modulo 64) that has requests waiting.
    waiting: AtomicU64,
    /// One bit per shard that has idle connections.
    idle: AtomicU64,
    shares: Arc<Shares>,
}

fn bit(shard: usize) -> u64 {
    1 << (shard % 64)
}

impl Gate {
    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn enter(&self, limit: u32) -> bool {
        let limit = self.shares.of(limit);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < limit).then_some(open + 1)
            })
            .is_ok()
    }

    pub(crate) fn set_waiting(&self, shard: usize, waits: bool) {
        match waits {
            true => self.waiting.fetch_or(bit(shard), Ordering::SeqCst),
            false => self.waiting.fetch_and(!bit(shard), Ordering::SeqCst),
        };
    }

    pub(crate) fn set_idle(&self, shard: usize, has: bool) {
        match has {
            true => self.idle.fetch_or(bit(shard), Ordering::SeqCst),
            false => self.idle.fetch_and(!bit(shard), Ordering::SeqCst),
        };
    }

    /// Whether a shard other than `shard` waits.
    pub(crate) fn others_wait(&self, shard: usize) -> bool {
        self.waiting.load(Ordering::SeqCst) & !bit(shard) != 0
    }
}

/// Every gate there is. The lock is taken when a shard meets a limited backend for the first time.
pub(crate) struct Gates {
    gates: Mutex<HashMap<SocketAddr, Arc<Gate>>>,
    wakers: Vec<Waker>,
    shares: Arc<Shares>,
}

impl Gates {
    pub(super) fn new(wakers: Vec<Waker>, shares: Arc<Shares>) -> Gates {
        Gates { gates: Mutex::default(), wakers, shares }
    }

    pub(crate) fn get(&self, backend: SocketAddr) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() >= 1024 && !gates.contains_key(&backend) {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        let new = || Arc::new(Gate { shares: self.shares.clone(), ..Gate::default() });
        gates.entry(backend).or_insert_with(new).clone()
    }

    /// Gives a place back and wakes the next shard that waits, in turn after `shard`.
    pub(crate) fn leave(&self, gate: &Gate, shard: usize) {
        gate.open.fetch_sub(1, Ordering::AcqRel);
        self.wake_next(gate.waiting.load(Ordering::SeqCst), shard);
    }

    /// Asks the shards that keep idle connections to let one go.
    pub(crate) fn ask_for_idle(&self, gate: &Gate, shard: usize) {
        let idle = gate.idle.load(Ordering::SeqCst) & !bit(shard);
        for (index, waker) in self.wakers.iter().enumerate() {
            if idle & bit(index) != 0 {
                waker.wake();
            }
        }
    }

    fn wake_next(&self, waiting: u64, shard: usize) {
        if waiting == 0 {
            return;
        }
        let shards = self.wakers.len();
        let next = (1..=shards).map(|step| (shard + step) % shards);
        if let Some(index) = next.into_iter().find(|index| waiting & bit(*index) != 0) {
            self.wakers[index].wake();
        }
    }
}
