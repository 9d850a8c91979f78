//! Client connections on their way to another process, or from one: between two requests, or held.
//! The bytes that a client has sent so far go with its connection.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Protocol of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// HTTP; with `trusted` that of a TLS terminator, whose forwarding fields are believed; with
    /// `secure` clients speak TLS to whatever is in front of us, as far as nothing else says how
    /// they come.
    Http { trusted: bool, secure: bool },
    /// Anything, by the rule of this host.
    Tcp(Arc<str>),
    /// TLS, by the rule of the server name.
    Tls,
}

/// A client connection without a shard.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) socket: OwnedFd,
    /// Address of the client: behind the PROXY protocol not that of the connected peer.
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    /// The client speaks TLS to whatever is in front of us.
    pub(crate) secure: bool,
    pub(crate) speaks: Protocol,
    /// Received, and not acted on yet.
    pub(crate) bytes: Vec<u8>,
    /// Time that the request has been held; `None`: it is not held.
    pub(crate) held: Option<Duration>,
}
