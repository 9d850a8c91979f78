//! The folded table as a value, what is missing between two states of the log, and when to fold.
//! Pure.

use serde_json::{Value, json};

use super::log::{Chunks, Rules};
use crate::limits::{FLEET_FOLD_BYTES_MIN, FLEET_LOG_KEPT, FLEET_LOG_KEPT_BYTES, SEQUENCE_MAX};
use crate::state;
use crate::table::{Names, Snapshot};

/// Place of the folded table, and the sequence of the last entry that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Base {
    pub(in crate::control) sequence: u64,
    /// Pieces of the table; their nonce is the name of the set.
    pub(in crate::control) chunks: Chunks,
}

impl Base {
    pub(in crate::control) fn to_value(&self) -> Vec<u8> {
        let mut json = self.chunks.to_json();
        json["sequence"] = json!(self.sequence);
        json.to_string().into_bytes()
    }

    pub(in crate::control) fn read(value: &[u8]) -> Result<Base, String> {
        let json: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let sequence = json["sequence"].as_u64().filter(|sequence| *sequence <= SEQUENCE_MAX);
        let sequence = sequence.ok_or("`sequence` is no number")?;
        Ok(Base { sequence, chunks: Chunks::read(&json)? })
    }
}

/// The text of a folded table: a state file without counters.
pub(in crate::control) fn base_text(table: &Snapshot) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to a Vec does not fail.
    let _ = state::write(&mut text, table, [], 0);
    text
}

/// Reads a folded table, and the names whose rules this version can't read, with the reasons.
pub(in crate::control) fn read_base(
    text: &[u8],
    names: &mut Names,
) -> Result<(Snapshot, Vec<(String, String)>), String> {
    let loaded = state::parse(text, names).map_err(|error| error.to_string())?;
    let rejected = loaded.rejected.into_iter().map(|rejected| (rejected.host, rejected.error));
    Ok((loaded.snapshot, rejected.collect()))
}

/// The changes that turn one table into another.
pub(in crate::control) fn difference(own: &Snapshot, other: &Snapshot) -> Rules {
    let gone = own.iter().filter(|(name, _)| other.get(name).is_none());
    let gone = gone.map(|(name, _)| (name.to_owned(), None));
    let new = other.iter().filter(|(name, rule)| own.get(name) != Some(rule));
    gone.chain(new.map(|(name, rule)| (name.to_owned(), Some(rule.clone())))).collect()
}

/// Part of the log that a node has to read.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum Missing {
    Nothing,
    /// Entries of the log, from this one to the head.
    Entries(u64),
    /// The folded table and what follows it, because the log no longer has all that is missing.
    Table,
}

/// Finds what a node has to read. `own`: the sequence of its table. `head`: that of the log.
/// `first`: the oldest entry that the log still has.
pub(in crate::control) fn missing(own: Option<u64>, head: u64, first: Option<u64>) -> Missing {
    match (own, first) {
        (Some(own), _) if own == head => Missing::Nothing,
        (Some(own), Some(first)) if own < head && first <= own + 1 => Missing::Entries(own + 1),
        _ => Missing::Table,
    }
}

/// Whether folding the log is worthwhile: the log takes longer to read than the table.
pub(in crate::control) fn is_fold_due(log_bytes: u64, base_bytes: u64) -> bool {
    FLEET_FOLD_BYTES_MIN.max(base_bytes) < log_bytes
}

/// The first entry to keep after a fold at `base`, given the sizes of entries, newest first.
/// Entries that the base does not have are kept in any case.
pub(in crate::control) fn first_kept(
    base: u64,
    newest_first: impl Iterator<Item = (u64, u64)>,
) -> u64 {
    let (mut first, mut count, mut bytes) = (base + 1, 0, 0);
    for (sequence, size) in newest_first {
        count += 1;
        bytes += size;
        let is_spare = FLEET_LOG_KEPT < count || FLEET_LOG_KEPT_BYTES < bytes;
        if sequence <= base && is_spare {
            break;
        }
        first = first.min(sequence);
    }
    first
}
