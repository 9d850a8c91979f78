//! Client connections on their way to or from another process. Such a connection is between two
//! requests, or its request is held. The bytes that its client has already sent go with it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Protocol of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// HTTP. `trusted`: the peers are TLS terminators whose forwarding fields are believed.
    /// `secure`: clients speak TLS to the proxy in front of Mantrid, unless something else says how
    /// they came.
    Http { trusted: bool, secure: bool },
    /// Any protocol: raw connections, routed by the rule of this host.
    Tcp(Arc<str>),
    /// TLS that is passed through, routed by the rule of the server name.
    Tls,
}

/// A client connection that belongs to no shard at the moment.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) socket: OwnedFd,
    /// Address of the client. With the PROXY protocol it is not the address of the connected peer.
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    /// Whether the client speaks TLS to the proxy in front of Mantrid.
    pub(crate) secure: bool,
    pub(crate) speaks: Protocol,
    /// Bytes that were received and not processed yet.
    pub(crate) bytes: Vec<u8>,
    /// Time that the request has been held; `None`: it is not held.
    pub(crate) held: Option<Duration>,
}
