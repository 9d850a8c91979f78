//! Health as a watch reports it, and as processes hand it over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::condition::State;
use super::super::standing::{CheckStanding, Known, KnownArrival, RuleFilter, Standing};
use super::{Checked, Ejection, Now, Spot, Watch};
use crate::address::Address;
use crate::limits;
use crate::link::{Arrival, Ejected, Failure};
use crate::table::Snapshot;

impl Watch {
    /// Backends that fail all of their checks, and backends that are ejected for all rules.
    pub(in crate::control::health) fn down(&self) -> HashSet<Address> {
        let mut failing: HashMap<Address, u32> = HashMap::new();
        self.failing.iter().for_each(|(address, _)| *failing.entry(*address).or_default() += 1);
        let is_down = |(address, count): &(Address, u32)| self.counts.get(address) == Some(count);
        let down = failing.into_iter().filter(is_down).map(|(address, _)| address);
        let ejected = self.ejected().filter(|ejected| ejected.rule.is_none());
        down.chain(ejected.map(|ejected| ejected.backend)).collect()
    }

    /// Rules, each with a backend that fails its check or was ejected for it alone; at most `most`.
    pub(in crate::control::health) fn failing_rules(
        &self,
        most: usize,
        sees: Option<&RuleFilter>,
    ) -> Vec<(Arc<str>, Address)> {
        let is_seen = |rule: &Arc<str>| sees.is_none_or(|sees| sees(rule));
        let ejected = self.ejected.iter().filter_map(|(ejected, ejection)| {
            Some((ejection.rule.clone().filter(|rule| is_seen(rule))?, ejected.backend))
        });
        let mut all: Vec<_> = ejected.take(most).collect();
        for spot in &self.failing {
            let Some(checked) = self.checked.get(spot) else { continue };
            let rules = self.rules_of(checked);
            let rules = rules.filter(|rule| is_seen(rule));
            all.extend(rules.take(most - all.len()).map(|rule| (rule.clone(), spot.0)));
            if all.len() == most {
                break;
            }
        }
        all.sort_unstable();
        all
    }

    /// Every backend that is probed, with the checks of rules that `sees` selects.
    pub(in crate::control::health) fn states(&self, sees: Option<&RuleFilter>) -> Vec<Standing> {
        let mut found: HashMap<Address, [Vec<&Checked>; 2]> = HashMap::new();
        let mut asked: HashSet<Address> = HashSet::new();
        for ((address, _), checked) in &self.checked {
            if sees.is_some_and(|sees| !self.rules_of(checked).any(|rule| sees(rule))) {
                continue;
            }
            let state = checked.verdict.state();
            if state != State::Unknown {
                asked.insert(*address);
            }
            let list = &mut found.entry(*address).or_default()[usize::from(!state.is_bad())];
            list.push(checked);
        }
        let mut ejected: HashMap<Address, Vec<&Ejection>> = HashMap::new();
        for (Ejected { backend, .. }, ejection) in &self.ejected {
            if ejection.rule.as_ref().is_none_or(|rule| sees.is_none_or(|sees| sees(rule))) {
                found.entry(*backend).or_default();
                ejected.entry(*backend).or_default().push(ejection);
            }
        }
        let standing = |(backend, [down, up]): (Address, [Vec<&Checked>; 2])| {
            let ejected = ejected.get(&backend).map_or(&[][..], |all| all);
            self.standing(backend, ejected, (&down, &up), asked.contains(&backend), sees)
        };
        found.into_iter().map(standing).collect()
    }

    fn standing(
        &self,
        backend: Address,
        ejected: &[&Ejection],
        (down, up): (&[&Checked], &[&Checked]),
        is_asked: bool,
        sees: Option<&RuleFilter>,
    ) -> Standing {
        let for_all = ejected.iter().find(|ejection| ejection.rule.is_none());
        let for_one = || ejected.iter().filter(|ejection| ejection.rule.is_some());
        let bad_count = for_one().count() + down.len();
        let state = match (for_all, bad_count, up.len()) {
            (Some(_), ..) => State::Ejected,
            (None, 1.., 0) if !down.is_empty() => State::Down,
            (None, 1.., _) => State::PartlyDown,
            (None, 0, _) if is_asked => State::Up,
            (None, 0, _) => State::Unknown,
        };
        let of_ejection = |ejection: &&Ejection| CheckStanding {
            checked_for: ejection.checked_for().unwrap_or_default(),
            state: State::Ejected,
            reason: ejection.reason.clone(),
            since: ejection.since,
        };
        let of_check = |checked: &&Checked| CheckStanding {
            checked_for: self.checked_for(checked, sees),
            state: checked.verdict.state(),
            reason: checked.reason.clone(),
            since: checked.since,
        };
        let bad = for_one().map(of_ejection).chain(down.iter().map(of_check));
        let listed = bad.chain(up.iter().map(of_check)).take(limits::CHECKS_LISTED_MAX);
        let checks: Vec<CheckStanding> = listed.collect();
        let latest = || {
            let ejected = for_one().map(|ejection| ejection.since);
            ejected.chain(down.iter().map(|checked| checked.since)).max()
        };
        let (reason, since) = match (for_all, bad_count, checks.first()) {
            (Some(ejection), ..) => (ejection.reason.clone(), Some(ejection.since)),
            (None, 1, Some(first)) => (first.checked_for.explain(&first.reason), latest()),
            (None, 2.., Some(first)) => {
                let reason = first.checked_for.explain(&first.reason);
                (format!("{reason}; and {} checks more", bad_count - 1), latest())
            }
            _ => {
                let last = up.iter().max_by_key(|checked| checked.since);
                let reason = last.map(|checked| checked.reason.clone()).unwrap_or_default();
                (reason, last.map(|checked| checked.since))
            }
        };
        Standing {
            backend,
            state,
            reason,
            since: since.unwrap_or(SystemTime::UNIX_EPOCH),
            checks,
            checks_count: bad_count + up.len(),
            checks_down: bad_count,
        }
    }

