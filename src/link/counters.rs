//! Counters of the shards. Only the shard that owns a counter writes it, so that counting needs no
//! locked instruction, and no two shards share a cache line; any thread may read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::times::{SlotTime, TIME_CLASSES, TIMES, micros_of};
use crate::http::Refusal;

/// A counter that each shard has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Counter {
    /// Client connections accepted.
    Accepted,
    /// Client connections open now.
    Open,
    /// Requests whose head was complete and accepted.
    Requests,
    /// Heads and bodies refused.
    Refused,
    /// Connections opened to backends.
    Connects,
    /// Requests sent on an idle connection.
    Reused,
    /// Attempts to connect that failed.
    ConnectFailures,
    /// Requests sent once more because the idle connection turned out dead.
    Retries,
    /// Tasks that panicked and were caught.
    Panics,
    /// Requests that ended, answered or not.
    Completed,
    /// Bytes sent to clients.
    Sent,
    /// Bytes received from clients.
    Received,
    /// Final responses and replies with a 2xx status.
    Answers2xx,
    /// Final responses and replies with a 3xx status.
    Answers3xx,
    /// Final responses and replies with a 4xx status, refusals included.
    Answers4xx,
    /// Final responses and replies with a 5xx status.
    Answers5xx,
    /// Replies to requests that match no rule. The four classes above do not count these.
    AnswersUnknown,
    /// Microseconds that the shard's thread spent on a CPU since it started, in the kernel too.
    CpuMicros,
    /// Microseconds that the shard's thread spent off the CPU since the shard started. Never goes
    /// back.
    AsleepMicros,
    /// Microseconds from the start of the shard to the last update of `CpuMicros` and
    /// `AsleepMicros`.
    AliveMicros,
    /// Thread ID of the shard in the kernel (`gettid`).
    Thread,
    /// Calls of `io_uring_enter`.
    RingEnters,
    /// Completions taken from the ring.
    RingCompletions,
    /// Receives that allocated memory because every buffer of the ring was in use.
    ReceiveBuffersMissed,
    /// Connections to backends that are idle now.
    IdleConnections,
    /// Requests that wait for a permit of a backend now.
    Queued,
    /// Pipes in use now.
    Pipes,
    /// Requests missing from the counts by host, because no slot was free for their host.
    Uncounted,
    /// Reports to control that were dropped because control was too far behind.
    NewsDropped,
    /// Lines of the access log that were dropped because the shard's buffer was full.
    LogDropped,
    /// Requests held now.
    Held,
    /// Times that a request was held.
    HeldTotal,
    /// Held requests that were released.
    HeldReleased,
    /// Held requests whose time ran out.
    HeldTimedOut,
    /// Requests that were refused instead of held, because a limit on held requests was reached.
    HeldRefused,
    /// Held requests whose client left.
    HeldLeft,
    /// Requests that ended with a 5xx, or by the fault of a backend or of Mantrid without one.
    Errors,
}

const COUNTERS: usize = Counter::Errors as usize + 1;

/// Reason for which a connection or a request was turned away.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Shed {
    /// A connection above `max_connections`.
    Room,
    /// A connection for which no descriptor was free.
    Descriptors,
    /// A connection above `max_connections_per_source`.
    Source,
    /// A connection to an `accept-proxy` address from a peer that is not in `trusted_sources`.
    Untrusted,
    /// A request or raw connection whose client is denied by `allow` or `deny` of the rule.
    Access,
    /// A request above `max_requests_per_second`.
    Rate,
    /// A request above `max_requests_per_second_per_source`.
    SourceRate,
    /// A request that got no permit in time, from a backend with `max_connections` or from a rule
    /// with `max_open_requests`.
    Queue,
    /// A request for which this machine could open no connection: no descriptor, port or
    /// permission.
    Local,
    /// A connection that its client reset before Mantrid had read the client's address.
    Vanished,
}

impl Shed {
    /// All reasons, with their names in the metrics.
    pub(crate) const ALL: [(Shed, &str); 10] = [
        (Shed::Room, "max_connections"),
        (Shed::Descriptors, "descriptors"),
        (Shed::Source, "max_connections_per_source"),
        (Shed::Untrusted, "trusted_sources"),
        (Shed::Access, "access_denied"),
        (Shed::Rate, "max_requests_per_second"),
        (Shed::SourceRate, "max_requests_per_second_per_source"),
        (Shed::Queue, "backend_queue"),
        (Shed::Local, "local_connect"),
        (Shed::Vanished, "client_vanished"),
    ];

    /// Reasons for which Mantrid turns a whole connection away, counted by `connections_shed`.
    pub(crate) const CONNECTIONS: [Shed; 4] =
        [Shed::Room, Shed::Descriptors, Shed::Source, Shed::Untrusted];
}

/// Author of a final response to a client.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Author {
    Backend,
    /// Mantrid itself, with a reply of its own.
    Mantrid,
}

impl Author {
    pub(crate) const ALL: [(Author, &str); 2] =
        [(Author::Backend, "backend"), (Author::Mantrid, "mantrid")];
}

/// Lowest status that is counted separately.
const STATUS_MIN: u16 = 100;
/// Number of statuses that are counted separately: all of three digits.
const STATUSES: usize = 900;
/// Most kinds of endings that can be counted.
const ENDINGS_MAX: usize = 64;
const REFUSALS: usize = Refusal::ALL.len();

