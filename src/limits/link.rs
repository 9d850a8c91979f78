//! Bounds of `link`. Per shard.

/// Bytes of a slot: what a host, or a backend, takes on each shard where it is busy. Control keeps
/// [`SLOT_MARKS_BYTES`](super::SLOT_MARKS_BYTES) beside it.
pub const SLOT_BYTES: usize = 512;
/// Slots in which a shard counts by host, and as many by backend, made as needed.
pub const SLOTS_MAX: u32 = 1 << 20;
/// Backends with `max_connections` whose gates are kept, and as many of rules with
/// `max_open_requests`; past it those that no shard uses go.
pub const GATES_KEPT: usize = 1024;
/// Rules with `max_requests_per_second` whose rates a shard remembers; all shards together keep
/// those that are not at rest besides.
pub const RATES_KEPT: usize = 16_384;
/// Bytes of the access log that wait for its writer, per shard: a second of 30,000 requests.
pub const LOG_PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Reports about backends that wait for control, of all shards: 160 KiB.
pub const SHARD_REPORTS_MAX: usize = 4096;

/// Clients at rules with `max_requests_per_second_per_source` that are told apart: 1 MiB, once
/// there is such a rule. A client is at rest a second after its last request at most.
pub const SOURCE_RATES_MAX: usize = 65_536;
