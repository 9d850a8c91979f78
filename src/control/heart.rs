//! The task that feeds the bus of events. Once a second it collects the counts of the shards and,
//! if the bus has readers, sends them the counts and rates. It also passes on each change of the
//! table, and has the statistics saved now and then.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::change::Happened;
use super::events::{Event, EventBus, Rates, Tick, change_event, unix_time};
use super::history::History;
use super::orders::Orders;
use super::statistics::{self, Busy, SharedStatistics, name_of, per_second, totals_of};
use super::wake::Wake;
use crate::address::Address;
use crate::limits;
use crate::link::{ControlEnd, Counter, Counters, HostCount, Published};
use crate::state::Totals;

/// Task that collects the counts once a second, and reports changes.
pub(super) struct Heart {
    pub(super) events: EventBus,
    pub(super) statistics: SharedStatistics,
    pub(super) shards: ControlEnd,
    pub(super) published: Arc<Published>,
    pub(super) orders: Orders,
    pub(super) happened: mpsc::UnboundedReceiver<Happened>,
    pub(super) wake: Wake,
    pub(super) history: History,
    pub(super) last: Last,
}

/// Counts of a second ago.
#[derive(Default)]
pub(super) struct Last {
    at: Option<Instant>,
    hosts: HashMap<u64, Totals>,
    shards: Vec<ShardMoment>,
    /// Busy share of each shard's time, from 0 to 1.
    load: Vec<f64>,
}

/// Counts of a shard at one moment.
#[derive(Copy, Clone)]
struct ShardMoment {
    totals: Totals,
    cpu_micros: u64,
    alive_micros: u64,
}

impl ShardMoment {
    fn of(counters: &Counters) -> ShardMoment {
        ShardMoment {
            totals: Totals {
                completed_requests: counters.get(Counter::Completed),
                bytes_sent: counters.get(Counter::Sent),
                bytes_received: counters.get(Counter::Received),
                errors: counters.get(Counter::Errors),
                // The counters of shards count refusals by limit, not in one sum.
                limited: 0,
            },
            cpu_micros: counters.get(Counter::CpuMicros),
            alive_micros: counters.get(Counter::AliveMicros),
        }
    }
}

impl Heart {
    /// Runs for ever. Calls `on_change` with each change.
    pub(super) async fn run(&mut self, mut on_change: impl FnMut(&Happened)) -> Infallible {
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut save = tokio::time::interval(limits::SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(happened) = self.happened.recv() => {
                    on_change(&happened);
                    self.wake.changed(&happened.table, &happened.watched);
                    if self.events.is_followed() {
                        self.events.tell(change_event(&happened));
                    }
                }
                _ = second.tick() => self.beat(),
                _ = save.tick() => self.orders.save().await,
            }
        }
    }

    fn beat(&mut self) {
        let current = self.published.table_full();
        let steps = {
            let mut statistics = statistics::lock(&self.statistics);
            statistics.take_over(&current.table);
            statistics.mark()
        };
        if let Some((hosts, backends)) = steps {
            let hosts = hosts.by(|key| name_of(&current.table, key));
            self.history.note(hosts, backends.by(|id| Some(Address::from_words(id).to_string())));
        }
        self.history.beat(&self.shards);
        self.wake.beat(&self.statistics, &current.table);
        if !self.events.is_followed() {
            // Without old counts the next reader gets no rates for its first second. Rates from
            // counts of long ago would be wrong.
            self.last = Last::default();
            return;
        }
        let busy = statistics::lock(&self.statistics).busy();
        let now = Instant::now();
        let seconds = self.last.at.map(|at| (now - at).as_secs_f64());
        let rates = self.last.hosts(&busy, seconds);
        let mut ranked: Vec<u64> = busy.keys().copied().collect();
        let rank = |key: &u64| {
            let requests = rates.get(key).map_or(0.0, |rates| rates[0]);
            (requests as u64, busy.get(key).map_or(0, |sums| sums.get(HostCount::Completed)))
        };
        if limits::BUSIEST_MAX < ranked.len() {
            ranked.select_nth_unstable_by_key(limits::BUSIEST_MAX, |key| {
                std::cmp::Reverse(rank(key))
            });
            ranked.truncate(limits::BUSIEST_MAX);
        }
        ranked.sort_by_cached_key(|key| (std::cmp::Reverse(rank(key)), *key));
        let (mut totals, shards) = self.last.shards(&self.shards, seconds);
        if let Value::Object(totals) = &mut totals {
            totals.extend(self.history.minute(&self.shards));
        }
        self.last.at = Some(now);
        self.events.tell(Event::Tick(Arc::new(Tick {
            time: unix_time(),
            current_tag: current.tag.to_string(),
            rules: current.table.len(),
            busy,
            rates,
            ranked,
            totals,
            shards,
        })));
    }
}

