//! Held requests: control's side of `spin` and of `hold`. Shards say which requests wait; here is
//! decided how long, in what order they go on, and when: as soon as the table, a backend or their
//! turn allows it.
//!
//! The writer calls [`Held::publish`] with each new table, so that whoever waits for it has been
//! let go before the change is answered, and nobody who comes later overtakes those that go at a
//! pace.

mod queue;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::limits;
use crate::link::{ControlEnd, Published, Report};
use crate::table::{Action, Rule, Snapshot, Target};
use queue::{Outcome, Queue};

pub(super) use queue::{Begun, Bounds};

/// The queue, as others see it.
#[derive(Clone)]
pub(super) struct Held {
    queue: Arc<Mutex<Queue>>,
    published: Arc<Published>,
    shards: ControlEnd,
    /// Notice that there may be turns to wait for that were not there before.
    turns: Arc<Notify>,
}

impl Held {
    pub(super) fn new(bounds: Bounds, published: Arc<Published>, shards: ControlEnd) -> Held {
        let queue = Arc::new(Mutex::new(Queue::new(bounds)));
        Held { queue, published, shards, turns: Arc::default() }
    }

    /// Puts a table in force, and lets go on what waited for it.
    pub(super) fn publish(&self, table: &Arc<Snapshot>) {
        let mut queue = self.lock();
        let mut outcome = Outcome::default();
        if !queue.is_empty() {
            queue.changed(table, Instant::now(), &mut outcome);
            self.tell_lines(&mut queue, table);
        }
        // Under the lock: what arrives next is decided by this table.
        self.published.snapshot.store(table.clone());
        drop(queue);
        self.shards.say(&outcome.said);
        self.turns.notify_one();
    }

    /// Lets requests go that waited for a backend which is up again.
    pub(super) fn reached(&self, backend: SocketAddr) {
        let mut queue = self.lock();
        let mut outcome = Outcome::default();
        queue.reached(|rule| addresses(rule).contains(&backend), Instant::now(), &mut outcome);
        let table = self.published.snapshot.load_full();
        self.tell_lines(&mut queue, &table);
        drop(queue);
        self.shards.say(&outcome.said);
        self.turns.notify_one();
    }

    /// The backends that requests wait for.
    pub(super) fn wanted(&self) -> HashSet<SocketAddr> {
        self.lock().without_backend().flat_map(addresses).collect()
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.lock().set_bounds(bounds);
    }

    /// From now on limits of rules are divided by so many nodes.
    pub(super) fn set_shares(&self, shares: u32) {
        self.lock().set_shares(shares);
    }

    /// The table in force.
    pub(super) fn table(&self) -> Arc<Snapshot> {
        self.published.snapshot.load_full()
    }

    /// How many requests are held for each rule.
    pub(super) fn by_name(&self) -> HashMap<Arc<str>, usize> {
        self.lock().by_name()
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

/// Addresses that the requests of a rule go to.
fn addresses(rule: &Rule) -> Vec<SocketAddr> {
    let Action::Proxy(proxy) = &rule.action else { return Vec::new() };
    let each = proxy.backends().iter().flat_map(|backend| match backend.target() {
        Target::Address(address) => vec![address],
        Target::Name(name) => name.addresses().to_vec(),
    });
    each.collect()
}

/// Takes what the shards report, and keeps the pace of releases.
pub(super) struct Keeper {
    held: Held,
    reports: pipe::Receiver,
}

impl Keeper {
    /// Makes the scheduler; must be called within a tokio runtime.
    pub(super) fn new(held: Held) -> io::Result<Keeper> {
        let reports = pipe::Receiver::from_owned_fd_unchecked(held.shards.held_report_came()?)?;
        Ok(Keeper { held, reports })
    }

    /// Runs for ever; `on_begun` is told of each rule that requests begin to wait for, `on_wanted`
    /// that backends are waited for.
    pub(super) async fn run(
        &mut self,
        mut on_begun: impl FnMut(Vec<Begun>),
        mut on_wanted: impl FnMut(HashSet<SocketAddr>),
    ) -> Infallible {
        let mut next = None;
        let turns = self.held.turns.clone();
        let mut look = tokio::time::interval(limits::HELD_PROBE_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut is_wanting = false;
        loop {
            tokio::select! {
                _ = self.reports.readable() => {
                    // Only to have it unreadable again.
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
    /// Takes what was reported and lets those go whose turn has come; when the next turn is.
    fn take_reports(&self) -> (Option<Instant>, Vec<Begun>) {
        let mut outcome = Outcome::default();
        let mut queue = self.lock();
        let table = self.published.snapshot.load_full();
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

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}
