//! Stands in for the daemon's management API, for the dashboard: a table in memory, pages of it,
//! changes with `If-Match`, a token, and an event stream with made-up traffic. What a real daemon
//! can't be brought to at will, it does: two minutes of history at once, a connection that is lost
//! and back.

// The page as the daemon sends it. Goes when the daemon itself serves the tests.
#[path = "../../src/control/dashboard/mod.rs"]
mod dashboard;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::message::Head;

/// Most characters of a head.
const HEAD_MAX: usize = 64 * 1024;

#[derive(Default)]
struct Table {
    rules: BTreeMap<String, Arc<Value>>,
    version: u64,
    token: Option<String>,
    backends: Map<String, Value>,
    /// Events but for traffic, with a number that only grows: each stream sends those it has not
    /// yet.
    events: Vec<(&'static str, Value)>,
    /// Changes, newest first, as `/changes/` has them.
    changes: Vec<Value>,
    /// Members of `/stats/` that a test has set.
    stats: BTreeMap<String, Value>,
    /// Held requests, as `/held/` has them.
    held: Vec<Value>,
    fleet: Value,
    /// The rights of the token, as `hello` has them.
    asker: Value,
    /// Seconds of traffic that the first stream gets at once.
    history: u32,
    /// New event streams don't begin.
    is_slow: bool,
    /// Every connection ends, the open ones too.
    is_lost: bool,
    ends: bool,
    requests: Vec<String>,
}

struct Shared {
    table: Mutex<Table>,
    news: Condvar,
}

pub struct StandIn {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl StandIn {
    pub fn new(rules: impl IntoIterator<Item = (String, Arc<Value>)>) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let table = Table { rules: rules.into_iter().collect(), version: 1, ..Table::default() };
        let (table, news) = (Mutex::new(table), Condvar::new());
        let shared = Arc::new(Shared { table, news });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                if shared.table().ends {
                    return;
                }
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        StandIn { shared, address }
    }

    /// With a handful of rules.
    pub fn with(rules: &[(&str, Value)]) -> StandIn {
        StandIn::new(rules.iter().map(|(name, rule)| (name.to_string(), Arc::new(rule.clone()))))
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What the table has for a name.
    pub fn rule(&self, name: &str) -> Value {
        self.shared.table().rule(name)
    }

    /// A change by somebody else.
    pub fn set(&self, name: &str, rule: Value) {
        self.shared.table().edit(name, rule, "PUT", "uid 1000");
        self.shared.news.notify_all();
    }

    /// Sets counters of a host, beside the traffic that is made up.
    pub fn set_stats(&self, name: &str, members: Value) {
        self.shared.table().stats.insert(name.to_owned(), members);
    }

    /// Sets the held requests, as `/held/` has them.
    pub fn set_held(&self, held: Vec<Value>) {
        self.shared.table().held = held;
    }

    /// Sets the fleet, and what the token may do.
    pub fn set_fleet(&self, fleet: Value) {
        self.shared.table().fleet = fleet;
    }

    pub fn set_asker(&self, asker: Value) {
        self.shared.table().asker = asker;
    }

    pub fn demand_token(&self, token: &str) {
        self.shared.table().token = Some(token.to_owned());
    }

    /// Seconds of traffic before the first that is told.
    pub fn with_history(self, seconds: u32) -> StandIn {
        self.shared.table().history = seconds;
        self
    }

    /// The state of a backend, told as an event too.
    pub fn set_backend(&self, address: &str, state: &str, reason: &str) {
        let since = unix_now() as u64;
        self.set_backend_with(address, state, reason, json!({}), since);
    }

    /// Sets members of a backend beside those of each.
    pub fn set_backend_with(
        &self,
        address: &str,
        state: &str,
        reason: &str,
        members: Value,
        since: u64,
    ) {
        let mut entry = json!({
            "state": state, "reason": reason, "since": since, "open_requests": 3,
            "idle_connections": 8, "requests": 48211, "failures": 0, "connections": 9,
            "is_probed": true, "requests_per_second": 12.5, "errors_per_second": 0.0,
            "errors": 0, "answers": { "2xx": 48211, "3xx": 0, "4xx": 0, "5xx": 0 },
            "p50": 0.002, "p95": 0.014, "p99": 0.09
        });
        merge(&mut entry, &members);
        let mut table = self.shared.table();
        table.backends.insert(address.to_owned(), entry);
        let event = json!({ "backend": address, "state": state, "reason": reason });
        table.events.push(("health", event));
        self.shared.news.notify_all();
    }

    /// Ends every connection, also each new one, until it is put back.
    pub fn set_lost(&self, is_lost: bool) {
        self.shared.table().is_lost = is_lost;
        self.shared.news.notify_all();
    }

    /// Lets new event streams wait until it is put back.
    pub fn set_slow(&self, is_slow: bool) {
        self.shared.table().is_slow = is_slow;
        self.shared.news.notify_all();
    }

    /// Method and target of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.table().requests.clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.table().ends = true;
        self.shared.news.notify_all();
        // Its thread waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("the table")
    }
}

impl Table {
    fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    fn rule(&self, name: &str) -> Value {
        self.rules.get(name).map_or(Value::Null, |rule| (**rule).clone())
    }

