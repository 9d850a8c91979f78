//! What a newcomer meets in the first hour: turns that are taken, answers that end their line, help
//! in columns, numbers with their nouns, metrics and alerts that Prometheus's own tool accepts.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually, run_with};
use crate::docs::page::root;
use crate::manage::Api;
use crate::message::get;

/// What the backends of `localhost` answer, one client after another.
fn texts(daemon: &Daemon, host: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| daemon.connect().exchange(get(host, "/")).text()).collect()
}

#[track_caller]
fn expect_turns(texts: &[String]) {
    let is_other = |pair: &[String]| pair[0] != pair[1];
    assert!(texts.windows(2).all(is_other), "the same backend twice in a row: {texts:?}");
}

#[test]
fn two_connections_take_turns_on_any_shards() {
    let (one, two) = (Backend::new().serve_text("one"), Backend::new().serve_text("two"));
    let round_robin = json!({ "algorithm": "round_robin" });
    let daemon = Setup::new()
        .set("shards", 4)
        .rule("a.com", rule_for(&[one.port, two.port], round_robin.clone()))
        .start();
    expect_turns(&texts(&daemon, "a.com", 40));
    // an edit beside the rule, and one of the rule itself, leave its turn as it is
    let mut api = daemon.api();
    let mut seen = texts(&daemon, "a.com", 1);
    for round in 0..10 {
        api.put(&format!("/hostname/h{round}.com/"), &empty(404));
        seen.extend(texts(&daemon, "a.com", 1));
        let mut arguments = round_robin.clone();
        arguments["attempts"] = json!(round + 2);
        api.put("/hostname/a.com/", &rule_for(&[one.port, two.port], arguments));
        seen.extend(texts(&daemon, "a.com", 1));
    }
    expect_turns(&seen);
}

/// A request that is tried at another backend takes one turn, not two: the next one is not that
/// backend's again.
#[test]
fn another_attempt_takes_no_turn() {
    let served: Vec<_> = ["one", "two", "three"].map(|text| Backend::new().serve_text(text)).into();
    let mut ports: Vec<u16> = served.iter().map(|backend| backend.port).collect();
    ports.push(closed_port());
    let arguments =
        json!({"algorithm": "round_robin", "attempts": 2, "delay": 0, "healthcheck": false});
    let daemon = Daemon::proxying(rule_for(&ports, arguments));
    texts(&daemon, "a.com", 48);
    let counts: Vec<usize> = served.iter().map(|backend| backend.requests()).collect();
    // 12 turns each, and a third of the dead one's
    assert_eq!(counts, [16, 16, 16]);
}

#[test]
fn demo_backends_take_turns() {
    let free = ["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0", "-o", "shards=4"];
    let daemon = Daemon::demo(&free);
    for host in ["localhost", "also.example"] {
        let answer = || {
            let text = daemon.connect().exchange(get(host, "/")).text();
            text.lines().next().unwrap_or_default().to_owned()
        };
        expect_turns(&(0..20).map(|_| answer()).collect::<Vec<_>>());
    }
}

/// The demo tells nobody to follow a redirect with the Host that is redirected: it would never end.
#[test]
fn demo_redirect_is_not_followed_in_circles() {
    let free = ["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0"];
    let printed = Daemon::demo(&free).expect_printed("nothing is left behind");
    for line in printed.lines() {
        assert!(!line.contains("-L") || line.contains("--resolve"), "{line}");
        assert!(!line.contains("--json"), "needs curl 7.82: {line}");
    }
}

/// All answers in JSON are lines of their own in a terminal.
#[test]
fn json_answers_end_their_line() {
    let backend = Backend::new().serve_text("");
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    let mut api = daemon.api();
    let expect = |answer: crate::message::Answer, what: &str| {
        answer.json();
        let text = answer.text();
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{what}: {text:?}");
        assert_eq!(text.matches('\n').count(), 1, "{what}: {text:?}");
    };
    for path in [
        "/hostname/",
        "/hostname/?search=nothing",
        "/hostname/a.com/",
        "/hostname/b.com/",
        "/stats/",
        "/stats/?busiest=1",
        "/stats/a.com/",
        "/stats/b.com/",
        "/backends/",
        "/healthz",
        "/nowhere",
        "/hostname/?no=argument",
    ] {
        expect(api.ask("GET", path), path);
    }
    let changes = [
        ("PUT", "/hostname/b.com/", empty(404)),
        ("PUT", "/hostname/b.com/?dry_run=1", empty(404)),
        ("PUT", "/hostname/a.com/?wait=drained", empty(404)),
        ("PUT", "/hostname/b.com/", json!(["nothing"])),
        ("PATCH", "/hostname/", json!({"b.com": null})),
        ("POST", "/hostname/", json!({})),
        ("PUT", "/hostname/", json!({})),
    ];
    for (method, path, body) in changes {
        expect(api.tell(method, path, &body), path);
    }
    expect(api.ask("DELETE", "/hostname/b.com/"), "DELETE");
}

