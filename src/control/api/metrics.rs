//! `GET /metrics`, for Prometheus. Totals are per shard. Of hosts and backends only the busiest
//! have series, because a million series would be too much for any Prometheus.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime};

use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter as Sum, Gauge as Level, Histogram};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::super::health::State;
use super::super::statistics::name_of;
use super::Api;
use super::asker::Asker;
use super::busiest::BusyScores;
use super::daemon_metrics::DaemonNumbers;
use super::error::ApiError;
use super::exposition::Format;
use super::process::ProcessNumbers;
use super::route::Query;
use crate::address::Address;
use crate::http::Refusal;
use crate::limits;
use crate::link::{
    Author, BackendCount, ControlEnd, Counter, Counters, HostCount, Id, KeySet, Shed, SlotIndex,
    SlotTime, Sums, TaggedTable, Whole,
};

pub(super) async fn answer(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    let own = asker.view(api.current()).await.map(|view| view.backends);
    let process = tokio::task::spawn_blocking(ProcessNumbers::read);
    let mut registry = Registry::with_prefix("mantrid");
    registry.register_collector(Box::new(Numbers::of(api, asker, own.as_ref())));
    registry.register_collector(Box::new(DaemonNumbers::of(api)));
    if let Some(fleet) = api.fleet() {
        registry.register_collector(Box::new(super::fleet_metrics::FleetNumbers(fleet.clone())));
    }
    let mut unprefixed = Registry::default();
    if let Ok(process) = process.await {
        unprefixed.register_collector(Box::new(process));
    }
    let mut text = String::new();
    let written = encode_registry(&mut text, &registry)
        .and_then(|()| encode_registry(&mut text, &unprefixed))
        .and_then(|()| encode_eof(&mut text));
    written.map_err(|_| ApiError::busy("the metrics could not be written"))?;
    let format = Format::of(&parts.headers);
    let content = [(header::CONTENT_TYPE, format.content_type())];
    Ok((content, format.write(text)).into_response())
}

/// A metric: name without the prefix, help, type, and a function for the samples of one moment.
type Metric = (&'static str, &'static str, MetricType, fn(&Numbers) -> Vec<Sample>);

