//! `mantrid-client` against the daemon: the lines of the original's documentation and ours, over
//! TCP and the Unix socket, with a token and without. What a daemon would not answer is scripted in
//! `client`.

mod holding;
mod live;
mod problems;
mod tables;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked, eventually};
use crate::guard::{TOKEN, with_token};
use crate::management::Call;
use crate::message::{get, ok};

pub const LIST: &str = "HOST                                ACTION                    SUBDOMS \n";
const STATS: &str = "HOST                                OPEN        COMPLETED   BYTES IN    \
     BYTES OUT   HELD        2XX         3XX         4XX         5XX        \n";

/// One way to a daemon.
pub struct Way {
    pub url: String,
    token: Option<&'static str>,
}

impl Way {
    /// What is typed behind `mantrid-client`.
    pub fn call(&self, line: &str) -> Call {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        self.words(&words)
    }

    pub fn words(&self, words: &[&str]) -> Call {
        let call = Call::at(&self.url, words);
        match self.token {
            Some(token) => call.env("MANTRID_TOKEN", token),
            None => call,
        }
    }

    /// It succeeds, and prints nothing but this.
    #[track_caller]
    pub fn prints(&self, line: &str, expected: &str) {
        self.call(line).start().expect_printed(expected);
    }

    /// It fails, prints nothing, and says all of these.
    #[track_caller]
    pub fn fails(&self, line: &str, words: &[&str]) {
        let finished = self.call(line).finish();
        finished.expect(1, words);
        assert_eq!(finished.out, "", "{line}");
    }

    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let finished = self.call(line).finish();
        finished.expect(0, &[]);
        serde_json::from_str(&finished.out)
            .unwrap_or_else(|error| panic!("{line}: {error} in {:?}", finished.out))
    }
}

/// Every address that the daemon tells.
pub fn ways(daemon: &Daemon) -> Vec<Way> {
    let all = daemon.management.iter();
    all.map(|address| Way { url: address.clone(), token: None }).collect()
}

/// Its first address, which is the Unix socket.
pub fn way(daemon: &Daemon) -> Way {
    ways(daemon).remove(0)
}

/// Does it over TCP and the Unix socket, of a daemon with a token and of one without.
#[track_caller]
fn each_way(test: impl Fn(&Daemon, &Way)) {
    let open = Setup::new().management_tcp().start();
    let guarded = with_token(TOKEN.as_bytes()).management_tcp().start();
    for way in ways(&open) {
        test(&open, &way);
    }
    for way in ways(&guarded) {
        test(&guarded, &Way { token: Some(TOKEN), ..way });
    }
}

/// The guide, the page of rules and the README of the original, in their order.
#[test]
fn lines_of_the_original_documentation_work() {
    let secret = "top-secret.com                      empty<403>                True    \n";
    each_way(|_, way| {
        way.prints("list", LIST);
        for (set, row) in [
            (
                "set localhost proxy true backends=localhost:8000",
                "localhost                           proxy<localhost:8000>     True    \n",
            ),
            (
                "set localhost spin true",
                "localhost                           spin                      True    \n",
            ),
            (
                "set localhost proxy true backends=localhost:8000,localhost:8001",
                "localhost                           proxy<localhost:8000,localhost:8001> True    \n",
            ),
            (
                "set localhost static false type=test",
                "localhost                           static<test>              False   \n",
            ),
        ] {
            way.prints(set, "");
            way.prints("list", &format!("{LIST}{row}"));
        }
        way.prints("set top-secret.com empty true code=403", "");
        way.prints("delete localhost", "");
        way.prints("list", &format!("{LIST}{secret}"));
        way.prints("delete top-secret.com", "");
        way.prints("delete top-secret.com", "");
        way.prints("list", LIST);
        way.prints("stats", STATS);
    });
}

/// Without an address: port 8042 of either loopback, in a network of its own.
#[test]
fn client_finds_the_daemon_at_the_original_address() {
    let up = "ip link set lo up";
    let tried = Command::new("unshare").args(["-n", "sh", "-c", up]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: a network of one's own is not allowed here: {tried:?}");
        return;
    }
    let inside = format!("exec unshare -n sh -c '{up} && exec \"$0\" \"$@\"' \"$0\" \"$@\"; false");
    let daemon = Setup::new().unset("bind_management").first(inside).start();
    assert_eq!(daemon.management, ["http://127.0.0.1:8042/", "http://[::1]:8042/"]);
    let prints = |words: &[&str], expected: &str| {
        Call::beside(daemon.pid(), words).start().expect_printed(expected);
    };
    prints(&["set", "top-secret.com", "empty", "true", "code=403"], "");
    let row = "top-secret.com                      empty<403>                True    \n";
    for address in [&[][..], &["--url", "127.0.0.1"], &["--url", "http://[::1]"]] {
        prints(&[address, &["list"]].concat(), &format!("{LIST}{row}"));
    }
    prints(&["delete", "top-secret.com"], "");
    prints(&["list"], LIST);
}

