//! Bounds of `ring`. Per shard.

use std::time::Duration;

/// Submission queue entries. A full queue is submitted at once, so this only bounds the size of a
/// batch.
pub const RING_ENTRIES: u32 = 2048;
/// Completion queue entries per submission entry, which is room for a burst of accepts and closes.
/// Further completions are kept by the kernel in a list of its own (NODROP).
pub const COMPLETIONS_PER_ENTRY: u32 = 4;
/// Number of buffers for heads and small bodies, a power of two. Idle connections hold none.
pub const RECV_BUFFERS: u16 = 256;
/// Bytes of each receive buffer: room for a head of the default `max_head`, which is then parsed
/// where it arrived, and for a response of 16 KiB, as many programs write them, with its head. Such
/// a response is one receive and one send: 0.89 of the CPU time that it took with 16 KiB.
pub const RECV_BUFFER_BYTES: u32 = 20 * 1024;
/// Number of buffers for bodies of which more is to come, a power of two.
pub const BULK_BUFFERS: u16 = 64;
/// Bytes of each bulk buffer.
pub const BULK_BUFFER_BYTES: u32 = 64 * 1024;
/// First capacity of a buffer into which a head or reply is written.
pub const OUT_BUFFER_BYTES: usize = 4 * 1024;
/// Largest output buffer that is kept. A larger one is freed.
pub const OUT_BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// Most output buffers kept for the next request.
pub const OUT_BUFFERS_KEPT: usize = 256;
/// Most pipes kept for the next bulk body.
pub const PIPES_KEPT: usize = 512;
/// Smallest pipe that is useful: above `pipe-user-pages-soft` the kernel gives an ordinary user
/// only tiny pipes.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Bytes that are asked for per pipe: the most that an ordinary user may ask for (`pipe-max-size`).
pub const PIPE_BYTES: usize = 1024 * 1024;
/// Longest sleep of a shard without any deadline.
pub const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Time since the last turn after which a shard looks for completions once more before it checks
/// its deadlines.
pub const STOOD_STILL: Duration = Duration::from_millis(200);
/// Bytes of the buffer for received bytes that are dropped. They are not copied into it
/// (`MSG_TRUNC`).
pub const SINK_BYTES: usize = 16 * 1024;
/// Most times that the buffer for dropped bytes is filled before a connection is closed.
pub const SINK_FILLS_MAX: usize = 1024;
/// First pause before a connection to a Unix socket is tried again if its queue is full. Each
/// further pause is twice as long as the one before.
pub const UNIX_AGAIN_FIRST: Duration = Duration::from_millis(1);
/// Longest pause before a connection to such a Unix socket is tried again.
pub const UNIX_AGAIN_MAX: Duration = Duration::from_millis(64);
/// Bytes after which a multishot receive has to be armed again: the most that a shard takes from a
/// client before that client's next turn.
pub const FLOW_BYTES: u32 = 2 * RECV_BUFFER_BYTES;
/// Number of small messages after which receives are multishot. If a large body comes after that,
/// bytes are copied that could have been spliced.
pub const SMALL_MESSAGES: u8 = 4;
/// Bytes that are received with the head of a response that will probably be spliced. Most heads
/// are shorter.
pub const PEEK_BYTES: u32 = 1024;
/// Most pipes in use at a time. Beyond them bulk bodies are copied.
pub const PIPES_MAX: usize = 1024;
