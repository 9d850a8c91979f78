//! The documents: every example in them is run as written, links lead somewhere, and what the
//! program has is described.

mod log_lines;
pub mod page;
mod shell;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::Setup;
use page::{Page, documents, is_as_shown, root, steps};
use shell::Shell;

/// Blocks that are not run, by their first lines, and why.
const NOT_RUN: &[(&str, &str, &str)] = &[
    (
        "README.md",
        "git clone … mantrid && cd mantrid",
        "demo.rs runs the demo, and this is among the tests",
    ),
    (
        "README.md",
        "mkdir -p site && echo 'Hello from port 8000' > site/index.html",
        "the shell of the examples has applications",
    ),
    ("README.md", "bind_internal = 127.0.0.1:8081", "terminators.rs has it"),
    ("docs/measurements.md", "apt-get install haproxy nginx wrk", "minutes of load, as root"),
    (
        "docs/operations.md",
        "",
        "installs, tunes the kernel, alerts; its metrics are looked for below",
    ),
    ("docs/first-hour.md", "git clone … mantrid && cd mantrid", "demo.rs runs what is built"),
    (
        "docs/first-hour.md",
        "for port in 8000 8001; do",
        "the shell of the examples has applications",
    ),
    (
        "docs/first-hour.md",
        "install -m 640 -g mantrid /dev/null /etc/mantrid/token     # the group that the unit runs as may \
         read it",
        "token_is_made_as_shown runs it elsewhere",
    ),
    (
        "docs/moving-from-mantrid.md",
        "mantrid-client list > before.txt          # with either client",
        "stops a system's service",
    ),
    (
        "docs/moving-from-mantrid.md",
        "curl -s http://localhost:8042/hostname/ | mantrid-client --url http://localhost:9042 load -",
        "daemon_is_filled_from_another_as_shown runs it",
    ),
    ("docs/moving-from-haproxy.md", "# mantrid.conf", "haproxy_hands_over_as_shown has it"),
    (
        "docs/api.md",
        "2026-11-23T16:49:08.788203Z  INFO audit who=127.0.0.1:52080 verb=\"PATCH\" host=\"*\" edits=2 \
         generation=2 result=\"done\"",
        "a log, guard.rs expects its lines",
    ),
    ("docs/api.md", "GET /stats/?sort=errors&limit=2", "in_any_order.rs expects its members"),
    ("docs/api.md", "GET /changes/?host=shop.example&limit=2", "changes.rs expects its members"),
    ("docs/api.md", "GET /history/?host=shop.example&events=1", "history.rs expects its members"),
    ("docs/api.md", "import json, urllib.request", "program_in_python_runs_as_it_stands runs it"),
    ("docs/holding.md", "POST / HTTP/1.1", "wake.rs expects it"),
    (
        "docs/holding.md",
        "{\"shop.example\": {\"unit\": \"shop.service\", \"address\": \"127.0.0.1:8000\"}}",
        "wake.rs has units of its own",
    ),
    ("docs/holding.md", "waker.py --listen 127.0.0.1:9000 sites.json &", "wake.rs runs it"),
    (
        "docs/holding.md",
        "{\"shop.example\": {\"container\": \"shop\", \"address\": \"127.0.0.1:8000\"}}",
        "docker_waker.rs has it",
    ),
    (
        "docs/holding.md",
        "docker-waker.py --listen 127.0.0.1:9000 sites.json &",
        "docker_waker.rs runs it",
    ),
    ("docs/containers.md", "", "needs a container runtime; containers.rs runs what they would"),
    ("docs/https.md", "http://127.0.0.1:8043 {", "terminators.rs runs it"),
    ("docs/tcp-and-tls.md", "bind = *:80 accept-proxy", "proxy_protocol.rs has each line"),
    ("docs/fleet.md", "etcdctl user add mantrid", "fleet_faults.rs has users"),
    ("ARCHITECTURE.md", "", "pictures"),
    ("loadtest/README.md", "", "minutes of load"),
    ("bench/README.md", "", "minutes of benches"),
];

