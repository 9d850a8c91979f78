//! Sums over the bounds of several owners: descriptors and memory, divided among the shards.

use super::control::{
    MANAGEMENT_BODIES_BYTES_MAX, MANAGEMENT_CONNECTIONS_MAX, PROBES_AT_ONCE_MAX,
    management_connections, probes_at_once,
};
use super::http::TRAILER_BYTES_MAX;
use super::link::LOG_PAGE_BYTES_MAX;
use super::ring::{
    BULK_BUFFER_BYTES, BULK_BUFFERS, OUT_BUFFER_KEPT_BYTES, OUT_BUFFERS_KEPT, PIPES_MAX,
    RECV_BUFFER_BYTES, RECV_BUFFERS,
};
use super::shard::{CONNECTIONS_PER_SHARD_MAX, JOIN_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX};

/// Descriptors for the control shard: state, logs, management, lookups.
const DESCRIPTORS_OF_CONTROL: u64 = 64;
/// Descriptors for a shard itself: rings, wake-ups, listeners, and a spare descriptor.
const DESCRIPTORS_OF_SHARD: u64 = 32;

/// Descriptors that one shard may open.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct DescriptorShare {
    /// Client connections. There may be as many connections to backends.
    pub connections: usize,
    /// Pipes for bulk transfers.
    pub pipes: usize,
}

/// Divides the descriptors. From those that control and the shard itself leave, two fifths are for
/// clients, two fifths for backends, and the rest for pipes, which take two each.
pub fn descriptors_per_shard(descriptors: u64, shards: usize) -> DescriptorShare {
    let shards = shards.max(1) as u64;
    let management = management_connections(descriptors) as u64;
    let probes = probes_at_once(descriptors) as u64;
    let control = DESCRIPTORS_OF_CONTROL + management + probes;
    let left = (descriptors.saturating_sub(control) / shards).saturating_sub(DESCRIPTORS_OF_SHARD);
    let share = |part: u64| usize::try_from(left / part).unwrap_or(usize::MAX);
    let connections = share(5).saturating_mul(2).min(CONNECTIONS_PER_SHARD_MAX);
    DescriptorShare { connections, pipes: share(10).min(PIPES_MAX) }
}

/// Returns the descriptors that are needed for this many client connections on each shard: the
/// inverse of [`descriptors_per_shard`].
pub fn descriptors_needed(connections_per_shard: usize, shards: usize) -> u64 {
    let per_shard = (connections_per_shard as u64).saturating_mul(5).div_ceil(2);
    // Two fifths are for clients. Rounded up to whole fifths.
    let per_shard = per_shard.next_multiple_of(5).saturating_add(DESCRIPTORS_OF_SHARD);
    let control = DESCRIPTORS_OF_CONTROL + MANAGEMENT_CONNECTIONS_MAX + PROBES_AT_ONCE_MAX;
    per_shard.saturating_mul(shards.max(1) as u64).saturating_add(control)
}

/// Memory of an idle client connection, measured: its task, its slot, its timers.
const CONNECTION_BYTES: u64 = 2 * 1024;

/// Most memory of a client's connection and its backend's, besides `max_head`.
const CONNECTION_BYTES_MAX: u64 = {
    let both_connections = 2 * CONNECTION_BYTES;
    let response_head = 2 * RESPONSE_HEAD_BYTES_MAX as u64;
    let joined_body = JOIN_BYTES_MAX as u64;
    let trailers_of_both_bodies = 2 * TRAILER_BYTES_MAX as u64;
    // These are allocated if the ring has none left.
    let receive_buffers = 2 * RECV_BUFFER_BYTES as u64;
    both_connections + response_head + joined_body + trailers_of_both_bodies + receive_buffers
};

/// Memory of the buffers into which the ring of each shard receives.
const RING_BUFFERS_BYTES: u64 = {
    let heads_and_small_bodies = RECV_BUFFERS as u64 * RECV_BUFFER_BYTES as u64;
    let bulk_bodies = BULK_BUFFERS as u64 * BULK_BUFFER_BYTES as u64;
    heads_and_small_bodies + bulk_bodies
};

/// Most memory of the buffers of a shard.
const SHARD_BYTES_MAX: u64 = {
    let kept_for_the_next_request = OUT_BUFFERS_KEPT as u64 * OUT_BUFFER_KEPT_BYTES as u64;
    // One page is written while the other is taken away.
    let access_log_pages = 2 * LOG_PAGE_BYTES_MAX as u64;
    RING_BUFFERS_BYTES + kept_for_the_next_request + access_log_pages
};

/// Returns the user memory beside the table: first with all client connections idle, then with the
/// most that all of them can use at the same time, together with management.
pub fn memory(connections: usize, shards: usize, head_bytes_max: usize) -> (u64, u64) {
    let (connections, shards) = (connections as u64, shards as u64);
    let idle = connections * CONNECTION_BYTES + shards * RING_BUFFERS_BYTES;
    let busy_connections = connections * (CONNECTION_BYTES_MAX + head_bytes_max as u64);
    let busy_shards = shards * SHARD_BYTES_MAX;
    let management = MANAGEMENT_BODIES_BYTES_MAX as u64;
    (idle, busy_connections + busy_shards + management)
}
