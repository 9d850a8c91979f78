//! Figures that `top` shows, read from the daemon's JSON. Members that are missing or of another
//! form count as 0 or empty, so the figures of an older or newer daemon are shown as far as they
//! are understood.

use serde_json::Value;

use crate::client::print::{action, backends, counted, plain};

/// A host in the last second.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Host {
    pub name: String,
    pub requests_rate: f64,
    /// 5xx responses, and failures of the daemon itself, per second.
    pub errors_rate: f64,
    /// Requests per second that limits turn away.
    pub limited_rate: f64,
    pub received_rate: f64,
    pub sent_rate: f64,
    /// Seconds to the head of the response: the 50th, 95th and 99th percentile of the last minute.
    pub latency: [Option<f64>; 3],
    pub open: u64,
    pub held: u64,
    pub completed: u64,
    /// Responses by class, from 2xx on.
    pub answers: [u64; 4],
}

impl Host {
    pub fn of(name: &str, value: &Value) -> Host {
        let answers = value.get("answers");
        let class = |name| answers.map_or(0, |answers| count(answers, name));
        Host {
            name: plain(name),
            requests_rate: rate(value, "requests_per_second"),
            errors_rate: rate(value, "errors_per_second"),
            limited_rate: rate(value, "limited_per_second"),
            received_rate: rate(value, "bytes_received_per_second"),
            sent_rate: rate(value, "bytes_sent_per_second"),
            latency: ["p50", "p95", "p99"].map(|name| seconds(value, name)),
            open: count(value, "open_requests"),
            held: count(value, "held_requests"),
            completed: count(value, "completed_requests"),
            answers: ["2xx", "3xx", "4xx", "5xx"].map(class),
        }
    }
}

/// A shard in the last second.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Shard {
    pub requests_rate: f64,
    pub open_connections: u64,
    /// Share of its time that the shard was busy, from 0 to 1.
    pub busy: f64,
}

/// Content of one `traffic` event.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Traffic {
    pub rules: u64,
    pub held: u64,
    pub totals: Host,
    pub open_connections: u64,
    pub shards: Vec<Shard>,
    pub hosts: Vec<Host>,
    pub down: Vec<String>,
}

impl Traffic {
    pub fn of(value: &Value) -> Traffic {
        let totals = value.get("totals").unwrap_or(&Value::Null);
        let shard = |value: &Value| Shard {
            requests_rate: rate(value, "requests_per_second"),
            open_connections: count(value, "open_connections"),
            busy: rate(value, "busy").clamp(0.0, 1.0),
        };
        let host = |value: &Value| Some(Host::of(value.get("host")?.as_str()?, value));
        Traffic {
            rules: count(value, "rules"),
            held: count(value, "held"),
            totals: Host::of("", totals),
            open_connections: count(totals, "open_connections"),
            shards: list(value, "shards").map(shard).collect(),
            hosts: list(value, "busiest").filter_map(host).collect(),
            down: texts(value, "down"),
        }
    }
}

/// A backend, as `/backends/` has it.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Backend {
    pub address: String,
    pub state: String,
    pub reason: String,
    /// Time at which the state began, in seconds since 1970.
    pub since: Option<u64>,
    pub open: u64,
    pub idle: u64,
    pub failures: u64,
    pub requests_rate: f64,
    /// Requests per second that end with a 5xx, or that fail without one by the fault of the
    /// backend.
    pub errors_rate: f64,
    /// Seconds from the end of a sent request to the head of its response: the 50th and the 95th
    /// percentile of the last minute.
    pub latency: [Option<f64>; 2],
    /// Checks that fail, each with the rules that use it.
    failed_checks: Vec<(Vec<String>, Backend)>,
}

impl Backend {
    pub fn of(address: &str, value: &Value) -> Backend {
        Backend {
            address: plain(address),
            state: text(value, "state"),
            reason: text(value, "reason"),
            since: value.get("since").and_then(Value::as_u64),
            open: count(value, "open_requests"),
            idle: count(value, "idle_connections"),
            failures: count(value, "failures"),
            requests_rate: rate(value, "requests_per_second"),
            errors_rate: rate(value, "errors_per_second"),
            latency: ["p50", "p95"].map(|name| seconds(value, name)),
            failed_checks: list(value, "checks")
                .map(|check| (texts(check, "rules"), Backend::of(address, check)))
                .filter(|(_, check)| check.is_bad())
                .collect(),
        }
    }

