//! Writes a new state file beside the old one and puts it in its place.
//!
//! The order is what makes it safe: the file is on disk before it gets its name, and the name is on
//! disk before anything that it replaces is taken away.

use std::io::{self, Write};
use std::sync::Arc;

use super::StoreError;
use super::disk::{Disk, Part};
use crate::state::{self, Counters, Membership};
use crate::table::Snapshot;

/// A state file to be written while commits go on, on another thread. [`super::Store::end_fold`] must
/// be told how it went.
pub(in crate::control) struct Fold {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) sequence: u64,
    pub(super) fleet: Option<Membership>,
}

/// It was written.
#[derive(Copy, Clone, Debug)]
pub(in crate::control) struct Folded {
    pub(super) bytes: u64,
}

impl Fold {
    /// The last change that the table must have in it.
    pub(in crate::control) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// `table` and `stats` are as of [`Fold::sequence`], or later as far as that is on disk, too.
    pub(in crate::control) fn run(
        self,
        table: &Snapshot,
        stats: impl IntoIterator<Item = (String, Counters)>,
    ) -> Result<Folded, StoreError> {
        let bytes = write_state(&*self.disk, table, stats, self.sequence, self.fleet.as_ref())?;
        // All that it says is in the state file: should it stay, it is passed over.
        let _ = self.disk.remove(Part::Folding);
        Ok(Folded { bytes })
    }
}

/// Afterwards the state file is this one, for good; or it is the old one, or may be either after a
/// crash. Tells how large it is.
pub(super) fn write_state(
    disk: &dyn Disk,
    table: &Snapshot,
    stats: impl IntoIterator<Item = (String, Counters)>,
    sequence: u64,
    fleet: Option<&Membership>,
) -> Result<u64, StoreError> {
    let written = write_new(disk, table, stats, sequence, fleet);
    let bytes = written.map_err(|error| {
        // It would only take up room.
        let _ = disk.remove(Part::New);
        StoreError::failed("write", disk.path(Part::New), error)
    })?;
    disk.rename(Part::New, Part::State).map_err(|error| {
        let _ = disk.remove(Part::New);
        StoreError::failed("replace", disk.path(Part::State), error)
    })?;
    disk.sync_folder()
        .map_err(|error| StoreError::failed("sync the folder of", disk.path(Part::State), error))?;
    Ok(bytes)
}

fn write_new(
    disk: &dyn Disk,
    table: &Snapshot,
    stats: impl IntoIterator<Item = (String, Counters)>,
    sequence: u64,
    fleet: Option<&Membership>,
) -> io::Result<u64> {
    let mut file = disk.create(Part::New)?;
    state::write_with(&mut file, table, stats, sequence, fleet)?;
    file.flush()?;
    file.sync_all()?;
    file.bytes()
}
