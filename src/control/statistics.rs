//! Statistics per host: what the shards count now, what they have handed over, and what was saved
//! before the last start, as one number.
//!
//! A shard's slot that was idle for long is retired and its numbers come here, packed: about 100 bytes
//! for a host that ever had traffic, nothing for one that had none. A deleted host's numbers go, though
//! the shards' slots stay for a while: what they held at that moment is taken off from then on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::limits;
use crate::link::{ControlEnd, Count, Id, Sums};
use crate::state::Counters;
use crate::table::{Snapshot, UNKNOWN};

/// What is asked for from several threads: the API, the writer, and whoever folds the journal.
pub(super) type SharedStatistics = Arc<Mutex<Statistics>>;

/// The lock; what a panic left behind is still numbers.
pub(super) fn lock(statistics: &SharedStatistics) -> MutexGuard<'_, Statistics> {
    statistics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All counters by host.
pub(super) struct Statistics {
    shards: ControlEnd,
    /// Handed over by shards, and saved before: by key, packed.
    base: HashMap<u64, Box<[u8]>>,
    /// What slots held when their host was deleted.
    gone: HashMap<u64, Sums>,
    /// Requests completed in each slot of each shard when it was looked at last.
    seen: Vec<Vec<u64>>,
    /// Hosts with requests since they were saved last.
    unsaved: HashSet<u64>,
    /// As collected last, and handed over before that.
    backends: HashMap<Id, Sums>,
    backends_base: HashMap<Id, Sums>,
    busiest: HashSet<u64>,
}

/// The numbers of every host that a shard has a slot for.
pub(super) type Busy = HashMap<u64, Sums>;

impl Statistics {
    /// Goes on from what was saved; names that no rule has (any more) are left out.
    pub(super) fn new(
        shards: ControlEnd,
        table: &Snapshot,
        saved: &[(String, Counters)],
    ) -> Statistics {
        let known = saved.iter().filter(|(name, _)| is_counted(table, name));
        let base = known.map(|(name, counters)| {
            let mut sums = Sums::default();
            sums.set(Count::Completed, counters.completed_requests);
            sums.set(Count::Sent, counters.bytes_sent);
            sums.set(Count::Received, counters.bytes_received);
            (table.key(name), sums.pack())
        });
        let seen = vec![Vec::new(); shards.counters().len()];
        Statistics {
            base: base.collect(),
            gone: HashMap::new(),
            seen,
            unsaved: HashSet::new(),
            backends: HashMap::new(),
            backends_base: HashMap::new(),
            busiest: HashSet::new(),
            shards,
        }
    }

    /// Once a second: takes over what shards have retired, and returns what they count now, each host
    /// with all that it ever had.
    pub(super) fn collect(&mut self, table: &Snapshot) -> Busy {
        let mut busy = Busy::new();
        let mut retired: Vec<(u64, Sums)> = Vec::new();
        for (slots, seen) in self.shards.hosts().zip(&mut self.seen) {
            slots.collect(|index, [key, ..], sums, is_retired| {
                if seen.len() <= index {
                    seen.resize(index + 1, 0);
                }
                let completed = if is_retired { 0 } else { sums.get(Count::Completed) };
                if std::mem::replace(&mut seen[index], completed) != completed {
                    self.unsaved.insert(key);
                }
                match is_retired {
                    true => retired.push((key, sums)),
                    false => busy.entry(key).or_default().add(&sums),
                }
            });
        }
        let unknown = table.key(UNKNOWN);
        for (key, sums) in retired {
            // Of a host that was deleted meanwhile nobody will ask again.
            if key == unknown || table.name_of(key).is_some() {
                let mut all =
                    self.base.get(&key).map_or_else(Sums::default, |old| Sums::unpack(old));
                all.add(&sums);
                if let Some(gone) = self.gone.get(&key).filter(|_| !busy.contains_key(&key)) {
                    all.sub_ended(gone);
                }
                self.base.insert(key, all.pack());
            } else if let Some(gone) = self.gone.get_mut(&key) {
                gone.sub_ended(&sums);
            }
            if !busy.contains_key(&key) {
                self.gone.remove(&key);
            }
        }
        for (key, sums) in &mut busy {
            settle(*key, sums, &self.base, &self.gone);
        }
        self.collect_backends();
        self.note_busiest(&busy);
        busy
    }

    /// The hosts that had most requests, for the metrics. Only those with a slot are looked at: who has
    /// none is not among the busiest for long.
    fn note_busiest(&mut self, busy: &Busy) {
        let mut ranked: Vec<(u64, u64)> =
            busy.iter().map(|(key, sums)| (sums.get(Count::Completed), *key)).collect();
        if limits::METRIC_HOSTS < ranked.len() {
            ranked.select_nth_unstable_by(limits::METRIC_HOSTS, |a, b| b.cmp(a));
            ranked.truncate(limits::METRIC_HOSTS);
        }
        self.busiest = ranked.into_iter().map(|(_, key)| key).collect();
    }

    /// The busiest hosts of the last collection, with their numbers now.
    pub(super) fn busiest(&self) -> Busy {
        self.of(&self.busiest)
    }

