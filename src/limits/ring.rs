//! Bounds of `ring`. Per shard.

use std::time::Duration;

/// Submission queue entries; a full queue is handed over at once, so this bounds a batch, not work.
pub const RING_ENTRIES: u32 = 2048;
/// Completion queue entries per submission entry: room for a burst of accepts and closes; beyond it
/// the kernel keeps them in a list of its own (NODROP).
pub const COMPLETIONS_PER_ENTRY: u32 = 4;
/// Buffers for heads and small bodies; a power of two. Idle connections hold none.
pub const RECV_BUFFERS: u16 = 256;
/// Bytes of each receive buffer: room for a head of the default `max_head`, which is then parsed
/// where it arrived, and for a response of 16 KiB, as many programs write them, with its head. Such
/// a response is one receive and one send: 0.89 of the CPU time that it took with 16 KiB.
pub const RECV_BUFFER_BYTES: u32 = 20 * 1024;
/// Buffers for bodies that are known to go on; a power of two.
pub const BULK_BUFFERS: u16 = 64;
/// Bytes of each bulk buffer.
pub const BULK_BUFFER_BYTES: u32 = 64 * 1024;
/// First capacity of a buffer that a head or reply is written into.
pub const OUT_BUFFER_BYTES: usize = 4 * 1024;
/// Largest output buffer that is kept; a larger one is freed.
pub const OUT_BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// Most output buffers kept for the next request.
pub const OUT_BUFFERS_KEPT: usize = 256;
/// Pipes kept for the next bulk body.
pub const PIPES_KEPT: usize = 512;
/// Smallest pipe that is of use: the kernel gives an ordinary user tiny ones past
/// `pipe-user-pages-soft`.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Bytes asked for per pipe; what an ordinary user may ask for (`pipe-max-size`).
pub const PIPE_BYTES: usize = 1024 * 1024;
/// Longest sleep of a shard without any deadline.
pub const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Time since its last turn after which a shard looks twice for completions before it believes its
/// deadlines.
pub const STOOD_STILL: Duration = Duration::from_millis(200);
/// Bytes of a buffer that received bytes are dropped into: they are not copied there (`MSG_TRUNC`).
pub const SINK_BYTES: usize = 16 * 1024;
/// How often the sink is filled before a connection is closed.
pub const SINK_FILLS_MAX: usize = 1024;
/// First pause before a connection to a Unix socket is tried again whose queue is full; each pause
/// is twice as long as the one before.
pub const UNIX_AGAIN_FIRST: Duration = Duration::from_millis(1);
/// Longest such pause.
pub const UNIX_AGAIN_MAX: Duration = Duration::from_millis(64);
/// Bytes that a receive which goes on by itself (multishot) brings before it has to be armed again:
/// the most that a client can have a shard take in before its turn.
pub const FLOW_BYTES: u32 = 2 * RECV_BUFFER_BYTES;
/// Small messages after which receives go on by themselves: one that then brings a large body
/// copies what could have been spliced.
pub const SMALL_MESSAGES: u8 = 4;
/// Bytes taken with the head of a response that is expected to be spliced; most heads are shorter.
pub const PEEK_BYTES: u32 = 1024;
/// Most pipes in use at a time; beyond them bulk bodies are copied.
pub const PIPES_MAX: usize = 1024;