/// A table that is sent while it is written ends its line, too.
#[test]
fn long_listing_ends_its_line() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let rules: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("h{n}.example"), empty(404))).collect();
    api.put("/hostname/", &Value::Object(rules));
    let answer = api.ask("GET", "/hostname/").expect_status(200);
    assert!(answer.text().ends_with("}\n"));
}

#[test]
fn help_shows_keys_in_columns() {
    let help = run_with(&["--help"]).out;
    let (_, keys) = help.split_once("Keys of the configuration").expect("the keys");
    let lines: Vec<&str> = keys.lines().skip(1).filter(|line| !line.is_empty()).collect();
    assert!(20 < lines.len(), "{keys}");
    let column = |line: &str| {
        let name = line.trim_start().find(' ').expect("a name") + 2;
        name + line[name..].find(|c| c != ' ').expect("a default")
    };
    for line in &lines {
        let (name, default) = line.trim_start().split_once("  ").expect(line);
        assert!(!name.contains(' ') && !default.trim().is_empty(), "{line:?}");
        assert_eq!(column(line), column(lines[0]), "{line:?}");
    }
}

#[test]
fn check_counts_what_it_says() {
    let good = Setup::new().rule("a.com", empty(404));
    let said = good.run(&["--check"]);
    said.expect(0, &[]);
    assert!(said.out.contains("\n1 rule from "), "{}", said.out);
    let warned = Setup::new().rule("a.com", empty(404)).rule("b.com", json!(["nothing"]));
    let said = warned.run(&["--check"]);
    said.expect(0, &[]);
    let warnings = said.out.lines().filter(|line| line.starts_with("warning: ")).count();
    let verdict = said.out.lines().last().expect("a line");
    assert!(!said.out.contains("Nothing is wrong"), "{}", said.out);
    let nouns = if warnings == 1 { "warning" } else { "warnings" };
    assert_eq!(verdict, format!("{warnings} {nouns}, no error: it would start."));
    let wrong = good.set("max_connections", "10000000000").run(&["--check"]);
    wrong.expect(1, &["max_connections"]);
    assert!(wrong.out.trim_end().ends_with("it would not start."), "{}", wrong.out);
}

#[test]
fn counts_of_one_are_singular() {
    let mut daemon = Setup::new().rule("a.com", empty(404)).start();
    daemon.expect_log(&["1 rule from "]);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 404);
    daemon.api().counted("a.com", 1);
    daemon.signal("TERM");
    daemon.expect_clean_exit();
    daemon.expect_log(&["Stopped after 1 connection and 1 request"]);
    for line in daemon.log.lines() {
        let words: Vec<&str> = line.split([' ', '=', '(']).collect();
        let is_wrong =
            |pair: &[&str]| pair[0] == "1" && pair[1].trim_end_matches(',').ends_with('s');
        assert!(!words.windows(2).any(is_wrong), "{line}");
    }
}

/// Started where its user may not write, the daemon says who it is and what to do, in the log and
/// to whoever asks for a change.
#[test]
fn folder_without_rights_is_explained() {
    let setup = Setup::new();
    let folder = setup.path("kept");
    std::fs::create_dir(&folder).expect("a folder");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    // root becomes 4321, which may not write what is root's
    mode(&setup.path(""), 0o755);
    mode(&folder, 0o555);
    let file = folder.join("state.json");
    let daemon = setup.unset("uid").unset("gid").set("state_file", file.display()).start();
    let is_root = nix::unistd::geteuid().is_root();
    let uid = if is_root { 4321 } else { nix::unistd::geteuid().as_raw() };
    let path = folder.display().to_string();
    let advice = [&format!("uid {uid} can't write to the folder {path}"), "state_file"];
    daemon.expect_log(&advice);
    let refused = daemon.api().tell("PUT", "/hostname/a.com/", &empty(404));
    let message = refused.expect_error(507, "state_not_written");
    assert!(advice.iter().all(|word| message.contains(*word)), "{message}");
    mode(&folder, 0o777);
    daemon.api().put("/hostname/a.com/", &empty(404));
}

/// The metrics as somebody gets them who asks with these fields.
fn metrics(api: &mut Api, fields: &str) -> (String, String) {
    let request = api.request("GET", "/metrics", fields, "");
    let answer = api.wire.exchange(request).expect_status(200);
    (answer.head.field("Content-Type").unwrap_or_default().to_owned(), answer.text())
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let daemon = Setup::new().rule("a.com", empty(404)).start();
    let mut api = daemon.api();
    for (fields, is_open) in [
        ("", false),
        ("Accept: */*\r\n", false),
        ("Accept: text/plain\r\n", false),
        ("Accept: application/openmetrics-text;q=0\r\n", false),
        ("Accept: application/openmetrics-text; version=1.0.0\r\n", true),
        ("Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2\r\n", true),
        ("Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text;q=0.6\r\n", true),
    ] {
        let (content, text) = metrics(&mut api, fields);
        let expected = match is_open {
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            false => "text/plain; version=0.0.4; charset=utf-8",
        };
        assert_eq!((content.as_str(), text.ends_with("# EOF\n")), (expected, is_open), "{fields}");
        let counter = if is_open { "mantrid_refused" } else { "mantrid_refused_total" };
        assert!(text.contains(&format!("# TYPE {counter} counter\n")), "{fields}\n{text}");
    }
}

