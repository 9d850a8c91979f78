//! Plain data of a request on its way through a shard: who asked, what for, under which rule it is
//! counted, and what follows it on its connection.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{HttpDate, Method, ReplyTo, RequestFraming, TrailerRules, Version};
use crate::limits;
use crate::link::Timeouts;
use crate::table::{Overrides, Scheme, host};

/// A client connection's peer, and how far its words are believed.
#[derive(Copy, Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: IpAddr,
    pub(super) port: u16,
    pub(super) trusted: bool,
    /// The client speaks TLS to the proxy in front of us, as far as no field that is believed says
    /// otherwise.
    pub(super) secure: bool,
    /// Number of the client's latest request among those of the shard; 0 where requests get none.
    pub(super) request_id: u64,
    /// The connection counts among those of its source.
    pub(super) is_counted: bool,
}

impl Client {
    /// Scheme that the client spoke, with what its forwarding fields say of it.
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
    /// Position of its host in its head; empty in that of a request without one.
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
    /// Arguments of its rule that override keys.
    pub(super) overrides: Option<Arc<Overrides>>,
}

impl Request {
    /// Canonical name of its host, which stands in `head`; empty where it has none.
    pub(super) fn host_in(&self, head: &[u8]) -> Box<str> {
        let raw = &head[self.host_at.start as usize..self.host_at.end as usize];
        host::canonical(raw, &mut [0; 256]).unwrap_or_default().into()
    }

    /// Time for which its backend may be silent; `keys` are those of the configuration.
    pub(super) fn timeout_server(&self, keys: Timeouts) -> Duration {
        self.overrides.as_deref().and_then(Overrides::timeout_server).unwrap_or(keys.server)
    }

    /// Time for which its tunnel may be silent, where its rule says one.
    pub(super) fn timeout_tunnel(&self) -> Option<Duration> {
        self.overrides.as_deref()?.timeout_tunnel()
    }

    /// Most bytes of its body, where its rule says so.
    pub(super) fn max_body(&self) -> Option<u64> {
        self.overrides.as_deref()?.max_body()
    }

    /// Whether its head announces a larger body than its rule allows.
    pub(super) fn is_too_large(&self) -> bool {
        match (self.framing, self.max_body()) {
            (RequestFraming::Length(length), Some(most)) => most < length,
            _ => false,
        }
    }

    pub(super) fn reply_to(&self, close: bool, date: HttpDate) -> ReplyTo {
        ReplyTo { version: self.version, head_only: self.method == Method::Head, close, date }
    }

    /// Whether the client has said that it sends nothing behind this request, of which nothing is
    /// left to read.
    pub(super) fn is_last_and_read(&self) -> bool {
        !self.keep_alive && matches!(self.framing, RequestFraming::None)
    }

    /// Whether a reply ends the connection: a body that is not known to be short is not read to
    /// its end, and one that waits for a `100 Continue` may never come.
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
    /// Key of the name that matched: its host is counted by it.
    pub(super) host: u64,
    /// Key of the rule itself, which aliases may lead to.
    pub(super) rule: u64,
}

/// A request under way, or none.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestTicket(u32);

impl RequestTicket {
    /// No request: what is counted goes to the shard's totals alone.
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
    /// The next request.
    KeepAlive,
    /// Nothing is owed in either direction.
    Close,
    /// The response left in one send, to a client that has said that it sends nothing more; should
    /// it have sent more all the same, as [`Linger`](Next::Linger).
    Last,
    /// Our reply is complete, but the client may still be sending: see that it can read the reply.
    Linger,
    /// The response goes no further, and its framing shows that: what the kernel has of it may
    /// still arrive.
    Cut,
    /// A response was sent in part and must not look complete.
    Reset,
    /// [`Reset`](Next::Reset) once the client's kernel has all that was sent: a reset takes the
    /// rest away.
    ResetOnceTaken,
}
