//! Deadlines: one coarse clock and one hashed wheel per shard, instead of a kernel timer for each
//! operation.
//!
//! A deadline is a node in a wheel of 16 ms slots. Moving it later, as nearly every request does,
//! only writes the new time: the node is moved when its old slot comes round. Moving it earlier
//! relinks it. Deadlines beyond one turn of the wheel (65 s) stay in their slot and are passed
//! over. Precision is one slot: always late, never early.

use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::tasks::register;
use super::{Inner, Ring};

const SLOT_MS: u64 = 16;
const SLOTS: usize = 4096;
const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

struct Node {
    /// Time at which the deadline is due, in ms since the wheel began; `NEVER` when not set.
    due: u64,
    /// The slot in which the node is linked, or `NONE`.
    slot: u32,
    next: u32,
    previous: u32,
    fired: bool,
    waker: Option<Waker>,
}

pub(super) struct Wheel {
    epoch: Instant,
    /// The next tick (in slots since the epoch) to look at.
    tick: u64,
    heads: Box<[u32]>,
    /// One bit per slot that holds a node.
    occupied: [u64; SLOTS / 64],
    nodes: Slab<Node>,
}

impl Wheel {
    pub(super) fn new(now: Instant) -> Wheel {
        Wheel {
            epoch: now,
            tick: 0,
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            occupied: [0; SLOTS / 64],
            nodes: Slab::new(),
        }
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn link(&mut self, index: u32) {
        let due_tick = self.nodes[index as usize].due.div_ceil(SLOT_MS).max(self.tick);
        let slot = (due_tick % SLOTS as u64) as u32;
        let head = std::mem::replace(&mut self.heads[slot as usize], index);
        let node = &mut self.nodes[index as usize];
        node.slot = slot;
        node.previous = NONE;
        node.next = head;
        if head != NONE {
            self.nodes[head as usize].previous = index;
        }
        self.occupied[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn unlink(&mut self, index: u32) {
        let Node { slot, next, previous, .. } = self.nodes[index as usize];
        if slot == NONE {
            return;
        }
        if previous == NONE {
            self.heads[slot as usize] = next;
            if next == NONE {
                self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
            }
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        self.nodes[index as usize].slot = NONE;
    }

    fn set(&mut self, index: u32, due: u64) {
        let node = &mut self.nodes[index as usize];
        node.fired = false;
        let earlier = due < node.due;
        node.due = due;
        if node.slot == NONE {
            if due != NEVER {
                self.link(index);
            }
        } else if earlier {
            self.unlink(index);
            self.link(index);
        }
    }

    /// Fires the deadlines that are due at `now`; returns whether a task was woken.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let now_tick = now_ms / SLOT_MS;
        let mut woken = false;
        // After a long sleep one full turn visits every slot once.
        if self.tick + (SLOTS as u64) < now_tick {
            self.tick = now_tick - SLOTS as u64;
        }
        while self.tick <= now_tick {
            let slot = (self.tick % SLOTS as u64) as usize;
            self.tick += 1;
            if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            let mut index = self.heads[slot];
            while index != NONE {
                let node = &self.nodes[index as usize];
                let (next, due) = (node.next, node.due);
                if due <= now_ms {
                    self.unlink(index);
                    let node = &mut self.nodes[index as usize];
                    node.due = NEVER;
                    node.fired = true;
                    if let Some(waker) = node.waker.take() {
                        woken = true;
                        waker.wake();
                    }
                } else {
                    self.unlink(index);
                    if due != NEVER {
                        self.link(index);
                    }
                }
                index = next;
            }
        }
        woken
    }

    /// How long the driver may sleep; `None` when no deadline is set.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        let start = (self.tick % SLOTS as u64) as usize;
        let words = self.occupied.len();
        for step in 0..=words {
            let word_index = (start / 64 + step) % words;
            let mut word = self.occupied[word_index];
            if step == 0 {
                word &= !0 << (start % 64);
            } else if step == words {
                word &= !(!0 << (start % 64));
            }
            if word != 0 {
                let slot = word_index * 64 + word.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                let at = (self.tick + ahead as u64) * SLOT_MS;
                return Some(Duration::from_millis(at.saturating_sub(self.ms(now)) + 1));
            }
        }
        None
    }
}

impl Inner {
    /// Milliseconds since the wheel began, by the shard's clock.
    pub(super) fn wheel_millis(&self) -> u64 {
        self.wheel.ms(self.now)
    }

    pub(super) fn wheel_turn(&mut self) -> bool {
        let now = self.now;
        self.wheel.advance(now)
    }
}

/// A deadline that a task can set, move and wait under. Owned by one task.
pub(crate) struct Deadline {
    ring: Rc<Ring>,
    node: u32,
}

impl Deadline {
    pub(crate) fn new(ring: &Rc<Ring>) -> Deadline {
        let mut inner = ring.inner.borrow_mut();
        let node = inner.wheel.nodes.insert(Node {
            due: NEVER,
            slot: NONE,
            next: NONE,
            previous: NONE,
            fired: false,
            waker: None,
        });
        Deadline { ring: ring.clone(), node: node as u32 }
    }

    /// Makes the deadline due `after` from now, by the shard's clock.
    pub(crate) fn set(&self, after: Duration) {
        let mut inner = self.ring.inner.borrow_mut();
        let due = inner.wheel.ms(inner.now) + after.as_millis().min(u128::from(u32::MAX)) as u64;
        inner.wheel.set(self.node, due);
    }

    /// Makes the deadline never due, until it is set again.
    pub(crate) fn clear(&self) {
        self.ring.inner.borrow_mut().wheel.set(self.node, NEVER);
    }

    /// Whether the deadline has come; if not, `cx` is woken when it does.
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.ring.inner.borrow_mut();
        let node = &mut inner.wheel.nodes[self.node as usize];
        if node.fired {
            return true;
        }
        register(&mut node.waker, cx);
        false
    }

    /// Waits until the deadline comes.
    pub(crate) async fn expired(&self) {
        std::future::poll_fn(|cx| {
            if self.poll_expired(cx) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        inner.wheel.unlink(self.node);
        inner.wheel.nodes.remove(self.node as usize);
    }
}
