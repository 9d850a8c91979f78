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

/// What the client spoke to reach us; a rule named `http://NAME`, `https://NAME`, `tcp://NAME` or `tls://NAME`
/// applies to one of them.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, as a TLS terminator in front of us said.
    Https,
    /// Bytes, on an address that stands for a host.
    Tcp,
    /// TLS that is passed through, by the name in its ClientHello.
    Tls,
}

impl Scheme {
    /// Whether what is under it is encrypted on its way from the client.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Tls)
    }
}

// Owner: state.

/// Largest number of a change: what any reader of JSON holds exactly. No table is changed so often.
pub const SEQUENCE_MAX: u64 = 1 << 53;

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
pub const PIPES_KEPT: usize = 512;
/// A pipe of less is no use: the kernel gives an ordinary user tiny ones past `pipe-user-pages-soft`.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Bytes asked for per pipe; what an ordinary user may ask for (`pipe-max-size`).
pub const PIPE_BYTES: usize = 1024 * 1024;
/// Longest sleep of a shard without any deadline.
pub const SLEEP_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// How long after its last turn a shard looks twice for what has come before it believes its deadlines.
pub const STOOD_STILL: std::time::Duration = std::time::Duration::from_millis(200);

// Owner: shard. Per shard unless said otherwise.

/// Idle connections to one backend that a shard keeps; descriptors bound them all. With 1,024 of them 4,000 clients of
/// one application had a connection opened for every twelfth request, measured.
pub const IDLE_PER_BACKEND_MAX: usize = 32_768;
/// How long a backend connection may stay idle before it is closed.
pub const IDLE_BACKEND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often idle connections are looked through.
pub const IDLE_SWEEP: std::time::Duration = std::time::Duration::from_secs(1);
/// Pause after accept ran out of descriptors or memory (HAProxy: 100 ms).
pub const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Connections turned away in one go before that pause.
pub const SHED_BATCH: usize = 64;
/// How long a client that has not asked for anything yet is waited for when the shard stops: its first request follows
/// its connection at once, while connections that browsers open ahead are not worth a longer stop.
pub const FIRST_REQUEST_TIME: std::time::Duration = std::time::Duration::from_millis(100);
/// A body that follows an answer of our own is read and dropped up to here; more closes.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// Bytes read and dropped after our side of a connection was closed, so that the client can read
/// our answer before a reset (nginx: lingering_close).
pub const LINGER_BYTES_MAX: u64 = 1024 * 1024;
/// How long that may take in all.
pub const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// Bodies with at least this much to come are spliced, smaller ones copied. Measured, splicing against
/// copying, CPU per request at 32 connections: 64 KiB 31.8 and 37.8 µs, 128 KiB 40 and 62, 512 KiB 124
/// and 198. What comes with the head (up to 16 KiB) is copied, unless the answer before was as large.
pub const SPLICE_BYTES_MIN: u64 = 32 * 1024;
/// Bytes taken with the head of an answer that is expected to be spliced; most heads are shorter.
pub const PEEK_BYTES: u32 = 1024;
/// Copied into the same send as the response head, so that a small answer is one operation.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// How often a request of a rule with `hold` is sent again that a new connection ended on without an answer (HAProxy's
/// `retries`). It may meet restart after restart; and one that brings the application down must not do so for ever.
pub const SILENCES_MAX: u8 = 3;
/// How long a backend that refused a connection is passed over while others are there.
pub const EJECTION_TIME: std::time::Duration = std::time::Duration::from_secs(1);
/// Failures in a row, on one shard, after which a backend is ejected on all.
pub const EJECT_AFTER: u32 = 3;
/// Backends that a shard remembers to have failed.
pub const FAILING_MAX: usize = 16_384;
/// How long it remembers: failures further apart are not in a row.
pub const FAILING_KEPT: std::time::Duration = std::time::Duration::from_secs(600);
/// Interim responses (1xx) in front of one final one.
pub const INTERIM_MAX: usize = 16;
/// Round-robin positions remembered; more rules than this start anew.
pub const TURNS_MAX: usize = 65_536;
/// Longest response head, bytes; backends are trusted further than clients.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

// Owner: link. Per shard.

