//! Addresses of backends: an IP address and a port, or a Unix socket.
//!
//! An address is the key of pools, gates, health and counters. So it is `Copy` and no larger than a
//! `SocketAddr`, and Unix sockets make TCP backends no more expensive: a Unix socket is a number
//! here, and its path is in a table of the process.

mod unix;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;
use std::sync::Arc;

use socket2::SockAddr;

pub use unix::{PathError, UnixPath, UnixSocket, prune};

/// Target of a connection to a backend.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// A TCP port at an IPv4 address.
    V4(SocketAddrV4),
    /// A TCP port at an IPv6 address.
    V6(SocketAddrV6),
    /// A Unix socket.
    Unix(UnixSocket),
}

/// Third word of a Unix socket. It is larger than any port.
const NO_PORT: u64 = 1 << 16;

const _: () = assert!(size_of::<Address>() == size_of::<SocketAddr>());

impl Address {
    /// Prefix of the text of a Unix socket.
    pub const UNIX: &str = "unix:";

    /// Returns IP address and port; `None` for a Unix socket.
    #[inline]
    pub fn ip(self) -> Option<SocketAddr> {
        match self {
            Address::V4(address) => Some(SocketAddr::V4(address)),
            Address::V6(address) => Some(SocketAddr::V6(address)),
            Address::Unix(_) => None,
        }
    }

    /// Whether the address is an IPv4 address.
    pub fn is_ipv4(self) -> bool {
        matches!(self, Address::V4(_))
    }

    /// Returns the address as three words, for counters. An IP address is 128 bits (IPv4 mapped
    /// into IPv6) and the port; a Unix socket is its number.
    pub fn to_words(self) -> [u64; 3] {
        let (ip, port) = match self {
            Address::V4(address) => (address.ip().to_ipv6_mapped(), address.port()),
            Address::V6(address) => (*address.ip(), address.port()),
            Address::Unix(socket) => return [0, socket.number(), NO_PORT],
        };
        let bits = ip.to_bits();
        [(bits >> 64) as u64, bits as u64, u64::from(port)]
    }

    /// Returns the address for these words.
    pub fn from_words(words: [u64; 3]) -> Address {
        if words[2] == NO_PORT {
            return Address::Unix(UnixSocket::from_number(words[1]));
        }
        let bits = u128::from(words[0]) << 64 | u128::from(words[1]);
        let ip = IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical();
        SocketAddr::new(ip, words[2] as u16).into()
    }

    /// Returns the path of a Unix socket. The path is not forgotten as long as the returned value
    /// exists.
    pub fn path(self) -> Option<Arc<UnixPath>> {
        match self {
            Address::V4(_) | Address::V6(_) => None,
            Address::Unix(socket) => socket.path(),
        }
    }

    /// Whether the address can be written as text. A Unix socket whose path is forgotten can't.
    pub fn is_known(self) -> bool {
        self.ip().is_some() || self.path().is_some()
    }

    /// Returns the address for system calls; `None` for a Unix socket whose path is forgotten. A
    /// path that a rule names is never forgotten.
    pub fn to_system(self) -> Option<SockAddr> {
        match self {
            Address::V4(address) => Some(address.into()),
            Address::V6(address) => Some(address.into()),
            Address::Unix(socket) => socket.path()?.to_system(),
        }
    }
}

impl From<SocketAddr> for Address {
    #[inline]
    fn from(address: SocketAddr) -> Address {
        match address {
            SocketAddr::V4(address) => Address::V4(address),
            SocketAddr::V6(address) => Address::V6(address),
        }
    }
}

/// Writes `host:port`, with brackets around an IPv6 address, or `unix:/path` or `unix:@abstract`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::V4(address) => address.fmt(f),
            Address::V6(address) => address.fmt(f),
            Address::Unix(socket) => socket.fmt(f),
        }
    }
}

/// Reads what `Display` writes.
impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Address, ()> {
        match text.strip_prefix(Address::UNIX) {
            Some(path) => UnixPath::get(path).map(|path| path.address()).map_err(|_| ()),
            None => text.parse::<SocketAddr>().map(Address::from).map_err(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_address_is_read_back() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:80", "unix:/run/text.sock", "unix:@text"] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in ["", "10.0.0.1", "localhost:80", "unix:", "unix:a", "/run/a.sock"] {
            assert_eq!(text.parse::<Address>(), Err(()), "{text}");
        }
    }

    #[test]
    fn words_are_those_of_one_address() {
        let texts = ["10.0.0.1:80", "10.0.0.1:81", "[::1]:80", "unix:/words/a", "unix:@words"];
        let words = texts.map(|text| text.parse::<Address>().expect("an address").to_words());
        assert!(words.map(|words| Address::from_words(words).to_string()).iter().eq(&texts));
        let mapped: Address = "[::ffff:10.0.0.1]:80".parse().expect("an address");
        assert_eq!(mapped.to_words(), words[0]);
    }

    #[test]
    fn system_gets_what_is_meant() {
        let system = |text: &str| text.parse::<Address>().ok()?.to_system();
        let tcp = system("[::1]:80").expect("an address");
        assert_eq!(tcp.as_socket(), Some("[::1]:80".parse().expect("an address")));
        let path = system("unix:/run/system.sock").expect("an address");
        let expected = std::path::Path::new("/run/system.sock");
        assert_eq!(path.as_pathname(), Some(expected));
        let name = system("unix:@system").expect("an address");
        assert_eq!(name.as_abstract_namespace(), Some(b"system".as_slice()));
    }
}