/// Rates between two moments, rounded to a tenth; 0 if there was no moment before.
fn rates_between(before: Totals, now: Totals, seconds: Option<f64>) -> Rates {
    let pairs = [
        (now.completed_requests, before.completed_requests),
        (now.bytes_sent, before.bytes_sent),
        (now.bytes_received, before.bytes_received),
    ];
    pairs.map(|(now, before)| {
        let difference = now.saturating_sub(before) as f64;
        let per_second = seconds.map_or(0.0, |seconds| difference / seconds);
        (per_second * 10.0).round() / 10.0
    })
}

impl Last {
    fn hosts(&mut self, busy: &Busy, seconds: Option<f64>) -> HashMap<u64, Rates> {
        let before = std::mem::take(&mut self.hosts);
        self.hosts = busy.iter().map(|(key, sums)| (*key, totals_of(sums))).collect();
        let changed = self.hosts.iter().filter_map(|(key, now)| {
            // A host that has just got a slot has no rate yet: it is not known since when its
            // counts have grown.
            let before = before.get(key).unwrap_or(now);
            (now != before).then(|| (*key, rates_between(*before, *now, seconds)))
        });
        changed.collect()
    }

    /// Returns the totals of all shards, and the counts of each.
    fn shards(&mut self, shards: &ControlEnd, seconds: Option<f64>) -> (Value, Value) {
        let now = shards.counters().map(ShardMoment::of).collect();
        let before = std::mem::replace(&mut self.shards, now);
        self.load.resize(self.shards.len(), 0.0);
        let before = |index: usize| before.get(index).copied().unwrap_or(self.shards[index]);
        let mut rates = [0.0; 3];
        let mut errors = 0;
        let each = shards.counters().enumerate().map(|(index, shard)| {
            let (now, before) = (self.shards[index], before(index));
            let own = rates_between(before.totals, now.totals, seconds);
            (0..3).for_each(|at| rates[at] += own[at]);
            errors += now.totals.errors.saturating_sub(before.totals.errors);
            let cpu = now.cpu_micros.saturating_sub(before.cpu_micros) as f64;
            let alive = now.alive_micros.saturating_sub(before.alive_micros) as f64;
            // A shard notes its time about once a second, and it is read here about as often: now
            // and then there is nothing new.
            if alive != 0.0 {
                self.load[index] = (cpu / alive).clamp(0.0, 1.0);
            }
            let busy = (self.load[index] * 1000.0).round() / 1000.0;
            json!({
                "requests": now.totals.completed_requests,
                "requests_per_second": own[0],
                "open_connections": shard.get(Counter::Open),
                "busy": busy,
            })
        });
        let each: Vec<Value> = each.collect();
        let total = |counter| shards.total(counter);
        let completed = total(Counter::Completed);
        let answers = [
            ("2xx", Counter::Answers2xx),
            ("3xx", Counter::Answers3xx),
            ("4xx", Counter::Answers4xx),
            ("5xx", Counter::Answers5xx),
            ("unknown", Counter::AnswersUnknown),
        ];
        let answers: Value =
            answers.into_iter().map(|(class, counter)| (class, total(counter))).collect();
        let totals = json!({
            "open_requests": total(Counter::Requests).saturating_sub(completed),
            "completed_requests": completed,
            "bytes_sent": total(Counter::Sent),
            "bytes_received": total(Counter::Received),
            "held_requests": total(Counter::Held),
            "answers": answers,
            "requests_per_second": rates[0],
            "bytes_sent_per_second": rates[1],
            "bytes_received_per_second": rates[2],
            "errors": total(Counter::Errors),
            "errors_per_second": seconds.map_or(0.0, |seconds| per_second(errors, seconds)),
            "open_connections": total(Counter::Open),
        });
        (totals, Value::Array(each))
    }
}
