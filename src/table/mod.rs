//! The host table: what to do for each host name, at one moment.
//!
//! A [`Snapshot`] never changes. [`edit()`] makes a new one in microseconds at any size: it shares
//! everything but the changed path with the old one, which stays whole for its readers. Looking a
//! host up takes one probe for each of its labels (a probe finds the plain rule and the rules for
//! one scheme together), touches no reference count and allocates nothing. With a million rules it
//! costs about as much as with one.
//!
//! Aliases are followed at lookup, with one more probe. So an edit of the target takes effect at
//! once, and costs the same whether one name or a hundred thousand point to it. [`edit()`]
//! guarantees that every alias leads to a rule, in at most [`ALIAS_CHAIN_MAX`] steps.
//!
//! Pure: no I/O, no clock, no threads. The hash is seeded once per process, which shows only in
//! the order of [`Snapshot::iter`].

mod access;
mod arguments;
mod backend;
pub mod balance;
mod check;
mod edit;
mod edit_error;
mod head_arguments;
pub mod host;
mod json;
mod load;
mod overrides;
mod redirect;
mod reply_options;
mod rule;
mod text;
mod trie;

#[cfg(any(test, fuzzing))]
pub mod properties;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};
use std::iter::successors;
use std::sync::Arc;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use crate::limits::ALIAS_CHAIN_MAX;
pub use crate::scheme::Scheme;
pub use access::Access;
pub use backend::{Backend, Name, Names, Target};
pub use balance::{Draw, affinity, choose};
pub use check::Check;
pub use edit::{edit, edit_canonical};
pub use edit_error::EditError;
pub use head_arguments::HostSent;
pub use json::RuleError;
pub(crate) use load::{Loader, Refused, replay};
pub use overrides::Overrides;
pub use rule::{Action, Algorithm, Empty, Proxy, Redirect, Rule, SendProxy, Spin, StaticPage};
use trie::{Position, Trie};

/// Name under which requests without a rule are counted.
pub const UNKNOWN: &str = "unknown";

/// The host table at one moment. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Snapshot {
    rules: Trie<Rule>,
    /// How many aliases point to each name that is the target of one.
    aliased: Trie<u32>,
    /// Upper bound for the labels of a rule's name. It grows with the rules and does not shrink. It
    /// only saves probes that can't find anything, so that a Host of 127 labels costs no more than
    /// any other.
    labels_max: usize,
    hasher: SeedableRandomState,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot {
            rules: Trie::default(),
            aliased: Trie::default(),
            labels_max: 0,
            // The seed is random for each process, so that an attacker can't prepare names that
            // collide. It is the same for all snapshots of the process, so that `Found::key` means
            // the same in each.
            hasher: SeedableRandomState::with_seed(0, SharedSeed::global_random()),
        }
    }
}

/// Result of a lookup.
#[derive(Clone, Debug)]
pub enum Match<'t> {
    /// The table has no rules at all.
    NoHosts,
    /// The table has rules, but none for this host.
    Unknown,
    /// A rule applies.
    Found(Found<'t>),
}

/// The rule for a request. Borrowed from the snapshot.
#[derive(Copy, Clone, Debug)]
pub struct Found<'t> {
    /// The rule; aliases are followed already, so the action is never `Alias`.
    pub rule: &'t Rule,
    /// [`Snapshot::key`] of [`Found::name`].
    pub key: u64,
    /// [`Snapshot::key`] of the rule itself. It differs from `key` if aliases were followed.
    pub rule_key: u64,
    matched: Position<'t, Rule>,
}

impl<'t> Found<'t> {
    /// Name of the rule that matched, under which the request is counted. For an alias, it is the
    /// alias's own name.
    pub fn name(&self) -> &'t str {
        self.matched.entry().name.as_str()
    }
}