/// The shell's tools that examples use. Without them these tests say that they are skipped.
fn has_tools(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| {
        let version = if **tool == "nginx" { "-v" } else { "--version" };
        let found = Command::new(tool).arg(version).output();
        !found.is_ok_and(|found| is_new_enough(tool, &found.stdout))
    });
    if let Some(tool) = missing {
        eprintln!("skipped: no {tool} here, or one that is too old");
    }
    missing.is_none()
}

fn is_new_enough(tool: &str, version: &[u8]) -> bool {
    if tool != "curl" {
        return true;
    }
    let version = String::from_utf8_lossy(version);
    let number = version.split(' ').nth(1).unwrap_or_default();
    let parts: Vec<u32> = number.split('.').filter_map(|part| part.parse().ok()).collect();
    // `%header{}`, `--json`
    parts >= vec![7, 84]
}

/// Writes the configuration of a document, and checks that there is nothing wrong with it.
fn configure(shell: &mut Shell, page: &Page) {
    let blocks: Vec<_> = page.all("ini").collect();
    let [block] = blocks[..] else { panic!("{}: expected one configuration", page.name) };
    assert!(block.before.contains("`site.conf`"), "{}: {}", page.name, block.before);
    let mut text = shell.mapped(&block.text);
    if !text.contains("bind_management") {
        text += &shell.mapped("bind_management = 127.0.0.1:8042\n");
    }
    // the page tells root to; all others work without
    if page.text.contains("add the `uid` and `gid` that you have")
        && nix::unistd::geteuid().is_root()
    {
        text += "uid = 0\ngid = 0\n";
    }
    std::fs::write(shell.path().join("site.conf"), text).expect("site.conf");
}

/// Runs all console blocks of a document in one shell.
#[track_caller]
fn run(name: &str) {
    if !has_tools(&["bash", "curl", "awk"]) {
        return;
    }
    let page = Page::read(name);
    let mut shell = Shell::new();
    configure(&mut shell, &page);
    let mut count = 0;
    for step in page.all("console").flat_map(steps) {
        let found = shell.run(&step.command);
        let expected = shell.mapped(&step.expected);
        assert!(
            is_as_shown(&expected, &found),
            "{name}:{}: $ {}\n--- shown:\n{expected}--- printed:\n{found}",
            step.line,
            step.command
        );
        count += 1;
    }
    assert!(count > 3, "{name}: only {count} commands");
}

#[test]
fn readme_does_what_it_shows() {
    run("README.md");
}

#[test]
fn first_hour_does_what_it_shows() {
    run("docs/first-hour.md");
}

#[test]
fn page_on_rules_does_what_it_shows() {
    run("docs/rules.md");
}

#[test]
fn page_on_the_api_does_what_it_shows() {
    run("docs/api.md");
}

#[test]
fn page_on_the_client_does_what_it_shows() {
    if has_tools(&["git"]) {
        run("docs/client.md");
    }
}

#[test]
fn page_on_holding_does_what_it_shows() {
    run("docs/holding.md");
}

#[test]
fn page_on_tcp_and_tls_does_what_it_shows() {
    run("docs/tcp-and-tls.md");
}

#[test]
fn page_on_clients_does_what_it_shows() {
    run("docs/clients.md");
}

#[test]
fn page_on_moving_from_mantrid_does_what_it_shows() {
    run("docs/moving-from-mantrid.md");
}

#[test]
fn page_on_moving_from_haproxy_does_what_it_shows() {
    run("docs/moving-from-haproxy.md");
}

#[test]
fn page_on_fleets_does_what_it_shows() {
    if crate::etcd::is_installed() {
        run("docs/fleet.md");
    }
}

/// No example is forgotten: each block is run above, or named with the reason why not.
#[test]
fn every_block_is_run_or_excused() {
    let mut excused = BTreeSet::new();
    for name in documents() {
        let page = Page::read(&name);
        for block in &page.blocks {
            let first = block.text.lines().next().unwrap_or_default();
            let is_run = matches!(&*block.kind, "console" | "ini" | "json");
            let excuse = NOT_RUN
                .iter()
                .position(|(page, line, _)| *page == name && (line.is_empty() || *line == first));
            excused.extend(excuse);
            assert!(is_run || excuse.is_some(), "{name}:{}: {first}", block.line);
        }
        let has_commands = page.all("console").next().is_some();
        let source = include_str!("docs.rs");
        assert!(!has_commands || source.contains(&format!("run(\"{name}\")")), "{name} is not run");
    }
    let missing: Vec<_> =
        (0..NOT_RUN.len()).filter(|at| !excused.contains(at)).map(|at| NOT_RUN[at]).collect();
    assert!(missing.is_empty(), "no such blocks any more: {missing:?}");
}

