//! Rules with `idle` that have had no traffic for that long. Pure: the clock and the counters are
//! arguments.

use std::time::{Duration, Instant};

use crate::link::{ByKey, HostCount, KeySet, Sums};
use crate::table::{Action, Rule};

/// A rule that is watched.
struct WatchedRule {
    name: String,
    rule: Rule,
    after: Duration,
    /// Time at which the rule was last seen to have a request, or was set.
    active: Instant,
    completed: u64,
    is_told: bool,
}

/// Progress of a rule on its way to be idle.
pub(super) struct IdleStanding {
    pub(super) quiet: Duration,
    pub(super) completed: u64,
    pub(super) is_told: bool,
}

/// A rule that has become idle.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Idled {
    pub(super) name: String,
    pub(super) rule: Rule,
    /// Time without traffic.
    pub(super) idle: Duration,
}

/// All rules that are watched.
#[derive(Default)]
pub(super) struct Idle {
    rules: ByKey<WatchedRule>,
}

/// Time without traffic after which a rule is idle, if it has an `idle`.
pub(in crate::control) fn idle_after(rule: &Rule) -> Option<Duration> {
    match &rule.action {
        Action::Proxy(proxy) => proxy.idle(),
        Action::Spin(spin) => spin.idle(),
        _ => None,
    }
}

impl Idle {
    /// Takes a rule that was set or deleted.
    pub(super) fn changed(&mut self, key: u64, name: &str, rule: Option<&Rule>, now: Instant) {
        let after = rule.and_then(idle_after);
        let (Some(rule), Some(after)) = (rule, after) else {
            self.rules.remove(&key);
            return;
        };
        let completed = self.rules.get(&key).map_or(0, |old| old.completed);
        let watched = WatchedRule {
            name: name.to_owned(),
            rule: rule.clone(),
            after,
            active: now,
            completed,
            is_told: false,
        };
        self.rules.insert(key, watched);
    }

    /// Lists the standing of each rule, for a daemon that takes over.
    pub(super) fn standing(&self, now: Instant) -> impl Iterator<Item = (&str, IdleStanding)> {
        self.rules.values().map(move |rule| {
            let quiet = now.saturating_duration_since(rule.active);
            let standing = IdleStanding { quiet, completed: rule.completed, is_told: rule.is_told };
            (&*rule.name, standing)
        })
    }

    /// Goes on from the standing that another process knew.
    pub(super) fn recall(&mut self, key: u64, standing: &IdleStanding, now: Instant) {
        if let Some(rule) = self.rules.get_mut(&key) {
            rule.active = now.checked_sub(standing.quiet).unwrap_or(now);
            (rule.completed, rule.is_told) = (standing.completed, standing.is_told);
        }
    }

    pub(super) fn keys(&self) -> KeySet {
        self.rules.keys().copied().collect()
    }

    /// Whether the rule with this name is idle, and was reported as idle.
    pub(super) fn is_told(&self, name: &str) -> bool {
        let key = crate::table::Snapshot::default().key(name);
        self.rules.get(&key).is_some_and(|watched| watched.is_told)
    }

    /// Takes the counters as they are now; returns the rules that have become idle since the last
    /// call.
    pub(super) fn look(&mut self, sums: &ByKey<Sums>, now: Instant) -> Vec<Idled> {
        let mut idled = Vec::new();
        for (key, watched) in &mut self.rules {
            let sums = sums.get(key).copied().unwrap_or_default();
            let completed = sums.get(HostCount::Completed);
            if 0 < sums.get(HostCount::Open) || completed != watched.completed {
                watched.completed = completed;
                watched.active = now;
                watched.is_told = false;
                continue;
            }
            let idle = now.saturating_duration_since(watched.active);
            if watched.after <= idle && !watched.is_told {
                watched.is_told = true;
                let (name, rule) = (watched.name.clone(), watched.rule.clone());
                idled.push(Idled { name, rule, idle });
            }
        }
        idled
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::Names;

    fn rule(text: &serde_json::Value) -> Rule {
        Rule::from_json("a", text, &mut Names::default()).expect("a rule")
    }

    #[test]
    fn a_rule_is_idle_once_until_it_has_traffic_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let sums = |open, completed| {
            let mut sums = Sums::default();
            sums.set(HostCount::Open, open);
            sums.set(HostCount::Completed, completed);
            ByKey::from_iter([(7, sums)])
        };
        let mut idle = Idle::default();
        let set = rule(&json!(["proxy", {"backends": "a:1", "idle": 10}, true]));
        idle.changed(7, "a", Some(&set), start);
        assert!(idle.look(&sums(0, 0), at(9)).is_empty());
        // a request that is open counts, however long
        assert!(idle.look(&sums(1, 0), at(30)).is_empty());
        assert!(idle.look(&sums(0, 1), at(31)).is_empty());
        assert!(idle.look(&sums(0, 1), at(40)).is_empty());
        let idled = idle.look(&sums(0, 1), at(41));
        assert_eq!(idled.len(), 1);
        assert_eq!((idled[0].name.as_str(), idled[0].idle), ("a", Duration::from_secs(10)));
        assert!(idle.look(&sums(0, 1), at(99)).is_empty(), "it was told");
        // a request that came and went between two looks
        assert!(idle.look(&sums(0, 2), at(100)).is_empty());
        assert_eq!(idle.look(&sums(0, 2), at(110)).len(), 1);
        // the rule is set again: its time begins anew
        idle.changed(7, "a", Some(&set), at(111));
        assert!(idle.look(&sums(0, 2), at(120)).is_empty());
        assert_eq!(idle.look(&sums(0, 2), at(121)).len(), 1);
        let plain = rule(&json!(["proxy", {"backends": "a:1"}, true]));
        idle.changed(7, "a", Some(&plain), at(122));
        assert!(idle.keys().is_empty());
    }
}