/// Slots in which a shard counts by host, and as many by backend: 256 bytes each, made as needed.
pub const SLOTS_MAX: u32 = 1 << 20;
/// With more in use, those that were idle between two looks are given back: 16 MiB stay.
pub const SLOTS_KEPT: usize = 65_536;
/// Rules with `max_requests_per_second` whose rates a shard remembers; all shards together keep those that
/// are not at rest besides.
pub const RATES_KEPT: usize = 16_384;
/// Bytes of the access log that wait for its writer, per shard: a second of 30,000 requests.
pub const LOG_PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a shard keeps back while its page is being taken away.
pub const LOG_BACK_BYTES_MAX: usize = 64 * 1024;
/// Longest target in a line of the access log, bytes; of longer ones the beginning is there.
pub const LOG_TARGET_BYTES_MAX: usize = 2048;
/// How often the writer of the access log takes away what the shards wrote.
pub const LOG_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
/// How long the writer of the access log waits for a pipe that is full, before lines are lost.
pub const LOG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
/// Longest X-Request-Id that is taken over, bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// News that wait for control, of all shards: 160 KiB.
pub const NEWS_MAX: usize = 4096;

// Owner: http.

/// Most options in all Connection fields of one head, beyond which some would name fields for ever.
pub const CONNECTION_OPTIONS_MAX: usize = 32;
/// Longest line of a chunk size with its extensions, bytes; nobody uses extensions.
pub const CHUNK_LINE_BYTES_MAX: u32 = 1024;
/// Longest trailer section, bytes.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;
/// Longest `.http` page, bytes: it is kept in memory and copied to send.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

// Owner: control.

