//! Bounds of a fleet, of its log and of its store.

use std::time::Duration;

/// Most bytes of one value in etcd, which takes requests of 1.5 MiB.
pub const FLEET_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of log from which on folding it is worth while, however small the table.
pub const FLEET_FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Entries of the log that outlive a fold, so that a node that was away need not load the whole
/// table.
pub const FLEET_LOG_KEPT: u64 = 10_000;
/// Most bytes of them.
pub const FLEET_LOG_KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes a second at which a table is written to etcd: changes go on meanwhile.
pub const FLEET_FOLD_BYTES_PER_SECOND: f64 = 20e6;
/// Rules that a start writes to the state file before the first request; larger tables are written
/// later.
pub const FLEET_WRITTEN_HERE_MAX: usize = 20_000;
/// Pieces of a large change that are written at a time.
pub const FLEET_PIECES_AT_ONCE: usize = 3;
/// How often a node looks whether the log should be folded.
pub const FLEET_FOLD_LOOK: Duration = Duration::from_secs(4);
/// Chunks are written anew when their entry's sequence has moved on by more than this.
pub const FLEET_CHUNKS_BEHIND_MAX: u64 = 100;
/// Entries of the log that are read by one call: of at most 1 MiB each.
pub const FLEET_ENTRIES_AT_ONCE: i64 = 16;
/// Entries that a start reads one by one before the first request; beyond that it loads the table.
pub const FLEET_CATCH_UP_HERE: u64 = 5000;
/// How often a change is tried anew that other nodes were faster with.
pub const FLEET_TRIES: u32 = 16;
/// Tries after which a node asks the others to let it pass.
pub const FLEET_TRIES_BEFORE_TURN: u32 = 3;
/// The longest that a node lets another one pass.
pub const FLEET_TURN_TIME: Duration = Duration::from_millis(500);
/// Time for a change to reach etcd, with all tries at all members.
pub const FLEET_COMMIT_TIME: Duration = Duration::from_secs(5);
/// A watch that has not brought a change so long after its commit is begun anew.
pub const FLEET_APPLY_SOON: Duration = Duration::from_secs(2);
/// Time for a change that is in etcd to be in force on the node that made it.
pub const FLEET_APPLY_TIME: Duration = Duration::from_secs(60);
/// First pause before etcd is tried again, and the longest one.
pub const FLEET_AGAIN: Duration = Duration::from_millis(100);
/// The longest one.
pub const FLEET_AGAIN_MAX: Duration = Duration::from_secs(5);
/// A watch that brings nothing for so long is dead: this node's own heartbeats come by it.
pub const FLEET_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Time between heartbeats, and how much of it is chance.
pub const FLEET_BEAT: Duration = Duration::from_secs(10);
/// How much of it is chance.
pub const FLEET_BEAT_JITTER: Duration = Duration::from_secs(4);
/// A node that is not heard of for so long is gone.
pub const FLEET_LEASE_SECONDS: i64 = 30;
/// How often the copy on disk is brought up to date.
pub const FLEET_KEEP_EVERY: Duration = Duration::from_secs(1);
/// Time for all nodes to have a change, where they are waited for and no time is named.
pub const FLEET_WAIT: Duration = Duration::from_secs(10);
/// Edits that may wait for that.
pub const FLEET_EDITS_UNKEPT_MAX: usize = 20_000;
/// How long names that a change of another node brings may take to be looked up, before the change
/// is in force here.
pub const FLEET_LOOKUP_TIME: Duration = Duration::from_millis(250);