    /// State of a backend, with the reason, for the rule with this key and this check; `None`:
    /// nothing is known. A `rule` of `None` stands for a rule that ignores failed requests.
    pub(in crate::control::health) fn state_for(
        &self,
        backend: Address,
        check: Option<u64>,
        rule: Option<u64>,
    ) -> Option<(State, String)> {
        let ejected = rule.and_then(|rule| {
            let of = [None, Some(rule)].map(|rule| self.ejected.get(&Ejected { backend, rule }));
            of.into_iter().flatten().next()
        });
        if let Some(ejection) = ejected {
            return Some((State::Ejected, ejection.reason.clone()));
        }
        let checked = self.checked.get(&(backend, check?))?;
        Some((checked.verdict.state(), checked.reason.clone()))
    }

    /// Health to hand over to another process.
    pub(in crate::control::health) fn known(&self) -> Vec<Known> {
        let checked = self.checked.iter().map(|((backend, _), checked)| Known {
            backend: *backend,
            check: Some(checked.check.parameters()),
            rule: None,
            state: checked.verdict.state(),
            reason: checked.reason.clone(),
            since: checked.since,
        });
        let ejected = self.ejected.iter().map(|(ejected, ejection)| Known {
            backend: ejected.backend,
            check: None,
            rule: ejection.rule.as_deref().map(str::to_owned),
            state: State::Ejected,
            reason: ejection.reason.clone(),
            since: ejection.since,
        });
        checked.chain(ejected).collect()
    }

    /// Takes over what another process knew.
    pub(in crate::control::health) fn recall(
        &mut self,
        known: Vec<Known>,
        table: &Snapshot,
        now: Now,
    ) {
        let spots = self.spots();
        for Known { backend, check, rule, state, reason, since } in known {
            let here = spots.get(&backend).map_or(&[][..], |list| list);
            let meant = match &check {
                Some(check) => meant(here, check),
                // Without a check, an ejection concerns the address itself. Any other state comes
                // from an older version, which knows addresses only, and concerns all checks there.
                None if state == State::Ejected => &[],
                None => here,
            };
            for (_, spot) in meant {
                self.recall_check(*spot, state, &reason, since);
            }
            if check.is_none() && state == State::Ejected {
                let ejected = Ejected { backend, rule: rule.map(|rule| table.key(&rule)) };
                self.eject(ejected, Failure::Unreachable(None), reason, table, now);
                if let Some(ejection) = self.ejected.get_mut(&ejected) {
                    ejection.since = since;
                }
            }
        }
    }

    /// Checks of each address with their parameters, sorted.
    fn spots(&self) -> HashMap<Address, Vec<(String, Spot)>> {
        let mut spots: HashMap<Address, Vec<(String, Spot)>> = HashMap::new();
        for (spot, checked) in &self.checked {
            spots.entry(spot.0).or_default().push((checked.check.parameters(), *spot));
        }
        for list in spots.values_mut() {
            list.sort_unstable();
        }
        spots
    }

    /// Recent arrivals to hand over to another process.
    pub(in crate::control::health) fn known_arrivals(
        &self,
        table: &Snapshot,
        now: Instant,
    ) -> Vec<KnownArrival> {
        let known = self.rising.ages(now).filter_map(|(arrival, age)| {
            let (mut check, mut rule) = (None, None);
            let backend = match arrival {
                Arrival::Back(backend) => backend,
                Arrival::Well(backend, id) => {
                    check = Some(self.checked.get(&(backend, id))?.check.parameters());
                    backend
                }
                Arrival::Added(backend, key) => {
                    rule = Some(table.name_of(key)?.to_owned());
                    backend
                }
            };
            Some(KnownArrival { backend, check, rule, age })
        });
        known.collect()
    }

    /// Takes over the arrivals that another process knew.
    pub(in crate::control::health) fn recall_arrivals(
        &mut self,
        known: Vec<KnownArrival>,
        now: Instant,
    ) {
        if known.is_empty() {
            return;
        }
        let spots = self.spots();
        for KnownArrival { backend, check, rule, age } in known {
            let Some(since) = now.checked_sub(age) else { continue };
            let here = spots.get(&backend).map_or(&[][..], |list| list);
            let arrival = match (&check, rule) {
                (Some(check), _) => match meant(here, check) {
                    [(_, spot), ..] => Arrival::Well(backend, spot.1),
                    [] => continue,
                },
                (None, Some(rule)) => Arrival::Added(backend, Snapshot::default().key(&rule)),
                (None, None) => Arrival::Back(backend),
            };
            self.rising.note(arrival, since);
        }
    }

    fn recall_check(&mut self, spot: Spot, state: State, reason: &str, since: SystemTime) {
        let Some(checked) = self.checked.get_mut(&spot) else { return };
        checked.verdict.recall(state);
        reason.clone_into(&mut checked.reason);
        checked.since = since;
        if checked.verdict.state().is_bad() {
            self.failing.insert(spot);
        }
    }
}

/// The check with these parameters among those of one address.
fn meant<'s>(here: &'s [(String, Spot)], check: &str) -> &'s [(String, Spot)] {
    match here.binary_search_by(|(other, _)| other.as_str().cmp(check)) {
        Ok(at) => &here[at..=at],
        Err(_) => &[],
    }
}
