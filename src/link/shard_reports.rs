//! Reports of shards to control: about backends that fail requests, and that answer them again; and
//! about connections that a panic has ended, which control logs.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Ejected, Unreached};
use crate::address::Address;
use crate::table::Name;

/// A report of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ShardReport {
    /// Several requests in a row failed: enough to eject the backend.
    Failed { ejected: Ejected, how: Failure },
    /// The backend was reported to fail, and has answered a request since.
    Answered { ejected: Ejected },
    /// A request was to go to an address on which this daemon itself listens.
    Loop { address: Address },
    /// No address of this name could be reached, or the name has none.
    NameFailed { name: Arc<Name> },
    /// A panic has ended the connection of this client, in this phase.
    Panicked { client: SocketAddr, phase: &'static str },
}

/// How a backend failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No connection could be opened; why the last one could not, where that is known.
    Unreachable(Option<Unreached>),
    /// A new connection was closed or reset before a byte of a response.
    Silent,
}
