//! Statistics per host. Each number is the sum of what the shards count now, what they have handed
//! over, and what was saved before the last start.
//!
//! A shard retires a slot that was idle for long, and its numbers come here, packed: about 130
//! bytes for a host that ever had traffic, nothing for a host that had none. When a host is
//! deleted, its numbers here are dropped, but its slots in the shards stay for a while. What they
//! held at that moment is subtracted from then on.

mod archive;
mod rank;
mod window;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::Counted;
use crate::address::Address;
use crate::limits;
use crate::link::{BackendCount, ByKey, ControlEnd, HostCount, Id, KeyHasher, KeySet, Sums, Whole};
use crate::state::Totals;
use crate::table::{Snapshot, UNKNOWN};
use archive::HostArchive;
use window::Window;

pub(super) use rank::{Chosen, HostFilter, HostSort, HostTrouble, by_name, choose};
pub(super) use window::{SlotReading, per_second, percentiles, quantile};

/// The statistics, shared by several threads: the API, the writer, and the one that folds the
/// journal.
pub(super) type SharedStatistics = Arc<Mutex<Statistics>>;

/// Locks the statistics, also after a panic: the numbers can still be used.
pub(super) fn lock(statistics: &SharedStatistics) -> MutexGuard<'_, Statistics> {
    statistics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All counters by host.
pub(super) struct Statistics {
    shards: ControlEnd,
    /// Numbers that shards handed over, or that were saved before the start.
    archive: HostArchive,
    /// Numbers in the slots of a host when it was deleted.
    gone: ByKey<Box<Whole>>,
    /// Requests completed in each slot of each shard when the slot was last saved.
    saved: Vec<Vec<u64>>,
    /// Hosts that have higher totals than were saved, though no slot shows it.
    unsaved: KeySet,
    /// Backends that shards have forgotten, packed.
    backends: HashMap<Id, Box<[u8]>>,
    /// The last minute of hosts and of backends.
    host_window: Window<u64, BuildHasherDefault<KeyHasher>>,
    backend_window: Window<Id, RandomState>,
    /// Requests under way in the daemon that this one is taking over from.
    elder: ByKey<u64>,
}

/// Hosts with their sums.
pub(super) type Busy = ByKey<Sums>;

impl Statistics {
    /// Goes on from the totals that were saved; names that no rule has (any more) are left out.
    pub(super) fn new(shards: ControlEnd, table: &Snapshot, saved: &[Counted]) -> Statistics {
        let mut archive = HostArchive::default();
        for (name, counters) in saved.iter().filter(|(name, _)| is_counted(table, name)) {
            archive.set(table.key(name), &sums_of(*counters).into());
        }
        let count = shards.counters().len();
        let nothing_saved = vec![Vec::new(); count];
        let now = Instant::now();
        Statistics {
            archive,
            gone: ByKey::default(),
            saved: nothing_saved,
            unsaved: KeySet::default(),
            backends: HashMap::new(),
            host_window: Window::new(count, now),
            backend_window: Window::new(count, now),
            elder: ByKey::default(),
            shards,
        }
    }

    /// Takes over the slots that shards have retired; called once a second. If there are none, this
    /// only looks at each slot.
    pub(super) fn take_over(&mut self, table: &Snapshot) {
        self.take_wraps();
        let mut of_deleted = KeySet::default();
        for (shard, (slots, saved)) in self.shards.hosts().zip(&mut self.saved).enumerate() {
            slots.take_retired(|index, [key, ..], slot| {
                let saved = saved.get_mut(index).map(std::mem::take).unwrap_or_default();
                let whole = slot.whole();
                if saved != whole.sums.get(HostCount::Completed) {
                    self.unsaved.insert(key);
                }
                self.archive.change(key, |base| base.add(&whole));
                self.host_window.retire((shard, index), key, &SlotReading::of_host(slot));
                if self.gone.contains_key(&key) {
                    of_deleted.insert(key);
                }
            });
        }
        self.end_deleted(&of_deleted, table);
        if limits::BACKENDS_TOLD_MAX <= self.backends.len() {
            self.backends.retain(|id, _| Address::from_words(*id).is_known());
        }
        for (shard, slots) in self.shards.backends().enumerate() {
            slots.take_retired(|index, id, slot| {
                let mut whole = slot.whole();
                // Nothing is open any more at a backend that a shard has forgotten.
                whole.sums.set(HostCount::Open, 0);
                whole.sums.set(HostCount::Held, 0);
                let reading = SlotReading::of_backend(slot);
                self.backend_window.retire((shard, index), id, &reading);
                let is_known = self.backends.contains_key(&id);
                if is_known || self.backends.len() < limits::BACKENDS_TOLD_MAX {
                    let packed = self.backends.entry(id).or_default();
                    whole.add(&Whole::unpack(packed));
                    *packed = whole.pack();
                }
            });
        }
    }

