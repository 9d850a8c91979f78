//! Bounds of `table`.

/// Most backends of one rule. Choosing a backend may look at each of them.
pub const BACKENDS_MAX: usize = 1024;
/// Most networks in each of the lists `allow` and `deny` of a rule.
pub const NETWORKS_MAX: usize = 1024;
/// Longest chain of aliases (an alias of an alias of …). A lookup follows it step by step.
pub const ALIAS_CHAIN_MAX: usize = 8;
/// Most redirects that are followed to see whether they form a loop. Browsers give up after 20.
pub const REDIRECTS_FOLLOWED_MAX: usize = 20;
/// Most connection attempts for one request.
pub const ATTEMPTS_MAX: u16 = 1000;
/// Longest duration that a rule may name, seconds: 31 days. In microseconds, this is far below the
/// largest number that JSON carries exactly.
pub const RULE_SECONDS_MAX: u64 = 31 * 24 * 3600;
/// Largest `max_body` of a rule, bytes: the largest number that JSON carries exactly (RFC 8259 §6).
pub const RULE_BODY_MAX: u64 = (1 << 53) - 1;
/// Longest address, path or value of a field in a rule (`redirect_to`, `set_request`), bytes.
pub const RULE_TEXT_BYTES_MAX: usize = 2048;
/// Most fields that a rule changes in the heads of one direction.
pub const RULE_FIELDS_MAX: usize = 8;
/// Longest name of a page, bytes.
pub const PAGE_NAME_BYTES_MAX: usize = 100;
/// Most statuses and ranges of one `check_status`.
pub const CHECK_STATUSES_MAX: usize = 100;
/// Longest interval of a check, seconds: a day.
pub const CHECK_INTERVAL_SECONDS_MAX: u64 = 86_400;
/// Longest timeout of a check, seconds. A probe that waits takes room from other probes.
pub const CHECK_TIMEOUT_SECONDS_MAX: u64 = 60;
