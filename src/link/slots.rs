//! Counters of hosts and of backends, of which a shard has as many as it meets: slots that it alone
//! writes and control reads at any time, without a lock on either side.
//!
//! A slot is live while the shard counts in it. One that was idle for long is retired: the shard
//! writes it no more, control takes its numbers over and frees it for the next host. So a shard's
//! memory is bounded by what is busy, not by what was ever asked for, and no number is lost or seen
//! twice. Slots lie in pages that double in size and never move: a page is made once and then only
//! read.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::limits;

/// A count of a host's slot.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum HostCount {
    /// Requests under way.
    Open = OPEN,
    /// Requests held.
    Held,
    /// Requests that ended.
    Completed = COMPLETED,
    /// Bytes sent to clients.
    BytesSent,
    /// Bytes received from clients.
    BytesReceived,
}

/// A count of a backend's slot.
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
}

/// A histogram of times in a slot of either kind: a class for each of [`TIME_BOUNDS`], one above,
/// and the sum in microseconds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum SlotTime {
    /// Connections opened, by the time that took.
    Connect = 9,
    /// Responses, by the time from request to response head.
    Response = 18,
}

const OPEN: usize = 0;
const COMPLETED: usize = 2;
/// Final responses by class, from 2xx; 3xx, 4xx and 5xx follow.
const ANSWERS: usize = 5;

/// The position of a count among those of a slot.
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
/// Replies to requests that no rule is for, of whatever status; behind the histograms.
const UNKNOWN: usize = SlotTime::Response as usize + TIMES;
/// Upper bounds of the classes of times, in microseconds; the last class has none.
pub(crate) const TIME_BOUNDS: [u64; 7] =
    [1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];
/// Cells of one histogram.
const TIMES: usize = TIME_BOUNDS.len() + 2;
const COUNTS: usize = UNKNOWN + 1;
const _: () = assert!(HostCount::BytesReceived as usize + 1 == ANSWERS);
const _: () = assert!(BackendCount::Failures as usize + 1 == ANSWERS);
const _: () = assert!(ANSWERS + CLASSES == SlotTime::Connect as usize);
const _: () = assert!(SlotTime::Connect as usize + TIMES == SlotTime::Response as usize);

/// Owner of a slot: a host's key, or a backend's address in two words and the port.
pub(crate) type Id = [u64; 3];

const FREE: u64 = 0;
const LIVE: u64 = 1;
const RETIRED: u64 = 2;

/// Four cache lines; what every request touches is in the first two.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Slot {
    phase: AtomicU64,
    id: [AtomicU64; 3],
    counts: [AtomicU64; COUNTS],
}

const _: () = assert!(size_of::<Slot>() == 256);

impl Slot {
    /// Adds to a cell. Called by the owning shard only: a load and a store, not a locked add.
    #[inline]
    fn add_at(&self, at: usize, n: u64) {
        let cell = &self.counts[at];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds to a count. Called by the owning shard only.
    #[inline]
    pub(crate) fn add(&self, count: impl SlotIndex, n: u64) {
        self.add_at(count.index(), n);
    }

    /// Subtracts from a count. Called by the owning shard only.
    #[inline]
    pub(crate) fn sub(&self, count: impl SlotIndex, n: u64) {
        self.add_at(count.index(), n.wrapping_neg());
    }

    /// Counts a final response or reply; one that is not 2xx to 5xx has no class.
    #[inline]
    pub(crate) fn add_answer(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(2);
        if class < CLASSES {
            self.add_at(ANSWERS + class, 1);
        }
    }

    /// Counts a reply to a request that no rule is for: a class of its own.
    pub(crate) fn add_unknown(&self) {
        self.add_at(UNKNOWN, 1);
    }

    /// Counts a time.
    pub(crate) fn add_time(&self, histogram: SlotTime, time: std::time::Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = TIME_BOUNDS.iter().position(|bound| micros <= *bound);
        let first = histogram as usize;
        self.add_at(first + class.unwrap_or(TIME_BOUNDS.len()), 1);
        self.add_at(first + TIME_BOUNDS.len() + 1, micros);
    }

    pub(crate) fn get(&self, count: impl SlotIndex) -> u64 {
        self.counts[count.index()].load(Ordering::Relaxed)
    }

    /// Sets a count that is a number now, not a sum. Called by the owning shard only.
    pub(crate) fn set(&self, count: impl SlotIndex, n: u64) {
        self.counts[count.index()].store(n, Ordering::Relaxed);
    }

    fn id(&self) -> Id {
        std::array::from_fn(|at| self.id[at].load(Ordering::Relaxed))
    }

    /// All of it, at this moment.
    pub(crate) fn sums(&self) -> Sums {
        Sums(std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)))
    }
}

