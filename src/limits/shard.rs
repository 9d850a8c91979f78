//! Bounds of `shard`. Per shard unless said otherwise.

use std::time::Duration;

/// Idle connections to one backend that a shard keeps; descriptors bound them all. With 1,024 of
/// them 4,000 clients of one application had a connection opened for every twelfth request,
/// measured.
pub const IDLE_PER_BACKEND_MAX: usize = 32_768;
/// How long a backend connection may stay idle before it is closed.
pub const IDLE_BACKEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Margin before the moment at which a backend closes an idle connection (`Keep-Alive: timeout=N`),
/// at most half of that time: a request on its way must not cross with the close.
pub const IDLE_BACKEND_MARGIN: Duration = Duration::from_secs(1);
/// Time in which a connection carries no request that can't be repeated, after a response that
/// named a body where none may be: a backend that is wrong about that sends the body some time.
pub const DOUBT_TIME: Duration = Duration::from_secs(1);
/// Backend connections that one client connection may have for itself, since it authenticated them
/// (HAProxy's `max-session-srv-conns` is 5).
pub const OWN_BACKENDS_MAX: usize = 5;
/// How often idle connections are looked through.
pub const IDLE_SWEEP: Duration = Duration::from_secs(1);
/// Pause after accept ran out of descriptors or memory (HAProxy: 100 ms).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections turned away in one go before that pause.
pub const SHED_BATCH: usize = 64;
/// Wait for the first request of a client when the shard stops: a first request follows its
/// connection at once, while connections that browsers open ahead are not worth a longer stop.
pub const FIRST_REQUEST_TIME: Duration = Duration::from_millis(100);
/// Bytes of a request body that are discarded behind a reply of our own; more closes.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// Longest silence of a client whose bytes are discarded after our side of its connection was
/// closed, so that the client can read our reply before a reset (nginx: lingering_timeout). In all,
/// discarding may take `timeout_client`.
pub const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// Longest time of that discarding, in all, once the shard stops.
pub const LINGER_STOPPING: Duration = Duration::from_millis(500);
/// Longest time of that discarding for a connection that was turned away.
pub const LINGER_SHED: Duration = Duration::from_secs(10);
/// Connections turned away that linger at a time, per shard; the rest are closed at once.
pub const SHED_LINGERING_MAX: usize = 64;
/// Interval of the looks at what a client's kernel has acknowledged, before a reset that would take
/// the rest away.
pub const TAKEN_LOOK: Duration = Duration::from_millis(20);
/// Bodies with at least this much to come are spliced, smaller ones copied. Measured, splicing
/// against copying, CPU per request at 32 connections: 64 KiB 31.8 and 37.8 µs, 128 KiB 40 and 62,
/// 512 KiB 124 and 198. Bytes that come with the head (up to 20 KiB) are copied, unless the
/// response before was as large.
pub const SPLICE_BYTES_MIN: u64 = 32 * 1024;
/// Bytes that one direction may splice before other tasks have their turn, where both sides are
/// fast: a millisecond, about.
pub const SPLICE_TURN_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a body that are copied into the same send as the response head, so that a small
/// response is one operation.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// How often a request of a rule with `hold` is sent again when a new connection ended without a
/// response (HAProxy's `retries`). The request may meet restart after restart, but a request that
/// brings the application down must not do so for ever.
pub const SILENCES_MAX: u8 = 3;
/// How long a backend that refused a connection is passed over while others are there.
pub const EJECTION_TIME: Duration = Duration::from_secs(1);
/// Further backends that a request tries at once where this machine could open no connection to the
/// one before: looking for a free port in vain takes the kernel up to a millisecond.
pub const LOCAL_TRIES: u32 = 3;
/// Failures in a row, on one shard, after which a backend is ejected on all.
pub const EJECT_AFTER: u32 = 3;
/// Backends that a shard remembers to have failed.
pub const FAILING_MAX: usize = 16_384;
/// Time for which a shard remembers a failure: failures further apart are not in a row.
pub const FAILING_KEPT: Duration = Duration::from_secs(600);
/// How long a shard remembers whether an address is one of this machine.
pub const LOCAL_KEPT: Duration = Duration::from_secs(10);
/// Addresses about which a shard remembers that.
pub const LOCALS_MAX: usize = 4096;
/// Interval of a shard's reports to control that a request was to go to this daemon itself.
pub const LOOP_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Interim responses (1xx) in front of one final one, bytes of their heads. Any number is in order
/// (RFC 9110 §15.2), as 103 for each asset, or 102 as long as it takes; a bound all the same for a
/// backend that sends nothing else. A 102 each second is as many in ten hours.
pub const INTERIM_BYTES_MAX: usize = 1024 * 1024;
/// Rules with `round_robin` whose positions a shard remembers, and all shards together besides;
/// more start anew.
pub const TURNS_MAX: usize = 65_536;
/// Longest response head, bytes; backends are trusted further than clients.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Slots in use above which slots that were idle between two looks are given back: 32 MiB stay.
pub const SLOTS_KEPT: usize = 65_536;
/// Bytes that a shard keeps back while its page is being taken away.
pub const LOG_BACK_BYTES_MAX: usize = 64 * 1024;
/// Longest user agent, referer or traceparent in a line of the access log, bytes; of a longer one
/// the line has the beginning.
pub const LOG_FIELD_BYTES_MAX: usize = 512;
/// Longest target in a line of the access log, bytes; of a longer target the line has the
/// beginning.
pub const LOG_TARGET_BYTES_MAX: usize = 2048;
/// How long an address of a name may take to accept before the next one is tried beside it (RFC
/// 8305, 5).
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How long a tunnel keeps a pipe whose source has nothing to say.
pub const PIPE_IDLE: Duration = Duration::from_millis(100);
/// Most client connections a shard takes on, however many descriptors there are.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 1_000_000;
