//! Applies the changes of the journal to the content of a state file, and decides what damage
//! means.
//!
//! A machine that stops in the middle of a write leaves a file with a damaged end. Everything from
//! the first damage on is dropped, *if* it was never acknowledged. Each line says which lines were
//! on disk when it was written, so a readable line behind the damage shows whether the damaged
//! lines were acknowledged. If such a line relies on damaged lines, or if the file is known to have
//! been complete, the damage is to acknowledged changes: that is an error, and nothing may be
//! overwritten. Damage to changes that the state file has anyway does no harm.
//!
//! A whole line is checked before any of it is used, but a line is never held as a tree.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::journal::Line;
use super::{Loaded, Membership, Rejected, StatsVisitor, Totals};
use crate::table::{self, Names, Rule, Snapshot, host};

#[cfg(test)]
mod tests;

/// One of the two files that a journal may consist of.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum JournalFile {
    /// The file that is being folded into the state file, or is left over from that. It was
    /// completely on disk before the other file was begun.
    Folding,
    /// The journal that changes are appended to.
    Current,
}

/// A line of the journal.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct LineNumber {
    /// The file.
    pub file: JournalFile,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Why a journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The state file can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// An acknowledged change is damaged or missing.
    #[error("{what}, and it was acknowledged")]
    Damaged {
        /// Place of the damage.
        place: LineNumber,
        /// Sentence that says what is wrong.
        what: String,
    },
    /// The line is undamaged, but this version does not understand it.
    #[error("its checksum is right, but it means nothing to this version: {what}")]
    Strange {
        /// Place of the line.
        place: LineNumber,
        /// Sentence that says what is wrong.
        what: String,
    },
}

/// The content of state file and journal together.
#[derive(Debug)]
pub struct Replayed {
    /// The content as one state file would hold it.
    pub loaded: Loaded,
    /// The bytes of [`JournalFile::Current`] that are in order. What follows, if anything, must be
    /// cut off before a line is added.
    pub bytes_kept: u64,
    /// Length of the part of these bytes that some line says is on disk. The last write is only
    /// known to be in memory.
    pub bytes_sure: u64,
    /// The first line that was dropped because it had never been acknowledged, and why.
    pub dropped: Option<(LineNumber, String)>,
    /// A damaged line that does no harm: the state file has its change already.
    pub superseded: Option<(LineNumber, String)>,
}

/// Replay of the files in order: the state file, then [`JournalFile::Folding`] if there is one,
/// then [`JournalFile::Current`].
#[derive(Debug)]
pub struct Replay {
    snapshot: Snapshot,
    /// Changes on top of the state file: the last one for each name.
    changes: HashMap<String, Option<Rule>>,
    rejected: Vec<Rejected>,
    /// Rules of the journal that are not valid; a later change of the same name removes one from
    /// here.
    rejected_later: HashMap<String, Rejected>,
    stats: HashMap<String, Totals>,
    fleet: Option<Membership>,
    /// Number of the last change that the state file has.
    covered: u64,
    /// Number that the next line must have.
    next: u64,
    /// Line from which on nothing can be used. Later lines show whether it was acknowledged.
    damage: Option<(LineNumber, String)>,
    superseded: Option<(LineNumber, String)>,
    bytes_kept: u64,
    bytes_sure: u64,
}

impl Replay {
    /// Starts from the content of the state file.
    pub fn new(loaded: Loaded) -> Replay {
        Replay {
            snapshot: loaded.snapshot,
            changes: HashMap::new(),
            rejected: loaded.rejected,
            rejected_later: HashMap::new(),
            stats: loaded.stats.into_iter().collect(),
            fleet: loaded.fleet,
            covered: loaded.sequence,
            next: loaded.sequence + 1,
            damage: None,
            superseded: None,
            bytes_kept: 0,
            bytes_sure: 0,
        }
    }

    /// Reads a file of the journal to its end.
    pub fn read(
        &mut self,
        file: JournalFile,
        mut bytes: impl BufRead,
        names: &mut Names,
    ) -> Result<(), ReplayError> {
        let mut piece = Vec::new();
        let mut offset = 0;
        let mut before = None;
        let mut batch = None;
        for line in 1.. {
            piece.clear();
            offset += bytes.read_until(b'\n', &mut piece)? as u64;
            if piece.is_empty() {
                break;
            }
            let place = LineNumber { file, line };
            let readable = match Line::read(&piece) {
                Ok(line) => Some(line),
                Err(what) => {
                    // The line before has a lower number than the last change in the state file, so
                    // the state file has the change of this line, too.
                    let is_covered = before.is_some_and(|before| before < self.covered);
                    self.damaged(place, what, is_covered);
                    Line::read_end(&piece)
                }
            };
            let Some(line) = readable else { continue };
            before = Some(line.n);
            let is_kept = self.line(place, line, names)?;
            if is_kept && file == JournalFile::Current {
                self.bytes_kept = offset;
                // All lines of a batch have the same `synced`, which says that all lines before the
                // batch are on disk.
                if batch.replace(line.synced) != Some(line.synced) {
                    self.bytes_sure = offset - piece.len() as u64;
                }
            }
        }
        Ok(())
    }

