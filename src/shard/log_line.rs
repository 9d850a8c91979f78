//! The text of a line of the access log: as JSON with the fields that are wanted, or in the
//! combined format of Apache and nginx. A line is begun while the head of its request is there, and
//! finished when the request has ended.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::ending::{Ending, Fault};
use super::phase::Phase;
use super::request::Client;
use crate::address::Address;
use crate::http::{RequestHead, Version};
use crate::limits;
use crate::log_style::{LogField, LogFields, LogFormat, LogStyle};

/// A line of the access log, as it grows.
pub(super) struct Record {
    /// Text from the beginning to the fields of the request's head.
    pub(super) line: Vec<u8>,
    /// Text that comes after what is known only at the end: the name of the rule in JSON; referer
    /// and user agent in the combined format.
    pub(super) late: Vec<u8>,
    pub(super) style: LogStyle,
    pub(super) began: Instant,
    pub(super) status: u16,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) held: Duration,
    pub(super) queued: Duration,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// The first ending that is not [`Ending::Complete`] counts.
    pub(super) ending: Ending,
    /// Phase of the connection at that ending.
    pub(super) phase: Phase,
}

impl Record {
    pub(super) fn new(began: Instant) -> Record {
        Record {
            line: Vec::new(),
            late: Vec::new(),
            style: LogStyle::DEFAULT,
            began,
            status: 0,
            sent: 0,
            received: 0,
            held: Duration::ZERO,
            queued: Duration::ZERO,
            connect: None,
            first_byte: None,
            ending: Ending::Complete,
            phase: Phase::ReadingHead,
        }
    }

    /// Whether the line wants the name of the rule.
    pub(super) fn wants_rule(&self) -> bool {
        self.style.format == LogFormat::Json && self.style.fields.has(LogField::Rule)
    }

    /// Whether the request failed, or was refused: such lines are not sampled.
    pub(super) fn is_error(&self) -> bool {
        400 <= self.status || self.ending.row().fault != Fault::None
    }
}

/// Request of a line, as far as it is known.
pub(super) struct Asked<'r> {
    pub(super) host: Option<&'r str>,
    /// `http`, `https`, `tcp` or `tls`.
    pub(super) scheme: &'static str,
    /// Head of the request, if there is one, and the id that the request got.
    pub(super) head: Option<(&'r RequestHead<'r, 'r>, u128)>,
}

/// Begins the line of a record.
pub(super) fn begin(record: &mut Record, client: Client, asked: &Asked<'_>) {
    let style = record.style;
    match style.format {
        LogFormat::Json => begin_json(&mut record.line, style, client, asked),
        LogFormat::Combined => begin_combined(record, client, asked),
    }
}

/// Finishes the line of a record.
pub(super) fn finish(record: &mut Record, backend: Option<Address>, total: Duration, shard: usize) {
    match record.style.format {
        LogFormat::Json => finish_json(record, backend, total, shard),
        LogFormat::Combined => finish_combined(record),
    }
}

/// A JSON object as it grows.
struct Object<'l> {
    line: &'l mut Vec<u8>,
    fields: LogFields,
}

impl Object<'_> {
    /// Begins a field, if it is wanted; the caller then adds its value.
    fn wants(&mut self, field: LogField) -> bool {
        if !self.fields.has(field) {
            return false;
        }
        if self.line.last() != Some(&b'{') {
            self.line.push(b',');
        }
        let _ = write!(self.line, "\"{}\":", field.name());
        true
    }

    /// Adds a text, or `null`.
    fn text(&mut self, field: LogField, text: Option<&[u8]>) {
        if self.wants(field) {
            write_text(self.line, text);
        }
    }

    fn whole(&mut self, field: LogField, number: u64) {
        if self.wants(field) {
            let _ = write!(self.line, "{number}");
        }
    }
}

