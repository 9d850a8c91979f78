//! Waits until backends that a rule no longer has, have nothing of it under way on this node.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;

use crate::link::{ControlEnd, Drain};
use crate::table::Snapshot;

/// What is still under way.
pub(super) struct Left {
    /// Nothing; otherwise some of it may be at no backend yet.
    pub(super) is_nothing: bool,
    /// By backend.
    pub(super) at: BTreeMap<SocketAddr, u64>,
}

/// Waits for `name`'s requests with the `removed` backends, for so long at most.
pub(super) async fn drained(
    shards: &ControlEnd,
    name: &str,
    removed: Vec<SocketAddr>,
    wait: Duration,
) -> io::Result<Left> {
    let key = Snapshot::default().key(name);
    let drain = Arc::new(Drain::new(key, removed, shards.counters().len())?);
    if drain.backends.is_empty() {
        return Ok(Left { is_nothing: true, at: BTreeMap::new() });
    }
    let answered = Receiver::from_owned_fd_unchecked(drain.answered()?)?;
    shards.ask(&drain);
    let all = async {
        while drain.left() != Some(0) {
            if answered.readable().await.is_err() {
                return;
            }
            // Only to have it unreadable again; the numbers stand in `drain`.
            let _ = answered.try_read(&mut [0; 8]);
        }
    };
    let _ = tokio::time::timeout(wait, all).await;
    let left = drain.left_at().filter(|(_, count)| *count != 0);
    let at = left.map(|(at, count)| (at, u64::from(count))).collect();
    Ok(Left { is_nothing: drain.left() == Some(0), at })
}
