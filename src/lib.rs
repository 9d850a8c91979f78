//! Mantrid: a thread-per-core TCP and HTTP/1 proxy whose host table is edited while it runs.

pub mod client;
pub mod config;
mod control;
pub mod daemon;
pub mod http;
pub mod limits;
mod link;
#[allow(unsafe_code)] // the only module that may: see its ownership rule
mod ring;
mod shard;
pub mod state;
pub mod table;
