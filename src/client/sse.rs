//! Parser of server-sent events from bytes, however these are split (WHATWG HTML §9.2.6, without
//! `id` and `retry`, which the daemon does not send).

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// `change`, `traffic`, …; `message` if the event has no name.
    pub kind: String,
    pub data: String,
}

/// Longest event that is read. `traffic` of a thousand hosts is some 500 kB, so a far longer event
/// is none of the daemon's.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// Error for an event that is longer than any of the daemon's.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Default)]
pub struct Parser {
    /// The line that has begun, but not ended.
    line: Vec<u8>,
    /// Whether the last byte was a CR: an LF after it belongs to the same line end.
    after_cr: bool,
    kind: String,
    data: String,
    has_data: bool,
}

impl Parser {
    /// Takes bytes as they come, and gives `each` the events that they complete.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) -> Result<(), TooLong> {
        for &byte in bytes {
            let is_end = byte == b'\r' || (byte == b'\n' && !self.after_cr);
            if is_end {
                let line = std::mem::take(&mut self.line);
                if let Some(event) = self.end_line(&String::from_utf8_lossy(&line)) {
                    each(event);
                }
            } else if byte != b'\n' {
                self.line.push(byte);
            }
            self.after_cr = byte == b'\r';
        }
        let is_too_long = EVENT_BYTES_MAX < self.line.len() + self.data.len();
        if is_too_long { Err(TooLong) } else { Ok(()) }
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            let is_event = std::mem::take(&mut self.has_data);
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return is_event.then_some(Event { kind, data });
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // comments, which keep the connection alive, and fields that we don't know
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.take(piece, |event| events.push(event)).expect("short events");
        }
        events
    }

    fn event(kind: &str, data: &str) -> Event {
        Event { kind: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn as_the_daemon_sends_them() {
        let text =
            b"event: hello\ndata: {\"rules\": 1}\n\n:\n\nevent: change\ndata: {}\n\ndata: half";
        let expected = [event("hello", "{\"rules\": 1}"), event("change", "{}")];
        assert_eq!(events(&[text]), expected);
    }

    #[test]
    fn other_forms_of_the_format_are_read() {
        for (text, expected) in [
            ("data: a\r\n\r\n", vec![event("message", "a")]),
            ("data: a\r\rdata: b\n\n", vec![event("message", "a"), event("message", "b")]),
            ("data: a\ndata:b\ndata\n\n", vec![event("message", "a\nb\n")]),
            ("event: x\n\ndata:  y\n\n", vec![event("message", " y")]),
            (": comment\nid: 3\nretry: 5\nfoo\ndata: z\n\n", vec![event("message", "z")]),
            ("\n\n\n", vec![]),
        ] {
            assert_eq!(events(&[text.as_bytes()]), expected, "{text:?}");
        }
    }

    #[test]
    fn an_event_without_an_end() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert_eq!(parser.take(&piece, |_| ()), Ok(()));
        assert_eq!(parser.take(&piece, |_| ()), Ok(()));
        assert_eq!(parser.take(b"x", |_| ()), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            text in "(event|data|:|\r|\n| |x|: ){0,40}",
            at in 0..200_usize,
        ) {
            let bytes = text.as_bytes();
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(events(&[left, right]), events(&[bytes]));
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(events(&singles), events(&[bytes]));
        }
    }
}
