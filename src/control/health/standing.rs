//! Descriptions of health for the API, events and the log: of a backend, of one check of it, and of
//! changes of both.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::condition::State;
use crate::address::Address;
use crate::limits;
use crate::table::{Check, HostSent, host};

/// Selection of rules by name.
pub(in crate::control) type RuleFilter = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// A check, and the rules that ask for it at one address.
#[derive(Clone, PartialEq, Debug, Default)]
pub(in crate::control) struct CheckedFor {
    /// The check; `None`: not a check, but the requests of these rules.
    pub(in crate::control) check: Option<Arc<Check>>,
    /// Names of these rules; only some names if there are very many.
    pub(in crate::control) rules: Vec<Arc<str>>,
    pub(in crate::control) rules_count: usize,
}

impl CheckedFor {
    /// Describes the requests of one rule.
    pub(super) fn requests(rule: Arc<str>) -> CheckedFor {
        CheckedFor { check: None, rules: vec![rule], rules_count: 1 }
    }

    /// Host of the request, or `backend`.
    fn host(&self) -> Option<&str> {
        self.check.as_ref()?.host().map(HostSent::as_str)
    }

    /// The names of the rules, to be appended to a reason; empty if the request names the only rule
    /// as its `Host`.
    fn note(&self) -> String {
        let (shown, last) = match &self.rules[..] {
            [] => return String::new(),
            [rule] if self.host() == Some(host::split(rule).1) => return String::new(),
            [rule] if self.rules_count == 1 => return format!(" (rule {rule})"),
            rules => (&rules[..rules.len().min(limits::RULES_TOLD_MAX)], rules.last()),
        };
        let more = self.rules_count.saturating_sub(shown.len());
        match (more, last) {
            (0, Some(last)) => {
                format!(" (rules {} and {last})", shown[..shown.len() - 1].join(", "))
            }
            _ => format!(" (rules {} and {more} more)", shown.join(", ")),
        }
    }

    /// JSON members that say which check it is, and for which rules.
    pub(in crate::control) fn describe(&self) -> Map<String, Value> {
        let check = self.check.as_ref();
        let told = json!({
            "check": check.map_or("requests", |check| check.path().unwrap_or("tcp")),
            "check_host": self.host(),
            "rules": self.rules.iter().map(|rule| &**rule).collect::<Vec<_>>(),
            "rules_count": self.rules_count,
        });
        if let Value::Object(told) = told { told } else { Map::new() }
    }

    /// Appends the names of the rules to a reason.
    pub(super) fn explain(&self, reason: &str) -> String {
        format!("{reason}{}", self.note())
    }
}

/// A backend that was ejected or came back, or a check that turned.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::control) struct HealthChange {
    pub(in crate::control) backend: Address,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
    /// The check or the rule in question; `None`: the backend can't be reached, or can again.
    pub(in crate::control) check: Option<CheckedFor>,
}

impl HealthChange {
    /// The reason, with the names of the rules that it concerns.
    pub(in crate::control) fn explained(&self) -> String {
        match &self.check {
            Some(of) => of.explain(&self.reason),
            None => self.reason.clone(),
        }
    }
}

/// Standing of one check at one address.
#[derive(Clone, Debug)]
pub(in crate::control) struct CheckStanding {
    pub(in crate::control) checked_for: CheckedFor,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
    pub(in crate::control) since: SystemTime,
}

/// Standing of a backend that is probed.
#[derive(Clone, Debug)]
pub(in crate::control) struct Standing {
    pub(in crate::control) backend: Address,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
    pub(in crate::control) since: SystemTime,
    /// Checks of the backend, failing ones first; only some if there are very many.
    pub(in crate::control) checks: Vec<CheckStanding>,
    pub(in crate::control) checks_count: usize,
    pub(in crate::control) checks_down: usize,
}

/// Health of a backend, or of a check of it, as it is handed over to another process.
#[derive(Clone, Debug)]
pub(in crate::control) struct Known {
    pub(in crate::control) backend: Address,
    /// [`Check::parameters`]; `None`: the backend itself.
    pub(in crate::control) check: Option<String>,
    /// Name of the rule whose requests failed, if the backend is ejected for this rule alone.
    pub(in crate::control) rule: Option<String>,
    pub(in crate::control) state: State,
    pub(in crate::control) reason: String,
    pub(in crate::control) since: SystemTime,
}

/// Arrival of a backend, as it is handed over to another process.
#[derive(Clone, Debug)]
pub(in crate::control) struct KnownArrival {
    pub(in crate::control) backend: Address,
    /// [`Check::parameters`] of the check that succeeds again.
    pub(in crate::control) check: Option<String>,
    /// Name of the rule that has the backend now.
    pub(in crate::control) rule: Option<String>,
    pub(in crate::control) age: Duration,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Action, Names, Rule};

    #[test]
    fn reason_names_the_rules_that_the_request_does_not() {
        let note = |check: &str, rules: &[&str], count: usize| {
            let given = json!({"backends": "10.0.0.1:80", "check": check});
            let rule = json!(["proxy", given, true]);
            let rule = Rule::from_json("a.com", &rule, &mut Names::default()).expect("a rule");
            let Action::Proxy(proxy) = rule.action else { panic!("{rule:?}") };
            let check = proxy.check().expect("a check").clone();
            let rules = rules.iter().map(|rule| Arc::from(*rule)).collect();
            CheckedFor { check: Some(check), rules, rules_count: count }.explain("so")
        };
        assert_eq!(note("/", &["a.com"], 1), "so");
        assert_eq!(note("/", &["http://a.com"], 1), "so");
        assert_eq!(note("/", &["b.com"], 1), "so (rule b.com)");
        assert_eq!(note("tcp", &["a.com"], 1), "so (rule a.com)");
        assert_eq!(note("tcp", &["a.com", "b.com"], 2), "so (rules a.com and b.com)");
        let many = ["a", "b", "c", "d", "e"];
        assert_eq!(note("tcp", &many, 5), "so (rules a, b, c and 2 more)");
        assert_eq!(note("tcp", &many, 70), "so (rules a, b, c and 67 more)");
        assert_eq!(note("tcp", &[], 0), "so");
    }
}
