//! Statistics per host: what the shards count now, what they have handed over, and what was saved
//! before the last start, as one number.
//!
//! A shard's slot that was idle for long is retired and its numbers come here, packed: about 100
//! bytes for a host that ever had traffic, nothing for one that had none. A deleted host's numbers
//! go, though the shards' slots stay for a while: what they held at that moment is taken off from
//! then on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use super::Counted;
use crate::limits;
use crate::link::{ByKey, ControlEnd, HostCount, Id, KeySet, Sums};
use crate::state::Totals;
use crate::table::{Snapshot, UNKNOWN};

/// The statistics, shared by several threads: the API, the writer, and the one that folds the
/// journal.
pub(super) type SharedStatistics = Arc<Mutex<Statistics>>;

/// Locks the statistics; after a panic they are still numbers.
pub(super) fn lock(statistics: &SharedStatistics) -> MutexGuard<'_, Statistics> {
    statistics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All counters by host.
pub(super) struct Statistics {
    shards: ControlEnd,
    /// Sums handed over by shards, and saved before: by key, packed.
    base: ByKey<Box<[u8]>>,
    /// Sums in the slots of a host when it was deleted.
    gone: ByKey<Sums>,
    /// Requests completed in each slot of each shard when it was saved last.
    saved: Vec<Vec<u64>>,
    /// Hosts that have more than was saved, though no slot shows it.
    unsaved: KeySet,
    /// Backends that shards have forgotten.
    backends: HashMap<Id, Sums>,
    /// Requests under way in a daemon that is being taken over from.
    elder: ByKey<u64>,
}

/// Hosts with their sums.
pub(super) type Busy = ByKey<Sums>;

impl Statistics {
    /// Goes on from what was saved; names that no rule has (any more) are left out.
    pub(super) fn new(shards: ControlEnd, table: &Snapshot, saved: &[Counted]) -> Statistics {
        let known = saved.iter().filter(|(name, _)| is_counted(table, name));
        let base = known.map(|(name, counters)| (table.key(name), sums_of(*counters).pack()));
        let nothing_saved = vec![Vec::new(); shards.counters().len()];
        Statistics {
            base: base.collect(),
            gone: ByKey::default(),
            saved: nothing_saved,
            unsaved: KeySet::default(),
            backends: HashMap::new(),
            elder: ByKey::default(),
            shards,
        }
    }

    /// Takes over the slots that shards have retired, once a second. As long as there are none,
    /// that is a look at each slot and nothing more.
    pub(super) fn take_over(&mut self, table: &Snapshot) {
        let mut of_deleted = KeySet::default();
        for (slots, saved) in self.shards.hosts().zip(&mut self.saved) {
            slots.take_retired(|index, [key, ..], sums| {
                let saved = saved.get_mut(index).map(std::mem::take).unwrap_or_default();
                if saved != sums.get(HostCount::Completed) {
                    self.unsaved.insert(key);
                }
                add(&mut self.base, key, &sums);
                if self.gone.contains_key(&key) {
                    of_deleted.insert(key);
                }
            });
        }
        self.end_deleted(&of_deleted, table);
        for slots in self.shards.backends() {
            slots.take_retired(|_, id, mut sums| {
                // Nothing is open any more at a backend that a shard has forgotten.
                sums.set(HostCount::Open, 0);
                sums.set(HostCount::Held, 0);
                if self.backends.len() < limits::BACKENDS_TOLD_MAX
                    || self.backends.contains_key(&id)
                {
                    self.backends.entry(id).or_default().add(&sums);
                }
            });
        }
    }

    /// Takes off for good the sums of deleted hosts of which no slot holds any more.
    fn end_deleted(&mut self, keys: &KeySet, table: &Snapshot) {
        if keys.is_empty() {
            return;
        }
        let held = self.in_slots(keys);
        for key in keys.iter().filter(|key| !held.contains_key(key)) {
            let Some(gone) = self.gone.remove(key) else { continue };
            let mut all =
                self.base.remove(key).map_or_else(Sums::default, |old| Sums::unpack(&old));
            all.sub_ended(&gone);
            if name_of(table, *key).is_some() {
                self.base.insert(*key, all.pack());
            }
        }
    }

