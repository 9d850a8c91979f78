//! Bounds of `daemon`.

use std::time::Duration;

/// Interval at which the writer of the access log takes the lines of the shards.
pub const LOG_EVERY: Duration = Duration::from_millis(100);
/// Time for which the writer of the access log waits for a full pipe before it drops lines.
pub const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// Longest file of `trusted_sources`, bytes: enough for a hundred thousand networks.
pub const TRUSTED_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most wrong lines of a file of `trusted_sources` that are named.
pub const TRUSTED_PROBLEMS_TOLD_MAX: usize = 10;
/// Most bytes of log lines that wait to be written to standard error.
pub const LOG_LINES_BYTES_MAX: usize = 1024 * 1024;
/// Number of the last log lines that are kept for `mantrid-client support`.
pub const LOG_LINES_RECENT: usize = 300;
/// Most bytes that are kept of each of the last log lines.
pub const LOG_LINE_RECENT_BYTES: usize = 1024;
/// Time for which the last log lines wait at the end if the reader of standard error reads nothing.
pub const LOG_FLUSH_TIME: Duration = Duration::from_secs(2);
/// Most threads for calls that may block, without those for lookups.
pub const BLOCKING_THREADS: usize = 256;
/// Time that a new process has until it must be ready to take over.
pub const UPGRADE_TIME: Duration = Duration::from_secs(60);
/// Time that a new process that did not get ready has to log the reason and end before it is
/// killed.
pub const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// Hosts whose last counters are handed over in one message: 300 bytes each at most.
pub const COUNTED_AT_ONCE: usize = 1000;
/// Most descriptors in one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_AT_ONCE: usize = 253;
/// Time without progress after which a shard, or control, is named in the log, with its position.
pub const STALL_TIME: Duration = Duration::from_secs(1);
/// Interval of the looks at the progress of shards and control.
pub const STALL_LOOK: Duration = Duration::from_millis(500);
/// Time that shards have to stop at once.
pub const STOP_TIME: Duration = Duration::from_secs(2);
/// Length of the accept queue for each shard and address. `net.core.somaxconn` is its upper limit.
pub const BACKLOG: i32 = 4096;
/// Time for which a port may be in use without a process that uses it, before that is an error.
pub const BIND_WAIT: Duration = Duration::from_secs(1);
/// Pause between two attempts to bind a port that is in use.
pub const BIND_AGAIN: Duration = Duration::from_millis(20);
/// How long a start under systemd waits for addresses that this machine does not have yet.
pub const ADDRESS_WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks for such an address.
pub const ADDRESS_AGAIN: Duration = Duration::from_millis(100);
/// Memory that must be lockable: what glommio asks for before it makes its rings.
pub const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Number of file descriptors below which the log says how to get more.
pub const DESCRIPTORS_FEW: u64 = 4096;
/// Number of file descriptors that is assumed if the limit can't be read.
pub const DESCRIPTORS_ASSUMED: u64 = 1024;

/// Most messages that wait for systemd to read them. Beyond that the oldest message is dropped.
pub const NOTIFY_MESSAGES_MAX: usize = 64;
/// Time for which the last messages to systemd wait at the end to be read.
pub const NOTIFY_FLUSH_TIME: Duration = Duration::from_secs(2);
