//! Every bound of the program. Each file has the bounds of one owner, the folder of `src` that
//! enforces them. `shares` has the sums of bounds.

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
