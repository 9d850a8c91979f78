//! The dashboard of the real daemon, in a real browser: what it shows is what requests do, and what
//! is set in it is what requests get. `dashboard` has the cases, against an API that can be made to
//! misbehave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::browser::{Page, quoted};
use crate::daemon::{Daemon, Setup};
use crate::dashboard::{CLOSED, REVIEWED, deed, proxy, row};
use crate::guard::{TOKEN, with_token};
use crate::message::get;
use crate::script::Connection;
use crate::spin::expect_held;

const LIVE: &str = "document.querySelector('#state').innerText === 'Live'";

fn url(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.api_address())
}

#[track_caller]
fn open(daemon: &Daemon) -> Option<Page> {
    let page = Page::open(&url(daemon))?;
    page.wait(LIVE);
    Some(page)
}

/// The text of a cell of numbers, by the head of its column.
fn number(host: &str, column: &str) -> String {
    format!(
        "(() => {{ const heads = [...document.querySelectorAll('thead th')].map((th) => th.innerText.trim());
         const at = heads.findIndex((head) => head.toLowerCase().startsWith({}));
         return document.querySelector({}).cells[at].innerText; }})()",
        quoted(column),
        quoted(&row(host))
    )
}

#[test]
fn dashboard_shows_what_requests_do() {
    let backend = Backend::new().serve_text("hello");
    let setup = Setup::new().management_tcp().set("shards", 2);
    let daemon = setup.rule("a.com", backend.rule()).rule("b.com", empty(410)).start();
    let Some(page) = open(&daemon) else { return };
    page.wait_text("#result", "2 rules");
    page.wait_text(&row("a.com"), &format!("127.0.0.1:{}", backend.port));
    page.wait_text(&row("b.com"), "410");
    page.wait("document.querySelectorAll('#shards li').length === 2");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _no_more = Over(&over);
        scope.spawn(|| {
            let mut client = daemon.connect();
            while !over.load(Ordering::Relaxed) {
                client.exchange(get("a.com", "/"));
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        // of the row, of all, of whom is busiest, and where it goes
        page.wait(&format!("0 < parseFloat({})", number("a.com", "req")));
        page.wait("0 < parseFloat(document.querySelector('.tile output').textContent)");
        page.wait_text("#busiest", "a.com");
        page.wait_text("#backends", &format!("127.0.0.1:{}", backend.port));
        page.wait("document.querySelector('.tile .line').getAttribute('d').length > 20");
    });
    page.wait(&format!("parseFloat({}) === 0", number("a.com", "req")));
    // what others do to the table
    daemon.api().put("/hostname/c.com/", &empty(402));
    page.wait_text(&row("c.com"), "402");
    page.wait_text("#log", "c.com");
    page.expect_no_complaints();
}

#[track_caller]
fn expect_rule(daemon: &Daemon, host: &str, expected: &Value) {
    assert_eq!(&daemon.api().get(&format!("/hostname/{host}/")), expected);
}

#[test]
fn rule_that_is_set_is_what_requests_get() {
    let (first, second) = (Backend::new().serve_text("first"), Backend::new().serve_text("second"));
    let daemon = Setup::new().management_tcp().rule("z.com", empty(402)).start();
    let text = |host: &str| daemon.connect().exchange(get(host, "/")).text();
    let Some(page) = open(&daemon) else { return };
    page.click("#add");
    page.type_text("A.com");
    page.click("#field-backends");
    page.type_text(&format!("127.0.0.1:{}", first.port));
    page.click("#go");
    page.wait(REVIEWED);
    expect_rule(&daemon, "a.com", &Value::Null);
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(text("a.com"), "first");
    // edit
    page.wait_text(&row("a.com"), "127.0.0.1");
    page.click(&deed("a.com", "edit"));
    page.click("#field-backends");
    page.evaluate("document.activeElement.select()");
    page.type_text(&format!("127.0.0.1:{}", second.port));
    page.click("#go");
    page.wait(REVIEWED);
    page.wait_text("#difference", &first.port.to_string());
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(text("a.com"), "second");
    // hold, and let go
    page.click(&deed("a.com", "spin"));
    page.wait(REVIEWED);
    page.click("#go");
    page.wait(CLOSED);
    let before = json!(["proxy", {"backends": [["127.0.0.1", second.port]]}, false]);
    expect_rule(&daemon, "a.com", &json!(["spin", {"then": before}, false]));
    let mut visitor = daemon.connect();
    visitor.send(get("a.com", "/"));
    expect_held(&mut daemon.api(), "a.com", 1);
    page.wait(&format!("parseFloat({}) === 1", number("a.com", "held")));
    page.wait_text("#log", "a.com: requests wait");
    page.click(&deed("a.com", "flip"));
    page.wait(REVIEWED);
    page.wait_text("#difference", &second.port.to_string());
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(visitor.expect_answer().text(), "second");
    expect_rule(&daemon, "a.com", &before);
    // delete: cancelled, and then not
    page.click(&deed("a.com", "delete"));
    page.wait(REVIEWED);
    page.click("#cancel");
    page.wait(CLOSED);
    expect_rule(&daemon, "a.com", &before);
    page.click(&deed("a.com", "delete"));
    page.wait(REVIEWED);
    page.click("#go");
    page.wait_text("#said", "a.com is deleted");
    expect_rule(&daemon, "a.com", &Value::Null);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 503);
    page.expect_no_complaints();
}

