//! Bounds of `daemon`.

use std::time::Duration;

/// How often the writer of the access log takes away what the shards wrote.
pub const LOG_EVERY: Duration = Duration::from_millis(100);
/// How long the writer of the access log waits for a pipe that is full, before lines are lost.
pub const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// Longest file of `trusted_sources`, bytes: a hundred thousand networks have room.
pub const TRUSTED_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Wrong lines of such a file that are named.
pub const TRUSTED_PROBLEMS_TOLD_MAX: usize = 10;
/// Bytes of log lines that wait to be written to standard error.
pub const LOG_LINES_BYTES_MAX: usize = 1024 * 1024;
/// Last log lines that are kept for `mantrid-client support`.
pub const LOG_LINES_RECENT: usize = 300;
/// Bytes that are kept of each.
pub const LOG_LINE_RECENT_BYTES: usize = 1024;
/// How long the last log lines wait for a reader of standard error who takes none.
pub const LOG_FLUSH_TIME: Duration = Duration::from_secs(2);
/// Threads for what may block, lookups not counted.
pub const BLOCKING_THREADS: usize = 256;
/// How long a new process may take until it is ready to take over.
pub const UPGRADE_TIME: Duration = Duration::from_secs(60);
/// Time that a new process which did not get ready has to say why, and end, before it is killed.
pub const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// Hosts whose last counters are handed over in one message: 300 bytes each at most.
pub const COUNTED_AT_ONCE: usize = 1000;
/// Most descriptors in one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_AT_ONCE: usize = 253;
/// Time without progress after which a shard, or control, is named in the log, with its position.
pub const STALL_TIME: Duration = Duration::from_secs(1);
/// Interval of the looks at the progress of shards and control.
pub const STALL_LOOK: Duration = Duration::from_millis(500);
/// How long shards that were told to stop at once may take.
pub const STOP_TIME: Duration = Duration::from_secs(2);
/// Queue of connections not yet accepted, per shard and address; `net.core.somaxconn` caps it.
pub const BACKLOG: i32 = 4096;
/// How long a port may be in use by no process that is there, before that is an error.
pub const BIND_WAIT: Duration = Duration::from_secs(1);
/// Pause between two attempts to bind a port that is in use.
pub const BIND_AGAIN: Duration = Duration::from_millis(20);
/// How long a start under systemd waits for addresses that this machine does not have yet.
pub const ADDRESS_WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks for such an address.
pub const ADDRESS_AGAIN: Duration = Duration::from_millis(100);
/// Memory that must be lockable: what glommio asks for before it makes its rings.
pub const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// File descriptors below which the log says how to get more.
pub const DESCRIPTORS_FEW: u64 = 4096;
/// File descriptors where the limit can't be read.
pub const DESCRIPTORS_ASSUMED: u64 = 1024;

/// Messages that wait for systemd to read them; beyond that the oldest is dropped.
pub const NOTIFY_MESSAGES_MAX: usize = 64;
/// How long the last of them wait for it at the end.
pub const NOTIFY_FLUSH_TIME: Duration = Duration::from_secs(2);
