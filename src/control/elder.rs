//! The daemon before this one (the elder), while it finishes the requests under way there. This
//! daemon asks it what it cannot see itself, and counts the requests there as well. This module
//! also collects the memory that is passed on to the next daemon, and is nowhere on disk: addresses
//! of names, health, wake-ups that were sent, permits taken, rates.
//!
//! All of it is JSON. Each side reads the members that it knows, because a daemon of another
//! version sends fewer, or more.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::health::{Known, KnownArrival, State};
use super::{Control, Handle, statistics};
use crate::address::Address;
use crate::limits;
use crate::link::{BusySources, ControlEnd, Drain};
use crate::table::{Action, Snapshot};

/// Requests of a rule that are under way in the other daemon: in all, and by backend. `None`: it
/// has not answered yet.
pub(super) type UnderWay = Option<(u64, Vec<(Address, u64)>)>;

/// The daemon before this one.
#[derive(Clone, Default)]
pub(crate) struct Elder(Arc<Mutex<Questions>>);

#[derive(Default)]
struct Questions {
    ask: Option<Sender<Value>>,
    open: HashMap<u64, watch::Sender<UnderWay>>,
    last: u64,
}

impl Elder {
    fn lock(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is a daemon before this one. The caller is to send it each question that
    /// comes out of the receiver.
    pub(crate) fn begin(&self) -> Receiver<Value> {
        let (ask, asked) = channel();
        self.lock().ask = Some(ask);
        asked
    }

    /// Asks how many requests of a rule are under way in the other daemon at these backends.
    /// `None`: the other daemon is gone.
    pub(super) fn ask(
        &self,
        rule: &str,
        backends: &[Address],
    ) -> Option<watch::Receiver<UnderWay>> {
        let mut questions = self.lock();
        questions.last += 1;
        let number = questions.last;
        let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
        let question = json!({ "ask": number, "rule": rule, "backends": backends });
        questions.ask.as_ref()?.send(question).ok()?;
        let (answer, answered) = watch::channel(None);
        questions.open.insert(number, answer);
        Some(answered)
    }

    /// Tells the other daemon to drain its connections, by `Connection: close`, or to end at once.
    pub(crate) fn stop(&self, at_once: bool) {
        let how = if at_once { "now" } else { "drain" };
        if let Some(ask) = &self.lock().ask {
            // The other daemon may be gone.
            let _ = ask.send(json!({ "stop": how }));
        }
    }

    fn answer(&self, answer: &Value) {
        let Some(number) = answer["drained"].as_u64() else { return };
        let mut questions = self.lock();
        let Some(sender) = questions.open.get(&number) else { return };
        let at = answer["at"].as_object().into_iter().flatten();
        let at = at.filter_map(|(at, count)| Some((at.parse().ok()?, count.as_u64()?)));
        let left = answer["left"].as_u64().map(|left| (left, at.collect()));
        let is_over = left.as_ref().is_some_and(|left| left.0 == 0);
        // The client that asked may have gone.
        let is_asked = sender.send(left).is_ok();
        if is_over || !is_asked {
            questions.open.remove(&number);
        }
    }

    /// Notes that the other daemon has ended, so that nothing is under way there.
    fn gone(&self) {
        *self.lock() = Questions::default();
    }
}

impl Handle {
    /// Collects the memory for the next daemon. From here on, this daemon sends no wake-ups.
    pub(crate) fn memory(&self) -> Value {
        let sources = &self.api.sources;
        let mut names = Map::new();
        let all = sources.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in all.iter_live().filter(|name| name.is_asked()) {
            let addresses = name.addresses();
            let addresses = addresses.iter().map(|address| json!(address.ip().to_string()));
            names.insert(name.host.to_string(), addresses.collect());
        }
        drop(all);
        let health = sources.health.known().into_iter().map(|known| {
            json!({
                "backend": known.backend.to_string(),
                "check": known.check,
                "rule": known.rule,
                "state": known.state.as_str(),
                "reason": known.reason,
                "since": unix_seconds(known.since),
            })
        });
        let arrivals =
            sources.health.arrivals(&sources.published.table()).into_iter().map(|known| {
                json!({
                    "backend": known.backend.to_string(),
                    "check": known.check,
                    "rule": known.rule,
                    "age": known.age.as_secs_f64(),
                })
            });
        json!({
            "names": names,
            "health": health.collect::<Vec<_>>(),
            "arrivals": arrivals.collect::<Vec<_>>(),
            "wake": self.wake.hand_over(),
            "places": places(&sources.shards),
            "open_places": open_places(&sources.shards, &sources.published.table()),
            "rates": rates(&sources.shards, &sources.published.table()),
            "history": sources.history.to_json(),
            "events": sources.events.log().to_json(),
            "changes": sources.changes.lock().to_json(),
        })
    }

