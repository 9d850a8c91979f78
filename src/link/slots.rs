//! Counters of hosts and of backends. A shard makes a slot for each host and each backend that it
//! meets. Only that shard writes the slot; control may read it at any time, and neither takes a
//! lock.
//!
//! A slot is live while the shard counts in it. A slot that was idle for long is retired: the shard
//! writes it no more, and control takes over its numbers and frees it for another host. So the
//! memory of a shard depends on the hosts that are busy, not on all that were ever requested, and
//! no number is lost or counted twice. Slots lie in pages. Each page is twice as large as the one
//! before, is made once, and never moves.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::times::{CLASSES_OF_TIME, SlotTime, TIME_CLASSES, TIMES, micros_of};
use crate::limits;

/// A counter in the slot of a host.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum HostCount {
    /// Requests under way.
    Open = OPEN,
    /// Requests that are held now.
    Held,
    /// Requests that ended.
    Completed = COMPLETED,
    /// Bytes sent to clients.
    BytesSent,
    /// Bytes received from clients.
    BytesReceived,
    /// Requests that ended with a 5xx, or by the fault of a backend or of Mantrid without one.
    Errors = ERRORS,
    /// Requests that were refused because of a limit.
    Limited = LIMITED,
}

/// A counter in the slot of a backend.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum BackendCount {
    /// Requests under way.
    Open = OPEN,
    /// Idle connections.
    Idle,
    /// Requests that ended.
    Completed = COMPLETED,
    /// Connections opened.
    Connections,
    /// Attempts to connect that failed.
    Failures,
    /// Requests that ended with a 5xx of the backend, or by its fault.
    Errors = ERRORS,
}

const OPEN: usize = 0;
const COMPLETED: usize = 2;
/// Position of the counts of final responses by class: 2xx, 3xx, 4xx and 5xx.
const ANSWERS: usize = 5;
const ERRORS: usize = ANSWERS + CLASSES;
/// Position of the sums of times in microseconds, by [`SlotTime`].
const TIME_SUMS: usize = ERRORS + 1;
const COUNTS: usize = LIMITED + 1;

/// Position of a counter among those of a slot.
pub(crate) trait SlotIndex {
    fn index(self) -> usize;
}

impl SlotIndex for HostCount {
    #[inline]
    fn index(self) -> usize {
        self as usize
    }
}

impl SlotIndex for BackendCount {
    #[inline]
    fn index(self) -> usize {
        self as usize
    }
}

/// Number of classes of responses that are counted: 2xx to 5xx.
pub(crate) const CLASSES: usize = 4;
/// Position of the count of replies to requests that match no rule, whatever their status.
const UNKNOWN: usize = TIME_SUMS + TIMES;
const LIMITED: usize = UNKNOWN + 1;
const _: () = assert!(HostCount::BytesReceived as usize + 1 == ANSWERS);
const _: () = assert!(BackendCount::Failures as usize + 1 == ANSWERS);

/// Owner of a slot: a host's key, or a backend's address in two words and the port.
pub(crate) type Id = [u64; 3];

const FREE: u64 = 0;
const LIVE: u64 = 1;
const RETIRED: u64 = 2;

/// Counters of one host or backend. A slot fills eight cache lines; the counters that every request
/// changes are in the first four.
#[repr(C, align(64))]
pub(crate) struct Slot {
    phase: AtomicU64,
    id: [AtomicU64; 3],
    counts: [AtomicU64; COUNTS],
    /// Histograms of all times. Their cells are half as wide as the counts: see
    /// [`Slots::add_time`].
    classes: [AtomicU32; TIME_CLASSES],
}

