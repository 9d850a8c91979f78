//! Bounds of a fleet, of its log and of its store.

use std::time::Duration;

/// Most bytes of one value in etcd, which accepts requests of up to 1.5 MiB.
pub const FLEET_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the log from which on it is folded, however small the table.
pub const FLEET_FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Most entries of the log that are kept at a fold, so that a node that was away need not load the
/// whole table.
pub const FLEET_LOG_KEPT: u64 = 10_000;
/// Most bytes of the entries that are kept at a fold.
pub const FLEET_LOG_KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes per second at which a table is written to etcd, so that changes go on meanwhile.
pub const FLEET_FOLD_BYTES_PER_SECOND: f64 = 20e6;
/// Most rules that a start writes to the state file before the first request. A larger table is
/// written later.
pub const FLEET_WRITTEN_HERE_MAX: usize = 20_000;
/// Most pieces of a large change that are written at a time.
pub const FLEET_PIECES_AT_ONCE: usize = 3;
/// Interval at which a node looks whether the log should be folded.
pub const FLEET_FOLD_LOOK: Duration = Duration::from_secs(4);
/// Chunks are written anew when their entry's sequence has moved on by more than this.
pub const FLEET_CHUNKS_BEHIND_MAX: u64 = 100;
/// Most entries of the log that one call reads, each of at most 1 MiB.
pub const FLEET_ENTRIES_AT_ONCE: i64 = 16;
/// Most entries that a start reads one by one before the first request. If there are more, it loads
/// the table.
pub const FLEET_CATCH_UP_HERE: u64 = 5000;
/// Number of tries after which a change is given up, once `FLEET_COMMIT_TIME` is over, because
/// other nodes were faster each time.
pub const FLEET_TRIES: u32 = 16;
/// Number of tries after which a node asks the others to let it pass.
pub const FLEET_TRIES_BEFORE_TURN: u32 = 3;
/// Longest time for which a node waits to let another one pass.
pub const FLEET_TURN_TIME: Duration = Duration::from_millis(500);
/// Time for a change to reach etcd, with all tries at all members.
pub const FLEET_COMMIT_TIME: Duration = Duration::from_secs(5);
/// Time after the commit of a change after which the watch is restarted if it has not brought the
/// change.
pub const FLEET_APPLY_SOON: Duration = Duration::from_secs(2);
/// Time for a change that is in etcd to come into force on the node that made it.
pub const FLEET_APPLY_TIME: Duration = Duration::from_secs(60);
/// First pause before etcd is tried again.
pub const FLEET_AGAIN: Duration = Duration::from_millis(100);
/// Longest pause before etcd is tried again.
pub const FLEET_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Time without events after which a watch counts as dead: it should at least bring this node's own
/// heartbeats.
pub const FLEET_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Mean time between heartbeats.
pub const FLEET_BEAT: Duration = Duration::from_secs(10);
/// Width of the random part of the time between heartbeats.
pub const FLEET_BEAT_JITTER: Duration = Duration::from_secs(4);
/// Time without a heartbeat after which a node counts as gone.
pub const FLEET_LEASE_SECONDS: i64 = 30;
/// Interval at which the copy on disk is brought up to date.
pub const FLEET_KEEP_EVERY: Duration = Duration::from_secs(1);
/// Default time for which a request that waits for all nodes waits for them to have a change.
pub const FLEET_WAIT: Duration = Duration::from_secs(10);
/// Most edits that may wait for the copy on disk to be brought up to date.
pub const FLEET_EDITS_UNKEPT_MAX: usize = 20_000;
/// Longest wait for the lookups of names in a change of another node before the change is put in
/// force here.
pub const FLEET_LOOKUP_TIME: Duration = Duration::from_millis(250);
