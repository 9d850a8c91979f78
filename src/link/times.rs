//! Histograms of times: which times are measured, the bounds of their classes, and their positions
//! in the cells of a shard and of a slot.

use std::ops::Range;
use std::time::Duration;

/// A time that is measured, of requests or of connections to backends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum SlotTime {
    /// Time from the end of a request's head to the head of its response or reply, as the client
    /// sees it: with the time that the request was held or queued.
    Latency,
    /// Time from the end of a request's head to the end of the request, tunnels included.
    Request,
    /// Time from the end of a sent request to the head of the backend's response.
    Response,
    /// Time to open a connection to a backend.
    Connect,
    /// Wait for a permit of a backend.
    Queue,
    /// Wait of a request that is held.
    Held,
}

/// Upper bounds of the classes of times, in microseconds; one more class has none.
pub(crate) const TIME_BOUNDS: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// Upper bounds of the classes of times that requests were held, in microseconds.
pub(crate) const HELD_BOUNDS: [u64; 8] =
    [100_000, 500_000, 1_000_000, 5_000_000, 15_000_000, 30_000_000, 60_000_000, 120_000_000];

/// Classes of a time with [`TIME_BOUNDS`].
pub(crate) const CLASSES_OF_TIME: usize = TIME_BOUNDS.len() + 1;
/// Kinds of times; each has a sum beside its classes.
pub(crate) const TIMES: usize = SlotTime::ALL.len();
/// Classes of all times.
pub(crate) const TIME_CLASSES: usize =
    SlotTime::Held as usize * CLASSES_OF_TIME + HELD_BOUNDS.len() + 1;

impl SlotTime {
    pub(crate) const ALL: [SlotTime; 6] = [
        SlotTime::Latency,
        SlotTime::Request,
        SlotTime::Response,
        SlotTime::Connect,
        SlotTime::Queue,
        SlotTime::Held,
    ];

    /// Upper bounds of its classes, in microseconds.
    pub(crate) fn bounds(self) -> &'static [u64] {
        match self {
            SlotTime::Held => &HELD_BOUNDS,
            _ => &TIME_BOUNDS,
        }
    }

    /// Positions of its classes among those of all times.
    pub(crate) fn classes(self) -> Range<usize> {
        let first = self as usize * CLASSES_OF_TIME;
        first..first + self.bounds().len() + 1
    }

    /// Position of the class that a time falls into.
    #[inline]
    pub(super) fn class_of(self, micros: u64) -> usize {
        let bounds = self.bounds();
        let class = bounds.iter().position(|bound| micros <= *bound).unwrap_or(bounds.len());
        self as usize * CLASSES_OF_TIME + class
    }
}

/// Whole microseconds of a time.
#[inline]
pub(super) fn micros_of(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_all_times_lie_side_by_side() {
        let mut next = 0;
        for time in SlotTime::ALL {
            let classes = time.classes();
            assert_eq!(classes.start, next, "{time:?}");
            assert_eq!(time.class_of(0), next, "{time:?}");
            for (at, bound) in time.bounds().iter().enumerate() {
                assert_eq!(time.class_of(*bound), next + at, "{time:?}");
                assert_eq!(time.class_of(bound + 1), next + at + 1, "{time:?}");
            }
            assert_eq!(time.class_of(u64::MAX), classes.end - 1, "{time:?}");
            next = classes.end;
        }
        assert_eq!(next, TIME_CLASSES);
        assert!(TIME_BOUNDS.is_sorted() && HELD_BOUNDS.is_sorted());
    }

    #[test]
    fn time_is_cut_to_whole_microseconds() {
        assert_eq!(micros_of(Duration::new(3, 1_999)), 3_000_001);
        assert_eq!(micros_of(Duration::MAX), u64::MAX);
    }
}
