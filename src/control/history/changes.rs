//! The last changes of rules, with the author of each and the rule before. Rules are kept as text:
//! a `Rule` would keep the names of its backends alive, so that they would still be looked up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::control::change::{RuleChange, Verb};
use crate::control::events::unix_time;
use crate::limits;
use crate::table::Rule;

/// The last changes, shared by the writer and the API.
#[derive(Clone, Default)]
pub(in crate::control) struct SharedChanges(Arc<Mutex<Changes>>);

impl SharedChanges {
    /// Locks the changes, also after a panic: each entry is still whole.
    pub(in crate::control) fn lock(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last changes, the oldest first.
#[derive(Default)]
pub(in crate::control) struct Changes {
    entries: VecDeque<ChangeEntry>,
    bytes: usize,
}

/// A changed rule, or a change of too many rules to name.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::control) struct ChangeEntry {
    time: f64,
    who: Arc<str>,
    verb: Box<str>,
    /// Name of the rule; `None`: the change is of very many rules.
    host: Option<Box<str>>,
    rule: Option<Box<str>>,
    before: Option<Box<str>>,
    /// How many rules the change named.
    changed: usize,
}

impl ChangeEntry {
    /// Name of the rule; `None`: the change is of very many rules.
    pub(in crate::control) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Appends the entry as JSON.
    pub(in crate::control) fn write(&self, out: &mut String) {
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or("null").to_owned();
        let host = json!(self.host.as_deref().unwrap_or("*"));
        out.push_str(&format!(
            "{{\"time\":{},\"who\":{},\"verb\":{},\"host\":{host},\"rule\":{},\"before\":{}",
            json!(self.time),
            json!(&*self.who),
            json!(&*self.verb),
            text(&self.rule),
            text(&self.before),
        ));
        if self.host.is_none() {
            out.push_str(&format!(",\"changed\":{}", self.changed));
        }
        out.push('}');
    }

    fn bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        size_of::<ChangeEntry>()
            + self.who.len()
            + self.verb.len()
            + text(&self.host)
            + text(&self.rule)
            + text(&self.before)
    }

    fn read(told: &Value) -> Option<ChangeEntry> {
        let rule = |name: &str| match &told[name] {
            Value::Null => None,
            rule => Some(rule.to_string().into_boxed_str()),
        };
        let host = told["host"].as_str()?;
        Some(ChangeEntry {
            time: told["time"].as_f64()?,
            who: told["who"].as_str()?.into(),
            verb: told["verb"].as_str()?.into(),
            host: (host != "*").then(|| host.into()),
            rule: rule("rule"),
            before: rule("before"),
            changed: told["changed"].as_u64().unwrap_or(1) as usize,
        })
    }
}

impl Changes {
    /// Adds a change that is in force: an entry for each rule that it altered, or one entry for all
    /// if `rules` is `None`.
    pub(in crate::control) fn note(
        &mut self,
        who: &str,
        verb: Verb,
        rules: Option<&[RuleChange]>,
        changed: usize,
    ) {
        let entry = ChangeEntry {
            time: unix_time(),
            who: who.into(),
            verb: verb.as_str().into(),
            host: None,
            rule: None,
            before: None,
            changed,
        };
        let Some(rules) = rules else { return self.add(entry) };
        let text = |rule: &Option<Rule>| {
            rule.as_ref().map(|rule| rule.to_json().to_string().into_boxed_str())
        };
        for RuleChange { name, before, after } in rules {
            self.add(ChangeEntry {
                host: Some(name.as_str().into()),
                rule: text(after),
                before: text(before),
                ..entry.clone()
            });
        }
    }

    fn add(&mut self, entry: ChangeEntry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while limits::HISTORY_CHANGES < self.entries.len()
            || limits::HISTORY_CHANGES_BYTES_MAX < self.bytes
        {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// The last entries, the newest first.
    pub(in crate::control) fn newest_first(&self) -> impl Iterator<Item = &ChangeEntry> {
        self.entries.iter().rev()
    }

    /// Writes the entries down for the daemon that takes over.
    pub(in crate::control) fn to_json(&self) -> Value {
        let each = self.entries.iter().map(|entry| {
            let mut text = String::new();
            entry.write(&mut text);
            serde_json::from_str::<Value>(&text).unwrap_or_default()
        });
        each.collect()
    }

    /// Takes over the entries that another daemon has written down.
    pub(in crate::control) fn recall(&mut self, told: &Value) {
        let each = told.as_array().into_iter().flatten().filter_map(ChangeEntry::read);
        each.for_each(|entry| self.add(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Names;

    fn rule(code: u16) -> Option<Rule> {
        let rule = json!(["empty", { "code": code }, false]);
        Some(Rule::from_json("a.com", &rule, &mut Names::default()).expect("a rule"))
    }

    fn change(name: &str, before: Option<Rule>, after: Option<Rule>) -> RuleChange {
        RuleChange { name: name.to_owned(), before, after }
    }

    fn listed(changes: &Changes) -> Vec<Value> {
        let each = changes.newest_first().map(|entry| {
            let mut text = String::new();
            entry.write(&mut text);
            serde_json::from_str(&text).expect("JSON")
        });
        each.collect()
    }

    #[test]
    fn each_rule_that_became_another_has_an_entry() {
        let mut changes = Changes::default();
        let both = [change("a.com", None, rule(403)), change("b.com", rule(404), None)];
        changes.note("ci \"1\"", Verb::Patch, Some(&both), 2);
        changes.note("uid 0", Verb::Put, None, 900);
        let found = listed(&changes);
        let [many, deleted, new] = &found[..] else { panic!("three: {found:?}") };
        assert_eq!((&many["host"], &many["changed"]), (&json!("*"), &json!(900)));
        assert_eq!((&many["rule"], &many["who"]), (&Value::Null, &json!("uid 0")));
        assert_eq!((&deleted["host"], &deleted["verb"]), (&json!("b.com"), &json!("PATCH")));
        assert_eq!(deleted["before"], json!(["empty", {"code": 404}, false]));
        assert_eq!((&new["before"], &new["who"]), (&Value::Null, &json!("ci \"1\"")));
        assert_eq!(new["rule"][1]["code"], 403);
        let names: Vec<_> = new.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["time", "who", "verb", "host", "rule", "before"]);
        let mut other = Changes::default();
        other.recall(&changes.to_json());
        assert_eq!(listed(&other), found);
    }

    #[test]
    fn entries_are_bounded_in_number_and_in_bytes() {
        let mut changes = Changes::default();
        let one = [change("a.com", None, rule(403))];
        for _ in 0..limits::HISTORY_CHANGES + 10 {
            changes.note("x", Verb::Put, Some(&one), 1);
        }
        assert_eq!(changes.newest_first().count(), limits::HISTORY_CHANGES);
        let long = "x".repeat(limits::HISTORY_CHANGES_BYTES_MAX / 3);
        for _ in 0..9 {
            changes.note(&long, Verb::Put, None, 1);
        }
        assert_eq!(changes.newest_first().count(), 2);
        assert!(changes.bytes <= limits::HISTORY_CHANGES_BYTES_MAX);
    }
}
