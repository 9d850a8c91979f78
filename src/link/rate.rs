//! A limit on the requests per second that holds across all shards: the generic cell rate algorithm
//! (ITU-T I.371; nginx's `limit_req` with a burst does the same). After a quiet second, the
//! requests of a whole second may pass at once; after these, requests pass at the even pace. The
//! state is a single word, so no shard waits for another.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Shares;
use super::registry::Registry;
use crate::limits;

const SECOND: u64 = 1_000_000_000;

/// State of one limit: the time, in nanoseconds, at which all requests that have passed would have
/// arrived at the even pace.
#[derive(Default)]
pub(crate) struct Rate(AtomicU64);

impl Rate {
    /// Lets one more request pass at `now`, or returns how long it would have to wait.
    pub(super) fn admit(&self, per_second: NonZeroU32, now: u64) -> Result<(), Duration> {
        let pause = SECOND / u64::from(per_second.get());
        let step = |due: u64| {
            let next = due.max(now) + pause;
            (next <= now + SECOND).then_some(next)
        };
        let moved = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        moved.map(drop).map_err(|due| Duration::from_nanos(due + pause - now - SECOND))
    }

    /// How long one more request would have to wait; `None`: it would pass. Counts nothing.
    pub(super) fn spent(&self, per_second: NonZeroU32, now: u64) -> Option<Duration> {
        Rate(AtomicU64::new(self.due())).admit(per_second, now).err()
    }

    fn is_at_rest(&self, now: u64) -> bool {
        self.due() <= now
    }

    /// Time at which the rate is at rest again, in nanoseconds.
    pub(super) fn due(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets the requests that have passed, and sets the time at which the rate is at rest again.
    pub(super) fn begin_at(&self, due: u64) {
        self.0.store(due, Ordering::Relaxed);
    }
}

/// The rates of all rules that have a limit.
pub(crate) struct Rates {
    rates: Registry<u64, Rate>,
    epoch: Instant,
    shares: Arc<Shares>,
}

impl Rates {
    pub(super) fn new(shares: Arc<Shares>) -> Rates {
        Rates { rates: Registry::default(), epoch: Instant::now(), shares }
    }

    /// Returns the rate of the rule with this key.
    pub(crate) fn get(&self, rule: u64, now: Instant) -> Arc<Rate> {
        // A rate at rest may be dropped, because it is equal to a new one.
        let is_busy = |rate: &Rate| !rate.is_at_rest(self.nanos(now));
        self.rates.get(rule, limits::RATES_KEPT, Rate::default, is_busy)
    }

    /// Lets one more request pass, or returns how long it would have to wait.
    pub(crate) fn admit(
        &self,
        rate: &Rate,
        per_second: NonZeroU32,
        now: Instant,
    ) -> Result<(), Duration> {
        rate.admit(self.shares.of_rate(per_second), self.nanos(now))
    }

    /// How long one more request of the rule with this key would have to wait; `None`: it would
    /// pass. Counts nothing.
    pub(crate) fn spent(
        &self,
        rule: u64,
        per_second: NonZeroU32,
        now: Instant,
    ) -> Option<Duration> {
        self.rates.lock().get(&rule)?.spent(self.shares.of_rate(per_second), self.nanos(now))
    }

    /// Rates that are not at rest, by the key of the rule, with the time until they are at rest. A
    /// daemon that takes over gets these.
    pub(crate) fn busy(&self, now: Instant) -> Vec<(u64, Duration)> {
        let (rates, now) = (self.rates.lock(), self.nanos(now));
        let left = rates.iter().map(|(rule, rate)| (*rule, rate.due().saturating_sub(now)));
        let busy = left.filter(|(_, left)| *left != 0);
        busy.map(|(rule, left)| (rule, Duration::from_nanos(left))).collect()
    }

    /// Takes over the rate of a rule from another daemon.
    pub(crate) fn recall(&self, rule: u64, left: Duration, now: Instant) {
        let left = left.min(Duration::from_nanos(SECOND));
        self.get(rule, now).begin_at(self.nanos(now + left));
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

    #[test]
    fn a_second_s_worth_then_the_even_pace() {
        let rate = Rate::default();
        let now = 7 * SECOND;
        assert!((0..5).all(|_| rate.admit(FIVE, now).is_ok()));
        assert_eq!(rate.admit(FIVE, now), Err(Duration::from_millis(200)));
        assert!(rate.admit(FIVE, now + SECOND / 5).is_ok());
        assert!(rate.admit(FIVE, now + SECOND / 5).is_err());
        // Refused requests do not count.
        assert!((0..5).all(|_| rate.admit(FIVE, now + 2 * SECOND).is_ok()));
        assert!(rate.admit(FIVE, now + 2 * SECOND).is_err());
    }

    #[test]
    fn question_counts_nothing() {
        let rates = Rates::new(Arc::default());
        let now = Instant::now();
        assert_eq!(rates.spent(7, FIVE, now), None);
        let rate = rates.get(7, now);
        for _ in 0..5 {
            assert_eq!(rates.spent(7, FIVE, now), None);
            rates.admit(&rate, FIVE, now).expect("a second's worth");
        }
        assert_eq!(rates.spent(7, FIVE, now), Some(Duration::from_millis(200)));
        assert_eq!(rates.spent(7, FIVE, now), Some(Duration::from_millis(200)));
    }

    #[test]
    fn rates_go_along_to_the_next_daemon() {
        let (elder, now) = (Rates::new(Arc::default()), Instant::now());
        let rate = elder.get(7, now);
        elder.get(8, now);
        while elder.admit(&rate, FIVE, now).is_ok() {}
        let later = now + Duration::from_millis(400);
        let busy = elder.busy(later);
        assert_eq!(busy, [(7, Duration::from_millis(600))]);
        let rates = Rates::new(Arc::default());
        let now = Instant::now();
        busy.into_iter().for_each(|(rule, left)| rates.recall(rule, left, now));
        let admit = || rates.admit(&rates.get(7, now), FIVE, now).is_ok();
        assert_eq!((admit(), admit(), admit()), (true, true, false));
        rates.recall(7, Duration::MAX, now);
        assert_eq!(rates.spent(7, FIVE, now), Some(Duration::from_millis(200)));
    }

    #[test]
    fn threads_share_it() {
        let rate = Rate::default();
        let many = NonZeroU32::new(1000).expect("not zero");
        let passed: usize = std::thread::scope(|scope| {
            let each = || (0..1000).filter(|_| rate.admit(many, 0).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn those_at_rest_make_room() {
        let rates = Rates::new(Arc::default());
        let now = Instant::now();
        for rule in 0..limits::RATES_KEPT as u64 {
            let rate = rates.get(rule, now);
            if rule == 3 {
                rates.admit(&rate, FIVE, now).expect("the first");
            }
        }
        rates.get(u64::MAX, now);
        let kept = rates.rates.lock();
        assert!(kept.len() == 2 && kept.contains_key(&3), "{}", kept.len());
    }
}
