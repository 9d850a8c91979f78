//! The last hour: totals of all hosts every 10 s, numbers of the hosts and backends that mattered
//! every 30 s, and the last changes of rules. They are kept in memory within bounds (`limits`: 17
//! MB at most), handed over in an upgrade, and lost in a restart.

mod changes;
mod point;
mod tracks;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::statistics::Step;
use crate::limits;
use crate::link::{CLASSES_OF_TIME, ControlEnd, Counter, SlotTime};

pub(super) use changes::SharedChanges;
pub(super) use point::{Point, columns};
pub(super) use tracks::Tracks;

/// The last hour, shared by the heart and the API.
#[derive(Clone)]
pub(super) struct History(Arc<Mutex<Hour>>);

/// Numbers and events of the last hour.
pub(super) struct Hour {
    pub(super) totals: VecDeque<Point>,
    pub(super) hosts: Tracks,
    pub(super) backends: Tracks,
    last: Option<(Instant, HourTotals)>,
    /// Counts by class of latency at the ends of the last steps. The last minute begins at the
    /// oldest one.
    marks: VecDeque<[u64; CLASSES_OF_TIME]>,
}

/// Sums of all shards.
#[derive(Copy, Clone)]
struct HourTotals {
    requests: u64,
    errors: u64,
    answers: [u64; 4],
    sent: u64,
    received: u64,
    latency: [u64; CLASSES_OF_TIME],
}

/// Classes of the latencies of all shards.
fn latency_of(shards: &ControlEnd) -> [u64; CLASSES_OF_TIME] {
    let mut latency = [0; CLASSES_OF_TIME];
    for (own, _) in shards.counters().map(|shard| shard.times(SlotTime::Latency)) {
        latency.iter_mut().zip(own).for_each(|(sum, n)| *sum += n);
    }
    latency
}

impl HourTotals {
    fn of(shards: &ControlEnd) -> HourTotals {
        let total = |counter| shards.total(counter);
        let classes =
            [Counter::Answers2xx, Counter::Answers3xx, Counter::Answers4xx, Counter::Answers5xx];
        HourTotals {
            requests: total(Counter::Completed),
            errors: total(Counter::Errors),
            answers: classes.map(total),
            sent: total(Counter::Sent),
            received: total(Counter::Received),
            latency: latency_of(shards),
        }
    }

    fn since(&self, before: &HourTotals) -> HourTotals {
        let answers = std::array::from_fn(|at| self.answers[at].wrapping_sub(before.answers[at]));
        HourTotals {
            requests: self.requests.wrapping_sub(before.requests),
            errors: self.errors.wrapping_sub(before.errors),
            answers,
            sent: self.sent.wrapping_sub(before.sent),
            received: self.received.wrapping_sub(before.received),
            latency: difference(&self.latency, &before.latency),
        }
    }
}

fn difference(
    now: &[u64; CLASSES_OF_TIME],
    before: &[u64; CLASSES_OF_TIME],
) -> [u64; CLASSES_OF_TIME] {
    std::array::from_fn(|at| now[at].wrapping_sub(before[at]))
}

/// Whole seconds since 1970.
fn unix_seconds() -> u32 {
    super::events::unix_time() as u32
}

impl History {
    pub(super) fn new() -> History {
        History(Arc::new(Mutex::new(Hour {
            totals: VecDeque::new(),
            hosts: Tracks::new(limits::HISTORY_HOSTS_MAX),
            backends: Tracks::new(limits::HISTORY_HOSTS_MAX),
            last: None,
            marks: VecDeque::new(),
        })))
    }

    /// Locks the history, also after a panic: its numbers can still be used.
    pub(super) fn lock(&self) -> MutexGuard<'_, Hour> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the numbers of all hosts, once 10 s have passed; called each second.
    pub(super) fn beat(&self, shards: &ControlEnd) {
        let now = Instant::now();
        let mut hour = self.lock();
        let Some((at, before)) = hour.last else {
            hour.last = Some((now, HourTotals::of(shards)));
            hour.marks.push_back([0; CLASSES_OF_TIME]);
            return;
        };
        let seconds = (now - at).as_secs_f64();
        if seconds < limits::HISTORY_STEP.as_secs_f64() - 0.5 {
            return;
        }
        let totals = HourTotals::of(shards);
        let step = totals.since(&before);
        let (open, held) = (
            shards.total(Counter::Requests).saturating_sub(totals.requests),
            shards.total(Counter::Held),
        );
        let rates = [step.requests, step.errors].map(|count| (count as f64 / seconds) as f32);
        let point = Point {
            time: unix_seconds(),
            requests: rates[0],
            errors: rates[1],
            answers: step.answers.map(|count| (count as f64 / seconds) as f32),
            sent: (step.sent as f64 / seconds) as f32,
            received: (step.received as f64 / seconds) as f32,
            open: u32::try_from(open).unwrap_or(u32::MAX),
            held: u32::try_from(held).unwrap_or(u32::MAX),
            times: point::times(step.latency),
        };
        hour.last = Some((now, totals));
        hour.marks.push_back(totals.latency);
        if limits::HISTORY_MINUTE < hour.marks.len() {
            hour.marks.pop_front();
        }
        hour.totals.push_back(point);
        if limits::HISTORY_POINTS < hour.totals.len() {
            hour.totals.pop_front();
        }
    }

    /// Percentiles of all hosts in the last minute.
    pub(super) fn minute(&self, shards: &ControlEnd) -> Map<String, Value> {
        let now = latency_of(shards);
        let before = self.lock().marks.front().copied().unwrap_or_default();
        super::statistics::percentiles(difference(&now, &before))
    }

    /// Adds the numbers of hosts and backends of the last 30 s.
    pub(super) fn note(&self, hosts: Step<&str>, backends: Step<String>) {
        let time = unix_seconds();
        let mut hour = self.lock();
        hour.hosts.note(time, hosts);
        hour.backends.note(time, backends);
    }

    /// Writes the history down for the daemon that takes over.
    pub(super) fn to_json(&self) -> Value {
        let hour = self.lock();
        json!({
            "totals": hour.totals.iter().copied().map(Point::to_json).collect::<Vec<_>>(),
            "hosts": hour.hosts.to_json(),
            "backends": hour.backends.to_json(),
        })
    }

    /// Takes over the history that another daemon has written down.
    pub(super) fn recall(&self, told: &Value) {
        let mut hour = self.lock();
        hour.totals = point::read(&told["totals"], limits::HISTORY_POINTS);
        hour.hosts.recall(&told["hosts"]);
        hour.backends.recall(&told["backends"]);
    }
}