/// Rules in JSON are taken as they stand.
#[test]
fn rules_in_json_are_taken_as_they_stand() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let mut count = 0;
    for name in documents() {
        for block in Page::read(&name).all("json") {
            let value: Value = serde_json::from_str(&block.text).expect(&block.text);
            let path = match value {
                Value::Array(_) => "/hostname/one.example/?dry_run=1",
                _ => "/hostname/?dry_run=1",
            };
            let answer = api.tell("PUT", path, &value);
            assert_eq!(
                answer.json(),
                json!({"ok": true, "dry_run": true}),
                "{name}:{}",
                block.line
            );
            count += 1;
        }
    }
    assert!(count > 2, "only {count}");
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for name in documents() {
        let page = Page::read(&name);
        for link in page.links() {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => page.path.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let target = target.canonicalize().expect("a path");
                let target = target.strip_prefix(root()).expect("within the project");
                let anchors = Page::read(target.to_str().expect("UTF-8")).anchors();
                assert!(anchors.iter().any(|known| known == anchor), "{name}: {link}: {anchors:?}");
            }
            count += 1;
        }
    }
    assert!(count > 20, "only {count}");
}

/// The program of `api.md`, against a daemon.
#[test]
fn program_in_python_runs_as_it_stands() {
    if !has_tools(&["python3"]) {
        return;
    }
    let page = Page::read("docs/api.md");
    let mut programs = page.blocks.iter().filter(|block| block.text.starts_with("import json"));
    let program = &programs.next().expect("a program").text;
    let rule = json!(["proxy", {"backends": [["localhost", 8000]]}, true]);
    let daemon = Setup::new().rule("shop.example", rule).management_tcp().start();
    let management = daemon.api_address();
    let program = program.replace("localhost:8042", &management.to_string());
    let ended = Command::new("python3").args(["-c", &program]).output().expect("python3");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let backends = json!([["localhost", 8000], ["localhost", 8001]]);
    assert_eq!(
        daemon.api().get("/hostname/shop.example/"),
        json!(["proxy", {"backends": backends}, true])
    );
}

/// As in `moving-from-mantrid.md`: one daemon is filled from another.
#[test]
fn daemon_is_filled_from_another_as_shown() {
    if !has_tools(&["bash", "curl"]) {
        return;
    }
    let page = Page::read("docs/moving-from-mantrid.md");
    let mut shell = Shell::new();
    configure(&mut shell, &page);
    let other = std::fs::read_to_string(shell.path().join("site.conf")).expect("site.conf");
    let other = other.replace(&shell.mapped("127.0.0.1:8042"), &shell.mapped("127.0.0.1:9042"));
    let other = other.replace(&shell.mapped("127.0.0.1:8080"), "127.0.0.1:0");
    let other = other.replace("./state.json", "./other.json");
    std::fs::write(shell.path().join("other.conf"), other).expect("other.conf");
    shell.run("mantrid -c site.conf &");
    shell.run("mantrid -c other.conf &");
    assert_eq!(shell.run("mantrid-client set a.example empty true code=404"), "");
    let mut blocks = page.all("text").filter(|block| block.text.starts_with("curl -s"));
    let command = blocks.next().expect("the command").text.trim_end();
    let printed = shell.run(command);
    assert!(printed.contains("1 rule of standard input loaded"), "{printed}");
    let printed = shell.run("mantrid-client --url http://localhost:9042 get a.example --json");
    assert_eq!(printed, "[\"empty\",{\"code\":404},true]\n");
}

