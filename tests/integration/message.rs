//! HTTP/1 messages as the tests see them, and bytes made readable for panic messages.
//! Deliberately naive and strict: it understands what our tests send and what a correct proxy may
//! write, and fails loudly on anything else.

/// A head taken apart. Bytes above 0x7F are kept as the character of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
    /// Length on the wire, the final empty line included.
    pub bytes: usize,
}

impl Head {
    /// `bytes` ends with the empty line. Fails on anything but strict CRLF lines.
    pub fn parse(bytes: &[u8]) -> Head {
        let text = latin(bytes);
        let bare = text.replace("\r\n", "");
        assert!(
            !bare.contains(['\r', '\n', '\0']),
            "a bare CR, LF or NUL in a head:\n{}",
            show(bytes)
        );
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| {
                    panic!("a field without a colon: {line:?} in\n{}", show(bytes))
                });
                (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
            })
            .collect();
        Head { start, fields, bytes: bytes.len() }
    }

    /// The value of a field that may occur at most once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} occurs {} times in\n{self:#?}", all.len());
        all.first().copied()
    }

    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The status of an answer; fails unless the version is ours.
    pub fn status(&self) -> u16 {
        let rest = self.start.strip_prefix("HTTP/1.1 ");
        let rest = rest.unwrap_or_else(|| panic!("not an HTTP/1.1 status line: {:?}", self.start));
        let (digits, _reason) = rest.split_once(' ').unwrap_or((rest, ""));
        assert!(digits.len() == 3, "not a status: {:?}", self.start);
        digits.parse().unwrap_or_else(|_| panic!("not a status: {:?}", self.start))
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_else(|| panic!("no target: {:?}", self.start))
    }

    /// How the body of this answer ends (RFC 9112 §6.3), unless it answers HEAD.
    pub fn framing(&self) -> Framing {
        let status = self.status();
        if status < 200 || status == 204 || status == 304 {
            return Framing::None;
        }
        match (self.field("Transfer-Encoding"), self.field("Content-Length")) {
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().expect("a Content-Length")),
            (None, None) => Framing::UntilClose,
            both => panic!("ambiguous framing {both:?} in an answer:\n{self:#?}"),
        }
    }

    /// Whether the sender says that it closes the connection after this message.
    pub fn says_close(&self) -> bool {
        self.all("Connection").iter().any(|value| value.to_ascii_lowercase().contains("close"))
    }

    /// The head as lines, without the forwarding fields that the proxy sets: for comparisons.
    pub fn lines(&self) -> String {
        let ours = ["x-forwarded-for", "x-forwarded-proto"];
        let mut text = format!("{}\n", self.start);
        for (name, value) in &self.fields {
            if !ours.contains(&name.to_ascii_lowercase().as_str()) {
                text.push_str(&format!("{name}: {value}\n"));
            }
        }
        text
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        latin(&self.body)
    }
}

/// Bytes as a string, one character each.
pub fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte as char).collect()
}

/// Bytes for people: escaped, a line each, cut where it gets long.
pub fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2000;
    let shown = &bytes[..bytes.len().min(SHOWN_MAX)];
    let mut text = shown.escape_ascii().to_string().replace("\\n", "\\n\n");
    if bytes.len() > SHOWN_MAX {
        text.push_str(&format!("… and {} bytes more", bytes.len() - SHOWN_MAX));
    }
    text
}

/// Fails with both sides printed when they differ.
#[track_caller]
pub fn assert_same(what: &str, expected: &[u8], found: &[u8]) {
    if expected == found {
        return;
    }
    let same = expected.iter().zip(found).take_while(|(left, right)| left == right).count();
    panic!(
        "{what} differs from byte {same} on\n--- expected ({} bytes)\n{}\n--- found ({} bytes)\n{}\n---",
        expected.len(),
        show(expected),
        found.len(),
        show(found)
    );
}

/// `data` as one chunk, without the last chunk.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// An answer with a length, as our backends send most.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A GET without a body.
pub fn get(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}
