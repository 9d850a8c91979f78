//! Makes a whole table from a file that may hold anything. A rule that can't be taken is handed
//! back with the reason and does not stop the others.

use std::collections::HashMap;
use std::ops::Range;

use super::Snapshot;
use super::edit::{check_chain, sort};
use super::edit_error::EditError;
use super::host::{self, HostError};
use super::rule::Rule;

/// A rule that is valid by itself, but has no place in the table.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Name of the rule, as it was spelt.
    pub host: String,
    pub rule: Rule,
    pub error: String,
}

/// Collects rules, then makes a snapshot of them.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    /// All names in one text: a million small allocations would be made only to be freed.
    names: String,
    /// Each rule with the range of its name.
    rules: Vec<(Range<usize>, Rule)>,
    /// Rules whose name was not in canonical form: name as it was spelt, canonical name, rule. A
    /// rule whose name was spelt in canonical form takes precedence over them. (The original
    /// distinguished `A.com` from `a.com`, and clients that asked for `a.com` got the latter.)
    respelt: Vec<(String, String, Rule)>,
}

impl Loader {
    /// Takes a rule, unless its name can't be one.
    pub(crate) fn add(&mut self, raw: &str, rule: Rule) -> Result<(), HostError> {
        let name = host::rule_name_ref(raw)?;
        if *name == *raw {
            let start = self.names.len();
            self.names.push_str(raw);
            self.rules.push((start..self.names.len(), rule));
        } else {
            self.respelt.push((raw.to_owned(), name.into_owned(), rule));
        }
        Ok(())
    }

    /// Makes the table. Returns it with the rules that have no place in it.
    pub(crate) fn finish(self) -> (Snapshot, Vec<Refused>) {
        let Loader { names, rules, respelt } = self;
        let mut snapshot = Snapshot::default();
        let rules = rules.into_iter();
        let rules = rules.map(|(name, rule)| snapshot.change(&names[name], Some(rule))).collect();
        let (rules, overridden) = sort(rules);
        snapshot.take(&rules);
        let overridden = overridden.into_iter().filter_map(|change| {
            let host = change.name.to_owned();
            let error = format!("{host}:host_duplicate: a later rule has the same name");
            Some(Refused { host, rule: change.value?, error })
        });
        let mut refused: Vec<Refused> = overridden.collect();

        let mut placed: HashMap<String, (String, Rule)> = HashMap::new();
        for (raw, name, rule) in respelt {
            if snapshot.get(&name).is_some() || placed.contains_key(&name) {
                let error = format!("{raw}:host_duplicate: there is a rule for {name} already");
                refused.push(Refused { host: raw, rule, error });
            } else {
                placed.insert(name, (raw, rule));
            }
        }
        let changes = placed.iter();
        let changes = changes.map(|(name, (_, rule))| snapshot.change(name, Some(rule.clone())));
        let (changes, _) = sort(changes.collect());
        snapshot.take(&changes);

        let spelt = |name: &str| placed.get(name).map_or(name, |(raw, _)| raw).to_owned();
        refused.extend(remove_bad_aliases(&mut snapshot, spelt));
        (snapshot, refused)
    }
}

/// Makes the table after changes that were checked when they were made; `None` deletes a rule. Each
/// name is canonical and comes once. If a change leaves an alias that leads nowhere all the same,
/// that alias is removed and handed back.
pub(crate) fn replay(
    old: &Snapshot,
    mut changes: Vec<(String, Option<Rule>)>,
) -> (Snapshot, Vec<Refused>) {
    let changes = changes.iter_mut().map(|(name, rule)| old.change(name, rule.take()));
    let (changes, _) = sort(changes.collect());
    let mut new = old.clone();
    new.take(&changes);
    let refused = remove_bad_aliases(&mut new, str::to_owned);
    (new, refused)
}

/// Removes the aliases that lead nowhere, and hands them back under their names as they were
/// `spelt`.
fn remove_bad_aliases(snapshot: &mut Snapshot, spelt: impl Fn(&str) -> String) -> Vec<Refused> {
    // An alias of a bad alias is bad too, and following it shows that, so one pass finds all.
    let bad: Vec<(&str, EditError)> = snapshot
        .aliases()
        .filter_map(|(name, target)| Some((name, check_chain(snapshot, name, target).err()?)))
        .collect();
    let refused = bad.iter().filter_map(|(name, error)| {
        let host = spelt(name);
        let error = format!("{host}:{}: {}", error.code(), error.sentence());
        Some(Refused { host, rule: snapshot.get(name)?.clone(), error })
    });
    let refused = refused.collect();
    let names: Vec<String> = bad.into_iter().map(|(name, _)| name.to_owned()).collect();
    let removed = names.iter().map(|name| snapshot.change(name, None)).collect();
    let (removed, _) = sort(removed);
    snapshot.take(&removed);
    refused
}
