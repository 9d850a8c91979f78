//! Finds the end of a head. This is the only definition of where a head ends.
//!
//! With two definitions that differ by one byte, a connection could stall or a message be split in
//! two. So the parser gets exactly the bytes that this scan measured, and tests check that it never
//! disagrees. The scan also refuses bare CR, bare LF and NUL, which `httparse` accepts.

use super::Refusal;

/// A resumable scan for the end of a head.
///
/// The scan remembers its position, so a head that arrives byte by byte costs linear time in total.
#[derive(Default, Clone, Copy, Debug)]
pub struct HeadScan {
    /// Bytes that need not be scanned again. A CR whose LF has not come yet is not counted.
    seen: usize,
    /// Start of the line being scanned.
    line: usize,
    /// Whether the start-line is complete.
    started: bool,
}

impl HeadScan {
    /// Scans the bytes that came since the last call. `bytes` has everything so far, with the same
    /// start at each call. Returns the length of the head with its final empty line (and one empty
    /// line in front, which RFC 9112 §2.2 asks to skip), or `None` if more bytes are needed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &bytes[self.seen..]) {
            let at = self.seen + found;
            match bytes[at] {
                0 => return Err(Refusal::Nul),
                b'\n' => return Err(Refusal::BareLf),
                _ => {}
            }
            match bytes.get(at + 1) {
                Some(b'\n') => {}
                Some(_) => return Err(Refusal::BareCr),
                None => {
                    self.seen = at;
                    return Ok(None);
                }
            }
            let empty = at == self.line;
            self.seen = at + 2;
            self.line = at + 2;
            if !empty {
                self.started = true;
            } else if self.started {
                return Ok(Some(self.seen));
            } else if at != 0 {
                return Err(Refusal::EmptyLines);
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }

    /// Returns the refusal for a head that reaches the limit before its end.
    pub fn too_large(&self) -> Refusal {
        if self.started { Refusal::HeadTooLarge } else { Refusal::TargetTooLong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<usize>, Refusal>) {
        assert_eq!(HeadScan::default().advance(bytes), expected, "all at once");
        let mut scan = HeadScan::default();
        let mut last = Ok(None);
        for end in 0..=bytes.len() {
            last = scan.advance(&bytes[..end]);
            if last != Ok(None) {
                break;
            }
        }
        assert_eq!(last, expected, "byte by byte");
    }

    #[test]
    fn finds_the_end() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", Ok(Some(27)));
        check(b"\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(20)));
        check(b"a\r\n\r\n", Ok(Some(5)));
    }

    #[test]
    fn asks_for_more() {
        for bytes in [&b""[..], b"\r", b"\r\n", b"GET / HTTP/1.1", b"a\r\nb\r\n", b"a\r\nb\r\n\r"] {
            check(bytes, Ok(None));
        }
    }

    #[test]
    fn refuses() {
        check(b"GET / HTTP/1.1\nHost: a\n\n", Err(Refusal::BareLf));
        check(b"\n", Err(Refusal::BareLf));
        check(b"a\r\n\n", Err(Refusal::BareLf));
        check(b"a\rb\r\n\r\n", Err(Refusal::BareCr));
        check(b"a\r\r\n", Err(Refusal::BareCr));
        check(b"a\0b\r\n\r\n", Err(Refusal::Nul));
        check(b"\x16\x03\x01\0\xa5", Err(Refusal::Nul));
        check(b"\r\n\r\nGET", Err(Refusal::EmptyLines));
    }

    #[test]
    fn names_what_is_too_large() {
        let mut scan = HeadScan::default();
        scan.advance(b"GET /aaaa").unwrap();
        assert_eq!(scan.too_large(), Refusal::TargetTooLong);
        scan.advance(b"GET /aaaa HTTP/1.1\r\nB").unwrap();
        assert_eq!(scan.too_large(), Refusal::HeadTooLarge);
    }
}
