//! The queries of `docs/grafana.json` and `docs/alerts.yml`: each metric, label and value in them
//! is one that `/metrics` serves, and, where there is a Prometheus, each has an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::docs::page::root;
use crate::etcd::Etcd;
use crate::fleet::{connected, node};
use crate::message::get;
use crate::metrics::Metrics;
use crate::script::Connection;

/// A query, where it stands, and the labels that the text beside it shows.
#[derive(Debug)]
struct Asked {
    place: String,
    query: String,
    shown: BTreeSet<String>,
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).expect(name)
}

/// Words between a start and an end.
fn between<'t>(text: &'t str, start: &'t str, end: &[char]) -> BTreeSet<String> {
    let pieces = text.split(start).skip(1);
    let words = pieces.map(|piece| piece.split(end).next().unwrap_or_default().trim());
    words.map(str::to_owned).collect()
}

fn of_dashboard() -> Vec<Asked> {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "a panel that asks nothing: {panel}");
        let from = json!({"type": "prometheus", "uid": "${source}"});
        assert_eq!(panel["datasource"], from, "{panel}");
        all.extend(targets.iter().map(|target| Asked {
            place: format!("grafana.json, {}", text(&panel["title"])),
            query: text(&target["expr"]),
            shown: between(&text(&target["legendFormat"]), "{{", &['}']),
        }));
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let query = text(&variable["query"]);
        let Some(inner) = query.strip_prefix("label_values(") else { continue };
        let (metric, label) = inner.trim_end_matches(')').split_once(", ").expect("a label");
        let shown = BTreeSet::from([label.to_owned()]);
        let place = format!("grafana.json, ${}", text(&variable["name"]));
        all.push(Asked { place, query: metric.to_owned(), shown });
    }
    all
}

fn of_alerts() -> Vec<Asked> {
    let text = read("alerts.yml");
    let alerts = text.split("      - alert: ").skip(1).map(|alert| {
        let (name, rest) = alert.split_once('\n').expect("lines");
        let (_, rest) = rest.split_once("expr: ").expect("a query");
        let is_block = rest.starts_with("|\n");
        // A block goes on as long as its lines stand further right than `expr`.
        let lines = rest.trim_start_matches("|\n").lines();
        let lines = lines.take_while(|line| !is_block || line.starts_with("          "));
        let count = if is_block { usize::MAX } else { 1 };
        let query: Vec<&str> = lines.take(count).map(str::trim).collect();
        let shown = between(rest, "$labels.", &[' ', '}', ':']);
        let place = format!("alerts.yml, {}", name.split(' ').next().unwrap_or_default());
        Asked { place, query: query.join(" "), shown }
    });
    alerts.collect()
}

/// A part of a query that names something.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Function(String),
    /// A metric with its matchers: label, operator and value.
    Metric(String, Vec<[String; 3]>),
    /// Labels by which series are put together.
    Labels(Vec<String>),
}

/// What a query names (<https://prometheus.io/docs/prometheus/latest/querying/basics/>).
fn parts(query: &str) -> Vec<Part> {
    const WORDS: [&str; 4] = ["and", "or", "unless", "bool"];
    const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut parts = Vec::new();
    let mut rest = query;
    while let Some(next) = rest.chars().next() {
        if next == '[' {
            rest = rest.split_once(']').expect("the end of a range").1;
            continue;
        }
        if next.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| is_word(c) || c == '.');
            continue;
        }
        assert!(next != '"' && next != '{', "{query}: a value without a metric");
        if !is_word(next) {
            rest = &rest[next.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = (&rest[..end], rest[end..].trim_start());
        rest = behind;
        if WORDS.contains(&word) {
            continue;
        }
        if LISTS.contains(&word) {
            let (list, behind) = rest[1..].split_once(')').expect("a list of labels");
            parts.push(Part::Labels(list.split(',').map(|it| it.trim().to_owned()).collect()));
            rest = behind;
        } else if ["(", "by ", "without "].iter().any(|start| rest.starts_with(start)) {
            parts.push(Part::Function(word.to_owned()));
        } else {
            let mut matchers = Vec::new();
            if let Some(inner) = rest.strip_prefix('{') {
                let (inner, behind) = inner.split_once('}').expect("the end of matchers");
                rest = behind;
                matchers.extend(inner.split(',').map(matcher));
            }
            parts.push(Part::Metric(word.to_owned(), matchers));
        }
    }
    parts
}

fn matcher(text: &str) -> [String; 3] {
    let (label, rest) = text.split_at(text.find(['=', '!']).expect("an operator"));
    let (operator, value) = rest.split_once('"').expect("a value");
    [label.trim(), operator, value.trim_end().trim_end_matches('"')].map(str::to_owned)
}