    fn edit(&mut self, name: &str, rule: Value, verb: &str, who: &str) {
        let before = self.put(name, &rule);
        self.version += 1;
        self.remember(name, &rule, &before, verb, who);
        let event = json!({
            "verb": verb, "who": who, "etag": self.etag(), "rules": self.rules.len(),
            "changed": 1, "hosts": { name: rule }
        });
        self.events.push(("change", event));
    }

    /// Puts a rule into the table, and returns the one before.
    fn put(&mut self, name: &str, rule: &Value) -> Value {
        let before = self.rule(name);
        if rule.is_null() {
            self.rules.remove(name);
        } else {
            self.rules.insert(name.to_owned(), Arc::new(rule.clone()));
        }
        before
    }

    fn remember(&mut self, name: &str, rule: &Value, before: &Value, verb: &str, who: &str) {
        let change = json!({
            "time": unix_now(), "who": who, "verb": verb, "host": name, "rule": rule,
            "before": before
        });
        self.changes.insert(0, change);
    }

    /// Makes several edits as one.
    fn patch(&mut self, edits: &Map<String, Value>) {
        self.version += 1;
        for (name, rule) in edits {
            let before = self.put(name, rule);
            self.remember(name, rule, &before, "PATCH", "127.0.0.1:5123");
        }
        let event = json!({
            "verb": "PATCH", "who": "127.0.0.1:5123", "etag": self.etag(),
            "rules": self.rules.len(), "changed": edits.len(), "hosts": edits
        });
        self.events.push(("change", event));
    }

    /// Counters of a host: made up, or as a test has set them.
    fn stats_of(&self, name: &str, time: f64) -> Value {
        let mut counters = counters(name, &self.rule(name), time);
        if let Some(set) = self.stats.get(name) {
            merge(&mut counters, set);
        }
        counters
    }

    /// Whether a host with this rule is one that `filter=` is for.
    fn is_in(&self, filter: Option<&str>, rule: &Value, counters: &Value) -> bool {
        let is_some = |member: &str| 0.0 < counters[member].as_f64().unwrap_or(0.0);
        let is_bad = |state: &Value| *state == "down" || *state == "ejected";
        let text = rule.to_string();
        match filter {
            None => true,
            Some("failing") => is_some("errors_per_second"),
            Some("held") => is_some("held_requests"),
            Some("limited") => is_some("limited_per_second"),
            Some("down") => self
                .backends
                .iter()
                .filter(|(_, backend)| is_bad(&backend["state"]))
                .filter_map(|(address, _)| address.rsplit_once(':'))
                .any(|(host, port)| text.contains(&format!("[\"{host}\",{port}]"))),
            Some(other) => panic!("no such filter: {other}"),
        }
    }

