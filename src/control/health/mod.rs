//! Health of backends. Backends whose rules have a `check` are probed all the time; backends that
//! failed requests are probed until they are back. Changes of health are published to the shards,
//! logged, and reported as events.
//!
//! `watch` decides what to probe and when, `probe` makes one probe, `condition` turns outcomes into
//! a verdict, and `standing` describes health to others. This module runs them, on the control
//! shard. While no rule has a `check` and no request fails, there are no probes.

mod condition;
mod probe;
mod standing;
mod watch;

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use super::change::RuleChange;
use super::loops::Met;
use super::pause::until;
use super::resolver::Lookups;
use crate::address::Address;
use crate::limits;
use crate::link::{ControlEnd, Ejected, Published, ShardReport, is_local};
use crate::table::Snapshot;
use probe::Finding;
use watch::{Now, Watch};

pub(super) use condition::State;
pub(super) use standing::{CheckStanding, HealthChange, Known, KnownArrival, RuleFilter, Standing};
pub(super) use watch::{WantedBackend, WantedBackends};

/// Handle for the other parts of control, which report changes of rules and ask about backends.
#[derive(Clone)]
pub(super) struct Health {
    watch: Arc<Mutex<Watch>>,
    asked_for: Arc<Notify>,
}

impl Health {
    /// Begins with the checks of the rules in `table`.
    pub(super) fn new(table: &Snapshot) -> Health {
        let mut watch = Watch::default();
        let now = now();
        table.iter().for_each(|(name, rule)| watch.came(name, None, Some(rule), now));
        Health { watch: Arc::new(Mutex::new(watch)), asked_for: Arc::default() }
    }

    /// Takes changes of rules.
    pub(super) fn changed(&self, rules: &[RuleChange]) {
        if rules.is_empty() {
            return;
        }
        let now = now();
        let mut watch = self.lock();
        for RuleChange { name, before, after } in rules {
            watch.came(name, before.as_ref(), after.as_ref(), now);
        }
        for RuleChange { name, before, after } in rules {
            watch.went(name, before.as_ref(), after.as_ref(), now);
        }
        self.asked_for.notify_one();
    }

    /// Sets the backends that held requests wait for. They count as down until a probe of them
    /// succeeds, and are probed often.
    pub(super) fn want(&self, wanted: WantedBackends, table: &Snapshot) {
        self.lock().want(wanted, table, now());
        self.asked_for.notify_one();
    }

    /// Takes over the health that another process knew, before the first request. Makes no event
    /// and no log line of it, as the other process has made them.
    pub(super) fn recall(&self, known: Vec<Known>, published: &Published) {
        let mut watch = self.lock();
        watch.follow_names(now());
        watch.recall(known, &published.table(), now());
        watch.take_changes();
        published.down.publish(watch.ejected(), watch.failing());
    }

    /// Health to hand over to another process.
    pub(super) fn known(&self) -> Vec<Known> {
        self.lock().known()
    }

    /// Arrivals of backends to hand over to another process.
    pub(super) fn arrivals(&self, table: &Snapshot) -> Vec<KnownArrival> {
        self.lock().known_arrivals(table, Instant::now())
    }

    /// Takes over arrivals that another process knew.
    pub(super) fn recall_arrivals(&self, known: Vec<KnownArrival>, published: &Published) {
        let mut watch = self.lock();
        let now = Instant::now();
        watch.recall_arrivals(known, now);
        if let Some(arrivals) = watch.take_arrivals(now) {
            published.ramps.publish(arrivals);
        }
    }

    /// Standing of every backend that is ejected, or is checked by a rule that `sees` selects.
    /// Nothing is known of other backends.
    pub(super) fn states(&self, sees: Option<&RuleFilter>) -> Vec<Standing> {
        self.lock().states(sees)
    }

    /// State of a backend, with the reason, for the rule with this key and the check with this id.
    /// A `rule` of `None` stands for a rule that ignores failed requests.
    pub(super) fn state_for(
        &self,
        backend: Address,
        check: Option<u64>,
        rule: Option<u64>,
    ) -> Option<(State, String)> {
        self.lock().state_for(backend, check, rule)
    }

    /// Backends that fail all of their checks, and backends that are ejected for all rules.
    pub(super) fn down(&self) -> Vec<Address> {
        let mut down: Vec<Address> = self.lock().down().into_iter().collect();
        down.sort_unstable();
        down
    }