/// A token is made as `first-hour.md` says: the group of the daemon may read it, and nobody else.
#[test]
fn token_is_made_as_shown() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root gives files to a group that it is not in");
        return;
    }
    let page = Page::read("docs/first-hour.md");
    let mut blocks = page.all("text").filter(|block| block.text.contains("/dev/urandom"));
    let recipe = &blocks.next().expect("a recipe").text;
    let (recipe, _) = recipe.split_once("# in the configuration").expect("the configuration");
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe.replace("/etc/mantrid", &folder.path().display().to_string());
    // the number that a daemon becomes without the unit's group
    let recipe = recipe.replace("-g mantrid", "-g 4321");
    let ended = Command::new("sh").args(["-ec", &recipe]).output().expect("a shell");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let token = folder.path().join("token");
    let found = token.metadata().expect("a token");
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o640, 0, 4321));
    let daemon = Setup::new().set("management_token_file", token.display()).start();
    let text = std::fs::read_to_string(&token).expect("a token");
    let mut api = daemon.api().with(&format!("Authorization: Bearer {}", text.trim()));
    assert_eq!(api.get("/healthz"), json!({"ok": true}));
}

/// As in `moving-from-haproxy.md`: HAProxy hands over, and its fields are believed.
#[test]
fn haproxy_hands_over_as_shown() {
    if !has_tools(&["bash", "curl", "haproxy"]) {
        return;
    }
    let page = Page::read("docs/moving-from-haproxy.md");
    let text = &page.all("text").next().expect("a block").text;
    let (ours, theirs) = text.split_once("# haproxy.cfg").expect("two files");
    let mut shell = Shell::new();
    // in place of port 80, which may be somebody's
    let rest = "bind = 127.0.0.1:0\nbind_management = 127.0.0.1:8042\nstate_file = ./state.json\n";
    let rest = shell.mapped(rest);
    let user = if nix::unistd::geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let conf = format!("{}{rest}{user}", shell.mapped(ours));
    std::fs::write(shell.path().join("site.conf"), conf).expect("site.conf");
    let (_, frontend) = theirs.split_once('\n').expect("lines");
    let list = shell.path().join("moved.lst");
    std::fs::write(&list, "moved.example\n").expect("a list");
    let frontend = frontend.replace("/etc/haproxy/moved.lst", &list.display().to_string());
    let defaults =
        "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n";
    let config = format!("{defaults}frontend web\n bind 127.0.0.1:9042\n{frontend}");
    let config = shell.mapped(&config);
    std::fs::write(shell.path().join("haproxy.cfg"), config).expect("haproxy.cfg");
    shell.run("mantrid -c site.conf &");
    let http = "redirect false redirect_to=new.example";
    assert_eq!(shell.run(&format!("mantrid-client set http://moved.example {http}")), "");
    assert_eq!(shell.run("haproxy -D -p haproxy.pid -f haproxy.cfg"), "");
    let answer = "%{http_code} %{redirect_url}";
    let asked = format!(
        "curl -s -o page -w '{answer}' -H 'Host: Moved.example:80' http://localhost:9042/a"
    );
    let found = shell.run(&asked);
    shell.run("kill $(cat haproxy.pid)");
    assert_eq!(found, "302 http://new.example/a");
}

/// The files that the tour names are there.
#[test]
fn tour_names_files_that_exist() {
    let mut sources = Vec::new();
    log_lines::sources(&root().join("src"), &mut sources);
    let mut count = 0;
    for name in Page::read("docs/tour.md").text.split('`').skip(1).step_by(2) {
        let is_there = match name {
            _ if name.contains(' ') => continue,
            _ if name.ends_with(".rs") => {
                root().join(name).exists()
                    || sources.iter().any(|(path, _)| path.ends_with(&format!("/{name}")))
            }
            _ if name.ends_with('/') => {
                let inside = format!("/{name}");
                root().join(name).exists() || sources.iter().any(|(path, _)| path.contains(&inside))
            }
            _ => continue,
        };
        assert!(is_there, "docs/tour.md: {name}");
        count += 1;
    }
    assert!(30 < count, "only {count}");
}

