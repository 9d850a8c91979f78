//! Host names, and the canonical form in which the host of a request is compared with the rules.
//!
//! The canonical form is: lower case, A-labels, no port, no trailing dot; an IPv6 address in
//! brackets and in the shortest form (RFC 5952). The Host of a request is brought to this form
//! without allocation, and without even a copy if it is canonical already, as nearly every one is.
//! The name of a rule also passes IDNA and may begin with `http://`, `https://`, `tcp://` or
//! `tls://`. Only in the name of a rule may the host be `*`, for all hosts that have no other rule;
//! no request can ask for `*`.
//!
//! Names are letters, digits, `-`, `_` and dots between labels that are not empty. This is more
//! than RFC 1123 §2.1 allows (`_`, and `-` at the ends), because such names are in use. The length
//! of labels (63) is left to DNS and not checked.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::net::Ipv6Addr;

use crate::limits::HOST_BYTES_MAX;
use crate::scheme::Scheme;

/// Why a name is refused.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum HostError {
    /// The host is empty.
    Empty,
    /// More than 253 bytes.
    TooLong,
    /// `a..b`, `.a`, or two dots at the end.
    EmptyLabel,
    /// A character that no name may hold.
    BadCharacter,
    /// A wildcard such as `*.name`. Subdomains are matched by `match_subdomains` instead.
    Wildcard,
    /// The text behind the colon is not a port.
    BadPort,
    /// A rule's name with a port.
    Port,
    /// Brackets around something else than an IPv6 address.
    BadAddress,
    /// The name can't be converted to A-labels (IDNA).
    BadIdna,
    /// A prefix other than `http://`, `https://`, `tcp://` and `tls://`.
    BadPrefix,
}

