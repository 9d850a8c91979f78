//! State of `top`, and how keys change it. No terminal and no clock: events and keys go in, the
//! drawing reads it.

use std::cmp::Reverse;
use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::super::print::plain;
use super::super::sse::Event;

/// Seconds of history: more than a terminal is wide.
const HISTORY_MAX: usize = 512;
const FILTER_CHARS_MAX: usize = 253;

/// A host in the last second.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Host {
    pub name: String,
    pub requests_rate: f64,
    pub received_rate: f64,
    pub sent_rate: f64,
    pub open: u64,
    pub held: u64,
    pub completed: u64,
    /// Responses by class, from 2xx on.
    pub answers: [u64; 4],
}

impl Host {
    fn of(name: &str, value: &Value) -> Host {
        let answers = value.get("answers");
        let class = |name| answers.map_or(0, |answers| count(answers, name));
        Host {
            name: plain(name),
            requests_rate: rate(value, "requests_per_second"),
            received_rate: rate(value, "bytes_received_per_second"),
            sent_rate: rate(value, "bytes_sent_per_second"),
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

/// All that one `traffic` event tells.
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
    fn of(value: &Value) -> Traffic {
        let list = |name: &str| value.get(name).and_then(Value::as_array).into_iter().flatten();
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
            shards: list("shards").map(shard).collect(),
            hosts: list("busiest").filter_map(host).collect(),
            down: list("down").filter_map(Value::as_str).map(plain).collect(),
        }
    }
}

fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn rate(value: &Value, name: &str) -> f64 {
    let rate = value.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    if rate.is_finite() { rate.max(0.0) } else { 0.0 }
}

/// Order of the hosts: the largest first, names in their order.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Sort {
    Requests,
    Open,
    Held,
    Received,
    Sent,
    ServerErrors,
    Completed,
    Name,
}

impl Sort {
    const ALL: [Sort; 8] = [
        Sort::Requests,
        Sort::Open,
        Sort::Held,
        Sort::Received,
        Sort::Sent,
        Sort::ServerErrors,
        Sort::Completed,
        Sort::Name,
    ];

    fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }

    fn key(self, host: &Host) -> Reverse<u64> {
        // As fine as it is shown, so that rows of equal figures keep still.
        let tenths = |rate: f64| (rate * 10.0) as u64;
        Reverse(match self {
            Sort::Requests => tenths(host.requests_rate),
            Sort::Open => host.open,
            Sort::Held => host.held,
            Sort::Received => host.received_rate as u64,
            Sort::Sent => host.sent_rate as u64,
            Sort::ServerErrors => host.answers[3],
            Sort::Completed => host.completed,
            Sort::Name => 0,
        })
    }
}

/// Whether to go on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Flow {
    Go,
    Quit,
}

/// Everything that is drawn.
#[derive(Debug)]
pub struct Screen {
    pub address: String,
    pub version: String,
    pub traffic: Traffic,
    /// Requests per second, the newest in front.
    pub history: VecDeque<u64>,
    /// Why there is no connection, while there is none.
    pub lost: Option<String>,
    pub sort: Sort,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    /// The first row that is shown, and how many fit.
    pub first: usize,
    page: usize,
}

impl Screen {
    pub fn new(address: &str) -> Screen {
        Screen {
            address: plain(address),
            version: String::new(),
            traffic: Traffic::default(),
            history: VecDeque::new(),
            lost: None,
            sort: Sort::Requests,
            filter: String::new(),
            typing: false,
            paused: false,
            first: 0,
            page: 1,
        }
    }

    /// Takes an event. While paused, what is shown stays; the history goes on.
    pub fn take(&mut self, event: &Event) {
        let value: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.kind.as_str() {
            "hello" => {
                let version = value.get("version").and_then(Value::as_str).unwrap_or_default();
                self.version = plain(version);
            }
            "traffic" => {
                let traffic = Traffic::of(&value);
                self.history.push_front(traffic.totals.requests_rate.round() as u64);
                self.history.truncate(HISTORY_MAX);
                if !self.paused {
                    self.traffic = traffic;
                }
            }
            _ => {}
        }
    }

    /// The hosts that pass the filter, in order.
    pub fn hosts(&self) -> Vec<&Host> {
        let hosts = self.traffic.hosts.iter();
        let mut hosts: Vec<&Host> = hosts.filter(|host| host.name.contains(&self.filter)).collect();
        hosts.sort_by(|left, right| {
            let order = self.sort.key(left).cmp(&self.sort.key(right));
            order.then_with(|| left.name.cmp(&right.name))
        });
        hosts
    }

    /// Says how many rows fit; the last page stays full.
    pub fn fit(&mut self, rows: usize) {
        self.page = rows.max(1);
        let last = self.hosts().len().saturating_sub(self.page);
        self.first = self.first.min(last);
    }

