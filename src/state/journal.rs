//! Lines of the journal: one change each, numbered, with a checksum.
//!
//! A line is `{"n":12,"synced":11,"set":{name: rule or null},"crc32":"89abcdef"}`. In place of
//! `set` it may have `replace` (the whole table) or `stats`. Beside an empty `stats`, `fleet` says
//! how much of a fleet's log is in the table. The checksum covers all bytes of the line before
//! `,"crc32"`. `n` grows by one with each line. `synced` is the number of the last line that was
//! known to be on disk when this one was written; lines that were written together have the same.
//! With it, a reader can distinguish a line that was never acknowledged from a line that a later
//! line relies on.
//!
//! The bytes of a line alone decide whether it is valid, before its content is looked at.

use std::io::Write as _;

use serde_json::Value;

use super::{Membership, Totals};
use crate::limits::SEQUENCE_MAX;
use crate::table::Rule;

/// A change, to be written.
#[derive(Copy, Clone, Debug)]
pub enum Record<'a> {
    /// Sets these rules, by canonical name; `None` deletes.
    Set(&'a [(String, Option<Rule>)]),
    /// Replaces the table by these rules.
    Replace(&'a [(String, Option<Rule>)]),
    /// Replaces the counters of these hosts.
    Stats(&'a [(String, Totals)]),
    /// Records up to which entry of the fleet's log the table is; `None`: the table belongs to no
    /// fleet.
    Fleet(Option<&'a Membership>),
}

/// Adds the line of a change to `out`.
pub fn encode(out: &mut Vec<u8>, n: u64, synced: u64, record: &Record<'_>) {
    debug_assert!(synced < n && n <= SEQUENCE_MAX);
    let start = out.len();
    let kind = match record {
        Record::Set(_) => "set",
        Record::Replace(_) => "replace",
        Record::Stats(_) | Record::Fleet(_) => "stats",
    };
    // Writing to a Vec does not fail, here and below.
    let _ = write!(out, "{START}{n}{SYNCED}{synced},\"{kind}\":{{");
    match record {
        Record::Set(rules) => {
            let json = |rule: &Option<Rule>| rule.as_ref().map_or(Value::Null, Rule::to_json);
            members(out, rules.iter().map(|(name, rule)| (name, json(rule))));
        }
        Record::Replace(rules) => {
            members(
                out,
                rules.iter().filter_map(|(name, rule)| Some((name, rule.as_ref()?.to_json()))),
            );
        }
        Record::Stats(stats) => {
            members(out, stats.iter().map(|(name, counters)| (name, counters.to_json())));
        }
        Record::Fleet(_) => {}
    }
    out.push(b'}');
    if let Record::Fleet(membership) = record {
        let json = membership.map_or(Value::Null, Membership::to_json);
        let _ = write!(out, ",\"fleet\":{json}");
    }
    let end = end_of(&out[start..]);
    out.extend_from_slice(&end);
    out.push(b'\n');
}

fn members<'a>(out: &mut Vec<u8>, members: impl Iterator<Item = (&'a String, Value)>) {
    for (index, (name, value)) in members.enumerate() {
        if index != 0 {
            out.push(b',');
        }
        let _ = serde_json::to_writer(&mut *out, name);
        out.push(b':');
        let _ = serde_json::to_writer(&mut *out, &value);
    }
}

const START: &str = "{\"n\":";
const SYNCED: &str = ",\"synced\":";
const END_BYTES: usize = r#","crc32":"89abcdef"}"#.len();

/// The checksum and line end that make these bytes a line.
pub(super) fn end_of(bytes: &[u8]) -> [u8; END_BYTES] {
    let mut end = *br#","crc32":"........"}"#;
    let _ = write!(&mut end[END_BYTES - 10..END_BYTES - 2], "{:08x}", crc32fast::hash(bytes));
    end
}

/// A line whose checksum is right.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Line<'b> {
    pub n: u64,
    pub synced: u64,
    /// The whole line, without the line end.
    pub json: &'b [u8],
}

impl<'b> Line<'b> {
    /// Reads a line from its bytes, which include the line end; the error says what is wrong with
    /// them.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Line<'b>, &'static str> {
        let Some(json) = bytes.strip_suffix(b"\n") else {
            return Err("it is cut off");
        };
        let Some((content, end)) = json.split_last_chunk::<END_BYTES>() else {
            return Err("it is no line of a journal");
        };
        let Some((n, synced)) = numbers(content) else {
            return Err("it is no line of a journal");
        };
        if *end != end_of(content) {
            return Err("its checksum is wrong");
        }
        if n <= synced || SEQUENCE_MAX < n {
            return Err("its numbers make no sense");
        }
        Ok(Line { n, synced, json })
    }

    /// Finds a valid line at the end of damaged bytes: the line end before it may be what was
    /// damaged.
    pub(super) fn read_end(bytes: &'b [u8]) -> Option<Line<'b>> {
        let starts = memchr::memmem::rfind_iter(bytes, START.as_bytes());
        // `{"n":` may also be a rule for the host `n`; no number follows there.
        let start = starts.into_iter().find(|start| numbers(&bytes[*start..]).is_some())?;
        Line::read(&bytes[start..]).ok()
    }
}

/// `n` and `synced` at the start of a line.
fn numbers(line: &[u8]) -> Option<(u64, u64)> {
    let (n, rest) = number(line.strip_prefix(START.as_bytes())?)?;
    let (synced, rest) = number(rest.strip_prefix(SYNCED.as_bytes())?)?;
    rest.starts_with(b",").then_some((n, synced))
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}