    /// Counts requests that are under way here, for the daemon that has taken over.
    pub(crate) fn under_way(&self) -> Value {
        let sources = &self.api.sources;
        let table = sources.published.table_full();
        let open: Map<String, Value> = statistics::lock(&sources.statistics)
            .open(&table)
            .into_iter()
            .map(|(name, open)| (name, json!(open)))
            .collect();
        let open_places = open_places(&sources.shards, &table);
        json!({ "open": open, "places": places(&sources.shards), "open_places": open_places })
    }

    /// Takes the wake-ups that could not be sent.
    pub(crate) fn take_untold(&self) -> Vec<Value> {
        self.wake.take_untold()
    }

    /// Waits until no wake-up is being sent.
    pub(crate) async fn wake_settled(&self) {
        self.wake.settled().await;
    }

    /// Passes a question of the daemon that has taken over to every shard here.
    pub(crate) fn question(&self, asked: &Value) -> Option<(u64, Arc<Drain>)> {
        let sources = &self.api.sources;
        let number = asked["ask"].as_u64()?;
        let backends = asked["backends"].as_array()?.iter();
        let backends = backends.filter_map(|backend| backend.as_str()?.parse().ok()).collect();
        let key = Snapshot::default().key(asked["rule"].as_str()?);
        let drain = Drain::elsewhere(key, backends, sources.shards.counters().len());
        let drain = Arc::new(drain.ok()?);
        answer_for_ended(&sources.shards, &drain);
        sources.shards.ask(&drain);
        Some((number, drain))
    }

    /// Returns what is known of the answer by now, and whether it is final.
    pub(crate) fn answer(number: u64, drain: &Drain, shards: &ControlEnd) -> (Value, bool) {
        answer_for_ended(shards, drain);
        let left = drain.left();
        let at = drain.left_at().map(|(at, count)| (at.to_string(), json!(count)));
        let at: Map<String, Value> = at.collect();
        (json!({ "drained": number, "left": left, "at": at }), left == Some(0))
    }

    /// Handles a message of the daemon before this one. Returns whether it is a message of a known
    /// kind.
    pub(crate) fn hear(&self, said: &Value) -> bool {
        let sources = &self.api.sources;
        if let Some(open) = said["open"].as_object() {
            let open = open.iter().filter_map(|(name, open)| Some((name.clone(), open.as_u64()?)));
            let open: Vec<(String, u64)> = open.collect();
            let table = sources.published.table_full();
            statistics::lock(&sources.statistics).set_elder(&table, &open);
            set_taken(&sources.shards, said);
        } else if said["drained"].is_u64() {
            self.api.elder.answer(said);
        } else if let Some(untold) = said["untold"].as_array() {
            let _within = self.runtime.enter();
            self.wake.tell_on(untold);
        } else {
            return false;
        }
        true
    }

    /// Notes that the daemon before this one has ended.
    pub(crate) fn elder_is_gone(&self) {
        let sources = &self.api.sources;
        self.api.elder.gone();
        let table = sources.published.table_full();
        statistics::lock(&sources.statistics).set_elder(&table, &[]);
        set_taken(&sources.shards, &Value::Null);
    }

