//! Values of a request by which a client can be kept at one backend: those of a cookie (RFC 6265)
//! or of a field.

use super::field::trim;
use super::head::RequestHead;

impl<'b> RequestHead<'_, 'b> {
    /// Returns the first value of a field, whose name is compared without case; `None` if the value
    /// is empty or missing.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        let mut values = self.values(name).map(trim);
        values.next().filter(|value| !value.is_empty())
    }

    /// Returns the first value of a cookie of exactly this name; `None` if it is empty or missing.
    /// Quotes around a value are not part of it: clients send a value back as they got it, with
    /// quotes or without.
    pub fn cookie(&self, name: &str) -> Option<&'b [u8]> {
        let pairs = self.values("cookie").flat_map(|value| value.split(|byte| *byte == b';'));
        let mut found = pairs.filter_map(|pair| {
            let equals = memchr::memchr(b'=', pair)?;
            let (known, value) = (&pair[..equals], &pair[equals + 1..]);
            (trim(known) == name.as_bytes()).then(|| unquoted(trim(value)))
        });
        found.next().filter(|value| !value.is_empty())
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::{field_room, parse_request};

    fn found(fields: &str, cookie: Option<&str>, field: Option<&str>) -> Option<String> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut room = field_room();
        let head = parse_request(head.as_bytes(), &mut room).expect("a head");
        let value = cookie.map_or_else(|| head.field(field?), |name| head.cookie(name));
        value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
    }

    #[test]
    fn cookie_is_found_among_others() {
        for (fields, expected) in [
            ("", None),
            ("Cookie: sid=7\r\n", Some("7")),
            ("cookie: a=1; sid=7; b=2\r\n", Some("7")),
            ("Cookie: a=1;sid=7\r\n", Some("7")),
            ("Cookie: a=1;  sid = 7 \r\n", Some("7")),
            ("Cookie: sid=\"7\"\r\n", Some("7")),
            ("Cookie: sid=a=b==\r\n", Some("a=b==")),
            ("Cookie: a=1\r\nCookie: sid=7\r\n", Some("7")),
            ("Cookie: sid=7\r\nCookie: sid=8\r\n", Some("7")),
            ("Cookie: sid=7; sid=8\r\n", Some("7")),
            ("Cookie: sid=\r\n", None),
            ("Cookie: sid=\"\"\r\n", None),
            ("Cookie: sid\r\n", None),
            ("Cookie: xsid=7; sidx=7; SID=7\r\n", None),
            ("Cookie: x=sid=7\r\n", None),
            ("Cookie: ;;=;\r\n", None),
            ("X-Cookie: sid=7\r\n", None),
        ] {
            assert_eq!(found(fields, Some("sid"), None).as_deref(), expected, "{fields}");
        }
    }

    #[test]
    fn field_is_found_in_any_case() {
        for (fields, expected) in [
            ("", None),
            ("X-User: 7\r\n", Some("7")),
            ("x-USER:\t7 \r\n", Some("7")),
            ("X-User: 7\r\nX-User: 8\r\n", Some("7")),
            ("X-User: 7, 8\r\n", Some("7, 8")),
            ("X-User:\r\n", None),
            ("X-User-Id: 7\r\n", None),
        ] {
            assert_eq!(found(fields, None, Some("X-User")).as_deref(), expected, "{fields}");
        }
        assert_eq!(found("", None, Some("host")).as_deref(), Some("a"));
    }
}