/// One sample: its labels and its value.
type Sample = (Vec<(&'static str, String)>, Value);

/// Value of a sample. Its type is that of the metric.
enum Value {
    Count(u64),
    Seconds(f64),
    Level(i64),
    Moment(f64),
    /// Buckets of a histogram, each with its upper bound, and the sum of the times.
    Times(Vec<(f64, u64)>, f64),
}

const WAIT_TIME: &str = "shard_cpu_wait_seconds";

/// All metrics, in the order in which they are listed.
#[rustfmt::skip]
const METRICS: &[Metric] = &[
    ("build_info", "Which program this is", Level, |_| {
        vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], Value::Level(1))]
    }),
    ("rules", "Rules in the table", Level, |n| one(level(n.current.len() as u64))),
    ("table_generation", "Number of the last change of the table", Level,
        |n| one(level(n.current.tag.sequence))),
    ("state_writable",
        "Whether changes can be written to the state's files: 0 after one could not be", Level,
        |n| one(level(n.is_state_writable.into()))),
    ("start_time_seconds", "When the daemon started, in seconds since 1970", Level,
        |n| one(Value::Moment(n.started))),

    ("connections_accepted", "Client connections accepted", Sum, |n| n.sums(Counter::Accepted)),
    ("requests", "Requests whose head was accepted", Sum, |n| n.sums(Counter::Requests)),
    ("requests_completed", "Requests that ended, answered or not", Sum,
        |n| n.sums(Counter::Completed)),
    ("bytes_sent", "Bytes sent to clients", Sum, |n| n.sums(Counter::Sent)),
    ("bytes_received", "Bytes received from clients", Sum, |n| n.sums(Counter::Received)),
    ("connects", "Connections opened to backends", Sum, |n| n.sums(Counter::Connects)),
    ("backend_connections_reused", "Requests sent on an idle connection", Sum,
        |n| n.sums(Counter::Reused)),
    ("connect_failures", "Attempts to connect that failed", Sum,
        |n| n.sums(Counter::ConnectFailures)),
    ("retries", "Requests sent again because an idle connection was dead", Sum,
        |n| n.sums(Counter::Retries)),
    ("panics", "Connections ended by a panic", Sum, |n| n.sums(Counter::Panics)),
    ("requests_uncounted", "Requests for which there was no room in a counter of their host", Sum,
        |n| n.sums(Counter::Uncounted)),
    ("news_dropped", "Reports that the control shard was too slow to read", Sum,
        |n| n.sums(Counter::NewsDropped)),
    ("holds", "Times that a request began to be held", Sum, |n| n.sums(Counter::HeldTotal)),
    ("holds_released", "Held requests that went on", Sum, |n| n.sums(Counter::HeldReleased)),
    ("holds_timed_out", "Held requests whose time ran out", Sum, |n| n.sums(Counter::HeldTimedOut)),
    ("holds_refused", "Requests that were not held because there was no room", Sum,
        |n| n.sums(Counter::HeldRefused)),
    ("holds_left", "Held requests whose client left", Sum, |n| n.sums(Counter::HeldLeft)),
    ("ring_enters", "Calls of io_uring_enter", Sum, |n| n.sums(Counter::RingEnters)),
    ("ring_completions", "Completions taken from the ring", Sum,
        |n| n.sums(Counter::RingCompletions)),
    ("receive_buffers_missed",
        "Receives that found every buffer in use and took memory of their own", Sum,
        |n| n.sums(Counter::ReceiveBuffersMissed)),
    ("connections_open", "Client connections open", Level, |n| n.levels(Counter::Open)),
    ("idle_backend_connections", "Idle connections to backends", Level,
        |n| n.levels(Counter::IdleConnections)),
    ("requests_queued", "Requests that wait in line for a backend", Level,
        |n| n.levels(Counter::Queued)),
    ("requests_held", "Requests held", Level, |n| n.levels(Counter::Held)),
    ("pipes", "Pipes in use for bulk bodies", Level, |n| n.levels(Counter::Pipes)),
    ("answers", "Final answers by class", Sum, Numbers::answers),
    ("responses", "Final answers by author, class and status", Sum, Numbers::responses),
    ("endings", "Requests that ended, by the cause of their end", Sum, Numbers::endings),
    ("errors", "Requests that ended with a 5xx, or by a fault that is not their client's", Sum,
        |n| n.sums(Counter::Errors)),
    ("latency_seconds", "Time from the end of a request's head to the head of its answer",
        Histogram, |n| n.times(SlotTime::Latency)),
    ("request_seconds", "Time from the end of a request's head to the end of the request",
        Histogram, |n| n.times(SlotTime::Request)),
    ("response_seconds", "Time from a request that was sent to the head of the response",
        Histogram, |n| n.times(SlotTime::Response)),
    ("connect_seconds", "Time to open a connection to a backend", Histogram,
        |n| n.times(SlotTime::Connect)),
    ("queue_seconds", "Time that requests waited for a permit of a backend", Histogram,
        |n| n.times(SlotTime::Queue)),
    ("held_seconds", "Time that requests were held", Histogram, Numbers::held_times),
    ("shard_cpu_seconds", "Time that the shard was on a CPU, the kernel's work for it included",
        Sum, |n| n.seconds(|shard| Some(shard.get(Counter::CpuMicros)))),
    (WAIT_TIME, "Time that the shard could run and waited for a CPU", Sum,
        |n| n.seconds(|shard| waited(shard.get(Counter::Thread)))),
    ("asleep_seconds", "Time that the shard was not on a CPU", Sum,
        |n| n.seconds(|shard| Some(shard.get(Counter::AsleepMicros)))),

    ("refused", "Heads and bodies refused, by reason", Sum, |n| {
        let of = |refusal: &Refusal| (refusal.slug(), n.total(|shard| shard.refusals(*refusal)));
        by_reason(Refusal::ALL.iter().map(of))
    }),
    ("access_log_dropped", "Lines of the access log that were not written", Sum, |n| {
        let lost = n.shards.total(Counter::LogDropped) + n.shards.together.logbook.lost();
        one(Value::Count(lost))
    }),
    ("connections_shed", "Client connections turned away", Sum, |n| {
        let count = |shard: &Counters| Shed::CONNECTIONS.iter().map(|why| shard.shed(*why)).sum();
        n.of_shards(|shard| Some(Value::Count(count(shard))))
    }),
    ("shed", "Connections and requests turned away, by the limit that was reached", Sum, |n| {
        let of = |(why, name): &(Shed, &'static str)| (*name, n.total(|shard| shard.shed(*why)));
        by_reason(Shed::ALL.iter().map(of))
    }),

    ("backend_up", "Whether a backend that is probed is up (1) or passed over (0)", Level, |n| {
        let up = n.up.iter();
        up.map(|(at, [up, _])| (vec![("backend", at.clone())], Value::Level(*up))).collect()
    }),
    ("backend_checks_down", "Checks of a backend that fail, each for its rules, and rules whose requests alone do", Level, |n| {
        let up = n.up.iter();
        up.map(|(at, [_, down])| (vec![("backend", at.clone())], Value::Level(*down))).collect()
    }),
    ("host_requests", "Requests that ended, of the busiest hosts", Sum,
        |n| n.hosts.sums(HostCount::Completed)),
    ("host_bytes_sent", "Bytes sent to clients, of the busiest hosts", Sum,
        |n| n.hosts.sums(HostCount::BytesSent)),
    ("host_bytes_received", "Bytes received from clients, of the busiest hosts", Sum,
        |n| n.hosts.sums(HostCount::BytesReceived)),
    ("host_requests_open", "Requests under way, of the busiest hosts", Level,
        |n| n.hosts.levels(HostCount::Open)),
    ("host_requests_held", "Requests held, of the busiest hosts", Level,
        |n| n.hosts.levels(HostCount::Held)),
    ("host_answers", "Final answers by class, of the busiest", Sum, |n| n.hosts.answers()),
    ("host_errors", "Requests that failed, of the busiest hosts", Sum,
        |n| n.hosts.sums(HostCount::Errors)),
    ("host_limited", "Requests that a limit turned away, of the busiest hosts", Sum,
        |n| n.hosts.sums(HostCount::Limited)),
    ("host_latency_seconds", "Time from the end of a request's head to the head of its answer",
        Histogram, |n| n.hosts.times(SlotTime::Latency)),
    ("host_request_seconds", "Time from the end of a request's head to the end of the request",
        Histogram, |n| n.hosts.times(SlotTime::Request)),
    ("host_connect_seconds", "Time to open a connection", Histogram,
        |n| n.hosts.times(SlotTime::Connect)),
    ("host_response_seconds", "Time from request to response head", Histogram,
        |n| n.hosts.times(SlotTime::Response)),
    ("host_queue_seconds", "Time that requests waited for a permit of a backend", Histogram,
        |n| n.hosts.times_that_are(SlotTime::Queue)),
    ("host_held_seconds", "Time that requests were held", Histogram,
        |n| n.hosts.times_that_are(SlotTime::Held)),
    ("backend_requests", "Requests that ended, of the busiest backends", Sum,
        |n| n.backends.sums(BackendCount::Completed)),
    ("backend_connections_opened", "Connections opened, of the busiest backends", Sum,
        |n| n.backends.sums(BackendCount::Connections)),
    ("backend_connect_failures", "Attempts to connect that failed, of the busiest backends", Sum,
        |n| n.backends.sums(BackendCount::Failures)),
    ("backend_requests_open", "Requests under way, of the busiest backends", Level,
        |n| n.backends.levels(BackendCount::Open)),
    ("backend_connections_idle", "Idle connections, of the busiest backends", Level,
        |n| n.backends.levels(BackendCount::Idle)),
    ("backend_answers", "Final answers by class, of the busiest", Sum, |n| n.backends.answers()),
    ("backend_errors", "Requests that failed there, of the busiest backends", Sum,
        |n| n.backends.sums(BackendCount::Errors)),
    ("backend_connect_seconds", "Time to open a connection", Histogram,
        |n| n.backends.times(SlotTime::Connect)),
    ("backend_response_seconds", "Time from request to response head", Histogram,
        |n| n.backends.times(SlotTime::Response)),
];