/// What is typed, as the table has it.
#[test]
fn arguments_are_read_in_each_form() {
    let daemon = Setup::new().start();
    let (way, mut api) = (way(&daemon), daemon.api());
    for (words, rule) in [
        (
            "proxy TRUE backends=a:80,b:81",
            json!(["proxy", {"backends": [["a", 80], ["b", 81]]}, true]),
        ),
        (
            "proxy False backends=[::1]:80 attempts=3 delay=0.5 healthcheck=False algorithm=random",
            json!(["proxy", {"backends": [["::1", 80]], "attempts": 3, "delay": 0.5,
                   "healthcheck": false, "algorithm": "random"}, false]),
        ),
        (
            "proxy true backends=127.0.0.1:80,127.0.0.2:80 weights=1,3 check=/well",
            json!(["proxy", {"backends": [["127.0.0.1", 80], ["127.0.0.2", 80]],
                   "weights": [1, 3], "check": "/well"}, true]),
        ),
        ("empty true code=404", empty_of(404)),
        ("empty true code=403 code=404", empty_of(404)),
        (
            "redirect false redirect_to=https://b.com/?x=y code=301",
            json!(["redirect", {"redirect_to": "https://b.com/?x=y", "code": 301}, false]),
        ),
        ("static false type=test", json!(["static", {"type": "test"}, false])),
        (
            "spin false timeout=60 check_interval=1",
            json!(["spin", {"timeout": 60, "check_interval": 1}, false]),
        ),
        ("unknown true", json!(["unknown", {}, true])),
        ("no_hosts true", json!(["no_hosts", {}, true])),
    ] {
        for host in ["a.com", "http://a.com", "HTTPS://A.com.", "-new.example.com"] {
            way.prints(&format!("set {host} {words}"), "");
            let name = host.to_ascii_lowercase();
            let name = name.trim_end_matches('.');
            let table = api.get("/hostname/");
            let mut found = table[name].clone();
            sorted(&mut found);
            let mut rule = rule.clone();
            sorted(&mut rule);
            assert_eq!(found, rule, "{words} in {table}");
            assert_eq!(way.json(&format!("get {host} --json")), table[name]);
            way.prints(&format!("delete {host}"), "");
        }
    }
    assert_eq!(api.get("/hostname/"), json!({}));
}

fn empty_of(code: u16) -> Value {
    json!(["empty", { "code": code }, true])
}

/// Arguments in the order of their names: an order that they don't have.
fn sorted(rule: &mut Value) {
    rule[1].as_object_mut().expect("arguments").sort_keys();
}

/// What is wrong with them is the daemon's to say, of which host, and nothing is changed.
#[test]
fn refused_rules_are_told_and_change_nothing() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let way = way(&daemon);
    for (words, told) in [
        ("a.com empty true code=", &["a.com", "code", "200 to 599"][..]),
        ("a.com empty true code=x", &["a.com", "code", "\"x\""]),
        ("a.com mirror true", &["a.com", "no action \"mirror\"", "proxy, spin"]),
        ("a.com proxy true backends=b:1 frob=1", &["a.com", "no argument frob", "attempts"]),
        ("a.com proxy true backends=b:1 healthcheck=maybe", &["a.com", "true or false"]),
        ("a_b!.com spin true", &["a_b!.com", "letters, digits"]),
        ("a.com alias true hostname=nowhere.com", &["a.com is an alias of nowhere.com"]),
    ] {
        way.fails(&format!("set {words}"), told);
        way.fails(&format!("set {words} --dry-run"), told);
    }
    // an empty variable of a script names no host, and never all of them
    for words in [&["get", ""][..], &["stats", ""], &["delete", ""], &["set", "", "spin", "true"]] {
        let finished = way.words(words).finish();
        finished.expect(1, &["You must supply a hostname."]);
        assert_eq!(finished.out, "", "{words:?}");
    }
    assert_eq!(daemon.api().get("/hostname/"), json!({"a.com": empty(402)}));
}

/// What the client sets is what the next request meets.
#[test]
fn a_change_is_seen_by_the_next_request() {
    let backends = ["first", "second"].map(|name| (name, Backend::new().serve_text(name)));
    each_way(|daemon, way| {
        let mut client = daemon.connect();
        assert_eq!(client.exchange(get("www.a.com", "/")).status(), 503);
        for (name, backend) in &backends {
            way.prints(&format!("set a.com proxy true backends=127.0.0.1:{}", backend.port), "");
            let answer = client.exchange(get("www.a.com", "/"));
            assert_eq!((answer.status(), answer.text().as_str()), (200, *name));
        }
        way.prints("set a.com empty false code=402", "");
        assert_eq!(client.exchange(get("a.com", "/")).status(), 402);
        assert_eq!(client.exchange(get("www.a.com", "/")).status(), 503);
        way.prints("delete a.com", "");
        assert_eq!(client.exchange(get("a.com", "/")).status(), 503);
        way.fails("get a.com", &["a.com has no rule of its own"]);
    });
}

