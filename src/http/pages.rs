//! Pages: whole responses that are kept in memory, the built-in ones and those of the operator.
//!
//! A page file is a response as the original served it: a status line, fields, an empty line and a
//! body, with CRLF or LF at the ends of lines. Mantrid writes the fields for length and connection
//! itself, whatever the file says.

use std::collections::BTreeMap;

use super::ReplyTo;
use super::field::{Name, classify, is_token, is_value_byte, trim};
use super::forward::write_number;
use super::reply::{has_body, reason, write_rest, write_status_line, write_undated_rest};
use crate::limits::{PAGE_BYTES_MAX, PAGE_NAME_BYTES_MAX};

/// Reason for which a file is not a valid page.
#[derive(thiserror::Error, Copy, Clone, PartialEq, Eq, Debug)]
pub enum PageError {
    /// The file is longer than `limits::PAGE_BYTES_MAX`.
    #[error("the page is longer than {PAGE_BYTES_MAX} bytes")]
    TooLong,
    /// The first line is wrong.
    #[error(
        "line 1: expected a status line such as `HTTP/1.0 503 Service Unavailable`, with a status from 200 to 999"
    )]
    StatusLine,
    /// A field line is wrong.
    #[error(
        "line {line}: expected a field such as `Content-Type: text/html`, or an empty line before the body"
    )]
    Field {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The file ends before the body.
    #[error("line {line}: the empty line between fields and body is missing")]
    NoBody {
        /// Number of the line, from 1.
        line: usize,
    },
}

/// One response, ready to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    status: u16,
    reason: Box<[u8]>,
    /// Field lines with CRLF, without those that Mantrid writes itself.
    fields: Box<[u8]>,
    has_retry_after: bool,
    has_date: bool,
    body: Box<[u8]>,
}

impl Page {
    /// Reads a page file.
    pub fn parse(file: &[u8]) -> Result<Page, PageError> {
        if file.len() > PAGE_BYTES_MAX {
            return Err(PageError::TooLong);
        }
        let (line, mut rest) = split_line(file).ok_or(PageError::StatusLine)?;
        let (status, reason) = parse_status_line(line).ok_or(PageError::StatusLine)?;
        let mut fields = Vec::new();
        let (mut has_retry_after, mut has_date) = (false, false);
        let mut number = 1;
        loop {
            number += 1;
            let (line, after) = split_line(rest).ok_or(PageError::NoBody { line: number })?;
            rest = after;
            if line.is_empty() {
                break;
            }
            let (name, value) = parse_field(line).ok_or(PageError::Field { line: number })?;
            let kind = classify(name);
            if matches!(kind, Name::Plain | Name::Date | Name::Via) {
                has_date |= kind == Name::Date;
                has_retry_after |= name.eq_ignore_ascii_case(b"retry-after");
                fields.extend_from_slice(name);
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(value);
                fields.extend_from_slice(b"\r\n");
            }
        }
        let body = if has_body(status) { rest } else { b"" };
        Ok(Page {
            status,
            reason: reason.into(),
            fields: fields.into(),
            has_retry_after,
            has_date,
            body: body.into(),
        })
    }

    /// Returns the status of the page.
    pub fn status(&self) -> u16 {
        self.status
    }
}

/// Returns the first line without its end, and the rest.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// Reads a status line. Of the version only the form is checked, because the page is sent with
/// HTTP/1.1.
fn parse_status_line(line: &[u8]) -> Option<(u16, &[u8])> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', code @ ..] = rest else { return None };
    let (digits, reason) = code.split_at_checked(3)?;
    let reason = match reason {
        [] => reason,
        [b' ', reason @ ..] => reason,
        _ => return None,
    };
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let valid = (200..=999).contains(&status)
        && digits[0].is_ascii_digit()
        && reason.iter().copied().all(is_value_byte);
    valid.then_some((status, reason))
}

fn parse_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    let valid = is_token(name) && value.iter().copied().all(is_value_byte);
    valid.then_some((name, value))
}

