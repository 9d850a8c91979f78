//! Held requests: control's part of `spin` and `hold`. Shards report which requests wait; this
//! module decides in what order they go on, and when: as soon as the table, a backend or their turn
//! allows it.
//!
//! The writer calls [`Held::change_table`] with each new table. So every request that waits for the
//! new table has been let go before the reply to the change, and no later request overtakes
//! requests that are let go at a pace.

mod queue;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::health::{WantedBackend, WantedBackends};
use super::pause::until;
use crate::address::Address;
use crate::limits;
use crate::link::{ByKey, ControlEnd, Published, Report, TaggedTable};
use crate::table::{Rule, Snapshot};
use queue::{Outcome, Queue};

pub(super) use queue::{Begun, Bounds, Full, HeldRequest};

/// Handle to the queue, for the other parts of control.
#[derive(Clone)]
pub(super) struct Held {
    queue: Arc<Mutex<Queue>>,
    published: Arc<Published>,
    shards: ControlEnd,
    /// Wakes the scheduler, as there may be new turns to wait for.
    turns: Arc<Notify>,
}

impl Held {
    pub(super) fn new(bounds: Bounds, published: Arc<Published>, shards: ControlEnd) -> Held {
        let queue = Arc::new(Mutex::new(Queue::new(bounds)));
        Held { queue, published, shards, turns: Arc::default() }
    }

    /// Locks the queue and decides which requests a table lets go on. Called before the table is in
    /// force.
    pub(super) fn change_table(&self, table: &Snapshot) -> TableChange<'_> {
        let mut queue = self.lock();
        let mut outcome = Outcome::default();
        let mut lines = None;
        if !queue.is_empty() {
            queue.changed(table, Instant::now(), &mut outcome);
            lines = queue.take_lines(table);
        }
        TableChange { held: self, queue, outcome, lines }
    }

    /// Lets requests go that waited for a backend which is up again: for rules with this check, or
    /// for all rules if `check` is `None`.
    pub(super) fn reached(&self, backend: Address, check: Option<u64>) {
        let mut queue = self.lock();
        let mut outcome = Outcome::default();
        let has = |rule: &Rule| {
            let mut is_found = false;
            rule.each_address(|address| is_found |= address == backend);
            is_found && (check.is_none() || rule.check_id() == check)
        };
        queue.reached(has, Instant::now(), &mut outcome);
        let table = self.published.table_full();
        self.tell_lines(&mut queue, &table);
        drop(queue);
        self.shards.say(&outcome.said);
        self.turns.notify_one();
    }

    /// The backends that requests wait for.
    pub(super) fn wanted(&self) -> WantedBackends {
        let mut wanted = WantedBackends::new();
        let queue = self.lock();
        for (rule, key, is_unreached) in queue.without_backend() {
            let check = rule.check_id();
            rule.each_open_address(|backend| {
                wanted.insert(WantedBackend { backend, check, rule: key, is_unreached });
            });
        }
        wanted
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.lock().set_bounds(bounds);
    }

    /// How many requests may be held.
    pub(super) fn bounds(&self) -> Bounds {
        self.lock().bounds()
    }

    /// The bound that keeps one more request of this source from being held for a rule.
    pub(super) fn full(&self, source: Option<IpAddr>, rule_key: u64, rule: &Rule) -> Option<Full> {
        self.lock().full(source, rule_key, rule)
    }

    /// Moment since which the oldest request has been held.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().oldest()
    }

    /// Sets the number of nodes by which limits of rules are divided.
    pub(super) fn set_shares(&self, shares: u32) {
        self.lock().set_shares(shares);
    }

    /// The table in force.
    pub(super) fn table(&self) -> Arc<TaggedTable> {
        self.published.table_full()
    }

    /// How many requests are held for each rule.
    pub(super) fn by_name(&self) -> HashMap<Arc<str>, usize> {
        self.lock().by_name()
    }

    /// Lists at most `most` requests that are held for wanted rules, oldest first, and counts all
    /// of them.
    pub(super) fn list(
        &self,
        is_wanted: impl Fn(&str) -> bool,
        most: usize,
    ) -> (Vec<HeldRequest>, usize) {
        self.lock().list(is_wanted, most)
    }

    fn tell_lines(&self, queue: &mut Queue, table: &Snapshot) {
        if let Some(lines) = queue.take_lines(table) {
            self.published.lines.publish(lines);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table on its way into force, with the queue locked.
#[must_use = "the requests that may go on wait for `finish`"]
pub(super) struct TableChange<'h> {
    held: &'h Held,
    queue: MutexGuard<'h, Queue>,
    outcome: Outcome,
    lines: Option<ByKey<Duration>>,
}

impl TableChange<'_> {
    /// Takes the lines that shards must see before the table; `None`: they stay as they are.
    pub(super) fn take_lines(&mut self) -> Option<ByKey<Duration>> {
        self.lines.take()
    }

    /// Lets the requests go on, once the table is in force.
    pub(super) fn finish(self) {
        let TableChange { held, queue, outcome, lines } = self;
        debug_assert!(lines.is_none(), "lines that no shard has seen");
        drop(queue);
        held.shards.say(&outcome.said);
        held.turns.notify_one();
    }
}

