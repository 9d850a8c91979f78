//! Every bound of the program, in one file for each owner: the folder that keeps the bound.
//! `shares` has the sums, which name their terms.

mod address;
mod config;
mod control;
mod daemon;
mod fields;
mod fleet;
mod http;
mod link;
mod ring;
mod shard;
mod shares;
mod state;
mod table;

pub use address::*;
pub use config::*;
pub use control::*;
pub use daemon::*;
pub use fields::*;
pub use fleet::*;
pub use http::*;
pub use link::*;
pub use ring::*;
pub use shard::*;
pub use shares::*;
pub use state::*;
pub use table::*;
