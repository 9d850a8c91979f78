//! Lines of the access log: one JSON object a request, or a raw connection, written when it has
//! ended. A line grows in a record of its own while its request is under way; the record is used
//! again for the next one. Nothing here waits: a line that finds no room is dropped and counted.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::Shard;
use super::ending::Ending;
use super::request::Client;
use crate::address::Address;
use crate::http::{self, Refusal, RequestHead, Version};
use crate::limits;
use crate::link::Counter;
use crate::table::{Scheme, host};

/// One line as it grows.
pub(super) struct Record {
    /// Text from the beginning to the request's id.
    line: Vec<u8>,
    began: Instant,
    pub(super) status: u16,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) held: Duration,
    pub(super) queued: Duration,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// The first that is not [`Ending::Complete`] counts.
    pub(super) ending: Ending,
}

/// Records and lines that a shard keeps.
#[derive(Default)]
pub(super) struct Records {
    #[expect(clippy::vec_box, reason = "a record is moved about as a box, and kept as one")]
    unused: RefCell<Vec<Box<Record>>>,
    /// Lines that are not on the page yet.
    back: RefCell<Vec<u8>>,
}

impl Shard {
    /// Begins the record of a request whose head is `bytes`; `None` where the log is off.
    pub(super) fn record_http(&self, bytes: &[u8], client: Client) -> Option<Box<Record>> {
        if !self.end.together.logbook.is_on() {
            return None;
        }
        let mut record = self.new_record(client);
        let mut room = http::field_room();
        let Ok(head) = http::parse_request(bytes, &mut room) else {
            write_unknown(&mut record.line, None, "http");
            return Some(record);
        };
        let mut room = [0; 256];
        let name = head.host.and_then(|raw| host::canonical(raw, &mut room).ok());
        let is_secure = client.scheme(head.forwarded_scheme).is_secure();
        let scheme = if is_secure { "https" } else { "http" };
        let id = self.whole_request_id(client.request_id);
        write_request(&mut record.line, &head, name, scheme, (id, client.trusted));
        Some(record)
    }

    /// Begins the record of a raw connection; `None` where the log is off.
    pub(super) fn record_raw(
        &self,
        host: Option<&str>,
        scheme: Scheme,
        client: Client,
    ) -> Option<Box<Record>> {
        if !self.end.together.logbook.is_on() {
            return None;
        }
        let mut record = self.new_record(client);
        let scheme = if scheme == Scheme::Tls { "tls" } else { "tcp" };
        write_unknown(&mut record.line, host, scheme);
        Some(record)
    }

    /// Counts the end of a head that was refused, and writes its line.
    pub(super) fn record_refusal(&self, client: Client, refusal: Refusal, answered: usize) {
        self.end.counters().add_ending(Ending::Refused(refusal).position());
        if !self.end.together.logbook.is_on() {
            return;
        }
        let mut record = self.new_record(client);
        write_unknown(&mut record.line, None, "http");
        record.status = refusal.status();
        record.sent = answered as u64;
        record.ending = Ending::Refused(refusal);
        self.file(record, None);
    }

    fn new_record(&self, client: Client) -> Box<Record> {
        let unused = self.records.unused.borrow_mut().pop();
        let began = self.ring.now();
        let mut record = unused.unwrap_or_else(|| Box::new(Record::new(began)));
        *record = Record { line: std::mem::take(&mut record.line), ..Record::new(began) };
        record.line.extend_from_slice(b"{\"time\":\"");
        write_time(&mut record.line, SystemTime::now());
        let _ =
            write!(record.line, "\",\"client\":\"{}\"", SocketAddr::new(client.peer, client.port));
        record
    }

    /// Writes a line down: its request has ended.
    pub(super) fn file(&self, mut record: Box<Record>, backend: Option<Address>) {
        let total = self.ring.now().saturating_duration_since(record.began);
        record.finish(backend, total, self.end.index);
        let mut back = self.records.back.borrow_mut();
        if back.len() + record.line.len() <= limits::LOG_BACK_BYTES_MAX {
            back.extend_from_slice(&record.line);
        } else {
            self.count(Counter::LogDropped);
        }
        self.end.together.logbook.write(self.end.index, &mut back);
        record.line.clear();
        let mut unused = self.records.unused.borrow_mut();
        if unused.len() < limits::OUT_BUFFERS_KEPT {
            unused.push(record);
        }
    }

    /// Puts lines on the page that found it taken away.
    pub(super) fn file_rest(&self) {
        let mut back = self.records.back.borrow_mut();
        if !back.is_empty() {
            self.end.together.logbook.write(self.end.index, &mut back);
        }
    }
}

impl Record {
    fn new(began: Instant) -> Record {
        Record {
            line: Vec::new(),
            began,
            status: 0,
            sent: 0,
            received: 0,
            held: Duration::ZERO,
            queued: Duration::ZERO,
            connect: None,
            first_byte: None,
            ending: Ending::Complete,
        }
    }