fn begin_json(line: &mut Vec<u8>, style: LogStyle, client: Client, asked: &Asked<'_>) {
    line.push(b'{');
    let mut object = Object { line, fields: style.fields };
    if object.wants(LogField::Time) {
        object.line.push(b'"');
        write_time(object.line, SystemTime::now());
        object.line.push(b'"');
    }
    if object.wants(LogField::Client) {
        let _ = write!(object.line, "\"{}\"", SocketAddr::new(client.peer, client.port));
    }
    object.text(LogField::Host, asked.host.map(str::as_bytes));
    object.text(LogField::Scheme, Some(asked.scheme.as_bytes()));
    let head = asked.head.as_ref().map(|(head, _)| *head);
    object.text(LogField::Method, head.map(|head| head.method_bytes));
    object.text(LogField::Target, head.map(|head| target(head, style)));
    object.text(LogField::Version, head.map(|head| version(head).as_bytes()));
    if object.wants(LogField::RequestId) {
        write_request_id(object.line, asked, client.trusted);
    }
    let field = |name| head.and_then(|head| bounded(head.values(name).next()?));
    for (wanted, name) in
        [(LogField::Traceparent, "traceparent"), (LogField::UserAgent, "user-agent")]
    {
        if style.fields.has(wanted) {
            object.text(wanted, field(name));
        }
    }
    if style.fields.has(LogField::Referer) {
        object.text(LogField::Referer, field("referer").map(|value| without_query(value, style)));
    }
}

fn write_request_id(line: &mut Vec<u8>, asked: &Asked<'_>, is_trusted: bool) {
    match asked.head.as_ref().map(|(head, id)| (*id, head.request_id())) {
        None | Some((0, _)) => line.extend_from_slice(b"null"),
        Some((_, Some(given))) if is_trusted => write_text(line, Some(given)),
        Some((id, _)) => {
            let _ = write!(line, "\"{id:032x}\"");
        }
    }
}

fn finish_json(record: &mut Record, backend: Option<Address>, total: Duration, shard: usize) {
    let mut object = Object { line: &mut record.line, fields: record.style.fields };
    if object.wants(LogField::Status) {
        match record.status {
            0 => object.line.extend_from_slice(b"null"),
            status => drop(write!(object.line, "{status}")),
        }
    }
    object.whole(LogField::BytesSent, record.sent);
    object.whole(LogField::BytesReceived, record.received);
    if object.wants(LogField::Backend) {
        write_backend(object.line, backend);
    }
    for (field, time) in [
        (LogField::HeldMs, Some(record.held)),
        (LogField::QueueMs, Some(record.queued)),
        (LogField::ConnectMs, record.connect),
        (LogField::FirstByteMs, record.first_byte),
        (LogField::TotalMs, Some(total)),
    ] {
        if object.wants(field) {
            write_millis(object.line, time);
        }
    }
    object.text(LogField::Termination, Some(record.ending.row().slug.as_bytes()));
    if record.ending.row().fault != Fault::None {
        object.text(LogField::Phase, Some(record.phase.slug().as_bytes()));
    }
    if let Some(reason) = record.ending.reason() {
        object.text(LogField::Reason, Some(reason.as_bytes()));
    }
    object.whole(LogField::Shard, shard as u64);
    let rule = Some(&*record.late).filter(|name| !name.is_empty());
    object.text(LogField::Rule, rule);
    record.line.extend_from_slice(b"}\n");
}

fn begin_combined(record: &mut Record, client: Client, asked: &Asked<'_>) {
    let (line, style) = (&mut record.line, record.style);
    let _ = write!(line, "{} - - [", client.peer);
    write_common_time(line, SystemTime::now());
    line.extend_from_slice(b"] \"");
    let Some((head, _)) = asked.head else {
        line.extend_from_slice(b"-\"");
        return record.late.extend_from_slice(b" \"-\" \"-\"\n");
    };
    write_quoted(line, head.method_bytes);
    line.push(b' ');
    write_quoted(line, target(head, style));
    let _ = write!(line, " HTTP/{}\"", version(head));
    let field = |name| head.values(name).next().and_then(bounded);
    let referer = field("referer").map(|value| without_query(value, style));
    for value in [referer, field("user-agent")] {
        record.late.extend_from_slice(b" \"");
        write_quoted(&mut record.late, value.unwrap_or(b"-"));
        record.late.push(b'"');
    }
    record.late.push(b'\n');
}

