//! Bounds of `control`.

use std::time::Duration;

/// How long the start waits for backend names to be looked up.
pub const RESOLVE_AT_START: Duration = Duration::from_secs(5);
/// How long a change waits for the names of its backends to be looked up.
pub const RESOLVE_AT_CHANGE: Duration = Duration::from_secs(2);
/// How often names are looked up again.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Interval of the lookups of a name that has no address.
pub const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// Pause before a name is looked up again when none of its addresses accepts; doubled as long as
/// the lookup finds nothing new.
pub const RESOLVE_DOUBTED: Duration = Duration::from_secs(1);
/// Time after which a lookup leaves its room to another.
pub const RESOLVE_SLOW: Duration = Duration::from_secs(1);

/// Lookups at a time: half for names that are new, a quarter for those that were found, an eighth
/// for those that were not. Each takes a thread and up to two descriptors.
pub fn lookups_at_once(descriptors: u64) -> usize {
    (descriptors / 32).clamp(64, 512) as usize
}

/// Changes that wait for the writer; askers beyond them wait for room.
pub const CHANGES_WAITING_MAX: usize = 4096;
/// Changes written down with one sync.
pub const CHANGES_AT_ONCE: usize = 1024;
/// Rules in the changes of one sync, after which no more changes are added.
pub const EDITS_AT_ONCE: usize = 65_536;
/// Most rules of a change that are named where the change is reported; a larger one is reported
/// alone.
pub const EDITS_TOLD_MAX: usize = 100;
/// Rules in a change above which shards are woken to let go of the old table.
pub const EDITS_WORTH_A_WAKE: usize = 1000;
/// Tables no longer in force that shards may hold on to before they are woken to let go.
pub const OLD_TABLES_MAX: usize = 256;
/// Pause between attempts to write the whole state anew.
pub const REWRITE_PAUSE: Duration = Duration::from_secs(1);
/// How often statistics are saved.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Hosts whose statistics are saved at a time; more wait for the next.
pub const SAVED_AT_ONCE: usize = 50_000;
/// Hosts whose statistics are read under one lock.
pub const STATISTICS_AT_ONCE: usize = 8192;
/// Interval of the marks from which the last minute of hosts and backends is counted: the minute
/// begins at the older of two.
pub const WINDOW_STEP: Duration = Duration::from_secs(30);
/// Bytes of the marks of a slot.
pub const SLOT_MARKS_BYTES: usize = 208;
/// Hosts, and as many backends, whose last minute is known although no shard has a slot for them
/// any more: 60 MiB.
pub const WINDOW_RETIRED_MAX: usize = 1 << 18;
/// Backends whose counts are kept when no shard knows the backend any more.
pub const BACKENDS_TOLD_MAX: usize = 10_000;
/// Backends in a reply, about 2 MB; unusable backends come first, then the busiest. Known are at
/// most the backends of rules with a `check`, `EJECTED_MAX`, `BACKENDS_TOLD_MAX`, and `SLOTS_MAX`
/// per shard.
pub const BACKENDS_LISTED_MAX: usize = 10_000;
/// Backends that one sentence of `/which/` names; more are counted.
pub const WOULD_NAMED_MAX: usize = 8;
/// Tokens of `management_tokens_file`: each request compares all of them, in half a millisecond.
pub const TOKENS_MAX: usize = 10_000;
/// Longest name of a token's holder.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Longest body of a management request: a table of a million rules is about 100 MB.
pub const MANAGEMENT_BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest body that is one rule: of 1024 backends with names it is about 300 KB.
pub const RULE_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Values that a rule may have in its JSON: a rule with 1024 backends, their weights, 2048
/// networks, and a `then` with as many has fewer than 15,100.
pub const RULE_VALUES_MAX: usize = 16 * 1024;
/// Longest name that an error repeats whole, bytes; a longer one is cut off there.
pub const NAME_REPEATED_BYTES_MAX: usize = 8 * 1024;
/// Bytes of management bodies read at a time, all together.
pub const MANAGEMENT_BODIES_BYTES_MAX: usize = 2 * MANAGEMENT_BODY_BYTES_MAX;
/// Timeout for the head of a management request.
pub const MANAGEMENT_HEAD_TIME: Duration = Duration::from_secs(10);
/// Time that a management client has for its next move however many others want its place.
pub const MANAGEMENT_PATIENCE_LEAST: Duration = Duration::from_millis(100);
/// Timeout for the whole body of a management request.
pub const MANAGEMENT_BODY_TIME: Duration = Duration::from_secs(300);
/// Timeout for more bytes of that body.
pub const MANAGEMENT_BODY_SILENCE: Duration = Duration::from_secs(30);
/// Time for which a management client may take no byte of its reply.
pub const MANAGEMENT_WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of an unwanted request body that are read and discarded, so that the client gets to read
/// the reply.
pub const MANAGEMENT_DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time that discarding may take.
pub const MANAGEMENT_DISCARD_TIME: Duration = Duration::from_secs(2);
/// Longest body that is parsed on the control thread, bytes; a longer one is on another.
pub const PARSED_HERE_BYTES_MAX: usize = 64 * 1024;
/// Most rules that are listed on the control thread; more are on another.
pub const LISTED_HERE_MAX: usize = 2000;
/// Bytes of the pieces in which rules are sent.
pub const LISTING_PIECE_BYTES: usize = 128 * 1024;
/// Longest wait for removed backends to drain.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Wait for removed backends to drain when the request names none.
pub const DRAIN_WAIT: Duration = Duration::from_secs(30);
/// Wait for shards, and a daemon before this one, to answer what is left once that time is over:
/// those that run do so at once.
pub const DRAIN_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Events kept for a reader that is slow.
pub const EVENTS_KEPT: usize = 1024;
/// Readers of events at a time.
pub const EVENT_READERS_MAX: usize = 64;
/// Hosts that one request may name.
pub const NAMED_HOSTS_MAX: usize = 500;
/// Most of the busiest hosts that are reported.
pub const BUSIEST_MAX: usize = 1000;
/// Step of the history of all hosts.
pub const HISTORY_STEP: Duration = Duration::from_secs(10);
/// Steps of that history: an hour.
pub const HISTORY_POINTS: usize = 360;
/// Ends of those steps within the last minute.
pub const HISTORY_MINUTE: usize = 6;
/// Steps of the history of a host or a backend, which are those of `WINDOW_STEP`: an hour.
pub const HISTORY_STEPS: usize = 120;
/// Hosts with a history, and as many backends: 4 MB each.
pub const HISTORY_HOSTS_MAX: usize = 500;
/// Hosts that matter in a step by each measure.
pub const HISTORY_FIRST: usize = 50;
/// Events that are kept, about 1 MB.
pub const HISTORY_EVENTS: usize = 2000;
/// Changes of rules that are kept.
pub const HISTORY_CHANGES: usize = 5000;
/// Bytes of the changes that are kept.
pub const HISTORY_CHANGES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Changes in an answer that names no other number.
pub const HISTORY_CHANGES_LISTED: usize = 100;
/// Hosts of an order where no other number is given.
pub const RANKED: usize = 100;
/// Most hosts of an order in one answer, about 4 MB.
pub const RANKED_MAX: usize = 10_000;
/// Busiest hosts and backends with series of their own in the metrics.
pub const METRIC_HOSTS: usize = 100;
/// Shortest pause between two probes of a check whose interval is not shorter itself.
pub const CHECK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Pause between two probes of an ejected backend.
pub const EJECTED_EVERY: Duration = Duration::from_secs(1);
/// Timeout for a probe of an ejected backend.
pub const PROBE_TIME: Duration = Duration::from_secs(2);
/// Pause before a Unix socket is probed again whose queue of connections is full.
pub const PROBE_AGAIN: Duration = Duration::from_millis(50);
/// Probes of one address per second, of all its checks together: each rule may have a check of its
/// own, and ten thousand rules may share a server. Where more are due, the intervals stretch.
pub const ADDRESS_PROBES_PER_SECOND: u32 = 100;
/// Arrivals of backends that are remembered for rules with `slow_start`.
pub const ARRIVALS_MAX: usize = 16_384;
/// Rules that a reason names; the rest are counted.
pub const RULES_TOLD_MAX: usize = 3;
/// Rules that are listed with a check.
pub const RULES_LISTED_MAX: usize = 20;
/// Checks that are listed with a backend; those that fail come first.
pub const CHECKS_LISTED_MAX: usize = 20;
/// How long a connection must stay open for a probe that sends nothing to call it accepted.
pub const PROBE_QUIET: Duration = Duration::from_millis(100);
/// Probes begun in a tenth of a second: a few percent of a CPU. Where more are due they wait, so
/// the intervals stretch.
pub const PROBES_PER_TENTH: u32 = 200;
/// How often the addresses behind checked names are looked at.
pub const CHECK_NAMES_EVERY: Duration = Duration::from_secs(1);
/// Ejected backends at a time, besides those with a `check`.
pub const EJECTED_MAX: usize = 16_384;
/// Time after a successful probe within which another failure of the backend is a relapse.
pub const RELAPSE_TIME: Duration = Duration::from_secs(60);
/// Relapses that double the pause before the next probe; further ones leave it as it is.
pub const RELAPSES_MAX: u32 = 4;
/// Interval of the search for ejected backends that no rule uses any more.
pub const EJECTED_LOOK: Duration = Duration::from_secs(600);
/// Backends with a series that says whether they are up; backends that are down come first.
pub const METRIC_BACKENDS_PROBED: usize = 1000;
/// Held requests let go per second where no other rate is given: ten thousand in five eighths of a
/// second. All at once they would overflow the queue of an application that has just begun to
/// listen, and a connection that finds the queue full is tried again only after a second.
pub const RELEASE_RATE: u32 = 16_000;
/// Most held requests that are let go at once: half of the accept queue that most applications ask
/// for.
pub const RELEASE_BURST: u32 = 64;
/// Most of a delay that a late release catches up on at once.
pub const RELEASE_CATCHES_UP: Duration = Duration::from_millis(100);
/// How long a request waits behind others that are let go at a pace, at most: as for `spin`.
pub const BEHIND_TIME: Duration = Duration::from_secs(120);
/// Probe interval of a backend that held requests wait for.
pub const HELD_PROBE_EVERY: Duration = Duration::from_millis(100);
/// Timeout for the response of a `wake` address.
pub const WAKE_TIME: Duration = Duration::from_secs(5);
/// Pause before a `wake` address is asked again; doubled with each failure, up to `WAKE_AGAIN_MAX`.
pub const WAKE_AGAIN: Duration = Duration::from_secs(1);
/// Longest pause before a `wake` address is asked again.
pub const WAKE_AGAIN_MAX: Duration = Duration::from_secs(60);
/// `wake` addresses asked at a time; more wait.
pub const WAKES_AT_ONCE: usize = 64;
/// Hosts whose wake-ups are remembered; past it hosts whose rule has changed are forgotten.
pub const WAKES_TOLD_MAX: usize = 10_000;
/// Rules that lead to this daemon itself and are named in the log; the rest are counted.
pub const LOOPS_TOLD_MAX: usize = 20;
/// Pause between two log lines about a loop to the same address.
pub const LOOP_AGAIN: Duration = Duration::from_secs(60);
/// How often the folder of pages is looked at.
pub const PAGES_LOOK: Duration = Duration::from_secs(2);
/// Rejected rules of a state file that are named one by one; the rest are counted.
pub const REJECTED_TOLD_MAX: usize = 20;
/// Smallest journal that is folded, bytes, however small the table: reading less takes under 0.1 s.
pub const FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Largest buffer of a commit that is kept, bytes; that of a whole table is freed.
pub const COMMIT_BUFFER_KEPT_BYTES: usize = 1024 * 1024;
/// How long requests to the API may take to end before another process takes over.
pub const MANAGEMENT_PAUSE: Duration = Duration::from_secs(1);
/// Interval of the reports of a daemon that was taken over from about its requests under way.
pub const ELDER_TELLS: Duration = Duration::from_millis(50);