/// A sample's family in Prometheus text: its name, but for the parts of a histogram.
fn family<'t>(name: &'t str, histograms: &BTreeSet<&str>) -> &'t str {
    let ends = ["_bucket", "_sum", "_count"].into_iter();
    let known = ends.filter_map(|end| name.strip_suffix(end));
    known.into_iter().find(|family| histograms.contains(family)).unwrap_or(name)
}

#[test]
fn text_metrics_have_help_and_type_before_each_family() {
    let backend = Backend::new().serve_text("");
    let daemon =
        Setup::new().rule("a.com", rule_for(&[backend.port], json!({"check": "tcp"}))).start();
    let mut api = daemon.api();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    api.counted("a.com", 1);
    eventually("the busiest are chosen", || metrics(&mut api, "").1.contains("{host=\"a.com\"}"));
    let (_, text) = metrics(&mut api, "");
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    let mut histograms = BTreeSet::new();
    let mut families = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(helped.insert(name) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(typed.insert(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            if kind == "histogram" {
                histograms.insert(name);
            }
            families += 1;
        } else {
            let name = &line[..line.find(['{', ' ']).expect("a sample")];
            let family = family(name, &histograms);
            assert!(helped.contains(family) && typed.contains(family), "{line}");
        }
    }
    assert!(30 < families && !text.contains("# EOF"), "{text}");
}

#[test]
fn promtool_accepts_the_metrics() {
    let Some(mut promtool) = promtool(&["check", "metrics"]) else { return };
    let backend = Backend::new().serve_text("");
    let rule = rule_for(&[backend.port], json!({"check": "tcp"}));
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule).start();
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    let mut api = daemon.api();
    api.counted("a.com", 1);
    let (_, text) = metrics(&mut api, "");
    let mut child = promtool.stdin(Stdio::piped()).spawn().expect("promtool");
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("promtool reads");
    let ended = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.is_empty(), "{said}\n{text}");
}

/// Prometheus's tool with these arguments, where it is installed.
fn promtool(arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let found = Command::new("promtool").arg("--version").output();
    if found.is_ok_and(|found| found.status.success()) {
        return Some(command);
    }
    eprintln!("skipped: no promtool here");
    None
}

#[test]
fn promtool_accepts_the_alerts() {
    let file = root().join("docs/alerts.yml");
    let Some(mut promtool) = promtool(&["check", "rules"]) else { return };
    let ended = promtool.arg(&file).output().expect("promtool");
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("SUCCESS"), "{said}");
}

/// The same without that tool, as far as lines show it: a rule file is groups of named rules, and
/// each rule has an expression.
#[test]
fn alerts_are_a_rule_file() {
    let text = std::fs::read_to_string(root().join("docs/alerts.yml")).expect("alerts");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[..3], ["groups:", "  - name: mantrid", "    rules:"]);
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    let alerts = count("      - alert: ");
    assert!(5 < alerts && alerts == count("        expr: "), "{text}");
    assert_eq!(alerts, count("        annotations: "), "{text}");
}

/// The series there are, without those of single hosts and backends, which come and go.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
    names.filter(|name| !name.contains("_host_") && !name.contains("_backend_")).collect()
}

/// A rate over a counter that comes into being with its first event misses that event.
#[test]
fn series_exist_before_their_first_event() {
    let daemon = Setup::new()
        .set("max_head", "1k")
        .rule("a.com", empty(404))
        .rule("dead.com", rule_for(&[closed_port()], json!({})))
        .start();
    let mut api = daemon.api();
    let before = series(&metrics(&mut api, "").1);
    assert!(before.contains("mantrid_refused_total{reason=\"bad_host\"}"), "{before:#?}");
    for (request, status) in [
        (get("a.com", "/"), 404),
        (get("dead.com", "/"), 502),
        (get("nobody.com", "/"), 503),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (get("a.com", &"/".repeat(2000)), 431),
    ] {
        assert_eq!(daemon.connect().exchange(request).status(), status);
    }
    api.counted("unknown", 1);
    let after = series(&metrics(&mut api, "").1);
    // Of 900 statuses those are told that there were: `mantrid_answers_total` has
    // their classes from the start.
    let after = after.into_iter().filter(|name| !name.starts_with("mantrid_responses_total"));
    assert_eq!(before, after.collect());
}
