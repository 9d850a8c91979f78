//! Bounds of `shard`. Per shard unless said otherwise.

use std::time::Duration;

/// Most idle connections to one backend that a shard keeps. The descriptors bound those to all
/// backends. Measured with 1,024: for 4,000 clients of one application, every twelfth request
/// opened a connection.
pub const IDLE_PER_BACKEND_MAX: usize = 32_768;
/// Time for which a backend connection may stay idle before it is closed.
pub const IDLE_BACKEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Margin before the moment at which a backend closes an idle connection (`Keep-Alive: timeout=N`),
/// so that no request is on its way at that moment. The margin is at most half of that time.
pub const IDLE_BACKEND_MARGIN: Duration = Duration::from_secs(1);
/// Time for which a connection gets only requests that may be repeated, after a response that
/// announced a body where none is allowed: a faulty backend sends that body some time later.
pub const DOUBT_TIME: Duration = Duration::from_secs(1);
/// Most backend connections that one client connection may keep for itself because it has
/// authenticated them (HAProxy's `max-session-srv-conns` is 5).
pub const OWN_BACKENDS_MAX: usize = 5;
/// Interval at which idle connections are looked through.
pub const IDLE_SWEEP: Duration = Duration::from_secs(1);
/// Pause after an accept failed for lack of descriptors or memory (HAProxy: 100 ms).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most connections that are turned away in one go before `ACCEPT_PAUSE`.
pub const SHED_BATCH: usize = 64;
/// Wait for the first request of a client when the shard stops. Usually the first request follows
/// its connection at once; connections that browsers open in advance are not worth a longer wait.
pub const FIRST_REQUEST_TIME: Duration = Duration::from_millis(100);
/// Most bytes of a request body that are discarded after a reply of Mantrid's own. If there are
/// more, the connection is closed.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// Longest silence of a client whose bytes are discarded after Mantrid has closed its own side of
/// the connection, so that the client can read the reply before a reset (nginx: lingering_timeout).
/// In total, discarding may take `timeout_client`.
pub const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// Longest time of discarding a client's bytes, in total, when the shard stops.
pub const LINGER_STOPPING: Duration = Duration::from_millis(500);
/// Longest time of discarding the bytes of a connection that was turned away.
pub const LINGER_SHED: Duration = Duration::from_secs(10);
/// Most connections turned away that linger at a time, per shard. The others are closed at once.
pub const SHED_LINGERING_MAX: usize = 64;
/// Interval at which Mantrid looks how much a client's kernel has acknowledged before a connection
/// is reset. A reset would drop the rest.
pub const TAKEN_LOOK: Duration = Duration::from_millis(20);
/// Bytes still to come from which on a body is spliced. Smaller bodies are copied. Measured,
/// splicing against copying, CPU per request at 32 connections: 64 KiB 31.8 and 37.8 µs, 128 KiB 40
/// and 62, 512 KiB 124 and 198. Bytes that come with the head (up to 20 KiB) are copied, unless the
/// response before was large, too.
pub const SPLICE_BYTES_MIN: u64 = 32 * 1024;
/// Bytes that one direction may splice before other tasks have their turn: about a millisecond, if
/// both sides are fast.
pub const SPLICE_TURN_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a body that are copied into the same send as the response head, so that a small
/// response is one operation.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a body that are copied behind the head. In front of a larger body the head is written
/// where the body was received, and the body is not copied: 16 KiB in chunks cost 0.94 of before.
pub const JOIN_COPY_BYTES_MAX: usize = 2 * 1024;
/// Most times that a request of a rule with `hold` is sent again after a new connection ended
/// without a response (HAProxy's `retries`). The cause may be one restart after another, but a
/// request that crashes the application must not do so for ever.
pub const SILENCES_MAX: u8 = 3;
/// Time for which a backend that refused a connection is passed over if there are others.
pub const EJECTION_TIME: Duration = Duration::from_secs(1);
/// Most further backends that a request tries at once if this machine could open no connection to
/// the one before. Looking for a free port in vain takes the kernel up to a millisecond.
pub const LOCAL_TRIES: u32 = 3;
/// Failures in a row, on one shard, after which a backend is ejected on all.
pub const EJECT_AFTER: u32 = 3;
/// Most failed backends that a shard remembers.
pub const FAILING_MAX: usize = 16_384;
/// Time for which a shard remembers a failure. Failures further apart do not count as in a row.
pub const FAILING_KEPT: Duration = Duration::from_secs(600);
/// Time for which a shard remembers whether an address belongs to this machine.
pub const LOCAL_KEPT: Duration = Duration::from_secs(10);
/// Most addresses of which a shard remembers whether they belong to this machine.
pub const LOCALS_MAX: usize = 4096;
/// Interval at which a shard reports to control that a request would have gone to this daemon
/// itself.
pub const LOOP_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Most bytes in the heads of the interim responses (1xx) before one final response. Any number of
/// them is allowed (RFC 9110 §15.2), such as a 103 for each asset, or a 102 as long as the work
/// takes. The bound is for a backend that sends nothing else. A 102 every second reaches it in ten
/// hours.
pub const INTERIM_BYTES_MAX: usize = 1024 * 1024;
/// Most rules with `round_robin` whose positions a shard remembers, and most that all shards
/// together remember. The positions of others start anew.
pub const TURNS_MAX: usize = 65_536;
/// Longest response head, bytes. It is longer than `max_head` because backends are trusted more
/// than clients.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Number of slots in use above which slots that were idle between two looks are given back. So 32
/// MiB stay.
pub const SLOTS_KEPT: usize = 65_536;
/// Most bytes of the access log that a shard keeps back while its page is being taken away.
pub const LOG_BACK_BYTES_MAX: usize = 64 * 1024;
/// Longest user agent, referer or traceparent in a line of the access log, bytes. A longer one is
/// cut off.
pub const LOG_FIELD_BYTES_MAX: usize = 512;
/// Longest target in a line of the access log, bytes. A longer one is cut off.
pub const LOG_TARGET_BYTES_MAX: usize = 2048;
/// Time that an address of a name has to accept before the next address is tried in parallel (RFC
/// 8305 §5).
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Time for which a tunnel keeps a pipe while its source sends nothing.
pub const PIPE_IDLE: Duration = Duration::from_millis(100);
/// Most client connections of a shard, however many descriptors there are.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 1_000_000;
