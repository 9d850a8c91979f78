//! State of `top`. Events, answers and keys change it, and `draw` reads it. It uses neither a
//! terminal nor a clock.

use std::cmp::Reverse;
use std::collections::VecDeque;

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::figures::{Backend, Close, Fleet, Host, Traffic, count, rate};
use crate::client::print::plain;
use crate::client::sse::Event;

/// Seconds of history: more than a terminal is wide.
pub const HISTORY_MAX: usize = 512;
const FILTER_CHARS_MAX: usize = 253;

/// Order of the hosts, by `sort=` of the daemon: the largest first.
#[derive(Copy, Clone, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sort {
    Requests,
    Errors,
    Latency,
    Held,
    Open,
    Bytes,
    Limited,
}

impl Sort {
    /// Each order with its word in a query and its key.
    pub const ALL: [(Sort, &'static str, char); 7] = [
        (Sort::Requests, "requests", 'r'),
        (Sort::Errors, "errors", 'e'),
        (Sort::Latency, "latency", 'l'),
        (Sort::Held, "held", 'h'),
        (Sort::Open, "open", 'o'),
        (Sort::Bytes, "bytes", 'y'),
        (Sort::Limited, "limited", 'm'),
    ];

    pub fn words() -> Vec<&'static str> {
        Sort::ALL.iter().map(|(_, word, _)| *word).collect()
    }

    pub fn word(self) -> &'static str {
        Sort::ALL.iter().find(|(sort, ..)| *sort == self).map_or("requests", |(_, word, _)| word)
    }

    fn by_key(code: KeyCode) -> Option<Sort> {
        Sort::ALL.iter().find(|(.., key)| code == KeyCode::Char(*key)).map(|(sort, ..)| *sort)
    }

    fn step(self, by: usize) -> Sort {
        let at = Sort::ALL.iter().position(|(sort, ..)| *sort == self).unwrap_or(0);
        Sort::ALL[(at + by) % Sort::ALL.len()].0
    }

    /// Rank of a host among those of a `traffic` event, for a daemon that does not sort.
    fn rank(self, host: &Host) -> Reverse<u64> {
        // Rates are compared as precisely as they are shown, so that rows of equal figures keep
        // their order.
        let tenths = |rate: f64| (rate * 10.0) as u64;
        Reverse(match self {
            Sort::Requests => tenths(host.requests_rate),
            Sort::Errors => tenths(host.errors_rate).max(host.answers[3]),
            Sort::Latency => tenths(host.latency[1].unwrap_or(0.0) * 1000.0),
            Sort::Held => host.held,
            Sort::Open => host.open,
            Sort::Bytes => (host.received_rate + host.sent_rate) as u64,
            Sort::Limited => tenths(host.limited_rate),
        })
    }
}

/// Condition of the hosts that are shown, by `filter=` of the daemon.
#[derive(Copy, Clone, PartialEq, Eq, Debug, ValueEnum)]
pub enum Condition {
    Failing,
    Held,
    Down,
    Limited,
}

impl Condition {
    /// Each condition with its word in a query.
    const ALL: [(Condition, &'static str); 4] = [
        (Condition::Failing, "failing"),
        (Condition::Held, "held"),
        (Condition::Down, "down"),
        (Condition::Limited, "limited"),
    ];

    pub fn words() -> Vec<&'static str> {
        Condition::ALL.iter().map(|(_, word)| *word).collect()
    }

    pub fn word(self) -> &'static str {
        let found = Condition::ALL.iter().find(|(condition, _)| *condition == self);
        found.map_or("failing", |(_, word)| word)
    }

    /// The condition after this one; `None`: all hosts.
    fn next(only: Option<Condition>) -> Option<Condition> {
        let at = Condition::ALL.iter().position(|(condition, _)| Some(*condition) == only);
        Condition::ALL.get(at.map_or(0, |at| at + 1)).map(|(condition, _)| *condition)
    }

    /// Whether a host of a `traffic` event is in this condition, as far as the event shows.
    fn holds(self, host: &Host) -> bool {
        match self {
            Condition::Failing => 0.0 < host.errors_rate,
            Condition::Held => 0 < host.held,
            Condition::Down => false,
            Condition::Limited => 0.0 < host.limited_rate,
        }
    }
}

/// Whether to go on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Flow {
    Go,
    Quit,
}

/// Part of the screen that arrow keys scroll; a terminal that is not wide shows only this part.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Pane {
    Hosts,
    Backends,
}