/// Numbers of one host or backend, read from slots and added up.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sums([u64; COUNTS]);

impl Default for Sums {
    fn default() -> Sums {
        Sums([0; COUNTS])
    }
}

impl Sums {
    pub(crate) fn get(&self, count: impl SlotIndex) -> u64 {
        self.0[count.index()]
    }

    pub(crate) fn set(&mut self, count: impl SlotIndex, n: u64) {
        self.0[count.index()] = n;
    }

    /// Final responses and replies, from 2xx to 5xx.
    pub(crate) fn answers(&self) -> &[u64] {
        &self.0[ANSWERS..][..CLASSES]
    }

    /// Replies to requests that no rule is for.
    pub(crate) fn unknown(&self) -> u64 {
        self.0[UNKNOWN]
    }

    /// The classes of times and their sum in microseconds.
    pub(crate) fn times(&self, histogram: SlotTime) -> (&[u64], u64) {
        let all = &self.0[histogram as usize..][..TIMES];
        (&all[..=TIME_BOUNDS.len()], all[TIME_BOUNDS.len() + 1])
    }

    pub(crate) fn add(&mut self, more: &Sums) {
        self.0.iter_mut().zip(more.0).for_each(|(sum, n)| *sum = sum.wrapping_add(n));
    }

    /// Takes away the sums of an earlier moment; counts of what is under way now are no sums and
    /// stay.
    pub(crate) fn sub_ended(&mut self, less: &Sums) {
        let ended = COMPLETED..;
        let pairs = self.0[ended.clone()].iter_mut().zip(&less.0[ended]);
        pairs.for_each(|(sum, n)| *sum = sum.wrapping_sub(*n));
    }