    /// Adds up the classes of times whose counts in slots have come to their end and wrapped
    /// around.
    fn take_wraps(&mut self) {
        for slots in self.shards.hosts() {
            slots.take_wraps(|[key, ..], class| {
                self.archive.change(key, |base| base.add_wrap(class));
            });
        }
        for slots in self.shards.backends() {
            slots.take_wraps(|id, class| {
                let packed = self.backends.entry(id).or_default();
                let mut whole = Whole::unpack(packed);
                whole.add_wrap(class);
                *packed = whole.pack();
            });
        }
    }

    /// Subtracts for good the sums of deleted hosts that no slot holds any more.
    fn end_deleted(&mut self, keys: &KeySet, table: &Snapshot) {
        let held = self.in_slots(keys);
        for key in keys.iter().filter(|key| !held.contains_key(key)) {
            let Some(gone) = self.gone.remove(key) else { continue };
            match name_of(table, *key) {
                Some(_) => self.archive.change(*key, |base| base.sub_ended(&gone)),
                None => self.archive.remove(*key),
            }
        }
    }

    /// Sums of these hosts in the slots.
    fn in_slots(&self, keys: &KeySet) -> Busy {
        let mut held = Busy::default();
        if keys.is_empty() {
            return held;
        }
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
        let is_known = |key: &&u64| self.archive.contains(**key) || self.elder.contains_key(key);
        for key in keys.iter().filter(is_known) {
            found.entry(*key).or_default();
        }
        self.complete(&mut found);
        found
    }

    /// Adds the numbers that slots do not hold (any more), and subtracts those of deleted hosts.
    fn complete(&self, found: &mut Busy) {
        for (key, sums) in found {
            if let Some(more) = self.archive.sums(*key) {
                sums.add(&more);
            }
            if let Some(less) = self.gone.get(key) {
                sums.sub_ended(&less.sums);
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

    /// Sets the requests that are under way in the daemon that this one is taking over from.
    pub(super) fn set_elder(&mut self, table: &Snapshot, open: &[(String, u64)]) {
        self.elder = open.iter().map(|(name, open)| (table.key(name), *open)).collect();
    }

    /// The key of every host that ever had a request.
    pub(super) fn known(&self) -> KeySet {
        let mut known: KeySet = self.archive.keys().collect();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], _| {
                known.insert(key);
            });
        }
        known
    }

    /// Forgets deleted hosts: later hosts of these names start at zero.
    pub(super) fn forget(&mut self, keys: &KeySet) {
        let mut held: ByKey<Box<Whole>> = ByKey::default();
        for (shard, slots) in self.shards.hosts().enumerate() {
            slots.look(|index, [key, ..], slot| {
                if keys.contains(&key) {
                    held.entry(key).or_default().add(&slot.whole());
                    self.host_window.forget_slot(shard, index, SlotReading::of_host(slot));
                }
            });
        }
        for key in keys {
            self.archive.remove(*key);
            self.unsaved.remove(key);
            self.host_window.forget(*key);
            match held.remove(key) {
                Some(whole) => self.gone.insert(*key, whole),
                None => self.gone.remove(key),
            };
        }
    }

