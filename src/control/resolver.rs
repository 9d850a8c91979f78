//! Looks up the host names of backends, off the request path: shards see only addresses. Each host
//! is looked up once, however many rules and ports use it, and again every half minute or so. If a
//! lookup fails, the addresses found last stay in use, and the lookup is repeated, later each time.
//!
//! A lookup by the system may take ten seconds and more to fail. So there are separate shares of
//! the lookups for names that were never looked up, for names that were found last time, and for
//! names that were not. A new rule then never waits for dead names. If no backend answers at the
//! addresses of a name, the name is looked up again at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::SharedNames;
use super::pause::{doubled, jittered};
use crate::table::Name;
use crate::{address, limits};

type Answer = io::Result<Vec<IpAddr>>;

/// Time at which a host is to be looked up. If several are due at the same time, the one planned
/// last comes first.
type Due = (Reverse<Instant>, u64, Box<str>);

/// Planned lookups, and lookups under way.
pub(super) struct Resolver {
    names: SharedNames,
    hosts: HashMap<Box<str>, Host>,
    /// Planned lookups by [`Sort`]. An entry that does not agree with its host is void.
    due: [BinaryHeap<Due>; SORTS],
    lookups: JoinSet<(Box<str>, Answer)>,
    running: HashMap<Box<str>, Running>,
    most: usize,
    random: RandomState,
    turns: u64,
    prune_at: Instant,
    lookup_news: Lookups,
}

/// Result of the lookups of a name so far.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Sort {
    New = 0,
    Found = 1,
    Failing = 2,
}

const SORTS: usize = 3;

/// A lookup that is under way.
struct Running {
    sort: Sort,
    since: Instant,
}

/// Access of the other parts of control, which wait for lookups or ask for one.
#[derive(Clone, Default)]
pub(super) struct Lookups {
    asked_for: Arc<Notify>,
    settled: Arc<Notify>,
    doubted: Arc<Mutex<HashSet<Box<str>>>>,
}

impl Lookups {
    /// Has a host looked up again, because no backend answers at its addresses, which may have
    /// changed.
    pub(super) fn doubt(&self, host: &str) {
        self.doubted().insert(host.into());
        self.asked_for.notify_one();
    }

    fn doubted(&self) -> std::sync::MutexGuard<'_, HashSet<Box<str>>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until each of these names has been looked up, whether found or not: a rule should not
    /// come into force before its backends can be reached. The wait ends after `RESOLVE_AT_CHANGE`
    /// in any case.
    pub(super) async fn ready(&self, names: &[Arc<Name>]) {
        let all = async {
            loop {
                let mut settled = pin!(self.settled.notified());
                settled.as_mut().enable();
                if names.iter().all(|name| name.is_asked()) {
                    return;
                }
                self.asked_for.notify_one();
                settled.await;
            }
        };
        let _ = tokio::time::timeout(limits::RESOLVE_AT_CHANGE, all).await;
    }
}

/// One host name.
#[derive(Default)]
struct Host {
    /// Names with this host, one per port. The references are weak, so that a name is forgotten
    /// once no rule uses it.
    names: Vec<Weak<Name>>,
    /// Addresses found last, sorted and without duplicates.
    addresses: Vec<IpAddr>,
    /// Lookups that failed since the last success.
    failures: u32,
    is_asked: bool,
    /// Time of the next lookup; `None` while one is under way.
    due: Option<Instant>,
    /// Time of the last lookup.
    asked: Option<Instant>,
    /// Number of doubts since the addresses last changed.
    doubts: u32,
}

impl Resolver {
    /// Makes a resolver that runs at most `most` lookups at a time.
    pub(super) fn new(names: SharedNames, most: usize) -> Resolver {
        let mut resolver = Resolver {
            names,
            hosts: HashMap::new(),
            due: Default::default(),
            lookups: JoinSet::new(),
            running: HashMap::new(),
            most,
            random: RandomState::new(),
            turns: 0,
            prune_at: Instant::now() + limits::RESOLVE_EVERY,
            lookup_news: Lookups::default(),
        };
        resolver.take_names();
        resolver
    }

    pub(super) fn lookups(&self) -> Lookups {
        self.lookup_news.clone()
    }

