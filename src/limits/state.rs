//! Bounds of `state`.

/// Largest number of a change: the largest that every JSON reader keeps exactly. No table is
/// changed so often.
pub const SEQUENCE_MAX: u64 = 1 << 53;
