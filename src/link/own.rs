//! The addresses on which this daemon itself listens, for clients and for management. No shard
//! connects to one of them, because a rule that leads there would forward each request in an
//! endless loop. A Unix socket is recognized by its file and not by its path, because many paths
//! may lead to one file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use rustix::fs::stat;

use crate::address::{Address, UnixSocket};

/// The addresses as bound; they never change while the daemon runs.
#[derive(Debug, Default)]
pub(crate) struct Own {
    tcp: Box<[SocketAddr]>,
    unix: Box<[FileId]>,
}

/// Device and inode, which identify a file whatever path leads to it.
type FileId = (u64, u64);

impl Own {
    /// Notes these addresses, and the files of the Unix sockets at these paths.
    pub(crate) fn new<'p>(tcp: Vec<SocketAddr>, unix: impl Iterator<Item = &'p Path>) -> Own {
        Own { tcp: tcp.into(), unix: unix.filter_map(file_at).collect() }
    }

    /// Whether connecting to `address` would lead to this daemon. `is_local` says whether an
    /// address belongs to this machine; it is called only if the result depends on it.
    pub(crate) fn has(&self, address: Address, is_local: impl Fn(IpAddr) -> bool) -> bool {
        match address {
            Address::V4(address) => self.has_tcp(address.into(), is_local),
            Address::V6(address) => self.has_tcp(address.into(), is_local),
            Address::Unix(socket) => self.has_unix() && self.is_unix(socket),
        }
    }

    /// Whether this daemon listens on any Unix socket.
    pub(crate) fn has_unix(&self) -> bool {
        !self.unix.is_empty()
    }

    /// Whether this daemon listens on the Unix socket. It never listens on an abstract name.
    pub(crate) fn is_unix(&self, socket: UnixSocket) -> bool {
        let path = socket.path().filter(|path| path.abstract_name().is_none());
        let file = path.and_then(|path| file_at(Path::new(path.as_str())));
        file.is_some_and(|file| self.unix.contains(&file))
    }

    fn has_tcp(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        // Nearly always the ports differ, and nothing else has to be compared.
        if self.tcp.iter().all(|own| own.port() != address.port()) {
            return false;
        }
        let ip = reached(address.ip());
        self.tcp.iter().filter(|own| own.port() == address.port()).any(|own| match own.ip() {
            IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4() && is_local(ip),
            // A socket bound to `::` accepts IPv4, too.
            IpAddr::V6(any) if any.is_unspecified() => is_local(ip),
            own => own.to_canonical() == ip,
        })
    }
}

/// The file that connecting to a path leads to, through symbolic links.
fn file_at(path: &Path) -> Option<FileId> {
    stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Address that is reached by connecting to `ip`.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Whether this machine has an address. The kernel's choice of a source address tells: packets to
/// an own address are sent from that same address (whatever `ip_nonlocal_bind` allows). Nothing is
/// sent.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn own_addresses_are_known_by_whatever_leads_there() {
        let own = |bound: &str, asked: &str| {
            Own::new(vec![address("192.0.2.9:9"), address(bound)], std::iter::empty())
                .has(address(asked).into(), |ip| {
                    ip.is_loopback() || ip == address("192.0.2.1:1").ip()
                })
        };
        for (bound, asked, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("127.0.0.1:80", "[::1]:80", false),
            ("[::1]:80", "[::]:80", true),
            ("0.0.0.0:80", "127.9.9.9:80", true),
            ("0.0.0.0:80", "192.0.2.1:80", true),
            ("0.0.0.0:80", "192.0.2.2:80", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "192.0.2.1:80", true),
            ("[::]:80", "192.0.2.2:80", false),
        ] {
            assert_eq!(own(bound, asked), expected, "{bound} {asked}");
        }
    }

    #[test]
    fn addresses_of_others_are_not_local() {
        assert!(is_local(address("127.0.0.2:1").ip()) && is_local(address("[::1]:1").ip()));
        assert!(!is_local(address("192.0.2.1:1").ip()));
        assert!(!is_local(address("[2001:db8::1]:1").ip()));
    }
}
