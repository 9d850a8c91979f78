//! Handover of the memory of wake-ups to a daemon that takes over: no address gets two POSTs for
//! one sleep, and no wake-up that was still to be sent is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::idle::{IdleStanding, idle_after};
use super::{Telling, Wake, deliver};
use crate::limits;

fn millis(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_millis)
}

impl Wake {
    /// Lists the wake-ups that were sent; from here on this process sends no more.
    pub(in crate::control) fn hand_over(&self) -> Value {
        self.shared.is_handed.store(true, Ordering::SeqCst);
        let now = Instant::now();
        let table = self.shared.held.table();
        let told = self.shared.told.lock();
        let is_current = |name: &str, rule| table.get(name) == Some(rule);
        let told = told.iter().filter(|(name, (rule, _))| is_current(name, rule));
        let ago = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
        let told: Vec<Value> =
            told.map(|(name, (_, at))| json!({ "host": **name, "ago_ms": ago(*at) })).collect();
        let idle = self.shared.idle();
        let idle: Vec<Value> = idle
            .standing(now)
            .map(|(name, rule)| {
                json!({
                    "host": name,
                    "quiet_ms": rule.quiet.as_millis() as u64,
                    "completed": rule.completed,
                    "told": rule.is_told,
                })
            })
            .collect();
        json!({ "told": told, "idle": idle })
    }

    /// Takes over the list of another process.
    pub(in crate::control) fn recall(&self, known: &Value) {
        let now = Instant::now();
        let table = self.shared.held.table();
        let mut told = self.shared.told.lock();
        for one in known["told"].as_array().into_iter().flatten() {
            let (Some(name), Some(ago)) = (one["host"].as_str(), millis(&one["ago_ms"])) else {
                continue;
            };
            if let (Some(rule), Some(at)) = (table.get(name), now.checked_sub(ago)) {
                told.insert(name.into(), (rule.clone(), at));
            }
        }
        drop(told);
        let mut idle = self.shared.idle();
        for one in known["idle"].as_array().into_iter().flatten() {
            let (Some(name), Some(quiet)) = (one["host"].as_str(), millis(&one["quiet_ms"])) else {
                continue;
            };
            let completed = one["completed"].as_u64().unwrap_or(0);
            let is_told = one["told"].as_bool().unwrap_or(false);
            if table.get(name).is_some_and(|rule| idle_after(rule).is_some()) {
                idle.recall(table.key(name), &IdleStanding { quiet, completed, is_told }, now);
            }
        }
    }

    /// Goes on after all, because the other daemon did not take over: sends the wake-ups that were
    /// to be sent meanwhile.
    pub(in crate::control) fn resume(&self) {
        self.shared.is_handed.store(false, Ordering::SeqCst);
        let untold = std::mem::take(&mut *self.shared.skipped());
        for telling in untold {
            let is_new = telling.event != "held" || self.shared.is_asleep(&telling);
            if telling.url().is_some() && (is_new || telling.is_begun) {
                tokio::spawn(deliver(self.shared.clone(), telling));
            }
        }
    }

    /// Takes the wake-ups whose POST was tried here in vain, for the daemon that has taken over.
    /// Later wake-ups are left out: their requests go to that daemon, and it sends the wake-ups
    /// itself.
    pub(in crate::control) fn take_untold(&self) -> Vec<Value> {
        let untold = std::mem::take(&mut *self.shared.skipped());
        let untold = untold.into_iter().filter(|telling| telling.is_begun);
        let to_json = |telling: Telling| {
            json!({
                "host": *telling.name,
                "event": telling.event,
                "since": telling.since,
                "idle_s": telling.idle.map(|idle| idle.as_secs()),
            })
        };
        untold.map(to_json).collect()
    }

    /// Sends the wake-ups that another process could not send.
    pub(in crate::control) fn tell_on(&self, untold: &[Value]) {
        let table = self.shared.held.table();
        for one in untold {
            let Some(name) = one["host"].as_str() else { continue };
            let Some(rule) = table.get(name) else { continue };
            let idle = one["idle_s"].as_u64().map(Duration::from_secs);
            let event = if idle.is_some() { "idle" } else { "held" };
            let since = one["since"].as_f64().unwrap_or_default();
            let (name, rule) = (Arc::from(name), rule.clone());
            let telling = Telling { event, name, rule, since, idle, is_begun: true };
            if telling.url().is_some() {
                tokio::spawn(deliver(self.shared.clone(), telling));
            }
        }
    }

    /// Waits until no wake-up is being sent; at most as long as sending one may take.
    pub(in crate::control) async fn settled(&self) {
        let until = Instant::now() + limits::WAKE_TIME;
        while self.shared.telling.load(Ordering::SeqCst) != 0 && Instant::now() < until {
            tokio::time::sleep(limits::ELDER_TELLS).await;
        }
    }
}
