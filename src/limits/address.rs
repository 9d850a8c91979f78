//! Bounds of `address`.

/// Longest path of a Unix socket, bytes: with a NUL it fills `sun_path` (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