/// What the program takes is in its reference.
#[test]
fn every_argument_is_described() {
    let rules = Page::read("docs/rules.md").text;
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let mut count = 0;
    for action in named_in(&refusal(&mut api, json!(["no-such", {}, true]))) {
        assert!(rules.contains(&format!("`{action}`")), "docs/rules.md has no {action}");
        for argument in named_in(&refusal(&mut api, json!([action, {"no-such": 1}, true]))) {
            assert!(rules.contains(&format!("`{argument}`")), "docs/rules.md has no {argument}");
            count += 1;
        }
    }
    assert!(count > 15, "only {count}");
}

/// What is wrong with a rule.
fn refusal(api: &mut crate::manage::Api, rule: Value) -> String {
    let answer = api.tell("PUT", "/hostname/a.example/", &rule).json();
    answer["message"].as_str().unwrap_or_default().to_owned()
}

/// The names that a message lists at its end.
fn named_in(message: &str) -> Vec<String> {
    let list = message.rsplit([';', ':']).next().unwrap_or_default();
    let words = list.split([' ', ',']).filter(|word| !word.is_empty());
    let known = ["there", "are", "and", "takes", "no", "arguments", "it", "none", "argument"];
    words.filter(|word| !known.contains(word)).map(String::from).collect()
}

#[test]
fn every_metric_is_described() {
    let text = Page::read("docs/api.md").text;
    let daemon = Setup::new().rule("a.example", crate::api::empty(402)).start();
    let metrics = daemon.api().ask("GET", "/metrics").text();
    let mut count = 0;
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("# TYPE mantrid_") else { continue };
        let (name, kind) = rest.split_once(' ').expect("a name and a type");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        let is_shown = [format!("`{name}`"), format!("`{name}{{")];
        assert!(is_shown.iter().any(|shown| text.contains(shown)), "docs/api.md has no {name}");
        count += 1;
    }
    assert!(count > 20, "only {count}");
}

/// What the manual tells an operator to look at is there; `queries.rs` has alerts and dashboard.
#[test]
fn every_metric_of_the_manual_exists() {
    let daemon = Setup::new().rule("a.example", crate::api::empty(402)).start();
    let metrics = daemon.api().ask("GET", "/metrics").text();
    let text = Page::read("docs/operations.md").text;
    let mut count = 0;
    for piece in text.split("mantrid_").skip(1) {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let name = piece.split(|c| !is_part(c)).next().unwrap_or_default();
        let name = name.trim_end_matches("_bucket");
        // a file's name: mantrid_*.deb; a metric of a fleet alone
        if name.is_empty() || name.starts_with("fleet_") {
            continue;
        }
        assert!(metrics.contains(&format!("# TYPE mantrid_{name} ")), "there is no {name}");
        count += 1;
    }
    assert!(5 < count, "only {count}");
}

/// Every code in the sources of the API is in its list of errors, and the other way round.
#[test]
fn every_error_is_described() {
    let text = Page::read("docs/api.md").text;
    let section =
        text.split("\n## ").find(|section| section.starts_with("Errors")).expect("Errors");
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(2));
    let described: BTreeSet<&str> =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let sources = sources();
    for code in &described {
        let code = code.trim_start_matches("HOST:").split(':').next().unwrap_or_default();
        assert!(sources.contains(&format!("\"{code}")), "nothing says {code}");
    }
    let calls = sources.split("ApiError::").skip(1);
    let calls = calls.filter(|call| call.starts_with("bad(") || call.starts_with("new("));
    let mut count = 0;
    for call in calls {
        let call = &call[..call.find(';').unwrap_or(call.len())];
        let Some(code) = call.split('"').nth(1).filter(|code| code.contains('_')) else { continue };
        if code.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            let is_described =
                described.iter().any(|known| known.trim_start_matches("HOST:") == code);
            assert!(is_described, "docs/api.md has no {code}");
            count += 1;
        }
    }
    assert!(count > 8, "only {count}");
}

/// What answers requests of the API.
fn sources() -> String {
    let mut text = std::fs::read_to_string(root().join("src/control/grant.rs")).expect("a source");
    let mut folders = vec![
        root().join("src/control/api"),
        root().join("src/control/fleet"),
        root().join("src/table"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text += &std::fs::read_to_string(&path).expect("a source");
            }
        }
    }
    text
}