impl HostError {
    /// Sentence that says what is wrong, and what would be right.
    pub fn sentence(self) -> &'static str {
        match self {
            HostError::Empty => "the host name is empty",
            HostError::TooLong => "the host name is longer than 253 bytes",
            HostError::EmptyLabel => "the host name has an empty label (two dots, or one in front)",
            HostError::BadCharacter => {
                "the host name may hold letters, digits, '-', '_' and dots only"
            }
            HostError::Wildcard => {
                "names have no wildcards; give the name without '*.' and match_subdomains true, or \
                 '*' alone for what no other rule is for"
            }
            HostError::BadPort => "what follows the host name's colon is not a port number",
            HostError::Port => "ports play no part in matching; give the host name without one",
            HostError::BadAddress => "what stands in brackets is not an IPv6 address",
            HostError::BadIdna => "the host name is not a valid international name (IDNA)",
            HostError::BadPrefix => "the only prefixes are http://, https://, tcp:// and tls://",
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for HostError {}

const UPPER: u8 = 1;
const DOT: u8 = 2;
const BAD: u8 = 4;

/// Class of each byte. With it, one pass without branches finds out everything about a name.
static CLASS: [u8; 256] = {
    let mut class = [BAD; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => 0,
            b'A'..=b'Z' => UPPER,
            b'.' => DOT,
            _ => BAD,
        };
        byte += 1;
    }
    class
};

/// The canonical form of a Host value. It is borrowed from the value, or from `room` if something
/// had to change. Drops the port and one trailing dot. Refuses non-ASCII bytes, because names on
/// the wire are A-labels.
pub fn canonical<'a>(raw: &'a [u8], room: &'a mut [u8; 256]) -> Result<&'a str, HostError> {
    if raw.first() == Some(&b'[') {
        return address(raw, room);
    }
    let host = match memchr::memchr(b':', raw) {
        None => raw,
        Some(colon) => {
            // The port may be empty (RFC 3986 §3.2.3). Its value does not matter.
            if !raw[colon + 1..].iter().all(u8::is_ascii_digit) {
                return Err(HostError::BadPort);
            }
            &raw[..colon]
        }
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    let upper = inspect(host)?;
    let host = if upper {
        let lower = &mut room[..host.len()];
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        &*lower
    } else {
        host
    };
    std::str::from_utf8(host).map_err(|_| HostError::BadCharacter)
}

/// Whether `host`, without port and trailing dot, holds upper case; an error if it is no name.
fn inspect(host: &[u8]) -> Result<bool, HostError> {
    if host.is_empty() {
        return Err(HostError::Empty);
    }
    if HOST_BYTES_MAX < host.len() {
        return Err(HostError::TooLong);
    }
    let mut seen = 0;
    let mut empty_label = 0;
    // Start as if after a dot, so that a leading dot counts as an empty label.
    let mut before = DOT;
    for &byte in host {
        let class = CLASS[byte as usize];
        seen |= class;
        empty_label |= class & before;
        before = class;
    }
    if seen & BAD != 0 {
        return Err(HostError::BadCharacter);
    }
    if (empty_label | before) & DOT != 0 {
        return Err(HostError::EmptyLabel);
    }
    Ok(seen & UPPER != 0)
}

/// The canonical form of `[v6]` with an optional port. Such hosts are rare, so parsing and printing
/// the address is cheap enough.
fn address<'a>(raw: &[u8], room: &'a mut [u8; 256]) -> Result<&'a str, HostError> {
    let close = memchr::memchr(b']', raw).ok_or(HostError::BadAddress)?;
    let port = &raw[close + 1..];
    let port_is_valid = match port.strip_prefix(b":") {
        Some(digits) => digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    if !port_is_valid {
        return Err(HostError::BadPort);
    }
    let address: Ipv6Addr = std::str::from_utf8(&raw[1..close])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(HostError::BadAddress)?;
    let mut rest = &mut room[..];
    write!(rest, "[{address}]").map_err(|_| HostError::BadAddress)?;
    let length = 256 - rest.len();
    std::str::from_utf8(&room[..length]).map_err(|_| HostError::BadAddress)
}

/// The host in the name of a rule for all hosts that have no other rule.
pub(super) const ANY: &str = "*";

/// Prefixes that may stand before the host in the name of a rule.
pub(super) const SCHEMES: [(Scheme, &str); 4] = [
    (Scheme::Http, "http://"),
    (Scheme::Https, "https://"),
    (Scheme::Tcp, "tcp://"),
    (Scheme::Tls, "tls://"),
];

/// A rule's name in canonical form, with its `http://` (`https://`, `tcp://`, `tls://`) where it
/// has one.
pub fn rule_name(raw: &str) -> Result<String, HostError> {
    rule_name_ref(raw).map(Cow::into_owned)
}

/// Does the same as [`rule_name`], but borrows a name that is canonical already.
pub(crate) fn rule_name_ref(raw: &str) -> Result<Cow<'_, str>, HostError> {
    let prefix = SCHEMES.into_iter().map(|(_, prefix)| prefix).find(|prefix| {
        raw.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    let Some(prefix) = prefix else {
        if raw.contains("://") {
            return Err(HostError::BadPrefix);
        }
        return name_or_any(raw);
    };
    let host = name_or_any(&raw[prefix.len()..])?;
    Ok(if raw.starts_with(prefix) && matches!(host, Cow::Borrowed(_)) && raw.ends_with(&*host) {
        Cow::Borrowed(raw)
    } else {
        Cow::Owned(format!("{prefix}{host}"))
    })
}

fn name_or_any(raw: &str) -> Result<Cow<'_, str>, HostError> {
    if raw == ANY { Ok(Cow::Borrowed(raw)) } else { name(raw) }
}

/// A name that an operator typed, without prefix, in canonical form. No port.
pub fn name(raw: &str) -> Result<Cow<'_, str>, HostError> {
    if raw.starts_with('[') {
        if !raw.ends_with(']') {
            return Err(HostError::Port);
        }
        let mut room = [0; 256];
        return Ok(Cow::Owned(address(raw.as_bytes(), &mut room)?.to_owned()));
    }
    if raw.starts_with("*.") {
        return Err(HostError::Wildcard);
    }
    if raw.contains(':') {
        return Err(HostError::Port);
    }
    let ascii = if raw.is_ascii() {
        // Skip IDNA: it refuses an invalid `xn--` label, but requests may well carry one.
        Cow::Borrowed(raw)
    } else {
        // The denylist is empty, because our own rules below check the whole name.
        idna::domain_to_ascii_cow(raw.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| HostError::BadIdna)?
    };
    let length = ascii.strip_suffix('.').unwrap_or(&ascii).len();
    let upper = inspect(&ascii.as_bytes()[..length])?;
    Ok(match ascii {
        Cow::Borrowed(text) if !upper => Cow::Borrowed(&text[..length]),
        text => Cow::Owned(text[..length].to_ascii_lowercase()),
    })
}

/// Splits the name of a rule into the scheme of its prefix, if any, and its host.
pub fn split(name: &str) -> (Option<Scheme>, &str) {
    // A host contains no slash, so a name without one has no prefix. Most names have none.
    if memchr::memchr(b'/', name.as_bytes()).is_some() {
        for (scheme, prefix) in SCHEMES {
            if let Some(host) = name.strip_prefix(prefix) {
                return (Some(scheme), host);
            }
        }
    }
    (None, name)
}

