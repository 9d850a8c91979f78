//! The content of the files on disk, as a value. The state file is
//! `{"hosts": {name: rule}, "stats": {name: counters}, "sequence": n}`. The journal ([`journal`])
//! has the changes since then, and [`Replay`] applies them. The changes are numbered; `sequence` is
//! the number of the last change that is in the state file.
//!
//! Files of the original and of its fork load as they are. A file that is not JSON, or not of that
//! shape, is refused with line and column, and the caller must not overwrite it. A rule that is not
//! valid is handed back with the reason and does not stop the others. Rules are read one by one and
//! never as one tree, so that a million of them load in about a second.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

pub mod journal;
mod replay;
mod write;

mod membership;
#[cfg(any(test, fuzzing))]
pub mod properties;
#[cfg(test)]
mod tests;

use crate::limits::SEQUENCE_MAX;
use crate::table::{Loader, Names, Refused, Rule, Snapshot};
pub use journal::Record;
pub use membership::Membership;
pub use replay::{JournalFile, LineNumber, Replay, ReplayError, Replayed};
pub use write::{write, write_with};

/// The content of a state file.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every rule that could be taken.
    pub snapshot: Snapshot,
    /// Every rule that could not be taken.
    pub rejected: Vec<Rejected>,
    /// Counters to continue from, by the name of the rule or `unknown`.
    pub stats: Vec<(String, Totals)>,
    /// Number of the last change in the file; 0 in a file of the original.
    pub sequence: u64,
    /// The fleet that the table belongs to, if any.
    pub fleet: Option<Membership>,
}

/// A rule that could not be taken.
#[derive(Clone, PartialEq, Debug)]
pub struct Rejected {
    /// The name of the rule, as the file has it.
    pub host: String,
    /// The rule as the file has it; as this version writes it, if only the name or the place was
    /// wrong.
    pub rule: Value,
    /// Why: `host:code: sentence`.
    pub error: String,
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Rejected {
        Rejected { host: refused.host, rule: refused.rule.to_json(), error: refused.error }
    }
}

/// Sums of one host that outlive the process. (Open requests do not.)
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Requests that ended.
    pub completed_requests: u64,
    /// Bytes sent to clients.
    pub bytes_sent: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Requests that ended with a 5xx, or by a fault that is not their client's.
    pub errors: u64,
    /// Requests that a limit turned away.
    pub limited: u64,
}

impl Totals {
    /// Writes the form that `TotalsVisitor` reads. Most hosts have neither errors nor limited
    /// requests, so these are left out if they are 0.
    fn to_json(self) -> Value {
        let mut told = json!({
            "completed_requests": self.completed_requests,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
        });
        let rare = [("errors", self.errors), ("limited", self.limited)];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count != 0) {
            told[name] = json!(count);
        }
        told
    }

    /// The sums since an earlier moment.
    #[must_use]
    pub fn since(self, earlier: Totals) -> Totals {
        let (now, before) = (<[u64; 5]>::from(self), <[u64; 5]>::from(earlier));
        Totals::from(std::array::from_fn(|at| now[at].wrapping_sub(before[at])))
    }
}

impl From<[u64; 5]> for Totals {
    fn from(counts: [u64; 5]) -> Totals {
        let [completed_requests, bytes_sent, bytes_received, errors, limited] = counts;
        Totals { completed_requests, bytes_sent, bytes_received, errors, limited }
    }
}

impl From<Totals> for [u64; 5] {
    fn from(totals: Totals) -> [u64; 5] {
        let Totals { completed_requests, bytes_sent, bytes_received, errors, limited } = totals;
        [completed_requests, bytes_sent, bytes_received, errors, limited]
    }
}

/// The file is damaged, or is no state file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateError {
    /// Line of the problem, from 1.
    pub line: usize,
    /// Column in that line, from 1; 0 before its first character.
    pub column: usize,
    /// Sentence that says what is wrong there.
    pub problem: String,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.problem)
    }
}

impl std::error::Error for StateError {}

/// Reads a state file. An empty file is refused: a full disk leaves one, while a table without
/// rules is `{"hosts": {}}`.
pub fn parse(bytes: &[u8], names: &mut Names) -> Result<Loaded, StateError> {
    if bytes.len() <= 1 && bytes.trim_ascii().is_empty() {
        let problem = "the file is empty, which is damage and no table without rules ({\"hosts\": {}}): restore \
             it from a backup, or remove it to start with no rules";
        return Err(StateError { line: 1, column: 0, problem: problem.to_owned() });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut reading = Reading { names, loader: Loader::default(), rejected: Vec::new() };
    let (stats, sequence, fleet) = reader
        .deserialize_map(FileVisitor(&mut reading))
        .and_then(|rest| reader.end().map(|()| rest))
        .map_err(|error| StateError {
            line: error.line(),
            column: error.column(),
            problem: without_place(&error),
        })?;
    let Reading { loader, mut rejected, .. } = reading;
    let (snapshot, refused) = loader.finish();
    rejected.extend(refused.into_iter().map(Rejected::from));
    Ok(Loaded { snapshot, rejected, stats, sequence, fleet })
}

struct Reading<'n> {
    names: &'n mut Names,
    loader: Loader,
    rejected: Vec<Rejected>,
}

