//! Address of the management API: `http://HOST[:PORT]`, `unix:/PATH`, or `--socket`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// Port on which the daemon listens unless its configuration says otherwise.
const PORT: u16 = 8042;
const EXPECTED: &str = "expected http://HOST[:PORT] or unix:/PATH";

/// Address of the management API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `host` is a name or an address, IPv6 without brackets.
    Tcp { host: String, port: u16 },
    /// A path.
    Socket(PathBuf),
}

impl Address {
    /// The API of a daemon on this machine that has its default configuration.
    pub fn local() -> Address {
        Address::Tcp { host: "localhost".to_owned(), port: PORT }
    }

    /// Reads what `--url` and `MANTRID_URL` take. The error says what was expected.
    pub fn read(url: &str) -> Result<Address, String> {
        let url = url.trim();
        if let Some(path) = url.strip_prefix("unix:") {
            return match path.strip_prefix("//").unwrap_or(path) {
                path if path.starts_with('/') => Ok(Address::Socket(path.into())),
                _ => Err(format!("{url:?} has no absolute path: {EXPECTED}")),
            };
        }
        let lower = url.to_ascii_lowercase();
        if lower.starts_with("https://") {
            return Err(format!(
                "{url:?}: the management API speaks no TLS: use an SSH tunnel (ssh -L \
                 8042:localhost:8042 HOST), or a TLS terminator on this machine"
            ));
        }
        let authority = match lower.strip_prefix("http://") {
            Some(rest) => rest.strip_suffix('/').unwrap_or(rest),
            None if lower.contains("://") => return Err(format!("{url:?}: {EXPECTED}")),
            None => &lower,
        };
        let (host, port) = split(authority).ok_or_else(|| format!("{url:?}: {EXPECTED}"))?;
        let port = match port {
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("{url:?}: the port is not a number from 1 to 65535"))?,
        };
        Ok(Address::Tcp { host: host.to_owned(), port })
    }

    /// Value of the Host field.
    pub fn authority(&self) -> String {
        match self {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Socket(_) => "localhost".to_owned(),
        }
    }
}

/// Host, without brackets, and port. `None`: neither a name nor an address.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    // A path or a user is no typing error in the port: don't report it as one.
    if authority.contains(['/', '?', '#', '@']) {
        return None;
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    let (host, port) = match authority.split_once(':') {
        None => (authority, None),
        Some((host, port)) => (host, Some(port)),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_name)).then_some((host, port))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { .. } => write!(f, "http://{}", self.authority()),
            Address::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood() {
        for (url, expected) in [
            ("http://localhost:8042", "http://localhost:8042"),
            ("http://localhost:8042/", "http://localhost:8042"),
            ("HTTP://LocalHost", "http://localhost:8042"),
            ("localhost:9", "http://localhost:9"),
            ("10.0.0.1", "http://10.0.0.1:8042"),
            ("http://[::1]", "http://[::1]:8042"),
            ("http://[2001:db8::1]:80", "http://[2001:db8::1]:80"),
            ("unix:/run/mantrid.sock", "/run/mantrid.sock"),
            ("unix:///run/mantrid.sock", "/run/mantrid.sock"),
        ] {
            let read = Address::read(url).map(|address| address.to_string());
            assert_eq!(read.as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_reason() {
        for (url, word) in [
            ("https://localhost:8042", "TLS"),
            ("ftp://localhost", EXPECTED),
            ("http://", EXPECTED),
            ("", EXPECTED),
            ("http://localhost:8042/hostname/", EXPECTED),
            ("http://me:secret@localhost", EXPECTED),
            ("http://a b", EXPECTED),
            ("http://::1:80", EXPECTED),
            ("http://[::1", EXPECTED),
            ("http://[::1]80", EXPECTED),
            ("http://[x]:80", EXPECTED),
            ("http://a\r\nb", EXPECTED),
            ("http://localhost:0", "65535"),
            ("http://localhost:65536", "65535"),
            ("http://localhost:", "65535"),
            ("unix:run/mantrid.sock", EXPECTED),
        ] {
            let error = Address::read(url).expect_err(url);
            assert!(error.contains(word), "{url}: {error}");
        }
    }
}
