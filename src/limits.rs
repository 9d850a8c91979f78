//! Every bound of the program in one place, with the owner of each.

/// Most fields in one head; more is refused with 431 (HAProxy's `tune.http.maxhdr` is 101).
pub const FIELDS_MAX: usize = 128;
/// Longest host name in bytes, without port and trailing dot (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Default and smallest accepted `max_head`, bytes.
pub const HEAD_BYTES_DEFAULT: usize = 16 * 1024;

// Owner: table.

/// Most backends of one rule: every choice may look at each of them.
pub const BACKENDS_MAX: usize = 1024;
/// Longest chain of aliases: an alias of an alias of …; lookup follows it step by step.
pub const ALIAS_CHAIN_MAX: usize = 8;
/// Most connection attempts for one request.
pub const ATTEMPTS_MAX: u16 = 1000;
/// Longest duration a rule may name, seconds: 31 days. Kept to the microsecond, this is also far
/// from where a JSON number could no longer carry it exactly.
pub const RULE_SECONDS_MAX: u64 = 31 * 24 * 3600;
/// Longest address or path in a rule (`redirect_to`, `wake`, `check`), bytes.
pub const RULE_TEXT_BYTES_MAX: usize = 2048;
/// Longest name of a page, bytes.
pub const PAGE_NAME_BYTES_MAX: usize = 100;

/// What the client spoke to reach us; a rule named `http://NAME` or `https://NAME` applies to one of them.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, as a TLS terminator in front of us said.
    Https,
}