    /// `/stats/`: those that are named, or those that match, in order.
    fn ranked(&self, query: &[(String, String)]) -> (Map<String, Value>, usize) {
        let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
        let time = unix_now();
        if value("host").is_some() {
            let found = named(query).map(|name| (name.to_owned(), self.stats_of(name, time)));
            return (found.collect(), 0);
        }
        let search = value("search").unwrap_or("");
        let member = match value("sort") {
            Some("errors") => "errors_per_second",
            Some("held") => "held_requests",
            Some("open") => "open_requests",
            Some("latency") => "p95",
            Some("bytes") => "bytes_sent_per_second",
            Some("limited") => "limited_per_second",
            _ => "requests_per_second",
        };
        let port = search.rsplit_once(':').map(|(_, port)| format!(",{port}]"));
        let fits = |name: &str, rule: &Value| {
            let is_backend = port.as_ref().is_some_and(|port| rule.to_string().contains(port));
            let is_found =
                || name.contains(search) || is_backend || rule.to_string().contains(search);
            value("action").is_none_or(|action| rule[0] == action)
                && (search.is_empty() || is_found())
        };
        let mut found: Vec<(String, Value)> = self
            .rules
            .iter()
            .filter(|(name, rule)| fits(name, rule))
            .map(|(name, rule)| (rule, name.clone(), self.stats_of(name, time)))
            .filter(|(rule, _, counters)| self.is_in(value("filter"), rule, counters))
            .map(|(_, name, counters)| (name, counters))
            .collect();
        let size = |value: &Value| value[member].as_f64().unwrap_or(0.0);
        found.sort_by(|(_, a), (_, b)| size(b).total_cmp(&size(a)));
        let matched = found.len();
        let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(100);
        (found.into_iter().take(limit).collect(), matched)
    }

    fn page(&self, query: &[(String, String)]) -> (Map<String, Value>, usize) {
        let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
        if value("host").is_some() {
            return (named(query).map(|name| (name.to_owned(), self.rule(name))).collect(), 0);
        }
        let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let (search, action) = (value("search").unwrap_or(""), value("action"));
        // An address is two members of the rule.
        let address = search.rsplit_once(':').map(|(host, port)| format!("[\"{host}\",{port}]"));
        let fits = |(name, rule): &(&String, &Arc<Value>)| {
            let is_backend =
                || address.as_ref().is_some_and(|address| rule.to_string().contains(address));
            (name.contains(search) || is_backend()) && action.is_none_or(|action| rule[0] == action)
        };
        let is_all = search.is_empty() && action.is_none();
        let matched =
            if is_all { self.rules.len() } else { self.rules.iter().filter(fits).count() };
        let after = (Bound::Excluded(value("after").unwrap_or("")), Bound::Unbounded);
        let page = self.rules.range::<str, _>(after).filter(fits).take(limit);
        (page.map(|(name, rule)| (name.clone(), (**rule).clone())).collect(), matched)
    }
}

/// The hosts that a query names.
fn named(query: &[(String, String)]) -> impl Iterator<Item = &str> {
    query.iter().filter(|(key, _)| key == "host").map(|(_, host)| host.as_str())
}

// ---- a connection: one request, one answer

fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    if shared.table().is_lost {
        return None;
    }
    let (head, body) = read_request(&mut stream)?;
    let mut words = head.start.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query: Vec<(String, String)> = form_decoded(query);
    let mut table = shared.table();
    table.requests.push(format!("{method} {target}"));
    if path == "/" {
        let fields =
            dashboard::fields().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        return answer(&mut stream, "200 OK", &fields, dashboard::page().as_bytes());
    }
    let given = head.field("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if table.token.is_some() && table.token.as_deref() != given {
        let error = if given.is_none() { "token_missing" } else { "token_wrong" };
        let problem = json!({ "error": error, "message": "the token is not this one" });
        return answer_json(&mut stream, "401 Unauthorized", "", &problem);
    }
    if path == "/events" {
        drop(table);
        return tell_events(stream, shared, &query);
    }
    if path == "/backends/" {
        let backends = Value::Object(table.backends.clone());
        return answer_json(&mut stream, "200 OK", "", &backends);
    }
    if let Some((matched, value)) = watched(&table, path, &query) {
        let counts =
            format!("Mantrid-Matched: {matched}\r\nMantrid-Rules: {}\r\n", table.rules.len());
        drop(table);
        return answer_json(&mut stream, "200 OK", &counts, &value);
    }
    if path == "/metrics" {
        return answer(&mut stream, "200 OK", "Content-Type: text/plain\r\n", METRICS.as_bytes());
    }
    let rest = path.strip_prefix("/hostname/")?;
    let is_dry = query.iter().any(|(key, _)| key == "dry_run");
    let (status, fields, value) = if rest.is_empty() && method == "PATCH" {
        let edits: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_old = head.field("if-match").is_some_and(|etag| etag != table.etag());
        match edits.as_object() {
            _ if is_old => (
                "412 Precondition Failed",
                String::new(),
                json!({ "error": "precondition_failed" }),
            ),
            Some(edits) if !is_dry => {
                table.patch(edits);
                ("200 OK", String::new(), json!({ "ok": true }))
            }
            _ => ("200 OK", String::new(), json!({ "ok": true, "dry_run": true })),
        }
    } else if rest.is_empty() {
        let (page, matched) = table.page(&query);
        let counts =
            format!("Mantrid-Matched: {matched}\r\nMantrid-Rules: {}\r\n", table.rules.len());
        ("200 OK", counts, Value::Object(page))
    } else {
        let name = percent_decoded(rest.trim_end_matches('/'));
        let (status, value) =
            one_rule(&mut table, &method, &name, &body, is_dry, head.field("if-match"));
        (status, String::new(), value)
    };
    let fields = format!("{fields}ETag: {}\r\n", table.etag());
    drop(table);
    shared.news.notify_all();
    answer_json(&mut stream, status, &fields, &value)
}

