//! Bounds of `http`.

/// Most fields in one head. A head with more is refused with 431 (HAProxy's `tune.http.maxhdr` is
/// 101).
pub const FIELDS_MAX: usize = 128;
/// Longest host name in bytes, without port and trailing dot (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Longest X-Request-Id that is accepted from a peer, bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Most options in all Connection fields of one head: each is compared with every field.
pub const CONNECTION_OPTIONS_MAX: usize = 32;
/// Longest line of a chunk size with its extensions, bytes. Extensions are not in use.
pub const CHUNK_LINE_BYTES_MAX: u32 = 1024;
/// Longest name of this proxy in Via, bytes.
pub const VIA_BYTES_MAX: usize = 63;
/// Longest trailer section, bytes.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;
/// Longest `.http` page, bytes. Pages are kept in memory and copied to be sent.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