/// Questions that the screen has for the daemon, besides the stream of events.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    pub sort: Sort,
    pub search: String,
    pub only: Option<Condition>,
    pub limit: u32,
    /// The host that is opened.
    pub close: Option<String>,
}

/// Answers of the daemon to these questions.
#[derive(Clone, PartialEq, Debug)]
pub enum Answered {
    Hosts(Vec<Host>),
    Backends(Vec<Backend>),
    Fleet(Option<Fleet>),
    Close(Box<Close>),
    /// Requests per second before `top` began, the newest first.
    Past(Vec<u64>),
}

/// State of the screen: everything that is drawn.
#[derive(Debug)]
pub struct Screen {
    pub address: String,
    pub version: String,
    pub traffic: Traffic,
    /// Hosts in the daemon's order, over all hosts; `None` before the first answer, and for a
    /// daemon that does not sort.
    pub sorted: Option<Vec<Host>>,
    pub backends: Vec<Backend>,
    pub fleet: Option<Fleet>,
    pub close: Option<Close>,
    /// Requests per second, the newest first.
    pub history: VecDeque<u64>,
    /// Errors of all hosts per second.
    pub errors_rate: f64,
    /// Time and sum of 5xx of the previous `traffic` event.
    before: Option<(f64, u64)>,
    /// Why there is no connection, while there is none.
    pub lost: Option<String>,
    pub sort: Sort,
    /// Condition of the hosts that are shown, if not all are.
    pub only: Option<Condition>,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub helping: bool,
    pub pane: Pane,
    /// The row of hosts that Enter opens, and the first one that is shown.
    pub chosen: usize,
    pub first: usize,
    /// The host of the chosen row, once a key has chosen it: it is followed when the order changes.
    followed: Option<String>,
    /// The first row of backends that is shown.
    pub first_backend: usize,
    page: usize,
    limit: u32,
}

impl Screen {
    pub fn new(address: &str, limit: u32) -> Screen {
        Screen {
            address: plain(address),
            version: String::new(),
            traffic: Traffic::default(),
            sorted: None,
            backends: Vec::new(),
            fleet: None,
            close: None,
            history: VecDeque::new(),
            errors_rate: 0.0,
            before: None,
            lost: None,
            sort: Sort::Requests,
            only: None,
            filter: String::new(),
            typing: false,
            paused: false,
            helping: false,
            pane: Pane::Hosts,
            chosen: 0,
            first: 0,
            followed: None,
            first_backend: 0,
            page: 1,
            limit,
        }
    }

