//! Every bound of the program in one place, with the owner of each.

/// Most fields in one head; more is refused with 431 (HAProxy's `tune.http.maxhdr` is 101).
pub const FIELDS_MAX: usize = 128;
/// Longest host name in bytes, without port and trailing dot (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Default and smallest accepted `max_head`, bytes.
pub const HEAD_BYTES_DEFAULT: usize = 16 * 1024;

/// What the client spoke to reach us; a rule named `http://NAME` or `https://NAME` applies to one of them.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, as a TLS terminator in front of us said.
    Https,
}

// http

/// Most options in all Connection fields of one head, beyond which some would name fields for ever.
pub const CONNECTION_OPTIONS_MAX: usize = 32;
/// Longest line of a chunk size with its extensions, bytes; nobody uses extensions.
pub const CHUNK_LINE_BYTES_MAX: u32 = 1024;
/// Longest trailer section, bytes.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;
/// Longest `.http` page, bytes: it is kept in memory and copied to send.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
