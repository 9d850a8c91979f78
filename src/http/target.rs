//! The request target (RFC 9112 §3.2) and the syntax of a host.

use std::net::Ipv6Addr;

use super::{Method, Refusal, Scheme};
use crate::limits::HOST_BYTES_MAX;

/// The target of a request, in the form in which it was written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Target<'b> {
    /// `/path?query`.
    Origin(&'b [u8]),
    /// `http://host/path?query`.
    Absolute {
        /// Scheme as written in the target.
        scheme: Scheme,
        /// Host with optional port.
        authority: &'b [u8],
        /// Starts with `/` or `?`, or is empty.
        path: &'b [u8],
    },
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// Parses a target. Control bytes and spaces can't occur in it, because the request line was split
/// at these.
pub(super) fn parse_target(method: Method, bytes: &[u8]) -> Result<Target<'_>, Refusal> {
    // A fragment is meant for the client only, and backends disagree about where the path ends if
    // there is one.
    if memchr::memchr(b'#', bytes).is_some() {
        return Err(Refusal::BadTarget);
    }
    if bytes.first() == Some(&b'/') {
        return Ok(Target::Origin(bytes));
    }
    if bytes == b"*" && method == Method::Options {
        return Ok(Target::Asterisk);
    }
    let (scheme, rest) = if let Some(rest) = strip_prefix_any_case(bytes, b"http://") {
        (Scheme::Http, rest)
    } else if let Some(rest) = strip_prefix_any_case(bytes, b"https://") {
        (Scheme::Https, rest)
    } else {
        return Err(Refusal::BadTarget);
    };
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // RFC 9110 §4.2.4: user information is an error here. It is often meant to mislead.
    if memchr::memchr(b'@', authority).is_some() {
        return Err(Refusal::BadTarget);
    }
    check_host(authority)?;
    Ok(Target::Absolute { scheme, authority, path })
}

fn strip_prefix_any_case<'b>(bytes: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = bytes.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Accepts a name, an IPv4 address or a bracketed IPv6 address, with an optional port.
///
/// Names have letters, digits, `-`, `_`, and dots between labels that are not empty; one more dot
/// at the end is allowed. No rule can have any other name. RFC 3986 §3.2.2 would also allow `%41`,
/// `,` and others, but backends disagree about lists of hosts and encoded hosts.
pub(super) fn check_host(value: &[u8]) -> Result<(), Refusal> {
    let mut label_is_empty = true;
    let mut after_dot = false;
    let mut at = 0;
    if value.first() == Some(&b'[') {
        at = check_ipv6(value).ok_or(Refusal::BadHost)?;
        label_is_empty = false;
    } else {
        for &byte in value {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_is_empty = false,
                b'.' if !label_is_empty => {
                    label_is_empty = true;
                    after_dot = true;
                }
                b':' => break,
                _ => return Err(Refusal::BadHost),
            }
            at += 1;
        }
    }
    let trailing_dot = label_is_empty && after_dot;
    if (label_is_empty && !trailing_dot) || at - usize::from(trailing_dot) > HOST_BYTES_MAX {
        return Err(Refusal::BadHost);
    }
    match value[at..].split_first() {
        None => Ok(()),
        Some((b':', port)) if is_port(port) => Ok(()),
        Some(_) => Err(Refusal::BadHost),
    }
}

/// Returns the length of `[address]` at the start of `value`.
fn check_ipv6(value: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', value)?;
    let address = std::str::from_utf8(&value[1..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// Whether this is a port, `*DIGIT` (RFC 3986 §3.2.3). It may be empty, but not larger than the
/// largest port.
fn is_port(digits: &[u8]) -> bool {
    let mut number = 0u32;
    for &digit in digits {
        if !digit.is_ascii_digit() || number > 65535 {
            return false;
        }
        number = number * 10 + u32::from(digit - b'0');
    }
    number <= 65535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let long = "a".repeat(253);
        let longer = format!("{long}b");
        let longest_with_dot = format!("{long}.:80");
        let good = [
            "a.com",
            "A.COM",
            "a.com.",
            "a.com:80",
            "a.com:",
            "a_b.c-d",
            "1.2.3.4",
            "[::1]",
            "[::1]:8080",
            "[::ffff:1.2.3.4]",
            "xn--bcher-kva.example",
            "localhost",
            "a:65535",
            &long,
            &longest_with_dot,
        ];
        for host in good {
            assert_eq!(check_host(host.as_bytes()), Ok(()), "{host}");
        }
        let bad = [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            ":80",
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "a%41",
            "a:b",
            "a:65536",
            "a:99999999999",
            "a:+1",
            "a:1:2",
            "[::1",
            "[]",
            "[::g]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "::1",
            "bücher.example",
            "a\tb",
            "a?",
            "a#",
            &longer,
        ];
        for host in bad {
            assert_eq!(check_host(host.as_bytes()), Err(Refusal::BadHost), "{host}");
        }
    }

    #[track_caller]
    fn check(method: Method, target: &str, expected: Result<Target, Refusal>) {
        assert_eq!(parse_target(method, target.as_bytes()), expected, "{target}");
    }

    #[test]
    fn targets() {
        check(Method::Get, "/", Ok(Target::Origin(b"/")));
        check(Method::Get, "//evil.example/x", Ok(Target::Origin(b"//evil.example/x")));
        check(Method::Get, "/a?b=http://c", Ok(Target::Origin(b"/a?b=http://c")));
        check(Method::Options, "*", Ok(Target::Asterisk));
        for (target, scheme, authority, path) in [
            ("http://a.com", Scheme::Http, "a.com", ""),
            ("HTTP://a.com/x?y", Scheme::Http, "a.com", "/x?y"),
            ("https://a.com:444?y", Scheme::Https, "a.com:444", "?y"),
            ("http://[::1]:80/", Scheme::Http, "[::1]:80", "/"),
        ] {
            let (authority, path) = (authority.as_bytes(), path.as_bytes());
            check(Method::Get, target, Ok(Target::Absolute { scheme, authority, path }));
        }
        for bad in ["*", "a", "a.com:443", "/a#b", "ftp://a/", "http:/a", "http://u@a/", "?x"] {
            check(Method::Get, bad, Err(Refusal::BadTarget));
        }
        for bad in ["http://", "http:///x", "http://a:b/", "http://a,b/", "http://?x"] {
            check(Method::Get, bad, Err(Refusal::BadHost));
        }
    }
}
