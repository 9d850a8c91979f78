//! Plan of the probes: backends, checks and time, kept up to date rule by rule and failure by
//! failure. Pure: the clock and random numbers are arguments, and the owner of the plan makes the
//! probes.
//!
//! A verdict belongs to a check at an address, so a rule goes by its own check alone. Rules whose
//! checks have the same parameters, `Host` included, share the probes. Connections that can't be
//! opened eject the address for all rules. Requests without a response eject it for their own rule
//! alone, as the backend may serve other rules. Plain connections find out when an ejected backend
//! is back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::condition::{State, Verdict};
use super::probe::{Finding, Probe};
use super::standing::{CheckedFor, HealthChange, RuleFilter};
use crate::address::Address;
use crate::control::pause::{doubled, jittered};
use crate::limits;
use crate::link::{Arrival, Arrivals, Ejected, Failure};
use crate::table::{Action, Backend, Check, HostSent, Name, Proxy, Rule, Snapshot, Target};
use rising::RecentArrivals;

/// A moment on two clocks: `at` for waiting, `date` for reports.
#[derive(Copy, Clone, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) date: SystemTime,
}

/// An address and the id of a check of it.
type Spot = (Address, u64);

/// A check that rules ask for.
struct AskedCheck {
    check: Arc<Check>,
    rules: HashSet<Arc<str>>,
}

/// A backend as rules name it, and the checks that they ask for.
struct TargetChecks {
    backend: Backend,
    /// Addresses that are probed.
    addresses: Vec<Address>,
    /// Checks by id.
    checks: HashMap<u64, AskedCheck>,
}

impl TargetChecks {
    fn new(backend: &Backend) -> TargetChecks {
        let addresses = addresses(backend);
        TargetChecks { backend: backend.clone(), addresses, checks: HashMap::new() }
    }
}

fn addresses(backend: &Backend) -> Vec<Address> {
    let mut addresses = Vec::new();
    backend.each_address(|address| addresses.push(address));
    addresses
}

/// A check of one address.
struct Checked {
    check: Arc<Check>,
    verdict: Verdict,
    reason: String,
    since: SystemTime,
    /// Backends, as rules name them, that have this address; nearly always one.
    targets: Vec<Arc<str>>,
    probe: u64,
}

/// Purpose of a probe.
#[derive(Copy, Clone)]
enum Subject {
    Check(Spot),
    Ejected(Ejected),
}

impl Subject {
    fn address(self) -> Address {
        match self {
            Subject::Check((address, _)) => address,
            Subject::Ejected(ejected) => ejected.backend,
        }
    }
}

/// A probe that is made again and again.
struct Planned {
    subject: Subject,
    due: Instant,
    is_running: bool,
}

/// A backend that requests pass over because it failed them.
struct Ejection {
    /// The probe that finds out when it is back.
    probe: u64,
    /// Whether requests got no response. The backend may still accept connections, so a probe that
    /// succeeds says less than a request does.
    is_silent: bool,
    /// How often the backend was ejected again soon after it came back.
    relapses: u32,
    /// The rule whose requests pass over the backend; `None`: those of all rules do.
    rule: Option<Arc<str>>,
    reason: String,
    since: SystemTime,
}

impl Ejection {
    /// Describes the requests that pass over the backend; `None`: those of all rules do.
    fn checked_for(&self) -> Option<CheckedFor> {
        self.rule.clone().map(CheckedFor::requests)
    }
}

/// A backend that requests wait for.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::control) struct WantedBackend {
    pub(in crate::control) backend: Address,
    /// Id of the check that the rule of these requests has.
    pub(in crate::control) check: Option<u64>,
    /// Key of that rule.
    pub(in crate::control) rule: u64,
    /// Whether the backend was found to be out of reach, for any rule.
    pub(in crate::control) is_unreached: bool,
}

/// Backends that requests wait for.
pub(in crate::control) type WantedBackends = HashSet<WantedBackend>;