#[test]
fn stats_show_what_was_counted() {
    let backend = Backend::new().serve_text("hello");
    each_way(|daemon, way| {
        let row = |host: &str, counters: &Value| {
            let count = |name: &str| counters[name].as_u64().unwrap_or(0);
            let class = |name: &str| counters["answers"][name].as_u64().unwrap_or(0);
            format!(
                "{host:<35} {:<11} {:<11} {:<11} {:<11} {:<11} {:<11} {:<11} {:<11} {:<11}\n",
                count("open_requests"),
                count("completed_requests"),
                count("bytes_received"),
                count("bytes_sent"),
                count("held_requests"),
                class("2xx"),
                class("3xx"),
                class("4xx"),
                class("5xx"),
            )
        };
        let host = format!("a{}.com", way.url.len());
        way.prints(&format!("set {host} proxy true backends=127.0.0.1:{}", backend.port), "");
        let none = row(&host, &json!({}));
        way.prints(&format!("stats {host}"), &format!("{STATS}{none}"));
        for _ in 0..3 {
            daemon.connect().exchange(get(&host, "/")).expect_status(200);
        }
        let mut api = daemon.api();
        if way.token.is_some() {
            api = api.with(&format!("Authorization: Bearer {TOKEN}"));
        }
        let counters = api.counted(&host, 3);
        assert_eq!(counters["answers"]["2xx"], 3, "{counters}");
        assert!(counters["bytes_sent"].as_u64() >= Some(3 * "hello".len() as u64));
        let some = row(&host, &counters);
        way.prints(&format!("stats {host}"), &format!("{STATS}{some}"));
        way.prints("stats", &format!("{STATS}{some}"));
        let found = way.json(&format!("stats {host} --json"));
        assert_eq!(without_rates(&found), without_rates(&counters));
        let found = way.json("stats --json");
        assert_eq!(without_rates(&found[&host]), without_rates(&counters));
        assert_eq!(found.as_object().map(serde_json::Map::len), Some(1), "{found}");
        way.prints(&format!("delete {host}"), "");
        way.prints("stats", STATS);
    });
}

/// Counters without what is of the last minute, which is another a moment later.
fn without_rates(counters: &Value) -> Value {
    let counters = counters.as_object().expect("counters").iter();
    let of_a_minute = |name: &str| name.ends_with("_per_second") || name.starts_with('p');
    let kept = counters.filter(|(name, _)| !of_a_minute(name));
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[test]
fn change_waits_for_requests_at_the_old_backend() {
    let (backend, other) = (Backend::new(), Backend::new());
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let way = way(&daemon);
    let (mut client, mut server) = asked(&daemon, &backend);
    let set = format!("set a.com proxy true backends=127.0.0.1:{} --wait", other.port);
    let told = format!("127.0.0.1:{} (1)", backend.port);
    way.fails(&format!("{set} --timeout 50ms"), &["a.com is changed", "50ms", &told]);
    way.prints(&format!("set a.com proxy true backends=127.0.0.1:{}", backend.port), "");
    let mut api = daemon.api();
    let before = api.etag();
    let waiting = way.call(&set).start();
    eventually("the change is made", || api.etag() != before);
    server.send(ok("done"));
    assert_eq!(client.expect_answer().text(), "done");
    waiting.expect_printed("");
}

/// `--json` is JSON wherever something is read.
#[test]
fn commands_that_read_print_json() {
    let daemon = Setup::new().rule("a.com", empty(402)).management_tcp().start();
    for way in ways(&daemon) {
        let table = json!({"a.com": empty(402)});
        for (line, expected) in [
            ("list --json", table.clone()),
            ("list --json --search x", json!({})),
            ("dump --json", table.clone()),
            ("dump", table),
            ("get a.com --json", empty(402)),
            ("stats --json", json!({"a.com": {}})),
            ("stats a.com --json", json!({})),
            ("set a.com empty false code=402 --json", json!({"ok": true})),
            ("delete b.com --dry-run --json", json!({"ok": true, "dry_run": true})),
        ] {
            assert_eq!(way.json(line), expected, "{line}");
        }
        let finished = way.call("get b.com --json").finish();
        finished.expect(1, &["b.com has no rule"]);
        assert_eq!(finished.out, "null\n");
    }
}

#[test]
fn manual_pages_render() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    Call::new(&["man", path]).finish().expect(0, &[]);
    let mut pages: Vec<_> = std::fs::read_dir(folder.path()).expect("pages").flatten().collect();
    pages.sort_by_key(std::fs::DirEntry::file_name);
    assert!(10 < pages.len(), "{pages:?}");
    for page in pages {
        let text = std::fs::read_to_string(page.path()).expect("a page");
        let Some(out) = filtered("groff", &["-man", "-Tutf8", "-ww", "-P-cbou"], &text) else {
            return;
        };
        assert!(out.contains("SYNOPSIS"), "{:?}: {out}", page.file_name());
    }
}

/// What a program makes of `text`, without a complaint; `None` where there is no such program.
#[track_caller]
fn filtered(program: &str, arguments: &[&str], text: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: there is no {program} here");
        return None;
    };
    let mut input = child.stdin.take().expect("its input");
    let text = text.to_owned();
    let writer = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("the writer");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{program}: {:?}\n{err}", output.status);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
