//! Rates of single clients at single rules, on all shards together, in a table of fixed size that
//! takes no lock. Where all places that a client might have are taken by others that are busy, it
//! gets that of the one that is nearest to rest, whose rate then begins anew: a limit may let more
//! pass then, and never less.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::sources::source_network;
use crate::limits;

/// Places that one client at one rule might have: two cache lines.
const WAYS: usize = 8;
const BUCKETS: usize = limits::SOURCE_RATES_MAX / WAYS;
/// How often a place is looked for that another shard takes at the same moment.
const TRIES: usize = 4;

#[derive(Default)]
#[repr(align(128))]
struct Bucket([Entry; WAYS]);

/// The rate of one client at one rule.
#[derive(Default)]
struct Entry {
    /// A hash of both, seeded by chance; 0 where nobody has the entry.
    tag: AtomicU64,
    rate: Rate,
}

/// The table; made when the first rule with such a limit is met.
pub(crate) struct SourceRates {
    buckets: OnceLock<Box<[Bucket]>>,
    hasher: foldhash::quality::RandomState,
    epoch: Instant,
}

impl SourceRates {
    pub(super) fn new() -> SourceRates {
        let hasher = foldhash::quality::RandomState::default();
        SourceRates { buckets: OnceLock::new(), hasher, epoch: Instant::now() }
    }

    /// Lets one more request of a client pass at a rule, or says how long it would have to wait.
    pub(crate) fn admit(
        &self,
        rule: u64,
        source: IpAddr,
        per_second: NonZeroU32,
        now: Instant,
    ) -> Result<(), Duration> {
        let now = self.nanos(now);
        let (bucket, tag) = self.place(rule, source);
        let buckets =
            self.buckets.get_or_init(|| (0..BUCKETS).map(|_| Bucket::default()).collect());
        let Bucket(entries) = &buckets[bucket];
        for _ in 0..TRIES {
            let own = entries.iter().find(|entry| entry.tag.load(Ordering::Relaxed) == tag);
            if let Some(own) = own {
                return own.rate.admit(per_second, now);
            }
            let Some(place) = entries.iter().min_by_key(|entry| entry.rate.due()) else { break };
            let before = place.tag.load(Ordering::Relaxed);
            // Another shard may have given it to this client meanwhile: then it is found next.
            let (order, is_busy) = (Ordering::Relaxed, now < place.rate.due());
            if before != tag && place.tag.compare_exchange(before, tag, order, order).is_ok() {
                if is_busy {
                    place.rate.begin_anew();
                }
                return place.rate.admit(per_second, now);
            }
        }
        Ok(())
    }

    /// How long one more request of a client at a rule would have to wait; `None`: it would pass.
    /// Counts nothing.
    pub(crate) fn spent(
        &self,
        rule: u64,
        source: IpAddr,
        per_second: NonZeroU32,
        now: Instant,
    ) -> Option<Duration> {
        let (bucket, tag) = self.place(rule, source);
        let Bucket(entries) = &self.buckets.get()?[bucket];
        let own = entries.iter().find(|entry| entry.tag.load(Ordering::Relaxed) == tag)?;
        own.rate.spent(per_second, self.nanos(now))
    }

    /// The bucket of a client at a rule, and its tag there.
    fn place(&self, rule: u64, source: IpAddr) -> (usize, u64) {
        let hash = self.hasher.hash_one((rule, source_network(source)));
        ((hash >> 32) as usize % BUCKETS, hash | 1)
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn each_client_has_a_rate_of_its_own_at_each_rule() {
        let rates = SourceRates::new();
        let now = Instant::now();
        for (rule, number) in [(1, 1), (1, 2), (2, 1)] {
            assert!((0..5).all(|_| rates.admit(rule, client(number), FIVE, now).is_ok()));
            assert!(rates.admit(rule, client(number), FIVE, now).is_err(), "{rule} {number}");
        }
        assert!(rates.admit(1, client(1), FIVE, now + Duration::from_millis(201)).is_ok());
        assert!(rates.admit(1, client(1), FIVE, now + Duration::from_millis(201)).is_err());
    }

    #[test]
    fn ipv6_counts_by_networks_of_64_bits() {
        let rates = SourceRates::new();
        let now = Instant::now();
        let admit = |text: &str| rates.admit(1, text.parse().expect("an address"), FIVE, now);
        let one = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:0:1::", "2001:db8::5"];
        assert!(one.iter().all(|address| admit(address).is_ok()));
        assert!(admit("2001:db8::6").is_err());
        assert!(admit("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn threads_share_it() {
        let rates = SourceRates::new();
        let now = Instant::now();
        let many = NonZeroU32::new(1000).expect("not zero");
        let passed: usize = std::thread::scope(|scope| {
            let each = || {
                let pass = |_: &u32| rates.admit(7, client(9), many, now).is_ok();
                (0..1000).filter(pass).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn full_table_lets_more_pass_and_never_less() {
        let rates = SourceRates::new();
        let now = Instant::now();
        // twice as many clients as there is room for, all busy, and none is refused its first
        for number in 0..2 * limits::SOURCE_RATES_MAX as u32 {
            assert!(rates.admit(1, client(number), FIVE, now).is_ok(), "{number}");
        }
        // those at rest make room without loss
        let later = now + Duration::from_secs(2);
        assert!((0..5).all(|_| rates.admit(1, client(1), FIVE, later).is_ok()));
        assert!(rates.admit(1, client(1), FIVE, later).is_err());
    }
}