const METRICS: &str = "# TYPE mantrid_connections_open gauge\n\
    mantrid_connections_open{shard=\"0\"} 900\nmantrid_connections_open{shard=\"1\"} 60\n\
    mantrid_max_connections 1000\nprocess_open_fds 2000\nprocess_max_fds 524288\n\
    process_resident_memory_bytes 73400320\nmantrid_requests_held{shard=\"0\"} 14\n\
    mantrid_max_held 10000\nmantrid_shed_total{reason=\"max_connections\"} 3\n\
    mantrid_shed_total{reason=\"descriptors\"} 0\n\
    mantrid_shed_total{reason=\"max_requests_per_second\"} 412\n";

/// What is asked by pages of hosts and backends, with the number that matches.
fn watched(table: &Table, path: &str, query: &[(String, String)]) -> Option<(usize, Value)> {
    let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let of_host = |list: &[Value]| -> Vec<Value> {
        let host = value("host");
        let fits = |item: &&Value| host.is_none_or(|host| item["host"] == host);
        list.iter().filter(fits).cloned().collect()
    };
    Some(match path {
        "/stats/" => {
            let (found, matched) = table.ranked(query);
            (matched, Value::Object(found))
        }
        "/changes/" => (0, Value::Array(of_host(&table.changes))),
        "/held/" => (0, Value::Array(of_host(&table.held))),
        "/history/" => (0, history()),
        "/fleet/" => (0, table.fleet.clone()),
        _ => {
            let name = percent_decoded(path.strip_prefix("/stats/")?.trim_end_matches('/'));
            (0, table.stats_of(&name, unix_now()))
        }
    })
}

/// Half an hour of something.
fn history() -> Value {
    let time: Vec<u64> = (0..60).map(|step| unix_now() as u64 - 1830 + step * 30).collect();
    let wave = |size: f64| -> Vec<f64> {
        time.iter().map(|time| size * (1.2 + (*time as f64 / 200.0).sin())).collect()
    };
    json!({
        "step": 30, "time": time, "requests_per_second": wave(90.0),
        "errors_per_second": wave(0.4), "open_requests": wave(6.0), "held_requests": wave(0.0),
        "p50": wave(0.002), "p95": wave(0.02), "p99": wave(0.09),
        "answers_per_second": {
            "2xx": wave(88.0), "3xx": wave(2.0), "4xx": wave(0.6), "5xx": wave(0.4)
        }
    })
}

/// Puts the members of one object into another.
fn merge(into: &mut Value, members: &Value) {
    for (name, value) in members.as_object().into_iter().flatten() {
        into[name.as_str()] = value.clone();
    }
}

