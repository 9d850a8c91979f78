//! Bounds of `config`.

use std::time::Duration;

/// Default and smallest accepted `max_head`, bytes.
pub const HEAD_BYTES_DEFAULT: usize = 16 * 1024;
/// Longest `busy_poll`: a wait that takes longer is cheaper asleep.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(1);
/// Most shards: more than the CPUs of any machine this was made for, and few enough that their
/// descriptors and rings can be counted.
pub const SHARDS_MAX: usize = 1024;
