//! Plan of the probes: backends, kind and time, kept up to date rule by rule and failure by
//! failure. Pure: clock and chance are arguments, and the owner of the plan makes the probes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::condition::{Condition, State, Verdict};
use super::probe::{Finding, Probe};
use crate::address::Address;
use crate::control::pause::{doubled, jittered};
use crate::limits;
use crate::link::Failure;
use crate::table::{Action, Backend, Check, Name, Proxy, Rule, Target};

/// A moment, for waiting and for telling.
#[derive(Copy, Clone, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) date: SystemTime,
}

/// A backend that went down, was ejected, or came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::control) struct HealthChange {
    pub(in crate::control) backend: Address,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
}

/// Standing of a backend that is probed.
#[derive(Clone, Debug)]
pub(in crate::control) struct Standing {
    pub(in crate::control) backend: Address,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
    pub(in crate::control) since: SystemTime,
}

/// A backend as rules name it, and how they have it checked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Checked {
    target: Box<str>,
    check: Check,
}

/// A backend with a `check`, and its probes.
struct Use {
    /// How many rules ask for it.
    rules: usize,
    backend: Backend,
    /// One for each address.
    probes: Vec<(Address, u64)>,
}

impl Use {
    fn addresses(&self) -> Vec<Address> {
        let mut addresses = Vec::new();
        self.backend.each_address(|address| addresses.push(address));
        addresses
    }

    /// Whether the backend has moved away from the address that is probed.
    fn has_moved(&self) -> bool {
        !self.probes.iter().map(|(address, _)| *address).eq(self.addresses())
    }
}

/// A probe that is made again and again.
struct Planned {
    address: Address,
    probe: Probe,
    due: Instant,
    is_running: bool,
}

/// A backend that requests pass over because it failed them.
struct Ejection {
    /// The probe that finds out when it is back.
    probe: u64,
    /// The backend accepts connections, so its probes know less than requests do.
    is_silent: bool,
    /// How often it was ejected again soon after.
    relapses: u32,
}

/// A probed backend.
struct Known {
    condition: Condition,
    since: SystemTime,
}

/// Everything that is probed.
#[derive(Default)]
pub(super) struct Watch {
    checked: HashMap<Checked, Use>,
    /// Checked backends that are names, whose addresses may change.
    named: HashSet<Checked>,
    named_at: Option<Instant>,
    /// Ejected backends without a `check`.
    ejected: HashMap<Address, Ejection>,
    /// Time at which a backend that had given requests no response came back by its probes, and its
    /// relapses.
    back: HashMap<Address, (Instant, u32)>,
    backends: HashMap<Address, Known>,
    down: HashSet<Address>,
    planned: HashMap<u64, Planned>,
    /// Probes by time; entries that do not agree with `planned` are void.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    numbers: u64,
    /// Probes begun since then.
    begun: Option<(Instant, u32)>,
    changes: Vec<HealthChange>,
    /// Backends that requests wait for.
    wanted: HashSet<Address>,
}

const TENTH: Duration = Duration::from_millis(100);

impl Watch {
    /// Takes a rule that became another, came, or went.
    pub(super) fn changed(&mut self, old: Option<&Rule>, new: Option<&Rule>, now: Now) {
        // In this order what both of them check is not forgotten in between.
        for (check, backend) in checks(new) {
            self.begin(check, backend, now);
        }
        for (check, backend) in checks(old) {
            self.end(check, backend, now);
        }
    }

    fn begin(&mut self, check: &Check, backend: &Backend, now: Now) {
        let key = Checked { target: backend.to_string().into(), check: check.clone() };
        let used = self.checked.entry(key.clone()).or_insert_with(|| Use {
            rules: 0,
            backend: backend.clone(),
            probes: Vec::new(),
        });
        used.rules += 1;
        if used.rules == 1 {
            if matches!(backend.target(), Target::Name(_)) {
                self.named.insert(key.clone());
                self.named_at.get_or_insert(now.at);
            }
            self.follow(&key, now);
        }
    }

    fn end(&mut self, check: &Check, backend: &Backend, now: Now) {
        let key = Checked { target: backend.to_string().into(), check: check.clone() };
        let Some(used) = self.checked.get_mut(&key) else { return };
        used.rules -= 1;
        if used.rules == 0
            && let Some(used) = self.checked.remove(&key)
        {
            self.named.remove(&key);
            for (_, id) in used.probes {
                self.stop(id, "no longer checked", now);
            }
        }
    }

    /// Probes a backend at the addresses that it has now.
    fn follow(&mut self, key: &Checked, now: Now) {
        let Some(used) = self.checked.get_mut(key) else { return };
        let addresses = used.addresses();
        // A Unix socket has no host that a request could name.
        let host = used.backend.path().map_or(&*key.target, |_| "localhost");
        let mut before = std::mem::take(&mut used.probes);
        let mut probes = Vec::with_capacity(addresses.len());
        for address in addresses {
            let known = before.iter().position(|(known, _)| *known == address);
            let id = match known {
                Some(index) => before.swap_remove(index).1,
                None => {
                    let probe = match &key.check {
                        Check::Tcp => Probe::Connect,
                        Check::Path(path) => Probe::get(path, host),
                    };
                    let id = self.schedule(address, probe, now.at);
                    let verdict = Verdict::of_check();
                    self.update(address, now, |condition| condition.add(id, verdict));
                    id
                }
            };
            probes.push((address, id));
        }
        for (_, id) in before {
            self.stop(id, "no longer an address of its name", now);
        }
        if let Some(used) = self.checked.get_mut(key) {
            used.probes = probes;
        }
    }

