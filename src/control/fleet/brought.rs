//! News of the fleet for the writer, and how far the writer is.

use tokio::sync::oneshot;

use super::log::Edit;
use crate::state::Membership;
use crate::table::Snapshot;

/// The last entry that is in this node's table, and the revision that changed the head last.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) struct Applied {
    pub(in crate::control) sequence: u64,
    /// The revision of `live/head` that belongs to it; 0: not known yet.
    pub(in crate::control) revision: i64,
}

/// News of the fleet for the writer.
pub(in crate::control) enum Brought {
    /// The next entry of the log.
    Entry {
        sequence: u64,
        revision: i64,
        node: String,
        edits: Vec<Edit>,
        /// Why the entry could not be read.
        broken: Option<String>,
    },
    /// The whole table.
    Table { table: Snapshot, membership: Membership, revision: i64 },
    /// Request to bring the copy on disk up to date.
    Keep,
    /// Request to leave the fleet: from here on the node is a single one.
    Leave(oneshot::Sender<()>),
}
