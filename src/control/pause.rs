//! Pauses between attempts: growth, jitter, and the wait itself.

use std::time::{Duration, Instant};

/// Doubles a pause, as often as `times` says.
pub(super) fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// Makes a pause up to a tenth longer or shorter, so that lookups, probes and daemons do not all
/// act at the same moment.
pub(super) fn jittered(pause: Duration, random: u64) -> Duration {
    pause * (900 + (random % 201) as u32) / 1000
}

/// Waits until a moment, or for ever if there is none.
pub(super) async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_not_in_step() {
        let pause = Duration::from_secs(1);
        assert_eq!(jittered(pause, 0), pause * 9 / 10);
        assert_eq!(jittered(pause, 200), pause * 11 / 10);
        assert_eq!(jittered(pause, 201 * 1_000_000 + 100), pause);
    }

    #[test]
    fn doubling_has_a_bound() {
        let pause = Duration::from_secs(1);
        assert_eq!([0, 1, 3].map(|times| doubled(pause, times)), [1, 2, 8].map(|n| pause * n));
        assert_eq!(doubled(pause, 40), pause * u32::MAX);
    }
}