    fn schedule(&mut self, address: Address, probe: Probe, due: Instant) -> u64 {
        self.numbers += 1;
        let id = self.numbers;
        self.planned.insert(id, Planned { address, probe, due, is_running: false });
        self.due.push(Reverse((due, id)));
        id
    }

    fn stop(&mut self, id: u64, reason: &str, now: Now) {
        let Some(planned) = self.planned.remove(&id) else { return };
        self.update(planned.address, now, |condition| {
            if condition.remove(id) {
                reason.clone_into(&mut condition.reason);
            }
        });
    }

    /// Changes what is known of a backend, and notes what that means.
    fn update(&mut self, backend: Address, now: Now, change: impl FnOnce(&mut Condition)) {
        let unknown = || Known { condition: Condition::new(), since: now.date };
        let known = self.backends.entry(backend).or_insert_with(unknown);
        let before = known.condition.state();
        change(&mut known.condition);
        let is_probed = known.condition.is_probed();
        // A backend that is no longer probed counts as up.
        let after = if is_probed { known.condition.state() } else { State::Up };
        if before != after {
            known.since = now.date;
        }
        if before != after && (before.is_bad() || after.is_bad()) {
            let reason = known.condition.reason.clone();
            self.changes.push(HealthChange { backend, state: after, reason });
            match after.is_bad() {
                true => self.down.insert(backend),
                false => self.down.remove(&backend),
            };
        }
        if !is_probed {
            self.backends.remove(&backend);
        }
    }

    /// Requests failed at a backend.
    pub(super) fn failed(&mut self, backend: Address, how: Failure, now: Now) {
        let count = limits::EJECT_AFTER;
        let reason = match how {
            Failure::Unreachable(why) => {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!("{count} connections in a row could not be opened{why}")
            }
            Failure::Silent => format!("{count} requests in a row got no answer"),
        };
        self.eject(backend, how, reason, now);
    }

    /// Takes over the state of a backend that another process knew.
    pub(super) fn recall(&mut self, known: Standing, now: Now) {
        let Standing { backend, state, reason, since } = known;
        if self.backends.contains_key(&backend) {
            self.update(backend, now, |condition| condition.recall(state, reason));
        } else if state == State::Ejected {
            self.eject(backend, Failure::Unreachable(None), reason, now);
        }
        if let Some(known) = self.backends.get_mut(&backend) {
            known.since = since;
        }
    }

    fn eject(&mut self, backend: Address, how: Failure, reason: String, now: Now) {
        if self.down.contains(&backend) {
            return;
        }
        let mut probes = Vec::new();
        if self.backends.contains_key(&backend) {
            self.update(backend, now, |condition| probes.extend(condition.eject(reason)));
        } else if self.ejected.len() < limits::EJECTED_MAX {
            let is_silent = how == Failure::Silent;
            let relapses = if is_silent { self.relapses(backend, now.at) } else { 0 };
            let pause = doubled(limits::CHECK_DOWN, relapses);
            let probe = self.schedule(backend, Probe::Connect, now.at + pause);
            self.ejected.insert(backend, Ejection { probe, is_silent, relapses });
            self.update(backend, now, |condition| {
                condition.add(probe, Verdict::of_ejected());
                condition.eject(reason).for_each(drop);
            });
        }
        for id in probes {
            self.plan(id, now.at + limits::CHECK_SOON);
        }
    }

    /// How often a backend failed again soon after its probes had called it well.
    fn relapses(&mut self, backend: Address, now: Instant) -> u32 {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < limits::RELAPSE_TIME;
        if limits::EJECTED_MAX <= self.back.len() {
            self.back.retain(|_, (at, _)| is_recent(*at));
        }
        match self.back.remove(&backend) {
            Some((at, relapses)) if is_recent(at) => (relapses + 1).min(limits::RELAPSES_MAX),
            _ => 0,
        }
    }

    /// Requests wait for these, and no others: one that is not known to be down has failed them.
    pub(super) fn want(&mut self, backends: HashSet<Address>, now: Now) {
        for backend in &backends {
            let reason = "a request waits for it".to_owned();
            self.eject(*backend, Failure::Unreachable(None), reason, now);
        }
        let soon = now.at + limits::HELD_PROBE_EVERY;
        let sooner = |planned: &Planned| soon < planned.due && backends.contains(&planned.address);
        let probes = self.planned.iter().filter(|(_, planned)| sooner(planned));
        let probes: Vec<u64> = probes.map(|(id, _)| *id).collect();
        for id in probes {
            self.plan(id, soon);
        }
        self.wanted = backends;
    }

