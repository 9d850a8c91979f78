//! The last minute of each host, or of each backend: how much its slots have counted since a moment
//! 30 to 60 seconds ago. The shards do nothing for this. Twice a minute, control marks what each
//! slot has counted so far, and it adds up here what it takes over from retired slots.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::limits;
use crate::link::{
    BackendCount, CLASSES_OF_TIME, HostCount, Slot, SlotIndex, SlotTime, Sums, TIME_BOUNDS,
};

/// Counts of a slot at one moment, or between two moments.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::control) struct SlotReading {
    pub(in crate::control) requests: u32,
    pub(in crate::control) errors: u32,
    /// Requests that a limit turned away; only counted for hosts.
    pub(in crate::control) limited: u32,
    /// Responses by class, from 2xx to 5xx.
    pub(in crate::control) answers: [u32; 4],
    pub(in crate::control) sent: u64,
    pub(in crate::control) received: u64,
    /// Responses by the class of the time until their head.
    pub(in crate::control) latency: [u32; CLASSES_OF_TIME],
}

/// The marks of a slot take the room that limits count for them.
const _: () = assert!(size_of::<[SlotReading; 2]>() == limits::SLOT_MARKS_BYTES);

impl SlotReading {
    pub(super) fn of_host(slot: &Slot) -> SlotReading {
        let sums = slot.sums();
        SlotReading {
            limited: sums.get(HostCount::Limited) as u32,
            sent: sums.get(HostCount::BytesSent),
            received: sums.get(HostCount::BytesReceived),
            ..SlotReading::of(&sums, HostCount::Completed, HostCount::Errors)
                .timed(slot, SlotTime::Latency)
        }
    }

    pub(super) fn of_backend(slot: &Slot) -> SlotReading {
        let sums = slot.sums();
        SlotReading::of(&sums, BackendCount::Completed, BackendCount::Errors)
            .timed(slot, SlotTime::Response)
    }

    // Counts are cut to 32 bits, because only differences within a minute matter, and these fit.
    fn of(sums: &Sums, requests: impl SlotIndex, errors: impl SlotIndex) -> SlotReading {
        let mut answers = [0; 4];
        answers.iter_mut().zip(sums.answers()).for_each(|(own, n)| *own = *n as u32);
        let (requests, errors) = (sums.get(requests) as u32, sums.get(errors) as u32);
        SlotReading { requests, errors, answers, ..SlotReading::default() }
    }

    fn timed(self, slot: &Slot, time: SlotTime) -> SlotReading {
        SlotReading { latency: slot.classes_of(time), ..self }
    }

    /// Returns the counts since an earlier reading.
    pub(super) fn since(&self, before: &SlotReading) -> SlotReading {
        let mut since = *self;
        since.combine(before, u32::wrapping_sub, u64::wrapping_sub);
        since
    }

    pub(in crate::control) fn add(&mut self, more: &SlotReading) {
        self.combine(more, u32::saturating_add, u64::saturating_add);
    }

    fn combine(
        &mut self,
        other: &SlotReading,
        narrow: fn(u32, u32) -> u32,
        wide: fn(u64, u64) -> u64,
    ) {
        self.requests = narrow(self.requests, other.requests);
        self.errors = narrow(self.errors, other.errors);
        self.limited = narrow(self.limited, other.limited);
        self.sent = wide(self.sent, other.sent);
        self.received = wide(self.received, other.received);
        self.answers.iter_mut().zip(other.answers).for_each(|(own, n)| *own = narrow(*own, n));
        self.latency.iter_mut().zip(other.latency).for_each(|(own, n)| *own = narrow(*own, n));
    }

    /// Whether there was a response.
    pub(super) fn is_timed(&self) -> bool {
        self.latency.iter().any(|count| *count != 0)
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == SlotReading::default()
    }

    /// Time in microseconds that this part of the responses took at most.
    pub(in crate::control) fn quantile(&self, part: f64) -> Option<u64> {
        quantile(self.latency.map(u64::from), part)
    }

    /// Percentiles in seconds, or `null`.
    pub(in crate::control) fn percentiles(&self) -> Map<String, Value> {
        percentiles(self.latency.map(u64::from))
    }
}

/// `p50`, `p95` and `p99` in seconds, or `null`.
pub(in crate::control) fn percentiles(latency: [u64; CLASSES_OF_TIME]) -> Map<String, Value> {
    let parts = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
    let values = parts.map(|(name, part)| {
        let seconds = quantile(latency, part).map(|micros| micros as f64 / 1e6);
        (name.to_owned(), json!(seconds))
    });
    values.into_iter().collect()
}

/// Quantile in microseconds: this part of all times is not above it. Within a class, times count as
/// spread evenly, as in Prometheus; times past the last bound count as equal to it.
pub(in crate::control) fn quantile(classes: [u64; CLASSES_OF_TIME], part: f64) -> Option<u64> {
    let all: u64 = classes.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = all as f64 * part;
    let mut below = 0;
    for (at, count) in classes.into_iter().enumerate() {
        if (below + count) as f64 >= rank && count != 0 {
            let lower = at.checked_sub(1).map_or(0, |before| TIME_BOUNDS[before]);
            let Some(upper) = TIME_BOUNDS.get(at) else { return Some(lower) };
            let share = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
            return Some(lower + ((upper - lower) as f64 * share).round() as u64);
        }
        below += count;
    }
    TIME_BOUNDS.last().copied()
}

