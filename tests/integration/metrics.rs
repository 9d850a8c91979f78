//! `/metrics`: text that the strictest reader of OpenMetrics takes, with totals that are what was
//! done.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Setup, eventually};
use crate::manage::Api;
use crate::message::get;

/// What follows a family's name in its samples, by type (OpenMetrics 1.0 §5).
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total", "_created"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        "info" => &["_info"],
        _ => panic!("a type that we do not use: {kind}"),
    }
}

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Metrics {
    types: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `a="b",c="d"}` and what follows.
fn labels(mut text: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    while !text.starts_with('}') {
        if !labels.is_empty() {
            text = text.strip_prefix(',').expect("a comma between labels");
        }
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(is_name(name), "{name:?} is no label");
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("the end of a label's value") {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    c @ ('"' | '\\') => value.push(c),
                    c => panic!("no escape: \\{c}"),
                },
                (_, '\n') => panic!("a line end in a label"),
                (_, c) => value.push(c),
            }
        };
        text = &rest[end..];
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    (labels, &text[1..])
}

impl Metrics {
    #[track_caller]
    pub fn read(api: &mut Api) -> Metrics {
        let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let request = api.request("GET", "/metrics", accept, "");
        let answer = api.wire.exchange(request).expect_status(200);
        let content = answer.head.field("Content-Type").unwrap_or_default();
        assert!(content.starts_with("application/openmetrics-text; version=1.0.0"), "{content}");
        Metrics::parse(&String::from_utf8(answer.body).expect("UTF-8"))
    }

    #[track_caller]
    fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        let text = text.strip_suffix("# EOF\n").expect("its end");
        assert!(!text.contains("# EOF") && !text.contains('\r'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                let is_new = metrics.types.insert(name.to_owned(), kind.to_owned()).is_none();
                assert!(is_new && is_name(name), "{line}: again, or no name");
                assert!(
                    !suffixes(kind).iter().any(|end| !end.is_empty() && name.ends_with(end)),
                    "{line}"
                );
                assert!(
                    helped.is_empty() || family == name || !helped.contains(name),
                    "{line}: apart from its help"
                );
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(
                    helped.insert(name.to_owned()) && !help.is_empty(),
                    "{line}: again, or empty"
                );
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').expect("a unit");
                assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
            } else {
                metrics.sample(&family, line);
            }
        }
        assert_eq!(helped, metrics.types.keys().cloned().collect(), "help and type for each");
        metrics.check_histograms();
        metrics
    }

    #[track_caller]
    fn sample(&mut self, family: &str, line: &str) {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let (name, rest) = line.split_at(end);
        let kind = self.types.get(family).unwrap_or_else(|| panic!("no type before {line:?}"));
        let suffix = name.strip_prefix(family);
        assert!(
            suffix.is_some_and(|end| suffixes(kind).contains(&end)),
            "{line}: not of the {kind} {family}"
        );
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest),
            None => (Labels::new(), rest),
        };
        let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
        let number: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        assert!(0.0 <= number && number.is_finite(), "{line}: below nothing, or of no use");
        let known = self.samples.insert((name.to_owned(), labels), number);
        assert!(known.is_none(), "{line}: twice");
    }

    /// Buckets go up, the last is +Inf and as many as `_count`.
    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            if let Some(family) = name.strip_suffix("_bucket") {
                let mut labels = labels.clone();
                let bound = labels.remove("le").expect("a bound");
                let bound =
                    if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
                buckets.entry((family.to_owned(), labels)).or_default().push((bound, *value));
            }
        }
        for ((family, labels), mut steps) in buckets {
            steps.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(steps.is_sorted_by_key(|(_, count)| *count), "{family}: {steps:?}");
            let (bound, count) = steps.last().expect("a bucket");
            assert!(bound.is_infinite() && 7 < steps.len(), "{family}: {steps:?}");
            assert_eq!(
                Some(count),
                self.samples.get(&(format!("{family}_count"), labels)),
                "{family}"
            );
        }
    }

    /// Whether there is a series of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.keys().any(|(known, _)| known == name)
    }

    /// The labels of all series of this name, with their values.
    pub fn labels_of(&self, name: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, labels) in self.samples.keys().filter(|(known, _)| known == name) {
            for (label, value) in labels {
                all.entry(label.clone()).or_default().insert(value.clone());
            }
        }
        all
    }

    /// The sum over all series of this name that have these labels.
    pub fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        self.sum_of(&format!("mantrid_{name}"), wanted)
    }

    /// The same of series whose name is whole.
    pub fn sum_of(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let of = self.samples.iter().filter(|((known, labels), _)| {
            known == name
                && wanted
                    .iter()
                    .all(|(label, value)| labels.get(*label).is_some_and(|found| found == value))
        });
        of.map(|(_, number)| number).sum()
    }
}