    fn damaged(&mut self, place: LineNumber, what: &str, is_covered: bool) {
        if is_covered {
            self.superseded.get_or_insert_with(|| (place, what.to_owned()));
        } else {
            self.damage.get_or_insert_with(|| (place, what.to_owned()));
        }
    }

    /// Uses a line. Returns whether it belongs to the part of the journal that is kept.
    fn line(
        &mut self,
        place: LineNumber,
        line: Line,
        names: &mut Names,
    ) -> Result<bool, ReplayError> {
        let Line { n, synced, json } = line;
        if n <= self.covered || n == self.next {
            // The numbers have no gap, so nothing that counts was lost before this line.
            if let Some(harmless) = self.damage.take() {
                self.superseded.get_or_insert(harmless);
            }
            if n == self.next {
                self.apply(json, names)
                    .map_err(|error| ReplayError::Strange { place, what: error.to_string() })?;
                self.next += 1;
            }
            return Ok(true);
        }
        let next = self.next;
        let (place, what) = self
            .damage
            .get_or_insert_with(|| (place, format!("it has the number {n} where {next} is due")));
        if next <= synced {
            return Err(ReplayError::Damaged { place: *place, what: what.clone() });
        }
        Ok(false)
    }

    fn apply(&mut self, json: &[u8], names: &mut Names) -> serde_json::Result<()> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        reader.deserialize_map(LineVisitor(self, names))?;
        reader.end()
    }

    fn change(&mut self, name: &str, value: Value, names: &mut Names) {
        let error = match host::rule_name_ref(name) {
            Ok(canonical) => {
                let canonical = canonical.into_owned();
                self.rejected_later.remove(&canonical);
                let rule = match value {
                    Value::Null => Ok(None),
                    ref rule => Rule::from_json(name, rule, names).map(Some),
                };
                match rule {
                    Ok(rule) => {
                        if rule.is_none() {
                            self.stats.remove(&canonical);
                        }
                        self.changes.insert(canonical, rule);
                        return;
                    }
                    Err(error) => {
                        // The new rule is not valid, and the old one is not what the operator wants
                        // any more.
                        self.changes.insert(canonical, None);
                        error.to_string()
                    }
                }
            }
            Err(error) => format!("{name}:hostname_invalid: {error}"),
        };
        let rejected = Rejected { host: name.to_owned(), rule: value, error };
        self.rejected_later.insert(name.to_owned(), rejected);
    }

    /// Ends the replay once all files were read.
    pub fn finish(self) -> Result<Replayed, ReplayError> {
        if let Some((place, what)) =
            self.damage.clone().filter(|(place, _)| place.file == JournalFile::Folding)
        {
            return Err(ReplayError::Damaged { place, what });
        }
        let (snapshot, refused) = table::replay(&self.snapshot, self.changes.into_iter().collect());
        let mut rejected = self.rejected;
        rejected.extend(self.rejected_later.into_values());
        rejected.extend(refused.into_iter().map(Rejected::from));
        let mut stats: Vec<_> = self.stats.into_iter().collect();
        stats.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Replayed {
            loaded: Loaded {
                snapshot,
                rejected,
                stats,
                sequence: self.next - 1,
                fleet: self.fleet,
            },
            bytes_kept: self.bytes_kept,
            bytes_sure: self.bytes_sure,
            dropped: self.damage,
            superseded: self.superseded,
        })
    }
}

/// Visitor of an undamaged line. Unknown keys are skipped, but the line must have a key that this
/// version knows.
struct LineVisitor<'r, 'n>(&'r mut Replay, &'n mut Names);

impl<'de> Visitor<'de> for LineVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line of a journal")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut line: M) -> Result<(), M::Error> {
        let LineVisitor(replay, names) = self;
        let mut is_known = false;
        while let Some(key) = line.next_key::<String>()? {
            match key.as_str() {
                "set" => line.next_value_seed(ChangesVisitor(replay, names))?,
                "replace" => {
                    replay.snapshot = Snapshot::default();
                    replay.changes.clear();
                    replay.rejected_later.clear();
                    line.next_value_seed(ChangesVisitor(replay, names))?;
                    let Replay { stats, changes, .. } = &mut *replay;
                    stats.retain(|name, _| changes.contains_key(name) || name == UNKNOWN);
                }
                "stats" => replay.stats.extend(line.next_value_seed(StatsVisitor)?),
                "fleet" => {
                    replay.fleet = Membership::read(&line.next_value()?);
                    continue;
                }
                _ => {
                    line.next_value::<IgnoredAny>()?;
                    continue;
                }
            }
            if std::mem::replace(&mut is_known, true) {
                return Err(M::Error::custom("it says more than one thing"));
            }
        }
        match is_known {
            true => Ok(()),
            false => Err(M::Error::custom("expected `set`, `replace` or `stats`")),
        }
    }
}

/// Requests without a rule are counted under this name.
const UNKNOWN: &str = "unknown";

struct ChangesVisitor<'r, 'n>(&'r mut Replay, &'n mut Names);

impl<'de> DeserializeSeed<'de> for ChangesVisitor<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ChangesVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of rules by host name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut changes: M) -> Result<(), M::Error> {
        while let Some((name, value)) = changes.next_entry::<String, Value>()? {
            self.0.change(&name, value, self.1);
        }
        Ok(())
    }
}
