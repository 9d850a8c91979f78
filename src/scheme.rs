//! The scheme of a request, which both a head and a rule's name can give.

/// Protocol that the client spoke to reach Mantrid. A rule named `http://NAME`, `https://NAME`,
/// `tcp://NAME` or `tls://NAME` applies to one of these.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, as a TLS terminator in front of Mantrid says.
    Https,
    /// Raw connections, on an address that belongs to one host.
    Tcp,
    /// TLS that is passed through, by the name in its ClientHello.
    Tls,
}

impl Scheme {
    /// Whether the bytes are encrypted on their way from the client.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Tls)
    }
}
