//! `events`: what happens, a line each.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::failure::{Failure, say};
use super::feed::{self, News};
use super::print::{action, counted, plain};
use super::request::Api;
use super::sse::Event;

/// Interval at which standard output is checked for a reader while no event comes.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// Prints events until standard output has no reader.
pub async fn follow(api: &Api, only: &str, json: bool) -> Result<(), Failure> {
    let query = query(only).map_err(Failure::Other)?;
    let text = |event: &Event| if json { in_json(event) } else { lines(event, SystemTime::now()) };
    print_each(api, &query, text).await
}

/// Prints what `text` makes of each event, and says on standard error when the connection to the
/// daemon is lost and when it is back.
pub async fn print_each(
    api: &Api,
    query: &str,
    text: impl Fn(&Event) -> String,
) -> Result<(), Failure> {
    let mut news = feed::open(api, query).await?;
    let mut memory = Memory::default();
    let shows_changes = query.contains("change");
    let mut look = interval(LOOK_EACH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            next = news.recv() => next,
            _ = look.tick() => {
                if has_no_reader() {
                    return Err(Failure::OutputClosed);
                }
                continue;
            }
        };
        let Some(next) = next else { return Ok(()) };
        match next {
            News::Event(event) => {
                if let Some(missed) = memory.missed(&event).filter(|_| shows_changes) {
                    say(&missed);
                }
                write(&text(&event)).map_err(Failure::of_output)?;
            }
            News::Lost { why, pause } => {
                let why = why.to_string();
                if memory.lost.as_ref() != Some(&why) {
                    say(&format!("{why}; trying again, next in {} s", pause.as_secs_f64()));
                    memory.lost = Some(why);
                }
            }
            News::Back => {
                memory.lost = None;
                say(&format!("{} answers again", api.address()));
            }
            News::Ended(why) => return Err(why.into()),
        }
    }
}

/// The query: the kinds of events; for `traffic`, all hosts together and none by itself.
fn query(only: &str) -> Result<String, String> {
    const KINDS: [&str; 7] = ["change", "health", "held", "idle", "wake", "fleet", "traffic"];
    let kinds: Vec<&str> = only.split(',').map(str::trim).collect();
    match kinds.iter().find(|kind| !KINDS.contains(kind)) {
        Some(kind) => {
            Err(format!("--only {kind:?}: there are events of the kinds {}", KINDS.join(", ")))
        }
        None => Ok(format!("busiest=0&only={}", kinds.join(","))),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether standard output is a pipe whose reader is gone. So `events | head -1` ends even if
/// nothing more happens.
fn has_no_reader() -> bool {
    let out = io::stdout();
    if out.is_terminal() {
        return false;
    }
    let mut ends = [PollFd::new(&out, PollFlags::empty())];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&at_once)).is_ok() && ends[0].revents().contains(PollFlags::ERR)
}

/// Memory that is needed to print each message once, and to notice missed changes.
#[derive(Default)]
struct Memory {
    /// Why there is no connection, as it was printed last.
    lost: Option<String>,
    /// ETag of the table after the last event.
    etag: Option<String>,
}

impl Memory {
    /// Says that changes were missed, if the table is another one than after the last event.
    fn missed(&mut self, event: &Event) -> Option<String> {
        let data: Value = serde_json::from_str(&event.data).ok()?;
        let etag = data.get("etag")?.as_str()?.to_owned();
        let before = self.etag.replace(etag);
        let is_other = event.kind == "hello" && before.is_some() && before != self.etag;
        is_other.then(|| "the table was changed meanwhile; those changes are not shown".to_owned())
    }
}

/// `{"event": KIND, "data": …}` on a line of its own.
fn in_json(event: &Event) -> String {
    let kind = Value::from(event.kind.as_str());
    let data = event.data.replace('\n', " ");
    format!("{{\"event\": {kind}, \"data\": {data}}}\n")
}

/// Time, kind, host, and what happened: a line for each host that a change names. `now` is for
/// events without a time.
fn lines(event: &Event, now: SystemTime) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    let rows = match event.kind.as_str() {
        "hello" => vec![("-".to_owned(), hello(&data))],
        "change" => change(&data),
        "health" => {
            let reason = text(&data, "reason");
            let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
            vec![(text(&data, "backend"), format!("{}{reason}", text(&data, "state")))]
        }
        "held" => vec![(text(&data, "host"), "requests wait".to_owned())],
        "idle" => {
            let idle = number(&data, "idle");
            vec![(text(&data, "host"), format!("nothing open for {idle} s"))]
        }
        "wake" => vec![(text(&data, "host"), wake(&data))],
        "traffic" => vec![("-".to_owned(), traffic(&data))],
        "lagged" => {
            vec![("-".to_owned(), format!("{} missed", counted(number(&data, "missed"), "event")))]
        }
        _ => vec![("-".to_owned(), event.data.clone())],
    };
    let told = data.get("time").and_then(Value::as_f64);
    let told = told.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let told = told.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let (time, kind) = (utc(told.unwrap_or(now)), plain(&event.kind));
    let line = |(host, what): &(String, String)| {
        format!("{time} {kind:<7} {:<35} {}\n", plain(host), plain(what))
    };
    rows.iter().map(line).collect()
}

fn hello(data: &Value) -> String {
    format!(
        "mantrid {}, {}, {}",
        text(data, "version"),
        counted(number(data, "rules"), "rule"),
        counted(number(data, "shards"), "shard")
    )
}

