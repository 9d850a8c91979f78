//! Bounds of `link`. Per shard.

/// Bytes of a slot, the memory for a host or a backend on each shard where it is busy. Control
/// keeps [`SLOT_MARKS_BYTES`](super::SLOT_MARKS_BYTES) beside it.
pub const SLOT_BYTES: usize = 512;
/// Most slots of a shard for hosts, and most for backends. They are made as needed.
pub const SLOTS_MAX: u32 = 1 << 20;
/// Number of gates of backends with `max_connections`, and of rules with `max_open_requests`,
/// beyond which gates that no shard uses are dropped.
pub const GATES_KEPT: usize = 1024;
/// Most rules with `max_requests_per_second` whose rates a shard remembers. All shards together
/// also keep the rates that are not at rest.
pub const RATES_KEPT: usize = 16_384;
/// Most bytes of the access log that wait for its writer, per shard: a second at 30,000 requests.
pub const LOG_PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most reports about backends that wait for control, from all shards: 160 KiB.
pub const SHARD_REPORTS_MAX: usize = 4096;

/// Most clients at rules with `max_requests_per_second_per_source` that are told apart: 1 MiB, as
/// soon as there is such a rule. A client is at rest at most a second after its last request.
pub const SOURCE_RATES_MAX: usize = 65_536;
