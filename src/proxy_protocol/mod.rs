//! The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): a header before the
//! first byte of a connection, in which a load balancer gives the address of the client. Pure.
//!
//! A header is refused if it is malformed, has a wrong checksum, or has an extension that ends past
//! its end. A header without the address of a TCP client (LOCAL, UNKNOWN, UNSPEC, UDP, Unix
//! sockets) is accepted, as in HAProxy: the connection then counts as the sender's own.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Meaning of the bytes that have been received so far.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// More bytes are needed.
    More,
    /// A whole header.
    Header(Header),
    /// The bytes are not a valid header.
    Wrong,
}

/// A header, and its statements about the connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of the header. The bytes that follow are from the client.
    pub length: usize,
    /// Address of the client; `None`: the connection is the sender's own.
    pub source: Option<SocketAddr>,
    /// Whether the client reached the sender over TLS.
    pub secure: bool,
}

/// Longest header of version 1 (§2.1).
const V1_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of signature, version and command, family, and length (§2.2).
const V2_FIXED_BYTES: usize = 16;
const UNIX_BYTES: usize = 216;
const TYPE_CRC32C: u8 = 3;
const TYPE_SSL: u8 = 0x20;
/// Bit in the first byte of [`TYPE_SSL`]: the client connected over TLS.
const CLIENT_SSL: u8 = 1;

/// Looks for a header at the front. The format itself bounds its length, to 65,551 bytes.
pub fn header(bytes: &[u8]) -> Seen {
    if V2_SIGNATURE.starts_with(&bytes[..bytes.len().min(V2_SIGNATURE.len())]) {
        return header_v2(bytes);
    }
    if !b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]) {
        return Seen::Wrong;
    }
    // The line is read only when it is complete, because half of a port number is a port number,
    // too.
    let line = &bytes[..bytes.len().min(V1_MAX)];
    match line.windows(2).position(|end| end == b"\r\n") {
        Some(end) => match source_v1(&line[..end]) {
            Some(source) => Seen::Header(Header { length: end + 2, source, secure: false }),
            None => Seen::Wrong,
        },
        None if bytes.len() < V1_MAX => Seen::More,
        None => Seen::Wrong,
    }
}

/// Returns the address in a line of version 1. The outer `None`: the line is malformed.
fn source_v1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let rest = line.strip_prefix(b"PROXY ")?;
    if rest.starts_with(b"UNKNOWN") {
        // §2.1: the rest of the line is ignored.
        return Some(None);
    }
    let text = std::str::from_utf8(rest).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, target, source_port, target_port] = words[..] else { return None };
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, _) = (address(source)?, address(target)?);
    let (port, _) = (port(source_port)?, port(target_port)?);
    Some(Some(SocketAddr::new(source.to_canonical(), port)))
}

/// Reads a port. Only digits are accepted; `parse` would also accept a sign.
fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn header_v2(bytes: &[u8]) -> Seen {
    // §2.2: an unknown version or command ends the connection.
    let (is_local, more) = match bytes.get(12) {
        Some(0x20) => (true, &bytes[13..]),
        Some(0x21) => (false, &bytes[13..]),
        Some(_) => return Seen::Wrong,
        None => return Seen::More,
    };
    if let Some(family) = more.first()
        && !is_local
        && (3 < family >> 4 || 2 < family & 15)
    {
        return Seen::Wrong;
    }
    let &[family, high, low, ..] = more else { return Seen::More };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let Some(whole) = bytes.get(..length) else { return Seen::More };
    if is_local {
        // Everything in it is ignored, the family too: with LOCAL, the sender itself has opened the
        // connection, such as for a health check.
        return Seen::Header(Header { length, source: None, secure: false });
    }
    match proxied(whole, family) {
        Some((source, secure)) => Seen::Header(Header { length, source, secure }),
        None => Seen::Wrong,
    }
}

/// Reads a whole header with the command PROXY; `None` if it is malformed.
fn proxied(whole: &[u8], family: u8) -> Option<(Option<SocketAddr>, bool)> {
    let rest = &whole[V2_FIXED_BYTES..];
    let (source, address_bytes) = match family >> 4 {
        1 => (v4(rest)?, 12),
        2 => (v6(rest)?, 36),
        3 => (None, rest.get(..UNIX_BYTES).map(|_| UNIX_BYTES)?),
        _ => {
            // The protocol does not define the address bytes here. HAProxy sends only extensions
            // (for a client of its Unix socket).
            let extensions = extensions(whole, V2_FIXED_BYTES);
            return match extensions {
                Extensions::Malformed => Some((None, false)),
                extensions => Some((None, extensions.secure()?)),
            };
        }
    };
    let is_stream = family & 15 == 1;
    let secure = extensions(whole, V2_FIXED_BYTES + address_bytes).secure()?;
    Some((source.filter(|_| is_stream), secure))
}

