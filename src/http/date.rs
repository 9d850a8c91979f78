//! Dates in the form of HTTP: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// A date as text, made once and copied into every message of the same second.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HttpDate([u8; 29]);

/// End of the year 9999, because the year has only four digits.
const SECONDS_MAX: u64 = 253_402_300_799;

impl HttpDate {
    /// Makes the date of `seconds` since 1970.
    pub fn at(seconds: u64) -> HttpDate {
        let moment = UNIX_EPOCH + Duration::from_secs(seconds.min(SECONDS_MAX));
        let mut text = [b' '; 29];
        // The text is exactly as long as the array.
        let written = write!(&mut text[..], "{}", httpdate::HttpDate::from(moment));
        debug_assert!(written.is_ok(), "a date outgrew its room");
        HttpDate(text)
    }

    /// Appends the whole field line.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(&self.0);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_fit_their_room() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(HttpDate::at(seconds).0, expected.as_bytes(), "{seconds}");
        }
    }
}