const _: () = assert!(size_of::<Slot>() == limits::SLOT_BYTES);

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            phase: AtomicU64::new(FREE),
            id: std::array::from_fn(|_| AtomicU64::new(0)),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            classes: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl Slot {
    /// Adds to a cell with a load and a store instead of a locked add. Only the owning shard may
    /// call this.
    #[inline]
    fn add_at(&self, at: usize, n: u64) {
        let cell = &self.counts[at];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds to a counter. Only the owning shard may call this.
    #[inline]
    pub(crate) fn add(&self, count: impl SlotIndex, n: u64) {
        self.add_at(count.index(), n);
    }

    /// Subtracts from a counter. Only the owning shard may call this.
    #[inline]
    pub(crate) fn sub(&self, count: impl SlotIndex, n: u64) {
        self.add_at(count.index(), n.wrapping_neg());
    }

    /// Counts the end of an open request. Everything else about the request must be counted before:
    /// see [`Slot::sums`]. Only the owning shard may call this.
    #[inline]
    pub(crate) fn complete(&self) {
        self.sub(HostCount::Open, 1);
        let cell = &self.counts[COMPLETED];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// Counts a final response or reply by its class. A status outside 2xx to 5xx is not counted.
    #[inline]
    pub(crate) fn add_answer(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(2);
        if class < CLASSES {
            self.add_at(ANSWERS + class, 1);
        }
    }

    /// Counts a reply to a request that matches no rule. Such replies are in no other class.
    pub(crate) fn add_unknown(&self) {
        self.add_at(UNKNOWN, 1);
    }

    /// Counts a time. Returns the position of its class if the count of that class has overflowed
    /// to 0.
    #[inline]
    fn add_time(&self, time: SlotTime, micros: u64) -> Option<usize> {
        self.add_at(TIME_SUMS + time as usize, micros);
        let class = time.class_of(micros);
        let cell = &self.classes[class];
        let count = cell.load(Ordering::Relaxed).wrapping_add(1);
        cell.store(count, Ordering::Relaxed);
        (count == 0).then_some(class)
    }

    pub(crate) fn get(&self, count: impl SlotIndex) -> u64 {
        self.counts[count.index()].load(Ordering::Relaxed)
    }

    /// Sets a counter that is a level, not a sum. Only the owning shard may call this.
    pub(crate) fn set(&self, count: impl SlotIndex, n: u64) {
        self.counts[count.index()].store(n, Ordering::Relaxed);
    }

    fn id(&self) -> Id {
        std::array::from_fn(|at| self.id[at].load(Ordering::Relaxed))
    }

    /// Reads the counts at this moment. `Completed` is read first, and the shard writes it last: so
    /// the other counts include every request that `Completed` includes.
    pub(crate) fn sums(&self) -> Sums {
        Sums(std::array::from_fn(|at| self.counts[at].load(Ordering::Acquire)))
    }

    /// Reads counts and histograms at this moment.
    pub(crate) fn whole(&self) -> Whole {
        let sums = self.sums();
        let mut classes = [0; TIME_CLASSES];
        for (sum, cell) in classes.iter_mut().zip(&self.classes) {
            *sum = cell.load(Ordering::Relaxed).into();
        }
        Whole { sums, classes }
    }

    /// Counts by class of a time that has [`TIME_BOUNDS`](super::TIME_BOUNDS). Each count overflows
    /// to 0 at 2³².
    pub(crate) fn classes_of(&self, time: SlotTime) -> [u32; CLASSES_OF_TIME] {
        debug_assert!(time != SlotTime::Held, "it has other bounds");
        let first = time.classes().start;
        std::array::from_fn(|at| self.classes[first + at].load(Ordering::Relaxed))
    }
}

/// Counts of one host or backend, read from slots and added up.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sums([u64; COUNTS]);

impl Sums {
    pub(crate) fn get(&self, count: impl SlotIndex) -> u64 {
        self.0[count.index()]
    }

    pub(crate) fn set(&mut self, count: impl SlotIndex, n: u64) {
        self.0[count.index()] = n;
    }

    /// Final responses and replies by class, from 2xx to 5xx.
    pub(crate) fn answers(&self) -> &[u64] {
        &self.0[ANSWERS..][..CLASSES]
    }

    /// Replies to requests that match no rule.
    pub(crate) fn unknown(&self) -> u64 {
        self.0[UNKNOWN]
    }

    pub(crate) fn add(&mut self, more: &Sums) {
        self.0.iter_mut().zip(more.0).for_each(|(sum, n)| *sum = sum.wrapping_add(n));
    }

    /// Subtracts the sums of an earlier moment. Levels, such as open requests, are no sums and stay
    /// as they are.
    pub(crate) fn sub_ended(&mut self, less: &Sums) {
        let ended = COMPLETED..;
        let pairs = self.0[ended.clone()].iter_mut().zip(&less.0[ended]);
        pairs.for_each(|(sum, n)| *sum = sum.wrapping_sub(*n));
    }

    /// Reads the counts among the bytes that [`Whole::pack`] made.
    pub(crate) fn unpack(bytes: &[u8]) -> Sums {
        let mut sums = Sums::default();
        let counts = Packed(bytes).take_while(|(at, _)| *at < COUNTS);
        counts.for_each(|(at, n)| sums.0[at] = n);
        sums
    }
}

/// Counts and histograms of one host or backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Whole {
    pub(crate) sums: Sums,
    classes: [u64; TIME_CLASSES],
}

impl Default for Whole {
    fn default() -> Whole {
        Whole { sums: Sums::default(), classes: [0; TIME_CLASSES] }
    }
}

impl From<Sums> for Whole {
    fn from(sums: Sums) -> Whole {
        Whole { sums, ..Whole::default() }
    }
}

impl Whole {
    /// Counts of a time by class, and the sum of the time in microseconds.
    pub(crate) fn times(&self, time: SlotTime) -> (&[u64], u64) {
        (&self.classes[time.classes()], self.sums.0[TIME_SUMS + time as usize])
    }

    pub(crate) fn add(&mut self, more: &Whole) {
        self.sums.add(&more.sums);
        self.classes.iter_mut().zip(more.classes).for_each(|(sum, n)| *sum = sum.wrapping_add(n));
    }

    /// Adds the 2³² that a class of a slot lost when its count overflowed.
    pub(crate) fn add_wrap(&mut self, class: usize) {
        if let Some(count) = self.classes.get_mut(class) {
            *count += 1 << 32;
        }
    }

    /// Subtracts the numbers of an earlier moment, as [`Sums::sub_ended`] does.
    pub(crate) fn sub_ended(&mut self, less: &Whole) {
        self.sums.sub_ended(&less.sums);
        self.classes.iter_mut().zip(less.classes).for_each(|(sum, n)| *sum = sum.wrapping_sub(n));
    }

    /// Packs the numbers into few bytes. Each number that is not 0 is written as its position, then
    /// its value in groups of seven bits, a byte each.
    pub(crate) fn pack(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(64);
        let all = self.sums.0.iter().chain(&self.classes).enumerate();
        for (at, n) in all.filter(|(_, n)| **n != 0) {
            bytes.push(at as u8);
            let mut rest = *n;
            while 0x7f < rest {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes.into_boxed_slice()
    }

    /// Reads the bytes that [`Whole::pack`] made.
    pub(crate) fn unpack(bytes: &[u8]) -> Whole {
        let mut whole = Whole::default();
        for (at, n) in Packed(bytes) {
            match at.checked_sub(COUNTS) {
                None => whole.sums.0[at] = n,
                Some(class) => whole.classes[class] = n,
            }
        }
        whole
    }
}

const _: () = assert!(COUNTS + TIME_CLASSES <= 256);

/// Reader of packed numbers: returns the position and the value of each.
struct Packed<'a>(&'a [u8]);

impl Iterator for Packed<'_> {
    type Item = (usize, u64);

    fn next(&mut self) -> Option<(usize, u64)> {
        let (at, mut rest) = self.0.split_first()?;
        let (mut n, mut shift) = (0, 0);
        while let Some((byte, more)) = rest.split_first() {
            rest = more;
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.0 = rest;
        Some((usize::from(*at), n))
    }
}

/// Slots of the first page. Each further page has twice as many as the one before.
const FIRST_PAGE: u32 = 64;
const PAGES: usize = (limits::SLOTS_MAX / FIRST_PAGE).ilog2() as usize + 1;

/// The slots of one shard.
#[derive(Default)]
pub(crate) struct Slots {
    pages: [OnceLock<Box<[Slot]>>; PAGES],
    /// All slots that were ever live are below this index.
    used: AtomicU32,
    /// Classes of slots whose count has overflowed. Each cell has the index of the slot plus one,
    /// and the class; 0 if control has taken it.
    wraps: [AtomicU64; WRAPS],
}

/// Most classes whose count may overflow between two looks of control. A count takes 2³² requests
/// to overflow.
const WRAPS: usize = 8;
/// Number of bits for the class, below the index of its slot.
const WRAP_BITS: u32 = 8;

fn place(index: u32) -> (usize, usize) {
    let at = index + FIRST_PAGE;
    let page = at.ilog2() - FIRST_PAGE.ilog2();
    (page as usize, (at - (FIRST_PAGE << page)) as usize)
}

impl Slots {
    /// Returns a slot that was made live before.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Slot> {
        if limits::SLOTS_MAX <= index {
            return None;
        }
        let (page, at) = place(index);
        self.pages.get(page)?.get()?.get(at)
    }

    /// Adds to a counter of a slot, if the slot exists. Only the owning shard may call this, and
    /// everything else that changes a slot.
    #[inline]
    pub(crate) fn add(&self, index: u32, count: impl SlotIndex, n: u64) {
        if let Some(slot) = self.get(index) {
            slot.add(count, n);
        }
    }

    /// Subtracts from a counter of a slot, if the slot exists.
    #[inline]
    pub(crate) fn sub(&self, index: u32, count: impl SlotIndex, n: u64) {
        if let Some(slot) = self.get(index) {
            slot.sub(count, n);
        }
    }

    /// Counts a time in a slot. Only the owning shard may call this.
    ///
    /// The counts of classes are 32 bits wide: with 64 bits, half of a slot would be zeros. If a
    /// count overflows, the shard notes that and control adds 2³² within a second.
    #[inline]
    pub(crate) fn add_time(&self, index: u32, time: SlotTime, took: std::time::Duration) {
        let Some(slot) = self.get(index) else { return };
        if let Some(class) = slot.add_time(time, micros_of(took)) {
            self.note_wrap(index, class);
        }
    }

    #[cold]
    fn note_wrap(&self, index: u32, class: usize) {
        let wrap = (u64::from(index) + 1) << WRAP_BITS | class as u64;
        let free = self.wraps.iter().find(|cell| cell.load(Ordering::Acquire) == 0);
        debug_assert!(free.is_some(), "control looks once a second");
        if let Some(cell) = free {
            cell.store(wrap, Ordering::Release);
        }
    }

    /// Takes the classes whose counts have overflowed, each once, with the owner of the slot.
    /// Control calls this.
    pub(crate) fn take_wraps(&self, mut take: impl FnMut(Id, usize)) {
        for cell in &self.wraps {
            let wrap = cell.load(Ordering::Acquire);
            if wrap == 0 {
                continue;
            }
            if let Some(slot) = self.get((wrap >> WRAP_BITS) as u32 - 1) {
                take(slot.id(), (wrap & ((1 << WRAP_BITS) - 1)) as usize);
            }
            cell.store(0, Ordering::Release);
        }
    }

    /// Gives a free slot to `id`. Slots past the end are free. Only the owning shard may call this.
    pub(crate) fn open(&self, index: u32, id: Id) {
        debug_assert!(index < limits::SLOTS_MAX, "slot {index} is past the last");
        debug_assert!(self.is_free(index), "slot {index} is in use");
        let (page, at) = place(index);
        let size = (FIRST_PAGE as usize) << page;
        let page = self.pages[page].get_or_init(|| (0..size).map(|_| Slot::default()).collect());
        let slot = &page[at];
        slot.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        slot.classes.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        slot.id.iter().zip(id).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        // The release makes sure that a thread that sees the slot live also sees its zeros and its
        // id.
        slot.phase.store(LIVE, Ordering::Release);
        self.used.fetch_max(index + 1, Ordering::Release);
    }

    /// Returns a slot and its owner, if the slot is live. Only the owning shard may call this.
    pub(crate) fn live(&self, index: u32) -> Option<(&Slot, Id)> {
        let slot = self.get(index)?;
        (slot.phase.load(Ordering::Relaxed) == LIVE).then(|| (slot, slot.id()))
    }

    /// Retires a slot: the shard writes it no more. Only the owning shard may call this.
    pub(crate) fn retire(&self, index: u32) {
        debug_assert!(self.live(index).is_some(), "slot {index} is not live");
        if let Some(slot) = self.get(index) {
            slot.phase.store(RETIRED, Ordering::Release);
        }
    }

    /// Whether a slot is free: it was never live, or control has taken over its numbers.
    pub(crate) fn is_free(&self, index: u32) -> bool {
        self.get(index).is_none_or(|slot| slot.phase.load(Ordering::Acquire) == FREE)
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let used = self.used.load(Ordering::Acquire);
        (0..used).filter_map(|index| Some((index as usize, self.get(index)?)))
    }

    /// Visits each retired slot for the last time, to take over its numbers, and frees it. Control
    /// calls this.
    pub(crate) fn take_retired(&self, mut take: impl FnMut(usize, Id, &Slot)) {
        for (index, slot) in self.each() {
            if slot.phase.load(Ordering::Acquire) == RETIRED {
                take(index, slot.id(), slot);
                slot.phase.store(FREE, Ordering::Release);
            }
        }
    }

    /// Visits every slot that has numbers, retired or not. Control calls this.
    pub(crate) fn look(&self, mut see: impl FnMut(usize, Id, &Slot)) {
        for (index, slot) in self.each() {
            if slot.phase.load(Ordering::Acquire) != FREE {
                see(index, slot.id(), slot);
            }
        }
    }
}

/// A map whose keys are hashes already. No client can foresee them, so they need no second hash.
pub(crate) type ByKey<V> = HashMap<u64, V, BuildHasherDefault<KeyHasher>>;
/// A set of such keys.
pub(crate) type KeySet = HashSet<u64, BuildHasherDefault<KeyHasher>>;

/// Hasher that leaves keys as they are.
#[derive(Clone, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn completed(slots: &Slots) -> Vec<(Id, u64)> {
        let mut all = Vec::new();
        slots.look(|_, id, slot| all.push((id, slot.get(HostCount::Completed))));
        all
    }

    fn retired(slots: &Slots) -> Vec<(usize, Id, u64)> {
        let mut all = Vec::new();
        slots.take_retired(|index, id, slot| all.push((index, id, slot.get(HostCount::Completed))));
        all
    }

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for index in 0..5000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == (FIRST_PAGE as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(place(limits::SLOTS_MAX - 1).0, PAGES - 1);
    }

    #[test]
    fn a_retired_slot_is_seen_once_more_and_then_free() {
        let slots = Slots::default();
        assert!(slots.is_free(70));
        slots.open(70, [9, 0, 0]);
        slots.get(70).expect("it is open").add(HostCount::Completed, 3);
        assert_eq!(completed(&slots), [([9, 0, 0], 3)]);
        assert!(retired(&slots).is_empty());
        slots.retire(70);
        assert!(!slots.is_free(70));
        assert_eq!(completed(&slots), [([9, 0, 0], 3)]);
        assert_eq!(retired(&slots), [(70, [9, 0, 0], 3)]);
        assert!(slots.is_free(70));
        assert!(completed(&slots).is_empty() && retired(&slots).is_empty());
        slots.open(70, [8, 0, 0]);
        assert_eq!(completed(&slots), [([8, 0, 0], 0)]);
    }

    #[test]
    fn answers_and_times_fall_into_their_classes() {
        let slots = Slots::default();
        slots.open(0, [1, 0, 0]);
        let slot = slots.get(0).expect("it is open");
        for status in [100, 200, 204, 301, 404, 503, 599, 600] {
            slot.add_answer(status);
        }
        slot.add_unknown();
        for micros in [0, 1_000, 1_001, 31_000_000] {
            slots.add_time(0, SlotTime::Connect, Duration::from_micros(micros));
        }
        slots.add_time(0, SlotTime::Held, Duration::from_secs(121));
        let whole = slot.whole();
        assert_eq!((whole.sums.answers(), whole.sums.unknown()), (&[2, 1, 1, 2][..], 1));
        let (classes, sum) = whole.times(SlotTime::Connect);
        let expected = [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!((classes, sum), (&expected[..], 31_002_001));
        assert_eq!(slot.classes_of(SlotTime::Connect).map(u64::from), expected);
        assert_eq!(whole.times(SlotTime::Held), (&[0, 0, 0, 0, 0, 0, 0, 0, 1][..], 121_000_000));
        assert_eq!(whole.times(SlotTime::Response).1, 0);
        slots.add_time(1, SlotTime::Held, Duration::ZERO);
    }

    /// Tests the memory ordering: one thread counts as a shard does, the other reads as control
    /// does.
    #[test]
    fn completed_requests_are_counted_whole() {
        const ROUNDS: u64 = 100_000;
        let slots = Slots::default();
        slots.open(0, [1, 0, 0]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    slots.add(0, HostCount::Open, 1);
                    slots.add(0, HostCount::Errors, 1);
                    slots.add(0, HostCount::Limited, 1);
                    slots.add_time(0, SlotTime::Request, Duration::from_micros(1));
                    slots.get(0).expect("it is open").complete();
                }
            });
            let slot = slots.get(0).expect("it is open");
            loop {
                let Whole { sums, classes } = slot.whole();
                let completed = sums.get(HostCount::Completed);
                let times: u64 = classes.iter().sum();
                let others = [sums.get(HostCount::Errors), sums.get(HostCount::Limited), times];
                assert!(others.iter().all(|count| completed <= *count), "{completed}: {others:?}");
                if completed == ROUNDS {
                    assert_eq!(sums.get(HostCount::Open), 0);
                    return;
                }
            }
        });
    }

    #[test]
    fn class_that_comes_to_its_end_is_told_once() {
        let slots = Slots::default();
        slots.open(7, [5, 0, 0]);
        let class = SlotTime::Latency.classes().start + 1;
        let time = Duration::from_millis(2);
        let slot = slots.get(7).expect("it is open");
        slot.classes[class].store(u32::MAX - 1, Ordering::Relaxed);
        let mut whole = Whole::default();
        let mut told = Vec::new();
        for _ in 0..3 {
            slots.add_time(7, SlotTime::Latency, time);
            slots.take_wraps(|id, class| told.push((id, class)));
        }
        assert_eq!(told, [([5, 0, 0], class)]);
        whole.add_wrap(class);
        whole.add(&slot.whole());
        assert_eq!(whole.times(SlotTime::Latency).0[1], (1 << 32) + 1);
    }

    proptest! {
        #[test]
        fn packed_numbers_are_the_same(
            numbers in proptest::collection::vec((0..COUNTS + TIME_CLASSES, any::<u64>()), 0..9)
        ) {
            let mut whole = Whole::default();
            for (at, n) in numbers {
                match at.checked_sub(COUNTS) {
                    None => whole.sums.0[at] = n,
                    Some(class) => whole.classes[class] = n,
                }
            }
            let packed = whole.pack();
            prop_assert_eq!(Sums::unpack(&packed), whole.sums);
            prop_assert_eq!(Whole::unpack(&packed), whole);
        }
    }
}
