//! Bounds of `state`.

/// Largest number of a change: what any reader of JSON holds exactly. No table is changed so often.
pub const SEQUENCE_MAX: u64 = 1 << 53;
