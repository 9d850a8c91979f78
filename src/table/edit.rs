//! Old snapshot and changes in, new snapshot out: all of them or none.
//!
//! Besides the rules a snapshot counts, for each name, the aliases that point to it. With that, a
//! deletion knows without a search whether it would break one; only when it would, and the edit is
//! refused anyway, is the table searched for the alias to name.

use std::collections::HashMap;
use std::fmt;

use crate::limits::ALIAS_CHAIN_MAX;

use super::Snapshot;
use super::host::{self, HostError};
use super::rule::{Action, Rule};
use super::trie::{Change, Leaf, Slot};

/// Why an edit is refused; the table stays as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditError {
    /// A name that can't be one.
    Name {
        /// As given.
        host: String,
        /// What is wrong with it.
        error: HostError,
    },
    /// An alias to a rule that does not exist.
    AliasMissing {
        /// The alias.
        host: String,
        /// What it points to.
        target: String,
    },
    /// A deletion of what is still the target of an alias.
    Aliased {
        /// What was to be deleted.
        host: String,
        /// An alias of it.
        alias: String,
    },
    /// An alias that leads back to itself.
    AliasLoop {
        /// The alias.
        host: String,
    },
    /// An alias of an alias of an alias …
    AliasTooLong {
        /// The alias.
        host: String,
    },
}

impl EditError {
    /// The rule at fault.
    pub fn host(&self) -> &str {
        match self {
            EditError::Name { host, .. }
            | EditError::AliasMissing { host, .. }
            | EditError::Aliased { host, .. }
            | EditError::AliasLoop { host }
            | EditError::AliasTooLong { host } => host,
        }
    }

    /// The kind of error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            EditError::Name { .. } => "hostname_invalid",
            EditError::AliasMissing { .. } => "alias_missing",
            EditError::Aliased { .. } => "host_aliased",
            EditError::AliasLoop { .. } => "alias_loop",
            EditError::AliasTooLong { .. } => "alias_too_long",
        }
    }

    /// What is wrong, for people.
    pub fn sentence(&self) -> String {
        match self {
            EditError::Name { error, .. } => error.sentence().to_owned(),
            EditError::AliasMissing { host, target } => {
                format!("{host} is an alias of {target}, for which there is no rule")
            }
            EditError::Aliased { host, alias } => {
                format!("{host} can't be deleted: {alias} is an alias of it")
            }
            EditError::AliasLoop { host } => format!("{host} leads back to itself"),
            EditError::AliasTooLong { host } => {
                format!("{host} leads through more than {ALIAS_CHAIN_MAX} aliases")
            }
        }
    }
}

/// `host:code: sentence`.
impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.host(), self.code(), self.sentence())
    }
}

impl std::error::Error for EditError {}

/// The table after these changes, of which `None` deletes. Names are brought to canonical form;
/// what is named twice is what it was named last; deleting what is not there is no error.
/// An alias must lead to a rule afterwards, also one that is not among the changes.
pub fn edit(old: &Snapshot, changes: Vec<(String, Option<Rule>)>) -> Result<Snapshot, EditError> {
    let mut new = old.clone();
    let mut prepared = Vec::with_capacity(changes.len());
    for (raw, rule) in changes {
        let name = match host::rule_name_ref(&raw) {
            Ok(name) => name,
            Err(error) => return Err(EditError::Name { host: raw, error }),
        };
        prepared.push(match rule {
            Some(rule) => Change::Set(new.slot(&name, rule)),
            None => Change::Remove { hash: old.hash(&name), name: name.into() },
        });
    }
    let (changes, _) = sort(prepared);
    new.rules = old.rules.apply(&changes);
    count_aliases(old, &mut new, &changes);
    check_aliases(&new, &changes)?;
    Ok(new)
}

