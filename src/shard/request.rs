//! Plain data of a request on its way through a shard: the client, the request's properties, the
//! keys under which it is counted, and what follows it on its connection.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{HttpDate, Method, ReplyTo, RequestFraming, TrailerRules, Version};
use crate::limits;
use crate::link::Timeouts;
use crate::table::{Overrides, Scheme, host};

/// A client connection's peer, and whether the fields that it sends are trusted.
#[derive(Copy, Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: IpAddr,
    pub(super) port: u16,
    pub(super) trusted: bool,
    /// The client speaks TLS to the proxy in front of us, unless a trusted field says otherwise.
    pub(super) secure: bool,
    /// Number of the client's latest request among those of the shard; 0 if requests get none.
    pub(super) request_id: u64,
    /// The connection counts among those of its source.
    pub(super) is_counted: bool,
}

impl Client {
    /// Scheme that the client spoke: if the client is trusted, its forwarding fields decide.
    pub(super) fn scheme(&self, forwarded: Option<Scheme>) -> Scheme {
        match (self.trusted, forwarded) {
            (true, Some(scheme)) => scheme,
            _ if self.secure => Scheme::Https,
            _ => Scheme::Http,
        }
    }
}

/// Properties of a request that are needed after its head was parsed.
#[derive(Debug)]
pub(super) struct Request {
    /// Position of the host in the request's head; empty if the request has none.
    pub(super) host_at: Range<u32>,
    pub(super) scheme: Scheme,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) framing: RequestFraming,
    pub(super) trailers: TrailerRules,
    /// The client wants the connection to go on.
    pub(super) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expect_continue: bool,
    /// The request asks for another protocol.
    pub(super) upgrade: bool,
    /// The request brings credentials that authenticate the connection on which it goes out.
    pub(super) authenticates: bool,
    /// Arguments of the request's rule that override keys.
    pub(super) overrides: Option<Arc<Overrides>>,
}

impl Request {
    /// Canonical name of the request's host, which stands in `head`; empty if the request has none.
    pub(super) fn host_in(&self, head: &[u8]) -> Box<str> {
        let raw = &head[self.host_at.start as usize..self.host_at.end as usize];
        host::canonical(raw, &mut [0; 256]).unwrap_or_default().into()
    }

    /// Time for which the request's backend may be silent; `keys` are those of the configuration.
    pub(super) fn timeout_server(&self, keys: Timeouts) -> Duration {
        self.overrides.as_deref().and_then(Overrides::timeout_server).unwrap_or(keys.server)
    }

    /// Time for which the request's tunnel may be silent, if its rule says so.
    pub(super) fn timeout_tunnel(&self) -> Option<Duration> {
        self.overrides.as_deref()?.timeout_tunnel()
    }

    /// Most bytes of the request's body, if its rule says so.
    pub(super) fn max_body(&self) -> Option<u64> {
        self.overrides.as_deref()?.max_body()
    }

    /// Whether the request's head announces a larger body than its rule allows.
    pub(super) fn is_too_large(&self) -> bool {
        match (self.framing, self.max_body()) {
            (RequestFraming::Length(length), Some(most)) => most < length,
            _ => false,
        }
    }

    pub(super) fn reply_to(&self, close: bool, date: HttpDate) -> ReplyTo {
        ReplyTo { version: self.version, head_only: self.method == Method::Head, close, date }
    }

    /// Whether the client has said that it sends nothing after this request, and nothing of the
    /// request is left to read.
    pub(super) fn is_last_and_read(&self) -> bool {
        !self.keep_alive && matches!(self.framing, RequestFraming::None)
    }

    /// Whether a reply ends the connection: a body that is not known to be short is not read to its
    /// end, and a body that waits for a `100 Continue` may never come.
    pub(super) fn closes(&self) -> bool {
        let body_is_short = match self.framing {
            RequestFraming::None => true,
            RequestFraming::Length(n) => n <= limits::DISCARD_BYTES_MAX && !self.expect_continue,
            RequestFraming::Chunked => false,
        };
        !self.keep_alive || !body_is_short
    }
}

/// Rule and host that a request is counted under.
#[derive(Copy, Clone, Debug)]
pub(super) struct Keys {
    /// Key of the name that matched; the host is counted by it.
    pub(super) host: u64,
    /// Key of the rule itself, to which aliases may lead.
    pub(super) rule: u64,
}

/// A request under way, or none.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestTicket(u32);

impl RequestTicket {
    /// No request: counts go to the shard's totals alone.
    pub(super) const NONE: RequestTicket = RequestTicket(u32::MAX);

    pub(super) fn of(index: usize) -> RequestTicket {
        debug_assert!(index < u32::MAX as usize, "more requests than numbers");
        RequestTicket(index as u32)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Fate of a client connection when an exchange is over.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The connection goes on with the next request.
    KeepAlive,
    /// Nothing is owed in either direction.
    Close,
    /// The response left in one send, to a client that has said that it sends nothing more. If it
    /// has sent more all the same, as [`Linger`](Next::Linger).
    Last,
    /// Our reply is complete, but the client may still be sending: make sure that it can read the
    /// reply.
    Linger,
    /// The response is cut off, and its framing shows that: bytes of it in the kernel may still
    /// arrive.
    Cut,
    /// A response was sent in part and must not look complete.
    Reset,
    /// [`Reset`](Next::Reset) once the client's kernel has all that was sent: a reset discards the
    /// rest.
    ResetOnceTaken,
}
