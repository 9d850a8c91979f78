//! Rates of single clients at single rules, counted on all shards together, in a table of fixed
//! size without locks. A client may have one of a few entries of the table. If other busy clients
//! have all of them, it gets the entry whose rate is nearest to rest, and the rate of that entry's
//! former client begins anew. So a full table may let more requests pass, never fewer.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use super::rate::Rate;
use super::sources::source_network;
use crate::limits;

/// Entries among which one client at one rule may have one: two cache lines.
const WAYS: usize = 8;
const BUCKETS: usize = limits::SOURCE_RATES_MAX / WAYS;
/// Attempts to get an entry, as another shard may take it at the same moment.
const TRIES: usize = 4;

#[derive(Default)]
#[repr(align(128))]
struct Bucket([Entry; WAYS]);

/// The rate of one client at one rule.
#[derive(Default)]
struct Entry {
    /// Hash of the client and the rule, with a random seed; 0: the entry is free.
    tag: AtomicU64,
    rate: Rate,
}

/// The table. It is made when the first rule with such a limit is met.
pub(crate) struct SourceRates {
    buckets: OnceLock<Box<[Bucket]>>,
    tagger: Tagger,
    epoch: Instant,
    /// Rates of the daemon before this one, as long as some are not at rest.
    elder: ArcSwapOption<ElderRates>,
}

/// Makes the tags of clients at rules, from a random seed.
struct Tagger {
    seed: u64,
    hasher: SeedableRandomState,
}

impl Tagger {
    fn new(seed: u64) -> Tagger {
        // Leaked for the life of the process: a daemon makes at most two of these.
        let shared = Box::leak(Box::new(SharedSeed::from_u64(seed)));
        Tagger { seed, hasher: SeedableRandomState::with_seed(0, shared) }
    }

    fn tag(&self, rule: u64, source: IpAddr) -> u64 {
        self.hasher.hash_one((rule, source_network(source))) | 1
    }
}

/// Rates that are not at rest, as one daemon hands them over to the next. A tag reveals neither the
/// rule nor the client, but can be computed from both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct BusySources {
    /// Seed of the tags.
    pub(crate) seed: u64,
    /// Tags, each with the time until its rate is at rest.
    pub(crate) left: Vec<(u64, Duration)>,
}

/// Rates of the daemon before this one.
struct ElderRates {
    tagger: Tagger,
    /// Keys of the rules in the daemon before, by their keys in this one.
    rules: HashMap<u64, u64>,
    /// Times at which rates are at rest, by tag.
    due: HashMap<u64, u64>,
    /// Latest of these times.
    end: u64,
}

impl ElderRates {
    fn due(&self, rule: u64, source: IpAddr) -> u64 {
        let rule = self.rules.get(&rule);
        let due = rule.and_then(|rule| self.due.get(&self.tagger.tag(*rule, source)));
        due.copied().unwrap_or(0)
    }
}

impl SourceRates {
    pub(super) fn new() -> SourceRates {
        let tagger = Tagger::new(RandomState::new().hash_one(()));
        let (buckets, elder) = (OnceLock::new(), ArcSwapOption::empty());
        SourceRates { buckets, tagger, epoch: Instant::now(), elder }
    }