/// Sorted as the tree wants it, each name once: the last of equal names, and the ones before it.
pub(super) fn sort(mut changes: Vec<Change<Rule>>) -> (Vec<Change<Rule>>, Vec<Change<Rule>>) {
    // Stable: among equal names the order is that of time.
    changes.sort_by(|a, b| (a.hash(), a.name()).cmp(&(b.hash(), b.name())));
    let is_last = |index: usize, changes: &[Change<Rule>]| {
        changes.get(index + 1).is_none_or(|next| next.name() != changes[index].name())
    };
    if (0..changes.len()).all(|index| is_last(index, &changes)) {
        return (changes, Vec::new());
    }
    let last: Vec<bool> = (0..changes.len()).map(|index| is_last(index, &changes)).collect();
    let mut last = last.into_iter();
    changes.into_iter().partition(|_| last.next() == Some(true))
}

impl Snapshot {
    /// A leaf for this table with its hash; takes note of how deep its name goes.
    pub(super) fn slot(&mut self, name: &str, rule: Rule) -> Slot<Rule> {
        let labels = 1 + memchr::memchr_iter(b'.', name.as_bytes()).count();
        self.labels_max = self.labels_max.max(labels);
        Slot { hash: self.hash(name), leaf: Leaf::from_header_and_str(rule, name) }
    }

    /// How many aliases point to this name.
    fn aliases_of(&self, name: &str) -> u32 {
        self.aliased.get(self.hash(name), name).map_or(0, |leaf| leaf.header)
    }

    /// Every alias with its target.
    fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|(name, rule)| Some((name, target_of(rule)?)))
    }
}

fn target_of(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Alias(target) => Some(target),
        _ => None,
    }
}

/// Brings `new.aliased` up to date with changes that `new.rules` has already.
pub(super) fn count_aliases(old: &Snapshot, new: &mut Snapshot, changes: &[Change<Rule>]) {
    let mut difference: HashMap<&str, i64> = HashMap::new();
    for change in changes {
        if old.aliased.len() != 0 {
            if let Some(target) = old.get(change.name()).and_then(target_of) {
                *difference.entry(target).or_default() -= 1;
            }
        }
        if let Change::Set(slot) = change {
            if let Some(target) = target_of(&slot.leaf.header) {
                *difference.entry(target).or_default() += 1;
            }
        }
    }
    let mut counts: Vec<Change<u32>> = difference
        .into_iter()
        .map(|(target, difference)| {
            let hash = old.hash(target);
            match u32::try_from(i64::from(old.aliases_of(target)) + difference) {
                Ok(count) if 0 < count => {
                    Change::Set(Slot { hash, leaf: Leaf::from_header_and_str(count, target) })
                }
                _ => Change::Remove { hash, name: target.into() },
            }
        })
        .collect();
    if !counts.is_empty() {
        counts.sort_by_key(Change::hash);
        new.aliased = old.aliased.apply(&counts);
    }
}

/// Whether every alias that these changes touch leads to a rule.
fn check_aliases(new: &Snapshot, changes: &[Change<Rule>]) -> Result<(), EditError> {
    if new.aliased.len() == 0 {
        return Ok(());
    }
    let mut is_chain_longer = false;
    for change in changes {
        let aliases_count = new.aliases_of(change.name());
        match change {
            Change::Remove { name, .. } if 0 < aliases_count => {
                let alias = new.aliases().find(|(_, target)| *target == &**name);
                let alias = alias.map_or_else(String::new, |(alias, _)| alias.to_owned());
                return Err(EditError::Aliased { host: name.to_string(), alias });
            }
            Change::Set(slot) => {
                if let Some(target) = target_of(&slot.leaf.header) {
                    check_chain(new, &slot.leaf.slice, target)?;
                    is_chain_longer |= 0 < aliases_count;
                }
            }
            Change::Remove { .. } => {}
        }
    }
    // What others pointed to has become an alias itself: their chains grew. Rare, so all are walked.
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
        let Some(next) = target_of(rule) else { return Ok(()) };
        passed.push(target);
        target = next;
    }
}