    /// Rules, each with a backend that fails its check or was ejected for it alone; at most `most`.
    pub(super) fn failing_rules(
        &self,
        most: usize,
        sees: Option<&RuleFilter>,
    ) -> Vec<(Arc<str>, Address)> {
        self.lock().failing_rules(most, sees)
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Task that makes the probes.
pub(super) struct Prober {
    health: Health,
    shards: ControlEnd,
    published: Arc<Published>,
    reports: pipe::Receiver,
    running: JoinSet<(u64, Finding)>,
    probes_max: usize,
    lookups: Lookups,
    random: RandomState,
    turns: u64,
    look_at: Instant,
    loops: Met,
}

impl Prober {
    /// Makes the prober; must be called within a tokio runtime.
    pub(super) fn new(
        health: Health,
        shards: ControlEnd,
        published: Arc<Published>,
        probes_max: usize,
        lookups: Lookups,
    ) -> io::Result<Prober> {
        Ok(Prober {
            health,
            reports: pipe::Receiver::from_owned_fd_unchecked(shards.shard_report_came()?)?,
            shards,
            published,
            running: JoinSet::new(),
            probes_max,
            lookups,
            random: RandomState::new(),
            turns: 0,
            look_at: Instant::now() + limits::EJECTED_LOOK,
            loops: Met::default(),
        })
    }

    /// Runs for ever; calls `on_change` with each change of a backend or a check.
    pub(super) async fn run(&mut self, mut on_change: impl FnMut(&HealthChange)) -> Infallible {
        loop {
            self.step().await;
            self.publish(&mut on_change);
        }
    }

    /// Waits for the next event: a probe is due or has ended, a shard reports, a rule was changed.
    async fn step(&mut self) {
        let next = self.start_probes();
        let asked_for = self.health.asked_for.clone();
        tokio::select! {
            Some(ended) = self.running.join_next() => {
                self.settle(ended);
                // When a network fails, many probes end together: publish them together.
                while let Some(ended) = self.running.try_join_next() {
                    self.settle(ended);
                }
            }
            _ = self.reports.readable() => {
                // Empty the eventfd, so that it is no longer readable.
                let _ = self.reports.try_read(&mut [0; 8]);
                while let Some(report) = self.shards.next_shard_report() {
                    self.hear(report);
                }
            }
            () = asked_for.notified() => {}
            () = until(next) => self.look_around().await,
        }
    }

    /// Begins the probes that are due, as far as `probes_max` allows. Returns the time of the next
    /// thing to do.
    fn start_probes(&mut self) -> Option<Instant> {
        let mut watch = self.health.lock();
        watch.follow_names(now());
        while self.running.len() < self.probes_max {
            let now = Instant::now();
            let Some((id, address, probe)) = watch.next(now) else { return watch.due(now) };
            if self.published.own.has(address, is_local) {
                self.running.spawn(async move { (id, Finding::Own) });
                continue;
            }
            self.running.spawn(async move { (id, probe::run(address, probe).await) });
        }
        // There is no room for more probes until one of them ends.
        None
    }

    fn settle(&mut self, ended: Result<(u64, Finding), JoinError>) {
        self.turns += 1;
        let random = self.random.hash_one(self.turns);
        match ended {
            Ok((id, found)) => {
                let mut watch = self.health.lock();
                if found.is_well() == Some(false)
                    && let Some(name) = watch.name_of(id)
                {
                    self.lookups.doubt(&name.host);
                }
                watch.ended(id, found, now(), random);
            }
            Err(error) => warn!("A probe panicked: {error}"),
        }
    }

    fn hear(&mut self, report: ShardReport) {
        let mut watch = self.health.lock();
        match report {
            ShardReport::NameFailed { name } => self.lookups.doubt(&name.host),
            ShardReport::Failed { ejected, how } => {
                watch.failed(ejected, how, &self.published.table(), now());
            }
            ShardReport::Answered { ejected } => watch.answered(ejected, now()),
            ShardReport::Loop { address } => self.loops.note(address, Instant::now()),
            ShardReport::Panicked { client, phase } => {
                error!("A panic has ended the connection of {client}: {phase}");
            }
        }
    }

    /// Forgets, now and then, the ejected backends that no rule uses any more.
    async fn look_around(&mut self) {
        if Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + limits::EJECTED_LOOK;
        let mut unused: HashSet<Ejected> = self.health.lock().ejected().collect();
        if unused.is_empty() {
            return;
        }
        let table = self.published.table_full();
        // Looking through a million rules takes a while.
        let looked = tokio::task::spawn_blocking(move || {
            remove_used(&table, &mut unused);
            unused
        });
        let unused = looked.await.unwrap_or_default();
        let mut watch = self.health.lock();
        unused.into_iter().for_each(|ejected| watch.forget(ejected));
    }

    /// Publishes changes to the shards, then reports them to the log and to `on_change`.
    fn publish(&mut self, on_change: &mut impl FnMut(&HealthChange)) {
        let changes = {
            let mut watch = self.health.lock();
            let changes = watch.take_changes();
            // Publish the ramps before the backends: a backend that is back must begin with a small
            // share.
            if let Some(arrivals) = watch.take_arrivals(Instant::now()) {
                self.published.ramps.publish(arrivals);
            }
            if !changes.is_empty() {
                self.published.down.publish(watch.ejected(), watch.failing());
            }
            changes
        };
        for change in changes {
            let (HealthChange { backend, state, .. }, reason) = (&change, change.explained());
            match state {
                State::Down => warn!("Backend {backend} is down: {reason}"),
                State::Ejected => warn!("Backend {backend} is ejected: {reason}"),
                State::Up | State::PartlyDown | State::Unknown => {
                    info!("Backend {backend} is up again: {reason}")
                }
            }
            on_change(&change);
        }
    }
}

fn now() -> Now {
    Now { at: Instant::now(), date: SystemTime::now() }
}

/// Removes from `unused` the ejections that matter: those for all rules if any rule uses the
/// backend, and those for one rule if this rule uses it.
fn remove_used(table: &Snapshot, unused: &mut HashSet<Ejected>) {
    for (name, rule) in table.iter() {
        let key = table.key(name);
        rule.each_address(|backend| {
            for rule in [None, Some(key)] {
                unused.remove(&Ejected { backend, rule });
            }
        });
    }
}