    /// Takes the totals that changed since they were last saved. If there are very many, takes a
    /// part of them; the next call takes others.
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
            self.archive.change(key, |base| base.add(&sums_of(*totals).into()));
            self.unsaved.insert(key);
        }
    }

    /// Backends that shards know or knew, with their sums.
    pub(super) fn backends(&self) -> HashMap<Id, Sums> {
        let known = self.backends.iter().map(|(id, packed)| (*id, Sums::unpack(packed)));
        let mut all: HashMap<Id, Sums> = known.collect();
        for slots in self.shards.backends() {
            slots.look(|_, id, slot| all.entry(id).or_default().add(&slot.sums()));
        }
        // Unix sockets whose paths are forgotten would all be listed under one name.
        all.retain(|id, _| Address::from_words(*id).is_known());
        all
    }

    /// Counts and histograms of these hosts.
    pub(super) fn wholes(&self, keys: &KeySet) -> ByKey<Whole> {
        let known = keys.iter().filter_map(|key| Some((*key, self.archive.whole(*key)?)));
        let mut found: ByKey<Whole> = known.collect();
        for slots in self.shards.hosts() {
            slots.look(|_, [key, ..], slot| {
                if keys.contains(&key) {
                    found.entry(key).or_default().add(&slot.whole());
                }
            });
        }
        for (key, whole) in &mut found {
            if let Some(less) = self.gone.get(key) {
                whole.sub_ended(less);
            }
        }
        found
    }

    /// Counts and histograms of these backends.
    pub(super) fn backend_wholes(&self, ids: &HashSet<Id>) -> HashMap<Id, Whole> {
        let known = ids.iter().filter_map(|id| Some((*id, self.backends.get(id)?)));
        let mut found: HashMap<Id, Whole> =
            known.map(|(id, packed)| (id, Whole::unpack(packed))).collect();
        for slots in self.shards.backends() {
            slots.look(|_, id, slot| {
                if ids.contains(&id) {
                    found.entry(id).or_default().add(&slot.whole());
                }
            });
        }
        found
    }

    /// The last minute of these hosts, as far as they had traffic in it.
    pub(super) fn minutes(&self, keys: &KeySet) -> Minutes<ByKey<SlotReading>> {
        let mut found = ByKey::<SlotReading>::default();
        for (shard, slots) in self.shards.hosts().enumerate() {
            slots.look(|index, [key, ..], slot| {
                if keys.contains(&key) {
                    let minute = self.host_window.minute(shard, index, &SlotReading::of_host(slot));
                    found.entry(key).or_default().add(&minute);
                }
            });
        }
        for key in keys {
            let retired = self.host_window.retired(*key);
            if !retired.is_zero() {
                found.entry(*key).or_default().add(&retired);
            }
        }
        Minutes { of: found, seconds: self.host_window.seconds(Instant::now()) }
    }

    /// The last minute of all backends.
    pub(super) fn backend_minutes(&self) -> Minutes<HashMap<Id, SlotReading>> {
        let mut found: HashMap<Id, SlotReading> = HashMap::new();
        for (shard, slots) in self.shards.backends().enumerate() {
            slots.look(|index, id, slot| {
                let reading = SlotReading::of_backend(slot);
                let minute = self.backend_window.minute(shard, index, &reading);
                found.entry(id).or_default().add(&minute);
            });
        }
        self.backend_window.each_retired(|id, minute| found.entry(id).or_default().add(&minute));
        Minutes { of: found, seconds: self.backend_window.seconds(Instant::now()) }
    }

    /// Marks, twice a minute, what each slot has counted; the last minute begins at a mark. Returns
    /// the numbers of hosts and of backends since the marks before; `None`: no marks are due.
    pub(super) fn mark(&mut self) -> Option<(Step<u64>, Step<Id>)> {
        let now = Instant::now();
        if !self.host_window.is_due(now) {
            return None;
        }
        let (seconds, retired) = self.host_window.turn(now);
        let mut hosts = ByKey::<Stepped>::default();
        for (key, reading) in retired {
            hosts.entry(key).or_default().reading.add(&reading);
        }
        for (shard, slots) in self.shards.hosts().enumerate() {
            slots.look(|index, [key, ..], slot| {
                let reading = self.host_window.mark(shard, index, SlotReading::of_host(slot));
                let (open, held) = (slot.get(HostCount::Open), slot.get(HostCount::Held));
                let step = Stepped { reading, open, held };
                if step != Stepped::default() {
                    hosts.entry(key).or_default().add(&step);
                }
            });
        }
        let (_, retired) = self.backend_window.turn(now);
        let mut backends: HashMap<Id, Stepped> = HashMap::new();
        for (id, reading) in retired {
            backends.entry(id).or_default().reading.add(&reading);
        }
        for (shard, slots) in self.shards.backends().enumerate() {
            slots.look(|index, id, slot| {
                let reading = self.backend_window.mark(shard, index, SlotReading::of_backend(slot));
                let step = Stepped { reading, open: slot.get(BackendCount::Open), held: 0 };
                if step != Stepped::default() {
                    backends.entry(id).or_default().add(&step);
                }
            });
        }
        let hosts = Step { seconds, of: hosts.into_iter().collect() };
        Some((hosts, Step { seconds, of: backends.into_iter().collect() }))
    }
}