fn one_rule(
    table: &mut Table,
    method: &str,
    name: &str,
    body: &[u8],
    is_dry: bool,
    if_match: Option<&str>,
) -> (&'static str, Value) {
    if method == "GET" {
        return ("200 OK", table.rule(name));
    }
    let rule: Value = serde_json::from_slice(body).unwrap_or_default();
    if method == "PUT"
        && let Err((code, message)) = check(&rule)
    {
        let problem = json!({ "error": format!("{name}:{code}"), "message": message });
        return ("400 Bad Request", problem);
    }
    if if_match.is_some_and(|etag| etag != table.etag()) {
        let problem = json!({ "error": "precondition_failed", "message": "the table changed" });
        return ("412 Precondition Failed", problem);
    }
    if is_dry {
        return ("200 OK", json!({ "ok": true, "dry_run": true }));
    }
    table.edit(name, if method == "DELETE" { Value::Null } else { rule }, method, "127.0.0.1:5123");
    ("200 OK", json!({ "ok": true }))
}

/// As strict as the tests need it.
fn check(rule: &Value) -> Result<(), (&'static str, &'static str)> {
    let backends = rule[1]["backends"].as_array();
    match rule[0].as_str() {
        Some("proxy") => match backends {
            None => Err(("host_kwarg_missing:backends", "proxy needs the argument backends")),
            Some(list)
                if list.iter().any(|item| item.as_str().is_some_and(|s| !s.contains(':'))) =>
            {
                Err(("host_kwarg_invalid:backends", "a backend of proxy is wrong: it has no port"))
            }
            Some(_) => Ok(()),
        },
        Some("empty") if !rule[1]["code"].is_u64() => {
            Err(("host_kwarg_invalid:code", "code of empty is a status from 200 to 599"))
        }
        Some(_) => Ok(()),
        None => Err(("host_details_not_list", "a rule is a list")),
    }
}

fn read_request(stream: &mut TcpStream) -> Option<(Head, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        assert!(bytes.len() < HEAD_MAX, "a head without end");
    };
    let head = Head::parse(&bytes[..end]);
    let length = head.field("content-length").map_or(0, |text| text.parse().expect("a length"));
    while bytes.len() < end + length {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
    Some((head, bytes.split_off(end)))
}

fn answer(stream: &mut TcpStream, status: &str, fields: &str, body: &[u8]) -> Option<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}

fn answer_json(stream: &mut TcpStream, status: &str, fields: &str, body: &Value) -> Option<()> {
    let fields = format!("{fields}Content-Type: application/json\r\n");
    answer(stream, status, &fields, body.to_string().as_bytes())
}

fn form_decoded(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), percent_decoded(&value.replace('+', " "))))
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hex digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("UTF-8")
}

// ---- events

fn unix_now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs_f64()
}

fn tell_events(mut stream: TcpStream, shared: &Shared, query: &[(String, String)]) -> Option<()> {
    let hosts: Vec<&str> = named(query).collect();
    let waits = |table: &mut Table| table.is_slow && !table.ends;
    let mut table = shared.news.wait_while(shared.table(), waits).expect("the table");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    let hello = json!({
        "version": "0.1.0", "etag": table.etag(), "rules": table.rules.len(), "shards": 4,
        "since": unix_now() - 273_000.0, "asker": table.asker
    });
    tell(&mut stream, "hello", &hello)?;
    let mut told = table.events.len();
    let seconds = std::mem::take(&mut table.history);
    for ago in (1..=seconds).rev() {
        tell(&mut stream, "traffic", &traffic(&table, &hosts, unix_now() - f64::from(ago)))?;
    }
    let mut due = Instant::now();
    loop {
        while told < table.events.len() {
            let (name, data) = &table.events[told];
            tell(&mut stream, name, data)?;
            told += 1;
        }
        if due <= Instant::now() {
            tell(&mut stream, "traffic", &traffic(&table, &hosts, unix_now()))?;
            due += Duration::from_secs(1);
        }
        let left = due.saturating_duration_since(Instant::now());
        table = shared.news.wait_timeout(table, left).expect("the table").0;
        if table.is_lost || table.ends {
            return None;
        }
    }
}

