//! `GET /metrics`, for Prometheus. Totals per shard; hosts and backends only the busiest of them,
//! for a million series would bring any Prometheus down.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::super::health::State;
use super::super::statistics::name_of;
use super::Api;
use super::error::ApiError;
use super::exposition::Format;
use super::route::Query;
use super::stats::backend;
use crate::http::Refusal;
use crate::limits;
use crate::link::{
    BackendCount, ControlEnd, Counter, Counters, HELD_BOUNDS, HostCount, Id, Shed, SlotIndex,
    SlotTime, Sums, TIME_BOUNDS,
};

pub(super) fn answer(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    let mut registry = Registry::with_prefix("mantrid");
    registry.register_collector(Box::new(Numbers::of(api)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|_| ApiError::busy("the metrics could not be written"))?;
    let format = Format::of(&parts.headers);
    let content = [(header::CONTENT_TYPE, format.content_type())];
    Ok((content, format.write(text)).into_response())
}

/// The numbers of one moment.
#[derive(Debug)]
struct Numbers {
    shards: Vec<HashMap<&'static str, u64>>,
    refusals: Vec<(&'static str, u64)>,
    shed: Vec<(&'static str, u64)>,
    connections_shed: Vec<u64>,
    access_log_lost: u64,
    /// As [`HELD_BOUNDS`] has it, of all shards.
    held_times: [u64; HELD_BOUNDS.len() + 2],
    rules: i64,
    generation: i64,
    state_writable: i64,
    reload_successful: i64,
    started: f64,
    hosts: Vec<(String, Sums)>,
    backends: Vec<(String, Sums)>,
    /// Backends that are probed: 1 where requests go there.
    up: Vec<(String, i64)>,
}

/// Counters of a shard: name, help, and where it stands.
const COUNTERS: &[(&str, &str, Counter)] = &[
    ("connections_accepted", "Client connections accepted", Counter::Accepted),
    ("requests", "Requests whose head was accepted", Counter::Requests),
    ("requests_completed", "Requests that ended, answered or not", Counter::Completed),
    ("bytes_sent", "Bytes sent to clients", Counter::Sent),
    ("bytes_received", "Bytes received from clients", Counter::Received),
    ("connects", "Connections opened to backends", Counter::Connects),
    ("backend_connections_reused", "Requests sent on an idle connection", Counter::Reused),
    ("connect_failures", "Attempts to connect that failed", Counter::ConnectFailures),
    ("retries", "Requests sent again, an idle connection being dead", Counter::Retries),
    ("panics", "Connections ended by a panic", Counter::Panics),
    (
        "requests_uncounted",
        "Requests that no counter of their host had room for",
        Counter::Uncounted,
    ),
    ("news_dropped", "What control was too far behind to be told", Counter::NewsDropped),
    ("holds", "Times that a request began to be held", Counter::HeldTotal),
    ("holds_released", "Held requests that went on", Counter::HeldReleased),
    ("holds_timed_out", "Held requests whose time ran out", Counter::HeldTimedOut),
    ("holds_refused", "Requests that there was no room to hold", Counter::HeldRefused),
    ("holds_left", "Held requests whose client left", Counter::HeldLeft),
    ("ring_enters", "Calls of io_uring_enter", Counter::RingEnters),
    ("ring_completions", "Completions taken from the ring", Counter::RingCompletions),
];

const GAUGES: &[(&str, &str, Counter)] = &[
    ("connections_open", "Client connections open", Counter::Open),
    ("idle_backend_connections", "Idle connections to backends", Counter::IdleConnections),
    ("requests_queued", "Requests that wait for a place at a backend", Counter::Queued),
    ("requests_held", "Requests held", Counter::Held),
    ("pipes", "Pipes in use for bulk bodies", Counter::Pipes),
];

const CLASSES: [(&str, Counter); 4] = [
    ("2xx", Counter::Answers2xx),
    ("3xx", Counter::Answers3xx),
    ("4xx", Counter::Answers4xx),
    ("5xx", Counter::Answers5xx),
];

/// Of a host or a backend: suffix, help, and where it stands.
type Own<Count> = (&'static str, &'static str, Count);

const HOST_COUNTERS: &[Own<HostCount>] = &[
    ("requests", "Requests that ended, of the busiest hosts", HostCount::Completed),
    ("bytes_sent", "Bytes sent to clients, of the busiest hosts", HostCount::BytesSent),
    (
        "bytes_received",
        "Bytes received from clients, of the busiest hosts",
        HostCount::BytesReceived,
    ),
];
const HOST_GAUGES: &[Own<HostCount>] = &[
    ("requests_open", "Requests under way, of the busiest hosts", HostCount::Open),
    ("requests_held", "Requests held, of the busiest hosts", HostCount::Held),
];
const BACKEND_COUNTERS: &[Own<BackendCount>] = &[
    ("requests", "Requests that ended, of the busiest backends", BackendCount::Completed),
    (
        "connections_opened",
        "Connections opened, of the busiest backends",
        BackendCount::Connections,
    ),
    (
        "connect_failures",
        "Attempts to connect that failed, of the busiest backends",
        BackendCount::Failures,
    ),
];
const BACKEND_GAUGES: &[Own<BackendCount>] = &[
    ("requests_open", "Requests under way, of the busiest backends", BackendCount::Open),
    ("connections_idle", "Idle connections, of the busiest backends", BackendCount::Idle),
];
const TIMES: [(&str, &str, SlotTime); 2] = [
    ("connect_seconds", "Time to open a connection", SlotTime::Connect),
    ("response_seconds", "Time from request to response head", SlotTime::Response),
];

const CPU_TIME: &str = "shard_cpu_seconds";
const WAIT_TIME: &str = "shard_cpu_wait_seconds";
/// All in microseconds where they are kept.
const SHARD_TIMES: [(&str, &str); 3] = [
    (CPU_TIME, "Time that the shard was on a CPU, the kernel's work for it included"),
    (WAIT_TIME, "Time that the shard could run and waited for a CPU"),
    ("asleep_seconds", "Time that the shard was not on a CPU"),
];

impl Numbers {
    fn of(api: &Api) -> Numbers {
        let current = api.current();
        let since = api.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let statistics = api.lock_statistics();
        // Only those with a slot are looked at: who has none is not among the busiest for long.
        let mut hosts: Vec<(u64, Sums)> = statistics.busy().into_iter().collect();
        hosts.sort_by_key(|(key, sums)| (Reverse(sums.get(HostCount::Completed)), *key));
        hosts.truncate(limits::METRIC_HOSTS);
        let named = hosts.into_iter();
        let named =
            named.filter_map(|(key, sums)| Some((name_of(&current.table, key)?.to_owned(), sums)));
        let mut backends: Vec<(Id, Sums)> = statistics.backends().into_iter().collect();
        drop(statistics);
        backends.sort_by_key(|(id, sums)| (Reverse(sums.get(BackendCount::Completed)), *id));
        backends.truncate(limits::METRIC_HOSTS);
        let backends = backends.into_iter().map(|(id, sums)| (backend(&id).to_string(), sums));
        Numbers {
            shards: shards(&api.sources.shards),
            refusals: refusals(&api.sources.shards),
            shed: shed(&api.sources.shards),
            connections_shed: connections_shed(&api.sources.shards),
            access_log_lost: api.sources.shards.total(Counter::LogDropped)
                + api.sources.shards.together.logbook.lost(),
            held_times: held_times(&api.sources.shards),
            rules: i64::try_from(current.table.len()).unwrap_or(i64::MAX),
            state_writable: i64::from(api.sources.trouble.load().is_none()),
            reload_successful: i64::from(api.is_reloaded.load(Ordering::Relaxed)),
            generation: i64::try_from(current.tag.sequence).unwrap_or(i64::MAX),
            started: since.as_secs_f64(),
            hosts: named.collect(),
            backends: backends.collect(),
            up: standings(api),
        }
    }

    fn build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        one_gauge(encoder, "build_info", "Which program this is", &version, 1)?;
        one_gauge(encoder, "rules", "Rules in the table", &[], self.rules)?;
        let help = "Number of the last change of the table";
        one_gauge(encoder, "table_generation", help, &[], self.generation)?;
        let help = "Whether changes can be written to the state's files: 0 after one could not be";
        one_gauge(encoder, "state_writable", help, &[], self.state_writable)?;
        let help = "Whether the configuration that was read last is in force";
        one_gauge(encoder, "last_reload_successful", help, &[], self.reload_successful)?;
        let help = "When the daemon started, in seconds since 1970";
        let metric =
            encoder.encode_descriptor("start_time_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.started).encode(metric)
    }

    fn held(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time that requests were held";
        let mut metric =
            encoder.encode_descriptor("held_seconds", help, None, MetricType::Histogram)?;
        let (classes, millis) = self.held_times.split_at(HELD_BOUNDS.len() + 1);
        let bounds = HELD_BOUNDS.iter().map(|millis| *millis as f64 / 1e3).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(classes.iter().copied()).collect();
        let (sum, all) = (millis[0] as f64 / 1e3, classes.iter().sum());
        metric.encode_histogram::<NoLabelSet>(sum, all, &buckets, None)
    }

    /// What became of each shard's time.
    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help) in SHARD_TIMES {
            // Not every kernel counts how long a thread waits.
            if self.shards.iter().all(|numbers| !numbers.contains_key(name)) {
                continue;
            }
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, numbers) in self.shards.iter().enumerate() {
                let Some(micros) = numbers.get(name) else { continue };
                let labels = [("shard", shard.to_string())];
                let seconds = *micros as f64 / 1e6;
                ConstCounter::new(seconds).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn per_shard(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, _) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, numbers) in self.shards.iter().enumerate() {
                let labels = [("shard", shard.to_string())];
                ConstCounter::new(numbers[name]).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, _) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, numbers) in self.shards.iter().enumerate() {
                let labels = [("shard", shard.to_string())];
                let number = i64::try_from(numbers[name]).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Final answers by class";
        let mut metric = encoder.encode_descriptor("answers", help, None, MetricType::Counter)?;
        for (shard, numbers) in self.shards.iter().enumerate() {
            for (class, _) in CLASSES {
                let labels = [("shard", shard.to_string()), ("class", class.to_owned())];
                ConstCounter::new(numbers[class]).encode(metric.encode_family(&labels)?)?;
            }
        }
        self.held(encoder)?;
        self.times(encoder)?;
        let help = "Heads and bodies refused, by reason";
        let mut metric = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
        for (reason, count) in &self.refusals {
            ConstCounter::new(*count).encode(metric.encode_family(&[("reason", *reason)])?)?;
        }
        let help = "Lines of the access log that were not written";
        let metric =
            encoder.encode_descriptor("access_log_dropped", help, None, MetricType::Counter)?;
        ConstCounter::new(self.access_log_lost).encode(metric)?;
        let help = "Client connections turned away";
        let mut metric =
            encoder.encode_descriptor("connections_shed", help, None, MetricType::Counter)?;
        for (shard, count) in self.connections_shed.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Connections and requests turned away, by the limit that was reached";
        let mut metric = encoder.encode_descriptor("shed", help, None, MetricType::Counter)?;
        for (reason, count) in &self.shed {
            ConstCounter::new(*count).encode(metric.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}

fn one_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    labels: &[(&str, &str)],
    value: i64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    match labels {
        [] => ConstGauge::new(value).encode(metric),
        labels => ConstGauge::new(value).encode(metric.encode_family(&labels.to_vec())?),
    }
}

fn shards(end: &ControlEnd) -> Vec<HashMap<&'static str, u64>> {
    let each = end.counters().map(|counters| {
        let named = COUNTERS.iter().chain(GAUGES).map(|(name, _, counter)| (*name, *counter));
        let times = [(CPU_TIME, Counter::CpuMicros), ("asleep_seconds", Counter::AsleepMicros)];
        let all = named.chain(CLASSES).chain(times);
        let mut all: HashMap<_, _> =
            all.map(|(name, counter)| (name, counters.get(counter))).collect();
        all.extend(waited(counters.get(Counter::Thread)).map(|micros| (WAIT_TIME, micros)));
        all
    });
    each.collect()
}

/// Microseconds that a thread of ours could run and had no CPU (`schedstat`,
/// proc_pid_schedstat(5)).
fn waited(thread: u64) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let nanos: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(nanos / 1000)
}

fn refusals(end: &ControlEnd) -> Vec<(&'static str, u64)> {
    let count = |refusal: Refusal| end.counters().map(|counters| counters.refusals(refusal)).sum();
    let all = Refusal::ALL.iter().map(|refusal| (refusal.slug(), count(*refusal)));
    all.collect()
}

fn shed(end: &ControlEnd) -> Vec<(&'static str, u64)> {
    let count = |why: Shed| end.counters().map(|counters| counters.shed(why)).sum();
    Shed::ALL.iter().map(|(why, name)| (*name, count(*why))).collect()
}

fn connections_shed(end: &ControlEnd) -> Vec<u64> {
    let of = |counters: &Counters| Shed::CONNECTIONS.iter().map(|why| counters.shed(*why)).sum();
    end.counters().map(of).collect()
}

fn held_times(end: &ControlEnd) -> [u64; HELD_BOUNDS.len() + 2] {
    let mut all = [0; HELD_BOUNDS.len() + 2];
    for times in end.counters().map(Counters::held_times) {
        all.iter_mut().zip(times).for_each(|(sum, n)| *sum += n);
    }
    all
}

/// Counters, gauges, answers and times of each.
fn of_each<Count: SlotIndex + Copy>(
    encoder: &mut DescriptorEncoder<'_>,
    label: &'static str,
    each: &[(String, Sums)],
    (counters, gauges): (&[Own<Count>], &[Own<Count>]),
) -> fmt::Result {
    for (name, help, count) in counters {
        let name = format!("{label}_{name}");
        let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (own, sums) in each {
            let labels = [(label, own.as_str())];
            ConstCounter::new(sums.get(*count)).encode(metric.encode_family(&labels)?)?;
        }
    }
    for (name, help, count) in gauges {
        let name = format!("{label}_{name}");
        let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
        for (own, sums) in each {
            let number = i64::try_from(sums.get(*count)).unwrap_or(0);
            let labels = [(label, own.as_str())];
            ConstGauge::new(number).encode(metric.encode_family(&labels)?)?;
        }
    }
    let name = format!("{label}_answers");
    let help = "Final answers by class, of the busiest";
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (own, sums) in each {
        for ((class, _), count) in CLASSES.iter().zip(sums.answers()) {
            let labels = [(label, own.as_str()), ("class", *class)];
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
    }
    for (name, help, count) in TIMES {
        times(encoder, (&format!("{label}_{name}"), help), (label, each), count)?;
    }
    Ok(())
}

fn times(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    (label, each): (&'static str, &[(String, Sums)]),
    histogram: SlotTime,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let bounds = TIME_BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
    let bounds: Vec<f64> = bounds.collect();
    for (own, sums) in each {
        let (classes, micros) = sums.times(histogram);
        let buckets: Vec<(f64, u64)> =
            bounds.iter().copied().zip(classes.iter().copied()).collect();
        let labels = [(label, own.as_str())];
        let mut family = metric.encode_family(&labels)?;
        let all = classes.iter().sum();
        family.encode_histogram::<NoLabelSet>(micros as f64 / 1e6, all, &buckets, None)?;
    }
    Ok(())
}

/// Those that are down first: of very many only some are told.
fn standings(api: &Api) -> Vec<(String, i64)> {
    let is_up = |state: State| i64::from(matches!(state, State::Up | State::Unknown));
    let mut all: Vec<_> =
        api.sources.health.states().into_iter().map(|it| (is_up(it.state), it.backend)).collect();
    all.sort_unstable();
    all.truncate(limits::METRIC_BACKENDS_PROBED);
    all.into_iter().map(|(up, backend)| (backend.to_string(), up)).collect()
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.build(&mut encoder)?;
        self.per_shard(&mut encoder)?;
        let help = "Whether a backend that is probed is up (1) or passed over (0)";
        let mut metric = encoder.encode_descriptor("backend_up", help, None, MetricType::Gauge)?;
        for (backend, up) in &self.up {
            let labels = [("backend", backend.as_str())];
            ConstGauge::new(*up).encode(metric.encode_family(&labels)?)?;
        }
        of_each(&mut encoder, "host", &self.hosts, (HOST_COUNTERS, HOST_GAUGES))?;
        of_each(&mut encoder, "backend", &self.backends, (BACKEND_COUNTERS, BACKEND_GAUGES))
    }
}