/// Rate per second, rounded to a thousandth.
pub(in crate::control) fn per_second(count: u64, seconds: f64) -> f64 {
    (count as f64 / seconds * 1000.0).round() / 1000.0
}

/// The last minute of all hosts, or of all backends, by their keys.
pub(super) struct Window<K, S> {
    /// Moments of the marks, the newest first.
    moments: [Instant; 2],
    /// Marks by shard, and there by slot.
    marks: Vec<Vec<[SlotReading; 2]>>,
    /// Counts of slots that were retired: first since the newest mark, then between the two marks.
    retired: HashMap<K, [SlotReading; 2], S>,
}

impl<K: Copy + Eq + Hash, S: BuildHasher + Default> Window<K, S> {
    pub(super) fn new(shards: usize, now: Instant) -> Window<K, S> {
        let marks = vec![Vec::new(); shards];
        Window { moments: [now; 2], marks, retired: HashMap::default() }
    }

    /// Length of the window; at least a second, so that no rate is absurdly high early on.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.moments[1]).as_secs_f64().max(1.0)
    }

    /// Says whether the next marks are due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        limits::WINDOW_STEP <= now.saturating_duration_since(self.moments[0])
    }

    fn marks(&self, shard: usize, index: usize) -> [SlotReading; 2] {
        self.marks[shard].get(index).copied().unwrap_or_default()
    }

    /// Returns the counts of a slot in the last minute.
    pub(super) fn minute(&self, shard: usize, index: usize, now: &SlotReading) -> SlotReading {
        now.since(&self.marks(shard, index)[1])
    }

    /// Calls `add` with the counts of retired slots in the last minute.
    pub(super) fn each_retired(&self, mut add: impl FnMut(K, SlotReading)) {
        for (key, [newest, before]) in &self.retired {
            let mut minute = *newest;
            minute.add(before);
            add(*key, minute);
        }
    }

    /// Counts of the retired slots of this host or backend in the last minute.
    pub(super) fn retired(&self, key: K) -> SlotReading {
        let [mut minute, before] = self.retired.get(&key).copied().unwrap_or_default();
        minute.add(&before);
        minute
    }

    /// Begins a new half-minute. The caller calls [`Window::mark`] for each slot afterwards.
    ///
    /// Returns the seconds of the half-minute that ends, and the counts of slots retired in it.
    pub(super) fn turn(&mut self, now: Instant) -> (f64, Vec<(K, SlotReading)>) {
        let seconds = now.saturating_duration_since(self.moments[0]).as_secs_f64().max(1.0);
        self.moments = [now, self.moments[0]];
        let step = self.retired.iter().filter(|(_, [newest, _])| !newest.is_zero());
        let step = step.map(|(key, [newest, _])| (*key, *newest)).collect();
        self.retired.retain(|_, [newest, before]| {
            *before = std::mem::take(newest);
            !before.is_zero()
        });
        (seconds, step)
    }

    /// Marks a slot; returns what the slot has counted since its mark before.
    pub(super) fn mark(&mut self, shard: usize, index: usize, now: SlotReading) -> SlotReading {
        let marks = &mut self.marks[shard];
        if marks.len() <= index {
            marks.resize(index + 1, [SlotReading::default(); 2]);
        }
        let [newest, before] = &mut marks[index];
        let step = now.since(newest);
        *before = std::mem::replace(newest, now);
        step
    }

    /// Takes over the counts of a slot that its shard has retired; the next owner of the slot
    /// begins at 0.
    pub(super) fn retire(&mut self, (shard, index): (usize, usize), key: K, last: &SlotReading) {
        let [newest, before] = self.marks(shard, index);
        if let Some(marks) = self.marks[shard].get_mut(index) {
            *marks = [SlotReading::default(); 2];
        }
        let steps = [last.since(&newest), newest.since(&before)];
        let is_known = self.retired.contains_key(&key);
        if steps.iter().all(SlotReading::is_zero)
            || (!is_known && limits::WINDOW_RETIRED_MAX <= self.retired.len())
        {
            return;
        }
        let all = self.retired.entry(key).or_default();
        all.iter_mut().zip(&steps).for_each(|(sum, step)| sum.add(step));
    }

    /// Forgets the last minute of a slot, whose host was deleted.
    pub(super) fn forget_slot(&mut self, shard: usize, index: usize, now: SlotReading) {
        self.mark(shard, index, now);
        self.mark(shard, index, now);
    }

    /// Forgets the counts of retired slots of a deleted host.
    pub(super) fn forget(&mut self, key: K) {
        self.retired.remove(&key);
    }
}

