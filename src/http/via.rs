//! The name of this proxy in `Via` (RFC 9110 §7.6.3). It is written into forwarded heads. A request
//! that already has it has passed through this proxy before.

use super::Version;
use super::field::trim;
use crate::limits::VIA_BYTES_MAX;

/// The name of this proxy, or none.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Via {
    bytes: [u8; VIA_BYTES_MAX],
    len: u8,
}

impl Via {
    /// No name: nothing is written, and nothing is looked for.
    pub const NONE: Via = Via { bytes: [0; VIA_BYTES_MAX], len: 0 };

    /// Makes the name from a pseudonym, or from a host with or without a port; `None` if it is too
    /// long or empty.
    pub fn new(name: &str) -> Option<Via> {
        let mut via = Via::NONE;
        via.bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        via.len = u8::try_from(name.len()).ok()?;
        (!name.is_empty()).then_some(via)
    }

    /// Whether there is a name.
    pub fn is_set(&self) -> bool {
        0 < self.len
    }

    fn name(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether the value of a Via field names this proxy as a recipient.
    pub(super) fn is_in(&self, value: &[u8]) -> bool {
        if !self.is_set() {
            return false;
        }
        let mut rest = value;
        while !rest.is_empty() {
            let (member, after) = split_member(rest);
            // received-protocol RWS received-by [ RWS comment ]
            let mut words =
                member.split(|&b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty());
            if words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(self.name())) {
                return true;
            }
            rest = after;
        }
        false
    }

    /// Appends the Via line, which says that this proxy received a message of this version.
    pub(super) fn write(&self, received: Version, out: &mut Vec<u8>) {
        if !self.is_set() {
            return;
        }
        out.extend_from_slice(match received {
            Version::Http10 => b"Via: 1.0 ".as_slice(),
            Version::Http11 => b"Via: 1.1 ",
        });
        out.extend_from_slice(self.name());
        out.extend_from_slice(b"\r\n");
    }
}

/// Returns the first member of a list without its comment, and the rest. Commas in a comment (RFC
/// 9110 §5.6.5), which may be nested, do not separate members.
fn split_member(list: &[u8]) -> (&[u8], &[u8]) {
    let (mut depth, mut quoted, mut end) = (0u32, false, None);
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            _ if quoted => quoted = false,
            b'\\' if 0 < depth => quoted = true,
            b'(' => {
                end = end.or(Some(at));
                depth += 1;
            }
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                return (trim(&list[..end.unwrap_or(at)]), &list[at + 1..]);
            }
            _ => {}
        }
    }
    (trim(&list[..end.unwrap_or(list.len())]), b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn via_is_found_as_a_recipient_only() {
        let via = Via::new("edge-1").expect("short enough");
        for (value, expected) in [
            ("1.1 edge-1", true),
            ("1.0 fred, 1.1 EDGE-1", true),
            ("HTTP/1.1\tedge-1 (Mantrid)", true),
            ("1.1 edge-1(Mantrid)", true),
            (" , 1.1   edge-1 ,", true),
            ("1.1 a (one, two (x\\) 1.1 edge-1,)), 1.1 edge-1", true),
            ("1.1 a (b, 1.1 edge-1)", false),
            ("1.1 edge-10", false),
            ("1.1 edge-1:80", false),
            ("edge-1 1.1", false),
            ("1.1", false),
            ("", false),
            ("1.1 a (never closed, 1.1 edge-1", false),
        ] {
            assert_eq!(via.is_in(value.as_bytes()), expected, "{value:?}");
        }
        assert!(!Via::NONE.is_in(b"1.1 "));
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(Via::new(""), None);
        assert!(Via::new(&"a".repeat(VIA_BYTES_MAX)).is_some());
        assert_eq!(Via::new(&"a".repeat(VIA_BYTES_MAX + 1)), None);
    }
}