    /// Sums of these hosts in the slots.
    fn in_slots(&self, keys: &KeySet) -> Busy {
        let mut held = Busy::default();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], slot| {
                if keys.contains(&key) {
                    held.entry(key).or_default().add(&slot.sums());
                }
            });
        }
        held
    }

    /// Every host that a shard has a slot for, with all its sums.
    pub(super) fn busy(&self) -> Busy {
        let mut busy = Busy::default();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], slot| busy.entry(key).or_default().add(&slot.sums()));
        }
        for key in self.elder.keys() {
            busy.entry(*key).or_default();
        }
        self.complete(&mut busy);
        busy
    }

    /// Sums of these hosts; a host that never had a request is left out.
    pub(super) fn of(&self, keys: &KeySet) -> Busy {
        let mut found = self.in_slots(keys);
        let is_known = |key: &&u64| self.base.contains_key(key) || self.elder.contains_key(key);
        for key in keys.iter().filter(is_known) {
            found.entry(*key).or_default();
        }
        self.complete(&mut found);
        found
    }

    /// Adds the sums that slots do not hold (any more).
    fn complete(&self, found: &mut Busy) {
        for (key, sums) in found {
            if let Some(more) = self.base.get(key) {
                sums.add(&Sums::unpack(more));
            }
            if let Some(less) = self.gone.get(key) {
                sums.sub_ended(less);
            }
            if let Some(open) = self.elder.get(key) {
                sums.set(HostCount::Open, sums.get(HostCount::Open) + open);
            }
        }
    }

    /// Requests that are under way here, by name.
    pub(super) fn open(&self, table: &Snapshot) -> Vec<(String, u64)> {
        let mut open = ByKey::<u64>::default();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], slot| {
                *open.entry(key).or_default() += slot.get(HostCount::Open)
            });
        }
        let open = open.into_iter().filter(|(_, open)| *open != 0);
        open.filter_map(|(key, open)| Some((name_of(table, key)?.to_owned(), open))).collect()
    }

    /// Sets the requests that are under way in a daemon that is being taken over from.
    pub(super) fn set_elder(&mut self, table: &Snapshot, open: &[(String, u64)]) {
        self.elder = open.iter().map(|(name, open)| (table.key(name), *open)).collect();
    }

    /// Sums of one host.
    pub(super) fn of_one(&self, key: u64) -> Option<Sums> {
        self.of(&KeySet::from_iter([key])).remove(&key)
    }

    /// The key of every host that ever had a request.
    pub(super) fn known(&self) -> KeySet {
        let mut known: KeySet = self.base.keys().copied().collect();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], _| {
                known.insert(key);
            });
        }
        known
    }

    /// Forgets deleted hosts: later hosts of these names start at nothing.
    pub(super) fn forget(&mut self, keys: &KeySet) {
        let mut held = self.in_slots(keys);
        for key in keys {
            self.base.remove(key);
            self.unsaved.remove(key);
            match held.remove(key) {
                Some(sums) => self.gone.insert(*key, sums),
                None => self.gone.remove(key),
            };
        }
    }

    /// Takes the totals that changed since they were saved last; of very many a part, the others
    /// next time.
    pub(super) fn take_unsaved(&mut self, table: &Snapshot) -> Vec<Counted> {
        let mut keys: KeySet = self.unsaved.iter().copied().take(limits::SAVED_AT_ONCE).collect();
        keys.iter().for_each(|key| _ = self.unsaved.remove(key));
        for (slots, saved) in self.shards.hosts().zip(&mut self.saved) {
            slots.look(|index, [key, ..], slot| {
                if saved.len() <= index {
                    saved.resize(index + 1, 0);
                }
                let completed = slot.get(HostCount::Completed);
                if saved[index] != completed
                    && (keys.len() < limits::SAVED_AT_ONCE || keys.contains(&key))
                {
                    saved[index] = completed;
                    keys.insert(key);
                }
            });
        }
        named(table, self.of(&keys)).collect()
    }

    /// Puts totals back that could not be saved.
    pub(super) fn put_back(&mut self, table: &Snapshot, unsaved: &[Counted]) {
        self.unsaved.extend(unsaved.iter().map(|(name, _)| table.key(name)));
    }

    /// Adds sums of another process; hosts that no rule has any more are left out.
    pub(super) fn add_counts(&mut self, table: &Snapshot, counted: &[Counted]) {
        for (name, totals) in counted {
            if !is_counted(table, name) {
                continue;
            }
            let key = table.key(name);
            add(&mut self.base, key, &sums_of(*totals));
            self.unsaved.insert(key);
        }
    }

    /// Backends that shards know or knew, with their sums.
    pub(super) fn backends(&self) -> HashMap<Id, Sums> {
        let mut all = self.backends.clone();
        for slots in self.shards.backends() {
            slots.look(|_, id, slot| all.entry(id).or_default().add(&slot.sums()));
        }
        all
    }
}