/// Classes of final responses and replies, and the class of requests for unknown hosts.
const CLASSES: [(&str, Counter); 5] = [
    ("2xx", Counter::Answers2xx),
    ("3xx", Counter::Answers3xx),
    ("4xx", Counter::Answers4xx),
    ("5xx", Counter::Answers5xx),
    ("unknown", Counter::AnswersUnknown),
];

/// Scores of hosts and backends.
#[derive(Default)]
pub(super) struct Ranks {
    hosts: BusyScores<u64>,
    backends: BusyScores<Id>,
}

impl Ranks {
    /// Sorts hosts and backends, the busiest first.
    fn sort(&mut self, hosts: &mut [(u64, Sums)], backends: &mut [(Id, Sums)]) {
        let now = Instant::now();
        self.hosts.take(counted(hosts, HostCount::Completed), now);
        self.backends.take(counted(backends, BackendCount::Completed), now);
        sort_by_score(hosts, HostCount::Completed, &self.hosts);
        sort_by_score(backends, BackendCount::Completed, &self.backends);
    }
}

fn counted<K: Copy>(
    all: &[(K, Sums)],
    count: impl SlotIndex + Copy,
) -> impl Iterator<Item = (K, u64)> {
    all.iter().map(move |(key, sums)| (*key, sums.get(count)))
}