/// Everything that is probed.
#[derive(Default)]
pub(super) struct Watch {
    targets: HashMap<Arc<str>, TargetChecks>,
    /// Targets that are names, whose addresses may change.
    named: HashSet<Arc<str>>,
    named_at: Option<Instant>,
    checked: HashMap<Spot, Checked>,
    /// How many checks each address has.
    counts: HashMap<Address, u32>,
    /// Checks that fail.
    failing: HashSet<Spot>,
    ejected: HashMap<Ejected, Ejection>,
    /// Backends that had given requests no response and came back because a probe succeeded: the
    /// time of that, and their relapses.
    back: HashMap<Ejected, (Instant, u32)>,
    planned: HashMap<u64, Planned>,
    /// Probes by time; entries that do not agree with `planned` are void.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    numbers: u64,
    /// A moment, and how many probes were begun since.
    begun: Option<(Instant, u32)>,
    changes: Vec<HealthChange>,
    /// Checks, and ejected backends, whose probes requests wait for.
    wanted_checks: HashSet<Spot>,
    wanted_ejected: HashSet<Ejected>,
    rising: RecentArrivals,
}

const TENTH: Duration = Duration::from_millis(100);

impl Watch {
    /// Begins the checks that a rule has gained: it was added or changed.
    pub(super) fn came(&mut self, rule: &str, old: Option<&Rule>, new: Option<&Rule>, now: Now) {
        self.rising.rule_came(rule, old, new, now.at);
        let before: HashSet<_> = checks(old).map(|(check, backend)| key(check, backend)).collect();
        let mut name: Option<Arc<str>> = None;
        for (check, backend) in checks(new) {
            let (id, target) = key(check, backend);
            if !before.contains(&(id, target.clone())) {
                let name = name.get_or_insert_with(|| Arc::from(rule)).clone();
                self.begin(name, check, (target, backend), now);
            }
        }
    }

    /// Ends the checks that a rule has lost: it was deleted or changed. Called after all calls of
    /// [`Watch::came`] for a change, so that a check that moves from one rule to another is not
    /// forgotten in between.
    pub(super) fn went(&mut self, rule: &str, old: Option<&Rule>, new: Option<&Rule>, now: Now) {
        self.rising.rule_went(old);
        let after: HashSet<_> = checks(new).map(|(check, backend)| key(check, backend)).collect();
        for (check, backend) in checks(old) {
            let key = key(check, backend);
            if !after.contains(&key) {
                self.end(rule, key, now);
            }
        }
    }

    fn begin(
        &mut self,
        rule: Arc<str>,
        check: &Arc<Check>,
        (key, backend): (Arc<str>, &Backend),
        now: Now,
    ) {
        let target = self.targets.entry(key.clone()).or_insert_with(|| TargetChecks::new(backend));
        if target.checks.is_empty() && matches!(backend.target(), Target::Name(_)) {
            self.named.insert(key.clone());
            self.named_at.get_or_insert(now.at);
        }
        let unasked = || AskedCheck { check: check.clone(), rules: HashSet::new() };
        let asked = target.checks.entry(check.id()).or_insert_with(unasked);
        asked.rules.insert(rule);
        if asked.rules.len() == 1 {
            let (check, addresses) = (asked.check.clone(), target.addresses.clone());
            addresses.into_iter().for_each(|address| self.start(address, &check, &key, now));
        }
    }

    fn end(&mut self, rule: &str, (id, key): (u64, Arc<str>), now: Now) {
        let Some(target) = self.targets.get_mut(&key) else { return };
        let Some(asked) = target.checks.get_mut(&id) else { return };
        if 1 < asked.rules.len() {
            asked.rules.remove(rule);
        } else if asked.rules.contains(rule) {
            for address in target.addresses.clone() {
                self.stop((address, id), &key, "no longer checked", now);
            }
            let Some(target) = self.targets.get_mut(&key) else { return };
            target.checks.remove(&id);
            if target.checks.is_empty() {
                self.targets.remove(&key);
                self.named.remove(&key);
            }
        }
    }