    pub fn key(&mut self, key: KeyEvent) -> Flow {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Flow::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Flow::Go;
        }
        match key.code {
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.first += 1,
            KeyCode::PageUp => self.first = self.first.saturating_sub(self.page),
            KeyCode::PageDown => self.first += self.page,
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = self.traffic.hosts.len(),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            _ => {}
        }
        self.fit(self.page);
        Flow::Go
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.extend(c.to_lowercase());
            }
            _ => {}
        }
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn traffic(data: &Value) -> Event {
        Event { kind: "traffic".to_owned(), data: data.to_string() }
    }

    fn busy(count: u64) -> Screen {
        let mut screen = Screen::new("here");
        let hosts: Vec<Value> = (0..count)
            .map(|n| {
                let host = format!("h{n}.com");
                json!({"host": host, "requests_per_second": n, "open_requests": count - n})
            })
            .collect();
        screen.take(&traffic(&json!({ "busiest": hosts })));
        screen.fit(10);
        screen
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Flow {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn names(screen: &Screen) -> Vec<&str> {
        screen.hosts().iter().map(|host| host.name.as_str()).collect()
    }

    #[test]
    fn a_traffic_event_is_read() {
        let mut screen = Screen::new("here");
        screen.take(&traffic(&json!({
            "time": 1.5, "rules": 7, "held": 2, "down": ["127.0.0.1:8000"],
            "totals": {"requests_per_second": 2.5, "bytes_sent_per_second": 3.0,
                "bytes_received_per_second": 4, "open_connections": 5, "completed_requests": 6},
            "shards": [
                {"requests_per_second": 1, "open_connections": 2, "busy": 0.25},
                {"busy": 7}
            ],
            "busiest": [{"host": "a.com", "open_requests": 1, "answers": {"2xx": 1, "5xx": 4}}, {}],
        })));
        let found = &screen.traffic;
        assert_eq!((found.rules, found.held, found.open_connections), (7, 2, 5));
        assert_eq!(found.totals.requests_rate, 2.5);
        assert_eq!(found.down, ["127.0.0.1:8000"]);
        assert_eq!(found.shards[0], Shard { requests_rate: 1.0, open_connections: 2, busy: 0.25 });
        assert_eq!(found.shards[1].busy, 1.0, "no more than all");
        assert_eq!(found.hosts.len(), 1, "a host without a name is none");
        assert_eq!((found.hosts[0].open, found.hosts[0].answers), (1, [1, 0, 0, 4]));
        assert_eq!(screen.history, [3]);
    }

    #[test]
    fn other_events_harm_nothing() {
        let mut screen = Screen::new("here");
        for data in
            ["", "[]", "{\"busiest\": 3, \"totals\": [], \"shards\": {}}", "{\"rules\": -1}"]
        {
            screen.take(&Event { kind: "traffic".to_owned(), data: data.to_owned() });
            assert_eq!(screen.traffic, Traffic::default(), "{data}");
        }
    }

    #[test]
    fn s_cycles_what_is_sorted_by() {
        let mut screen = busy(3);
        assert_eq!(names(&screen), ["h2.com", "h1.com", "h0.com"]);
        press(&mut screen, KeyCode::Char('s'));
        assert_eq!((screen.sort, names(&screen)), (Sort::Open, vec!["h0.com", "h1.com", "h2.com"]));
        for _ in 0..7 {
            press(&mut screen, KeyCode::Char('s'));
        }
        assert_eq!(screen.sort, Sort::Requests);
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut screen = busy(12);
        press(&mut screen, KeyCode::Char('/'));
        for c in ['H', '1', 'q', 's'] {
            assert_eq!(press(&mut screen, KeyCode::Char(c)), Flow::Go, "text, no command");
        }
        assert!(names(&screen).is_empty());
        press(&mut screen, KeyCode::Backspace);
        press(&mut screen, KeyCode::Backspace);
        press(&mut screen, KeyCode::Enter);
        assert_eq!(names(&screen), ["h11.com", "h10.com", "h1.com"]);
        assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Go, "the first takes the filter back");
        assert_eq!(names(&screen).len(), 12);
        assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Quit);
    }

    #[test]
    fn scrolling_stays_within_the_rows() {
        let mut screen = busy(25);
        press(&mut screen, KeyCode::Up);
        assert_eq!(screen.first, 0);
        for (code, first) in [
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 11),
            (KeyCode::PageDown, 15),
            (KeyCode::Down, 15),
            (KeyCode::PageUp, 5),
            (KeyCode::Home, 0),
            (KeyCode::End, 15),
        ] {
            press(&mut screen, code);
            assert_eq!(screen.first, first, "{code:?}");
        }
        screen.take(&traffic(&json!({})));
        screen.fit(10);
        assert_eq!(screen.first, 0, "the hosts are gone");
    }

    #[test]
    fn paused_is_what_is_shown() {
        let mut screen = busy(3);
        press(&mut screen, KeyCode::Char('p'));
        screen.take(&traffic(&json!({})));
        assert_eq!(screen.hosts().len(), 3);
        assert_eq!(screen.history.len(), 2);
        press(&mut screen, KeyCode::Char('p'));
        screen.take(&traffic(&json!({})));
        assert!(screen.hosts().is_empty());
    }

    #[test]
    fn control_c_quits_always() {
        let mut screen = busy(1);
        press(&mut screen, KeyCode::Char('/'));
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(key), Flow::Quit);
        assert_eq!(press(&mut busy(1), KeyCode::Char('q')), Flow::Quit);
    }
}
