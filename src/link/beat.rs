//! Notes which part of control runs, for the thread that watches the progress of control. This
//! costs two stores each time that a task of control is polled.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The parts of control, as they are named in the log.
const PARTS: [&str; 9] = [
    "the API or another task",
    "the lookups of names",
    "the folder of pages",
    "the probes of backends",
    "the queue of held requests",
    "the statistics",
    "the management addresses",
    "signals",
    "the watchdog",
];

/// A part of control.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Part {
    /// Any part without a name of its own.
    Other = 0,
    Names,
    Pages,
    Probes,
    Held,
    Statistics,
    Management,
    Signals,
    Watchdog,
}

/// Progress of control.
#[derive(Default)]
pub(crate) struct Beat {
    part: AtomicU8,
    count: AtomicU64,
}

impl Beat {
    /// Counts one more round of control.
    pub(crate) fn beat(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Name of the part that runs now.
    pub(crate) fn part(&self) -> &'static str {
        let part = usize::from(self.part.load(Ordering::Relaxed));
        PARTS.get(part).copied().unwrap_or(PARTS[0])
    }

    /// Runs a part, and notes each time that it is polled.
    pub(crate) async fn of<F: Future>(&self, part: Part, run: F) -> F::Output {
        let mut run = pin!(run);
        poll_fn(|cx| {
            self.part.store(part as u8, Ordering::Relaxed);
            let polled = run.as_mut().poll(cx);
            self.part.store(Part::Other as u8, Ordering::Relaxed);
            polled
        })
        .await
    }
}