fn sort_by_score<K: Copy + Eq + Hash + Ord>(
    all: &mut [(K, Sums)],
    count: impl SlotIndex + Copy,
    scores: &BusyScores<K>,
) {
    all.sort_unstable_by(|(a, of_a), (b, of_b)| {
        let score = |key: &K| scores.score(*key);
        let requests = of_b.get(count).cmp(&of_a.get(count));
        score(b).total_cmp(&score(a)).then(requests).then(a.cmp(b))
    });
}

/// Numbers of one moment.
struct Numbers {
    shards: ControlEnd,
    current: Arc<TaggedTable>,
    is_state_writable: bool,
    /// Start of the daemon, in seconds since 1970.
    started: f64,
    hosts: Busiest,
    backends: Busiest,
    /// Backends that are probed.
    up: Vec<Standings>,
}

/// A backend, whether requests go there (1 or 0), and how many of its checks fail.
type Standings = (String, [i64; 2]);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").finish_non_exhaustive()
    }
}

impl Numbers {
    fn of(api: &Api, asker: &Asker, own: Option<&HashSet<Address>>) -> Numbers {
        let current = api.current();
        let since = api.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let statistics = api.lock_statistics();
        // Hosts without a slot are left out. Such a host would not be among the busiest for long.
        let mut hosts: Vec<(u64, Sums)> = statistics.busy().into_iter().collect();
        let mut backends: Vec<(Id, Sums)> = statistics.backends().into_iter().collect();
        api.ranks.lock().unwrap_or_else(PoisonError::into_inner).sort(&mut hosts, &mut backends);
        if let Some(own) = own {
            hosts.retain(|(key, _)| name_of(&current, *key).is_some_and(|name| asker.sees(name)));
            backends.retain(|(id, _)| own.contains(&Address::from_words(*id)));
        }
        hosts.truncate(limits::METRIC_HOSTS);
        backends.truncate(limits::METRIC_HOSTS);
        let keys: KeySet = hosts.iter().map(|(key, _)| *key).collect();
        let wholes = statistics.wholes(&keys);
        let ids = backends.iter().map(|(id, _)| *id).collect();
        let mut backend_wholes = statistics.backend_wholes(&ids);
        drop(statistics);
        // The sums are the total ones, which also include requests that are open in the daemon
        // before this one.
        let name = |(key, sums)| {
            let mut whole = wholes.get(&key).cloned().unwrap_or_default();
            whole.sums = sums;
            Some((name_of(&current, key)?.to_owned(), whole))
        };
        let hosts = hosts.into_iter().filter_map(name).collect();
        let backends = backends.into_iter().map(|(id, _)| {
            (label(Address::from_words(id)), backend_wholes.remove(&id).unwrap_or_default())
        });
        Numbers {
            shards: api.sources.shards.clone(),
            is_state_writable: api.sources.trouble.load().is_none(),
            started: since.as_secs_f64(),
            hosts: Busiest("host", hosts),
            backends: Busiest("backend", backends.collect()),
            up: standings(api, asker, own),
            current,
        }
    }

