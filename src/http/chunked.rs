//! A strict, resumable checker for chunked bodies (RFC 9112 §7.1).
//!
//! The checker reads every byte of the framing and skips the data, however the input is split.
//! Accepted bytes are forwarded as they came, so the checker must not accept anything that a
//! backend could read in another way: no LF for CRLF, no empty size, no white space after a size,
//! only extensions that follow the grammar, no trailer that only a head may have. A trailer
//! section with a field is kept back until it is complete, because some of its lines may have to
//! be removed.
//!
//! At an error, bytes that were forwarded before can't be taken back. This is no danger: they are
//! only a prefix of a body, because the byte that completes the body is accepted last.

use super::Refusal;
use super::field::{Name, Named, classify, is_token_byte, is_value_byte};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Rules that say which trailers are forwarded (RFC 9110 §6.5.1). They follow from the head of the
/// message and its sender.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TrailerRules {
    whose: Whose,
    named: Named,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Whose {
    Request(Ours),
    Response,
}

/// Fields of a request that only Mantrid may write. A single byte, because each connection keeps
/// one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Ours {
    Nothing,
    Id,
    Forwarding,
    ForwardingAndId,
}

/// Decision about a trailer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Passes,
    Stays,
    Refused,
}

impl TrailerRules {
    pub(super) fn of_request(named: Named, trusted: bool, has_our_id: bool) -> TrailerRules {
        let ours = match (trusted, has_our_id) {
            (true, false) => Ours::Nothing,
            (true, true) => Ours::Id,
            (false, false) => Ours::Forwarding,
            (false, true) => Ours::ForwardingAndId,
        };
        TrailerRules { whose: Whose::Request(ours), named }
    }

    pub(super) fn of_response(named: Named) -> TrailerRules {
        TrailerRules { whose: Whose::Response, named }
    }

    /// Keeps trailers of this name back, however it is spelled.
    pub fn keep_back(&mut self, name: &[u8]) {
        self.named.insert(name);
    }

    /// Decides about a trailer by its name. A request is refused if a trailer is about framing,
    /// routing or the connection: a backend that merges trailers into the fields would read a
    /// second Host, for example. In a response such trailers are only removed: frameworks write
    /// them, clients ignore them, and the response itself is valid.
    pub(super) fn verdict(&self, name: &[u8]) -> Verdict {
        let passes = |passes| if passes { Verdict::Passes } else { Verdict::Stays };
        match (classify(name), self.whose) {
            (Name::Plain | Name::Date, _) => passes(!self.named.contains(name)),
            (Name::Via, _) => Verdict::Passes,
            (Name::RequestId, Whose::Request(ours)) => {
                passes(matches!(ours, Ours::Nothing | Ours::Forwarding))
            }
            (
                Name::Forwarding | Name::ForwardedProto | Name::ForwardedProtocol,
                Whose::Request(ours),
            ) => passes(matches!(ours, Ours::Nothing | Ours::Id)),
            (_, Whose::Request(_)) => Verdict::Refused,
            (
                Name::ContentLength
                | Name::TransferEncoding
                | Name::Trailer
                | Name::Connection
                | Name::Upgrade
                | Name::Te
                | Name::Hop,
                Whose::Response,
            ) => Verdict::Stays,
            (_, Whose::Response) => Verdict::Passes,
        }
    }
}

/// Result of checking a piece of a body.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Bytes that belong to the body: all, unless the body ends before.
    pub consumed: usize,
    /// Bytes of the body that are forwarded as they came. They are fewer than `consumed` if a
    /// trailer section has begun: then [`Chunked::take_trailer`] has the rest once the body is
    /// complete.
    pub as_is: usize,
}

/// Part of the grammar that comes next.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    /// The first digit of a size.
    SizeStart,
    /// More digits, an extension or the end of the line.
    Size,
    /// White space after a size or an extension: another extension must follow.
    BeforeSemicolon,
    /// White space before the name of an extension.
    BeforeName,
    /// The name of an extension, at least one byte of it read.
    ExtensionName,
    /// White space after a name: `=` or another extension must follow.
    AfterName,
    /// White space before the value of an extension.
    BeforeValue,
    /// A token as value, at least one byte of it read.
    ValueToken,
    /// Inside a quoted string.
    Quoted,
    /// The byte behind a backslash in a quoted string.
    QuotedPair,
    /// The byte behind the end of a quoted string.
    AfterQuoted,
    /// The LF that ends the line of a size.
    SizeLf,
    /// Data of a chunk.
    Data,
    /// The CRLF after the data.
    DataCr,
    DataLf,
    /// The first byte of a trailer field, or of the final CRLF.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Done,
}