/// Appends a page, with a Retry-After of `retry_after` seconds if the page has none itself.
pub fn write_page(page: &Page, retry_after: Option<u32>, to: ReplyTo, out: &mut Vec<u8>) {
    write_status_line(page.status, &page.reason, out);
    write_page_rest(page, retry_after, to, out);
}

/// Appends a page with this status, from 400 to 599, in place of its own.
pub fn write_page_as(status: u16, page: &Page, to: ReplyTo, out: &mut Vec<u8>) {
    debug_assert!((400..600).contains(&status), "{status}");
    write_status_line(status, reason(status).as_bytes(), out);
    write_page_rest(page, None, to, out);
}

fn write_page_rest(page: &Page, retry_after: Option<u32>, to: ReplyTo, out: &mut Vec<u8>) {
    out.extend_from_slice(&page.fields);
    if let Some(seconds) = retry_after
        && !page.has_retry_after
    {
        out.extend_from_slice(b"Retry-After: ");
        write_number(u64::from(seconds), out);
        out.extend_from_slice(b"\r\n");
    }
    if page.has_date {
        write_undated_rest(page.status, &page.body, to, out);
    } else {
        write_rest(page.status, &page.body, to, out);
    }
}

/// All pages by name. The built-in ones can be overridden but are never absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pages {
    by_name: BTreeMap<Box<str>, Page>,
}

impl Pages {
    /// Returns the pages that need no file.
    pub fn builtin() -> Pages {
        let by_name =
            BUILTIN.iter().map(|builtin| (Box::from(builtin.name), builtin.page())).collect();
        Pages { by_name }
    }

    /// Adds a page, or replaces the page of this name.
    pub fn insert(&mut self, name: &str, page: Page) {
        self.by_name.insert(name.into(), page);
    }

    /// Returns the page of this name.
    pub fn get(&self, name: &str) -> Option<&Page> {
        self.by_name.get(name)
    }

    /// Returns the page for a table without rules.
    pub fn no_hosts(&self) -> &Page {
        &self.by_name["no-hosts"]
    }

    /// Returns the page for a host without a rule.
    pub fn unknown(&self) -> &Page {
        &self.by_name["unknown"]
    }

    /// Returns the page for a request that was held too long.
    pub fn timeout(&self) -> &Page {
        &self.by_name["timeout"]
    }

    /// Returns the page for a status, which has its number as name: that of the operator, or a
    /// built-in one.
    pub fn for_status(&self, code: u16) -> Option<&Page> {
        self.get(std::str::from_utf8(&digits(code)).ok()?)
    }

    /// Returns the page for a status, of a rule whose pages have this name.
    pub fn own_for_status(&self, name: &str, code: u16) -> Option<&Page> {
        self.own(name, std::str::from_utf8(&digits(code)).ok()?)
    }

    /// Returns the page for a request that was held too long, of a rule whose pages have this name.
    pub fn own_timeout(&self, name: &str) -> Option<&Page> {
        self.own(name, "timeout")
    }

    /// Returns the page `NAME.KIND`.
    fn own(&self, name: &str, kind: &str) -> Option<&Page> {
        let mut room = [0; PAGE_NAME_BYTES_MAX + ".timeout".len()];
        let whole = [name, ".", kind];
        let mut length = 0;
        for part in whole {
            room.get_mut(length..length + part.len())?.copy_from_slice(part.as_bytes());
            length += part.len();
        }
        self.get(std::str::from_utf8(&room[..length]).ok()?)
    }
}

/// Returns the three digits of a status.
fn digits(code: u16) -> [u8; 3] {
    [code / 100 % 10, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8)
}

struct Builtin {
    name: &'static str,
    status: u16,
    title: &'static str,
    text: &'static str,
}

