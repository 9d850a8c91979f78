//! Reads the state file and the journal, and reports what is wrong with them, in one line each.

use std::fmt;
use std::io::{self, BufReader};
use std::path::Path;

use super::disk::{Disk, Part};
use super::warnings;
use crate::state::{
    self, JournalFile, LineNumber, Membership, Rejected, Replay, ReplayError, Replayed, Totals,
};
use crate::table::{Names, Snapshot};

/// Content of the files.
#[derive(Debug)]
pub(in crate::control) struct StoredState {
    pub(in crate::control) snapshot: Snapshot,
    /// Rules that could not be used.
    pub(in crate::control) rejected: Vec<Rejected>,
    pub(in crate::control) stats: Vec<(String, Totals)>,
    /// The number of the last change.
    pub(in crate::control) sequence: u64,
    /// The fleet that the table belongs to, if any.
    pub(in crate::control) fleet: Option<Membership>,
    /// Warnings, one line each: rules that are not used, and what was dropped or can't be written.
    pub(in crate::control) warnings: Vec<String>,
}

impl StoredState {
    pub(super) fn new(replayed: Replayed, disk: &dyn Disk) -> StoredState {
        let Replayed { loaded, dropped, superseded, .. } = replayed;
        let mut warnings = warnings::rejected(&disk.path(Part::State), &loaded.rejected);
        if let Some((place, what)) = superseded {
            let place = shown(disk, place);
            warnings.push(format!("{place}: {what}; nothing that counts is lost"));
        }
        if let Some((place, what)) = dropped {
            let place = shown(disk, place);
            warnings.push(format!(
                "{place}: {what}; from here on it is dropped: no change in it was acknowledged"
            ));
        }
        let state::Loaded { snapshot, rejected, stats, sequence, fleet } = loaded;
        StoredState { snapshot, rejected, stats, sequence, fleet, warnings }
    }
}

/// Reads all files. A missing file counts as an empty one.
pub(super) fn load(disk: &dyn Disk, names: &mut Names) -> Result<Replayed, String> {
    let path = disk.path(Part::State);
    let loaded = match read_state(disk).map_err(|error| unreadable(disk, Part::State, &error))? {
        Some(bytes) => state::parse(&bytes, names).map_err(|error| {
            failed(&path, &format_args!("{error}; mend it or move it away: it was left as it is"))
        })?,
        None => state::Loaded::default(),
    };
    let mut replay = Replay::new(loaded);
    for file in [JournalFile::Folding, JournalFile::Current] {
        let reader = disk.read(part(file)).map_err(|error| unreadable(disk, part(file), &error))?;
        let Some(reader) = reader else { continue };
        let reader = BufReader::with_capacity(READ_BYTES, reader);
        replay.read(file, reader, names).map_err(|error| journal_error(disk, file, &error))?;
    }
    replay.finish().map_err(|error| journal_error(disk, JournalFile::Current, &error))
}

/// Bytes of a journal that are read at a time.
const READ_BYTES: usize = 128 * 1024;

fn read_state(disk: &dyn Disk) -> io::Result<Option<Vec<u8>>> {
    let Some(mut reader) = disk.read(Part::State)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(disk.bytes(Part::State)?.unwrap_or(0) as usize);
    reader.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Formats an error as one line: the key, the file, what is wrong.
pub(super) fn failed(state_file: &Path, what: &dyn fmt::Display) -> String {
    format!("state_file = {}: {what}", state_file.display())
}

fn unreadable(disk: &dyn Disk, part: Part, error: &io::Error) -> String {
    let user = nix::unistd::geteuid();
    let state = disk.path(Part::State);
    match part {
        Part::State => {
            failed(&state, &format_args!("{error}; user {user} must be able to read it"))
        }
        part => {
            let path = disk.path(part);
            let path = path.display();
            failed(&state, &format_args!("{path}: {error}; user {user} must be able to read it"))
        }
    }
}

fn journal_error(disk: &dyn Disk, file: JournalFile, error: &ReplayError) -> String {
    let (place, remedy) = match error {
        ReplayError::Read(error) => return unreadable(disk, part(file), error),
        ReplayError::Damaged { place, .. } => (
            *place,
            "mend it, restore both files from a backup, or, to go on without it and what follows, \
             delete from that line on",
        ),
        ReplayError::Strange { place, .. } => (*place, "start the version that wrote it"),
    };
    let place = shown(disk, place);
    let state = disk.path(Part::State);
    failed(&state, &format_args!("{place}: {error}; {remedy}: it was left as it is"))
}

fn shown(disk: &dyn Disk, place: LineNumber) -> String {
    format!("{}: line {}", disk.path(part(place.file)).display(), place.line)
}

fn part(file: JournalFile) -> Part {
    match file {
        JournalFile::Folding => Part::Folding,
        JournalFile::Current => Part::Journal,
    }
}
