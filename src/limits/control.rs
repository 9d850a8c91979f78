//! Bounds of `control`.

use std::time::Duration;

/// Longest wait of a start for the lookups of backend names.
pub const RESOLVE_AT_START: Duration = Duration::from_secs(5);
/// Longest wait of a change for the lookups of the names of its backends.
pub const RESOLVE_AT_CHANGE: Duration = Duration::from_secs(2);
/// Interval at which names are looked up again.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Interval of the lookups of a name that has no address.
pub const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// Pause before a name is looked up again if none of its addresses accepts connections. It doubles
/// as long as the lookup finds nothing new.
pub const RESOLVE_DOUBTED: Duration = Duration::from_secs(1);
/// Time after which a lookup counts as slow and no longer takes room from others of its kind.
pub const RESOLVE_SLOW: Duration = Duration::from_secs(1);

/// Most lookups at a time: half of them for new names, a quarter for names that were found before,
/// an eighth for names that were not found. Each lookup takes a thread and up to two descriptors.
pub fn lookups_at_once(descriptors: u64) -> usize {
    (descriptors / 32).clamp(64, 512) as usize
}

/// Most changes that wait for the writer. Further requests for a change wait until there is room.
pub const CHANGES_WAITING_MAX: usize = 4096;
/// Most changes that are written with one sync.
pub const CHANGES_AT_ONCE: usize = 1024;
/// Number of rules in the changes of one sync after which no more changes are added.
pub const EDITS_AT_ONCE: usize = 65_536;
/// Most rules of a change that a report about it names. A larger change is reported without its
/// rules.
pub const EDITS_TOLD_MAX: usize = 100;
/// Number of rules in a change above which shards are woken to release the old table.
pub const EDITS_WORTH_A_WAKE: usize = 1000;
/// Number of old tables that shards may keep before they are woken to release them.
pub const OLD_TABLES_MAX: usize = 256;
/// Pause between attempts to rewrite the whole state file.
pub const REWRITE_PAUSE: Duration = Duration::from_secs(1);
/// Interval at which statistics are saved.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Most hosts whose statistics are saved at a time. The others wait for the next time.
pub const SAVED_AT_ONCE: usize = 50_000;
/// Hosts whose statistics are read under one lock.
pub const STATISTICS_AT_ONCE: usize = 8192;
/// Interval of the marks from which the last minute of hosts and backends is counted. The minute
/// begins at the older of two marks.
pub const WINDOW_STEP: Duration = Duration::from_secs(30);
/// Bytes of the marks of a slot.
pub const SLOT_MARKS_BYTES: usize = 208;
/// Most hosts, and most backends, whose last minute is kept although no shard has a slot for them
/// any more: 60 MiB.
pub const WINDOW_RETIRED_MAX: usize = 1 << 18;
/// Most backends whose counts are kept when no shard knows the backend any more.
pub const BACKENDS_TOLD_MAX: usize = 10_000;
/// Most backends in a reply, about 2 MB. Unusable backends come first, then the busiest ones.
/// Control knows at most the backends of rules with a `check`, `EJECTED_MAX`, `BACKENDS_TOLD_MAX`,
/// and `SLOTS_MAX` for each shard.
pub const BACKENDS_LISTED_MAX: usize = 10_000;
/// Most backends that one sentence of `/which/` names. The others are only counted.
pub const WOULD_NAMED_MAX: usize = 8;
/// Most tokens of `management_tokens_file`. Each request is compared with all of them, which takes
/// half a millisecond.
pub const TOKENS_MAX: usize = 10_000;
/// Longest name of a token's holder.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Longest body of a management request: a table of a million rules is about 100 MB.
pub const MANAGEMENT_BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest body that is one rule. A rule with 1024 backends with names has about 300 KB.
pub const RULE_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Most values that a rule may have in its JSON. A rule with 1024 backends, their weights, 2048
/// networks, and a `then` with as many has fewer than 15,100.
pub const RULE_VALUES_MAX: usize = 16 * 1024;
/// Longest name that an error repeats in full, bytes. A longer name is cut off.
pub const NAME_REPEATED_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of management bodies that are read at a time, in total.
pub const MANAGEMENT_BODIES_BYTES_MAX: usize = 2 * MANAGEMENT_BODY_BYTES_MAX;
/// Timeout for the head of a management request.
pub const MANAGEMENT_HEAD_TIME: Duration = Duration::from_secs(10);
/// Time that a management client always has for its next progress, however many other clients wait
/// for its place.
pub const MANAGEMENT_PATIENCE_LEAST: Duration = Duration::from_millis(100);
/// Timeout for the whole body of a management request.
pub const MANAGEMENT_BODY_TIME: Duration = Duration::from_secs(300);
/// Timeout for the next bytes of the body of a management request.
pub const MANAGEMENT_BODY_SILENCE: Duration = Duration::from_secs(30);
/// Longest time for which a management client may read no byte of its reply.
pub const MANAGEMENT_WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of an unwanted request body that are read and discarded, so that the client gets to read
/// the reply.
pub const MANAGEMENT_DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time that discarding may take.
pub const MANAGEMENT_DISCARD_TIME: Duration = Duration::from_secs(2);
/// Longest body that is parsed on the control thread, bytes. A longer body is parsed on another
/// thread.
pub const PARSED_HERE_BYTES_MAX: usize = 64 * 1024;
/// Most rules that are listed on the control thread. More rules are listed on another thread.
pub const LISTED_HERE_MAX: usize = 2000;
/// Bytes of the pieces in which rules are sent.
pub const LISTING_PIECE_BYTES: usize = 128 * 1024;
/// Longest wait for removed backends to drain.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Wait for removed backends to drain if the request names no time.
pub const DRAIN_WAIT: Duration = Duration::from_secs(30);
/// Further wait, after the wait for removed backends to drain, for shards and for a daemon before
/// this one to answer how many requests are left. Those that run answer at once.
pub const DRAIN_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Most events that are kept for a slow reader.
pub const EVENTS_KEPT: usize = 1024;
/// Most readers of events at a time.
pub const EVENT_READERS_MAX: usize = 64;
/// Most hosts that one request may name.
pub const NAMED_HOSTS_MAX: usize = 500;
/// Most of the busiest hosts that are reported.
pub const BUSIEST_MAX: usize = 1000;
/// Step of the history of all hosts.
pub const HISTORY_STEP: Duration = Duration::from_secs(10);
/// Steps of the history of all hosts: an hour.
pub const HISTORY_POINTS: usize = 360;
/// Steps of the history of all hosts within the last minute.
pub const HISTORY_MINUTE: usize = 6;
/// Steps of the history of a host or a backend, each a `WINDOW_STEP` long: an hour.
pub const HISTORY_STEPS: usize = 120;
/// Most hosts with a history, and most backends: 4 MB for either.
pub const HISTORY_HOSTS_MAX: usize = 500;
/// Number of the first hosts in a step, by each measure, that get a history.
pub const HISTORY_FIRST: usize = 50;
/// Most events that are kept, about 1 MB.
pub const HISTORY_EVENTS: usize = 2000;
/// Most changes of rules that are kept.
pub const HISTORY_CHANGES: usize = 5000;
/// Most bytes of the changes that are kept.
pub const HISTORY_CHANGES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Changes in a reply if the request gives no number.
pub const HISTORY_CHANGES_LISTED: usize = 100;
/// Hosts of an order in a reply if the request gives no number.
pub const RANKED: usize = 100;
/// Most hosts of an order in one reply, about 4 MB.
pub const RANKED_MAX: usize = 10_000;
/// Number of the busiest hosts, and of the busiest backends, with series of their own in the
/// metrics.
pub const METRIC_HOSTS: usize = 100;
/// Shortest pause between two probes of a check, unless its interval is shorter.
pub const CHECK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Pause between two probes of an ejected backend.
pub const EJECTED_EVERY: Duration = Duration::from_secs(1);
/// Timeout for a probe of an ejected backend.
pub const PROBE_TIME: Duration = Duration::from_secs(2);
/// Pause before a Unix socket is probed again if its queue of connections is full.
pub const PROBE_AGAIN: Duration = Duration::from_millis(50);
/// Most probes of one address per second, for all its checks together: each rule may have a check
/// of its own, and ten thousand rules may share a server. If more are due, the intervals become
/// longer.
pub const ADDRESS_PROBES_PER_SECOND: u32 = 100;
/// Most arrivals of backends that are remembered for rules with `slow_start`.
pub const ARRIVALS_MAX: usize = 16_384;
/// Most rules that a reason names. The others are only counted.
pub const RULES_TOLD_MAX: usize = 3;
/// Most rules that are listed with a check.
pub const RULES_LISTED_MAX: usize = 20;
/// Most checks that are listed with a backend. Failing checks come first.
pub const CHECKS_LISTED_MAX: usize = 20;
/// Time for which a connection must stay open to count as accepted, for a probe that sends nothing.
pub const PROBE_QUIET: Duration = Duration::from_millis(100);
/// Most probes that begin in a tenth of a second: a few percent of a CPU. If more are due they
/// wait, so the intervals become longer.
pub const PROBES_PER_TENTH: u32 = 200;
/// Interval at which the addresses of checked names are looked at.
pub const CHECK_NAMES_EVERY: Duration = Duration::from_secs(1);
/// Most ejected backends at a time, besides those with a `check`.
pub const EJECTED_MAX: usize = 16_384;
/// Time after a successful probe within which another failure of the backend is a relapse.
pub const RELAPSE_TIME: Duration = Duration::from_secs(60);
/// Number of relapses that double the pause before the next probe. Further relapses leave it as it
/// is.
pub const RELAPSES_MAX: u32 = 4;
/// Interval of the search for ejected backends that no rule uses any more.
pub const EJECTED_LOOK: Duration = Duration::from_secs(600);
/// Most backends with a series that says whether they are up. Backends that are down come first.
pub const METRIC_BACKENDS_PROBED: usize = 1000;
/// Held requests that are released per second by default: ten thousand in five eighths of a second.
/// If all were released at once, they would overflow the accept queue of an application that has
/// just begun to listen, and a connection that finds the queue full is tried again only after a
/// second.
pub const RELEASE_RATE: u32 = 16_000;
/// Most held requests that are released at once: half of the accept queue that most applications
/// ask for.
pub const RELEASE_BURST: u32 = 64;
/// Longest delay that a late release makes up for at once.
pub const RELEASE_CATCHES_UP: Duration = Duration::from_millis(100);
/// Longest wait of a request behind others that are released at a pace, as for `spin`.
pub const BEHIND_TIME: Duration = Duration::from_secs(120);
/// Interval of the probes of a backend for which held requests wait.
pub const HELD_PROBE_EVERY: Duration = Duration::from_millis(100);
/// Timeout for the response of a `wake` address.
pub const WAKE_TIME: Duration = Duration::from_secs(5);
/// Pause before a `wake` address is asked again. It doubles with each failure, up to
/// `WAKE_AGAIN_MAX`.
pub const WAKE_AGAIN: Duration = Duration::from_secs(1);
/// Longest pause before a `wake` address is asked again.
pub const WAKE_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Most `wake` addresses that are asked at a time. Others wait.
pub const WAKES_AT_ONCE: usize = 64;
/// Number of hosts whose wake-ups are remembered. Beyond it, hosts whose rule has changed are
/// forgotten.
pub const WAKES_TOLD_MAX: usize = 10_000;
/// Most rules leading to this daemon itself that the log names. The others are only counted.
pub const LOOPS_TOLD_MAX: usize = 20;
/// Pause between two log lines about a loop to the same address.
pub const LOOP_AGAIN: Duration = Duration::from_secs(60);
/// Interval at which the folder of pages is looked at.
pub const PAGES_LOOK: Duration = Duration::from_secs(2);
/// Most rejected rules of a state file that are named one by one. The others are only counted.
pub const REJECTED_TOLD_MAX: usize = 20;
/// Smallest journal that is folded, bytes, however small the table. Reading a smaller one takes
/// less than 0.1 s.
pub const FOLD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Largest buffer of a commit that is kept, bytes. The buffer of a whole table is freed.
pub const COMMIT_BUFFER_KEPT_BYTES: usize = 1024 * 1024;
/// Time that requests to the API have to end before another process takes over.
pub const MANAGEMENT_PAUSE: Duration = Duration::from_secs(1);
/// Interval at which the old daemon reports its requests under way to the one that has taken over.
pub const ELDER_TELLS: Duration = Duration::from_millis(50);

