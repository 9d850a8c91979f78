//! Counters that one shard alone writes and any thread may read: no locked instruction, no shared
//! cache line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::times::{SlotTime, TIME_CLASSES, TIMES, micros_of};
use crate::http::Refusal;

/// A count of a shard.
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
    /// Final responses and replies 2xx.
    Answers2xx,
    /// Final responses and replies 3xx.
    Answers3xx,
    /// Final responses and replies 4xx, refusals included.
    Answers4xx,
    /// Final responses and replies 5xx.
    Answers5xx,
    /// Replies to requests that no rule is for, which are in no other class.
    AnswersUnknown,
    /// Microseconds on a CPU, the kernel's work for the shard included, since its thread started.
    CpuMicros,
    /// Microseconds without a CPU, since the shard started; never less than before.
    AsleepMicros,
    /// Microseconds since the shard started, when those above were noted.
    AliveMicros,
    /// Number of the shard's thread, as the kernel has it.
    Thread,
    /// Calls of `io_uring_enter`.
    RingEnters,
    /// Completions taken from the ring.
    RingCompletions,
    /// Receives that found every buffer of the ring in use and took memory of their own.
    ReceiveBuffersMissed,
    /// Idle connections to backends now.
    IdleConnections,
    /// Requests that wait for a permit at a backend now.
    Queued,
    /// Pipes in use now.
    Pipes,
    /// Requests that found no slot to be counted in by host.
    Uncounted,
    /// Reports about backends that were dropped, as control was too far behind.
    NewsDropped,
    /// Lines of the access log that there was no room for.
    LogDropped,
    /// Requests held now.
    Held,
    /// Times that a request was held.
    HeldTotal,
    /// Held requests that were let go on.
    HeldReleased,
    /// Held requests whose time ran out.
    HeldTimedOut,
    /// Requests that were to be held, and that there was no room for.
    HeldRefused,
    /// Held requests whose client left.
    HeldLeft,
    /// Requests that ended with a 5xx, or by a fault that is not their client's.
    Errors,
}

const COUNTERS: usize = Counter::Errors as usize + 1;

/// Why a connection or a request was turned away.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Shed {
    /// A connection past `max_connections`.
    Room,
    /// A connection that there was no descriptor for.
    Descriptors,
    /// A connection past `max_connections_per_source`.
    Source,
    /// A connection from a source that is not trusted, where each must be.
    Stranger,
    /// A request or raw connection of a client that the rule's `allow` or `deny` keeps out.
    Access,
    /// A request past `max_requests_per_second`.
    Rate,
    /// A request past `max_requests_per_second_per_source`.
    SourceRate,
    /// A request that got no permit at a backend in time.
    Queue,
    /// A request for which this machine could open no connection: no descriptor, port or
    /// permission.
    Local,
    /// A connection whose client reset it before its address was known.
    Vanished,
}

impl Shed {
    /// All reasons, with their names.
    pub(crate) const ALL: [(Shed, &str); 10] = [
        (Shed::Room, "max_connections"),
        (Shed::Descriptors, "descriptors"),
        (Shed::Source, "max_connections_per_source"),
        (Shed::Stranger, "trusted_sources"),
        (Shed::Access, "access_denied"),
        (Shed::Rate, "max_requests_per_second"),
        (Shed::SourceRate, "max_requests_per_second_per_source"),
        (Shed::Queue, "backend_queue"),
        (Shed::Local, "local_connect"),
        (Shed::Vanished, "client_vanished"),
    ];

    /// Reasons that concern connections, and not requests.
    pub(crate) const CONNECTIONS: [Shed; 4] =
        [Shed::Room, Shed::Descriptors, Shed::Source, Shed::Stranger];
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

/// The lowest status with a count of its own.
const STATUS_MIN: u16 = 100;
/// Statuses with a count of their own: each that HTTP has room for.
const STATUSES: usize = 900;
/// Endings of requests that there is room for.
const ENDINGS_MAX: usize = 64;
const REFUSALS: usize = Refusal::ALL.len();

/// The counters of one shard, aligned so that no two shards' counters share a cache line (pairs are
/// prefetched: 128).
#[repr(align(128))]
pub(crate) struct Counters {
    counts: [AtomicU64; COUNTERS],
    refusals: [AtomicU64; REFUSALS],
    shed: [AtomicU64; Shed::ALL.len()],
    /// Final responses by author and status.
    statuses: [[AtomicU64; STATUSES]; Author::ALL.len()],
    /// Requests that ended, by the position of their ending in the shard's table of endings.
    endings: [AtomicU64; ENDINGS_MAX],
    /// Names of the endings: that table is the shard's.
    ending_names: OnceLock<&'static [&'static str]>,
    /// Sums of times in microseconds, and their classes.
    time_sums: [AtomicU64; TIMES],
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
    /// Adds to a count. Called by the owning shard only: a load and a store, not a locked add.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        add(&self.counts[counter as usize], n);
    }

    /// Counts a message that was refused, by its reason.
    pub(crate) fn add_refusal(&self, refusal: Refusal) {
        self.add(Counter::Refused, 1);
        add(&self.refusals[refusal as usize], 1);
    }

    /// Counts a connection or request that was turned away, by its reason.
    pub(crate) fn add_shed(&self, why: Shed) {
        add(&self.shed[why as usize], 1);
    }

    pub(crate) fn shed(&self, why: Shed) -> u64 {
        self.shed[why as usize].load(Ordering::Relaxed)
    }

    /// Counts a time.
    #[inline]
    pub(crate) fn add_time(&self, time: SlotTime, took: Duration) {
        let micros = micros_of(took);
        add(&self.time_sums[time as usize], micros);
        add(&self.time_classes[time.class_of(micros)], 1);
    }

    /// The classes of a time, and their sum in microseconds.
    pub(crate) fn times(&self, time: SlotTime) -> (Vec<u64>, u64) {
        let classes = self.time_classes[time.classes()].iter();
        let classes = classes.map(|class| class.load(Ordering::Relaxed)).collect();
        (classes, self.time_sums[time as usize].load(Ordering::Relaxed))
    }

    /// Says how the endings are called that [`Counters::add_ending`] counts by their positions.
    pub(crate) fn name_endings(&self, names: &'static [&'static str]) {
        debug_assert!(names.len() <= ENDINGS_MAX, "no room for {} endings", names.len());
        // A shard is made once.
        let _ = self.ending_names.set(names);
    }

    /// Counts the end of a request.
    #[inline]
    pub(crate) fn add_ending(&self, ending: usize) {
        if let Some(cell) = self.endings.get(ending) {
            add(cell, 1);
        }
    }

    /// Requests by how they ended; a name may come twice.
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

    /// Final responses of an author by status, those that there were.
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

    /// Sets a count that is a level, not a sum. Called by the owning shard only.
    pub(crate) fn set(&self, counter: Counter, n: u64) {
        self.counts[counter as usize].store(n, Ordering::Relaxed);
    }

    /// Subtracts from a count that is a level. Called by the owning shard only.
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