    /// Returns the questions to the daemon for what is shown.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            sort: self.sort,
            search: if self.typing { String::new() } else { self.filter.clone() },
            only: self.only,
            limit: self.limit,
            close: self.close.as_ref().map(|close| close.host.name.clone()),
        }
    }

    /// Takes an event. While paused, the view does not change, but the history goes on.
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
                let errors_rate = self.errors_of(&value);
                if !self.paused {
                    self.traffic = traffic;
                    self.errors_rate = errors_rate;
                    self.follow();
                }
            }
            _ => {}
        }
    }

    /// Returns the errors per second: the daemon's figure, or one calculated from the sums of 5xx.
    fn errors_of(&mut self, event: &Value) -> f64 {
        let totals = event.get("totals").unwrap_or(&Value::Null);
        let sum = totals.get("answers").map_or(0, |answers| count(answers, "5xx"));
        let time = rate(event, "time");
        let (then, before) = self.before.replace((time, sum)).unwrap_or((time, sum));
        match totals.get("errors_per_second") {
            Some(_) => rate(totals, "errors_per_second"),
            None if then < time => sum.saturating_sub(before) as f64 / (time - then),
            None => 0.0,
        }
    }

    /// Takes the answer to a question. While paused, the view does not change.
    pub fn learn(&mut self, answered: Answered) {
        match answered {
            Answered::Past(past) => {
                self.history.extend(past);
                return self.history.truncate(HISTORY_MAX);
            }
            _ if self.paused => return,
            Answered::Hosts(hosts) => self.sorted = Some(hosts),
            Answered::Backends(mut backends) => {
                backends.sort_by_key(|backend| {
                    (Reverse(backend.is_bad()), Reverse(backend.open), backend.address.clone())
                });
                self.backends = backends;
            }
            Answered::Fleet(fleet) => self.fleet = fleet,
            Answered::Close(close) => {
                // Another host may have been opened meanwhile, or none.
                if self.close.as_ref().is_some_and(|shown| shown.host.name == close.host.name) {
                    self.close = Some(*close);
                }
            }
        }
        self.follow();
    }

    /// The hosts to show, in order.
    pub fn hosts(&self) -> Vec<&Host> {
        // The daemon's search also looks at backends and actions. While a filter is typed, names
        // are enough.
        let is_asked = self.sorted.is_some() && !self.typing;
        let is_sorted = self.sorted.is_some();
        let is_among = |host: &Host| is_sorted || self.only.is_none_or(|only| only.holds(host));
        let fits = |host: &&Host| is_asked || host.name.contains(&self.filter) && is_among(host);
        let known = self.sorted.as_ref().unwrap_or(&self.traffic.hosts);
        let mut hosts: Vec<&Host> = known.iter().filter(fits).collect();
        if self.sorted.is_none() {
            hosts.sort_by(|left, right| {
                let order = self.sort.rank(left).cmp(&self.sort.rank(right));
                order.then_with(|| left.name.cmp(&right.name))
            });
        }
        hosts
    }

    /// Keeps the chosen row on its host.
    fn follow(&mut self) {
        let Some(name) = &self.followed else { return };
        let found = self.hosts().iter().position(|host| host.name == *name);
        if let Some(at) = found
            && at != self.chosen
        {
            let above = self.chosen.saturating_sub(self.first);
            self.chosen = at;
            self.first = at.saturating_sub(above);
        }
    }

    /// Sets how many rows fit. The chosen row stays among them, and the last page stays full.
    pub fn fit(&mut self, rows: usize) {
        self.page = rows.max(1);
        let count = self.hosts().len();
        self.chosen = self.chosen.min(count.saturating_sub(1));
        self.first = self.first.min(count.saturating_sub(self.page)).min(self.chosen);
        self.first = self.first.max((self.chosen + 1).saturating_sub(self.page));
        let last = self.backends.len().saturating_sub(self.page);
        self.first_backend = self.first_backend.min(last);
    }

    pub fn key(&mut self, key: KeyEvent) -> Flow {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Flow::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Flow::Go;
        }
        if self.helping {
            self.helping = false;
            return if key.code == KeyCode::Char('q') { Flow::Quit } else { Flow::Go };
        }
        match key.code {
            KeyCode::Esc if self.close.is_some() => self.close = None,
            KeyCode::Backspace | KeyCode::Left => self.close = None,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc if self.only.is_some() => self.show_only(None),
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('?') => self.helping = true,
            KeyCode::Char('p') => self.paused = !self.paused,
            _ if self.close.is_some() => {}
            KeyCode::Enter => self.open(),
            KeyCode::Char('s') => self.sort_by(self.sort.step(1)),
            KeyCode::Char('S') => self.sort_by(self.sort.step(Sort::ALL.len() - 1)),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('f') => self.show_only(Condition::next(self.only)),
            KeyCode::Tab | KeyCode::Char('b') => {
                self.pane = match self.pane {
                    Pane::Hosts => Pane::Backends,
                    Pane::Backends => Pane::Hosts,
                };
            }
            code => match Sort::by_key(code) {
                Some(sort) => self.sort_by(sort),
                None => self.scroll(code),
            },
        }
        self.fit(self.page);
        Flow::Go
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.begin_anew();
    }

    fn show_only(&mut self, only: Option<Condition>) {
        self.only = only;
        // The sorted hosts are those of the previous condition.
        self.sorted = None;
        self.begin_anew();
    }

    /// Goes to the first of the hosts.
    fn begin_anew(&mut self) {
        self.pane = Pane::Hosts;
        (self.first, self.chosen, self.followed) = (0, 0, None);
    }

    fn scroll(&mut self, code: KeyCode) {
        let row = match self.pane {
            Pane::Hosts => &mut self.chosen,
            Pane::Backends => &mut self.first_backend,
        };
        *row = match code {
            KeyCode::Up | KeyCode::Char('k') => row.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => *row + 1,
            KeyCode::PageUp => row.saturating_sub(self.page),
            KeyCode::PageDown => *row + self.page,
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX,
            _ => return,
        };
        self.fit(self.page);
        self.followed = self.hosts().get(self.chosen).map(|host| host.name.clone());
    }

    /// Opens the chosen host, and shows the data that is already known of it.
    fn open(&mut self) {
        let Some(host) = self.hosts().get(self.chosen).map(|host| (*host).clone()) else { return };
        self.followed = Some(host.name.clone());
        self.close = Some(Close { host, ..Close::default() });
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
        (self.first, self.chosen, self.followed) = (0, 0, None);
    }
}

#[cfg(test)]
mod tests;
