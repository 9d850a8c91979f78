//! The limit on the requests of a rule that are open at its backends, of all shards together: the
//! permits of this shard's requests, and the lines of those that wait for one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Shard;
use super::client::Waiter;
use super::ending::Ending;
use super::phase::Phase;
use super::request::RequestTicket;
use super::waiting::{WaitingLine, woken};
use crate::link::{ByKey, Gate, Shed, SlotTime};
use crate::ring::{Deadline, EndCounts, Notify};

/// Rules with `max_open_requests` that have requests here.
#[derive(Default)]
pub(super) struct OpenRequests {
    rules: RefCell<ByKey<LimitedRule>>,
}

/// Rule with `max_open_requests`: its gate, its line, and the permits that are out.
struct LimitedRule {
    gate: Arc<Gate>,
    /// Requests that wait for a permit.
    waiting: WaitingLine,
    /// Permits that requests of this shard have.
    permits: u32,
}

/// The right of one request to be open at a backend.
pub(super) struct OpenPermit {
    shard: Rc<Shard>,
    rule: u64,
    gate: Arc<Gate>,
}

impl Drop for OpenPermit {
    fn drop(&mut self) {
        if let Some(limited) = self.shard.open_requests.rules.borrow_mut().get_mut(&self.rule) {
            limited.permits -= 1;
        }
        self.shard.end.together.rule_gates.leave(&self.gate, self.shard.end.index);
    }
}

/// Demand of a request for a permit.
#[derive(Copy, Clone)]
pub(super) struct Entry {
    pub(super) ticket: RequestTicket,
    /// How long it may wait.
    pub(super) patience: Duration,
    /// End of the client that counts as leaving.
    pub(super) ends: EndCounts,
}

/// Waits until a rule with this limit allows one more open request. The request has its permit
/// until it is given back, at its end at the latest.
pub(super) async fn enter(
    mut waiter: Waiter<'_>,
    limit: NonZeroU32,
    entry: Entry,
) -> Result<(), Ending> {
    let shard = waiter.shard;
    let (rule, limit) = (shard.rule_of(entry.ticket), limit.get());
    if let Some(permit) = shard.open_requests.enter(shard, rule, limit) {
        shard.keep_permit(entry.ticket, permit);
        return Ok(());
    }
    waiter.begin(Phase::Queueing);
    let mut wait = pin!(wait(shard, rule, limit, entry));
    let permit = poll_fn(|cx| match wait.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending if waiter.stream.poll_left(cx, entry.ends) => {
            Poll::Ready(Err(Ending::ClientGone))
        }
        Poll::Pending => Poll::Pending,
    });
    shard.keep_permit(entry.ticket, permit.await?);
    Ok(())
}

/// Waits in line for a permit.
async fn wait(
    shard: &Rc<Shard>,
    rule: u64,
    limit: u32,
    entry: Entry,
) -> Result<Box<OpenPermit>, Ending> {
    let turn = Rc::new(Notify::new(&shard.ring));
    let line = PlaceInLine { shard: shard.clone(), rule, turn: turn.clone() };
    let gate = shard.open_requests.with(shard, rule, |limited| {
        limited.waiting.join(&turn);
        limited.gate.clone()
    });
    gate.set_waiting(shard.end.index, true);
    // A permit may have been given back between the attempt before and the note that we wait.
    turn.notify();
    let deadline = Deadline::new(&shard.ring);
    deadline.set(entry.patience);
    let since = shard.ring.now();
    let permit = loop {
        if !woken(&turn, &deadline).await {
            break None;
        }
        let is_first =
            shard.open_requests.with(shard, rule, |limited| limited.waiting.is_first(&turn));
        if is_first && gate.enter(limit) {
            break Some(shard.open_requests.permit(shard, rule, gate));
        }
    };
    drop(line);
    let waited = shard.ring.now().saturating_duration_since(since);
    shard.count_wait(entry.ticket, SlotTime::Queue, waited);
    permit.ok_or_else(|| {
        shard.end.counters().add_shed(Shed::Queue);
        Ending::BackendQueue
    })
}

impl OpenRequests {
    fn with<T>(&self, shard: &Shard, rule: u64, act: impl FnOnce(&mut LimitedRule) -> T) -> T {
        let mut rules = self.rules.borrow_mut();
        act(rules.entry(rule).or_insert_with(|| LimitedRule {
            gate: shard.end.together.rule_gates.get(rule),
            waiting: WaitingLine::default(),
            permits: 0,
        }))
    }

    /// Takes a permit, if nobody waits for one here and one is left.
    fn enter(&self, shard: &Rc<Shard>, rule: u64, limit: u32) -> Option<Box<OpenPermit>> {
        let gate = self.with(shard, rule, |limited| {
            limited.waiting.is_empty().then(|| limited.gate.clone())
        })?;
        gate.enter(limit).then(|| self.permit(shard, rule, gate))
    }

    fn permit(&self, shard: &Rc<Shard>, rule: u64, gate: Arc<Gate>) -> Box<OpenPermit> {
        self.with(shard, rule, |limited| limited.permits += 1);
        Box::new(OpenPermit { shard: shard.clone(), rule, gate })
    }

    /// Has those look that are first in line: another shard gave a permit back.
    pub(super) fn attend(&self) {
        self.rules.borrow().values().for_each(|limited| limited.waiting.wake_first());
    }

    /// Forgets rules without any use; returns how many requests wait.
    pub(super) fn sweep(&self) -> usize {
        let mut waiting = 0;
        self.rules.borrow_mut().retain(|_, limited| {
            waiting += limited.waiting.len();
            limited.permits != 0 || !limited.waiting.is_empty()
        });
        waiting
    }
}

/// A position in a rule's line; leaving it wakes the next.
struct PlaceInLine {
    shard: Rc<Shard>,
    rule: u64,
    turn: Rc<Notify>,
}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        self.shard.open_requests.with(&self.shard, self.rule, |limited| {
            limited.waiting.leave(&self.turn);
            if limited.waiting.is_empty() {
                limited.gate.set_waiting(self.shard.end.index, false);
            }
            limited.waiting.wake_first();
        });
    }
}