#[test]
fn refusal_stands_at_the_field_that_is_wrong() {
    let daemon = Setup::new().management_tcp().rule("a.com", empty(402)).start();
    let Some(page) = open(&daemon) else { return };
    page.click(&deed("a.com", "edit"));
    page.click("#field-code");
    page.evaluate("document.activeElement.select()");
    page.type_text("99");
    page.click("#go");
    page.wait_text("#error-code", "from 200 to 599");
    page.choose("#field-action", "alias");
    page.click("#field-hostname");
    page.type_text("nobody.com");
    page.click("#go");
    page.wait_text("#change", "there is no rule");
    page.press("Escape");
    page.wait(CLOSED);
    // spinning remembers what was there, and what can't be remembered is refused by the daemon as
    // well
    expect_rule(&daemon, "a.com", &empty(402));
    page.expect_no_complaints();
}

#[test]
fn backends_are_shown_as_they_go_and_come() {
    let port = closed_port();
    let rule = rule_for(&[port], json!({"check": "tcp"}));
    let daemon = Setup::new().management_tcp().rule("a.com", rule).start();
    let Some(page) = open(&daemon) else { return };
    page.wait_text("#backends", &format!("127.0.0.1:{port}"));
    page.wait_text("#backends", "down");
    page.wait_text(&row("a.com"), "1 down");
    page.wait("document.title.startsWith('(1 down) ')");
    let _backend = Backend::on(port).serve_text("hello");
    page.wait_text("#log", &format!("127.0.0.1:{port} is up"));
    page.wait("!document.title.startsWith('(')");
    page.expect_no_complaints();
}

#[test]
fn host_that_is_limited_is_found() {
    let backend = Backend::new().serve_text("hello");
    let limited = rule_for(&[backend.port], json!({"max_requests_per_second": 1}));
    let setup = Setup::new().management_tcp().rule("limited.com", limited);
    let daemon = setup.rule("other.com", backend.rule()).start();
    let Some(page) = open(&daemon) else { return };
    page.wait_text("#result", "2 rules");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _no_more = Over(&over);
        for host in ["limited.com", "other.com"] {
            scope.spawn(|| {
                let mut client = daemon.connect();
                while !over.load(Ordering::Relaxed) {
                    client.exchange(get(host, "/"));
                    thread::park_timeout(Duration::from_millis(20));
                }
            });
        }
        page.choose("#filter", "limited");
        page.wait_text("#result", "1 limited host");
        page.wait(&format!("0 < parseFloat({})", number("limited.com", "limited")));
        page.click(&format!("{} .name a", row("limited.com")));
        page.wait_text("#host-wrong", "Limits turn");
        page.wait_text("#host-wrong", "requests/s away: max_requests_per_second 1.");
        page.evaluate("location.hash = '#sort=requests&action=proxy&filter=failing'");
        page.wait_text("#result", "0 failing hosts, by requests per second");
    });
    page.expect_no_complaints();
}

#[test]
fn dashboard_asks_for_the_token() {
    let daemon = with_token(TOKEN.as_bytes()).management_tcp().rule("a.com", empty(402)).start();
    let Some(page) = Page::open(&url(&daemon)) else { return };
    page.wait("document.querySelector('#ask').open");
    page.type_text("wrong");
    page.press("Enter");
    page.wait_text("#ask-error", "not accepted");
    page.type_text(TOKEN);
    page.press("Enter");
    page.wait(LIVE);
    page.wait_text(&row("a.com"), "402");
    page.click(&deed("a.com", "delete"));
    page.wait(REVIEWED);
    page.click("#go");
    page.wait_text("#said", "a.com is deleted");
    page.expect_no_complaints();
}

/// The daemon goes away, and comes back with another table.
#[test]
fn dashboard_goes_on_when_the_daemon_comes_back() {
    let setup = Setup::new().add("bind_management", format!("127.0.0.1:{}", closed_port()));
    let mut daemon = setup.clone().rule("a.com", empty(402)).start();
    let Some(page) = open(&daemon) else { return };
    page.wait_text(&row("a.com"), "402");
    daemon.kill();
    page.wait_text("#state", "Connection lost");
    page.wait("document.documentElement.hasAttribute('data-stale')");
    let daemon = setup.start();
    daemon.api().put("/hostname/a.com/", &empty(403));
    page.wait(LIVE);
    page.wait_text(&row("a.com"), "403");
    page.wait("!document.documentElement.hasAttribute('data-stale')");
    page.expect_no_complaints();
}