/// Task that takes the reports of the shards, and keeps the pace of releases.
pub(super) struct HoldScheduler {
    held: Held,
    reports: pipe::Receiver,
}

impl HoldScheduler {
    /// Makes the scheduler; must be called within a tokio runtime.
    pub(super) fn new(held: Held) -> io::Result<HoldScheduler> {
        let reports = pipe::Receiver::from_owned_fd_unchecked(held.shards.held_report_came()?)?;
        Ok(HoldScheduler { held, reports })
    }

    /// Runs for ever; `on_begun` is called with the rules that requests begin to wait for,
    /// `on_wanted` with the backends that they wait for.
    pub(super) async fn run(
        &mut self,
        mut on_begun: impl FnMut(Vec<Begun>),
        mut on_wanted: impl FnMut(WantedBackends),
    ) -> Infallible {
        let mut next = None;
        let turns = self.held.turns.clone();
        let mut look = tokio::time::interval(limits::HELD_PROBE_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut is_wanting = false;
        loop {
            tokio::select! {
                _ = self.reports.readable() => {
                    // Empty the eventfd, so that it is no longer readable.
                    let _ = self.reports.try_read(&mut [0; 8]);
                }
                () = turns.notified() => {}
                () = until(next) => {}
                _ = look.tick(), if is_wanting => {}
            }
            let (turn, begun) = self.held.take_reports();
            next = turn;
            if !begun.is_empty() {
                on_begun(begun);
            }
            let wanted = self.held.wanted();
            if is_wanting || !wanted.is_empty() {
                is_wanting = !wanted.is_empty();
                on_wanted(wanted);
            }
        }
    }
}

impl Held {
    /// Takes the reports and lets the requests go whose turn has come; returns the time of the next
    /// turn.
    fn take_reports(&self) -> (Option<Instant>, Vec<Begun>) {
        let mut outcome = Outcome::default();
        let mut queue = self.lock();
        let table = self.published.table_full();
        let now = Instant::now();
        while let Some(report) = self.shards.next_held_report() {
            match report {
                Report::Waits(waits) => queue.arrive(waits, &table, now, &mut outcome),
                Report::Left { shard, ticket } => queue.leave(shard, ticket),
            }
        }
        let next = queue.pace(now, &mut outcome);
        self.tell_lines(&mut queue, &table);
        drop(queue);
        self.shards.say(&outcome.said);
        (next, outcome.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Pages;
    use crate::link::{self, Own, Tag, Tuning};

    #[test]
    fn queue_is_locked_until_the_table_is_in_force() {
        let table = TaggedTable { table: Snapshot::default(), tag: Tag::of_start(0) };
        let own = Own::default();
        let published = Published::new(table.clone(), Pages::builtin(), Tuning::default(), own);
        let (shards, ends, _handed) = link::connect(published, 1).expect("eventfds");
        let published = ends[0].published.clone();
        let held = Held::new(Bounds { total: 1, per_source: 1 }, published.clone(), shards);
        let change = held.change_table(&table);
        assert!(held.queue.try_lock().is_err(), "a report could be decided by the old table");
        published
            .put_in_force(TaggedTable { tag: Tag { sequence: 1, ..table.tag }, ..table }, None);
        assert!(held.queue.try_lock().is_err());
        change.finish();
        assert!(held.queue.try_lock().is_ok());
    }
}