#[test]
fn metrics_and_labels_of_a_query_are_found() {
    let metric = |name: &str, matchers: &[[&str; 3]]| {
        let matchers = matchers.iter().map(|it| it.map(str::to_owned)).collect();
        Part::Metric(name.to_owned(), matchers)
    };
    let function = |name: &str| Part::Function(name.to_owned());
    let labels = |names: &[&str]| Part::Labels(names.iter().map(|it| (*it).to_owned()).collect());
    let query =
        "topk(10, sum by (host, le) (rate(a_total{x=\"1\",y!~\"b|c\"}[5m]))) / d > 0.9 and on(i) e";
    let expected = [
        function("topk"),
        function("sum"),
        labels(&["host", "le"]),
        function("rate"),
        metric("a_total", &[["x", "=", "1"], ["y", "!~", "b|c"]]),
        metric("d", &[]),
        labels(&["i"]),
        metric("e", &[]),
    ];
    assert_eq!(parts(query), expected);
}

/// A daemon that has series of each kind: a node of a fleet, where there is an etcd.
struct Watched {
    daemon: Daemon,
    has_fleet: bool,
    _etcd: Option<Etcd>,
    _backend: Serving,
}

impl Watched {
    fn new() -> Watched {
        let etcd = Etcd::start(1, &[]);
        let backend = Backend::new().serve_text("hello");
        let setup = etcd.as_ref().map_or_else(Setup::new, |etcd| node("a", &etcd.urls()));
        let daemon = setup
            .management_tcp()
            .set("shards", 2)
            .rule("a.com", rule_for(&[backend.port], json!({"check": "tcp"})))
            .rule("dead.com", rule_for(&[closed_port()], json!({})))
            .start();
        if etcd.is_some() {
            connected(&daemon);
        }
        let mut api = daemon.api();
        for host in ["a.com", "dead.com"] {
            daemon.connect().exchange(get(host, "/"));
            api.counted(host, 1);
        }
        eventually("the busiest are chosen", || {
            Metrics::read(&mut api).sum("host_requests_total", &[]) == 2.0
        });
        Watched { daemon, has_fleet: etcd.is_some(), _etcd: etcd, _backend: backend }
    }
}

/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["job", "instance"];
const FUNCTIONS: [&str; 10] = [
    "rate",
    "increase",
    "sum",
    "count",
    "topk",
    "histogram_quantile",
    "min_over_time",
    "changes",
    "vector",
    "max",
];

type Known = BTreeMap<String, BTreeSet<String>>;

/// Checks a query against what is served.
fn check(asked: &Asked, served: &Metrics, has_fleet: bool) {
    let Asked { place, query, shown } = asked;
    let mut labels: BTreeSet<String> = ADDED.map(str::to_owned).into();
    let mut metrics = 0;
    for part in parts(query) {
        match part {
            Part::Function(name) => {
                assert!(FUNCTIONS.contains(&&*name), "{place}: {name} is no function: {query}");
            }
            // A sample that Prometheus itself makes.
            Part::Metric(name, _) if name == "up" => metrics += 1,
            Part::Metric(name, _) if name.starts_with("mantrid_fleet_") && !has_fleet => {
                eprintln!("skipped: {name}, which only a node of a fleet has");
                return;
            }
            Part::Metric(name, matchers) => {
                metrics += 1;
                let known: Known = served.labels_of(&name);
                assert!(served.has(&name), "{place}: there is no {name}: {query}");
                for [label, operator, value] in matchers {
                    if ADDED.contains(&&*label) {
                        continue;
                    }
                    let Some(values) = known.get(&label) else {
                        panic!("{place}: {name} has no label {label}: {query}");
                    };
                    let alternatives: Vec<&str> = match &*operator {
                        "=" | "!=" => vec![&value],
                        "=~" | "!~" => value.split('|').collect(),
                        other => panic!("{place}: no operator {other}: {query}"),
                    };
                    for one in alternatives {
                        let is_known = one == "$host" || values.contains(one);
                        assert!(is_known, "{place}: no {label} of {name} is {one:?}: {values:?}");
                    }
                }
                labels.extend(known.into_keys());
            }
            Part::Labels(_) => {}
        }
    }
    assert!(0 < metrics, "{place}: no metric in {query}");
    let lists = parts(query).into_iter().filter_map(|part| match part {
        Part::Labels(names) => Some(names),
        _ => None,
    });
    let lists: Vec<String> = lists.flatten().collect();
    for label in lists.iter().chain(shown) {
        assert!(labels.contains(label), "{place}: nothing in it has a label {label}: {query}");
    }
    // What is put together by some labels has no other to show.
    if !lists.is_empty() && query.starts_with("sum by") {
        let left: BTreeSet<String> = lists.into_iter().chain(ADDED.map(str::to_owned)).collect();
        assert!(shown.is_subset(&left), "{place}: {shown:?} of {query}");
    }
}