const BUILTIN: &[Builtin] = &[
    Builtin {
        name: "no-hosts",
        status: 503,
        title: "Nothing is served here yet",
        text: "The proxy is running, but its table of hosts is empty. \
               An operator can add the first rule with <code>mantrid-client set</code>.",
    },
    Builtin {
        name: "unknown",
        status: 503,
        title: "No site under this name",
        text: "The proxy has no rule for the host you asked for. \
               Check the address; if it is right, the site may not be set up yet.",
    },
    Builtin {
        name: "test",
        status: 200,
        title: "It works",
        text: "This test page comes from Mantrid itself: requests for this host arrive here.",
    },
    Builtin {
        name: "timeout",
        status: 503,
        title: "The site is not ready yet",
        text: "Your request was kept waiting while the application starts, \
               but it is taking too long. Please try again in a moment.",
    },
    Builtin {
        name: "502",
        status: 502,
        title: "The application can't be reached",
        text: "The site exists, but the application behind it does not answer. \
               Please try again in a moment.",
    },
    Builtin {
        name: "504",
        status: 504,
        title: "The application is too slow",
        text: "The application behind this site took the request but did not answer in time. \
               Please try again in a moment.",
    },
];

impl Builtin {
    fn page(&self) -> Page {
        let Builtin { title, text, .. } = self;
        let body = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n\
             <style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; \
             margin: 20vh auto 0; padding: 0 1.5rem; color: #223 }} \
             small {{ color: #667 }}</style>\n\
             <h1>{title}</h1>\n<p>{text}</p>\n<p><small>Mantrid</small></p>\n</html>\n"
        );
        Page {
            status: self.status,
            reason: super::reason(self.status).as_bytes().into(),
            fields: (*b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n")
                .into(),
            has_retry_after: false,
            has_date: false,
            body: body.into_bytes().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HttpDate, Version};
    use super::*;

    const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

    fn to() -> ReplyTo {
        let date = HttpDate::at(0);
        ReplyTo { version: Version::Http11, head_only: false, close: false, date }
    }

    fn written(page: &Page, retry_after: Option<u32>, to: ReplyTo) -> String {
        let mut out = Vec::new();
        write_page(page, retry_after, to, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(file: &str, expected: &str) {
        let page = Page::parse(file.as_bytes()).unwrap();
        let found = written(&page, None, to());
        assert!(found.contains(DATE), "{found}");
        assert_eq!(found.replacen(DATE, "", 1), expected, "{file:?}");
    }

    #[test]
    fn files_become_responses() {
        check(
            "HTTP/1.0 503 Service Unavailable\r\nCache-Control: no-cache\r\nConnection: close\r\n\
             Content-Type: text/html\r\n\r\n<h1>Away</h1>\n",
            "HTTP/1.1 503 Service Unavailable\r\nCache-Control: no-cache\r\n\
             Content-Type: text/html\r\nContent-Length: 14\r\n\r\n<h1>Away</h1>\n",
        );
        check(
            "HTTP/1.1 200\nContent-Length: 999\nTransfer-Encoding: chunked\nX-A:b \n\na\r\nb",
            "HTTP/1.1 200 \r\nX-A: b\r\nContent-Length: 4\r\n\r\na\r\nb",
        );
        check("HTTP/1.0 204 No Content\n\nbody", "HTTP/1.1 204 No Content\r\n\r\n");
        check("HTTP/1.0 404 Nope\n\n", "HTTP/1.1 404 Nope\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn a_date_of_a_file_stays() {
        let page = Page::parse(b"HTTP/1.0 200 OK\ndate: today\nVia: a\n\n").unwrap();
        assert_eq!(
            written(&page, None, to()),
            "HTTP/1.1 200 OK\r\ndate: today\r\nVia: a\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn bad_files_name_the_line() {
        use PageError::*;
        for (file, expected) in [
            ("", StatusLine),
            ("<html></html>\n", StatusLine),
            ("HTTP/2 200 OK\n\n", StatusLine),
            ("HTTP/1.1 20 OK\n\n", StatusLine),
            ("HTTP/1.1 +20 OK\n\n", StatusLine),
            ("HTTP/1.1 100 Continue\n\n", StatusLine),
            ("HTTP/1.1 2000 OK\n\n", StatusLine),
            ("HTTP/1.1 200 O\rK\n\n", StatusLine),
            ("HTTP/1.1 200 OK\nA: b\n c\n\n", Field { line: 3 }),
            ("HTTP/1.1 200 OK\nA b\n\n", Field { line: 2 }),
            ("HTTP/1.1 200 OK\nA: b\rC: d\n\n", Field { line: 2 }),
            ("HTTP/1.1 200 OK\nA: b\n", NoBody { line: 3 }),
            ("HTTP/1.1 200 OK\nA: b", NoBody { line: 2 }),
        ] {
            assert_eq!(Page::parse(file.as_bytes()), Err(expected), "{file:?}");
        }
        assert_eq!(Page::parse(&vec![b'a'; PAGE_BYTES_MAX + 1]), Err(TooLong));
    }

    #[test]
    fn builtin_pages() {
        let pages = Pages::builtin();
        for (page, status) in [
            (pages.no_hosts(), 503),
            (pages.unknown(), 503),
            (pages.timeout(), 503),
            (pages.get("test").unwrap(), 200),
            (pages.for_status(502).unwrap(), 502),
            (pages.for_status(504).unwrap(), 504),
        ] {
            assert_eq!(page.status(), status);
            let reply = written(page, None, to());
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            assert!(head.contains("\r\nContent-Type: text/html"), "{head}");
            let head_only = ReplyTo { head_only: true, ..to() };
            assert_eq!(written(page, None, head_only), format!("{head}\r\n\r\n"));
        }
        assert_eq!(pages.get("other"), None);
        assert_eq!(pages.for_status(500), None);
    }

    #[test]
    fn pages_are_overridden() {
        let mut pages = Pages::builtin();
        let page = Page::parse(b"HTTP/1.0 200 OK\n\nmine").unwrap();
        pages.insert("unknown", page.clone());
        pages.insert("mine", page.clone());
        assert_eq!(pages.unknown(), &page);
        assert_eq!(pages.get("mine"), Some(&page));
    }

    #[test]
    fn pages_of_a_rule_have_its_name_in_front() {
        let mut pages = Pages::builtin();
        let page = Page::parse(b"HTTP/1.0 502 Bad\n\nmine").unwrap();
        let long = "x".repeat(PAGE_NAME_BYTES_MAX);
        for name in ["shop.502", "shop.timeout", &format!("{long}.timeout")] {
            pages.insert(name, page.clone());
        }
        assert_eq!(pages.own_for_status("shop", 502), Some(&page));
        assert_eq!(pages.own_timeout("shop"), Some(&page));
        assert_eq!(pages.own_timeout(&long), Some(&page));
        assert_eq!(pages.own_for_status("shop", 504), None);
        assert_eq!(pages.own_timeout("sho"), None);
        assert_eq!(pages.own_timeout(&format!("{long}x")), None);
    }

    #[test]
    fn page_takes_another_status() {
        let page = Page::parse(b"HTTP/1.0 503 Away\nX-A: b\n\nmine").unwrap();
        let mut out = Vec::new();
        write_page_as(404, &page, to(), &mut out);
        let found = String::from_utf8(out).unwrap().replacen(DATE, "", 1);
        assert_eq!(found, "HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 4\r\n\r\nmine");
    }

    #[test]
    fn retry_after_is_said_once() {
        let page = Page::parse(b"HTTP/1.0 503 Busy\n\n").unwrap();
        assert!(written(&page, Some(10), to()).contains("\r\nRetry-After: 10\r\n"));
        let page = Page::parse(b"HTTP/1.0 503 Busy\nRetry-After: 5\n\n").unwrap();
        let reply = written(&page, Some(10), to());
        assert!(reply.contains("\r\nRetry-After: 5\r\n") && !reply.contains("10"), "{reply}");
    }
}
