//! Writes a new state file beside the old one and puts it in its place.
//!
//! The order is what makes it safe: the file is on disk before it gets its name, and the name is on
//! disk before anything that it replaces is taken away.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::StoreError;
use super::disk::{Disk, Part, Trace};
use crate::state::{self, Membership, Totals};
use crate::table::Snapshot;

/// A state file to be written on another thread, while commits go on. [`super::Store::end_fold`]
/// must get the outcome.
pub(in crate::control) struct Fold {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) sequence: u64,
    /// The state file as this store left it; no other one may be replaced.
    pub(super) known: Option<Trace>,
    pub(super) fleet: Option<Membership>,
}

/// A state file that was written.
#[derive(Clone, Debug)]
pub(in crate::control) struct Folded {
    pub(super) bytes: u64,
    pub(super) trace: Option<Trace>,
    /// The name under which a state file was kept that another program had put there.
    pub(super) aside: Option<PathBuf>,
}

impl Fold {
    /// The last change that the table must have in it.
    pub(in crate::control) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Writes the state file. `table` and `stats` must be as of [`Fold::sequence`], or later if the
    /// later changes are on disk, too.
    pub(in crate::control) fn run(
        self,
        table: &Snapshot,
        stats: impl IntoIterator<Item = (String, Totals)>,
    ) -> Result<Folded, StoreError> {
        let content = (table, self.fleet.as_ref());
        let folded = write_state(&*self.disk, content, stats, self.sequence, self.known)?;
        // The state file has all that the folded journal says. If the journal stays, it is passed
        // over.
        let _ = self.disk.remove(Part::Folding);
        Ok(folded)
    }
}

/// Writes a new state file and puts it in place of the old one. After an error the old one is still
/// in place, except that if only the last sync failed, a crash may leave either. A state file that
/// is not the `known` one is kept under another name.
pub(super) fn write_state(
    disk: &dyn Disk,
    (table, fleet): (&Snapshot, Option<&Membership>),
    stats: impl IntoIterator<Item = (String, Totals)>,
    sequence: u64,
    known: Option<Trace>,
) -> Result<Folded, StoreError> {
    let written = write_new(disk, table, stats, sequence, fleet);
    let (bytes, trace) = written.map_err(|error| {
        // The unfinished file would only take up room.
        let _ = disk.remove(Part::New);
        StoreError::failed("write", disk.path(Part::New), error)
    })?;
    let found = disk.trace(Part::State).and_then(|found| match found {
        Some(_) if found != known => disk.keep_aside(Part::State).map(Some),
        _ => Ok(None),
    });
    let aside = found.map_err(|error| {
        let _ = disk.remove(Part::New);
        StoreError::failed("keep what somebody else wrote to", disk.path(Part::State), error)
    })?;
    disk.rename(Part::New, Part::State).map_err(|error| {
        let _ = disk.remove(Part::New);
        StoreError::failed("replace", disk.path(Part::State), error)
    })?;
    disk.sync_folder()
        .map_err(|error| StoreError::failed("sync the folder of", disk.path(Part::State), error))?;
    Ok(Folded { bytes, trace, aside })
}

fn write_new(
    disk: &dyn Disk,
    table: &Snapshot,
    stats: impl IntoIterator<Item = (String, Totals)>,
    sequence: u64,
    fleet: Option<&Membership>,
) -> io::Result<(u64, Option<Trace>)> {
    let mut file = disk.create(Part::New)?;
    state::write_with(&mut file, table, stats, sequence, fleet)?;
    file.flush()?;
    file.sync_all()?;
    Ok((file.bytes()?, file.trace()?))
}
