//! Methods of requests, as far as they matter to a proxy.

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
    /// A method about which nothing is known; forwarded as it is.
    Other,
}

/// Safe methods in the registry (RFC 9110 §16.1.1) beside those of RFC 9110 itself; idempotent ones
/// follow.
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
    /// Reads the name of a method, which is case-sensitive (RFC 9110 §9.1).
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

    /// Whether the method is idempotent (RFC 9110 §9.2.2), so that the request may be sent again.
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete | Method::OtherIdempotent)
    }

    /// Whether the method is safe: it only reads (RFC 9110 §9.2.1).
    pub fn is_safe(self) -> bool {
        use Method::{Get, Head, Options, OtherSafe, Trace};
        matches!(self, Get | Head | Options | Trace | OtherSafe)
    }
}
