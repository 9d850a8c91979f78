//! The table in force, with its tag. Shards route by it, the API reads from it, and only the writer
//! replaces it.

use std::fmt;
use std::ops::Deref;

use crate::table::Snapshot;

/// Version of the table: an opaque `ETag` that is different after each change and each start.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    /// Random for each process, so that a file edited by hand between two starts gets another tag.
    /// In a fleet it is made from the id of the fleet.
    pub(crate) boot: u32,
    /// Number of the last change.
    pub(crate) sequence: u64,
}

impl Tag {
    /// Makes the tag of the table at the start; `sequence` is the number of its last change.
    pub(crate) fn of_start(sequence: u64) -> Tag {
        use std::hash::{BuildHasher, RandomState};
        let boot = RandomState::new().hash_one(std::process::id()) as u32;
        Tag { boot, sequence }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:08x}-{}\"", self.boot, self.sequence)
    }
}

/// A table with its tag. Cloning one costs as little as cloning the table.
#[derive(Clone, Debug)]
pub(crate) struct TaggedTable {
    pub(crate) table: Snapshot,
    pub(crate) tag: Tag,
}

impl Deref for TaggedTable {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.table
    }
}