    /// A backend that was said to fail has answered a request.
    pub(super) fn answered(&mut self, backend: Address, now: Now) {
        // One with a `check` comes back by that.
        if let Some(ejection) = self.ejected.remove(&backend) {
            self.stop(ejection.probe, "answers requests again", now);
        }
    }

    /// The ejected ones, of which some may be of no rule any more.
    pub(super) fn ejected(&self) -> Vec<Address> {
        self.ejected.keys().copied().collect()
    }

    pub(super) fn forget(&mut self, backend: Address, now: Now) {
        if let Some(ejection) = self.ejected.remove(&backend) {
            self.stop(ejection.probe, "no rule uses it any more", now);
        }
    }

    /// Looks at the addresses behind names again, when it is time to.
    pub(super) fn follow_names(&mut self, now: Now) {
        if self.named_at.is_some_and(|at| at <= now.at) {
            let moved = |key: &&Checked| self.checked.get(*key).is_some_and(Use::has_moved);
            let moved: Vec<Checked> = self.named.iter().filter(moved).cloned().collect();
            moved.iter().for_each(|key| self.follow(key, now));
            let is_over = self.named.is_empty();
            self.named_at = (!is_over).then(|| now.at + limits::CHECK_NAMES_EVERY);
        }
    }

    fn plan(&mut self, id: u64, due: Instant) {
        if let Some(planned) = self.planned.get_mut(&id) {
            planned.due = due;
            if !planned.is_running {
                self.due.push(Reverse((due, id)));
            }
        }
    }

    /// The next probe to be made now.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, Address, Probe)> {
        if self.full_until(now).is_some() {
            return None;
        }
        while let Some(Reverse((due, id))) = self.due.peek().copied().filter(|at| at.0.0 <= now) {
            self.due.pop();
            let Some(planned) = self.planned.get_mut(&id) else { continue };
            if planned.due != due || planned.is_running {
                continue;
            }
            planned.is_running = true;
            match &mut self.begun {
                Some((since, count)) if now < *since + TENTH => *count += 1,
                begun => *begun = Some((now, 1)),
            }
            return Some((id, planned.address, planned.probe.clone()));
        }
        None
    }

    /// Enough probes were begun lately: until when.
    fn full_until(&self, now: Instant) -> Option<Instant> {
        let (since, count) = self.begun?;
        let until = since + TENTH;
        (limits::PROBES_PER_TENTH <= count && now < until).then_some(until)
    }

    /// Time of the next thing to do; `None` while nothing is watched.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let probe = self.due.peek().map(|Reverse((due, _))| *due);
        let probe = probe.map(|due| self.full_until(now).map_or(due, |until| until.max(due)));
        [probe, self.named_at].into_iter().flatten().min()
    }

    /// Takes the finding of a probe.
    pub(super) fn ended(&mut self, id: u64, found: Finding, now: Now, random: u64) {
        let Some(planned) = self.planned.get_mut(&id) else { return };
        planned.is_running = false;
        let backend = planned.address;
        self.update(backend, now, |condition| condition.take(id, found));
        if !self.down.contains(&backend)
            && let Some(ejection) = self.ejected.remove(&backend)
        {
            self.stop(ejection.probe, "accepts connections", now);
            if ejection.is_silent {
                self.back.insert(backend, (now.at, ejection.relapses));
            }
        }
        if let Some(known) = self.backends.get(&backend) {
            let pause = match self.wanted.contains(&backend) {
                true => limits::HELD_PROBE_EVERY,
                false => jittered(known.condition.pause(id), random),
            };
            self.plan(id, now.at + pause);
        }
    }

    /// The name whose address this probe is for.
    pub(super) fn name_of(&self, id: u64) -> Option<Arc<Name>> {
        let uses = self.named.iter().filter_map(|key| self.checked.get(key));
        let mut uses = uses.filter(|used| used.probes.iter().any(|(_, probe)| *probe == id));
        match uses.next()?.backend.target() {
            Target::Name(name) => Some(name.clone()),
            Target::Address(_) => None,
        }
    }

    /// Changes since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<HealthChange> {
        std::mem::take(&mut self.changes)
    }

    /// Backends that requests should pass over.
    pub(super) fn down(&self) -> impl Iterator<Item = Address> {
        self.down.iter().copied()
    }

    /// Every backend that is probed.
    pub(super) fn states(&self) -> Vec<Standing> {
        let standing = |(backend, known): (&Address, &Known)| Standing {
            backend: *backend,
            state: known.condition.state(),
            reason: known.condition.reason.clone(),
            since: known.since,
        };
        self.backends.iter().map(standing).collect()
    }
}

/// The checks that a rule asks for.
fn checks(rule: Option<&Rule>) -> impl Iterator<Item = (&Check, &Backend)> {
    let proxy = rule.and_then(|rule| match &rule.action {
        Action::Proxy(proxy) => Some(proxy),
        _ => None,
    });
    let check = proxy.and_then(Proxy::check);
    let backends = proxy.map(Proxy::backends).unwrap_or_default();
    check.into_iter().flat_map(move |check| backends.iter().map(move |backend| (check, backend)))
}

#[cfg(test)]
mod tests;
