//! Reports that requests wait for a host, or that a host has no traffic: by an event, and by a POST
//! to the address that the rule names as `wake`. So the program at this address can start a
//! sleeping application for its first visitor, and put it to sleep again.
//!
//! A POST that fails is tried again, after longer and longer pauses, until the rule changes. A POST
//! that succeeded is not repeated while the host sleeps: until its rule changes, the host has been
//! idle, or no request has begun to wait for as long as the rule's `timeout`.

mod handing;
mod idle;
mod once;
mod post;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::change::{Change, RuleChange};
use super::events::{Event, EventBus, unix_time};
use super::fleet::Fleet;
use super::held::{Begun, Held};
use super::pause::doubled;
use super::statistics::{self, SharedStatistics};
use crate::limits;
use crate::link::{ByKey, Sums};
use crate::table::{Action, Rule, Snapshot};
use idle::Idle;

pub(super) use idle::idle_after;

/// Rules for which a wake-up was sent, by name, and when requests last began to wait for them.
type ByName = HashMap<Arc<str>, (Rule, Instant)>;

/// Memory of the wake-ups that were sent.
#[derive(Clone, Default)]
pub(super) struct WakeMemory(Arc<Mutex<ByName>>);

impl WakeMemory {
    /// Forgets the hosts whose rules a change alters, so that they get a new wake-up. Called before
    /// the change is in force.
    pub(super) fn changed(&self, change: &Change, before: &Snapshot, after: &Snapshot) {
        let mut told = self.lock();
        if told.is_empty() {
            return;
        }
        let is_other = |name: &str| before.get(name) != after.get(name);
        if change.whole {
            told.retain(|name, _| !is_other(name));
        } else {
            let names = change.edits.iter().map(|(name, _)| &**name);
            names.filter(|name| is_other(name)).for_each(|name| drop(told.remove(name)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends wake-ups and their events.
#[derive(Clone)]
pub(super) struct Wake {
    shared: Arc<Shared>,
}

struct Shared {
    events: EventBus,
    held: Held,
    idle: Mutex<Idle>,
    told: WakeMemory,
    room: Semaphore,
    /// Whether another daemon sends wake-ups from now on.
    is_handed: AtomicBool,
    /// Wake-ups that came since `is_handed` was set, or failed since.
    untold: Mutex<Vec<Telling>>,
    /// Wake-ups that are being sent.
    telling: AtomicUsize,
    fleet: Option<Fleet>,
}

impl Wake {
    pub(super) fn new(
        events: EventBus,
        held: Held,
        told: WakeMemory,
        fleet: Option<Fleet>,
    ) -> Wake {
        let mut idle = Idle::default();
        let table = held.table();
        let now = Instant::now();
        for (name, rule) in table.iter() {
            if idle_after(rule).is_some() {
                idle.changed(table.key(name), name, Some(rule), now);
            }
        }
        let idle = Mutex::new(idle);
        let room = Semaphore::new(limits::WAKES_AT_ONCE);
        let is_handed = AtomicBool::new(false);
        let (untold, telling) = (Mutex::default(), AtomicUsize::new(0));
        let shared = Shared { events, held, idle, told, room, is_handed, untold, telling, fleet };
        Wake { shared: Arc::new(shared) }
    }

    /// Reports the rules that requests have begun to wait for.
    pub(super) fn begun(&self, begun: Vec<Begun>) {
        for Begun { name, rule } in begun {
            let since = unix_time();
            let told = Telling { event: "held", name, rule, since, idle: None, is_begun: false };
            if self.shared.is_handed.load(Ordering::SeqCst) {
                self.shared.skipped().push(told);
                continue;
            }
            self.shared.tell(&told);
            if told.url().is_some() && self.shared.is_asleep(&told) {
                self.shared.clone().deliver(told);
            }
        }
    }

    /// Takes changes of rules.
    pub(super) fn changed(&self, table: &Snapshot, watched: &[RuleChange]) {
        let mut idle = self.shared.idle();
        for RuleChange { name, after, .. } in watched {
            idle.changed(table.key(name), name, after.as_ref(), Instant::now());
        }
    }

    /// Reports the rules that have become idle; called once a second.
    pub(super) fn beat(&self, statistics: &SharedStatistics, table: &Snapshot) {
        let mut idle = self.shared.idle();
        let keys = idle.keys();
        if keys.is_empty() || self.shared.is_handed.load(Ordering::SeqCst) {
            return;
        }
        let mut sums: ByKey<Sums> = statistics::lock(statistics).of(&keys);
        if table.has_aliases() {
            // Requests are counted by the name that matched. If this name is an alias, they must
            // keep the rule awake that the alias leads to.
            for (key, more) in statistics::lock(statistics).busy() {
                let target = table.name_of(key).and_then(|name| table.target_of(name));
                if let Some(target) =
                    target.filter(|target| keys.contains(target) && *target != key)
                {
                    sums.entry(target).or_default().add(&more);
                }
            }
        }
        for idled in idle.look(&sums, Instant::now()) {
            let since = unix_time() - idled.idle.as_secs_f64();
            let idle = Some(idled.idle);
            let name = Arc::from(idled.name);
            let told =
                Telling { event: "idle", name, rule: idled.rule, since, idle, is_begun: false };
            self.shared.told.lock().remove(&told.name);
            self.shared.tell(&told);
            if told.url().is_some() {
                self.shared.clone().deliver(told);
            }
        }
    }
}

/// A wake-up, or the news that a host is idle.
#[derive(Clone)]
struct Telling {
    event: &'static str,
    name: Arc<str>,
    rule: Rule,
    /// Seconds since 1970.
    since: f64,
    idle: Option<Duration>,
    /// Whether a POST was tried, so that the host is in the memory of wake-ups.
    is_begun: bool,
}

impl Telling {
    fn url(&self) -> Option<&str> {
        match &self.rule.action {
            Action::Spin(spin) => spin.wake(),
            Action::Proxy(proxy) if self.idle.is_some() => proxy.wake(),
            _ => None,
        }
    }

    fn json(&self, held: usize) -> Value {
        let Telling { event, name, since, idle, .. } = self;
        let mut json = json!({ "host": **name, "held": held, "since": since, "event": event });
        if let Some(idle) = idle {
            json["idle"] = json!(idle.as_secs());
        }
        json
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn skipped(&self) -> MutexGuard<'_, Vec<Telling>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_for(&self, name: &str) -> usize {
        self.held.by_name().get(name).copied().unwrap_or(0)
    }

    fn tell(&self, telling: &Telling) {
        let mut json = telling.json(self.held_for(&telling.name));
        json["time"] = json!(unix_time());
        if let Value::Object(json) = &mut json {
            json.remove("event");
        }
        self.events.tell(Event::Other(telling.event, json.to_string().into()));
    }

    /// Whether a wake-up is due: the host is asleep and none was sent. Records it as sent.
    fn is_asleep(&self, telling: &Telling) -> bool {
        let Action::Spin(spin) = &telling.rule.action else { return false };
        let mut told = self.told.lock();
        let now = Instant::now();
        let lately = |at: Instant| now.saturating_duration_since(at) < spin.timeout();
        if let Some((rule, at)) = told.get_mut(&telling.name)
            && *rule == telling.rule
            && lately(std::mem::replace(at, now))
        {
            return false;
        }
        if limits::WAKES_TOLD_MAX <= told.len() {
            let table = self.held.table();
            told.retain(|name, (rule, _)| table.get(name) == Some(rule));
        }
        told.insert(telling.name.clone(), (telling.rule.clone(), now));
        true
    }

    /// Has the POST made by a task; in a fleet, one node makes it for all nodes.
    fn deliver(self: Arc<Shared>, telling: Telling) {
        match self.fleet.clone().filter(Fleet::is_in) {
            Some(fleet) => drop(tokio::spawn(once::deliver_once(self, telling, fleet))),
            None => drop(tokio::spawn(deliver(self, telling))),
        }
    }

    fn is_current(&self, telling: &Telling) -> bool {
        self.held.table().get(&telling.name) == Some(&telling.rule)
    }
}

/// Counts one wake-up that is being sent, until it is dropped.
struct InProgress<'a>(&'a AtomicUsize);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Repeats the POST until it succeeds or the rule has changed.
async fn deliver(shared: Arc<Shared>, mut telling: Telling) {
    telling.is_begun = true;
    for failures in 0.. {
        let pause = doubled(limits::WAKE_AGAIN, failures).min(limits::WAKE_AGAIN_MAX);
        if attempt(&shared, &telling, pause).await != Some(false) {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Makes the POST once. Returns whether it succeeded; `None`: there is nothing to send any more.
/// `pause` is for the log.
async fn attempt(shared: &Shared, telling: &Telling, pause: Duration) -> Option<bool> {
    let url = telling.url()?;
    let result = {
        let _room = shared.room.acquire().await.ok()?;
        if !shared.is_current(telling) {
            return None;
        }
        shared.telling.fetch_add(1, Ordering::SeqCst);
        let _telling = InProgress(&shared.telling);
        // Count this wake-up before looking at `is_handed`: so a handover either waits for this
        // POST, or finds the wake-up among those that are not sent.
        if shared.is_handed.load(Ordering::SeqCst) {
            shared.skipped().push(telling.clone());
            return None;
        }
        let body = telling.json(shared.held_for(&telling.name)).to_string();
        post::post(url, body, limits::WAKE_TIME).await
    };
    let Telling { event, name, .. } = telling;
    let mut json = json!({ "time": unix_time(), "host": **name, "event": event, "url": url });
    json["ok"] = json!(result.is_ok());
    if let Err(why) = &result {
        json["reason"] = json!(why);
        warn!("{name}: {url} was not told that it is {event}: {why}; again in {pause:?}");
    }
    shared.events.tell(Event::Other("wake", json.to_string().into()));
    if result.is_ok() {
        info!("{name}: {url} was told that it is {event}");
    } else if shared.is_handed.load(Ordering::SeqCst) {
        shared.skipped().push(telling.clone());
        return None;
    }
    Some(result.is_ok())
}