    /// Returns a sample for each shard that has a value.
    fn of_shards(&self, value: impl Fn(&Counters) -> Option<Value>) -> Vec<Sample> {
        let each = self.shards.counters().enumerate();
        let each = each.filter_map(|(shard, counters)| {
            Some((vec![("shard", shard.to_string())], value(counters)?))
        });
        each.collect()
    }

    fn sums(&self, counter: Counter) -> Vec<Sample> {
        self.of_shards(|shard| Some(Value::Count(shard.get(counter))))
    }

    fn levels(&self, counter: Counter) -> Vec<Sample> {
        self.of_shards(|shard| Some(level(shard.get(counter))))
    }

    fn seconds(&self, micros: impl Fn(&Counters) -> Option<u64>) -> Vec<Sample> {
        self.of_shards(|shard| Some(Value::Seconds(micros(shard)? as f64 / 1e6)))
    }

    fn answers(&self) -> Vec<Sample> {
        let each = self.shards.counters().enumerate().flat_map(|(shard, counters)| {
            CLASSES.map(|(class, counter)| {
                let labels = vec![("shard", shard.to_string()), ("class", class.to_owned())];
                (labels, Value::Count(counters.get(counter)))
            })
        });
        each.collect()
    }

    fn times(&self, time: SlotTime) -> Vec<Sample> {
        self.of_shards(|shard| {
            let (classes, micros) = shard.times(time);
            Some(histogram(time, &classes, micros))
        })
    }

    fn held_times(&self) -> Vec<Sample> {
        let mut all = vec![0; SlotTime::Held.classes().len()];
        let mut micros = 0;
        for (classes, sum) in self.shards.counters().map(|shard| shard.times(SlotTime::Held)) {
            all.iter_mut().zip(classes).for_each(|(sum, n)| *sum += n);
            micros += sum;
        }
        one(histogram(SlotTime::Held, &all, micros))
    }

    fn responses(&self) -> Vec<Sample> {
        let mut counts: BTreeMap<(&str, u16), u64> = BTreeMap::new();
        for (author, name) in Author::ALL {
            let each = self.shards.counters().flat_map(|shard| shard.statuses(author));
            each.for_each(|(status, count)| *counts.entry((name, status)).or_default() += count);
        }
        let samples = counts.into_iter().map(|((author, status), count)| {
            let class = format!("{}xx", status / 100);
            let labels =
                vec![("author", author.to_owned()), ("class", class), ("code", status.to_string())];
            (labels, Value::Count(count))
        });
        samples.collect()
    }

    fn endings(&self) -> Vec<Sample> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let each = self.shards.counters().flat_map(Counters::endings);
        each.for_each(|(cause, count)| *counts.entry(cause).or_default() += count);
        let samples = counts
            .into_iter()
            .map(|(cause, count)| (vec![("cause", cause.to_owned())], Value::Count(count)));
        samples.collect()
    }

    /// Adds up a count over all shards.
    fn total(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.counters().map(count).sum()
    }
}

