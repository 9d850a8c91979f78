//! The beginning of a TLS connection: reads the server name in the ClientHello (RFC 8446 §4.1.2,
//! RFC 6066 §3). Nothing is decrypted, answered or changed. Pure.
//!
//! A hello may be cut into records at any byte, and records into segments. Unknown extensions (such
//! as GREASE, RFC 8701) are ignored. In an encrypted hello (ECH) the outer name counts: it is the
//! one that proxies are meant to see.

use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_client_hello_extensions,
    parse_tls_message_handshake,
};

const RECORD_HEAD: usize = 5;
const HANDSHAKE_HEAD: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Longest plaintext of a record (RFC 8446 §5.1).
const RECORD_MAX: usize = 1 << 14;

/// Result of reading the bytes that a client has sent so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The ClientHello is not complete: look again when there are this many bytes.
    More(usize),
    /// The hello is complete, and names this server, or none.
    Hello(Option<Box<[u8]>>),
    /// The bytes are not TLS, or not a valid beginning of TLS.
    Wrong(&'static str),
}

/// Fatal alerts that tell a client why its connection fails (RFC 8446 §6).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Alert {
    /// The server name has no rule.
    UnrecognizedName = 112,
    /// The rule of the server name does not accept connections like this.
    AccessDenied = 49,
    /// The backend can't be reached now.
    InternalError = 80,
    /// The bytes were not a ClientHello.
    DecodeError = 50,
}

impl Alert {
    /// Returns the TLS record of the alert.
    pub fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// Looks for a complete ClientHello at the front of `bytes`. With its records it may have at most
/// `longest` bytes.
pub fn client_hello(bytes: &[u8], longest: usize) -> Seen {
    let mut message: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        let Some(head) = bytes.get(at..at + RECORD_HEAD) else {
            // The bytes that are there may be wrong already.
            return match bytes[at..] {
                [kind, ..] if kind != HANDSHAKE => Seen::Wrong("no handshake record"),
                _ => more(at + RECORD_HEAD, longest),
            };
        };
        let length = usize::from(head[3]) << 8 | usize::from(head[4]);
        if head[0] != HANDSHAKE || head[1] != 3 {
            return Seen::Wrong("no handshake record");
        }
        if length == 0 || RECORD_MAX < length {
            return Seen::Wrong("a record of an impossible length");
        }
        let end = at + RECORD_HEAD + length;
        message.extend_from_slice(&bytes[at + RECORD_HEAD..end.min(bytes.len())]);
        if let Some(head) = message.first_chunk::<HANDSHAKE_HEAD>() {
            let [kind, high, middle, low] = *head;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if kind != CLIENT_HELLO {
                return Seen::Wrong("no ClientHello");
            }
            let whole = HANDSHAKE_HEAD + length;
            if longest < whole {
                return Seen::Wrong("a ClientHello that is too long");
            }
            if whole <= message.len() {
                return server_name(&message[..whole]);
            }
        } else if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Seen::Wrong("no ClientHello");
        }
        if bytes.len() < end {
            return more(end, longest);
        }
        at = end;
    }
}

fn more(needed: usize, longest: usize) -> Seen {
    match needed <= longest {
        true => Seen::More(needed),
        false => Seen::Wrong("a ClientHello that is too long"),
    }
}

/// Returns the server name in a complete ClientHello.
fn server_name(message: &[u8]) -> Seen {
    let hello = match parse_tls_message_handshake(message) {
        Ok(([], TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) => hello,
        _ => return Seen::Wrong("a ClientHello that is not formed as one"),
    };
    let Some(extensions) = hello.ext else { return Seen::Hello(None) };
    let Ok(([], extensions)) = parse_tls_client_hello_extensions(extensions) else {
        return Seen::Wrong("extensions that are not formed as such");
    };
    let mut found = None;
    for extension in &extensions {
        let TlsExtension::SNI(names) = extension else { continue };
        for (kind, name) in names {
            // Only one host name, in one extension, is accepted: several could be read in two ways.
            if *kind == SNIType::HostName && found.replace(*name).is_some() {
                return Seen::Wrong("two server names");
            }
        }
    }
    Seen::Hello(found.map(Box::from))
}

#[cfg(test)]
mod tests;