/// Management connections at a time, so that there are always descriptors for them; more wait.
pub fn management_connections(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, MANAGEMENT_CONNECTIONS_MAX) as usize
}

/// How many of the management connections may follow the events.
pub fn event_readers(connections: usize) -> usize {
    (connections / 2).clamp(1, EVENT_READERS_MAX)
}

/// How many of the management connections may wait for removed backends to drain: the rest is for
/// all other requests.
pub fn drain_waiters(connections: usize) -> usize {
    (connections / 4).max(1)
}

/// Most management connections, however many descriptors there are.
pub(super) const MANAGEMENT_CONNECTIONS_MAX: u64 = 128;

/// Probes of backends at a time; more wait.
pub fn probes_at_once(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, PROBES_AT_ONCE_MAX) as usize
}

/// Most probes at a time, however many descriptors there are.
pub(super) const PROBES_AT_ONCE_MAX: u64 = 256;

/// A management client whose place others want has made progress once so many bytes were sent or
/// taken.
pub const MANAGEMENT_PROGRESS: usize = 16 * 1024;
/// Bytes that the kernel keeps for a management client beside those on their way.
pub const MANAGEMENT_UNSENT: u32 = 64 * 1024;

/// Held requests that `/held/` lists where no `limit` is given.
pub const HELD_LISTED: usize = 100;
/// Most held requests that `/held/` lists.
pub const HELD_LISTED_MAX: usize = 10_000;
