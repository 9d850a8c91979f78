//! The queue of held requests: which requests wait for which host, in what order, and which ones
//! may go on when the table changes. Pure: the clock is an argument, and the owner of the queue
//! sends the decisions to the shards.
//!
//! All requests that wait for one host wait for the same event: its rule is no longer `spin`, one
//! of its backends comes back, or it is their turn in a release at a pace. Each request gets its
//! place once, in the order of arrival; a request that was let go and has to wait again gets its
//! old place back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits;
use crate::link::{ByKey, HoldReason, RANK_FIRST, Rank, Ticket, Waits, Word, source_network};
use crate::table::{Action, Found, Match, Rule, Scheme, Snapshot};

/// Bounds of the requests that wait.
#[derive(Copy, Clone, Debug)]
pub(in crate::control) struct Bounds {
    /// Requests that may be held in all.
    pub(in crate::control) total: usize,
    /// Requests of one source address that may be held.
    pub(in crate::control) per_source: usize,
}

/// A bound that keeps one more request from being held, with the count that has reached it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum Full {
    /// The key `max_held`.
    Total(u64),
    /// The key `max_held_per_source`.
    Source(u64),
    /// The argument `max_held` of a rule, for which so many requests are held.
    Rule { held: u64, most: u32 },
}

/// A decision for a shard about a request: the shard, the request's ticket, and the word.
pub(super) type Said = (usize, Ticket, Word);

type HostKey = (Arc<str>, Scheme);

/// A request that waits.
struct Waiting {
    shard: usize,
    ticket: Ticket,
    host: HostKey,
    source: IpAddr,
    /// Moment at which the request began to wait; for a request that has to wait again, it begins
    /// anew.
    since: Instant,
}

/// A held request, as the API lists it.
pub(in crate::control) struct HeldRequest {
    /// The name of the rule that matched.
    pub(in crate::control) rule: Arc<str>,
    /// The host that the request names.
    pub(in crate::control) host: Arc<str>,
    pub(in crate::control) source: IpAddr,
    pub(in crate::control) since: Instant,
    /// Event that the request waits for: another `rule`, a `backend`, or its `turn`.
    pub(in crate::control) awaits: &'static str,
}

/// Event that the requests for a host wait for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Awaited {
    /// Another rule.
    Rule,
    /// A backend.
    Backend,
    /// The turn in the release from the rule with this key.
    Turn(u64),
}

/// The requests that wait for one host.
struct Line {
    what: Awaited,
    rule_key: u64,
    rule: Rule,
    /// The name of the rule that matched.
    name: Arc<str>,
    places: BTreeSet<Rank>,
    /// Whether a request found that no backend can be reached.
    is_unreached: bool,
}

/// A release at a pace: the rule's `release_rate`, or as fast as an application can be expected to
/// accept.
struct Release {
    pause: Duration,
    next: Instant,
    places: BTreeSet<Rank>,
}

impl Release {
    /// Earliest time for the next turn: a release that is late catches up only a little.
    fn earliest(pause: Duration, now: Instant) -> Instant {
        let burst = pause * (limits::RELEASE_BURST - 1);
        now.checked_sub(burst.min(limits::RELEASE_CATCHES_UP)).unwrap_or(now)
    }
}

/// A host's rule for which requests have begun to wait.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::control) struct Begun {
    /// The name of the rule that matched.
    pub(in crate::control) name: Arc<str>,
    pub(in crate::control) rule: Rule,
}

/// Actions that follow an event.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) said: Vec<Said>,
    pub(super) begun: Vec<Begun>,
}

/// All requests that wait.
pub(super) struct Queue {
    bounds: Bounds,
    /// Number of the fleet's nodes, by which limits of rules are divided.
    shares: u32,
    next: Rank,
    waiting: BTreeMap<Rank, Waiting>,
    tickets: HashMap<(usize, Ticket), Rank, foldhash::fast::RandomState>,
    lines: HashMap<HostKey, Line>,
    /// Number of waiting requests by the key of their rule; only lines that wait for another rule
    /// or a backend count.
    by_rule: ByKey<usize>,
    by_source: HashMap<IpAddr, usize>,
    releases: ByKey<Release>,
    /// Whether the lines that shards must know of have changed since the last
    /// [`Queue::take_lines`].
    is_stale: bool,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Queue {
        Queue {
            bounds,
            shares: 1,
            next: RANK_FIRST,
            waiting: BTreeMap::new(),
            tickets: HashMap::default(),
            lines: HashMap::new(),
            by_rule: ByKey::default(),
            by_source: HashMap::new(),
            releases: ByKey::default(),
            is_stale: false,
        }
    }