    /// Lets one more request of a client pass at a rule, or returns how long it would have to wait.
    pub(crate) fn admit(
        &self,
        rule: u64,
        source: IpAddr,
        per_second: NonZeroU32,
        now: Instant,
    ) -> Result<(), Duration> {
        let now = self.nanos(now);
        let tag = self.tagger.tag(rule, source);
        let buckets =
            self.buckets.get_or_init(|| (0..BUCKETS).map(|_| Bucket::default()).collect());
        let Bucket(entries) = &buckets[bucket(tag)];
        for _ in 0..TRIES {
            let own = entries.iter().find(|entry| entry.tag.load(Ordering::Relaxed) == tag);
            if let Some(own) = own {
                return own.rate.admit(per_second, now);
            }
            let Some(place) = entries.iter().min_by_key(|entry| entry.rate.due()) else { break };
            let before = place.tag.load(Ordering::Relaxed);
            // Another shard may have given the entry to this client meanwhile. Then the next round
            // finds it.
            let (order, is_busy) = (Ordering::Relaxed, now < place.rate.due());
            if before != tag && place.tag.compare_exchange(before, tag, order, order).is_ok() {
                let due = self.elder_due(rule, source, now);
                if is_busy || due != 0 {
                    place.rate.begin_at(due);
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
        let tag = self.tagger.tag(rule, source);
        let Bucket(entries) = &self.buckets.get()?[bucket(tag)];
        let own = entries.iter().find(|entry| entry.tag.load(Ordering::Relaxed) == tag)?;
        own.rate.spent(per_second, self.nanos(now))
    }

    /// Returns the rates that are not at rest, for a daemon that takes over; `None`: there is no
    /// table.
    pub(crate) fn busy(&self, now: Instant) -> Option<BusySources> {
        let now = self.nanos(now);
        let entries = self.buckets.get()?.iter().flat_map(|Bucket(entries)| entries);
        let left = entries.filter_map(|entry| {
            let (tag, left) = (entry.tag.load(Ordering::Relaxed), entry.rate.due());
            let left = left.checked_sub(now).filter(|left| tag != 0 && *left != 0)?;
            Some((tag, Duration::from_nanos(left)))
        });
        Some(BusySources { seed: self.tagger.seed, left: left.collect() })
    }

    /// Takes over the rates of the daemon before. `rules` maps the keys of rules in this daemon to
    /// their keys in that one.
    pub(crate) fn recall(&self, busy: &BusySources, rules: HashMap<u64, u64>, now: Instant) {
        let due = |left: Duration| self.nanos(now + left.min(Duration::from_secs(1)));
        let busy_entries = busy.left.iter().take(limits::SOURCE_RATES_MAX);
        let due: HashMap<u64, u64> = busy_entries.map(|(tag, left)| (*tag, due(*left))).collect();
        let end = due.values().copied().max().unwrap_or(0);
        let elder = ElderRates { tagger: Tagger::new(busy.seed), rules, due, end };
        self.elder.store(Some(Arc::new(elder)));
    }

    /// Time at which the rate of a client at a rule is at rest, as counted by the daemon before
    /// this one; 0: that daemon counted none.
    fn elder_due(&self, rule: u64, source: IpAddr, now: u64) -> u64 {
        let elder = self.elder.load();
        let Some(elder) = &*elder else { return 0 };
        if elder.end <= now {
            self.elder.store(None);
            return 0;
        }
        elder.due(rule, source)
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

/// The bucket of a tag.
fn bucket(tag: u64) -> usize {
    (tag >> 32) as usize % BUCKETS
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
    fn rates_go_along_to_the_next_daemon() {
        let (elder, now) = (SourceRates::new(), Instant::now());
        assert_eq!(elder.busy(now), None);
        while elder.admit(1, client(1), FIVE, now).is_ok() {}
        elder.admit(1, client(2), FIVE, now).expect("the first");
        elder.admit(2, client(1), FIVE, now).expect("the first");
        let busy = elder.busy(now + Duration::from_millis(400)).expect("a table");
        assert_eq!(busy.left.len(), 1, "others are at rest: {busy:?}");
        assert_eq!(busy.left[0].1, Duration::from_millis(600));
        // The two daemons have different keys for the same rules.
        let (rates, now) = (SourceRates::new(), Instant::now());
        rates.recall(&busy, HashMap::from([(7, 1), (8, 2)]), now);
        let admit = |rule, number, now| rates.admit(rule, client(number), FIVE, now).is_ok();
        assert!(admit(7, 1, now) && admit(7, 1, now) && !admit(7, 1, now));
        for (rule, number) in [(7, 2), (8, 1), (9, 1)] {
            assert!((0..5).all(|_| admit(rule, number, now)), "{rule} {number}");
        }
        let later = now + Duration::from_millis(601);
        assert!(rates.elder.load().is_some() && admit(7, 3, later));
        assert!(rates.elder.load().is_none(), "all are at rest");
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
        // Twice as many clients as the table has room for, all busy: the first request of each
        // passes.
        for number in 0..2 * limits::SOURCE_RATES_MAX as u32 {
            assert!(rates.admit(1, client(number), FIVE, now).is_ok(), "{number}");
        }
        // Clients at rest make room without loss.
        let later = now + Duration::from_secs(2);
        assert!((0..5).all(|_| rates.admit(1, client(1), FIVE, later).is_ok()));
        assert!(rates.admit(1, client(1), FIVE, later).is_err());
    }
}