impl Reading<'_> {
    fn rule(&mut self, name: &str, value: Value) {
        let error = match Rule::from_json(name, &value, self.names) {
            Ok(rule) => match self.loader.add(name, rule) {
                Ok(()) => return,
                Err(error) => format!("{name}:hostname_invalid: {error}"),
            },
            Err(error) => error.to_string(),
        };
        self.rejected.push(Rejected { host: name.to_owned(), rule: value, error });
    }
}

/// Takes the line and column off the end of an error of serde_json.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The whole file. Unknown keys are skipped, because a newer version may have written them.
struct FileVisitor<'r, 'n>(&'r mut Reading<'n>);

impl<'de> Visitor<'de> for FileVisitor<'_, '_> {
    /// The counters, the sequence and the fleet.
    type Value = (Vec<(String, Totals)>, u64, Option<Membership>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"hosts\" and \"stats\"")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut file: M) -> Result<Self::Value, M::Error> {
        let mut hosts = None;
        let mut stats = None;
        let mut sequence = None;
        let mut fleet = None;
        while let Some(key) = file.next_key::<String>()? {
            match key.as_str() {
                // If a key comes twice, it can't be known which one is meant, and the other one
                // would be lost.
                "hosts" if hosts.is_some() => return Err(M::Error::duplicate_field("hosts")),
                "stats" if stats.is_some() => return Err(M::Error::duplicate_field("stats")),
                "sequence" if sequence.is_some() => {
                    return Err(M::Error::duplicate_field("sequence"));
                }
                "hosts" => hosts = Some(file.next_value_seed(HostsVisitor(&mut *self.0))?),
                "stats" => stats = Some(file.next_value_seed(StatsVisitor)?),
                "sequence" => sequence = Some(file.next_value_seed(SequenceVisitor)?),
                "fleet" => fleet = Membership::read(&file.next_value()?),
                _ => _ = file.next_value::<IgnoredAny>()?,
            }
        }
        match hosts {
            Some(()) => Ok((stats.unwrap_or_default(), sequence.unwrap_or_default(), fleet)),
            None => Err(M::Error::missing_field("hosts")),
        }
    }
}

struct HostsVisitor<'r, 'n>(&'r mut Reading<'n>);

impl<'de> DeserializeSeed<'de> for HostsVisitor<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HostsVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of rules by host name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut hosts: M) -> Result<(), M::Error> {
        while let Some((name, value)) = hosts.next_entry::<String, Value>()? {
            self.0.rule(&name, value);
        }
        Ok(())
    }
}

struct SequenceVisitor;

impl<'de> DeserializeSeed<'de> for SequenceVisitor {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for SequenceVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the number of the last change, at most {SEQUENCE_MAX}")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u64, E> {
        // A wrong number would lose changes of the journal, or apply some a second time.
        if SEQUENCE_MAX < number {
            return Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self));
        }
        Ok(number)
    }
}

struct StatsVisitor;

impl<'de> DeserializeSeed<'de> for StatsVisitor {
    type Value = Vec<(String, Totals)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StatsVisitor {
    type Value = Vec<(String, Totals)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of counters by host name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut stats: M) -> Result<Self::Value, M::Error> {
        let mut all = Vec::new();
        while let Some(name) = stats.next_key::<String>()? {
            all.push((name, stats.next_value_seed(TotalsVisitor)?));
        }
        Ok(all)
    }
}

struct TotalsVisitor;

impl<'de> DeserializeSeed<'de> for TotalsVisitor {
    type Value = Totals;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Totals, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TotalsVisitor {
    type Value = Totals;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of counters")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut given: M) -> Result<Totals, M::Error> {
        let mut counters = Totals::default();
        while let Some((name, value)) = given.next_entry::<String, Value>()? {
            // A counter that is not a number starts at 0: it is no reason to refuse to start.
            let count = value.as_u64().unwrap_or(0);
            match name.as_str() {
                "completed_requests" => counters.completed_requests = count,
                "bytes_sent" => counters.bytes_sent = count,
                "bytes_received" => counters.bytes_received = count,
                "errors" => counters.errors = count,
                "limited" => counters.limited = count,
                _ => {}
            }
        }
        Ok(counters)
    }
}