/// Rates and percentiles of a host in the last minute.
pub(super) fn of_host(minute: &SlotReading, seconds: f64) -> Map<String, Value> {
    let more = [
        ("bytes_sent_per_second", minute.sent),
        ("bytes_received_per_second", minute.received),
        ("limited_per_second", minute.limited.into()),
    ];
    described(minute, &more, seconds)
}

/// Rates and percentiles of a backend in the last minute.
pub(super) fn of_backend(minute: &SlotReading, seconds: f64) -> Map<String, Value> {
    described(minute, &[], seconds)
}

fn described(minute: &SlotReading, more: &[(&str, u64)], seconds: f64) -> Map<String, Value> {
    let rates = [
        ("requests_per_second", minute.requests.into()),
        ("errors_per_second", minute.errors.into()),
    ];
    let rates = rates.iter().chain(more);
    let rates = rates.map(|(name, count)| ((*name).to_owned(), json!(per_second(*count, seconds))));
    rates.chain(minute.percentiles()).collect()
}

/// The minute is two steps between marks long.
const _: () = assert!(limits::WINDOW_STEP.as_secs() * 2 == Duration::from_secs(60).as_secs());

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn requests(requests: u32, class: usize) -> SlotReading {
        let mut reading = SlotReading { requests, ..SlotReading::default() };
        reading.latency[class] = requests;
        reading
    }

    #[test]
    fn quantile_lies_within_its_class() {
        let none = [0; CLASSES_OF_TIME];
        assert_eq!(quantile(none, 0.5), None);
        let mut classes = none;
        classes[0] = 1;
        assert_eq!(quantile(classes, 0.5), Some(500));
        classes = none;
        classes[3] = 90;
        classes[9] = 10;
        assert_eq!(quantile(classes, 0.9), Some(10_000));
        assert_eq!(quantile(classes, 0.5), Some(5_000 + 2_778));
        assert_eq!(quantile(classes, 0.95), Some(750_000));
        assert_eq!(quantile(classes, 1.0), Some(1_000_000));
        classes = none;
        classes[CLASSES_OF_TIME - 1] = 3;
        assert_eq!(quantile(classes, 0.5), Some(30_000_000), "past the last bound");
    }

    #[test]
    fn minute_begins_at_the_older_mark() {
        let begin = Instant::now();
        let mut window = Window::<u64, RandomState>::new(1, begin);
        let half = limits::WINDOW_STEP;
        assert_eq!(window.minute(0, 3, &requests(5, 0)), requests(5, 0));
        assert!(!window.is_due(begin) && window.is_due(begin + half));
        window.turn(begin + half);
        assert_eq!(window.mark(0, 3, requests(5, 0)), requests(5, 0));
        assert_eq!(window.minute(0, 3, &requests(7, 0)), requests(7, 0), "since the start");
        window.turn(begin + 2 * half);
        assert_eq!(window.mark(0, 3, requests(7, 0)), requests(2, 0));
        assert_eq!(window.minute(0, 3, &requests(8, 0)), requests(3, 0));
        assert_eq!(window.seconds(begin + 2 * half), half.as_secs_f64());
        window.turn(begin + 3 * half);
        window.mark(0, 3, requests(8, 0));
        window.turn(begin + 4 * half);
        window.mark(0, 3, requests(8, 0));
        assert!(window.minute(0, 3, &requests(8, 0)).is_zero());
    }

    #[test]
    fn slot_that_is_retired_is_not_forgotten_for_a_minute() {
        let begin = Instant::now();
        let mut window = Window::<u64, RandomState>::new(2, begin);
        window.mark(1, 0, requests(10, 1));
        window.retire((1, 0), 77, &requests(14, 1));
        assert_eq!(window.retired(77), requests(14, 1));
        assert_eq!(window.minute(1, 0, &requests(2, 1)), requests(2, 1), "its next owner's");
        let (_, step) = window.turn(begin);
        assert_eq!(step, [(77, requests(4, 1))]);
        assert_eq!(window.retired(77), requests(4, 1));
        let (_, step) = window.turn(begin);
        assert!(step.is_empty() && window.retired(77).is_zero());
        let mut all = Vec::new();
        window.each_retired(|key, minute| all.push((key, minute)));
        assert!(all.is_empty());
    }

    #[test]
    fn counts_may_begin_anew_between_two_marks() {
        let mut window = Window::<u64, RandomState>::new(1, Instant::now());
        window.mark(0, 0, requests(u32::MAX - 1, 0));
        assert_eq!(window.mark(0, 0, requests(3, 0)), requests(5, 0));
    }

    #[test]
    fn deleted_host_has_no_last_minute() {
        let mut window = Window::<u64, RandomState>::new(1, Instant::now());
        window.mark(0, 0, requests(4, 0));
        window.forget_slot(0, 0, requests(9, 0));
        assert!(window.minute(0, 0, &requests(9, 0)).is_zero());
        window.retire((0, 0), 5, &requests(12, 0));
        assert_eq!(window.retired(5), requests(3, 0));
        window.forget(5);
        assert!(window.retired(5).is_zero());
    }
}
