//! The PROXY protocol, versions 1 and 2: what somebody in front of us says of whose connection this is, in a
//! header before its first byte (HAProxy's doc/proxy-protocol.txt). Pure.

use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, PartialResult, v1, v2};

/// What the bytes at the front say so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not enough.
    More,
    /// A header of so many bytes, and whose connection it is: nobody's but the sender's own where `None`.
    Header(usize, Option<SocketAddr>),
    /// No such header.
    Wrong,
}

/// Longest header of version 1, and of version 2 without its extensions (its address part at most).
const V1_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Looks for a header at the front, one of at most `longest` bytes.
pub fn header(bytes: &[u8], longest: usize) -> Seen {
    let is_v2 = V2_SIGNATURE.starts_with(&bytes[..bytes.len().min(V2_SIGNATURE.len())]);
    let is_v1 = b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]);
    if !is_v1 && !is_v2 {
        return Seen::Wrong;
    }
    let found = if is_v2 {
        let found = HeaderResult::parse(bytes);
        if found.is_incomplete() {
            return if bytes.len() < longest { Seen::More } else { Seen::Wrong };
        }
        found
    } else {
        // A line is read when it is whole: half a port number is one, too.
        let line = &bytes[..bytes.len().min(V1_MAX)];
        match line.windows(2).position(|end| end == b"\r\n") {
            Some(end) => HeaderResult::parse(&bytes[..end + 2]),
            None if bytes.len() < V1_MAX => return Seen::More,
            None => return Seen::Wrong,
        }
    };
    match found {
        HeaderResult::V1(Ok(header)) => {
            let source = match header.addresses {
                v1::Addresses::Tcp4(tcp) => Some((tcp.source_address.into(), tcp.source_port)),
                v1::Addresses::Tcp6(tcp) => Some((tcp.source_address.into(), tcp.source_port)),
                v1::Addresses::Unknown => None,
            };
            Seen::Header(header.header.len(), source.map(socket))
        }
        HeaderResult::V2(Ok(header)) => {
            let source = match (header.command, header.addresses) {
                // LOCAL: the sender speaks for itself, as when it looks whether we are well.
                (v2::Command::Local, _) => None,
                (v2::Command::Proxy, v2::Addresses::IPv4(tcp)) => {
                    Some((IpAddr::from(tcp.source_address), tcp.source_port))
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(tcp)) => {
                    Some((IpAddr::from(tcp.source_address), tcp.source_port))
                }
                (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            };
            Seen::Header(header.header.len(), source.map(socket))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Seen::Wrong,
    }
}

/// Appends the header for a connection of `source` that came to `target`.
pub fn write(version: Version, source: SocketAddr, target: SocketAddr, out: &mut Vec<u8>) {
    let (source, target) = alike(source, target);
    match version {
        Version::One => {
            out.extend_from_slice(v1::Addresses::from((source, target)).to_string().as_bytes());
        }
        Version::Two => {
            let kind = v2::Version::Two | v2::Command::Proxy;
            let addresses = (source, target);
            let header = v2::Builder::with_addresses(kind, v2::Protocol::Stream, addresses).build();
            // Addresses alone are never too long.
            out.extend(header.unwrap_or_default());
        }
    }
}

/// Which form a header has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Both of one family: a header has no room for two.
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

fn socket((address, port): (IpAddr, u16)) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: usize = 4096;

    fn of(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn v2(source: &str, target: &str) -> Vec<u8> {
        let kind = v2::Version::Two | v2::Command::Proxy;
        let addresses = (of(source), of(target));
        let header = v2::Builder::with_addresses(kind, v2::Protocol::Stream, addresses);
        header.write_tlv(v2::Type::NoOp, b"more").expect("room").build().expect("a header")
    }

    #[test]
    fn headers() {
        for (bytes, source) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(), Some("192.0.2.1:5000")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:ff 1 2 3\r\n".to_vec(), None),
            (v2("192.0.2.1:5000", "192.0.2.2:80"), Some("192.0.2.1:5000")),
            (v2("[2001:db8::1]:5000", "[2001:db8::2]:80"), Some("[2001:db8::1]:5000")),
            ([V2_SIGNATURE, &[0x20, 0, 0, 0]].concat(), None),
            (
                [V2_SIGNATURE, &[0x20, 0x11, 0, 12, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2]].concat(),
                None,
            ),
        ] {
            let expected = Seen::Header(bytes.len(), source.map(of));
            assert_eq!(header(&bytes, LONGEST), expected, "{bytes:?}");
            // what follows is not its business, whatever it is
            let longer = [&bytes[..], b"GET / \xff\r\n\r\n"].concat();
            assert_eq!(header(&longer, LONGEST), expected);
            for cut in 0..bytes.len() {
                assert_eq!(header(&bytes[..cut], LONGEST), Seen::More, "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn written_as_read() {
        for (source, target, line) in [
            ("192.0.2.1:5000", "192.0.2.2:80", "PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n"),
            (
                "[::ffff:192.0.2.1]:5000",
                "192.0.2.2:80",
                "PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n",
            ),
            ("[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
            ("[2001:db8::1]:1", "192.0.2.2:80", "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 1 80\r\n"),
        ] {
            let mut out = Vec::new();
            write(Version::One, of(source), of(target), &mut out);
            assert_eq!(String::from_utf8(out.clone()).as_deref(), Ok(line));
            let expected = Some(socket((of(source).ip(), of(source).port())));
            assert_eq!(header(&out, LONGEST), Seen::Header(out.len(), expected));
            out.clear();
            write(Version::Two, of(source), of(target), &mut out);
            assert_eq!(header(&out, LONGEST), Seen::Header(out.len(), expected));
        }
    }

    #[test]
    fn what_is_none() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"X",
            b"PROXX",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
            b"PROXY TCP4 192.0.2.999 192.0.2.2 5000 80\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 99999\r\n",
            b"\r\n\r\n\0\r\nQUIT\nx\x11\0\0",
            b"\r\n\r\nGET",
        ] {
            assert_eq!(header(bytes, LONGEST), Seen::Wrong, "{bytes:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(V1_MAX));
        assert_eq!(header(endless.as_bytes(), LONGEST), Seen::Wrong);
        let long = [V2_SIGNATURE, &[0x20, 0, 0xff, 0xff], &[0; 5000]].concat();
        assert_eq!(header(&long, LONGEST), Seen::Wrong);
    }

    proptest! {
        #[test]
        fn nothing_panics(start in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let start: &[u8] = [b"".as_slice(), b"PROXY TCP4 ", V2_SIGNATURE][start];
            let all = [start, &bytes].concat();
            if let Seen::Header(length, _) = header(&all, LONGEST) {
                prop_assert!(length <= all.len());
            }
        }
    }
}
