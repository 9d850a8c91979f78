//! A strict, resumable checker for chunked bodies (RFC 9112 §7.1).
//!
//! It looks at every byte that frames and none that doesn't, at any split of the input. What it
//! accepts goes on as it came, so it must accept nothing that a backend could read another way:
//! no LF for CRLF, no empty size, no white space after a size, nothing but the grammar in an
//! extension, no field in a trailer section that only a head may hold.
//!
//! An error takes back nothing that was passed on before, and needs not to: what has been
//! accepted is a prefix of a body, and the byte that completes it is accepted last.

use super::Refusal;
use super::field::{Name, classify, is_token_byte, is_value_byte};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Longest field name that `classify` knows.
const NAME_BYTES_MAX: usize = 20;

/// What comes next.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    /// The first digit of a size.
    SizeStart,
    /// More digits, an extension or the end of the line.
    Size,
    /// White space after a size or an extension: another one must follow.
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
    /// After a backslash in one.
    QuotedPair,
    /// After its end.
    AfterQuoted,
    /// The LF that ends the line of a size.
    SizeLf,
    /// Data of a chunk.
    Data,
    /// The CRLF after it.
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

/// A checker for one body; a new one for each message.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// Size so far while reading one, then what is left of the chunk's data.
    left: u64,
    /// Bytes of the current chunk line, or of the trailer section.
    line: u32,
    /// The start of the name of a trailer field, and how long the whole is.
    name: [u8; NAME_BYTES_MAX],
    name_len: u8,
}

impl Default for Chunked {
    fn default() -> Self {
        Chunked {
            state: State::SizeStart,
            left: 0,
            line: 0,
            name: [0; NAME_BYTES_MAX],
            name_len: 0,
        }
    }
}

impl Chunked {
    /// Checks a prefix of `bytes` and returns its length: all of them, unless the body ends before.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        self.run(bytes, |_| {})
    }

    /// Like `advance`, and appends the data of the chunks (no sizes, no trailers) to `out`.
    /// On an error `out` may hold data from before it.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        self.run(bytes, |data| out.extend_from_slice(data))
    }

    /// The body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of data that the current chunk still has to bring.
    pub fn data_left(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// Accounts for `count` bytes of data, at most `data_left`, that passed by another way.
    pub fn skip_data(&mut self, count: u64) {
        debug_assert!(count <= self.data_left(), "skipped past the end of a chunk");
        if count > 0 && self.state == State::Data {
            self.left = self.left.saturating_sub(count);
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    fn run(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let rest = bytes.len() - at;
                let count = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                data(&bytes[at..at + count]);
                self.skip_data(count as u64);
                at += count;
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// The state after a byte that is not data.
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
        let space = matches!(byte, b' ' | b'\t');
        Some(match (self.state, byte) {
            (State::SizeStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16)?;
                // 16 digits, so that zeros in front are bounded; 63 bits, as for Content-Length.
                if self.line > 16 || self.left > (i64::MAX as u64) >> 4 {
                    return None;
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }

            // chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ), §7.1.1
            (
                State::Size
                | State::ExtensionName
                | State::AfterName
                | State::ValueToken
                | State::AfterQuoted
                | State::BeforeSemicolon,
                b';',
            ) => State::BeforeName,
            (
                State::Size | State::ExtensionName | State::ValueToken | State::AfterQuoted,
                b'\r',
            ) => State::SizeLf,
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

            (State::SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line = 0;
                State::SizeStart
            }
            _ => return None,
        })
    }

    fn step_trailer(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        if self.line > TRAILER_BYTES_MAX {
            return None;
        }
        Some(match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::FinalLf,
            (State::FinalLf, b'\n') => State::Done,
            (State::TrailerStart, _) if is_token_byte(byte) => {
                self.name_len = 0;
                self.keep_name_byte(byte);
                State::TrailerName
            }
            (State::TrailerName, _) if is_token_byte(byte) => {
                self.keep_name_byte(byte);
                State::TrailerName
            }
            (State::TrailerName, b':') if self.is_allowed_in_trailer() => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_value_byte(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return None,
        })
    }

    fn keep_name_byte(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(usize::from(self.name_len)) {
            *place = byte;
        }
        // One more than fits means: longer than any name we know.
        self.name_len = (self.name_len + 1).min(NAME_BYTES_MAX as u8 + 1);
    }

    /// RFC 9110 §6.5.1: framing, routing and connection fields must not be sent as trailers. A
    /// backend that merges them into its fields would read a second Host or X-Forwarded-For.
    fn is_allowed_in_trailer(&self) -> bool {
        match self.name.get(..usize::from(self.name_len)) {
            Some(name) => classify(name) == Name::Plain,
            None => true,
        }
    }
}
