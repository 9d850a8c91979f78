//! The method of a request, as far as it matters to a proxy.

/// The methods that make a difference to a proxy, and all others.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Connect,
    /// Registered as safe, and forwarded like any other.
    OtherSafe,
    /// Registered as idempotent, and forwarded like any other.
    OtherIdempotent,
    /// Forwarded as it is; nothing is known about it.
    Other,
}

/// The registry of methods (RFC 9110 §16.1.1) beside RFC 9110's own.
const SAFE: [&str; 4] = ["PROPFIND", "QUERY", "REPORT", "SEARCH"];
const IDEMPOTENT: [&str; 25] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPPATCH",
    "REBIND",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

impl Method {
    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub(super) fn of(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "TRACE" => Method::Trace,
            "PATCH" => Method::Patch,
            "CONNECT" => Method::Connect,
            _ if SAFE.contains(&name) => Method::OtherSafe,
            _ if IDEMPOTENT.contains(&name) => Method::OtherIdempotent,
            _ => Method::Other,
        }
    }

    /// Whether doing it twice is like doing it once (RFC 9110 §9.2.2): the request may be sent
    /// again.
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete | Method::OtherIdempotent)
    }

    /// Whether the method only asks (RFC 9110 §9.2.1).
    pub fn is_safe(self) -> bool {
        use Method::{Get, Head, Options, OtherSafe, Trace};
        matches!(self, Get | Head | Options | Trace | OtherSafe)
    }
}