    /// Packs the numbers into few bytes: which are not 0, then these, seven bits a byte.
    pub(crate) fn pack(&self) -> Box<[u8]> {
        let mut bytes = vec![0; 4];
        let mut present = 0_u32;
        for (at, n) in self.0.iter().enumerate().filter(|(_, n)| **n != 0) {
            present |= 1 << at;
            let mut rest = *n;
            while 0x7f < rest {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes[..4].copy_from_slice(&present.to_le_bytes());
        bytes.into_boxed_slice()
    }

    /// Reads the bytes that [`Sums::pack`] made.
    pub(crate) fn unpack(bytes: &[u8]) -> Sums {
        let mut sums = Sums::default();
        let Some((present, rest)) = bytes.split_first_chunk::<4>() else { return sums };
        let present = u32::from_le_bytes(*present);
        let mut rest = rest.iter();
        for at in (0..COUNTS).filter(|at| present & (1 << at) != 0) {
            let mut shift = 0;
            for byte in rest.by_ref() {
                sums.0[at] |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        sums
    }
}

/// Slots of the first page; each further page has twice as many as the one before.
const FIRST_PAGE: u32 = 64;
const PAGES: usize = (limits::SLOTS_MAX / FIRST_PAGE).ilog2() as usize + 1;

/// The slots of one shard.
#[derive(Default)]
pub(crate) struct Slots {
    pages: [OnceLock<Box<[Slot]>>; PAGES],
    /// Slots below this index were live at some time.
    used: AtomicU32,
}

fn place(index: u32) -> (usize, usize) {
    let at = index + FIRST_PAGE;
    let page = at.ilog2() - FIRST_PAGE.ilog2();
    (page as usize, (at - (FIRST_PAGE << page)) as usize)
}

impl Slots {
    /// A slot that was made live before.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Slot> {
        if limits::SLOTS_MAX <= index {
            return None;
        }
        let (page, at) = place(index);
        self.pages.get(page)?.get()?.get(at)
    }

    /// Makes a free slot that of `id`; slots past the end are free. Called by the owning shard.
    pub(crate) fn open(&self, index: u32, id: Id) {
        debug_assert!(index < limits::SLOTS_MAX, "slot {index} is past the last");
        debug_assert!(self.is_free(index), "slot {index} is in use");
        let (page, at) = place(index);
        let size = (FIRST_PAGE as usize) << page;
        let page = self.pages[page].get_or_init(|| (0..size).map(|_| Slot::default()).collect());
        let slot = &page[at];
        slot.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        slot.id.iter().zip(id).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        // A thread that sees the slot live sees it empty and with its name.
        slot.phase.store(LIVE, Ordering::Release);
        self.used.fetch_max(index + 1, Ordering::Release);
    }

    /// The slot, if it is live, and its owner. Called by the owning shard.
    pub(crate) fn live(&self, index: u32) -> Option<(&Slot, Id)> {
        let slot = self.get(index)?;
        (slot.phase.load(Ordering::Relaxed) == LIVE).then(|| (slot, slot.id()))
    }

    /// Retires a slot: the shard writes it no more. Called by the owning shard.
    pub(crate) fn retire(&self, index: u32) {
        debug_assert!(self.live(index).is_some(), "slot {index} is not live");
        if let Some(slot) = self.get(index) {
            slot.phase.store(RETIRED, Ordering::Release);
        }
    }

    /// Whether control has taken a retired slot's numbers over.
    pub(crate) fn is_free(&self, index: u32) -> bool {
        self.get(index).is_none_or(|slot| slot.phase.load(Ordering::Acquire) == FREE)
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let used = self.used.load(Ordering::Acquire);
        (0..used).filter_map(|index| Some((index as usize, self.get(index)?)))
    }

    /// Takes the numbers of slots that were retired, each for the last time. Called by control.
    pub(crate) fn take_retired(&self, mut take: impl FnMut(usize, Id, Sums)) {
        for (index, slot) in self.each() {
            if slot.phase.load(Ordering::Acquire) == RETIRED {
                take(index, slot.id(), slot.sums());
                slot.phase.store(FREE, Ordering::Release);
            }
        }
    }

    /// Visits every slot that has numbers, retired or not. Called by control.
    pub(crate) fn look(&self, mut see: impl FnMut(usize, Id, &Slot)) {
        for (index, slot) in self.each() {
            if slot.phase.load(Ordering::Acquire) != FREE {
                see(index, slot.id(), slot);
            }
        }
    }
}

/// A map by a key that is a hash already, and one that no client can foresee.
pub(crate) type ByKey<V> = HashMap<u64, V, BuildHasherDefault<KeyHasher>>;
/// A set of such keys.
pub(crate) type KeySet = HashSet<u64, BuildHasherDefault<KeyHasher>>;

/// Leaves keys as they are.
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
        slots.take_retired(|index, id, sums| all.push((index, id, sums.get(HostCount::Completed))));
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
        for micros in [0, 1_000, 1_001, 11_000_000] {
            slot.add_time(SlotTime::Connect, Duration::from_micros(micros));
        }
        let sums = slot.sums();
        assert_eq!((sums.answers(), sums.unknown()), (&[2, 1, 1, 2][..], 1));
        let (classes, sum) = sums.times(SlotTime::Connect);
        assert_eq!((classes, sum), (&[2, 1, 0, 0, 0, 0, 0, 1][..], 11_002_001));
        assert_eq!(sums.times(SlotTime::Response).1, 0);
    }

    proptest! {
        #[test]
        fn packed_sums_are_the_same(
            numbers in proptest::collection::vec((0..COUNTS, any::<u64>()), 0..9)
        ) {
            let mut sums = Sums::default();
            for (at, n) in numbers {
                sums.0[at] = n;
            }
            prop_assert_eq!(Sums::unpack(&sums.pack()), sums);
        }
    }
}