fn finish_combined(record: &mut Record) {
    match record.status {
        0 => record.line.extend_from_slice(b" -"),
        status => drop(write!(record.line, " {status}")),
    }
    let _ = write!(record.line, " {}", record.sent);
    record.line.extend_from_slice(&record.late);
}

fn version(head: &RequestHead<'_, '_>) -> &'static str {
    if head.version == Version::Http10 { "1.0" } else { "1.1" }
}

fn target<'b>(head: &RequestHead<'_, 'b>, style: LogStyle) -> &'b [u8] {
    let target = match head.path_and_query() {
        b"" => b"*",
        target => without_query(target, style),
    };
    &target[..target.len().min(limits::LOG_TARGET_BYTES_MAX)]
}

/// A target or an address without its query, where queries are not wanted.
fn without_query(target: &[u8], style: LogStyle) -> &[u8] {
    match memchr::memchr(b'?', target) {
        Some(query) if !style.has_query => &target[..query],
        _ => target,
    }
}

/// The beginning of a value of a field; `None` where it is empty.
fn bounded(value: &[u8]) -> Option<&[u8]> {
    let value = &value[..value.len().min(limits::LOG_FIELD_BYTES_MAX)];
    (!value.is_empty()).then_some(value)
}

/// Writes text between quotes as Apache and nginx do: a quote, a backslash and every byte that is
/// not printable ASCII become `\xHH`.
fn write_quoted(line: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') => line.push(byte),
            _ => drop(write!(line, "\\x{byte:02X}")),
        }
    }
}

/// Writes a JSON string; bytes that are not UTF-8 become U+FFFD.
fn write_text(line: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return line.extend_from_slice(b"null") };
    // Writing to a Vec can't fail.
    let _ = serde_json::to_writer(&mut *line, &String::from_utf8_lossy(text));
}

fn write_backend(line: &mut Vec<u8>, backend: Option<Address>) {
    let Some(backend) = backend else { return line.extend_from_slice(b"null") };
    let from = line.len();
    let _ = write!(line, "\"{backend}\"");
    // The path of a Unix socket may hold characters that JSON escapes, though hardly any does.
    if line[from + 1..line.len() - 1].iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        line.truncate(from);
        write_text(line, Some(backend.to_string().as_bytes()));
    }
}

/// Writes milliseconds with three decimals.
fn write_millis(line: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => {
            let micros = time.as_micros();
            let _ = write!(line, "{}.{:03}", micros / 1000, micros % 1000);
        }
        None => line.extend_from_slice(b"null"),
    }
}