/// Returns the most management connections at a time, for which there are always descriptors.
/// Further connections wait.
pub fn management_connections(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, MANAGEMENT_CONNECTIONS_MAX) as usize
}

/// Returns how many of the management connections may follow the events.
pub fn event_readers(connections: usize) -> usize {
    (connections / 2).clamp(1, EVENT_READERS_MAX)
}

/// Returns how many of the management connections may wait for removed backends to drain. The rest
/// is for all other requests.
pub fn drain_waiters(connections: usize) -> usize {
    (connections / 4).max(1)
}

/// Most management connections, however many descriptors there are.
pub(super) const MANAGEMENT_CONNECTIONS_MAX: u64 = 128;

/// Returns the most probes of backends at a time. Further probes wait.
pub fn probes_at_once(descriptors: u64) -> usize {
    (descriptors / 16).clamp(8, PROBES_AT_ONCE_MAX) as usize
}

/// Most probes at a time, however many descriptors there are.
pub(super) const PROBES_AT_ONCE_MAX: u64 = 256;

/// Bytes that a management client must send or receive to count as making progress while others
/// wait for its place.
pub const MANAGEMENT_PROGRESS: usize = 16 * 1024;
/// Unsent bytes that the kernel keeps for a management client, beside those on their way.
pub const MANAGEMENT_UNSENT: u32 = 64 * 1024;

/// Held requests that `/held/` lists if no `limit` is given.
pub const HELD_LISTED: usize = 100;
/// Most held requests that `/held/` lists.
pub const HELD_LISTED_MAX: usize = 10_000;
