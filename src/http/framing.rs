//! Finds where a body ends: the rules of RFC 9112 §6.3, for requests and for responses.
//!
//! Ambiguous lengths are refused alike in requests and in responses. The RFC allows a recipient to
//! repair some of them (a Content-Length beside Transfer-Encoding, a repeated equal length). Those
//! are refused as well, because the next recipient may repair them in the other way.

use super::field::{Once, Survey};
use super::{Method, Refusal, Version};

/// Way in which the body of a request ends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum RequestFraming {
    /// No body (§6.3 rule 7).
    None,
    /// The body ends after this many bytes.
    Length(u64),
    /// The body ends with the last chunk and its trailer section.
    Chunked,
}

/// Way in which the body of a response ends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ResponseFraming {
    /// No body, whatever the fields say: a response to HEAD, or 1xx, 204, 304 (§6.3 rule 1).
    None,
    /// The body ends after this many bytes.
    Length(u64),
    /// The body ends with the last chunk and its trailer section.
    Chunked,
    /// The body ends with the connection (§6.3 rule 8).
    UntilClose,
}

/// Meaning of the two framing fields, if they agree.
#[derive(Copy, Clone, Debug)]
pub(super) enum Lengths {
    Neither,
    Length(u64),
    Chunked,
}

impl Lengths {
    /// Applies rules 3 to 6 of RFC 9112 §6.3, each in its strict reading.
    pub(super) fn of(survey: &Survey<'_>, version: Version) -> Result<Lengths, Refusal> {
        match (survey.coding, survey.length) {
            (Once::Absent, Once::Absent) => Ok(Lengths::Neither),
            (Once::Absent, Once::Value(value)) => length(value).map(Lengths::Length),
            (Once::Absent, Once::Repeated) => Err(Refusal::DifferingLengths),
            // §6.1: a Transfer-Encoding in HTTP/1.0 means faulty framing.
            _ if version == Version::Http10 => Err(Refusal::TransferCodingIn10),
            (_, Once::Value(_) | Once::Repeated) => Err(Refusal::BothLengths),
            (Once::Value(value), _) if value.eq_ignore_ascii_case(b"chunked") => {
                Ok(Lengths::Chunked)
            }
            (Once::Value(_) | Once::Repeated, _) => Err(Refusal::BadTransferCoding),
        }
    }
}

/// Reads a length, `1*DIGIT`, of at most 63 bits, because many backends keep it in a signed number.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() {
        return Err(Refusal::BadLength);
    }
    let mut length = 0i64;
    for &digit in value {
        if !digit.is_ascii_digit() {
            return Err(Refusal::BadLength);
        }
        length = length
            .checked_mul(10)
            .and_then(|length| length.checked_add(i64::from(digit - b'0')))
            .ok_or(Refusal::BadLength)?;
    }
    Ok(length as u64)
}

impl RequestFraming {
    pub(super) fn of(survey: &Survey<'_>, version: Version) -> Result<RequestFraming, Refusal> {
        Ok(match Lengths::of(survey, version)? {
            Lengths::Neither => RequestFraming::None,
            Lengths::Length(length) => RequestFraming::Length(length),
            Lengths::Chunked => RequestFraming::Chunked,
        })
    }
}

impl ResponseFraming {
    /// Finds out how the body of a response ends. `to` is the method of the request.
    pub(super) fn of(lengths: Lengths, status: u16, to: Method) -> ResponseFraming {
        if to == Method::Head || status < 200 || status == 204 || status == 304 {
            return ResponseFraming::None;
        }
        match lengths {
            Lengths::Neither => ResponseFraming::UntilClose,
            Lengths::Length(length) => ResponseFraming::Length(length),
            Lengths::Chunked => ResponseFraming::Chunked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_digits_of_63_bits() {
        for (value, expected) in [
            ("0", Ok(0)),
            ("5", Ok(5)),
            ("0005", Ok(5)),
            ("9223372036854775807", Ok(i64::MAX as u64)),
            ("9223372036854775808", Err(Refusal::BadLength)),
            ("99999999999999999999999999", Err(Refusal::BadLength)),
            ("", Err(Refusal::BadLength)),
            ("+1", Err(Refusal::BadLength)),
            ("-1", Err(Refusal::BadLength)),
            ("1,1", Err(Refusal::BadLength)),
            ("1 1", Err(Refusal::BadLength)),
            ("0x10", Err(Refusal::BadLength)),
            ("5;", Err(Refusal::BadLength)),
            ("\u{663}", Err(Refusal::BadLength)),
        ] {
            assert_eq!(length(value.as_bytes()), expected, "{value:?}");
        }
    }
}