#[test]
fn everything_that_is_asked_for_is_served() {
    let watched = Watched::new();
    let served = Metrics::read(&mut watched.daemon.api());
    let (panels, alerts) = (of_dashboard(), of_alerts());
    assert!(30 < panels.len() && 15 < alerts.len(), "{} and {}", panels.len(), alerts.len());
    panels.iter().chain(&alerts).for_each(|asked| check(asked, &served, watched.has_fleet));
}

#[test]
fn the_check_finds_slips() {
    let watched = Watched::new();
    let served = Metrics::read(&mut watched.daemon.api());
    let check = |query: &str, shown: &str| {
        let shown = shown.split(' ').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        let asked = Asked { place: "here".to_owned(), query: query.to_owned(), shown };
        std::panic::catch_unwind(|| check(&asked, &served, watched.has_fleet)).is_ok()
    };
    assert!(check("sum by (class) (rate(mantrid_answers_total{class=\"5xx\"}[1m]))", "class"));
    for (query, shown) in [
        ("sum by (class) (rate(mantrid_answer_total[1m]))", ""),
        ("sum by (class) (rate(mantrid_answers[1m]))", ""),
        ("rate(mantrid_latency_seconds[1m])", ""),
        ("sum by (klass) (rate(mantrid_answers_total[1m]))", ""),
        ("mantrid_answers_total{code=\"5xx\"}", ""),
        ("mantrid_answers_total{class=\"5xy\"}", ""),
        ("mantrid_answers_total{class=~\"4xx|5xy\"}", ""),
        ("summe(mantrid_answers_total)", ""),
        ("mantrid_answers_total", "host"),
        ("sum by (class) (mantrid_answers_total)", "shard"),
        ("vector(1)", ""),
    ] {
        assert!(!check(query, shown), "{query}");
    }
}

/// A Prometheus that scrapes the daemon each second.
struct Prometheus {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// `None`: there is none here.
    fn start(daemon: &Daemon) -> Option<Prometheus> {
        let found = Command::new("prometheus").arg("--version").output();
        if !found.is_ok_and(|found| found.status.success()) {
            eprintln!("skipped: no prometheus here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: mantrid\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
            root().join("docs/alerts.yml").display(),
            daemon.api_address()
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        let port = closed_port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        Some(Prometheus { child, port, _folder: folder })
    }

    /// `null` before it answers.
    fn ask(&self, path: &str) -> Value {
        let address = ([127, 0, 0, 1], self.port).into();
        if std::net::TcpStream::connect(address).is_err() {
            return Value::Null;
        }
        let lines = "Host: localhost\r\nConnection: close\r\n\r\n";
        let answer =
            Connection::client(address).exchange(format!("GET {path} HTTP/1.1\r\n{lines}"));
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn query(&self, query: &str) -> Value {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask(&format!("/api/v1/query?query={escaped}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn prometheus_has_an_answer_to_each_query() {
    let watched = Watched::new();
    let Some(prometheus) = Prometheus::start(&watched.daemon) else { return };
    eventually("two scrapes", || {
        prometheus.query("count_over_time(up[1m]) > 1")["data"]["result"][0].is_object()
    });
    for Asked { place, query, .. } in of_dashboard() {
        let query = query.replace("$host", "a.com");
        let mut answer = Value::Null;
        eventually(&format!("{place}: {query}"), || {
            answer = prometheus.query(&query);
            assert_eq!(answer["status"], "success", "{place}: {query}: {answer}");
            answer["data"]["result"].as_array().is_some_and(|series| !series.is_empty())
        });
    }
    // Each side of an alert, without the number that it is compared with: what matches nothing is
    // never above it.
    for Asked { place, query, .. } in of_alerts() {
        for side in query.split(" or ").flat_map(|side| side.split(" and ")) {
            let ends = [" > ", " == "].iter().filter_map(|operator| side.rfind(operator));
            let side = &side[..ends.max().expect("a comparison")];
            if side.starts_with("mantrid_fleet_") && !watched.has_fleet {
                continue;
            }
            eventually(&format!("{place}: {side}"), || {
                prometheus.query(side)["data"]["result"][0].is_object()
            });
        }
    }
    // Each alert was evaluated, and none complains.
    let mut rules = Vec::new();
    eventually("each alert is evaluated", || {
        let told = prometheus.ask("/api/v1/rules");
        rules = told["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        rules.len() == of_alerts().len() && rules.iter().all(|rule| rule["health"] != "unknown")
    });
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