    fn finish(&mut self, backend: Option<Address>, total: Duration, shard: usize) {
        let line = &mut self.line;
        line.extend_from_slice(b",\"status\":");
        match self.status {
            0 => line.extend_from_slice(b"null"),
            status => write_whole(line, u64::from(status)),
        }
        line.extend_from_slice(b",\"bytes_sent\":");
        write_whole(line, self.sent);
        line.extend_from_slice(b",\"bytes_received\":");
        write_whole(line, self.received);
        line.extend_from_slice(b",\"backend\":");
        write_backend(line, backend);
        let times = [
            ("held_ms", Some(self.held)),
            ("queue_ms", Some(self.queued)),
            ("connect_ms", self.connect),
            ("first_byte_ms", self.first_byte),
            ("total_ms", Some(total)),
        ];
        for (name, time) in times {
            let _ = write!(line, ",\"{name}\":");
            write_millis(line, time);
        }
        let _ = write!(line, ",\"termination\":\"{}\"", self.ending.row().slug);
        if let Some(reason) = self.ending.reason() {
            let _ = write!(line, ",\"reason\":\"{reason}\"");
        }
        line.extend_from_slice(b",\"shard\":");
        write_whole(line, shard as u64);
        line.extend_from_slice(b"}\n");
    }
}

fn write_request(
    line: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    host: Option<&str>,
    scheme: &str,
    (id, is_trusted): (u128, bool),
) {
    line.extend_from_slice(b",\"host\":");
    write_text(line, host.map(str::as_bytes));
    let version = if head.version == Version::Http10 { "1.0" } else { "1.1" };
    let _ = write!(line, ",\"scheme\":\"{scheme}\",\"method\":");
    write_text(line, Some(head.method_bytes));
    let target = head.path_and_query();
    let target = if target.is_empty() { b"*" } else { target };
    line.extend_from_slice(b",\"target\":");
    write_text(line, Some(&target[..target.len().min(limits::LOG_TARGET_BYTES_MAX)]));
    let _ = write!(line, ",\"version\":\"{version}\",\"request_id\":");
    match (id, head.request_id()) {
        (0, _) => line.extend_from_slice(b"null"),
        (_, Some(id)) if is_trusted => write_text(line, Some(id)),
        (id, _) => {
            let _ = write!(line, "\"{id:032x}\"");
        }
    }
}

/// Writes the fields of a request of which no more than this is known.
fn write_unknown(line: &mut Vec<u8>, host: Option<&str>, scheme: &str) {
    line.extend_from_slice(b",\"host\":");
    write_text(line, host.map(str::as_bytes));
    let _ = write!(
        line,
        ",\"scheme\":\"{scheme}\",\"method\":null,\"target\":null,\"version\":null,\
         \"request_id\":null"
    );
}

/// Writes a JSON string; what is not UTF-8 in it becomes U+FFFD.
fn write_text(line: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return line.extend_from_slice(b"null") };
    // Writing to a Vec can't fail.
    let _ = serde_json::to_writer(&mut *line, &String::from_utf8_lossy(text));
}

fn write_backend(line: &mut Vec<u8>, backend: Option<Address>) {
    let Some(backend) = backend else { return line.extend_from_slice(b"null") };
    let from = line.len();
    let _ = write!(line, "\"{backend}\"");
    // The path of a Unix socket may hold what JSON escapes, though hardly any does.
    if line[from + 1..line.len() - 1].iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        line.truncate(from);
        write_text(line, Some(backend.to_string().as_bytes()));
    }
}

fn write_whole(line: &mut Vec<u8>, number: u64) {
    let _ = write!(line, "{number}");
}

/// Milliseconds with three decimals.
fn write_millis(line: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => {
            let micros = time.as_micros();
            let _ = write!(line, "{}.{:03}", micros / 1000, micros % 1000);
        }
        None => line.extend_from_slice(b"null"),
    }
}

/// RFC 3339, UTC, to the millisecond.
fn write_time(line: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    let _ =
        write!(line, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// The Gregorian date of a day since 1970: Howard Hinnant's `civil_from_days`, in eras of 400 years
/// that begin with a March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let written = |seconds: u64, millis: u64| {
            let mut line = Vec::new();
            let since = Duration::from_secs(seconds) + Duration::from_millis(millis);
            write_time(&mut line, SystemTime::UNIX_EPOCH + since);
            String::from_utf8(line).expect("text")
        };
        assert_eq!(written(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(written(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(written(1_767_225_599, 999), "2025-12-31T23:59:59.999Z");
        assert_eq!(written(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_line_is_json_whatever_was_asked_for() {
        let mut record = Record::new(Instant::now());
        let head = b"GET /a\"b|?q=%00 HTTP/1.1\r\nHost: A.com:80\r\nX-Request-Id: x\r\n\r\n";
        let mut room = http::field_room();
        let head = http::parse_request(head, &mut room).expect("a head");
        record.line.push(b'{');
        record.line.extend_from_slice(b"\"x\":1");
        write_request(&mut record.line, &head, Some("a.com"), "http", (7, true));
        record.status = 200;
        record.finish("127.0.0.2:81".parse().ok(), Duration::from_micros(1234), 1);
        let value: serde_json::Value = serde_json::from_slice(&record.line).expect("JSON");
        assert_eq!(value["target"], "/a\"b|?q=%00");
        assert_eq!((&value["request_id"], &value["host"]), (&"x".into(), &"a.com".into()));
        assert_eq!((&value["total_ms"], &value["connect_ms"]), (&1.234.into(), &().into()));
        assert_eq!((&value["backend"], &value["status"]), (&"127.0.0.2:81".into(), &200.into()));
        assert_eq!(value["termination"], "complete");
        let mut odd = Vec::new();
        write_text(&mut odd, Some(b"\xff\\\n"));
        assert_eq!(serde_json::from_slice::<String>(&odd).expect("JSON"), "\u{fffd}\\\n");
    }
}