/// The counters of one shard. Aligned to 128 bytes so that no two shards share a cache line: CPUs
/// prefetch lines of 64 bytes in pairs.
#[repr(align(128))]
pub(crate) struct Counters {
    counts: [AtomicU64; COUNTERS],
    refusals: [AtomicU64; REFUSALS],
    shed: [AtomicU64; Shed::ALL.len()],
    /// Final responses by author and status.
    statuses: [[AtomicU64; STATUSES]; Author::ALL.len()],
    /// Requests that ended, by the position of their ending in the shard's table of endings.
    endings: [AtomicU64; ENDINGS_MAX],
    /// Names of the endings. The shard sets them, because the table of endings belongs to it.
    ending_names: OnceLock<&'static [&'static str]>,
    /// Sum of each kind of time, in microseconds.
    time_sums: [AtomicU64; TIMES],
    /// Counts by class of time: the cells of all histograms.
    time_classes: [AtomicU64; TIME_CLASSES],
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = |_| AtomicU64::new(0);
        Counters {
            counts: std::array::from_fn(zero),
            refusals: std::array::from_fn(zero),
            shed: std::array::from_fn(zero),
            statuses: std::array::from_fn(|_| std::array::from_fn(zero)),
            endings: std::array::from_fn(zero),
            ending_names: OnceLock::new(),
            time_sums: std::array::from_fn(zero),
            time_classes: std::array::from_fn(zero),
        }
    }
}

impl Counters {
    /// Adds to a counter with a load and a store instead of a locked add. Only the owning shard may
    /// call this.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        add(&self.counts[counter as usize], n);
    }

    /// Counts a head or body that was refused, by its reason.
    pub(crate) fn add_refusal(&self, refusal: Refusal) {
        self.add(Counter::Refused, 1);
        add(&self.refusals[refusal as usize], 1);
    }

    /// Counts a connection or request that was turned away, by its reason.
    pub(crate) fn add_shed(&self, reason: Shed) {
        add(&self.shed[reason as usize], 1);
    }

    pub(crate) fn shed(&self, reason: Shed) -> u64 {
        self.shed[reason as usize].load(Ordering::Relaxed)
    }

    /// Adds a time to its sum and to its class.
    #[inline]
    pub(crate) fn add_time(&self, time: SlotTime, took: Duration) {
        let micros = micros_of(took);
        add(&self.time_sums[time as usize], micros);
        add(&self.time_classes[time.class_of(micros)], 1);
    }

    /// Counts of a time by class, and the sum of the time in microseconds.
    pub(crate) fn times(&self, time: SlotTime) -> (Vec<u64>, u64) {
        let classes = self.time_classes[time.classes()].iter();
        let classes = classes.map(|class| class.load(Ordering::Relaxed)).collect();
        (classes, self.time_sums[time as usize].load(Ordering::Relaxed))
    }

    /// Sets the names of the endings, by the positions that [`Counters::add_ending`] takes.
    pub(crate) fn name_endings(&self, names: &'static [&'static str]) {
        debug_assert!(names.len() <= ENDINGS_MAX, "no room for {} endings", names.len());
        // Set once: a shard calls this when it is made.
        let _ = self.ending_names.set(names);
    }

    /// Counts the end of a request, by the position of its ending.
    #[inline]
    pub(crate) fn add_ending(&self, ending: usize) {
        if let Some(cell) = self.endings.get(ending) {
            add(cell, 1);
        }
    }

    /// Requests by the names of their endings. A name may come twice: some endings share one.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = self.ending_names.get().copied().unwrap_or_default();
        names.iter().copied().zip(self.endings.iter().map(|cell| cell.load(Ordering::Relaxed)))
    }

    /// Counts a final response by its author and status.
    #[inline]
    pub(crate) fn add_status(&self, author: Author, status: u16) {
        let at = usize::from(status.wrapping_sub(STATUS_MIN));
        if let Some(cell) = self.statuses[author as usize].get(at) {
            add(cell, 1);
        }
    }

    /// Final responses of an author by status; statuses that never occurred are left out.
    pub(crate) fn statuses(&self, author: Author) -> impl Iterator<Item = (u16, u64)> {
        let cells = self.statuses[author as usize].iter();
        let counts = (STATUS_MIN..).zip(cells.map(|cell| cell.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count != 0)
    }

    /// Counts a final response or reply by its class.
    pub(crate) fn add_answer(&self, status: u16) {
        let classes =
            [Counter::Answers2xx, Counter::Answers3xx, Counter::Answers4xx, Counter::Answers5xx];
        if let Some(class) = classes.get(usize::from(status / 100).wrapping_sub(2)) {
            self.add(*class, 1);
        }
    }

    /// Sets a counter that the shard does not sum up itself, such as a level. Only the owning shard
    /// may call this.
    pub(crate) fn set(&self, counter: Counter, n: u64) {
        self.counts[counter as usize].store(n, Ordering::Relaxed);
    }

    /// Subtracts from a counter that is a level. Only the owning shard may call this.
    pub(crate) fn sub(&self, counter: Counter, n: u64) {
        debug_assert!(n <= self.get(counter), "{counter:?} below 0");
        self.add(counter, n.wrapping_neg());
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn refusals(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].load(Ordering::Relaxed)
    }
}

fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