/// How long the start waits for backend names to be looked up.
pub const RESOLVE_AT_START: std::time::Duration = std::time::Duration::from_secs(5);
/// How long a change waits for the names of its backends to be looked up.
pub const RESOLVE_AT_CHANGE: std::time::Duration = std::time::Duration::from_secs(2);
/// How often names are looked up again.
pub const RESOLVE_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
/// How soon, while one has no address.
pub const RESOLVE_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Lookups at a time.
pub const RESOLVE_AT_ONCE: usize = 64;
/// Changes that wait for the writer; askers beyond them wait for room.
pub const CHANGES_WAITING_MAX: usize = 4096;
/// Changes written down with one sync.
pub const CHANGES_AT_ONCE: usize = 1024;
/// Rules in them, after which no more changes are added.
pub const EDITS_AT_ONCE: usize = 65_536;
/// A change of more rules than this is told without them.
pub const EDITS_TOLD_MAX: usize = 100;
/// After a change of more rules than this shards are woken to let go of the old table.
pub const EDITS_WORTH_A_WAKE: usize = 1000;
/// Tables no longer in force that shards may hold on to before they are woken to let go.
pub const OLD_TABLES_MAX: usize = 256;
/// Pause between attempts to write the whole state anew.
pub const REWRITE_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// How often statistics are saved.
pub const SAVE_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
/// Hosts whose statistics are saved at a time; more wait for the next.
pub const SAVED_AT_ONCE: usize = 50_000;
/// Hosts whose statistics are read under one lock.
pub const STATISTICS_AT_ONCE: usize = 8192;
/// Backends that are counted for when no shard knows them any more.
pub const BACKENDS_TOLD_MAX: usize = 10_000;
/// Backends in an answer, about 2 MB; those that can't be used come first, then the busiest. Known are at
/// most those of the rules with a `check`, `EJECTED_MAX`, `BACKENDS_TOLD_MAX`, and `SLOTS_MAX` per shard.
pub const BACKENDS_LISTED_MAX: usize = 10_000;
/// Longest body of a management request: a table of a million rules is about 100 MB.
pub const MANAGEMENT_BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest body that is one rule: of 1024 backends with names it is about 300 KB.
pub const RULE_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of management bodies read at a time, all together.
pub const MANAGEMENT_BODIES_BYTES_MAX: usize = 2 * MANAGEMENT_BODY_BYTES_MAX;
/// For the head of a management request to arrive.
pub const MANAGEMENT_HEAD_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// For its body.
pub const MANAGEMENT_BODY_TIME: std::time::Duration = std::time::Duration::from_secs(300);
/// How long a management client may take nothing of what it is sent.
pub const MANAGEMENT_WRITE_TIME: std::time::Duration = std::time::Duration::from_secs(30);
/// Bytes of a body that is not wanted which are read and dropped, so that the answer is.
pub const MANAGEMENT_DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long that may take.
pub const MANAGEMENT_DISCARD_TIME: std::time::Duration = std::time::Duration::from_secs(2);
/// Longer bodies are read on another thread.
pub const PARSED_HERE_BYTES_MAX: usize = 64 * 1024;
/// More rules are listed on another thread.
pub const LISTED_HERE_MAX: usize = 2000;
/// Rules are sent in pieces of this size.
pub const LISTING_PIECE_BYTES: usize = 128 * 1024;
/// Longest wait for removed backends to have nothing under way.
pub const DRAIN_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(3600);
/// That wait when none is given.
pub const DRAIN_WAIT: std::time::Duration = std::time::Duration::from_secs(30);
/// Events kept for a reader that is slow.
pub const EVENTS_KEPT: usize = 1024;
/// Readers of events at a time.
pub const EVENT_READERS_MAX: usize = 64;
/// Hosts that a reader of events can follow.
pub const EVENT_HOSTS_MAX: usize = 500;
/// Busiest hosts that are told of, at most.
pub const BUSIEST_MAX: usize = 1000;
/// Busiest hosts and backends with series of their own in the metrics.
pub const METRIC_HOSTS: usize = 100;
/// How often a backend with a `check` is probed (HAProxy's `inter`).
pub const CHECK_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// The same while it is about to go down or come back (`fastinter`).
pub const CHECK_SOON: std::time::Duration = std::time::Duration::from_millis(500);
/// The same while it is down (`downinter`), and one that was ejected.
pub const CHECK_DOWN: std::time::Duration = std::time::Duration::from_secs(1);
/// Probes in a row that must fail for a backend to go down (`fall`).
pub const CHECK_FALL: u32 = 3;
/// Probes in a row that must succeed for it to come back (`rise`).
pub const CHECK_RISE: u32 = 2;
/// For a probe to be answered.
pub const PROBE_TIME: std::time::Duration = std::time::Duration::from_secs(2);
/// How long a connection must stay open for a probe that sends nothing to call it accepted.
pub const PROBE_QUIET: std::time::Duration = std::time::Duration::from_millis(100);
/// Longest head of an answer to a probe, bytes.
pub const PROBE_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Probes begun in a tenth of a second: a few percent of a CPU. Where more are due they wait, and so
/// the intervals stretch.
pub const PROBES_PER_TENTH: u32 = 200;
/// How often the addresses behind checked names are looked at.
pub const CHECK_NAMES_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// Ejected backends at a time, besides those with a `check`.
pub const EJECTED_MAX: usize = 16_384;
/// A backend that gives no answer again so soon after it was found to accept connections has relapsed.
pub const RELAPSE_TIME: std::time::Duration = std::time::Duration::from_secs(60);
/// The pause before it is probed doubles with each relapse, so often.
pub const RELAPSES_MAX: u32 = 4;
/// How often it is found out which of them no rule uses any more.
pub const EJECTED_LOOK: std::time::Duration = std::time::Duration::from_secs(600);
/// Backends with a series that says whether they are up, those that are not first.
pub const METRIC_BACKENDS_PROBED: usize = 1000;
/// How long a tunnel keeps a pipe whose source has nothing to say.
pub const PIPE_IDLE: std::time::Duration = std::time::Duration::from_millis(100);
/// Held requests let go per second where no other rate is given: ten thousand in five eighths of a second.
/// All at once they would overflow the queue of an application that has just begun to listen, and a
/// connection that finds it full is tried again only after a second.
pub const RELEASE_RATE: u32 = 16_000;
/// So many at most are let go at once: half of the accept queue that most applications ask for.
pub const RELEASE_BURST: u32 = 64;
/// A release that was late catches up on so much of it at once, if that is less.
pub const RELEASE_CATCHES_UP: std::time::Duration = std::time::Duration::from_millis(100);
/// How long a request waits behind others that are let go at a pace, at most: as for `spin`.
pub const BEHIND_TIME: std::time::Duration = std::time::Duration::from_secs(120);
/// How often a backend is probed that requests wait for.
pub const HELD_PROBE_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
/// For an address that is told by POST to answer.
pub const WAKE_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// The pause before it is told again; doubled with each failure, up to the next.
pub const WAKE_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// The longest such pause.
pub const WAKE_AGAIN_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// Addresses told at a time; more wait.
pub const WAKES_AT_ONCE: usize = 64;
/// Hosts of which it is remembered that their address was told; past it those whose rule is another go.
pub const WAKES_TOLD_MAX: usize = 10_000;
/// How often the folder of pages is looked at.
pub const PAGES_LOOK: std::time::Duration = std::time::Duration::from_secs(2);
/// Rules of a state file that are not used and told one by one; the rest are counted.
pub const REJECTED_TOLD_MAX: usize = 20;
/// A journal of fewer bytes is not folded, however small the table: reading it takes less than 0.1 s.
pub const FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// The buffer that a commit is written from is kept up to this size; a whole table's is freed.
pub const COMMIT_BUFFER_KEPT_BYTES: usize = 1024 * 1024;
/// How long requests to the API may take to end before another process takes over.
pub const MANAGEMENT_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// How long a new process may take until it is ready to take over.
pub const UPGRADE_TIME: std::time::Duration = std::time::Duration::from_secs(60);
/// How long one that did not get ready has to say why, and end, before it is killed.
pub const LAST_WORDS_TIME: std::time::Duration = std::time::Duration::from_secs(2);
/// Hosts whose last counters are handed over in one message: 300 bytes each at most.
pub const COUNTED_AT_ONCE: usize = 1000;
/// Most descriptors in one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_AT_ONCE: usize = 253;
/// How long shards that were told to stop at once may take.
pub const STOP_TIME: std::time::Duration = std::time::Duration::from_secs(2);

