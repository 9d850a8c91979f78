//! Reports of shards to control: about backends that fail or respond again, about names that can't
//! be reached, about loops, and about connections that a panic has ended. Control logs the last
//! two.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Ejected, Unreached};
use crate::address::Address;
use crate::table::Name;

/// A report of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ShardReport {
    /// Requests failed at the backend, in a row and often enough to eject it.
    Failed { ejected: Ejected, how: Failure },
    /// The backend was reported as failed, and has responded to a request since.
    Answered { ejected: Ejected },
    /// A request was to go to an address on which this daemon itself listens.
    Loop { address: Address },
    /// No address of this name could be reached, or the name has none.
    NameFailed { name: Arc<Name> },
    /// A panic has ended the connection of this client, in this phase.
    Panicked { client: SocketAddr, phase: &'static str },
}

/// Way in which a backend failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No connection could be opened. The reason is that of the last attempt, if it is known.
    Unreachable(Option<Unreached>),
    /// A new connection was closed or reset before a byte of a response.
    Silent,
}
