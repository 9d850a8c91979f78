//! Bounds of `table`.

/// Most backends of one rule: every choice may look at each of them.
pub const BACKENDS_MAX: usize = 1024;
/// Most networks in each of the lists `allow` and `deny` of a rule.
pub const NETWORKS_MAX: usize = 1024;
/// Longest chain of aliases: an alias of an alias of …; lookup follows it step by step.
pub const ALIAS_CHAIN_MAX: usize = 8;
/// Redirects that are followed to see whether they lead in a circle; browsers give up after 20.
pub const REDIRECTS_FOLLOWED_MAX: usize = 20;
/// Most connection attempts for one request.
pub const ATTEMPTS_MAX: u16 = 1000;
/// Longest duration a rule may name, seconds: 31 days. Kept to the microsecond, this is also far
/// from where a JSON number could no longer carry it exactly.
pub const RULE_SECONDS_MAX: u64 = 31 * 24 * 3600;
/// Largest `max_body` of a rule, bytes: a JSON number carries it exactly (RFC 8259 §6).
pub const RULE_BODY_MAX: u64 = (1 << 53) - 1;
/// Longest address, path or value of a field in a rule (`redirect_to`, `set_request`), bytes.
pub const RULE_TEXT_BYTES_MAX: usize = 2048;
/// Most fields that a rule changes in heads of one direction.
pub const RULE_FIELDS_MAX: usize = 8;
/// Longest name of a page, bytes.
pub const PAGE_NAME_BYTES_MAX: usize = 100;
/// Most statuses and ranges of one `check_status`.
pub const CHECK_STATUSES_MAX: usize = 100;
/// Longest interval of a check, seconds: a day.
pub const CHECK_INTERVAL_SECONDS_MAX: u64 = 86_400;
/// Longest timeout of a check, seconds: a probe that waits takes room from others.
pub const CHECK_TIMEOUT_SECONDS_MAX: u64 = 60;
