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

// Owner: ring. Per shard.

/// Submission queue entries; a full queue is handed over at once, so this bounds a batch, not work.
pub const RING_ENTRIES: u32 = 2048;
/// Completion queue entries per submission entry: room for a burst of accepts and closes; beyond it
/// the kernel keeps them in a list of its own (NODROP).
pub const COMPLETIONS_PER_ENTRY: u32 = 4;
/// Buffers for heads and small bodies; a power of two. Idle connections hold none.
pub const RECV_BUFFERS: u16 = 256;
/// Bytes of each: the default `max_head`, so that nearly every head is parsed where it arrived.
pub const RECV_BUFFER_BYTES: u32 = 16 * 1024;
/// Buffers for bodies that are known to go on; a power of two.
pub const BULK_BUFFERS: u16 = 64;
/// Bytes of each.
pub const BULK_BUFFER_BYTES: u32 = 64 * 1024;
/// First capacity of a buffer that a head or reply is written into.
pub const OUT_BUFFER_BYTES: usize = 4 * 1024;
/// A larger one is freed instead of kept.
pub const OUT_BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// Most kept for the next request.
pub const OUT_BUFFERS_KEPT: usize = 256;
/// Pipes kept for the next bulk body.
pub const PIPES_KEPT: usize = 64;
/// Bytes asked for per pipe; what an ordinary user may ask for (`pipe-max-size`).
pub const PIPE_BYTES: usize = 1024 * 1024;
/// Longest sleep of a shard without any deadline.
pub const SLEEP_MAX: std::time::Duration = std::time::Duration::from_secs(60);

// Owner: shard. Per shard unless said otherwise.

/// Idle connections kept per backend.
pub const IDLE_PER_BACKEND_MAX: usize = 1024;
/// How long a backend connection may stay idle before it is closed.
pub const IDLE_BACKEND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often idle connections are looked through.
pub const IDLE_SWEEP: std::time::Duration = std::time::Duration::from_secs(1);
/// Pause after accept ran out of descriptors or memory (HAProxy: 100 ms).
pub const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Connections turned away in one go before that pause.
pub const SHED_BATCH: usize = 64;
/// A body that follows an answer of our own is read and dropped up to here; more closes.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// Bytes read and dropped after our side of a connection was closed, so that the client can read
/// our answer before a reset (nginx: lingering_close).
pub const LINGER_BYTES_MAX: u64 = 1024 * 1024;
/// How long that may take in all.
pub const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// Bodies with at least this much to come are spliced, smaller ones copied. Found by measurement.
pub const SPLICE_BYTES_MIN: u64 = 256 * 1024;
/// Copied into the same send as the response head, so that a small answer is one operation.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// How long a backend that refused a connection is passed over while others are there.
pub const EJECTION_TIME: std::time::Duration = std::time::Duration::from_secs(1);
/// Interim responses (1xx) in front of one final one.
pub const INTERIM_MAX: usize = 16;
/// Round-robin positions remembered; more rules than this start anew.
pub const TURNS_MAX: usize = 65_536;
/// Longest response head, bytes; backends are trusted further than clients.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