/// A few hosts of each kind with traffic, one that is held and one that is down.
struct Fleet {
    daemon: Daemon,
    over: AtomicBool,
    _backends: Vec<crate::backend::Serving>,
}

impl Fleet {
    fn new() -> Fleet {
        let backends: Vec<_> = (0..6).map(|_| Backend::new().serve_text("hello")).collect();
        let port = |at: usize| backends[at].port;
        let shop =
            |a: usize, b: usize| proxy(json!([["127.0.0.1", port(a)], ["127.0.0.1", port(b)]]));
        let small = |at: usize| json!(["proxy", {"backends": [["127.0.0.1", port(at)]]}, false]);
        let gone = rule_for(&[closed_port()], json!({"check": "tcp"}));
        let redirect = |to: &str| json!(["redirect", {"redirect_to": to, "code": 301}, false]);
        let held = json!(["spin", {"timeout": 600, "then": small(4)}, true]);
        let rules = [
            ("api.harbour.example", shop(0, 1)),
            ("atelier-nord.example", small(2)),
            ("bakery-lindgren.example", small(3)),
            ("blog.harbour.example", json!(["alias", {"hostname": "www.harbour.example"}, false])),
            ("cafe-morgenrot.example", held),
            ("campus.example", shop(2, 3)),
            ("chess-club.example", small(4)),
            ("closed.example", json!(["empty", {"code": 410}, true])),
            ("garden-tools.example", gone),
            ("harbour.example", redirect("https://www.harbour.example")),
            ("lantern-books.example", shop(4, 5)),
            ("night-train.example", shop(1, 5)),
            ("quiet-letters.example", small(5)),
            ("www.harbour.example", shop(0, 5)),
        ];
        let setup = Setup::new().management_tcp().set("shards", 2);
        let setup = rules.into_iter().fold(setup, |setup, (host, rule)| setup.rule(host, rule));
        Fleet { daemon: setup.start(), over: AtomicBool::new(false), _backends: backends }
    }

    /// Visitors, until it is over.
    fn visit(&self) {
        let mut held = Vec::new();
        for _ in 0..7 {
            let mut client = self.daemon.connect();
            client.send(get("cafe-morgenrot.example", "/"));
            held.push(client);
        }
        let hosts = [
            ("www.harbour.example", 3),
            ("api.harbour.example", 5),
            ("lantern-books.example", 8),
            ("campus.example", 13),
            ("night-train.example", 21),
            ("quiet-letters.example", 60),
            ("blog.harbour.example", 40),
            ("closed.example", 90),
        ];
        thread::scope(|scope| {
            for (host, pause) in hosts {
                scope.spawn(move || {
                    let mut client: Connection = self.daemon.connect();
                    for turn in 0_u64.. {
                        if self.over.load(Ordering::Relaxed) {
                            return;
                        }
                        client.exchange(get(host, "/"));
                        // waves, as days have them
                        let wave = 1 + (turn / 40 + pause) % 3;
                        thread::park_timeout(Duration::from_millis(pause * wave));
                    }
                });
            }
        });
    }
}

/// `MANTRID_BLESS=1 cargo test` draws the pictures of the documentation anew, after a minute of
/// traffic.
#[test]
fn pictures_of_the_documentation_are_drawn() {
    if std::env::var_os("MANTRID_BLESS").is_none() {
        return;
    }
    let fleet = Fleet::new();
    let Some(page) = open(&fleet.daemon) else { return };
    thread::scope(|scope| {
        let _no_more = Over(&fleet.over);
        scope.spawn(|| fleet.visit());
        page.wait_text("#busiest", "www.harbour.example");
        let rule = json!(["static", {"type": "test"}, true]);
        fleet.daemon.api().put("/hostname/tea-house.example/", &rule);
        // the plots show two minutes: half of one is enough to see how it goes
        let seconds = "document.querySelector('.tile .line').getAttribute('d').split('L').length";
        for shown in [20, 40, 60] {
            page.wait(&format!("{shown} < {seconds}"));
        }
        for (name, width, height, scale, is_dark) in [
            ("dashboard", 1440, 1000, 1.0, false),
            ("dashboard-dark", 1440, 1000, 1.0, true),
            ("dashboard-phone", 360, 780, 2.0, false),
        ] {
            page.set_viewport(width, height, scale);
            page.set_dark(is_dark);
            page.evaluate("scrollTo(0, 0)");
            draw(&page, name);
        }
        page.set_viewport(1440, 1000, 1.0);
        page.evaluate("location.hash = '#host=night-train.example'");
        page.wait_text("#host-backends", "127.0.0.1");
        for shown in [5, 10, 15] {
            page.wait(&format!(
                "{shown} < document.querySelector('#host-charts .line').getAttribute('d').split('L').length"
            ));
        }
        draw(&page, "dashboard-host");
    });
}

fn draw(page: &Page, name: &str) {
    let path = format!("{}/docs/{name}.png", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, page.screenshot()).expect("a picture");
}

/// Sends the visitors home, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
