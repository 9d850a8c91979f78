//! Gates as a shard's requests meet them: permits, and the line before a gate that is shut. First
//! come, first served, and only the first in line is woken.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::Shard;
use crate::link::Gate;
use crate::ring::{Deadline, Notify};

/// The right to one of the connections, or of the open requests, that a gate allows.
pub(super) struct Permit {
    gate: Arc<Gate>,
    shard: usize,
}

impl Permit {
    /// Whether another shard waits for one.
    pub(super) fn is_wanted(&self) -> bool {
        self.gate.others_wait(self.shard)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(self.shard);
    }
}

/// A gate, and the requests of this shard that wait before it.
pub(super) struct Line {
    pub(super) gate: Arc<Gate>,
    shard: usize,
    /// Wake-up of each request.
    waiting: RefCell<VecDeque<Rc<Notify>>>,
}

impl Line {
    pub(super) fn new(shard: &Shard, gate: Arc<Gate>) -> Rc<Line> {
        Rc::new(Line { gate, shard: shard.end.index, waiting: RefCell::default() })
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether requests wait before the gate, or a permit or another shard still refers to it.
    pub(super) fn is_used(&self) -> bool {
        0 < self.len() || 2 < Arc::strong_count(&self.gate)
    }

    pub(super) fn wake_first(&self) {
        if let Some(first) = self.waiting.borrow().front() {
            first.notify();
        }
    }

    /// Takes a permit, if no request waits for one here and fewer than `limit` are taken.
    pub(super) fn enter(&self, limit: u32) -> Option<Permit> {
        if self.len() == 0 { self.permit(limit) } else { None }
    }

    /// Takes a permit for the first in line, if fewer than `limit` are taken.
    pub(super) fn permit(&self, limit: u32) -> Option<Permit> {
        let is_open = self.gate.enter(limit);
        is_open.then(|| Permit { gate: self.gate.clone(), shard: self.shard })
    }

    /// Waits in line until the request is first and `take` succeeds. `None`: `deadline` came first.
    pub(super) async fn wait<T>(
        &self,
        shard: &Shard,
        deadline: &Deadline,
        take: impl Fn() -> Option<T>,
    ) -> Option<T> {
        let place = Place { line: self, turn: Rc::new(Notify::new(&shard.ring)) };
        self.waiting.borrow_mut().push_back(place.turn.clone());
        self.gate.set_waiting(self.shard, true);
        // A permit may have been given back between the last attempt and the note that we wait.
        place.turn.notify();
        poll_fn(|cx| {
            while place.turn.poll_notified(cx).is_ready() {
                if place.is_first()
                    && let Some(taken) = take()
                {
                    return Poll::Ready(Some(taken));
                }
            }
            if deadline.poll_expired(cx) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

/// A request's place in line; leaving it wakes the next.
struct Place<'a> {
    line: &'a Line,
    turn: Rc<Notify>,
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        self.line.waiting.borrow().front().is_some_and(|first| Rc::ptr_eq(first, &self.turn))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // The request that leaves is nearly always the first: ten thousand may leave one after the
        // other.
        let is_first = self.is_first();
        let mut waiting = self.line.waiting.borrow_mut();
        if is_first {
            waiting.pop_front();
        } else {
            waiting.retain(|other| !Rc::ptr_eq(other, &self.turn));
        }
        if waiting.is_empty() {
            self.line.gate.set_waiting(self.line.shard, false);
        }
        drop(waiting);
        self.line.wake_first();
    }
}