fn v4(rest: &[u8]) -> Option<Option<SocketAddr>> {
    let source: [u8; 4] = rest.first_chunk().copied()?;
    let port = rest.get(8..12)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some(Some(SocketAddr::new(Ipv4Addr::from(source).into(), port)))
}

fn v6(rest: &[u8]) -> Option<Option<SocketAddr>> {
    let source: [u8; 16] = rest.first_chunk().copied()?;
    let port = rest.get(32..36)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(source)).to_canonical(), port)))
}

/// Meaning of the extensions (TLVs) of a header.
enum Extensions {
    /// Whether the client came over TLS.
    Secure(bool),
    /// The checksum among the extensions is wrong.
    WrongSum,
    /// An extension ends past the end of the header.
    Malformed,
}

impl Extensions {
    fn secure(self) -> Option<bool> {
        match self {
            Extensions::Secure(secure) => Some(secure),
            Extensions::WrongSum | Extensions::Malformed => None,
        }
    }
}

/// Reads the extensions of `whole` from `at` on.
fn extensions(whole: &[u8], mut at: usize) -> Extensions {
    let mut secure = false;
    let mut sums = None;
    while at < whole.len() {
        let Some((kind, value)) = extension(&whole[at..]) else { return Extensions::Malformed };
        match (kind, value) {
            (TYPE_SSL, [client, _, _, _, _, more @ ..]) => {
                let mut more = more;
                while !more.is_empty() {
                    let Some((_, value)) = extension(more) else { return Extensions::Malformed };
                    more = &more[3 + value.len()..];
                }
                secure |= client & CLIENT_SSL != 0;
            }
            (TYPE_CRC32C, &[a, b, c, d]) => sums = Some((at + 3, u32::from_be_bytes([a, b, c, d]))),
            (TYPE_SSL | TYPE_CRC32C, _) => return Extensions::Malformed,
            _ => {}
        }
        at += 3 + value.len();
    }
    match sums {
        Some((at, sum)) if sum != crc32c(&[&whole[..at], &[0; 4], &whole[at + 4..]]) => {
            Extensions::WrongSum
        }
        _ => Extensions::Secure(secure),
    }
}

/// Returns the extension at the front, if it is complete.
fn extension(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let &[kind, high, low, ref rest @ ..] = bytes else { return None };
    let value = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value))
}

/// CRC-32C (RFC 9260, appendix A), reflected, over these parts one after the other.
fn crc32c(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut sum = index as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
                bit += 1;
            }
            table[index] = sum;
            index += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)];
    !parts.iter().copied().flatten().fold(!0, step)
}

/// Appends the header for a connection from `source` to `target`. Version 2 also says whether the
/// client came over TLS; version 1 has no field for that.
pub fn write(
    version: Version,
    (source, target): (SocketAddr, SocketAddr),
    secure: bool,
    out: &mut Vec<u8>,
) {
    let (source, target) = alike(source, target);
    match version {
        Version::One => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), target.ip());
            let ports = (source.port(), target.port());
            // Writing to a Vec can't fail.
            let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1);
        }
        Version::Two => {
            // Nothing is known about a certificate, so it counts as not verified.
            const OVER_TLS: [u8; 8] = [TYPE_SSL, 0, 5, CLIENT_SSL, 0, 0, 0, 1];
            let extensions: &[u8] = if secure { &OVER_TLS } else { &[] };
            let (family, address_bytes) = if source.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
            out.extend_from_slice(V2_SIGNATURE);
            out.extend_from_slice(&[0x21, family, 0, address_bytes + extensions.len() as u8]);
            for address in [source, target] {
                match address.ip() {
                    IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&target.port().to_be_bytes());
            out.extend_from_slice(extensions);
        }
    }
}

/// Form of a header.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Converts both addresses to the same family, because a header has only one family.
fn alike(source: SocketAddr, target: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
    let (source, target) = (canonical(source), canonical(target));
    if source.is_ipv4() == target.is_ipv4() {
        return (source, target);
    }
    let wide = |it: SocketAddr| match it.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), it.port()),
        IpAddr::V6(_) => it,
    };
    (wide(source), wide(target))
}

#[cfg(test)]
mod tests;
