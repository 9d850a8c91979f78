//! Writes a state file: sorted by name, so that two files can be compared, and with one rule a
//! line, so that people and their tools can read it.

use std::io::{self, Write};

use super::{Membership, Totals};
use crate::table::Snapshot;

/// Bytes that are handed on at a time. Writing each rule by itself would cost a call for each.
const CHUNK_BYTES: usize = 64 * 1024;

/// Writes the table, its counters and the number of the last change in it. [`parse`](super::parse)
/// reads the result. The caller flushes.
pub fn write(
    out: &mut impl Write,
    table: &Snapshot,
    stats: impl IntoIterator<Item = (String, Totals)>,
    sequence: u64,
) -> io::Result<()> {
    write_with(out, table, stats, sequence, None)
}

/// Writes the same as [`write`], and the fleet that the table belongs to.
pub fn write_with(
    out: &mut impl Write,
    table: &Snapshot,
    stats: impl IntoIterator<Item = (String, Totals)>,
    sequence: u64,
    fleet: Option<&Membership>,
) -> io::Result<()> {
    let mut rules: Vec<_> = table.iter().collect();
    rules.sort_unstable_by_key(|(name, _)| *name);
    let mut stats: Vec<_> = stats.into_iter().collect();
    stats.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + 4096);
    chunk.extend_from_slice(b"{\"hosts\": {");
    for (index, (name, rule)) in rules.into_iter().enumerate() {
        member(&mut chunk, index, name)?;
        serde_json::to_writer(&mut chunk, &rule.to_json())?;
        hand_on(out, &mut chunk, CHUNK_BYTES)?;
    }
    chunk.extend_from_slice(b"\n}, \"stats\": {");
    for (index, (name, counters)) in stats.into_iter().enumerate() {
        member(&mut chunk, index, &name)?;
        serde_json::to_writer(&mut chunk, &counters.to_json())?;
        hand_on(out, &mut chunk, CHUNK_BYTES)?;
    }
    write!(chunk, "\n}}, \"sequence\": {sequence}")?;
    if let Some(fleet) = fleet {
        write!(chunk, ", \"fleet\": {}", fleet.to_json())?;
    }
    chunk.extend_from_slice(b"}\n");
    hand_on(out, &mut chunk, 0)
}

fn member(chunk: &mut Vec<u8>, index: usize, name: &str) -> io::Result<()> {
    chunk.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
    serde_json::to_writer(&mut *chunk, name)?;
    chunk.extend_from_slice(b": ");
    Ok(())
}

fn hand_on(out: &mut impl Write, chunk: &mut Vec<u8>, above: usize) -> io::Result<()> {
    if above <= chunk.len() {
        out.write_all(chunk)?;
        chunk.clear();
    }
    Ok(())
}