    /// Finds the reason why requests of a rule do not go to the backend. Each rule may have checks
    /// of its own: an address may be down for one rule and up for another.
    pub fn trouble(&self, rule: &str) -> Option<&Backend> {
        if self.is_bad() {
            return Some(self);
        }
        let failed = self.failed_checks.iter();
        let mut failed = failed.filter(|(rules, _)| rules.iter().any(|name| name == rule));
        failed.next().map(|(_, check)| check)
    }

    /// Whether requests pass over the backend.
    pub fn is_bad(&self) -> bool {
        matches!(self.state.as_str(), "down" | "ejected")
    }
}

/// A node of the fleet.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Node {
    pub name: String,
    /// Entries of the log that the node has still to apply.
    pub behind: u64,
    /// Seconds since the node last said something.
    pub age: f64,
    pub held: u64,
    pub requests_rate: f64,
}

/// The fleet, as one of its nodes sees it.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Fleet {
    pub name: String,
    /// Why changes are refused, while they are.
    pub trouble: Option<String>,
    pub nodes: Vec<Node>,
}

impl Fleet {
    /// Reads a fleet; `None` if there is none.
    pub fn of(value: &Value) -> Option<Fleet> {
        let nodes = value.get("nodes")?.as_object()?;
        let sequence = count(value, "sequence");
        let node = |(name, node): (&String, &Value)| Node {
            name: plain(name),
            behind: sequence.saturating_sub(count(node, "sequence")),
            age: rate(node, "age"),
            held: count(node, "held"),
            requests_rate: rate(node, "requests_per_second"),
        };
        let lost = value.get("lost").and_then(Value::as_str).map(|why| format!("lost: {why}"));
        let is_connected = value.get("connected") == Some(&Value::Bool(true));
        let away = (!is_connected).then(|| "etcd is out of reach".to_owned());
        Some(Fleet {
            name: text(value, "fleet"),
            trouble: lost.or(away).map(|why| plain(&why)),
            nodes: nodes.iter().map(node).collect(),
        })
    }
}

/// A change of a rule, as `/changes/` has it.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct ChangeLine {
    /// Seconds since 1970.
    pub time: f64,
    pub who: String,
    pub verb: String,
    /// The rule before and after, in short.
    pub what: String,
}

impl ChangeLine {
    pub fn of(value: &Value) -> ChangeLine {
        let short = |name: &str| match value.get(name) {
            Some(Value::Null) | None => "no rule".to_owned(),
            Some(rule) => action(rule),
        };
        let is_table = value.get("host").is_some_and(|host| host == "*");
        let what = if is_table {
            format!("{} of the table at once", counted(count(value, "changed"), "rule"))
        } else {
            format!("{} → {}", short("before"), short("rule"))
        };
        ChangeLine {
            time: rate(value, "time"),
            who: text(value, "who"),
            verb: text(value, "verb"),
            what,
        }
    }
}

/// A host that is opened, with its rule and its changes.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Close {
    pub host: Host,
    /// The rule of the host in short; empty if the host has no rule of its own.
    pub rule: String,
    pub action: String,
    /// Addresses of the backends of its rule or, for a held host, of the rule that stood before.
    pub targets: Vec<String>,
    pub changes: Vec<ChangeLine>,
    /// Why the changes are not known, if they are not.
    pub unknown: Option<String>,
}

impl Close {
    /// Reads a host. `which` is what a request for the host would meet; `null` if that is not
    /// known.
    pub fn of(name: &str, rule: &Value, stats: &Value, which: &Value) -> Close {
        let met = list(which, "backends").filter_map(|met| {
            ["address", "backend"].into_iter().find_map(|name| met.get(name)?.as_str())
        });
        let met: Vec<String> = met.map(plain).collect();
        let then = rule.get(1).and_then(|arguments| arguments.get("then"));
        let arguments = then.unwrap_or(rule).get(1).unwrap_or(&Value::Null);
        let targets = arguments.get("backends").map(backends).unwrap_or_default();
        let targets = targets.split(',').filter(|target| !target.is_empty()).map(plain);
        Close {
            host: Host::of(name, stats),
            rule: if rule.is_null() { String::new() } else { action(rule) },
            action: plain(rule.get(0).and_then(Value::as_str).unwrap_or_default()),
            targets: if met.is_empty() { targets.collect() } else { met },
            changes: Vec::new(),
            unknown: None,
        }
    }
}

pub fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

pub fn rate(value: &Value, name: &str) -> f64 {
    let rate = value.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    if rate.is_finite() { rate.max(0.0) } else { 0.0 }
}

fn seconds(value: &Value, name: &str) -> Option<f64> {
    value.get(name).and_then(Value::as_f64).filter(|seconds| seconds.is_finite())
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    list(value, name).filter_map(Value::as_str).map(plain).collect()
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).map(plain).unwrap_or_default()
}
