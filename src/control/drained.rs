//! Waits until backends that were removed from a rule have no request of the rule under way on this
//! node.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;

use super::elder::Elder;
use crate::address::Address;
use crate::limits;
use crate::link::{ControlEnd, Drain};
use crate::table::Snapshot;

/// Requests that are still under way.
pub(super) struct Left {
    /// Whether nothing is under way. If something is, part of it may have no backend yet, and is
    /// then not counted in `at`.
    pub(super) is_nothing: bool,
    /// Requests by backend.
    pub(super) at: BTreeMap<Address, u64>,
}

/// Waits until no request of the rule `name` is under way at the `removed` backends, for `wait` at
/// most.
pub(super) async fn drained(
    shards: &ControlEnd,
    elder: &Elder,
    name: &str,
    removed: Vec<Address>,
    wait: Duration,
) -> io::Result<Left> {
    let key = Snapshot::default().key(name);
    let drain = Arc::new(Drain::new(key, removed, shards.counters().len())?);
    if drain.backends.is_empty() {
        return Ok(Left { is_nothing: true, at: BTreeMap::new() });
    }
    let answered = Receiver::from_owned_fd_unchecked(drain.answered()?)?;
    shards.ask(&drain);
    let mut elder = elder.ask(name, &drain.backends);
    let all = async {
        heard(&drain, &answered, |left| left == Some(0)).await;
        if let Some(elder) = &mut elder {
            // An error means that the daemon before this one has ended.
            let _ = elder.wait_for(|left| left.as_ref().is_some_and(|left| left.0 == 0)).await;
        }
    };
    let _ = tokio::time::timeout(wait, all).await;
    // The numbers are known only once each shard has answered, so wait for that even if `wait` was
    // shorter.
    let first = async {
        heard(&drain, &answered, |left| left.is_some()).await;
        if let Some(elder) = &mut elder {
            let _ = elder.wait_for(Option::is_some).await;
        }
    };
    let _ = tokio::time::timeout(limits::DRAIN_ANSWER_TIME, first).await;
    let elder = elder.filter(|elder| elder.has_changed().is_ok());
    let elder = elder.map(|elder| elder.borrow().clone().unwrap_or((1, Vec::new())));
    let (left_elsewhere, at_elsewhere) = elder.unwrap_or_default();
    let there = |at| at_elsewhere.iter().find(|one| one.0 == at).map_or(0, |one| one.1);
    let left = drain.left_at().map(|(at, count)| (at, u64::from(count) + there(at)));
    let at = left.filter(|(_, count)| *count != 0).collect();
    Ok(Left { is_nothing: drain.left() == Some(0) && left_elsewhere == 0, at })
}

/// Waits until `is_enough` is true of the answers of the shards.
async fn heard(drain: &Drain, answered: &Receiver, is_enough: impl Fn(Option<u32>) -> bool) {
    while !is_enough(drain.left()) {
        if answered.readable().await.is_err() {
            return;
        }
        // The read only makes the descriptor unreadable again; the numbers are in `drain`.
        let _ = answered.try_read(&mut [0; 8]);
    }
}
