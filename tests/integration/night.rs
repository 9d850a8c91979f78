//! The night: of a hundred thousand hosts one fails, one is slow and one is held. `mantrid-client`
//! and the dashboard name host, backend, cause and last change in at most three steps, by keyboard
//! alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::backend::{Backend, Serving};
use crate::browser::Page;
use crate::client::top::{LEAVE, Terminal};
use crate::daemon::{Daemon, Setup};
use crate::management::Call;
use crate::message::{get, ok};
use crate::spin::expect_held;

const HOSTS: usize = 100_000;
/// Hosts of these that get requests.
const BUSY: usize = 400;
/// A response of the slow backend takes so long.
const SLOW: Duration = Duration::from_millis(1300);
const SIZE: (u16, u16) = (40, 150);

struct Night {
    daemon: Daemon,
    failing: Serving,
    slow: Serving,
    calm: Serving,
    over: AtomicBool,
}

impl Night {
    fn new() -> Night {
        let calm = Backend::new().serve_text("hello");
        let failing = Backend::new().serve(|_, connection| {
            let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
            drop(connection.try_send(head));
        });
        let slow = Backend::new().serve(|_, connection| {
            thread::park_timeout(SLOW);
            drop(connection.try_send(ok("at last")));
        });
        let daemon = Setup::new().management_tcp().set("shards", 2).start();
        let mut api = daemon.api();
        api.wire.wait_long();
        let name = |number: usize| format!("site-{number:06}.example");
        let table: Map<String, Value> =
            (0..HOSTS).map(|number| (name(number), calm.rule())).collect();
        api.put("/hostname/", &Value::Object(table));
        // Somebody has changed three of them since.
        api.put("/hostname/site-031337.example/", &failing.rule());
        api.put("/hostname/site-077777.example/", &slow.rule());
        let held = json!(["spin", {"timeout": 3600, "then": calm.rule()}, true]);
        api.put("/hostname/site-050505.example/", &held);
        Night { daemon, failing, slow, calm, over: AtomicBool::new(false) }
    }

    /// Visitors, until it is over.
    fn visit(&self) {
        let goes_on = || !self.over.load(Ordering::Relaxed);
        let one = |host: &'static str, pause: u64| {
            move || {
                let mut client = self.daemon.connect();
                while goes_on() {
                    client.exchange(get(host, "/"));
                    thread::park_timeout(Duration::from_millis(pause));
                }
            }
        };
        let mut waiting = self.daemon.connect();
        waiting.send(get("site-050505.example", "/"));
        thread::scope(|scope| {
            scope.spawn(one("site-031337.example", 20));
            scope.spawn(one("site-077777.example", 1));
            scope.spawn(|| {
                let mut client = self.daemon.connect();
                for number in (0..HOSTS).step_by(HOSTS / BUSY).cycle() {
                    if !goes_on() {
                        return;
                    }
                    client.exchange(get(&format!("site-{number:06}.example"), "/"));
                    thread::park_timeout(Duration::from_millis(2));
                }
            });
        });
    }
}

/// Sends the visitors home, also when a test fails.
struct Over<'n>(&'n Night);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn at(backend: &Serving) -> String {
    format!("127.0.0.1:{}", backend.port)
}

#[test]
fn the_night_is_understood_in_three_steps() {
    let night = Night::new();
    thread::scope(|scope| {
        let _no_more = Over(&night);
        scope.spawn(|| night.visit());
        expect_held(&mut night.daemon.api(), "site-050505.example", 1);
        by_client(&night);
        by_dashboard(&night);
    });
}

/// `mantrid-client top`, the key of an order, Enter.
fn by_client(night: &Night) {
    let change = "PUT by uid ";
    let (calm, failing, slow) = (at(&night.calm), at(&night.failing), at(&night.slow));
    let cases = [
        ("e", "site-031337.example", vec![format!("{failing} answers with errors"), failing]),
        ("l", "site-077777.example", vec![format!("{slow} is slow"), slow]),
        ("h", "site-050505.example", vec!["its rule is spin: 1 request held".to_owned(), calm]),
    ];
    for (key, host, told) in cases {
        let terminal = Terminal::sized(SIZE);
        let url = format!("http://{}", night.daemon.api_address());
        let client = terminal.run(Call::at(&url, &["top"]));
        client.expect_on_screen(SIZE, &["100k rules"]);
        terminal.press(key);
        client.expect_on_screen(SIZE, &["▼", host]);
        // The first row is the host at fault once the daemon has ordered them.
        client.expect_on_screen_line(SIZE, "HOST", host);
        terminal.press("\r");
        let mut told: Vec<&str> = told.iter().map(String::as_str).collect();
        told.extend(["LAST CHANGES", change, host]);
        client.expect_on_screen(SIZE, &told);
        terminal.press("q");
        client.expect_out(LEAVE);
        client.expect_exit(0);
    }
}

/// A tile, and the host at the top of the list that it leads to.
fn by_dashboard(night: &Night) {
    let Some(page) = Page::open(&format!("http://{}/", night.daemon.api_address())) else { return };
    page.wait("document.querySelector('#state').innerText === 'Live'");
    let (calm, failing, slow) = (at(&night.calm), at(&night.failing), at(&night.slow));
    let cases = [
        ("Errors/s", "site-031337.example", format!("{failing} answers with errors"), failing),
        ("Latency, p95", "site-077777.example", format!("{slow} is slow"), slow),
        ("Held", "site-050505.example", "Its rule is spin: 1 request held".to_owned(), calm),
    ];
    for (tile, host, cause, backend) in cases {
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)");
        page.press_until("Tab", &format!("document.activeElement.textContent === '{tile}'"));
        page.press("Enter");
        page.wait(&format!("document.activeElement.textContent === '{host}'"));
        page.press("Enter");
        page.wait("document.activeElement.id === 'host-title'");
        page.wait_text("#host-title", host);
        page.wait_text("#host-wrong", &cause);
        page.wait_text("#host-backends", &backend);
        page.wait_text("#host-last", "PUT by uid ");
        page.press("Escape");
        page.wait("document.activeElement.closest('#rows') !== null");
    }
    page.expect_no_complaints();
}
