//! Bounds of `config`.

use std::time::Duration;

/// Default and smallest accepted `max_head`, bytes.
pub const HEAD_BYTES_DEFAULT: usize = 16 * 1024;
/// Longest `busy_poll`. For longer waits sleeping is cheaper than polling.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(1);
/// Most shards: more than any machine for which Mantrid is made has CPUs, and few enough that their
/// descriptors and rings can be counted.
pub const SHARDS_MAX: usize = 1024;