fn add(base: &mut ByKey<Box<[u8]>>, key: u64, sums: &Sums) {
    let packed = base.entry(key).or_default();
    let mut all = Sums::unpack(packed);
    all.add(sums);
    *packed = all.pack();
}

/// The sums of a host that outlive the process, as its slot counts them.
const TOTALS: [HostCount; 3] =
    [HostCount::Completed, HostCount::BytesSent, HostCount::BytesReceived];

pub(super) fn totals_of(sums: &Sums) -> Totals {
    Totals::from(TOTALS.map(|count| sums.get(count)))
}

fn sums_of(totals: Totals) -> Sums {
    let mut sums = Sums::default();
    TOTALS.into_iter().zip(<[u64; 3]>::from(totals)).for_each(|(count, n)| sums.set(count, n));
    sums
}

/// The totals of these hosts by name; hosts that no rule has any more are left out.
fn named(table: &Snapshot, hosts: Busy) -> impl Iterator<Item = Counted> {
    hosts
        .into_iter()
        .filter_map(|(key, sums)| Some((name_of(table, key)?.to_owned(), totals_of(&sums))))
}

/// Lists the totals of all hosts, as they are saved. A million hosts take long: the lock is given
/// up between parts of them.
pub(super) fn to_save(statistics: &SharedStatistics, table: &Snapshot) -> Vec<Counted> {
    let known: Vec<u64> = lock(statistics).known().into_iter().collect();
    let mut all: Vec<Counted> = Vec::with_capacity(known.len());
    for part in known.chunks(limits::STATISTICS_AT_ONCE) {
        let found = lock(statistics).of(&part.iter().copied().collect());
        all.extend(named(table, found));
    }
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn is_counted(table: &Snapshot, name: &str) -> bool {
    name == UNKNOWN || table.get(name).is_some()
}

/// The name that is counted under this key.
pub(super) fn name_of(table: &Snapshot, key: u64) -> Option<&str> {
    table.name_of(key).or_else(|| (key == table.key(UNKNOWN)).then_some(UNKNOWN))
}

/// JSON of the original's four numbers, requests held, and responses by class; replies to unknown
/// hosts are a class of their own.
pub(super) fn to_json(sums: &Sums) -> Map<String, Value> {
    let classes = ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(sums.answers());
    let mut answers: Map<_, _> =
        classes.map(|(class, count)| (class.to_owned(), json!(count))).collect();
    // Only what no rule is for has this class.
    if sums.unknown() != 0 {
        answers.insert("unknown".to_owned(), json!(sums.unknown()));
    }
    let numbers = [
        ("open_requests", HostCount::Open),
        ("completed_requests", HostCount::Completed),
        ("bytes_sent", HostCount::BytesSent),
        ("bytes_received", HostCount::BytesReceived),
        ("held_requests", HostCount::Held),
    ];
    let numbers = numbers.map(|(name, count)| (name.to_owned(), json!(sums.get(count))));
    let mut object: Map<String, Value> = numbers.into_iter().collect();
    object.insert("answers".to_owned(), Value::Object(answers));
    object
}
