//! Makes a new snapshot from an old one and changes. Either all changes are made, or none.
//!
//! Besides the rules, a snapshot counts the aliases that point to each name. With these counts, a
//! deletion knows without a search whether it would break an alias. If it would, the edit is
//! refused, and only then is the table searched for the alias that the error names.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::limits::ALIAS_CHAIN_MAX;

use super::Snapshot;
use super::edit_error::EditError;
use super::host;
use super::redirect;
use super::rule::Rule;
use super::trie::Change;

/// Makes the table after these changes; `None` deletes a rule. Names are brought to canonical form.
/// If a name comes twice, the last change counts. Deleting a rule that does not exist is no error.
/// Afterwards every alias must lead to a rule, even an alias that is not among the changes, and no
/// redirect may lead back to itself.
pub fn edit(
    old: &Snapshot,
    mut changes: Vec<(String, Option<Rule>)>,
) -> Result<Snapshot, EditError> {
    for (name, _) in &mut changes {
        let canonical = match host::rule_name_ref(name) {
            Ok(Cow::Borrowed(same)) if same.len() == name.len() => continue,
            Ok(other) => other.into_owned(),
            Err(error) => return Err(EditError::Name { host: std::mem::take(name), error }),
        };
        *name = canonical;
    }
    edit_canonical(old, &changes)
}

/// Does the same as [`edit`], for names that are in canonical form ([`host::rule_name`]).
pub fn edit_canonical(
    old: &Snapshot,
    changes: &[(String, Option<Rule>)],
) -> Result<Snapshot, EditError> {
    debug_assert!(changes.iter().all(|(name, _)| host::rule_name(name).as_ref() == Ok(name)));
    let changes = changes.iter();
    let changes = changes.map(|(name, rule)| old.change(name, rule.clone())).collect();
    let (changes, _) = sort(changes);
    let mut new = old.clone();
    new.take(&changes);
    check_aliases(&new, &changes)?;
    redirect::check(&new, &changes)?;
    Ok(new)
}

pub(super) type Changes<'a> = Vec<Change<'a, Rule>>;

/// Sorts changes as the tree needs them. Returns the last change of each name, and the earlier
/// changes that it replaces.
pub(super) fn sort(mut changes: Changes<'_>) -> (Changes<'_>, Changes<'_>) {
    // The sort is stable: changes of the same name stay in the order in which they came.
    changes.sort_by(|a, b| (a.hash, a.name).cmp(&(b.hash, b.name)));
    if changes.is_sorted_by(|a, b| a.name != b.name) {
        return (changes, Vec::new());
    }
    let is_last =
        |index: usize| changes.get(index + 1).is_none_or(|next| next.name != changes[index].name);
    let mut last: std::vec::IntoIter<bool> =
        (0..changes.len()).map(is_last).collect::<Vec<_>>().into_iter();
    changes.into_iter().partition(|_| last.next() == Some(true))
}

impl Snapshot {
    /// A change for this table, or for one made from it.
    pub(super) fn change<'a>(&self, name: &'a str, value: Option<Rule>) -> Change<'a, Rule> {
        Change { hash: self.hash(name), name, value }
    }

    /// Makes these changes (from [`sort`]), whether valid or not: aliases are counted, but not
    /// checked.
    pub(super) fn take(&mut self, changes: &[Change<'_, Rule>]) {
        let counts = self.alias_counts(changes);
        self.rules = self.rules.apply(changes);
        let counts: Vec<_> = counts
            .iter()
            .map(|(hash, name, value)| Change { hash: *hash, name, value: *value })
            .collect();
        self.aliased = self.aliased.apply(&counts);
        let set = changes.iter().filter(|change| change.value.is_some());
        let labels = |name: &str| 1 + memchr::memchr_iter(b'.', name.as_bytes()).count();
        let deepest = set.map(|change| labels(change.name)).max().unwrap_or(0);
        self.labels_max = self.labels_max.max(deepest);
    }

    /// Number of aliases that point to each name, for the names whose number these changes alter.
    fn alias_counts(&self, changes: &[Change<'_, Rule>]) -> Vec<(u64, Box<str>, Option<u32>)> {
        let mut difference: HashMap<&str, i64> = HashMap::new();
        for change in changes {
            if self.aliased.len() != 0
                && let Some(target) = self.get(change.name).and_then(Rule::alias_target)
            {
                *difference.entry(target).or_default() -= 1;
            }
            if let Some(target) = change.value.as_ref().and_then(Rule::alias_target) {
                *difference.entry(target).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = difference
            .into_iter()
            .map(|(target, difference)| {
                let count = u32::try_from(i64::from(self.aliases_of(target)) + difference);
                (self.hash(target), Box::from(target), count.ok().filter(|count| *count != 0))
            })
            .collect();
        counts.sort_by_key(|(hash, ..)| *hash);
        counts
    }

    /// Number of aliases that point to this name.
    fn aliases_of(&self, name: &str) -> u32 {
        self.aliased.get(self.hash(name), name).map_or(0, |place| place.entry().value)
    }

    /// Every alias with its target.
    pub(super) fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|(name, rule)| Some((name, rule.alias_target()?)))
    }
}

/// Whether every alias that these changes touch leads to a rule.
fn check_aliases(new: &Snapshot, changes: &[Change<'_, Rule>]) -> Result<(), EditError> {
    if new.aliased.len() == 0 {
        return Ok(());
    }
    let mut is_chain_longer = false;
    for change in changes {
        let aliases_count = new.aliases_of(change.name);
        match &change.value {
            None if 0 < aliases_count => {
                let alias = new.aliases().find(|(_, target)| *target == change.name);
                let alias = alias.map_or_else(String::new, |(alias, _)| alias.to_owned());
                return Err(EditError::Aliased { host: change.name.to_owned(), alias });
            }
            None => {}
            Some(rule) => {
                if let Some(target) = rule.alias_target() {
                    check_chain(new, change.name, target)?;
                    is_chain_longer |= 0 < aliases_count;
                }
            }
        }
    }
    // A rule that aliases point to became an alias itself, so their chains are longer now. This is
    // rare, so simply check all chains.
    if is_chain_longer {
        for (name, target) in new.aliases() {
            check_chain(new, name, target)?;
        }
    }
    Ok(())
}

/// Follows one alias to its end.
pub(super) fn check_chain(new: &Snapshot, name: &str, target: &str) -> Result<(), EditError> {
    let host = || name.to_owned();
    let mut passed = vec![name];
    let mut target = target;
    loop {
        if passed.contains(&target) {
            return Err(EditError::AliasLoop { host: host() });
        }
        if ALIAS_CHAIN_MAX < passed.len() {
            return Err(EditError::AliasTooLong { host: host() });
        }
        let Some(rule) = new.get(target) else {
            return Err(EditError::AliasMissing { host: host(), target: target.to_owned() });
        };
        let Some(next) = rule.alias_target() else { return Ok(()) };
        passed.push(target);
        target = next;
    }
}
