//! A key of the configuration: its name, meaning and check, and when a changed value is in force.

use std::path::PathBuf;

use super::Config;

/// One key.
pub struct Key {
    /// Name in the file and behind `-o`.
    pub name: &'static str,
    /// Value that holds when none is written, for people.
    pub default: &'static str,
    /// Values that are accepted, for people.
    pub takes: &'static str,
    /// Meaning, for people.
    pub meaning: &'static str,
    /// Moment from which a changed value is in force.
    pub in_force: InForce,
    /// Danger of a value, for people.
    pub danger: Option<&'static str>,
    /// Whether the key may be written several times.
    pub repeatable: bool,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) clear: fn(&mut Config),
}

/// Moment from which a value that was changed in the file is in force.
#[derive(Copy, Clone)]
pub enum InForce {
    /// SIGHUP.
    AtOnce(Field),
    /// The next start, or an upgrade.
    AtNextStart(Field),
}

/// The part of a [`Config`] that a key sets.
#[derive(Copy, Clone)]
pub struct Field {
    pub(super) is_same: fn(&Config, &Config) -> bool,
    pub(super) copy: fn(&Config, &mut Config),
}

impl Key {
    /// Whether SIGHUP puts a new value in force.
    pub fn is_at_once(&self) -> bool {
        matches!(self.in_force, InForce::AtOnce(_))
    }

    /// [`Self::is_at_once`] in words.
    pub fn when(&self) -> &'static str {
        if self.is_at_once() { "at once" } else { "at the next start" }
    }

    /// Whether both configurations have the same value of this key.
    pub fn is_same(&self, one: &Config, other: &Config) -> bool {
        (self.field().is_same)(one, other)
    }

    /// Copies the value of this key from one configuration to another.
    pub(super) fn copy(&self, from: &Config, to: &mut Config) {
        (self.field().copy)(from, to);
    }

    fn field(&self) -> Field {
        match self.in_force {
            InForce::AtOnce(field) | InForce::AtNextStart(field) => field,
        }
    }
}

pub(super) const fn key(
    name: &'static str,
    default: &'static str,
    takes: &'static str,
    meaning: &'static str,
    in_force: InForce,
    set: fn(&mut Config, &str) -> Result<(), String>,
) -> Key {
    let clear = |_: &mut Config| {};
    Key { name, default, takes, meaning, in_force, danger: None, repeatable: false, set, clear }
}

pub(super) const fn repeatable(key: Key, clear: fn(&mut Config)) -> Key {
    Key { repeatable: true, clear, ..key }
}

pub(super) const fn beware(danger: &'static str, key: Key) -> Key {
    Key { danger: Some(danger), ..key }
}

pub(super) const DURATION: &str = "a duration (ms, s, m, h)";

macro_rules! field {
    ($($field:ident).+) => {
        Field {
            is_same: |one, other| one.$($field).+ == other.$($field).+,
            copy: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        }
    };
}

macro_rules! at_once {
    ($($field:ident).+) => {
        InForce::AtOnce(field!($($field).+))
    };
}

macro_rules! next_start {
    ($($field:ident).+) => {
        InForce::AtNextStart(field!($($field).+))
    };
}

pub(super) use {at_once, field, next_start};

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("expected a path".to_owned());
    }
    Ok(PathBuf::from(text))
}