    /// Waits until every name has been looked up, whether found or not. The wait ends after
    /// `RESOLVE_AT_START` in any case.
    pub(super) async fn first_round(&mut self) {
        let until = Instant::now() + limits::RESOLVE_AT_START;
        let round = async {
            while self.hosts.values().any(|host| !host.is_asked) {
                self.step().await;
            }
        };
        if tokio::time::timeout_at(until, round).await.is_err() {
            warn!("Some names of backends are not found yet; starting all the same");
        }
    }

    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            self.step().await;
        }
    }

    /// Waits for the next event: a lookup is due, one has ended, or a rule brought a new name.
    async fn step(&mut self) {
        let next = self.start_lookups().unwrap_or(self.prune_at).min(self.prune_at);
        let asked_for = self.lookup_news.asked_for.clone();
        tokio::select! {
            Some(ended) = self.lookups.join_next() => match ended {
                Ok((host, answer)) => self.settle(&host, answer),
                Err(error) => warn!("A lookup panicked: {error}"),
            },
            () = asked_for.notified() => {
                self.take_names();
                self.take_doubts();
            }
            () = tokio::time::sleep_until(next) => {
                if self.prune_at <= Instant::now() {
                    self.prune_at = Instant::now() + limits::RESOLVE_EVERY;
                    self.prune();
                }
            }
        }
    }

    /// Groups new names by host. A new host is looked up at once.
    fn take_names(&mut self) {
        let new = self.names.lock().unwrap_or_else(PoisonError::into_inner).take_new();
        for name in new.iter().filter_map(Weak::upgrade) {
            let host = self.hosts.entry(name.host.clone()).or_default();
            host.tell(&name);
            host.names.push(Arc::downgrade(&name));
            if host.names.len() == 1 {
                self.plan(&name.host, Instant::now());
            }
        }
        self.lookup_news.settled.notify_waiters();
    }

    /// Forgets names and Unix sockets that no rule uses any more, and hosts without names.
    fn prune(&mut self) {
        self.take_names();
        self.names.lock().unwrap_or_else(PoisonError::into_inner).prune();
        address::prune();
        self.hosts.retain(|_, host| {
            host.names.retain(|name| 0 < name.strong_count());
            !host.names.is_empty()
        });
    }

    /// Takes over addresses that another process knew, so that no change waits for these names to
    /// be looked up.
    pub(super) fn recall(&mut self, known: impl Iterator<Item = (String, Vec<IpAddr>)>) {
        for (name, addresses) in known {
            let Some(host) = self.hosts.get_mut(&*name) else { continue };
            host.is_asked = true;
            host.failures = u32::from(addresses.is_empty());
            host.addresses = addresses;
            host.names.iter().filter_map(Weak::upgrade).for_each(|name| host.tell(&name));
            self.plan(&name, Instant::now());
        }
    }

    /// Plans lookups of names at whose addresses no backend answers. They are soon, but later with
    /// each doubt that finds the same addresses.
    fn take_doubts(&mut self) {
        let doubted = std::mem::take(&mut *self.lookup_news.doubted());
        for name in doubted {
            let Some(host) = self.hosts.get(&name) else { continue };
            let pause = doubled(limits::RESOLVE_DOUBTED, host.doubts).min(limits::RESOLVE_EVERY);
            let soon = host.asked.map_or_else(Instant::now, |asked| asked + pause);
            if host.due.is_some_and(|due| soon < due) {
                self.plan(&name, soon);
            }
            if let Some(host) = self.hosts.get_mut(&name) {
                host.doubts = host.doubts.saturating_add(1);
            }
        }
    }

    fn plan(&mut self, name: &str, due: Instant) {
        self.turns += 1;
        if let Some(host) = self.hosts.get_mut(name) {
            host.due = Some(due);
            // If several are due at the same time, the newest comes first, because a rule waits for
            // it.
            self.due[host.sort() as usize].push((Reverse(due), self.turns, name.into()));
        }
    }

    /// Begins the lookups that are due, as far as their share has room. Returns when there is more
    /// to do.
    fn start_lookups(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        for sort in [Sort::New, Sort::Found, Sort::Failing] {
            while let Some((Reverse(due), _, name)) = self.due[sort as usize].peek() {
                let host = self.hosts.get(name);
                let is_void = |host: &Host| host.due != Some(*due) || host.sort() != sort;
                if host.is_none_or(is_void) {
                    self.due[sort as usize].pop();
                    continue;
                }
                let room = self.room_from(sort, now);
                if now < *due || now < room {
                    let then = room.max(*due);
                    next = Some(next.map_or(then, |next: Instant| next.min(then)));
                    break;
                }
                let Some((_, _, name)) = self.due[sort as usize].pop() else { break };
                if let Some(host) = self.hosts.get_mut(&name) {
                    host.due = None;
                }
                self.running.insert(name.clone(), Running { sort, since: now });
                self.lookups.spawn(look_up(name));
            }
        }
        next
    }

    /// Returns when there is room for one more lookup of this sort. A lookup that takes longer than
    /// `RESOLVE_SLOW` no longer counts, unless it is of a name that failed last time.
    fn room_from(&self, sort: Sort, now: Instant) -> Instant {
        let share = match sort {
            Sort::New => self.most / 2,
            Sort::Found => self.most / 4,
            Sort::Failing => self.most / 8,
        };
        let slow = |running: &&Running| running.since + limits::RESOLVE_SLOW <= now;
        let is_own = |running: &&Running| running.sort == sort;
        let own = self.running.values().filter(is_own);
        let count = own.clone().filter(|running| sort == Sort::Failing || !slow(running)).count();
        if self.running.len() < self.most && count < share {
            return now;
        }
        let leaves = own.filter(|running| !slow(running)).map(|one| one.since).min();
        match leaves {
            Some(since) if self.running.len() < self.most && sort != Sort::Failing => {
                since + limits::RESOLVE_SLOW
            }
            // There is room when a lookup ends, and that wakes the resolver; this time is only an
            // upper bound.
            _ => now + limits::RESOLVE_EVERY,
        }
    }

    /// Stores the answer of a lookup, and plans the next one.
    fn settle(&mut self, name: &str, answer: Answer) {
        self.running.remove(name);
        let random = self.random.hash_one(self.turns);
        let Some(host) = self.hosts.get_mut(name) else { return };
        let before = host.addresses.clone();
        host.take(name, answer);
        host.asked = Some(Instant::now());
        if host.addresses != before {
            host.doubts = 0;
        }
        let pause = pause(host.failures, random);
        self.lookup_news.settled.notify_waiters();
        self.plan(name, Instant::now() + pause);
    }
}