// Owner: control, of a fleet.

/// Most bytes of one value in etcd, which takes requests of 1.5 MiB.
pub const FLEET_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of log from which on folding it is worth while, however small the table.
pub const FLEET_FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Entries of the log that outlive a fold, so that a node that was away need not load the whole table.
pub const FLEET_LOG_KEPT: u64 = 10_000;
/// Most bytes of them.
pub const FLEET_LOG_KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes a second at which a table is written to etcd: changes go on meanwhile.
pub const FLEET_FOLD_BYTES_PER_SECOND: f64 = 20e6;
/// Rules that a start writes to the state file before the first request; larger tables are written later.
pub const FLEET_WRITTEN_HERE_MAX: usize = 20_000;
/// Pieces of a large change that are written at a time.
pub const FLEET_PIECES_AT_ONCE: usize = 3;
/// How often a node looks whether the log should be folded.
pub const FLEET_FOLD_LOOK: std::time::Duration = std::time::Duration::from_secs(4);
/// Chunks are written anew when their entry's sequence has moved on by more than this.
pub const FLEET_CHUNKS_BEHIND_MAX: u64 = 100;
/// Entries of the log that are read by one call: of at most 1 MiB each.
pub const FLEET_ENTRIES_AT_ONCE: i64 = 16;
/// Entries that a start reads one by one before the first request; beyond that it loads the table.
pub const FLEET_CATCH_UP_HERE: u64 = 5000;
/// How often a change is tried anew that other nodes were faster with.
pub const FLEET_TRIES: u32 = 16;
/// Tries after which a node asks the others to let it pass.
pub const FLEET_TRIES_BEFORE_TURN: u32 = 3;
/// The longest that a node lets another one pass.
pub const FLEET_TURN_TIME: std::time::Duration = std::time::Duration::from_millis(500);
/// For a change to reach etcd, with all tries at all members.
pub const FLEET_COMMIT_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// A watch that has not brought a change so long after its commit is begun anew.
pub const FLEET_APPLY_SOON: std::time::Duration = std::time::Duration::from_secs(2);
/// For a change that is in etcd to be in force on the node that made it.
pub const FLEET_APPLY_TIME: std::time::Duration = std::time::Duration::from_secs(60);
/// First pause before etcd is tried again, and the longest one.
pub const FLEET_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);
/// The longest one.
pub const FLEET_AGAIN_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// A watch that brings nothing for so long is dead: this node's own heartbeats come by it.
pub const FLEET_SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(30);
/// Time between heartbeats, and how much of it is chance.
pub const FLEET_BEAT: std::time::Duration = std::time::Duration::from_secs(10);
/// How much of it is chance.
pub const FLEET_BEAT_JITTER: std::time::Duration = std::time::Duration::from_secs(4);
/// A node that is not heard of for so long is gone.
pub const FLEET_LEASE_SECONDS: i64 = 30;
/// How often the copy on disk is brought up to date.
pub const FLEET_KEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// For names that a change of another node brings, before it is in force here.
pub const FLEET_LOOKUP_TIME: std::time::Duration = std::time::Duration::from_millis(250);
/// For all nodes to have a change, where they are waited for and no time is named.
pub const FLEET_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Edits that may wait for that.
pub const FLEET_EDITS_UNKEPT_MAX: usize = 20_000;

// Owner: daemon.

/// Queue of connections not yet accepted, per shard and address; `net.core.somaxconn` caps it.
pub const BACKLOG: i32 = 4096;
/// How long a port may be in use by no process that is there, before that is an error.
pub const BIND_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
/// How often it is tried meanwhile.
pub const BIND_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);
/// Memory that must be lockable: what glommio asks for before it makes its rings.
pub const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Descriptors for the control shard: state, logs, management, lookups.
const DESCRIPTORS_OF_CONTROL: u64 = 64;
/// Descriptors for a shard itself: rings, wake-ups, listeners, the spare one.
const DESCRIPTORS_OF_SHARD: u64 = 32;