fn change(data: &Value) -> Vec<(String, String)> {
    let who = text(data, "who");
    let Some(hosts) = data.get("hosts").and_then(Value::as_object) else {
        let (verb, changed) = (text(data, "verb"), number(data, "changed"));
        let rules = number(data, "rules");
        return vec![("-".to_owned(), format!("{verb}: {changed} changed of {rules} by {who}"))];
    };
    let row = |(host, rule): (&String, &Value)| {
        let what = match rule {
            Value::Null => "deleted".to_owned(),
            rule => {
                let is_whole = rule.get(2).and_then(Value::as_bool) == Some(true);
                format!("{}{}", action(rule), if is_whole { ", with subdomains" } else { "" })
            }
        };
        (host.clone(), format!("{what}, by {who}"))
    };
    hosts.iter().map(row).collect()
}

fn wake(data: &Value) -> String {
    let (url, event) = (text(data, "url"), text(data, "event"));
    match data.get("ok").and_then(Value::as_bool) {
        Some(true) => format!("{url} was told that it is {event}"),
        _ => format!("{url} was not told that it is {event}: {}", text(data, "reason")),
    }
}

fn traffic(data: &Value) -> String {
    let total = |name: &str| data.get("totals").and_then(|totals| totals.get(name));
    let rate = total("requests_per_second").and_then(Value::as_f64).unwrap_or(0.0);
    let open = total("open_requests").and_then(Value::as_u64).unwrap_or(0);
    format!("{rate:.1} requests/s, {open} open, {} held", number(data, "held"))
}

fn text(data: &Value, name: &str) -> String {
    data.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(data: &Value, name: &str) -> u64 {
    data.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Writes a time in seconds since 1970 as the daemon's log does.
pub fn moment(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(since).map(utc).unwrap_or_default()
}

/// Writes a time as the daemon's log does, to the second.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    // The civil calendar in eras of 400 years that begin on 1 March (H. Hinnant, "chrono-compatible
    // low-level date algorithms"): leap days come last, so no case needs its own branch.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(at(seconds)), expected);
        }
    }

    #[track_caller]
    fn expect_lines(kind: &str, data: &Value, expected: &[&str]) {
        let event = Event { kind: kind.to_owned(), data: data.to_string() };
        let found = lines(&event, at(0));
        let found: Vec<&str> =
            found.lines().map(|line| &line["1970-01-01T00:00:00Z ".len()..]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_each() {
        expect_lines(
            "hello",
            &json!({"version": "0.1.0", "rules": 12, "shards": 2}),
            &["hello   -                                   mantrid 0.1.0, 12 rules, 2 shards"],
        );
        expect_lines(
            "change",
            &json!({
                "verb": "PATCH", "who": "uid 1000", "rules": 2, "changed": 2,
                "hosts": {"a.com": null, "b.com": ["proxy", {"backends": [["c", 1]]}, true]},
            }),
            &[
                "change  a.com                               deleted, by uid 1000",
                "change  b.com                               \
                 proxy<c:1>, with subdomains, by uid 1000",
            ],
        );
        expect_lines(
            "change",
            &json!({"verb": "PUT", "who": "127.0.0.1:5", "rules": 9, "changed": 900}),
            &["change  -                                   PUT: 900 changed of 9 by 127.0.0.1:5"],
        );
        expect_lines(
            "health",
            &json!({"backend": "127.0.0.1:8000", "state": "down", "reason": "refused"}),
            &["health  127.0.0.1:8000                      down: refused"],
        );
        expect_lines(
            "traffic",
            &json!({"totals": {"requests_per_second": 1.25, "open_requests": 3}, "held": 4}),
            &["traffic -                                   1.2 requests/s, 3 open, 4 held"],
        );
        expect_lines(
            "held",
            &json!({"host": "a.com", "held": 1, "since": 1.5}),
            &["held    a.com                               requests wait"],
        );
        expect_lines(
            "idle",
            &json!({"host": "a.com", "held": 0, "idle": 900}),
            &["idle    a.com                               nothing open for 900 s"],
        );
        let mut told = json!({"host": "a.com", "event": "held", "url": "http://b/", "ok": true});
        expect_lines(
            "wake",
            &told,
            &["wake    a.com                               http://b/ was told that it is held"],
        );
        told["ok"] = json!(false);
        told["reason"] = json!("no connection");
        expect_lines(
            "wake",
            &told,
            &[
                "wake    a.com                               http://b/ was not told that it is held: \
               no connection",
            ],
        );
        expect_lines(
            "lagged",
            &json!({"missed": 7}),
            &["lagged  -                                   7 events missed"],
        );
        // what a later daemon may say, and what a terminal would obey
        expect_lines(
            "other",
            &json!("\u{9b}2J"),
            &["other   -                                   \"\\u{9b}2J\""],
        );
    }

    #[test]
    fn json_lines_are_json() {
        let event = Event { kind: "change".to_owned(), data: "{\"a\":\n1}".to_owned() };
        let line = in_json(&event);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value, json!({"event": "change", "data": {"a": 1}}));
    }

    #[test]
    fn a_change_that_was_missed_is_noticed() {
        let mut memory = Memory::default();
        let mut missed = |kind: &str, etag: &str| {
            let data = json!({ "etag": etag }).to_string();
            memory.missed(&Event { kind: kind.to_owned(), data }).is_some()
        };
        assert!(!missed("hello", "1"), "the first");
        assert!(!missed("change", "2"));
        assert!(!missed("hello", "2"), "the same table after a restart");
        assert!(missed("hello", "3"));
    }

    #[test]
    fn kinds() {
        assert_eq!(query("change, health").as_deref(), Ok("busiest=0&only=change,health"));
        assert_eq!(query("fleet").as_deref(), Ok("busiest=0&only=fleet"));
        let all = "change, health, held, idle, wake, fleet, traffic";
        assert!(query("changes").is_err_and(|error| error.contains(all)));
    }
}
