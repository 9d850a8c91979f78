//! Mantrid: a thread-per-core TCP and HTTP/1 proxy whose host table is edited while it runs.
//!
//! Three terms are used everywhere. A [rule](table::Rule) says what to do for one host name. A
//! [snapshot](table::Snapshot) is the whole table at one moment; it is never edited. A *shard* is a
//! thread, pinned to a CPU, that accepts, routes and relays its own connections and shares no data
//! that it writes.
//!
//! The modules are in reading order, from the pure ones up. `ARCHITECTURE.md` has a picture of
//! them, and `tests/tidy/` checks that the code follows it.

// Every bound, in a file for the module that owns it.
pub mod limits;
// The scheme of a request, for a head and for a name of a rule.
mod scheme;
// The names of fields, for a head and for a rule that changes some.
mod fields;
// Networks of addresses.
mod network;
// Style of the lines of the access log.
mod log_style;
// The arguments of rules: one table for parser, manual and client.
mod rule_arguments;
// Address of a backend, TCP or Unix socket.
pub mod address;
// The host table, and HTTP/1: no I/O, no clock, no threads.
pub mod http;
pub mod proxy_protocol;
pub mod table;
pub mod tls;
// Files on disk, as values: the configuration and the state file.
pub mod config;
pub mod state;
// The shard's io_uring: the only module that may be `unsafe`; see its ownership rule.
#[allow(unsafe_code)]
mod ring;
// Everything that shards and control share.
mod link;
// A shard, and the control shard beside it.
mod control;
mod shard;
// Programs that the binaries run.
pub mod client;
pub mod daemon;
/// Functions of private modules that the benches need.
#[doc(hidden)]
pub mod bench {
    pub use crate::ring::bench::round_trips;
}
/// Checks of private modules that the fuzzers drive.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::control::any_value_of_a_fleet as fleet;
    #[cfg(fuzzing)]
    pub use crate::network::properties::networks;
}