/// Writes a time as RFC 3339 says, in UTC, to the millisecond.
fn write_time(line: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    let _ =
        write!(line, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// Writes a time in the common log format: `10/Oct/2000:13:55:36 +0000`.
fn write_common_time(line: &mut Vec<u8>, time: SystemTime) {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(line, "{day:02}/");
    line.extend_from_slice(&MONTHS[3 * (month as usize - 1)..][..3]);
    let _ = write!(line, "/{year}:{hour:02}:{minute:02}:{second:02} +0000");
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
    use crate::http;
    use crate::limits::LOG_FIELD_BYTES_MAX;

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
        let mut line = Vec::new();
        let since = Duration::from_secs(1_767_225_599);
        write_common_time(&mut line, SystemTime::UNIX_EPOCH + since);
        assert_eq!(line, b"31/Dec/2025:23:59:59 +0000");
    }

    const HEAD: &[u8] = b"GET /a\"b|?q=%00 HTTP/1.1\r\nHost: A.com:80\r\nX-Request-Id: x\r\n\
        User-Agent: me \"\\\xff\r\nReferer: https://b.com/x?secret\r\nTraceparent: 00-ab-cd-01\r\n\r\n";

    /// Returns the line in this style of a request with this head.
    fn line(head: &[u8], style: LogStyle) -> String {
        let mut room = http::field_room();
        let head = http::parse_request(head, &mut room).expect("a head");
        let mut record = Record::new(Instant::now());
        record.style = style;
        let client = Client {
            peer: [192, 0, 2, 1].into(),
            port: 81,
            trusted: true,
            secure: false,
            request_id: 7,
            is_counted: false,
        };
        let asked = Asked { host: Some("a.com"), scheme: "http", head: Some((&head, 7)) };
        begin(&mut record, client, &asked);
        if record.wants_rule() {
            record.late.extend_from_slice(b"a.com");
        }
        (record.status, record.sent) = (200, 9);
        finish(&mut record, "127.0.0.2:81".parse().ok(), Duration::from_micros(1234), 1);
        String::from_utf8(record.line).expect("text")
    }

    #[test]
    fn a_line_is_json_whatever_was_asked_for() {
        let text = line(HEAD, LogStyle::DEFAULT);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["target"], "/a\"b|?q=%00");
        assert_eq!((&value["request_id"], &value["host"]), (&"x".into(), &"a.com".into()));
        assert_eq!((&value["total_ms"], &value["connect_ms"]), (&1.234.into(), &().into()));
        assert_eq!((&value["backend"], &value["status"]), (&"127.0.0.2:81".into(), &200.into()));
        assert_eq!(value["termination"], "complete");
        assert!(value["user_agent"].is_null() && !text.contains("\"rule\""), "{text}");
        let mut odd = Vec::new();
        write_text(&mut odd, Some(b"\xff\\\n"));
        assert_eq!(serde_json::from_slice::<String>(&odd).expect("JSON"), "\u{fffd}\\\n");
    }

    #[test]
    fn a_line_has_the_fields_that_are_wanted() {
        let costly =
            [LogField::UserAgent, LogField::Referer, LogField::Traceparent, LogField::Rule];
        let fields = costly.into_iter().fold(LogFields::NONE, LogFields::with);
        let style = LogStyle { fields, has_query: false, ..LogStyle::DEFAULT };
        assert_eq!(
            line(HEAD, style),
            "{\"traceparent\":\"00-ab-cd-01\",\"user_agent\":\"me \\\"\\\\\u{fffd}\",\
             \"referer\":\"https://b.com/x\",\"rule\":\"a.com\"}\n"
        );
        let style = LogStyle { fields: LogFields::NONE.with(LogField::Target), ..style };
        assert_eq!(line(HEAD, style), "{\"target\":\"/a\\\"b|\"}\n");
        for (field, name) in LogField::ALL {
            let style = LogStyle { fields: LogFields::NONE.with(*field), ..style };
            let text = line(HEAD, style);
            let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
            let is_there = value.as_object().is_some_and(|object| object.contains_key(*name));
            let is_of_failures = matches!(field, LogField::Phase | LogField::Reason);
            assert!(is_there != is_of_failures, "{text}");
        }
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n", "x".repeat(2000));
        let style = LogStyle { fields: LogFields::NONE.with(LogField::UserAgent), ..style };
        assert_eq!(line(long.as_bytes(), style).len(), LOG_FIELD_BYTES_MAX + 18);
    }

    #[test]
    fn a_line_is_combined() {
        let style = LogStyle { format: LogFormat::Combined, ..LogStyle::DEFAULT };
        let text = line(HEAD, style);
        let (before, rest) = text.split_once('[').expect("a time");
        let (_, rest) = rest.split_once(']').expect("a time");
        assert_eq!(before, "192.0.2.1 - - ");
        assert_eq!(
            rest,
            " \"GET /a\\x22b|?q=%00 HTTP/1.1\" 200 9 \"https://b.com/x?secret\" \
             \"me \\x22\\x5C\\xFF\"\n"
        );
        let bare = line(b"GET / HTTP/1.0\r\n\r\n", style);
        assert!(bare.ends_with("\"GET / HTTP/1.0\" 200 9 \"-\" \"-\"\n"), "{bare}");
    }
}