/// Prefix before the host in the name of a rule for one scheme.
pub(super) fn prefix(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http://",
        Scheme::Https => "https://",
        Scheme::Tcp => "tcp://",
        Scheme::Tls => "tls://",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names() {
        let long = "a".repeat(253);
        for (raw, expected) in [
            ("a.com", "a.com"),
            ("A.CoM", "a.com"),
            ("a.com:8080", "a.com"),
            ("a.com.", "a.com"),
            ("A.com.:80", "a.com"),
            ("a.com:", "a.com"),
            ("localhost", "localhost"),
            ("-new_1.example", "-new_1.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[0:0::0:1]", "[::1]"),
            ("[2001:DB8::1]:8080", "[2001:db8::1]"),
            (&long, &long),
            (&format!("{long}.:65535"), &long),
        ] {
            assert_eq!(canonical(raw.as_bytes(), &mut [0; 256]), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn canonical_copies_only_what_changes() {
        for (raw, is_borrowed) in [("a.com", true), ("a.com.:80", true), ("A.com", false)] {
            let mut room = [0; 256];
            let name = canonical(raw.as_bytes(), &mut room).unwrap();
            assert_eq!(name.as_ptr() == raw.as_ptr(), is_borrowed, "{raw}");
        }
    }

    #[test]
    fn canonical_refusals() {
        for (raw, expected) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (":80", HostError::Empty),
            ("a..b", HostError::EmptyLabel),
            (".a", HostError::EmptyLabel),
            ("a..", HostError::EmptyLabel),
            ("..", HostError::EmptyLabel),
            ("*", HostError::BadCharacter),
            ("a b", HostError::BadCharacter),
            ("a\0b", HostError::BadCharacter),
            ("a/b", HostError::BadCharacter),
            ("user@a.com", HostError::BadCharacter),
            ("a%2e.com", HostError::BadCharacter),
            ("bücher.example", HostError::BadCharacter),
            ("a.com:8x", HostError::BadPort),
            ("a.com:80:80", HostError::BadPort),
            ("::1", HostError::BadPort),
            ("[::1", HostError::BadAddress),
            ("[]", HostError::BadAddress),
            ("[v1.x]", HostError::BadAddress),
            ("[1.2.3.4]", HostError::BadAddress),
            ("[::1]x", HostError::BadPort),
            ("[::1]:x", HostError::BadPort),
            ("[fe80::1%eth0]", HostError::BadAddress),
            (&"a".repeat(254), HostError::TooLong),
        ] {
            assert_eq!(canonical(raw.as_bytes(), &mut [0; 256]), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn rule_names() {
        for (raw, expected) in [
            ("A.com", Ok("a.com")),
            ("a.com.", Ok("a.com")),
            ("HTTP://A.com.", Ok("http://a.com")),
            ("https://a.com", Ok("https://a.com")),
            ("Bücher.Example", Ok("xn--bcher-kva.example")),
            ("http://bücher.example", Ok("http://xn--bcher-kva.example")),
            ("例え.テスト", Ok("xn--r8jz45g.xn--zckzah")),
            // The ideographic full stop is a dot to IDNA.
            ("a。com", Ok("a.com")),
            ("[0::1]", Ok("[::1]")),
            ("http.com", Ok("http.com")),
            ("*", Ok("*")),
            ("HTTPS://*", Ok("https://*")),
            ("**", Err(HostError::BadCharacter)),
            ("a*", Err(HostError::BadCharacter)),
            ("*.", Err(HostError::Wildcard)),
            ("*:80", Err(HostError::Port)),
            ("http", Ok("http")),
            ("", Err(HostError::Empty)),
            ("http://", Err(HostError::Empty)),
            ("http://http://a", Err(HostError::Port)),
            ("ftp://a", Err(HostError::BadPrefix)),
            ("*.a.com", Err(HostError::Wildcard)),
            ("a.com:80", Err(HostError::Port)),
            ("[::1]:80", Err(HostError::Port)),
            ("a.com/x", Err(HostError::BadCharacter)),
            (".a.com", Err(HostError::EmptyLabel)),
            ("a com", Err(HostError::BadCharacter)),
            ("ü\u{0}", Err(HostError::BadCharacter)),
        ] {
            assert_eq!(rule_name(raw).as_deref().map_err(|e| *e), expected, "{raw:?}");
        }
    }

    #[test]
    fn split_names() {
        assert_eq!(split("a.com"), (None, "a.com"));
        assert_eq!(split("http://a.com"), (Some(Scheme::Http), "a.com"));
        assert_eq!(split("https://a.com"), (Some(Scheme::Https), "a.com"));
        assert_eq!(split("https.com"), (None, "https.com"));
    }
}