fn tell(stream: &mut TcpStream, name: &str, data: &Value) -> Option<()> {
    stream.write_all(format!("event: {name}\ndata: {data}\n\n").as_bytes()).ok()
}

/// Requests per second of a host: a share of its own by its name, with a slow swing and some noise.
fn rate(name: &str, rule: &Value, time: f64) -> f64 {
    let share = name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let phase = f64::from(share % 360).to_radians();
    let size = 24_000.0 / f64::from(1 + share % 61).powf(0.9);
    let noise = (time * 12.9898 + phase).sin() * 43_758.545;
    let base = if rule[0] == "proxy" { size } else { size / 150.0 };
    let swing = 0.2 * (time / 23.0 + phase).sin() + 0.13 * (time / 5.3 + phase * 2.0).sin();
    base * (1.0 + swing + 0.16 * (noise - noise.floor() - 0.5))
}

fn counters(name: &str, rule: &Value, time: f64) -> Value {
    let is_held = rule[0] == "spin";
    let rate = if is_held { 0.0 } else { rate(name, rule, time) };
    let completed = (rate * 3.7) as u64 * 97;
    json!({
        "open_requests": (rate / 900.0) as u64, "completed_requests": completed,
        "bytes_sent": completed * 9000, "bytes_received": completed * 700,
        "held_requests": if is_held { 14 } else { 0 },
        "answers": { "2xx": completed, "3xx": 0, "4xx": 0, "5xx": 0 },
        "requests_per_second": rate, "bytes_sent_per_second": rate * 9000.0,
        "bytes_received_per_second": rate * 700.0, "errors_per_second": 0.0, "errors": 0,
        "limited_per_second": 0.0, "limited": 0, "p50": 0.002, "p95": 0.014, "p99": 0.09
    })
}

fn traffic(table: &Table, hosts: &[&str], time: f64) -> Value {
    let told = |name: &str| (name.to_owned(), table.stats_of(name, time));
    let mut all: Vec<(String, Value)> =
        table.rules.keys().take(60).map(|name| told(name)).collect();
    let sum = |key: &str| -> f64 { all.iter().filter_map(|(_, c)| c[key].as_f64()).sum() };
    let rate = sum("requests_per_second");
    // A little of it fails, now and then.
    let failed = (time * 3.0 + 14.0 * (time / 6.5).sin()).floor();
    let totals = json!({
        "requests_per_second": rate, "bytes_sent_per_second": sum("bytes_sent_per_second"),
        "bytes_received_per_second": sum("bytes_received_per_second"),
        "open_connections": 400 + (rate / 14.0) as u64, "open_requests": sum("open_requests"),
        "completed_requests": sum("completed_requests"), "answers": { "5xx": failed }
    });
    let held = sum("held_requests") as u64;
    let shards: Vec<Value> = (0..4).map(|index| shard(f64::from(index), rate, time)).collect();
    all.sort_by(|(_, a), (_, b)| {
        let rate = |c: &Value| c["requests_per_second"].as_f64().unwrap_or(0.0);
        rate(b).total_cmp(&rate(a))
    });
    let busiest = all.into_iter().take(8).map(|(name, mut c)| {
        c["host"] = json!(name);
        c
    });
    let is_down = |(_, b): &(&String, &Value)| b["state"] == "down" || b["state"] == "ejected";
    json!({
        "time": time, "rules": table.rules.len(), "etag": table.etag(), "totals": totals,
        "shards": shards, "busiest": busiest.collect::<Vec<_>>(), "held": held,
        "hosts": hosts.iter().map(|name| told(name)).collect::<Map<_, _>>(),
        "down": table.backends.iter().filter(is_down).map(|(at, _)| at).collect::<Vec<_>>(),
    })
}

fn shard(index: f64, rate: f64, time: f64) -> Value {
    let share = 0.25 + 0.03 * (time / 11.0 + index * 2.0).sin();
    let busy = (rate * share / 26_000.0 + 0.05 * (time * 1.3 + index).sin()).clamp(0.02, 1.0);
    json!({
        "requests": (time * rate * share) as u64, "requests_per_second": rate * share,
        "open_connections": 100, "busy": busy
    })
}