/// Checker for the body of one message.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// Whether the trailer line that is being read is removed.
    stays: bool,
    /// Whether a trailer section is kept back.
    keeps: bool,
    /// Bytes of the current chunk line, or of the trailer section.
    line: u32,
    /// While a size is read, the size so far; then the bytes that are left of the chunk's data.
    left: u64,
    rules: TrailerRules,
    /// Lines of the trailer section that will be forwarded, and the line that is being read.
    trailer: Vec<u8>,
    /// Start of the line that is being read, in `trailer`.
    trailer_line: u32,
}

impl Chunked {
    /// Makes a checker for the body of a message whose head gave these rules.
    pub fn new(rules: TrailerRules) -> Chunked {
        Chunked {
            state: State::SizeStart,
            stays: false,
            keeps: false,
            line: 0,
            left: 0,
            rules,
            trailer: Vec::new(),
            trailer_line: 0,
        }
    }

    /// Checks the bytes of the body at the front of `bytes`.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Passed, Refusal> {
        self.run(bytes, |_| {})
    }

    /// Advances as `advance` does, and counts the bytes of data.
    pub fn advance_counting(&mut self, bytes: &[u8]) -> Result<(Passed, u64), Refusal> {
        let mut count = 0;
        let passed = self.run(bytes, |data| count += data.len() as u64)?;
        Ok((passed, count))
    }

    /// Advances as `advance` does, and appends the data of the chunks (no sizes, no trailers) to
    /// `out`. After an error, `out` may have the data from before it. Returns how many bytes belong
    /// to the body.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        self.run(bytes, |data| out.extend_from_slice(data)).map(|passed| passed.consumed)
    }

    /// Returns the end of a complete body, with the trailers that are forwarded, if it was kept
    /// back.
    pub fn take_trailer(&mut self) -> Option<Vec<u8>> {
        (self.is_done() && self.keeps).then(|| {
            self.keeps = false;
            std::mem::take(&mut self.trailer)
        })
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Number of bytes of data that are left in the current chunk.
    pub fn data_left(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// Accounts for `count` bytes of data, at most `data_left`, that were forwarded without the
    /// checker.
    pub fn skip_data(&mut self, count: u64) {
        debug_assert!(count <= self.data_left(), "skipped past the end of a chunk");
        if count > 0 && self.state == State::Data {
            self.left = self.left.saturating_sub(count);
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    fn run(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<Passed, Refusal> {
        let mut at = 0;
        let mut kept_from = self.keeps.then_some(0);
        while at < bytes.len() && self.state != State::Done {
            match self.state {
                State::Data => {
                    let rest = bytes.len() - at;
                    let count = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                    data(&bytes[at..at + count]);
                    self.skip_data(count as u64);
                    at += count;
                }
                State::SizeStart => {
                    at += plain_chunks(&bytes[at..], &mut data);
                    if let Some(&byte) = bytes.get(at) {
                        self.state = self.step(byte)?;
                        at += 1;
                    }
                }
                _ => {
                    self.state = self.step(bytes[at])?;
                    if self.keeps && kept_from.is_none() {
                        kept_from = Some(at);
                    }
                    at += 1;
                }
            }
        }
        Ok(Passed { consumed: at, as_is: kept_from.unwrap_or(at) })
    }

    /// Returns the state after a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        match self.state {
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::FinalLf => self.step_trailer(byte).ok_or(Refusal::BadTrailer),
            _ => self.step_chunk(byte).ok_or(Refusal::BadChunk),
        }
    }

    fn step_chunk(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        if self.line > CHUNK_LINE_BYTES_MAX {
            return None;
        }
        Some(match (self.state, byte) {
            (State::SizeStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16)?;
                // At most 16 digits, so that leading zeros are bounded, and 63 bits, as for
                // Content-Length.
                if self.line > 16 || self.left > (i64::MAX as u64) >> 4 {
                    return None;
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (
                State::Size | State::ExtensionName | State::ValueToken | State::AfterQuoted,
                b'\r',
            ) => State::SizeLf,
            (State::SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line = 0;
                State::SizeStart
            }
            (state, _) => return step_extension(state, byte),
        })
    }

    fn step_trailer(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        if self.line > TRAILER_BYTES_MAX {
            return None;
        }
        let state = match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::FinalLf,
            (State::FinalLf, b'\n') => State::Done,
            (State::TrailerStart, _) if is_token_byte(byte) => {
                self.keeps = true;
                State::TrailerName
            }
            (State::TrailerName, _) if is_token_byte(byte) => State::TrailerName,
            (State::TrailerName, b':') => {
                match self.rules.verdict(&self.trailer[self.trailer_line as usize..]) {
                    Verdict::Refused => return None,
                    verdict => self.stays = verdict == Verdict::Stays,
                }
                State::TrailerValue
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_value_byte(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return None,
        };
        if self.keeps {
            self.trailer.push(byte);
        }
        if self.state == State::TrailerLf {
            if self.stays {
                self.trailer.truncate(self.trailer_line as usize);
            }
            self.trailer_line = self.trailer.len() as u32;
        }
        Some(state)
    }
}

/// Returns the state after a byte of an extension (RFC 9112 §7.1.1): `chunk-ext = *( BWS ";" BWS
/// chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`.
#[inline]
fn step_extension(state: State, byte: u8) -> Option<State> {
    let space = matches!(byte, b' ' | b'\t');
    Some(match (state, byte) {
        (
            State::Size
            | State::ExtensionName
            | State::AfterName
            | State::ValueToken
            | State::AfterQuoted
            | State::BeforeSemicolon,
            b';',
        ) => State::BeforeName,
        (State::Size | State::ValueToken | State::AfterQuoted | State::BeforeSemicolon, _)
            if space =>
        {
            State::BeforeSemicolon
        }
        (State::BeforeName, _) if space => State::BeforeName,
        (State::BeforeName | State::ExtensionName, _) if is_token_byte(byte) => {
            State::ExtensionName
        }
        (State::ExtensionName | State::AfterName, b'=') => State::BeforeValue,
        (State::ExtensionName | State::AfterName, _) if space => State::AfterName,
        (State::BeforeValue, _) if space => State::BeforeValue,
        (State::BeforeValue, b'"') => State::Quoted,
        (State::BeforeValue | State::ValueToken, _) if is_token_byte(byte) => State::ValueToken,
        (State::Quoted, b'"') => State::AfterQuoted,
        (State::Quoted, b'\\') => State::QuotedPair,
        (State::Quoted | State::QuotedPair, _) if is_value_byte(byte) => State::Quoted,
        _ => return None,
    })
}

/// Values of the hexadecimal digits, by byte; `NO_DIGIT` for other bytes.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xff;

/// Gives `data` the data of the complete chunks at the front that have no extension and are not the
/// last chunk; returns their length. Nearly all small chunks are like this, and for these a step
/// for each byte would cost too much.
fn plain_chunks(bytes: &[u8], data: &mut impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some((line, size)) = plain_size(&bytes[at..])
        && let start = at + line
        && let Some([b'\r', b'\n']) = bytes.get(start + size..start + size + 2)
    {
        data(&bytes[start..start + size]);
        at = start + size + 2;
    }
    at
}

/// Returns the length of the size line and the size of a chunk, if the chunk is not the last and
/// has no extension.
fn plain_size(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut size = 0;
    // No chunk that fits into one receive has more digits. Those with more are left to the checker.
    for (count, &byte) in bytes.iter().enumerate().take(7) {
        let digit = DIGITS[usize::from(byte)];
        if digit == NO_DIGIT {
            let is_line = byte == b'\r' && bytes.get(count + 1) == Some(&b'\n');
            return (is_line && 0 < size).then_some((count + 2, size));
        }
        size = size << 4 | usize::from(digit);
    }
    None
}
