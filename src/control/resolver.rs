//! Looks up the host names of backends, off the request path: shards see addresses only. Each host is
//! looked up once, however many rules and ports use it, and again every half minute or so. When a
//! lookup fails the last good addresses stay, and it is tried again, later each time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::SharedNames;
use crate::limits;
use crate::table::Name;

type Answer = io::Result<Vec<IpAddr>>;

/// What is to be looked up, and when.
pub(super) struct Resolver {
    names: SharedNames,
    hosts: HashMap<Box<str>, Host>,
    due: BinaryHeap<Reverse<(Instant, Box<str>)>>,
    lookups: JoinSet<(Box<str>, Answer)>,
    random: RandomState,
    turns: u64,
    prune_at: Instant,
    lookup_news: Lookups,
}

/// How others wait for the resolver.
#[derive(Clone, Default)]
pub(super) struct Lookups {
    asked_for: Arc<Notify>,
    settled: Arc<Notify>,
}

impl Lookups {
    /// Waits until each of these was looked up, found or not, or for the time that a change may take:
    /// a rule should not come into force before its backends can be reached.
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
    /// Its ports; weak, so that a name that no rule uses any more is forgotten.
    names: Vec<Weak<Name>>,
    /// As found last: sorted, each once.
    addresses: Vec<IpAddr>,
    /// Since the last success.
    failures: u32,
    is_asked: bool,
}

impl Resolver {
    pub(super) fn new(names: SharedNames) -> Resolver {
        let mut resolver = Resolver {
            names,
            hosts: HashMap::new(),
            due: BinaryHeap::new(),
            lookups: JoinSet::new(),
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

    /// Waits until every name was asked for, or for the time that a start may take.
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

    /// The next thing that happens: a lookup is due, one has ended, or a rule brought a new name.
    async fn step(&mut self) {
        self.start_lookups();
        let has_room = self.lookups.len() < limits::RESOLVE_AT_ONCE;
        let next = self.due.peek().map(|Reverse((due, _))| *due).filter(|_| has_room);
        let next = next.unwrap_or(self.prune_at).min(self.prune_at);
        let asked_for = self.lookup_news.asked_for.clone();
        tokio::select! {
            Some(ended) = self.lookups.join_next() => match ended {
                Ok((host, answer)) => self.settle(&host, answer),
                Err(error) => warn!("A lookup panicked: {error}"),
            },
            () = asked_for.notified() => self.take_names(),
            () = tokio::time::sleep_until(next) => {
                if self.prune_at <= Instant::now() {
                    self.prune_at = Instant::now() + limits::RESOLVE_EVERY;
                    self.prune();
                }
            }
        }
    }

    /// Groups the names that came by host; what is new is due now.
    fn take_names(&mut self) {
        let new = self.names.lock().unwrap_or_else(PoisonError::into_inner).take_new();
        for name in new.iter().filter_map(Weak::upgrade) {
            let host = self.hosts.entry(name.host.clone()).or_insert_with(|| {
                self.due.push(Reverse((Instant::now(), name.host.clone())));
                Host::default()
            });
            host.tell(&name);
            host.names.push(Arc::downgrade(&name));
        }
        self.lookup_news.settled.notify_waiters();
    }

    /// Forgets names that no rule uses any more, and hosts without names.
    fn prune(&mut self) {
        self.take_names();
        self.names.lock().unwrap_or_else(PoisonError::into_inner).prune();
        self.hosts.retain(|_, host| {
            host.names.retain(|name| 0 < name.strong_count());
            !host.names.is_empty()
        });
    }

    fn start_lookups(&mut self) {
        let now = Instant::now();
        while self.lookups.len() < limits::RESOLVE_AT_ONCE {
            match self.due.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => return,
            }
            let Some(Reverse((_, host))) = self.due.pop() else { return };
            if self.hosts.contains_key(&host) {
                self.lookups.spawn(look_up(host));
            }
        }
    }

    /// Takes an answer and plans the next lookup.
    fn settle(&mut self, name: &str, answer: Answer) {
        self.turns += 1;
        let random = self.random.hash_one(self.turns);
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.take(name, answer);
        self.lookup_news.settled.notify_waiters();
        let pause = pause(host.failures, random);
        self.due.push(Reverse((Instant::now() + pause, name.into())));
    }
}

async fn look_up(host: Box<str>) -> (Box<str>, Answer) {
    // The port means nothing here; each name has its own.
    let answer = match tokio::net::lookup_host((&*host, 0)).await {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(error),
    };
    (host, answer)
}

impl Host {
    /// Takes the outcome of a lookup.
    fn take(&mut self, name: &str, answer: Answer) {
        self.is_asked = true;
        self.settle(name, answer);
        self.names.iter().filter_map(Weak::upgrade).for_each(|name| self.tell(&name));
    }

    /// Gives one of its names what is known.
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
        // Told once: the next line about it says that it is found again.
        if self.failures == 1 {
            let rest = match &self.addresses[..] {
                [] => "its backends can't be reached until it is".to_owned(),
                known => format!("going on with {}", listed(known)),
            };
            warn!("Backend {name} is not found: {why}; {rest}");
        }
    }
}

/// Until the next lookup: doubled with each failure, up to the usual time; a tenth more or less, so
/// that neither names nor daemons ask in step.
fn pause(failures: u32, random: u64) -> Duration {
    let usual = limits::RESOLVE_EVERY;
    let base = match failures.checked_sub(1) {
        None => usual,
        Some(doublings) => {
            let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
            limits::RESOLVE_AGAIN.saturating_mul(factor).min(usual)
        }
    };
    let thousandths = 900 + (random % 201) as u32;
    base * thousandths / 1000
}

/// The system's own words, without the wrapping that the library puts around them.
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
    use std::sync::Mutex;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn resolver_of(names: &[(&str, u16)]) -> (Resolver, Vec<Arc<Name>>) {
        let mut all = Names::default();
        let kept = names.iter().map(|(host, port)| all.get(host, *port)).collect();
        (Resolver::new(Arc::new(Mutex::new(all))), kept)
    }

    #[test]
    fn one_lookup_serves_every_port() {
        let (mut resolver, names) =
            resolver_of(&[("b.internal", 80), ("b.internal", 443), ("c.internal", 80)]);
        assert_eq!(resolver.due.len(), 2);
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
        // its planned lookup finds nobody who wants it
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
            // another port of a host that is known already needs no lookup
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