/// What one shard may open.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct DescriptorShare {
    /// Client connections, and as many to backends.
    pub connections: usize,
    /// Pipes for bulk transfers.
    pub pipes: usize,
}

/// Shares descriptors out: of what control and the shard itself leave, two fifths for clients, as much
/// for backends, and the rest for pipes of two descriptors each.
pub fn descriptors_per_shard(descriptors: u64, shards: usize) -> DescriptorShare {
    let shards = shards.max(1) as u64;
    let more = management_connections(descriptors) + probes_at_once(descriptors);
    let control = DESCRIPTORS_OF_CONTROL + more as u64;
    let left = (descriptors.saturating_sub(control) / shards).saturating_sub(DESCRIPTORS_OF_SHARD);
    let share = |part: u64| usize::try_from(left / part).unwrap_or(usize::MAX);
    let connections = share(5).saturating_mul(2).min(CONNECTIONS_PER_SHARD_MAX);
    DescriptorShare { connections, pipes: share(10).min(PIPES_MAX) }
}

/// Management connections at a time, so that there are always descriptors for them; more wait.
pub fn management_connections(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, MANAGEMENT_CONNECTIONS_MAX) as usize
}

/// However many descriptors there are.
const MANAGEMENT_CONNECTIONS_MAX: u64 = 128;

/// Probes of backends at a time; more wait.
pub fn probes_at_once(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, PROBES_AT_ONCE_MAX) as usize
}

/// However many descriptors there are.
const PROBES_AT_ONCE_MAX: u64 = 256;

/// Memory for each client connection that is idle: its task, its slot, its timers; measured.
const CONNECTION_BYTES: u64 = 2 * 1024;
/// For one and its backend's at their worst, besides `max_head`: the head of an answer, what is joined to it, and two
/// buffers of its own where the ring has none left.
const CONNECTION_BYTES_MAX: u64 = 2 * CONNECTION_BYTES
    + 2 * RESPONSE_HEAD_BYTES_MAX as u64
    + JOIN_BYTES_MAX as u64
    + 2 * RECV_BUFFER_BYTES as u64;
/// Buffers of a shard: the ring's, those kept for the next request, lines of the access log.
const SHARD_BYTES_MAX: u64 = RECV_BUFFERS as u64 * RECV_BUFFER_BYTES as u64
    + BULK_BUFFERS as u64 * BULK_BUFFER_BYTES as u64
    + OUT_BUFFERS_KEPT as u64 * OUT_BUFFER_KEPT_BYTES as u64
    + 2 * LOG_PAGE_BYTES_MAX as u64;

/// User memory beside the table: with all client connections idle, and with each at its worst at the same time and
/// as much management as there may be.
pub fn memory(connections: usize, shards: usize, head_bytes_max: usize) -> (u64, u64) {
    let (connections, shards) = (connections as u64, shards as u64);
    let rings = RECV_BUFFERS as u64 * u64::from(RECV_BUFFER_BYTES)
        + BULK_BUFFERS as u64 * u64::from(BULK_BUFFER_BYTES);
    let each = CONNECTION_BYTES_MAX + head_bytes_max as u64;
    let most = connections * each + shards * SHARD_BYTES_MAX + MANAGEMENT_BODIES_BYTES_MAX as u64;
    (connections * CONNECTION_BYTES + shards * rings, most)
}

/// Most client connections a shard takes on, however many descriptors there are.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 1_000_000;
/// Most pipes in use at a time; beyond them bulk bodies are copied.
pub const PIPES_MAX: usize = 1024;
/// Most shards: more than the CPUs of any machine this was made for, and few enough that their
/// descriptors and rings can be counted.
pub const SHARDS_MAX: usize = 1024;
/// With fewer the log says how to get more.
pub const DESCRIPTORS_FEW: u64 = 4096;
/// Where the limit can't be read.
pub const DESCRIPTORS_ASSUMED: u64 = 1024;

/// How many descriptors give each shard so many client connections: the inverse of
/// [`descriptors_per_shard`].
pub fn descriptors_needed(connections_per_shard: usize, shards: usize) -> u64 {
    let per_shard = (connections_per_shard as u64).saturating_mul(5).div_ceil(2);
    // Two fifths are clients': rounded up to whole fifths.
    let per_shard = per_shard.next_multiple_of(5).saturating_add(DESCRIPTORS_OF_SHARD);
    let control = DESCRIPTORS_OF_CONTROL + MANAGEMENT_CONNECTIONS_MAX + PROBES_AT_ONCE_MAX;
    per_shard.saturating_mul(shards.max(1) as u64).saturating_add(control)
}
