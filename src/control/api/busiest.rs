//! Scores that say which hosts and backends are busiest now. Each ended request adds one to a
//! score, and a score halves in a minute. So the hosts with the most recent requests come first,
//! and a pause of a few seconds does not remove the series of a host.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Time in which a score halves.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Scores at the last count.
pub(super) struct BusyScores<K> {
    at: Option<Instant>,
    scores: HashMap<K, Scored>,
}

/// Requests counted so far of one host or backend, and its score.
#[derive(Copy, Clone)]
struct Scored {
    requests: u64,
    score: f64,
}

impl<K> Default for BusyScores<K> {
    fn default() -> BusyScores<K> {
        BusyScores { at: None, scores: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> BusyScores<K> {
    /// Updates the scores from the current counts. A key without a count is forgotten.
    pub(super) fn take(&mut self, counts: impl Iterator<Item = (K, u64)>, now: Instant) {
        let passed = self.at.replace(now).map(|at| now.saturating_duration_since(at));
        let halves = passed.unwrap_or_default().as_secs_f64() / HALF_LIFE.as_secs_f64();
        let decay = 0.5_f64.powf(halves);
        let before = std::mem::take(&mut self.scores);
        let scored = counts.map(|(key, requests)| {
            let old = before.get(&key).copied().unwrap_or(Scored { requests: 0, score: 0.0 });
            // The count of a host that was deleted and made again starts at 0.
            let more = requests.checked_sub(old.requests).unwrap_or(requests);
            (key, Scored { requests, score: old.score * decay + more as f64 })
        });
        self.scores = scored.collect();
    }

    /// Score of a key; 0 if the key was not among the last counts.
    pub(super) fn score(&self, key: K) -> f64 {
        self.scores.get(&key).map_or(0.0, |scored| scored.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(busy: &mut BusyScores<u8>, counts: &[(u8, u64)], at: Instant) -> u8 {
        busy.take(counts.iter().copied(), at);
        let keys = counts.iter().map(|(key, _)| *key);
        let best = keys.max_by(|a, b| busy.score(*a).total_cmp(&busy.score(*b)).then(b.cmp(a)));
        best.expect("some")
    }

    #[test]
    fn the_busiest_of_late_come_first() {
        let (mut busy, start) = (BusyScores::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(first(&mut busy, &[(1, 1000), (2, 10)], start), 1);
        assert_eq!(first(&mut busy, &[(1, 1000), (2, 900)], after(15)), 2);
        // A pause of a few seconds does not change the order.
        assert_eq!(first(&mut busy, &[(1, 1010), (2, 900)], after(20)), 2);
        assert_eq!(first(&mut busy, &[(1, 1400), (2, 900)], after(140)), 1);
        // A count that starts again from 0 does not lower the score.
        assert_eq!(first(&mut busy, &[(1, 1400), (3, 5), (2, 2000)], after(150)), 2);
        assert_eq!(first(&mut busy, &[(3, 6)], after(160)), 3);
        assert_eq!(busy.scores.len(), 1, "the others are forgotten");
    }
}