    /// The daemon before this one.
    pub(crate) fn elder(&self) -> &Elder {
        &self.api.elder
    }
}

fn places(shards: &ControlEnd) -> Map<String, Value> {
    let taken = shards.together.gates.taken().into_iter();
    taken.map(|(backend, taken)| (backend.to_string(), json!(taken))).collect()
}

/// Permits taken for open requests, by the rule's name.
fn open_places(shards: &ControlEnd, table: &Snapshot) -> Map<String, Value> {
    let taken = shards.together.rule_gates.taken().into_iter();
    let named = taken.filter_map(|(key, taken)| Some((table.name_of(key)?.to_owned(), taken)));
    named.map(|(name, taken)| (name, json!(taken))).collect()
}

/// Rates that are not at rest, of rules and of clients at rules, with the current time. Each is at
/// rest after a second at most, so it matters little that with very many rules only some are passed
/// on.
fn rates(shards: &ControlEnd, table: &Snapshot) -> Value {
    let now = Instant::now();
    let together = &shards.together;
    let busy = together.rates.busy(now).into_iter();
    let by_rule = busy.filter_map(|(key, left)| {
        Some((table.name_of(key)?.to_owned(), json!(left.as_nanos() as u64)))
    });
    let sources = together.source_rates.busy(now).filter(|busy| !busy.left.is_empty());
    let sources = sources.map(|busy| {
        let limited = table.iter().filter(|(_, rule)| match &rule.action {
            Action::Proxy(proxy) => proxy.max_requests_per_second_per_source().is_some(),
            _ => false,
        });
        let keys = limited.take(limits::SOURCE_RATES_MAX);
        let keys = keys.map(|(name, _)| (name.to_owned(), json!(table.key(name))));
        let left = busy.left.iter().map(|(tag, left)| json!([tag, left.as_nanos() as u64]));
        json!({
            "seed": busy.seed,
            "keys": keys.collect::<Map<_, _>>(),
            "left": left.collect::<Vec<_>>(),
        })
    });
    json!({
        "at": unix_seconds(SystemTime::now()),
        "rules": by_rule.collect::<Map<_, _>>(),
        "sources": sources,
    })
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Takes over the rates of the daemon before this one. The time that has passed since it listed
/// them is subtracted.
fn recall_rates(shards: &ControlEnd, rates: &Value) {
    let (table, now) = (Snapshot::default(), Instant::now());
    let passed = rates["at"].as_f64().map(|at| unix_seconds(SystemTime::now()) - at);
    let passed = passed.and_then(|passed| Duration::try_from_secs_f64(passed).ok());
    let passed = passed.unwrap_or_default();
    let left = |nanos: &Value| {
        let left = Duration::from_nanos(nanos.as_u64()?).saturating_sub(passed);
        (!left.is_zero()).then_some(left)
    };
    for (name, nanos) in rates["rules"].as_object().into_iter().flatten() {
        if let Some(left) = left(nanos) {
            shards.together.rates.recall(table.key(name), left, now);
        }
    }
    let sources = &rates["sources"];
    let keys = sources["keys"].as_object().into_iter().flatten();
    let keys = keys.filter_map(|(name, key)| Some((table.key(name), key.as_u64()?)));
    let all = sources["left"].as_array().into_iter().flatten();
    let busy = all.filter_map(|one| Some((one[0].as_u64()?, left(&one[1])?)));
    let busy: Vec<(u64, Duration)> = busy.collect();
    if let (Some(seed), false) = (sources["seed"].as_u64(), busy.is_empty()) {
        let busy = BusySources { seed, left: busy };
        shards.together.source_rates.recall(&busy, keys.collect(), now);
    }
}

/// Takes over the permits that are taken in the daemon before this one. A message without them
/// means none.
fn set_taken(shards: &ControlEnd, said: &Value) {
    let table = Snapshot::default();
    shards.together.gates.set_elder(&taken(&said["places"], |address| address.parse().ok()));
    let by_rule = taken(&said["open_places"], |name| Some(table.key(name)));
    shards.together.rule_gates.set_elder(&by_rule);
}

fn taken<K: Eq + Hash>(places: &Value, key: impl Fn(&str) -> Option<K>) -> HashMap<K, u32> {
    let places = places.as_object().into_iter().flatten();
    let each =
        places.filter_map(|(name, taken)| Some((key(name)?, u32::try_from(taken.as_u64()?).ok()?)));
    each.collect()
}

impl Control {
    /// Takes over the memory of the daemon before this one. Called before any name is looked up.
    pub(crate) fn recall(&mut self, memory: &Value) {
        let names = memory["names"].as_object().into_iter().flatten();
        self.resolver.recall(names.filter_map(|(name, addresses)| {
            let addresses = addresses.as_array()?.iter();
            let addresses = addresses.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
            Some((name.clone(), addresses.collect()))
        }));
        let sources = &self.api.sources;
        let health = memory["health"].as_array().into_iter().flatten();
        let health = health.filter_map(|known| {
            let since = Duration::try_from_secs_f64(known["since"].as_f64()?).ok()?;
            Some(Known {
                backend: known["backend"].as_str()?.parse().ok()?,
                check: known["check"].as_str().map(str::to_owned),
                rule: known["rule"].as_str().map(str::to_owned),
                state: State::parse(known["state"].as_str()?)?,
                reason: known["reason"].as_str().unwrap_or_default().to_owned(),
                since: SystemTime::UNIX_EPOCH.checked_add(since)?,
            })
        });
        sources.health.recall(health.collect(), &sources.published);
        let arrivals = memory["arrivals"].as_array().into_iter().flatten();
        let arrivals = arrivals.filter_map(|known| {
            Some(KnownArrival {
                backend: known["backend"].as_str()?.parse().ok()?,
                check: known["check"].as_str().map(str::to_owned),
                rule: known["rule"].as_str().map(str::to_owned),
                age: Duration::try_from_secs_f64(known["age"].as_f64()?).ok()?,
            })
        });
        sources.health.recall_arrivals(arrivals.collect(), &sources.published);
        self.wake.recall(&memory["wake"]);
        sources.history.recall(&memory["history"]);
        sources.events.log().recall(&memory["events"]);
        sources.changes.lock().recall(&memory["changes"]);
        set_taken(&sources.shards, memory);
        recall_rates(&sources.shards, &memory["rates"]);
    }
}

/// Answers a question for the shards that have ended and so cannot answer it: with 0.
fn answer_for_ended(shards: &ControlEnd, drain: &Drain) {
    let width = drain.backends.len() + 1;
    let ended = shards.beats().into_iter().enumerate().filter(|(_, beat)| beat.is_none());
    ended.for_each(|(shard, _)| drain.answer(shard, std::iter::repeat_n(0, width)));
}