impl Snapshot {
    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether the table has no rules.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rule of exactly this name (canonical, with its `http://` where it has one).
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.get(self.hash(name), name).map(|place| &place.entry().value)
    }

    /// The rule of exactly this name, with the table's own copy of the name.
    fn entry(&self, name: &str) -> Option<(&str, &Rule)> {
        let place = self.rules.get(self.hash(name), name)?;
        let entry = place.entry();
        Some((entry.name.as_str(), &entry.value))
    }

    /// Every rule with its name, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.rules.iter().map(|entry| (entry.name.as_str(), &entry.value))
    }

    /// Key of a name, whether a rule has it or not. The key is the same in every snapshot of this
    /// process, and almost certainly unique.
    pub fn key(&self, name: &str) -> u64 {
        let (scheme, host) = host::split(name);
        scheme_key(self.hash_host(host), scheme)
    }

    /// Name of the rule that has this key.
    pub fn name_of(&self, key: u64) -> Option<&str> {
        let schemes = host::SCHEMES.map(|(scheme, _)| Some(scheme));
        [None].into_iter().chain(schemes).find_map(|scheme| {
            let hash = key.rotate_right(scheme.map_or(0, prefix_bits));
            let mut names = self.rules.probe(hash).map(|place| place.entry().name.as_str());
            names.find(|name| host::split(name).0 == scheme)
        })
    }

    /// Whether any rule is an alias.
    pub fn has_aliases(&self) -> bool {
        self.aliased.len() != 0
    }

    /// Key of the rule that the rule of this name stands for: itself or, for an alias, the rule at
    /// the end of its chain.
    pub fn target_of(&self, name: &str) -> Option<u64> {
        let place = self.rules.get(self.hash(name), name)?;
        match self.follow(place, self.key(name)) {
            Match::Found(found) => Some(found.rule_key),
            Match::NoHosts | Match::Unknown => None,
        }
    }

    /// Lists of clients that a rule lets in or keeps out, if it has any. A spin without lists has
    /// those of the rule that stood before.
    #[inline]
    pub fn access<'t>(&'t self, action: &'t Action) -> Option<&'t Access> {
        action.access().or_else(|| self.before(action).find_map(Action::access))
    }

    /// Arguments of a rule that override keys, if it has any. An argument that a spin lacks is
    /// taken from the rule that stood before.
    #[inline]
    pub fn overrides(&self, action: &Action) -> Option<Arc<Overrides>> {
        let own = action.overrides().cloned();
        let before = self.before(action).filter_map(Action::overrides);
        before.fold(own, |own, before| Some(Overrides::of_spin(own, before)))
    }

    /// The rule that stood before a spin and, if that is an alias, the rules that it leads to. The
    /// number of steps is bounded, because an alias in `then` may lead nowhere or back to itself.
    fn before<'t>(&'t self, action: &'t Action) -> impl Iterator<Item = &'t Action> {
        let next = |action: &&'t Action| match action {
            Action::Spin(spin) => spin.then().map(|then| &then.action),
            Action::Alias(target) => self.get(target).map(|rule| &rule.action),
            _ => None,
        };
        successors(next(&action), next).take(2 * ALIAS_CHAIN_MAX)
    }

    /// Finds the rule for a host in canonical form ([`host::canonical`]): the rule of the host
    /// itself, else that of the nearest parent that allows subdomains, else `*`. At each of these
    /// names, the rule for the scheme takes precedence over the plain rule.
    pub fn lookup(&self, host: &str, scheme: Scheme) -> Match<'_> {
        if self.is_empty() {
            return Match::NoHosts;
        }
        let mut name = self.skip_labels(host);
        loop {
            let is_whole = name.len() == host.len();
            if let Some((place, key)) = self.rule_for(name, scheme, is_whole) {
                return self.follow(place, key);
            }
            match memchr::memchr(b'.', name.as_bytes()) {
                Some(dot) => name = &name[dot + 1..],
                None => return self.catch_all(scheme),
            }
        }
    }

    /// Finds the rule `*`, for a request that has no other rule. The rule for the scheme takes
    /// precedence.
    pub fn catch_all(&self, scheme: Scheme) -> Match<'_> {
        match self.rule_for(host::ANY, scheme, true) {
            Some((place, key)) => self.follow(place, key),
            None => Match::Unknown,
        }
    }

    /// `host` without its first labels, if it has more labels than any rule.
    fn skip_labels<'h>(&self, host: &'h str) -> &'h str {
        match memchr::memrchr_iter(b'.', host.as_bytes()).nth(self.labels_max.saturating_sub(1)) {
            Some(dot) => &host[dot + 1..],
            None => host,
        }
    }

    /// The rule of this one name that applies: the rule for the scheme, else the plain rule.
    #[inline]
    fn rule_for(
        &self,
        name: &str,
        scheme: Scheme,
        is_whole: bool,
    ) -> Option<(Position<'_, Rule>, u64)> {
        let hash = self.hash_host(name);
        let name = name.as_bytes();
        let prefix = host::prefix(scheme).as_bytes();
        let (mut plain, mut other) = (None, None);
        for place in self.rules.probe(hash) {
            let entry = place.entry();
            if !(is_whole || entry.value.match_subdomains) {
                continue;
            }
            let given = entry.name.as_bytes();
            if given == name {
                plain = Some((place, hash));
            } else if given.strip_prefix(prefix) == Some(name) {
                return Some((place, scheme_key(hash, Some(scheme))));
            } else if scheme == Scheme::Tls && given.strip_prefix(b"https://") == Some(name) {
                // TLS that is passed through is most likely HTTPS.
                other = Some((place, scheme_key(hash, Some(Scheme::Https))));
            }
        }
        other.or(plain)
    }

    /// Follows the aliases from a rule that matched to the rule that applies.
    fn follow<'t>(&'t self, matched: Position<'t, Rule>, key: u64) -> Match<'t> {
        let (mut place, mut rule_key) = (matched, key);
        for _ in 0..=ALIAS_CHAIN_MAX {
            let rule = &place.entry().value;
            let Action::Alias(target) = &rule.action else {
                return Match::Found(Found { rule, key, rule_key, matched });
            };
            rule_key = self.key(target);
            match self.rules.get(self.hash(target), target) {
                Some(next) => place = next,
                None => break,
            }
        }
        debug_assert!(false, "edit lets no alias in that leads nowhere");
        Match::Unknown
    }

    /// Hash of a rule's name: the hash of its host, so that all rules of a host are found together.
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

/// Number of bits by which the key of a host's rule for one scheme is rotated from that of its
/// plain rule.
fn prefix_bits(scheme: Scheme) -> u32 {
    match scheme {
        Scheme::Http => 7,
        Scheme::Https => 8,
        Scheme::Tcp => 6,
        Scheme::Tls => 5,
    }
}

fn scheme_key(hash: u64, scheme: Option<Scheme>) -> u64 {
    hash.rotate_left(scheme.map_or(0, prefix_bits))
}
