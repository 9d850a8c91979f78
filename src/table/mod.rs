//! The host table: what to do for each host name, at one moment.
//!
//! A [`Snapshot`] never changes. [`edit()`] makes a new one that shares all but the changed path
//! with the old, in microseconds at any size, and whoever holds the old one keeps it whole.
//! Looking a host up takes one probe for each of its labels (a probe finds the plain rule and
//! those for one scheme together), touches no reference count and allocates nothing; at a million
//! rules it costs about what it costs at one.
//!
//! Aliases are followed at lookup, by one more probe: an edit of the target is seen at once and
//! costs the same whether one name or a hundred thousand point to it. [`edit()`] guarantees that
//! every alias leads to a rule, in at most [`ALIAS_CHAIN_MAX`] steps.
//!
//! Pure: no I/O, no clock, no threads. The hash is seeded once per process, which shows only in
//! the order of [`Snapshot::iter`].

mod backend;
pub mod balance;
mod edit;
pub mod host;
mod json;
mod load;
mod rule;
mod trie;

#[cfg(any(test, fuzzing))]
pub mod properties;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};
use std::ops::Deref;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use crate::limits::ALIAS_CHAIN_MAX;
pub use crate::limits::Scheme;
pub use backend::{Backend, Name, Names, Target};
pub use balance::{Draw, choose};
pub use edit::{EditError, edit};
pub use json::RuleError;
pub(crate) use load::Loader;
pub use rule::{Action, Algorithm, Check, Proxy, Redirect, Rule, Spin};
use trie::{Leaf, Slot, Trie};

/// The host table at one moment. Cloning it costs nothing worth counting.
#[derive(Clone, Debug)]
pub struct Snapshot {
    rules: Trie<Rule>,
    /// How many aliases point to each name that is the target of one.
    aliased: Trie<u32>,
    /// No rule has more labels than this. Grows with the rules and does not shrink: it only saves
    /// probes that can't hit, so that a Host of 127 labels costs no more than any other.
    labels_max: usize,
    hasher: SeedableRandomState,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot {
            rules: Trie::default(),
            aliased: Trie::default(),
            labels_max: 0,
            // Random for each process, so that nobody can prepare names that collide; the same
            // for all snapshots in it, so that `Found::key` means the same in each.
            hasher: SeedableRandomState::with_seed(0, SharedSeed::global_random()),
        }
    }
}

/// What the table says about a host.
#[derive(Clone, Debug)]
pub enum Match<'t> {
    /// There are no rules at all.
    NoHosts,
    /// There are rules, but none for this host.
    Unknown,
    /// This rule applies.
    Found(Found<'t>),
}

/// The rule for a request. Borrowed from the snapshot; [`Found::keep`] outlives it.
#[derive(Copy, Clone, Debug)]
pub struct Found<'t> {
    /// What to do; aliases are followed already, so the action is never `Alias`.
    pub rule: &'t Rule,
    /// The name of the rule that matched, by which it is counted; that of the alias if it was one.
    pub name: &'t str,
    /// A hash of `name`: the same in every snapshot of this process, all but unique.
    pub key: u64,
    leaf: &'t Leaf<Rule>,
}

impl Found<'_> {
    /// The rule as it is now, to hold on to when the snapshot is let go.
    pub fn keep(&self) -> Kept {
        Kept(Leaf::clone(self.leaf))
    }
}

/// A rule that stays whatever happens to the table. Costs a reference count, not a copy.
#[derive(Clone, Debug)]
pub struct Kept(Leaf<Rule>);

impl Kept {
    /// Whether both are one and the same rule, not just equal ones.
    pub fn is_same(&self, other: &Kept) -> bool {
        Leaf::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Kept {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        &self.0.header
    }
}

impl Snapshot {
    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rule of exactly this name (canonical, with its `http://` where it has one).
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(self.hash(name), name).map(|leaf| &leaf.header)
    }

    /// Every rule with its name, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.rules.iter().map(|Slot { leaf, .. }| (&leaf.slice, &leaf.header))
    }

    /// What to do for a host in canonical form ([`host::canonical`]): its own rule, else that of
    /// the nearest parent that allows subdomains; at each name the rule for the scheme first.
    pub fn lookup(&self, host: &str, scheme: Scheme) -> Match<'_> {
        if self.is_empty() {
            return Match::NoHosts;
        }
        let mut name = self.skip_labels(host);
        loop {
            let is_whole = name.len() == host.len();
            if let Some((leaf, key)) = self.rule_for(name, scheme, is_whole) {
                return self.follow(leaf, key);
            }
            match memchr::memchr(b'.', name.as_bytes()) {
                Some(dot) => name = &name[dot + 1..],
                None => return Match::Unknown,
            }
        }
    }

    /// `host` without the labels in front that no rule reaches.
    fn skip_labels<'h>(&self, host: &'h str) -> &'h str {
        match memchr::memrchr_iter(b'.', host.as_bytes()).nth(self.labels_max.saturating_sub(1)) {
            Some(dot) => &host[dot + 1..],
            None => host,
        }
    }

    /// The rule at this one name: that for the scheme, else the plain one, whichever applies.
    fn rule_for(&self, name: &str, scheme: Scheme, is_whole: bool) -> Option<(&Leaf<Rule>, u64)> {
        let hash = self.hash_host(name);
        let prefix = host::prefix(scheme);
        let mut plain = None;
        for Slot { leaf, .. } in self.rules.probe(hash) {
            let given = &leaf.slice;
            // Lengths are in the slot, so a rule for the other scheme costs no look at its name.
            if given.len() == name.len() {
                if given == name && (is_whole || leaf.header.match_subdomains) {
                    plain = Some((leaf, hash));
                }
            } else if given.len() == prefix.len() + name.len()
                && given.starts_with(prefix)
                && given.ends_with(name)
                && (is_whole || leaf.header.match_subdomains)
            {
                return Some((leaf, hash.rotate_left(prefix.len() as u32)));
            }
        }
        plain
    }

    fn follow<'t>(&'t self, matched: &'t Leaf<Rule>, key: u64) -> Match<'t> {
        let mut leaf = matched;
        for _ in 0..=ALIAS_CHAIN_MAX {
            let Action::Alias(target) = &leaf.header.action else {
                let (rule, name) = (&leaf.header, &matched.slice);
                return Match::Found(Found { rule, name, key, leaf });
            };
            match self.rules.get(self.hash(target), target) {
                Some(next) => leaf = next,
                None => break,
            }
        }
        debug_assert!(false, "edit lets no alias in that leads nowhere");
        Match::Unknown
    }

    /// The hash of a rule's name: that of its host, so that all rules of a host are found together.
    fn hash(&self, name: &str) -> u64 {
        self.hash_host(host::split(name).1)
    }

    #[inline]
    fn hash_host(&self, host: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(host.as_bytes());
        hasher.finish()
    }
}
