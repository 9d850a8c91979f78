//! Replies of Mantrid itself: refusals, redirects, empty replies and plain text.
//!
//! Each reply has a length, says whether the connection closes, and has no body for HEAD.

use super::forward::write_number;
use super::{HttpDate, Refusal, Scheme, Version};

/// Circumstances of a reply: the client's version, and whether the connection stays open.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ReplyTo {
    /// Version that the client speaks.
    pub version: Version,
    /// Whether the request was a HEAD, so that the reply has no body.
    pub head_only: bool,
    /// Whether the connection closes after the reply.
    pub close: bool,
    /// Date of the reply.
    pub date: HttpDate,
}

/// Returns the reason phrase for a status code (RFC 9110 §15 and the registry).
pub fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}

/// Whether a response with this status can have a body (RFC 9110 §6.4.1).
pub(super) fn has_body(code: u16) -> bool {
    !matches!(code, 204 | 304)
}

/// Returns a final status. An interim one would leave the client waiting, so it becomes a 500.
fn final_code(code: u16) -> u16 {
    if (200..=999).contains(&code) { code } else { 500 }
}

pub(super) fn write_status_line(code: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(u64::from(code), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Writes the date, the framing and connection fields, the empty line, and the body if one is sent.
pub(super) fn write_rest(code: u16, body: &[u8], to: ReplyTo, out: &mut Vec<u8>) {
    to.date.write(out);
    write_undated_rest(code, body, to, out);
}

/// Writes the rest of a reply that has a Date of its own.
pub(super) fn write_undated_rest(code: u16, body: &[u8], to: ReplyTo, out: &mut Vec<u8>) {
    if has_body(code) {
        out.extend_from_slice(b"Content-Length: ");
        write_number(body.len() as u64, out);
        out.extend_from_slice(b"\r\n");
    }
    if to.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if to.version == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if has_body(code) && !to.head_only {
        out.extend_from_slice(body);
    }
}

/// Writes the reply to a request whose head is refused. The connection closes after it.
///
/// The reply has a body even if the request was a HEAD, because nothing is known about a refused
/// head. As the connection closes, the client can't take the body for another response.
pub fn write_refusal(refusal: Refusal, date: HttpDate, out: &mut Vec<u8>) {
    let to = ReplyTo { version: Version::Http11, head_only: false, close: true, date };
    let code = refusal.status();
    // RFC 9110 §15.5.6: a 405 names the methods that are allowed.
    let allow: &[u8] = match code {
        405 => b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n",
        _ => b"",
    };
    write_text(code, allow, refusal.sentence(), to, out);
}

/// Writes an empty reply with this status.
pub fn write_empty(code: u16, to: ReplyTo, out: &mut Vec<u8>) {
    let code = final_code(code);
    write_status_line(code, reason(code).as_bytes(), out);
    write_rest(code, b"", to, out);
}

/// Writes a reply with a short plain text for the status.
pub fn write_status(code: u16, to: ReplyTo, out: &mut Vec<u8>) {
    let code = final_code(code);
    if !has_body(code) {
        return write_empty(code, to, out);
    }
    write_text(code, b"", sentence(code), to, out);
}

/// Writes a 429: too many requests for the moment (RFC 6585 §4).
pub fn write_too_many(to: ReplyTo, out: &mut Vec<u8>) {
    write_text(429, b"Retry-After: 1\r\n", sentence(429), to, out);
}

/// Returns the sentence that says what went wrong, for the statuses that Mantrid itself sends.
fn sentence(code: u16) -> &'static str {
    match code {
        403 => "This host does not serve clients at your address.",
        413 => "The request body is too large for this host.",
        429 => "Too many requests for this host at the moment.",
        502 => "The application could not be reached, or its answer made no sense.",
        503 => "The application is not available at the moment.",
        504 => "The application did not answer in time.",
        508 => "The request has come through this proxy before.",
        _ => "",
    }
}

/// Writes a reply in plain text; `field` is a whole field line, or nothing.
fn write_text(code: u16, field: &[u8], sentence: &str, to: ReplyTo, out: &mut Vec<u8>) {
    write_status_line(code, reason(code).as_bytes(), out);
    out.extend_from_slice(field);
    out.extend_from_slice(
        b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n",
    );
    let start = out.len();
    write_text_body(code, sentence, out);
    insert_rest(start, code, to, out);
}

fn write_text_body(code: u16, sentence: &str, out: &mut Vec<u8>) {
    write_number(u64::from(code), out);
    out.push(b' ');
    out.extend_from_slice(reason(code).as_bytes());
    out.push(b'\n');
    if !sentence.is_empty() {
        out.extend_from_slice(sentence.as_bytes());
        out.push(b'\n');
    }
}

/// Inserts framing and connection fields before the body that was written at `start`. So the length
/// of the body is known and need not be computed separately.
fn insert_rest(start: usize, code: u16, to: ReplyTo, out: &mut Vec<u8>) {
    let body_len = out.len() - start;
    let mut body = [0; 256];
    debug_assert!(body_len <= body.len(), "a text of ours outgrew its room");
    let body_len = body_len.min(body.len());
    body[..body_len].copy_from_slice(&out[start..start + body_len]);
    out.truncate(start);
    write_rest(code, &body[..body_len], to, out);
}

/// Writes a redirect to `base` and `path`, joined by exactly one `/`, with `scheme` in front if
/// `base` has none. `path` is `RequestHead::path_and_query`.
pub fn write_redirect(
    base: &str,
    code: u16,
    scheme: Scheme,
    path: &[u8],
    to: ReplyTo,
    out: &mut Vec<u8>,
) {
    let code = final_code(code);
    write_status_line(code, reason(code).as_bytes(), out);
    out.extend_from_slice(b"Location: ");
    let mut base = base;
    if !base.contains("://") {
        out.extend_from_slice(match scheme.is_secure() {
            false => b"http://".as_slice(),
            true => b"https://",
        });
        base = base.trim_start_matches('/');
    }
    // The rule was checked when it was set, but a line break must never get into the head, so this
    // is checked again.
    out.extend(base.trim_end_matches('/').bytes().filter(|&byte| byte > b' ' && byte != 0x7f));
    out.push(b'/');
    // All leading slashes are removed: some clients would read `//evil.example` as another host.
    let skipped = path.iter().take_while(|&&byte| byte == b'/').count();
    out.extend_from_slice(&path[skipped..]);
    out.extend_from_slice(b"\r\n");
    write_rest(code, b"", to, out);
}

/// Returns the status of a head that one of these functions, or [`write_response`], wrote; 0 for
/// anything else.
///
/// [`write_response`]: super::write_response
pub fn status_of(answer: &[u8]) -> u16 {
    let digits = answer.get("HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3)).unwrap_or_default();
    digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit.wrapping_sub(b'0').min(9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

    fn keep() -> ReplyTo {
        let date = HttpDate::at(0);
        ReplyTo { version: Version::Http11, head_only: false, close: false, date }
    }

    fn without_body() -> ReplyTo {
        ReplyTo { head_only: true, ..keep() }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        // Bytes that are already in the buffer stay.
        let mut out = b"before ".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[track_caller]
    fn check_empty(code: u16, to: ReplyTo, expected: &str) {
        let found = written(|out| write_empty(code, to, out));
        assert_eq!(found.replacen(DATE, "", 1), expected);
        assert!(found.contains(DATE), "{found}");
    }

    #[test]
    fn empty_answers() {
        check_empty(403, keep(), "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        check_empty(
            402,
            ReplyTo { close: true, ..keep() },
            "HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        check_empty(
            200,
            ReplyTo { version: Version::Http10, ..keep() },
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        );
        check_empty(204, keep(), "HTTP/1.1 204 No Content\r\n\r\n");
        check_empty(304, without_body(), "HTTP/1.1 304 Not Modified\r\n\r\n");
        check_empty(597, keep(), "HTTP/1.1 597 Unknown\r\nContent-Length: 0\r\n\r\n");
        check_empty(100, keep(), "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    }

    #[track_caller]
    fn check_redirect(base: &str, scheme: Scheme, path: &str, expected: &str) {
        let reply = written(|out| write_redirect(base, 302, scheme, path.as_bytes(), keep(), out));
        let location = format!("Location: {expected}");
        assert_eq!(
            reply,
            format!("HTTP/1.1 302 Found\r\n{location}\r\n{DATE}Content-Length: 0\r\n\r\n"),
            "{base} {path}"
        );
    }

    #[test]
    fn redirects() {
        use Scheme::{Http, Https};
        check_redirect("http://tigers.example", Http, "/", "http://tigers.example/");
        check_redirect("http://tigers.example/", Https, "/bears/", "http://tigers.example/bears/");
        check_redirect("https://a.example", Http, "/b?c=/d", "https://a.example/b?c=/d");
        check_redirect("a.example", Http, "/b", "http://a.example/b");
        check_redirect("a.example/x/", Https, "/b", "https://a.example/x/b");
        check_redirect("a.example", Http, "", "http://a.example/");
        check_redirect("a.example", Http, "?q", "http://a.example/?q");
        check_redirect("a.example", Http, "//evil.example/", "http://a.example/evil.example/");
        check_redirect("//a.example", Http, "/", "http://a.example/");
        check_redirect("a.example\r\nX: y", Http, "/", "http://a.exampleX:y/");
    }

    #[test]
    fn every_answer_has_the_length_it_says() {
        for &refusal in Refusal::ALL {
            let reply = written(|out| write_refusal(refusal, HttpDate::at(0), out));
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            let status = refusal.status();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} {}\r\n", reason(status))));
            assert!(head.contains("\r\nConnection: close"), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            assert!(body.contains(refusal.sentence()), "{body}");
        }
        for code in 100..=1000 {
            let reply = written(|out| write_status(code, keep(), out));
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert_eq!(
                head.contains(&format!("\r\nContent-Length: {}", body.len())),
                has_body(code),
                "{head}"
            );
        }
    }

    #[test]
    fn plain_answers() {
        assert_eq!(
            written(|out| write_status(429, keep(), out)),
            "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Length: 69\r\n\r\n\
             429 Too Many Requests\nToo many requests for this host at the moment.\n"
        );
        let head = written(|out| write_status(503, without_body(), out));
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}
