//! Reports of shards about backends that fail requests, and that answer them again.

use std::net::SocketAddr;

/// A report of one shard about one backend.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum BackendReport {
    /// Several requests in a row failed at this backend: enough to eject it.
    Failed { address: SocketAddr, how: Failure },
    /// The backend was reported to fail, and has answered a request since.
    Answered { address: SocketAddr },
}

/// How a backend failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No connection could be opened.
    Unreachable,
    /// A new connection was closed or reset before a byte of a response.
    Silent,
}
