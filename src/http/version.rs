//! The version that a peer speaks.

/// A version of HTTP that is spoken here.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// One request a connection, unless both sides say keep-alive.
    Http10,
    /// Our own.
    Http11,
}
