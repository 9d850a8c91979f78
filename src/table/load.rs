//! A whole table at once, from a file that may hold anything: what can't be taken is handed back
//! with the reason, and does not stop the rest.

use super::edit::{check_chain, count_aliases, sort};
use super::rule::{Action, Rule};
use super::trie::{Change, Slot};
use super::{Snapshot, host};

/// A rule that was valid by itself and still found no place.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its name, as it was spelt.
    pub host: String,
    pub rule: Rule,
    pub error: String,
}

/// Collects rules, then makes a snapshot of them.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    snapshot: Snapshot,
    changes: Vec<Change<Rule>>,
    /// Rules whose name was not in canonical form, with how it was spelt: they give way to the
    /// rule that has the name as it should be. (The original told `A.com` from `a.com`, and
    /// clients that asked for `a.com` got the latter.)
    respelt: Vec<(String, Slot<Rule>)>,
}

impl Loader {
    /// Takes a rule, unless its name can't be one.
    pub(crate) fn add(&mut self, raw: &str, rule: Rule) {
        match host::rule_name_ref(raw) {
            Ok(name) => {
                let slot = self.snapshot.slot(&name, rule);
                if *name == *raw {
                    self.changes.push(Change::Set(slot));
                } else {
                    self.respelt.push((raw.to_owned(), slot));
                }
            }
            Err(_) => debug_assert!(false, "the caller has checked the name"),
        }
    }

    /// The table, and what found no place in it.
    pub(crate) fn finish(self) -> (Snapshot, Vec<Refused>) {
        let Loader { mut snapshot, changes, respelt } = self;
        let mut refused = Vec::new();
        let (changes, overridden) = sort(changes);
        refused.extend(overridden.iter().filter_map(|change| match change {
            Change::Set(slot) => {
                let host = slot.leaf.slice.to_owned();
                Some(refuse(host, slot, "a later rule has the same name".to_owned()))
            }
            Change::Remove { .. } => None,
        }));
        snapshot.rules = snapshot.rules.apply(&changes);
        let mut given = changes;

        for (raw, slot) in respelt {
            if let Some(other) = snapshot.rules.get(slot.hash, &slot.leaf.slice) {
                let error = format!("the same host as {}, which has a rule already", &other.slice);
                refused.push(refuse(raw, &slot, error));
            } else {
                let change = [Change::Set(slot)];
                snapshot.rules = snapshot.rules.apply(&change);
                given.extend(change);
            }
        }

        // An alias of a bad alias is bad too, and following it shows that: one pass finds all.
        let mut bad = Vec::new();
        given.retain(|change| {
            let Change::Set(slot) = change else { return false };
            let Action::Alias(target) = &slot.leaf.header.action else { return false };
            match check_chain(&snapshot, &slot.leaf.slice, target) {
                Ok(()) => true,
                Err(error) => {
                    let host = slot.leaf.slice.to_owned();
                    bad.push(Change::Remove { hash: slot.hash, name: host.as_str().into() });
                    refused.push(refuse(host, slot, error.to_string()));
                    false
                }
            }
        });
        let (bad, _) = sort(bad);
        snapshot.rules = snapshot.rules.apply(&bad);
        count_aliases(&Snapshot::default(), &mut snapshot, &given);
        (snapshot, refused)
    }
}

fn refuse(host: String, slot: &Slot<Rule>, error: String) -> Refused {
    Refused { host, rule: slot.leaf.header.clone(), error }
}
