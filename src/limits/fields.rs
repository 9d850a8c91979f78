//! Bounds of `fields`.

/// Longest name of a field that a rule changes, bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 100;
