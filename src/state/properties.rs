//! Properties that hold for any input. Each takes bytes, so that the fuzzer's targets are one
//! line each; `cargo test` runs the same ones on random bytes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{JournalFile, Loaded, Record, Replay, ReplayError, Replayed, Totals, journal, parse};
use crate::table::properties::Choices;
use crate::table::{Names, Rule, Snapshot, edit};

/// Checks that a file that can be read is the same after it is written and read again.
pub fn state(bytes: &[u8]) {
    let mut names = Names::default();
    match parse(bytes, &mut names) {
        Ok(loaded) => {
            let written = written(&loaded);
            let again = parse(&written, &mut names).expect("our own");
            assert_eq!(again.rejected, [], "what was taken is in order");
            assert_eq!(Content::of(&again), Content::of(&loaded));
            assert_eq!(self::written(&again), written);
        }
        Err(error) => assert!(0 < error.line && !error.problem.is_empty()),
    }
}

fn written(loaded: &Loaded) -> Vec<u8> {
    let mut written = Vec::new();
    let stats: BTreeMap<_, _> = loaded.stats.iter().cloned().collect();
    super::write(&mut written, &loaded.snapshot, stats, loaded.sequence).expect("a Vec takes all");
    written
}

/// Checks three kinds of journals: any bytes, lines of any content with a right checksum, and valid
/// lines that were damaged.
pub fn journal(bytes: &[u8]) {
    any_bytes(bytes);
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines: Vec<_> =
        lines.flat_map(|line| [line, &journal::end_of(line), b"\n"].concat()).collect();
    any_bytes(&lines);
    damaged(bytes);
}

/// Checks that the part that is kept of any bytes is a valid journal with the same content.
fn any_bytes(bytes: &[u8]) {
    let Ok(replayed) = replay(Loaded::default(), bytes) else { return };
    let kept = &bytes[..replayed.bytes_kept as usize];
    let again = replay(Loaded::default(), kept).expect("in order");
    assert_eq!(again.dropped, None);
    assert_eq!(again.bytes_kept, replayed.bytes_kept);
    assert_eq!(Content::of(&again.loaded), Content::of(&replayed.loaded));
}

fn replay(loaded: Loaded, bytes: &[u8]) -> Result<Replayed, ReplayError> {
    let mut replay = Replay::new(loaded);
    replay.read(JournalFile::Current, bytes, &mut Names::default())?;
    replay.finish()
}

/// Checks that a prefix of a journal is a prefix of its changes. A byte that differs is found,
/// unless it makes no difference. It is taken for a torn end only if no line shows that the damaged
/// line was acknowledged.
fn damaged(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let (Some(kind), Some(far), Some(near), Some(covered)) =
        (choices.below(3), choices.below(255), choices.below(255), choices.below(255))
    else {
        return;
    };
    let good = Journal::make(&mut choices);
    let covered = usize::from(covered) % good.contents.len();
    let offset = (usize::from(far) * 256 + usize::from(near)) % (good.bytes.len() + 1);
    let complete = good.ends.iter().filter(|end| **end <= offset).count();
    let mut bytes = good.bytes.clone();
    match kind {
        0 => {
            bytes.truncate(offset);
            let replayed = replay(good.loaded(covered), &bytes).expect("a torn end is no damage");
            assert_eq!(Content::of(&replayed.loaded), good.contents[complete.max(covered)]);
        }
        _ if offset == bytes.len() => {}
        kind => {
            bytes[offset] = if kind == 1 { near } else { bytes[offset] ^ (1 << (near % 8)) };
            let number = complete as u64 + 1;
            let is_proved = good.synced.iter().any(|synced| number <= *synced);
            match replay(good.loaded(covered), &bytes) {
                Ok(replayed) => {
                    let content = Content::of(&replayed.loaded);
                    let is_whole = content == good.contents[good.synced.len()];
                    assert!(
                        is_whole || !is_proved && content == good.contents[complete.max(covered)],
                        "{content:?}"
                    );
                    assert!(is_whole || replayed.dropped.is_some(), "dropped in silence");
                }
                Err(error) => assert!(is_proved && covered <= complete, "{error}"),
            }
        }
    }
}