/// Busiest hosts or backends: the label of their samples, and each with its sums.
struct Busiest(&'static str, Vec<(String, Whole)>);

impl Busiest {
    fn of_each(&self, value: impl Fn(&Whole) -> Value) -> Vec<Sample> {
        let each = self.1.iter();
        each.map(|(name, whole)| (vec![(self.0, name.clone())], value(whole))).collect()
    }

    fn sums(&self, count: impl SlotIndex + Copy) -> Vec<Sample> {
        self.of_each(|whole| Value::Count(whole.sums.get(count)))
    }

    fn levels(&self, count: impl SlotIndex + Copy) -> Vec<Sample> {
        self.of_each(|whole| Value::Level(i64::try_from(whole.sums.get(count)).unwrap_or(0)))
    }

    fn answers(&self) -> Vec<Sample> {
        let each = self.1.iter().flat_map(|(name, whole)| {
            // Only requests that match no rule are in the last class.
            let unknown = Some(whole.sums.unknown()).filter(|count| *count != 0);
            let classes = CLASSES.iter().zip(whole.sums.answers().iter().copied().chain(unknown));
            classes.map(|((class, _), count)| {
                let labels = vec![(self.0, name.clone()), ("class", (*class).to_owned())];
                (labels, Value::Count(count))
            })
        });
        each.collect()
    }

    fn times(&self, time: SlotTime) -> Vec<Sample> {
        self.of_each(|whole| {
            let (classes, micros) = whole.times(time);
            histogram(time, classes, micros)
        })
    }

    /// Histograms of those hosts that have such times. The others are left out, because most hosts
    /// hold and queue nothing.
    fn times_that_are(&self, time: SlotTime) -> Vec<Sample> {
        let have_some = |sample: &Sample| match &sample.1 {
            Value::Times(buckets, _) => buckets.iter().any(|(_, count)| *count != 0),
            _ => true,
        };
        self.times(time).into_iter().filter(have_some).collect()
    }
}

fn one(value: Value) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn level(number: u64) -> Value {
    Value::Level(i64::try_from(number).unwrap_or(i64::MAX))
}

fn by_reason(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<Sample> {
    let labelled = counts.map(|(reason, n)| (vec![("reason", reason.to_owned())], Value::Count(n)));
    labelled.collect()
}

fn histogram(time: SlotTime, classes: &[u64], micros: u64) -> Value {
    let bounds = time.bounds().iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
    Value::Times(bounds.zip(classes.iter().copied()).collect(), micros as f64 / 1e6)
}

/// Microseconds for which a thread of this process was runnable and had no CPU (`schedstat`,
/// proc_pid_schedstat(5)). Not every kernel counts them.
fn waited(thread: u64) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let nanos: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(nanos / 1000)
}

/// Lists the backends that are probed, those that are down first. If there are very many, only the
/// first are listed.
fn standings(api: &Api, asker: &Asker, own: Option<&HashSet<Address>>) -> Vec<Standings> {
    let is_up = |state: State| i64::from(!state.is_bad());
    let all = api.sources.health.states(asker.filter().as_ref()).into_iter();
    let all = all.filter(|it| own.is_none_or(|own| own.contains(&it.backend)));
    let mut all: Vec<_> =
        all.map(|it| (is_up(it.state), Reverse(it.checks_down), it.backend)).collect();
    all.sort_unstable();
    all.truncate(limits::METRIC_BACKENDS_PROBED);
    let told = all
        .into_iter()
        .map(|(up, Reverse(checks_down), backend)| (label(backend), [up, checks_down as i64]));
    told.collect()
}

/// Address as the value of a label. The format wants characters escaped that the path of a Unix
/// socket may hold.
fn label(backend: Address) -> String {
    let text = backend.to_string();
    match text.contains(['"', '\\']) {
        true => text.replace('\\', "\\\\").replace('"', "\\\""),
        false => text,
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, kind, samples) in METRICS {
            let samples = samples(self);
            if samples.is_empty() && *name == WAIT_TIME {
                continue;
            }
            let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
            match &samples[..] {
                [(labels, value)] if labels.is_empty() => write(value, metric)?,
                labelled => labelled
                    .iter()
                    .try_for_each(|(labels, value)| write(value, metric.encode_family(labels)?))?,
            }
        }
        Ok(())
    }
}

fn write(value: &Value, mut encoder: MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Count(n) => ConstCounter::new(*n).encode(encoder),
        Value::Seconds(seconds) => ConstCounter::new(*seconds).encode(encoder),
        Value::Level(n) => ConstGauge::new(*n).encode(encoder),
        Value::Moment(seconds) => ConstGauge::new(*seconds).encode(encoder),
        Value::Times(buckets, sum) => {
            let all = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, all, buckets, None)
        }
    }
}
