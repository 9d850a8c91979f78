//! Histograms of the times that control itself needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of the histograms, in microseconds.
pub(super) const CONTROL_TIME_BOUNDS: [u64; 8] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000];

/// A histogram of times.
#[derive(Default)]
pub(super) struct Times {
    pub(super) classes: [AtomicU64; CONTROL_TIME_BOUNDS.len() + 1],
    pub(super) micros: AtomicU64,
}

impl Times {
    pub(super) fn add(&self, time: Duration) {
        let micros = time.as_micros() as u64;
        let class = CONTROL_TIME_BOUNDS.iter().position(|bound| micros <= *bound);
        let class = class.unwrap_or(CONTROL_TIME_BOUNDS.len());
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}