/// Numbers of hosts or backends between two marks, and the seconds between them.
pub(super) struct Step<K> {
    pub(super) seconds: f64,
    pub(super) of: Vec<(K, Stepped)>,
}

impl<K> Step<K> {
    /// Renames the hosts or backends of a step; those without a new name are left out.
    pub(super) fn by<N>(self, name: impl Fn(K) -> Option<N>) -> Step<N> {
        let of = self.of.into_iter().filter_map(|(key, step)| Some((name(key)?, step)));
        Step { seconds: self.seconds, of: of.collect() }
    }
}

/// Numbers of a host or backend between two marks, and how many requests were open and held at the
/// second mark.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stepped {
    pub(super) reading: SlotReading,
    pub(super) open: u64,
    pub(super) held: u64,
}

impl Stepped {
    fn add(&mut self, more: &Stepped) {
        self.reading.add(&more.reading);
        self.open += more.open;
        self.held += more.held;
    }
}

/// The last minute of hosts or backends, and its length.
pub(super) struct Minutes<M> {
    of: M,
    seconds: f64,
}

impl Minutes<ByKey<SlotReading>> {
    /// JSON of the counters of a host, with its rates and percentiles of the last minute.
    pub(super) fn to_json(&self, key: u64, sums: &Sums) -> Map<String, Value> {
        let minute = self.of.get(&key).copied().unwrap_or_default();
        let mut object = to_json(sums);
        object.extend(window::of_host(&minute, self.seconds));
        object
    }
}

impl<K: Eq + Hash> Minutes<HashMap<K, SlotReading>> {
    /// The last minute of backends by other names.
    pub(super) fn by<N: Eq + Hash>(
        self,
        name: impl Fn(&K) -> N,
    ) -> Minutes<HashMap<N, SlotReading>> {
        let of = self.of.into_iter().map(|(key, minute)| (name(&key), minute)).collect();
        Minutes { of, seconds: self.seconds }
    }

    /// Rates and percentiles of a backend in the last minute.
    pub(super) fn of_backend(&self, key: &K) -> Map<String, Value> {
        let minute = self.of.get(key).copied().unwrap_or_default();
        window::of_backend(&minute, self.seconds)
    }
}

/// Counts of a host whose sums are saved, and so outlive the process.
const TOTALS: [HostCount; 5] = [
    HostCount::Completed,
    HostCount::BytesSent,
    HostCount::BytesReceived,
    HostCount::Errors,
    HostCount::Limited,
];

pub(super) fn totals_of(sums: &Sums) -> Totals {
    Totals::from(TOTALS.map(|count| sums.get(count)))
}

fn sums_of(totals: Totals) -> Sums {
    let mut sums = Sums::default();
    TOTALS.into_iter().zip(<[u64; 5]>::from(totals)).for_each(|(count, n)| sums.set(count, n));
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

/// JSON of responses by class; replies to unknown hosts are a class of their own, which nothing
/// else has.
pub(super) fn answers_to_json(sums: &Sums) -> Value {
    let classes = ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(sums.answers().iter().copied());
    let unknown = Some(("unknown", sums.unknown())).filter(|(_, count)| *count != 0);
    classes.chain(unknown).map(|(class, count)| (class, json!(count))).collect()
}

/// JSON of the four numbers that the original Mantrid had, requests held, responses by class, and
/// requests that failed.
pub(super) fn to_json(sums: &Sums) -> Map<String, Value> {
    let numbers = [
        ("open_requests", HostCount::Open),
        ("completed_requests", HostCount::Completed),
        ("bytes_sent", HostCount::BytesSent),
        ("bytes_received", HostCount::BytesReceived),
        ("held_requests", HostCount::Held),
    ];
    let numbers = numbers.map(|(name, count)| (name.to_owned(), json!(sums.get(count))));
    let mut object: Map<String, Value> = numbers.into_iter().collect();
    object.insert("answers".to_owned(), answers_to_json(sums));
    let more = [("errors", HostCount::Errors), ("limited", HostCount::Limited)];
    object.extend(more.map(|(name, count)| (name.to_owned(), json!(sums.get(count)))));
    object
}