/// Rules, counters and sequence, to compare.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Content {
    rules: BTreeMap<String, Value>,
    stats: BTreeMap<String, Totals>,
    sequence: u64,
}

impl Content {
    pub(super) fn of(loaded: &Loaded) -> Content {
        let rules = loaded.snapshot.iter().map(|(name, rule)| (name.to_owned(), rule.to_json()));
        Content {
            rules: rules.collect(),
            stats: loaded.stats.iter().cloned().collect(),
            sequence: loaded.sequence,
        }
    }
}

/// Commits that were all acknowledged; some of them have several lines.
#[derive(Default)]
struct Journal {
    bytes: Vec<u8>,
    /// The offset at which each line ends.
    ends: Vec<usize>,
    /// The number of bytes that each line knows to be on disk.
    synced: Vec<u64>,
    /// The content after no line, after one line, and so on.
    contents: Vec<Content>,
    tables: Vec<Snapshot>,
}

impl Journal {
    fn make(choices: &mut Choices<'_>) -> Journal {
        let mut journal = Journal::default();
        let mut content = Content::default();
        let mut table = Snapshot::default();
        journal.contents.push(content.clone());
        journal.tables.push(table.clone());
        while let Some(lines) = choices.below(4) {
            let synced = content.sequence;
            for _ in 0..lines {
                let Some(kind) = choices.below(8) else { return journal };
                content.sequence += 1;
                let n = content.sequence;
                let Some(()) = journal.line(choices, kind, &mut content, &mut table, synced) else {
                    return journal;
                };
                debug_assert_eq!(n, content.sequence);
            }
        }
        journal
    }

    fn line(
        &mut self,
        choices: &mut Choices<'_>,
        kind: u8,
        content: &mut Content,
        table: &mut Snapshot,
        synced: u64,
    ) -> Option<()> {
        let n = content.sequence;
        if kind == 0 {
            let [bytes_sent, limited] = [choices.below(255)?, choices.below(3)?].map(u64::from);
            let counted = Totals { bytes_sent, limited, ..Totals::default() };
            let stats = [(choices.name()?, counted)];
            journal::encode(&mut self.bytes, n, synced, &Record::Stats(&stats));
            content.stats.extend(stats);
        } else {
            let count = choices.below(4)?;
            let changes: Option<Vec<_>> = (0..count).map(|_| choices.change()).collect();
            let is_whole = kind == 1;
            let mut changes = changes?;
            if is_whole {
                changes.retain(|(_, rule)| rule.is_some());
            }
            let base = if is_whole { Snapshot::default() } else { table.clone() };
            // As with the management API, an edit that is not valid never reaches the journal.
            match edit(&base, changes.clone()) {
                Ok(new) => *table = new,
                Err(_) if is_whole => return self.line(choices, 0, content, table, synced),
                Err(_) => changes.clear(),
            }
            let record = match is_whole {
                true => Record::Replace(&changes),
                false => Record::Set(&changes),
            };
            journal::encode(&mut self.bytes, n, synced, &record);
            for (name, _) in changes.iter().filter(|(_, rule)| rule.is_none() && !is_whole) {
                content.stats.remove(name);
            }
            let rules =
                table.iter().map(|(name, rule): (&str, &Rule)| (name.to_owned(), rule.to_json()));
            content.rules = rules.collect();
            if is_whole {
                content.stats.retain(|name, _| changes.iter().any(|(set, _)| set == name));
            }
        }
        self.ends.push(self.bytes.len());
        self.synced.push(synced);
        self.contents.push(content.clone());
        self.tables.push(table.clone());
        Some(())
    }

    /// A state file that was written after this many lines.
    fn loaded(&self, lines: usize) -> Loaded {
        let stats = self.contents[lines].stats.clone().into_iter().collect();
        let snapshot = self.tables[lines].clone();
        Loaded { snapshot, rejected: Vec::new(), stats, sequence: lines as u64, fleet: None }
    }
}