    /// Checks an address for a target, from now on.
    fn start(&mut self, address: Address, check: &Arc<Check>, target: &Arc<str>, now: Now) {
        let spot = (address, check.id());
        if let Some(checked) = self.checked.get_mut(&spot) {
            if !checked.targets.contains(target) {
                checked.targets.push(target.clone());
            }
            return;
        }
        let due = now.at + self.pace(address);
        *self.counts.entry(address).or_default() += 1;
        let probe = self.schedule(Subject::Check(spot), due);
        let checked = Checked {
            check: check.clone(),
            verdict: Verdict::new(),
            reason: "not probed yet".to_owned(),
            since: now.date,
            targets: vec![target.clone()],
            probe,
        };
        self.checked.insert(spot, checked);
    }

    /// Stops checking an address for a target. The check ends with its last target.
    fn stop(&mut self, spot: Spot, target: &Arc<str>, reason: &str, now: Now) {
        let Some(checked) = self.checked.get_mut(&spot) else { return };
        if 1 < checked.targets.len() {
            checked.targets.retain(|other| other != target);
            return;
        }
        if self.failing.contains(&spot) {
            // A backend that is no longer checked counts as up.
            self.tell_turned(spot, State::Up, reason.to_owned(), now);
        }
        if let Some(checked) = self.checked.remove(&spot) {
            self.planned.remove(&checked.probe);
        }
        if let Some(count) = self.counts.get_mut(&spot.0) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&spot.0);
            }
        }
    }

    /// Least pause between two probes of one check at an address: all checks of the address share a
    /// rate.
    fn pace(&self, address: Address) -> Duration {
        let count = self.counts.get(&address).copied().unwrap_or(0);
        Duration::from_secs(1) * count / limits::ADDRESS_PROBES_PER_SECOND
    }

    fn schedule(&mut self, subject: Subject, due: Instant) -> u64 {
        self.numbers += 1;
        let id = self.numbers;
        self.planned.insert(id, Planned { subject, due, is_running: false });
        self.due.push(Reverse((due, id)));
        id
    }

    /// Records that a check has turned.
    fn tell_turned(&mut self, spot: Spot, state: State, reason: String, now: Now) {
        let Some(checked) = self.checked.get_mut(&spot) else { return };
        checked.reason = reason;
        checked.since = now.date;
        match state.is_bad() {
            true => self.failing.insert(spot),
            false => self.failing.remove(&spot),
        };
        let Some(checked) = self.checked.get(&spot) else { return };
        let (check, reason) = (self.checked_for(checked, None), checked.reason.clone());
        self.changes.push(HealthChange { backend: spot.0, state, reason, check: Some(check) });
    }

    /// Describes a check, with those of its rules that `sees` selects.
    fn checked_for(&self, checked: &Checked, sees: Option<&RuleFilter>) -> CheckedFor {
        let (mut rules, mut rules_count) = (Vec::new(), 0);
        for rule in self.rules_of(checked).filter(|rule| sees.is_none_or(|sees| sees(rule))) {
            rules_count += 1;
            if rules.len() < limits::RULES_LISTED_MAX {
                rules.push(rule.clone());
            }
        }
        rules.sort_unstable();
        CheckedFor { check: Some(checked.check.clone()), rules, rules_count }
    }

    fn rules_of(&self, checked: &Checked) -> impl Iterator<Item = &Arc<str>> {
        let id = checked.check.id();
        let targets = checked.targets.iter().filter_map(|target| self.targets.get(target));
        let asked = targets.filter_map(move |target| target.checks.get(&id));
        asked.flat_map(|asked| &asked.rules)
    }

    /// Takes a report that requests failed at a backend, and ejects it for all rules, or for one of
    /// `table`.
    pub(super) fn failed(&mut self, ejected: Ejected, how: Failure, table: &Snapshot, now: Now) {
        let count = limits::EJECT_AFTER;
        let reason = match how {
            Failure::Unreachable(why) => {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!("{count} connections in a row could not be opened{why}")
            }
            Failure::Silent => format!("{count} requests in a row got no answer"),
        };
        self.eject(ejected, how, reason, table, now);
    }

    fn eject(
        &mut self,
        ejected: Ejected,
        how: Failure,
        reason: String,
        table: &Snapshot,
        now: Now,
    ) {
        if self.ejected.contains_key(&ejected) || limits::EJECTED_MAX <= self.ejected.len() {
            return;
        }
        let rule = match ejected.rule.map(|key| table.name_of(key)) {
            None => None,
            Some(Some(name)) => Some(Arc::from(name)),
            // The rule is gone by now.
            Some(None) => return,
        };
        let is_silent = how == Failure::Silent;
        let relapses = if is_silent { self.relapses(ejected, now.at) } else { 0 };
        let pause = doubled(limits::EJECTED_EVERY, relapses);
        let probe = self.schedule(Subject::Ejected(ejected), now.at + pause);
        let ejection = Ejection { probe, is_silent, relapses, rule, reason, since: now.date };
        self.tell_ejection(ejected, &ejection, State::Ejected, ejection.reason.clone());
        self.ejected.insert(ejected, ejection);
    }

    fn tell_ejection(
        &mut self,
        ejected: Ejected,
        ejection: &Ejection,
        state: State,
        reason: String,
    ) {
        let check = ejection.checked_for();
        self.changes.push(HealthChange { backend: ejected.backend, state, reason, check });
    }

    /// Ends the ejection of a backend.
    fn restore(&mut self, ejected: Ejected, reason: &str) -> Option<Ejection> {
        let ejection = self.ejected.remove(&ejected)?;
        self.planned.remove(&ejection.probe);
        self.tell_ejection(ejected, &ejection, State::Up, reason.to_owned());
        Some(ejection)
    }

    /// Records that a backend is back, for rules with a `slow_start`.
    fn note_back(&mut self, ejected: Ejected, now: Now) {
        let Ejected { backend, rule } = ejected;
        let arrival = rule.map_or(Arrival::Back(backend), |rule| Arrival::Added(backend, rule));
        self.rising.note(arrival, now.at);
    }

    /// How often a backend failed again soon after its probes had called it well.
    fn relapses(&mut self, ejected: Ejected, now: Instant) -> u32 {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < limits::RELAPSE_TIME;
        if limits::EJECTED_MAX <= self.back.len() {
            self.back.retain(|_, (at, _)| is_recent(*at));
        }
        match self.back.remove(&ejected) {
            Some((at, relapses)) if is_recent(at) => (relapses + 1).min(limits::RELAPSES_MAX),
            _ => 0,
        }
    }

    /// Sets the backends that held requests wait for. One that is not known to be down must have
    /// failed them, so it is ejected.
    pub(super) fn want(&mut self, wanted: WantedBackends, table: &Snapshot, now: Now) {
        for WantedBackend { backend, check, rule, is_unreached } in wanted.iter().copied() {
            let [all, one] = [None, Some(rule)].map(|rule| Ejected { backend, rule });
            // A backend that fails for this rule may well serve others.
            let is_failing = check.is_some_and(|check| self.failing.contains(&(backend, check)));
            if !is_failing && ![all, one].iter().any(|it| self.ejected.contains_key(it)) {
                let reason = "a request waits for it".to_owned();
                let ejected = if is_unreached { all } else { one };
                self.eject(ejected, Failure::Unreachable(None), reason, table, now);
            }
        }
        let checks = wanted.iter().filter_map(|wanted| Some((wanted.backend, wanted.check?)));
        self.wanted_checks = checks.collect();
        let ejected = wanted.iter().flat_map(|WantedBackend { backend, rule, .. }| {
            [None, Some(*rule)].map(|rule| Ejected { backend: *backend, rule })
        });
        self.wanted_ejected = ejected.collect();
        let soon = now.at + limits::HELD_PROBE_EVERY;
        let later = self.planned.iter().filter(|(_, planned)| soon < planned.due);
        let later = later.filter(|(_, planned)| self.is_wanted(planned.subject));
        let later: Vec<u64> = later.map(|(id, _)| *id).collect();
        for id in later {
            self.plan(id, soon);
        }
    }

    fn is_wanted(&self, subject: Subject) -> bool {
        match subject {
            Subject::Check(spot) => self.wanted_checks.contains(&spot),
            Subject::Ejected(ejected) => self.wanted_ejected.contains(&ejected),
        }
    }

    /// Ends the ejection of a backend that has responded to a request.
    pub(super) fn answered(&mut self, ejected: Ejected, now: Now) {
        if self.restore(ejected, "answers requests again").is_some() {
            self.note_back(ejected, now);
        }
    }

    /// Forgets an ejected backend that no rule uses any more.
    pub(super) fn forget(&mut self, ejected: Ejected) {
        self.restore(ejected, "no rule uses it any more");
    }

    /// Looks at the addresses behind names again, when it is time to.
    pub(super) fn follow_names(&mut self, now: Now) {
        if self.named_at.is_none_or(|at| now.at < at) {
            return;
        }
        let mut moved = Vec::new();
        for key in &self.named {
            let Some(target) = self.targets.get_mut(key) else { continue };
            let new = addresses(&target.backend);
            if new != target.addresses {
                let old = std::mem::replace(&mut target.addresses, new.clone());
                let checks = target.checks.values().map(|asked| asked.check.clone());
                moved.push((key.clone(), checks.collect::<Vec<_>>(), old, new));
            }
        }
        for (key, checks, old, new) in moved {
            for check in checks {
                let came = new.iter().filter(|address| !old.contains(address));
                came.for_each(|address| self.start(*address, &check, &key, now));
                for address in old.iter().filter(|address| !new.contains(address)) {
                    let reason = "no longer an address of its name";
                    self.stop((*address, check.id()), &key, reason, now);
                }
            }
        }
        let is_over = self.named.is_empty();
        self.named_at = (!is_over).then(|| now.at + limits::CHECK_NAMES_EVERY);
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
            let probe = match planned.subject {
                Subject::Ejected(_) => Probe::Connect,
                Subject::Check(spot) => match self.checked.get(&spot) {
                    Some(checked) => {
                        let host = host_of(checked, &self.targets);
                        Probe::Check(checked.check.clone(), host)
                    }
                    None => continue,
                },
            };
            planned.is_running = true;
            match &mut self.begun {
                Some((since, count)) if now < *since + TENTH => *count += 1,
                begun => *begun = Some((now, 1)),
            }
            return Some((id, planned.subject.address(), probe));
        }
        None
    }

    /// Time until which no more probes may begin, as enough were begun lately; `None`: they may.
    fn full_until(&self, now: Instant) -> Option<Instant> {
        let (since, count) = self.begun?;
        let until = since + TENTH;
        (limits::PROBES_PER_TENTH <= count && now < until).then_some(until)
    }

    /// Time of the next thing to do; `None` while nothing is watched.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let probe = self.due.peek().map(|Reverse((due, _))| *due);
        let probe = probe.map(|due| self.full_until(now).map_or(due, |until| until.max(due)));
        [probe, self.named_at, self.rising.due()].into_iter().flatten().min()
    }

    /// Takes the finding of a probe.
    pub(super) fn ended(&mut self, id: u64, found: Finding, now: Now, random: u64) {
        let Some(planned) = self.planned.get_mut(&id) else { return };
        planned.is_running = false;
        let subject = planned.subject;
        let pause = match subject {
            Subject::Check(spot) => self.check_ended(spot, found, now, random),
            Subject::Ejected(ejected) if found.is_well() == Some(true) => {
                let ejection = self.restore(ejected, "accepts connections");
                self.note_back(ejected, now);
                if let Some(ejection) = ejection.filter(|ejection| ejection.is_silent) {
                    self.back.insert(ejected, (now.at, ejection.relapses));
                }
                return;
            }
            Subject::Ejected(_) => jittered(limits::EJECTED_EVERY, random),
        };
        let pause = if self.is_wanted(subject) { limits::HELD_PROBE_EVERY } else { pause };
        self.plan(id, now.at + pause);
    }

    /// Takes the finding of a check; returns the pause until its next probe.
    fn check_ended(&mut self, spot: Spot, found: Finding, now: Now, random: u64) -> Duration {
        let pace = self.pace(spot.0);
        let Some(checked) = self.checked.get_mut(&spot) else { return pace };
        let before = checked.verdict.state();
        let turned = found.is_well().and_then(|it| checked.verdict.take(it, &checked.check));
        let after = checked.verdict.state();
        let pause = jittered(checked.verdict.pause(&checked.check), random).max(pace);
        if before != after {
            let check = &checked.check;
            let reason = match turned {
                Some(count @ 2..) => format!("{check}: {found}, {count} times"),
                _ => format!("{check}: {found}"),
            };
            if before.is_bad() {
                self.rising.note(Arrival::Well(spot.0, spot.1), now.at);
            }
            if before.is_bad() || after.is_bad() {
                self.tell_turned(spot, after, reason, now);
            } else {
                (checked.reason, checked.since) = (reason, now.date);
            }
        }
        pause
    }

    /// The name whose address this probe is for.
    pub(super) fn name_of(&self, id: u64) -> Option<Arc<Name>> {
        let Subject::Check(spot) = self.planned.get(&id)?.subject else { return None };
        let targets = self.checked.get(&spot)?.targets.iter();
        let mut targets = targets.filter_map(|target| self.targets.get(target));
        targets.find_map(|target| match target.backend.target() {
            Target::Name(name) => Some(name.clone()),
            Target::Address(_) => None,
        })
    }

    /// Recent arrivals, if they have changed since the last call.
    pub(super) fn take_arrivals(&mut self, now: Instant) -> Option<Arrivals> {
        self.rising.take(now)
    }

    /// Changes since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<HealthChange> {
        std::mem::take(&mut self.changes)
    }

    /// Ejected backends: requests of all rules, or of one rule, should pass over them.
    pub(super) fn ejected(&self) -> impl Iterator<Item = Ejected> {
        self.ejected.keys().copied()
    }

    /// Checks that fail: requests of the rules that ask for them should pass over the backends.
    pub(super) fn failing(&self) -> impl Iterator<Item = Spot> {
        self.failing.iter().copied()
    }
}

/// Name of the backend, for a check that sends it as `Host`. If several names lead to the address,
/// the first one counts.
fn host_of(checked: &Checked, targets: &HashMap<Arc<str>, TargetChecks>) -> Option<Box<str>> {
    if checked.check.host() != Some(&HostSent::Backend) {
        return None;
    }
    let target = targets.get(checked.targets.first()?)?;
    Some(target.backend.host().to_string().into())
}

fn key(check: &Check, backend: &Backend) -> (u64, Arc<str>) {
    (check.id(), backend.to_string().into())
}

/// The checks that a rule asks for.
fn checks(rule: Option<&Rule>) -> impl Iterator<Item = (&Arc<Check>, &Backend)> {
    let proxy = rule.and_then(|rule| match &rule.action {
        Action::Proxy(proxy) => Some(proxy),
        _ => None,
    });
    let check = proxy.and_then(Proxy::check);
    let backends = move || proxy.into_iter().flat_map(Proxy::all_backends);
    check.into_iter().flat_map(move |check| backends().map(move |backend| (check, backend)))
}

mod rising;
mod telling;
#[cfg(test)]
mod tests;
