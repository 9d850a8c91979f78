//! Versions of HTTP that a peer may speak.

/// A version of HTTP that Mantrid supports.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0: one request for each connection, unless both sides send keep-alive.
    Http10,
    /// HTTP/1.1, which Mantrid itself speaks.
    Http11,
}