    pub(super) fn set_shares(&mut self, shares: u32) {
        self.shares = shares.max(1);
    }

    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Moment since which the oldest request has waited.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.since).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.releases.is_empty()
    }

    /// Takes a request that begins to wait. Lets it go on if, by the table as it is now, it has
    /// nothing to wait for.
    pub(super) fn arrive(
        &mut self,
        waits: Waits,
        table: &Snapshot,
        now: Instant,
        outcome: &mut Outcome,
    ) {
        let Waits { shard, ticket, why, place, host, scheme, source } = waits;
        let Match::Found(found) = table.lookup(&host, scheme) else {
            return self.pass(shard, ticket, place, outcome);
        };
        // One copy of the host name for all requests that wait for the host.
        let host: HostKey = (Arc::from(host), scheme);
        let host = self.lines.get_key_value(&host).map_or(host.clone(), |(host, _)| host.clone());
        let Some(what) = self.awaited(&host, why, &found) else {
            return self.pass(shard, ticket, place, outcome);
        };
        if self.full(Some(source), found.rule_key, found.rule).is_some() {
            return outcome.said.push((shard, ticket, Word::Full));
        }
        let place = self.place(place);
        if let Awaited::Turn(key) = what
            && let Some(release) = self.releases.get_mut(&key)
        {
            release.places.insert(place);
            if is_for_backend(why) {
                // The request had its turn and came back, because no backend took it. Pause the
                // release: more requests would follow this one in vain.
                release.next = release.next.max(now + limits::HELD_PROBE_EVERY);
            }
        }
        let line = self.enter(&host, what, &found, outcome);
        line.places.insert(place);
        line.is_unreached |= why == HoldReason::NoBackend;
        *self.by_source.entry(source_network(source)).or_default() += 1;
        self.tickets.insert((shard, ticket), place);
        let since = since(place, now);
        self.waiting.insert(place, Waiting { shard, ticket, host, source, since });
    }

    /// Lists the first `most` requests whose rule is wanted, in the order of their places, and
    /// counts all of them.
    pub(super) fn list(
        &self,
        is_wanted: impl Fn(&str) -> bool,
        most: usize,
    ) -> (Vec<HeldRequest>, usize) {
        let (mut listed, mut count) = (Vec::new(), 0);
        for waiting in self.waiting.values() {
            let Some(line) = self.lines.get(&waiting.host).filter(|line| is_wanted(&line.name))
            else {
                continue;
            };
            count += 1;
            if listed.len() < most {
                let awaits = match line.what {
                    Awaited::Rule => "rule",
                    Awaited::Backend => "backend",
                    Awaited::Turn(_) => "turn",
                };
                let (rule, host) = (line.name.clone(), waiting.host.0.clone());
                let (source, since) = (waiting.source, waiting.since);
                listed.push(HeldRequest { rule, host, source, since, awaits });
            }
        }
        (listed, count)
    }

    /// Finds the event that a request for this host has to wait for; `None`: nothing.
    fn awaited(&self, host: &HostKey, why: HoldReason, found: &Found<'_>) -> Option<Awaited> {
        let proxy = match &found.rule.action {
            Action::Spin(_) => return Some(Awaited::Rule),
            Action::Proxy(proxy) => proxy,
            _ => return None,
        };
        if let Some(line) = self.lines.get(host) {
            return Some(line.what);
        }
        if is_for_backend(why) {
            return (!proxy.hold().is_zero()).then_some(Awaited::Backend);
        }
        // Requests that are counted here wait for another rule or for a backend. Those that waited
        // for another rule are no longer counted since it became this one, so the rest wait for a
        // backend.
        if self.by_rule.contains_key(&found.rule_key) {
            return Some(Awaited::Backend);
        }
        let released = [found.rule_key, found.key];
        released.into_iter().find(|key| self.releases.contains_key(key)).map(Awaited::Turn)
    }

    /// Finds the bound that keeps one more request of this source from being held for a rule.
    pub(super) fn full(&self, source: Option<IpAddr>, rule_key: u64, rule: &Rule) -> Option<Full> {
        let of_rule = self.by_rule.get(&rule_key).copied().unwrap_or(0);
        if let Action::Spin(spin) = &rule.action
            && let Some(most) = spin.max_held()
            && most.get().div_ceil(self.shares) as usize <= of_rule
        {
            return Some(Full::Rule { held: of_rule as u64, most: most.get() });
        }
        let of_source = source.and_then(|source| self.by_source.get(&source_network(source)));
        if of_source.is_some_and(|count| self.bounds.per_source <= *count) {
            return Some(Full::Source(self.bounds.per_source as u64));
        }
        let is_full = self.bounds.total <= self.waiting.len();
        is_full.then_some(Full::Total(self.bounds.total as u64))
    }

    fn place(&mut self, old: Option<Rank>) -> Rank {
        // No other request has the old place: it was given to this request alone, and to none
        // since.
        if let Some(old) = old.filter(|old| !self.waiting.contains_key(old)) {
            return old;
        }
        self.next += 1;
        self.next
    }

    /// Finds or begins the line of a host.
    fn enter(
        &mut self,
        host: &HostKey,
        what: Awaited,
        found: &Found<'_>,
        outcome: &mut Outcome,
    ) -> &mut Line {
        if !matches!(what, Awaited::Turn(_)) {
            let count = self.by_rule.entry(found.rule_key).or_default();
            *count += 1;
            if *count == 1 {
                let (name, rule) = (found.name().into(), found.rule.clone());
                outcome.begun.push(Begun { name, rule });
            }
        }
        self.lines.entry(host.clone()).or_insert_with(|| {
            self.is_stale |= what != Awaited::Rule;
            Line {
                what,
                rule_key: found.rule_key,
                rule: found.rule.clone(),
                name: found.name().into(),
                places: BTreeSet::new(),
                is_unreached: false,
            }
        })
    }

    /// Lets a request go on that has nothing to wait for.
    fn pass(&mut self, shard: usize, ticket: Ticket, place: Option<Rank>, outcome: &mut Outcome) {
        let place = self.place(place);
        outcome.said.push((shard, ticket, Word::Go(place)));
    }

    /// Removes a request that has stopped waiting by itself: its client has left, or its time is
    /// over.
    pub(super) fn leave(&mut self, shard: usize, ticket: Ticket) {
        if let Some(place) = self.tickets.get(&(shard, ticket)).copied() {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: Rank) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        self.tickets.remove(&(waiting.shard, waiting.ticket));
        take_one(&mut self.by_source, &source_network(waiting.source));
        let Some(line) = self.lines.get_mut(&waiting.host) else { return Some(waiting) };
        line.places.remove(&place);
        match line.what {
            Awaited::Turn(key) => {
                if let Some(release) = self.releases.get_mut(&key) {
                    release.places.remove(&place);
                }
            }
            Awaited::Rule | Awaited::Backend => take_one(&mut self.by_rule, &line.rule_key),
        }
        if line.places.is_empty() {
            self.is_stale |= line.what != Awaited::Rule;
            self.lines.remove(&waiting.host);
        }
        Some(waiting)
    }

    /// Lets requests go on, first come first.
    fn let_go(&mut self, mut places: Vec<Rank>, outcome: &mut Outcome) {
        places.sort_unstable();
        for place in places {
            if let Some(waiting) = self.remove(place) {
                outcome.said.push((waiting.shard, waiting.ticket, Word::Go(place)));
            }
        }
    }

    /// Decides for all lines, by a new table, whether their requests go on.
    pub(super) fn changed(&mut self, table: &Snapshot, now: Instant, outcome: &mut Outcome) {
        let mut free = Vec::new();
        let mut paced = Vec::new();
        for (host, line) in &mut self.lines {
            let found = match table.lookup(&host.0, host.1) {
                Match::Found(found) => Some(found),
                Match::NoHosts | Match::Unknown => None,
            };
            let is_same = found.as_ref().is_some_and(|found| {
                found.rule_key == line.rule_key && found.rule.action == line.rule.action
            });
            let is_proxied =
                found.as_ref().is_some_and(|it| matches!(it.rule.action, Action::Proxy(_)));
            match line.what {
                Awaited::Rule | Awaited::Backend if is_same => {}
                // A release that has begun goes on at its pace, whichever `proxy` rule the host has
                // now.
                Awaited::Turn(_) if is_proxied => {}
                Awaited::Rule | Awaited::Backend if is_proxied => paced.push(host.clone()),
                _ => free.extend(&line.places),
            }
        }
        for host in paced {
            self.begin_release(&host, now);
        }
        self.let_go(free, outcome);
        self.pace(now, outcome);
    }

    /// Begins the release of this host: from here on its requests go on at a pace.
    fn begin_release(&mut self, host: &HostKey, now: Instant) {
        let Some(line) = self.lines.get_mut(host) else { return };
        let rate = match &line.rule.action {
            Action::Spin(spin) => spin.release_rate(),
            _ => None,
        };
        let key = line.rule_key;
        line.what = Awaited::Turn(key);
        let own = |rate: NonZeroU32| rate.get().div_ceil(self.shares);
        let pause = Duration::from_secs(1) / rate.map_or(limits::RELEASE_RATE, own);
        let release = self.releases.entry(key).or_insert_with(|| Release {
            pause,
            // With a `release_rate`, the first second must not have more turns than later ones, so
            // there is nothing to catch up.
            next: if rate.is_some() { now } else { Release::earliest(pause, now) },
            places: BTreeSet::new(),
        });
        release.pause = pause;
        release.places.extend(&line.places);
        for _ in 0..line.places.len() {
            take_one(&mut self.by_rule, &key);
        }
        self.is_stale = true;
    }

    /// Lets the requests go on whose turn has come; returns when the next turn is.
    pub(super) fn pace(&mut self, now: Instant, outcome: &mut Outcome) -> Option<Instant> {
        let mut free = Vec::new();
        for release in self.releases.values_mut() {
            release.next = release.next.max(Release::earliest(release.pause, now));
            while release.next <= now {
                let Some(place) = release.places.pop_first() else { break };
                free.push(place);
                release.next += release.pause;
            }
        }
        self.let_go(free, outcome);
        let before = self.releases.len();
        self.releases.retain(|_, release| !release.places.is_empty() || now < release.next);
        self.is_stale |= self.releases.len() != before;
        self.releases.values().map(|release| release.next).min()
    }

    /// Begins the releases of rules whose backend can be reached again; `has` selects these rules.
    pub(super) fn reached(
        &mut self,
        has: impl Fn(&Rule) -> bool,
        now: Instant,
        outcome: &mut Outcome,
    ) {
        let lines = self.lines.iter();
        let waiting = lines.filter(|(_, line)| line.what == Awaited::Backend && has(&line.rule));
        let hosts: Vec<HostKey> = waiting.map(|(host, _)| host.clone()).collect();
        for host in hosts {
            self.begin_release(&host, now);
        }
        self.pace(now, outcome);
    }

    /// Rules for whose backends requests wait, each with its key, and whether its backends were
    /// found to be out of reach.
    pub(super) fn without_backend(&self) -> impl Iterator<Item = (&Rule, u64, bool)> {
        let lines = self.lines.values();
        let lines = lines.filter(|line| line.what == Awaited::Backend);
        lines.map(|line| (&line.rule, line.rule_key, line.is_unreached))
    }

    /// Requests that wait for each rule, by the name that matched.
    pub(super) fn by_name(&self) -> HashMap<Arc<str>, usize> {
        let mut names = HashMap::new();
        for line in self.lines.values() {
            *names.entry(line.name.clone()).or_default() += line.places.len();
        }
        names
    }

    /// Keys of rules and hosts whose next requests must wait behind others, each with the longest
    /// time for that; `None`: they are the same as at the last call.
    pub(super) fn take_lines(&mut self, table: &Snapshot) -> Option<ByKey<Duration>> {
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        let mut waits = ByKey::default();
        for (host, line) in &self.lines {
            match line.what {
                Awaited::Rule => {}
                Awaited::Backend => {
                    let Action::Proxy(proxy) = &line.rule.action else { continue };
                    waits.insert(line.rule_key, proxy.hold());
                }
                Awaited::Turn(_) => {
                    waits.insert(table.key(&host.0), limits::BEHIND_TIME);
                }
            }
        }
        waits.extend(self.releases.keys().map(|key| (*key, limits::BEHIND_TIME)));
        Some(waits)
    }
}

/// Moment at which a request began to wait. The place of a request that was taken over from another
/// process holds its age.
fn since(place: Rank, now: Instant) -> Instant {
    let waited = Duration::from_nanos(RANK_FIRST.saturating_sub(place));
    now.checked_sub(waited).unwrap_or(now)
}

/// Whether a request is held because no backend has taken it.
fn is_for_backend(why: HoldReason) -> bool {
    matches!(why, HoldReason::NoBackend | HoldReason::Unserved)
}

fn take_one<K: std::hash::Hash + Eq, S: std::hash::BuildHasher>(
    counts: &mut HashMap<K, usize, S>,
    key: &K,
) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