async fn look_up(host: Box<str>) -> (Box<str>, Answer) {
    // The port does not matter here: each name has its own.
    let answer = match tokio::net::lookup_host((&*host, 0)).await {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(error),
    };
    (host, answer)
}

impl Host {
    fn sort(&self) -> Sort {
        match (self.is_asked, self.failures) {
            (false, _) => Sort::New,
            (true, 0) => Sort::Found,
            (true, _) => Sort::Failing,
        }
    }

    /// Stores the outcome of a lookup, and passes it to the names of this host.
    fn take(&mut self, name: &str, answer: Answer) {
        self.is_asked = true;
        self.settle(name, answer);
        self.names.iter().filter_map(Weak::upgrade).for_each(|name| self.tell(&name));
    }

    /// Gives a name the addresses of this host that are known.
    fn tell(&self, name: &Name) {
        let with_port = |ip: &IpAddr| SocketAddr::new(*ip, name.port);
        let addresses: Vec<SocketAddr> = self.addresses.iter().map(with_port).collect();
        if **name.addresses() != addresses {
            name.set_addresses(addresses);
        }
        if self.is_asked {
            name.set_asked();
        }
    }

    fn settle(&mut self, name: &str, answer: Answer) {
        let mut addresses = match answer {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => return self.fail(name, "it has no address"),
            Err(error) => return self.fail(name, &reason(&error)),
        };
        addresses.sort_unstable();
        addresses.dedup();
        let is_back = self.failures != 0;
        self.failures = 0;
        if self.addresses == addresses {
            if is_back {
                info!("Backend {name} is found again: {}", listed(&addresses));
            }
            return;
        }
        info!("Backend {name} is at {}", listed(&addresses));
        self.addresses = addresses;
    }

    fn fail(&mut self, name: &str, why: &str) {
        self.failures = self.failures.saturating_add(1);
        // Logged only at the first failure: the next line about the name says that it is found
        // again.
        if self.failures == 1 {
            let rest = match &self.addresses[..] {
                [] => "its backends can't be reached until it is".to_owned(),
                known => format!("going on with {}", listed(known)),
            };
            warn!("Backend {name} is not found: {why}; {rest}");
        }
    }
}

