//! The limit on the requests of a rule that are open at its backends, across all shards.

use std::cell::RefCell;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::Shard;
use super::backend::Asking;
use super::client::Waiter;
use super::ending::Ending;
use super::phase::Phase;
use super::waiting::{Line, Permit};
use crate::link::{ByKey, Shed, SlotTime};
use crate::ring::Deadline;

/// Rules with `max_open_requests` that have requests here.
#[derive(Default)]
pub(super) struct OpenRequests {
    rules: RefCell<ByKey<Rc<Line>>>,
}

/// Waits until a rule with this limit allows one more open request. The request keeps its permit
/// until it gives it back, at its end at the latest.
pub(super) async fn enter(
    mut waiter: Waiter<'_>,
    limit: NonZeroU32,
    asking: Asking<'_>,
) -> Result<(), Ending> {
    let (shard, limit) = (waiter.shard, limit.get());
    let line = shard.open_requests.line(shard, shard.rule_of(asking.ticket));
    let permit = match line.enter(limit) {
        Some(permit) => permit,
        None => {
            waiter.begin(Phase::Queueing);
            let mut wait = pin!(wait(shard, &line, limit, asking));
            let permit = poll_fn(|cx| match wait.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending if waiter.stream.poll_left(cx, asking.ends) => {
                    Poll::Ready(Err(Ending::ClientGone))
                }
                Poll::Pending => Poll::Pending,
            });
            permit.await?
        }
    };
    shard.keep_permit(asking.ticket, permit);
    Ok(())
}

/// Waits in line for a permit.
async fn wait(
    shard: &Shard,
    line: &Line,
    limit: u32,
    asking: Asking<'_>,
) -> Result<Permit, Ending> {
    let deadline = Deadline::new(&shard.ring);
    deadline.set(asking.patience);
    let since = shard.ring.now();
    let permit = line.wait(shard, &deadline, || line.permit(limit)).await;
    shard.count_wait(asking.ticket, SlotTime::Queue, shard.time_since(since));
    permit.ok_or_else(|| {
        shard.end.counters().add_shed(Shed::Queue);
        Ending::BackendQueue
    })
}

impl OpenRequests {
    /// The line of the rule with this key.
    fn line(&self, shard: &Shard, rule: u64) -> Rc<Line> {
        let mut rules = self.rules.borrow_mut();
        let new = || Line::new(shard, shard.end.together.rule_gates.get(rule));
        rules.entry(rule).or_insert_with(new).clone()
    }

    /// Wakes the first request in each line: another shard gave a permit back.
    pub(super) fn attend(&self) {
        self.rules.borrow().values().for_each(|line| line.wake_first());
    }

    /// Forgets rules that are no longer used; returns how many requests wait.
    pub(super) fn sweep(&self) -> usize {
        let mut rules = self.rules.borrow_mut();
        rules.retain(|_, line| line.is_used());
        rules.values().map(|line| line.len()).sum()
    }
}
