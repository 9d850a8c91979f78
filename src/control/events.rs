//! Events: their kinds, their JSON, and the bus that passes each to every reader of `/events`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::change::Happened;
use super::health::HealthChange;
use super::statistics::Busy;
use crate::limits;
use crate::table::Rule;

/// A message to the readers of `/events`.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The table was changed.
    Change(Arc<str>),
    /// The state of a backend has changed, at this time.
    Health(f64, Arc<HealthChange>),
    /// News of a host or of the fleet, with the name of their kind: `held`, `idle`, `wake` or
    /// `fleet`.
    Other(&'static str, Arc<str>),
    /// A second has passed.
    Tick(Arc<Tick>),
}

/// Requests, bytes sent and bytes received, per second.
pub(super) type Rates = [f64; 3];

/// One second of traffic.
#[derive(Debug)]
pub(super) struct Tick {
    pub(super) time: f64,
    pub(super) current_tag: String,
    pub(super) rules: usize,
    /// Hosts for which a shard has a slot, with their counts.
    pub(super) busy: Busy,
    /// Rates of the hosts that had traffic in this second.
    pub(super) rates: HashMap<u64, Rates>,
    /// Busiest hosts, most requests first.
    pub(super) ranked: Vec<u64>,
    pub(super) totals: Value,
    pub(super) shards: Value,
}

impl Tick {
    pub(super) fn rates_of(&self, key: u64) -> Rates {
        self.rates.get(&key).copied().unwrap_or_default()
    }
}

/// Bus that passes each event to all readers, and keeps some events for later readers.
#[derive(Clone)]
pub(super) struct EventBus(broadcast::Sender<Event>, EventLog);

impl EventBus {
    pub(super) fn new() -> EventBus {
        EventBus(broadcast::channel(limits::EVENTS_KEPT).0, EventLog::default())
    }

    /// Adds a reader. `None`: there are `most` readers already.
    pub(super) fn follow(&self, most: usize) -> Option<broadcast::Receiver<Event>> {
        (self.0.receiver_count() < most).then(|| self.0.subscribe())
    }

    /// Log of the events that are kept.
    pub(super) fn log(&self) -> &EventLog {
        &self.1
    }

    pub(super) fn tell(&self, event: Event) {
        self.1.keep(&event);
        // An error means that there is no reader.
        let _ = self.0.send(event);
    }

    /// Whether there is a reader.
    pub(super) fn is_followed(&self) -> bool {
        0 < self.0.receiver_count()
    }
}

/// Kinds of events that are kept. Traffic and changes have logs of their own.
const KEPT: [&str; 5] = ["health", "held", "idle", "wake", "fleet"];

/// Log of the last events.
#[derive(Clone, Default)]
pub(super) struct EventLog(Arc<Mutex<VecDeque<Event>>>);

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event, if it is of a kind that is kept.
    pub(super) fn keep(&self, event: &Event) {
        if let Event::Health(..) | Event::Other(..) = event {
            let mut kept = self.lock();
            kept.push_back(event.clone());
            if limits::HISTORY_EVENTS < kept.len() {
                kept.pop_front();
            }
        }
    }

    /// The events, the newest first.
    pub(super) fn newest_first(&self) -> Vec<Event> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Returns the events as JSON, for the daemon that takes over.
    pub(super) fn to_json(&self) -> Value {
        let kept = self.lock();
        let each = kept.iter().filter_map(|event| match event {
            Event::Health(time, change) => Some(json!(["health", health_data(*time, change)])),
            Event::Other(kind, data) => Some(json!([kind, &**data])),
            Event::Change(_) | Event::Tick(_) => None,
        });
        each.collect()
    }

    /// Takes over the events of another daemon, as far as their kinds are known here.
    pub(super) fn recall(&self, told: &Value) {
        let each = told.as_array().into_iter().flatten().filter_map(|event| {
            let (kind, data) = (event[0].as_str()?, event[1].as_str()?);
            let kind = KEPT.iter().find(|known| **known == kind)?;
            Some(Event::Other(kind, data.into()))
        });
        self.lock().extend(each.take(limits::HISTORY_EVENTS));
    }
}

/// Event for a change that is in force.
pub(super) fn change_event(happened: &Happened) -> Event {
    let mut told = json!({
        "time": unix_time(),
        "verb": happened.verb.as_str(),
        "who": happened.who,
        "etag": happened.tag.to_string(),
        "rules": happened.rules,
        "changed": happened.changed,
    });
    if let Some(edits) = &happened.edits {
        let hosts =
            edits.iter().map(|(name, rule)| (name.clone(), rule.as_ref().map(Rule::to_json)));
        told["hosts"] = hosts.map(|(name, rule)| (name, rule.unwrap_or_default())).collect();
    }
    Event::Change(told.to_string().into())
}

/// Event for a backend whose state has changed.
pub(super) fn health_event(change: &HealthChange) -> Event {
    Event::Health(unix_time(), Arc::new(change.clone()))
}

/// Returns the data of an event about health, as JSON.
pub(super) fn health_data(time: f64, change: &HealthChange) -> String {
    let mut told = json!({
        "time": time,
        "backend": change.backend.to_string(),
        "state": change.state.as_str(),
        "reason": change.explained(),
    });
    if let (Some(object), Some(of)) = (told.as_object_mut(), &change.check) {
        object.extend(of.describe());
    }
    told.to_string()
}

/// Seconds since 1970, to the millisecond.
pub(super) fn unix_time() -> f64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