/// Returns the pause until the next lookup. After a failure it is short, and doubles with each
/// further one, up to the usual pause.
fn pause(failures: u32, random: u64) -> Duration {
    let usual = limits::RESOLVE_EVERY;
    let base = match failures.checked_sub(1) {
        None => usual,
        Some(doublings) => doubled(limits::RESOLVE_AGAIN, doublings).min(usual),
    };
    jittered(base, random)
}

/// Returns the system's message, without the words that the library puts before it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = text.strip_prefix("failed to lookup address information: ");
    plain.unwrap_or(&text).to_owned()
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Names;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn resolver_of(names: &[(&str, u16)]) -> (Resolver, Vec<Arc<Name>>) {
        let mut all = Names::default();
        let kept = names.iter().map(|(host, port)| all.get(host, *port)).collect();
        (Resolver::new(Arc::new(Mutex::new(all)), 64), kept)
    }

    #[test]
    fn one_lookup_serves_every_port() {
        let (mut resolver, names) =
            resolver_of(&[("b.internal", 80), ("b.internal", 443), ("c.internal", 80)]);
        assert_eq!(resolver.due[Sort::New as usize].len(), 2);
        resolver.settle("b.internal", Ok(vec![ip("10.0.0.2"), ip("10.0.0.1"), ip("10.0.0.2")]));
        let told: Vec<String> =
            names.iter().map(|name| format!("{:?}", name.addresses())).collect();
        assert_eq!(told[0], "[10.0.0.1:80, 10.0.0.2:80]");
        assert_eq!(told[1], "[10.0.0.1:443, 10.0.0.2:443]");
        assert_eq!(told[2], "[]");
    }

    #[test]
    fn the_last_good_addresses_stay_when_a_lookup_fails() {
        let (mut resolver, names) = resolver_of(&[("b.internal", 80)]);
        resolver.settle("b.internal", Ok(vec![ip("10.0.0.1")]));
        resolver.settle("b.internal", Err(io::Error::other("no answer")));
        resolver.settle("b.internal", Ok(Vec::new()));
        assert_eq!(**names[0].addresses(), ["10.0.0.1:80".parse().expect("an address")]);
        assert_eq!(resolver.hosts["b.internal"].failures, 2);
        resolver.settle("b.internal", Ok(vec![ip("::1")]));
        assert_eq!(**names[0].addresses(), ["[::1]:80".parse().expect("an address")]);
        assert_eq!(resolver.hosts["b.internal"].failures, 0);
    }

    #[test]
    fn a_name_that_no_rule_uses_is_forgotten() {
        let (mut resolver, names) = resolver_of(&[("b.internal", 80), ("c.internal", 80)]);
        drop(names);
        resolver.prune();
        assert!(resolver.hosts.is_empty());
        // the lookup that was planned finds no rule that uses the name
        resolver.settle("b.internal", Ok(vec![ip("10.0.0.1")]));
    }

    #[test]
    fn a_name_that_comes_later_is_looked_up_at_once() {
        let (mut resolver, _names) = resolver_of(&[]);
        let lookups = resolver.lookups();
        let names = resolver.names.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let new = names.lock().expect("names").get("localhost", 80);
            tokio::select! {
                _ = resolver.run() => unreachable!("it runs for ever"),
                () = lookups.ready(std::slice::from_ref(&new)) => {}
            }
            assert!(!new.addresses().is_empty());
            // a name with a known host and another port needs no lookup
            let other = names.lock().expect("names").get("localhost", 81);
            resolver.take_names();
            assert!(other.is_asked() && !other.addresses().is_empty());
        });
        runtime.shutdown_background();
    }

    #[test]
    fn pauses_grow_and_are_never_in_step() {
        let least = |failures| pause(failures, 0);
        let most = |failures| pause(failures, 200);
        assert_eq!(least(0), limits::RESOLVE_EVERY * 9 / 10);
        assert_eq!(most(0), limits::RESOLVE_EVERY * 11 / 10);
        assert!(most(1) < least(2) && most(2) < least(3));
        assert_eq!(least(40), least(0));
        assert_eq!(least(u32::MAX), least(0));
    }

    #[test]
    fn numbers_and_this_machine_are_found() {
        let (mut resolver, names) =
            resolver_of(&[("localhost", 80), ("does-not-exist.invalid", 1)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(resolver.first_round());
        assert!(names[0].addresses().iter().all(|address| address.ip().is_loopback()));
        assert!(!names[0].addresses().is_empty());
        assert!(names[1].addresses().is_empty());
        runtime.shutdown_background();
    }
}