    fn collect_backends(&mut self) {
        let mut live: HashMap<Id, Sums> = HashMap::new();
        for slots in self.shards.backends() {
            slots.collect(|_, id, mut sums, is_retired| {
                if is_retired {
                    // Nothing is open any more at a backend that a shard has forgotten.
                    sums.set(Count::Open, 0);
                    sums.set(Count::Held, 0);
                    self.backends_base.entry(id).or_default().add(&sums);
                } else {
                    live.entry(id).or_default().add(&sums);
                }
            });
        }
        if limits::BACKENDS_TOLD_MAX < self.backends_base.len() {
            self.backends_base.retain(|id, _| live.contains_key(id));
        }
        for (id, sums) in &self.backends_base {
            live.entry(*id).or_default().add(sums);
        }
        self.backends = live;
    }

    /// The numbers of these hosts; of one that never had a request there are none.
    pub(super) fn of(&self, keys: &HashSet<u64>) -> Busy {
        let mut found = Busy::new();
        for slots in self.shards.hosts() {
            slots.peek(
                |key| keys.contains(&key),
                |key, sums| found.entry(key).or_default().add(&sums),
            );
        }
        for key in keys {
            if self.base.contains_key(key) {
                found.entry(*key).or_default();
            }
        }
        for (key, sums) in &mut found {
            settle(*key, sums, &self.base, &self.gone);
        }
        found
    }

    /// Those of one host.
    pub(super) fn of_one(&self, key: u64) -> Option<Sums> {
        self.of(&HashSet::from([key])).remove(&key)
    }

    /// The key of every host that ever had a request.
    pub(super) fn known(&self) -> HashSet<u64> {
        let mut known: HashSet<u64> = self.base.keys().copied().collect();
        for slots in self.shards.hosts() {
            slots.peek(|key| known.insert(key), |_, _| {});
        }
        known
    }

    /// Hosts were deleted: whoever has these names later starts at nothing.
    pub(super) fn forget(&mut self, keys: &HashSet<u64>) {
        let mut held = Busy::new();
        for slots in self.shards.hosts() {
            slots.peek(
                |key| keys.contains(&key),
                |key, sums| held.entry(key).or_default().add(&sums),
            );
        }
        for key in keys {
            self.base.remove(key);
            self.unsaved.remove(key);
            match held.remove(key) {
                Some(sums) => self.gone.insert(*key, sums),
                None => self.gone.remove(key),
            };
        }
    }

    /// What changed since this was asked last, to be saved.
    pub(super) fn take_unsaved(&mut self, table: &Snapshot) -> Vec<(String, Counters)> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let found = self.of(&unsaved);
        let named = found
            .into_iter()
            .filter_map(|(key, sums)| Some((name_of(table, key)?.to_owned(), saved(&sums))));
        named.collect()
    }

    /// Saving them failed: they are still to be saved.
    pub(super) fn put_back(&mut self, table: &Snapshot, unsaved: &[(String, Counters)]) {
        self.unsaved.extend(unsaved.iter().map(|(name, _)| table.key(name)));
    }

    /// Backends that shards know or knew, with what they counted.
    pub(super) fn backends(&self) -> &HashMap<Id, Sums> {
        &self.backends
    }
}

/// Everything, as it is saved. A million hosts take long: the lock is given up between parts of them.
pub(super) fn to_save(statistics: &SharedStatistics, table: &Snapshot) -> Vec<(String, Counters)> {
    let known: Vec<u64> = lock(statistics).known().into_iter().collect();
    let mut all: Vec<(String, Counters)> = Vec::with_capacity(known.len());
    for part in known.chunks(limits::STATISTICS_AT_ONCE) {
        let found = lock(statistics).of(&part.iter().copied().collect());
        all.extend(
            found
                .into_iter()
                .filter_map(|(key, sums)| Some((name_of(table, key)?.to_owned(), saved(&sums)))),
        );
    }
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// What a host has in all, from what its slots have.
fn settle(key: u64, sums: &mut Sums, base: &HashMap<u64, Box<[u8]>>, gone: &HashMap<u64, Sums>) {
    if let Some(more) = base.get(&key) {
        sums.add(&Sums::unpack(more));
    }
    if let Some(less) = gone.get(&key) {
        sums.sub_ended(less);
    }
}

fn is_counted(table: &Snapshot, name: &str) -> bool {
    name == UNKNOWN || table.get(name).is_some()
}

/// The name that is counted under this key.
pub(super) fn name_of(table: &Snapshot, key: u64) -> Option<&str> {
    table.name_of(key).or_else(|| (key == table.key(UNKNOWN)).then_some(UNKNOWN))
}

fn saved(sums: &Sums) -> Counters {
    Counters {
        completed_requests: sums.get(Count::Completed),
        bytes_sent: sums.get(Count::Sent),
        bytes_received: sums.get(Count::Received),
    }
}

/// The original's four, what is held, and answers by class.
pub(super) fn to_json(sums: &Sums) -> Map<String, Value> {
    let classes = ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(sums.answers());
    let answers: Map<_, _> =
        classes.map(|(class, count)| (class.to_owned(), json!(count))).collect();
    let numbers = [
        ("open_requests", Count::Open),
        ("completed_requests", Count::Completed),
        ("bytes_sent", Count::Sent),
        ("bytes_received", Count::Received),
        ("held_requests", Count::Held),
    ];
    let numbers = numbers.map(|(name, count)| (name.to_owned(), json!(sums.get(count))));
    let mut object: Map<String, Value> = numbers.into_iter().collect();
    object.insert("answers".to_owned(), Value::Object(answers));
    object
}