#[test]
fn totals_are_what_was_done() {
    let backend = Backend::new().serve_text("hello");
    let dead = closed_port();
    let daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", backend.rule())
        .rule("e.com", empty(403))
        .rule("dead.com", rule_for(&[dead], json!({})))
        .start();
    let mut api = daemon.api();
    let none = Metrics::read(&mut api);
    assert_eq!(none.sum("requests_total", &[]), 0.0);
    let (mut sent, received) = (0, std::sync::Arc::default());
    for _ in 0..6 {
        let mut client = daemon.connect();
        client.count_received_in(&received);
        for host in ["a.com", "a.com", "e.com", "dead.com", "nobody.com"] {
            let request = get(host, "/");
            sent += request.len();
            client.exchange(request);
        }
    }
    daemon.connect().exchange("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    api.counted("unknown", 6);
    api.counted("dead.com", 6);
    let own = format!("127.0.0.1:{}", backend.port);
    eventually("once a second the busiest are chosen", || {
        let found = Metrics::read(&mut api);
        found.sum("host_requests_total", &[]) == 30.0
            && found.sum("backend_requests_total", &[("backend", &own)]) == 12.0
    });
    let found = Metrics::read(&mut api);
    let expected = [
        ("requests_total", &[][..], 30.0),
        ("requests_completed_total", &[], 30.0),
        ("connections_accepted_total", &[], 7.0),
        ("bytes_received_total", &[], sent as f64),
        ("panics_total", &[], 0.0),
        ("requests_uncounted_total", &[], 0.0),
        ("host_requests_total", &[("host", "a.com")], 12.0),
        ("host_requests_total", &[("host", "unknown")], 6.0),
        ("host_requests_open", &[("host", "a.com")], 0.0),
        ("host_answers_total", &[("host", "a.com"), ("class", "2xx")], 12.0),
        ("host_answers_total", &[("host", "e.com"), ("class", "4xx")], 6.0),
        ("host_answers_total", &[("host", "dead.com"), ("class", "5xx")], 6.0),
        ("host_response_seconds_count", &[("host", "a.com")], 12.0),
        ("host_response_seconds_count", &[("host", "e.com")], 0.0),
        ("backend_connect_failures_total", &[("backend", &format!("127.0.0.1:{dead}"))], 6.0),
    ];
    for (name, labels, number) in expected {
        assert_eq!(found.sum(name, labels), number, "{name} {labels:?} in {found:#?}");
    }
    let hosts: f64 = ["a.com", "e.com", "dead.com", "unknown"]
        .iter()
        .map(|host| found.sum("host_bytes_sent_total", &[("host", host)]))
        .sum();
    let all = received.load(std::sync::atomic::Ordering::SeqCst) as f64;
    assert_eq!(hosts, all, "what the clients received");
    let refusals: Vec<_> =
        found.samples.keys().filter(|(name, _)| name.contains("refus")).collect();
    assert!(!refusals.is_empty(), "the refused head is nowhere: {found:#?}");
}

/// A million series would bring a Prometheus down.
#[test]
fn busiest_of_many_hosts_have_series() {
    let names: Vec<String> = (0..300).map(|n| format!("h{n}.com")).collect();
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    api.put("/hostname/", &names.iter().map(|name| (name.clone(), empty(403))).collect());
    let mut client = daemon.connect();
    for (n, name) in names.iter().enumerate() {
        for _ in 0..1 + usize::from(n % 50 == 0) {
            client.exchange(get(name, "/"));
        }
    }
    api.counted("h299.com", 1);
    eventually("the busiest are chosen", || {
        let found = Metrics::read(&mut api);
        [0, 50, 100, 150, 200, 250]
            .iter()
            .all(|n| found.sum("host_requests_total", &[("host", &format!("h{n}.com"))]) == 2.0)
    });
    let found = Metrics::read(&mut api);
    let series = found.samples.keys().filter(|(name, _)| name == "mantrid_host_requests_total");
    assert_eq!(series.count(), 100);
    assert_eq!(found.sum("requests_total", &[]), 306.0, "the totals have all of them");
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_b A.\n# TYPE a_b counter\na_b_total{x=\"y\\\"z\\n\"} 1\n# EOF\n";
    Metrics::parse(good);
    for bad in [
        good.replace("# EOF\n", ""),
        good.replace("_total", ""),
        good.replace(" 1", " one"),
        good.replace(" 1", " -1"),
        good.replace("# HELP a_b A.\n", ""),
        good.replace("# EOF", "a_b_total{x=\"y\\\"z\\n\"} 2\n# EOF"),
        good.replace("\\n\"", ""),
        good.replace("x=", "9="),
        good.replace("# EOF", "b 1\n# EOF"),
    ] {
        assert!(std::panic::catch_unwind(|| Metrics::parse(&bad)).is_err(), "taken: {bad}");
    }
}
