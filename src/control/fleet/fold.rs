//! Folds the log: the table becomes the new base, and entries that no node needs any more are
//! deleted.
//!
//! A leased lock lets one node at a time fold. The pieces of the new base are written before
//! `live/base` leads to them; the pieces of the old base are deleted when it no longer does. A
//! reader that began before goes on reading at its own revision.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::etcd::message::{DeleteRangeRequest, RangeRequest, TxnRequest};
use super::etcd::{self, EtcdError};
use super::load::{first_kept, is_fold_due};
use super::log::{Content, Entry};
use super::start::write_base;
use super::{Fleet, random_below};
use crate::limits;
use crate::link::{Published, TaggedTable};

/// The log since the last fold, as far as this process has seen it.
#[derive(Default)]
pub(super) struct LogSize {
    bytes: u64,
    /// Sequence and bytes of entries, oldest first.
    entries: VecDeque<(u64, u64)>,
}

impl LogSize {
    /// Counts an entry.
    pub(super) fn add(&mut self, sequence: u64, entry: &Entry) {
        let bytes = match &entry.content {
            Content::Text(text) => text.len() as u64 + 200,
            Content::Chunks(chunks) => chunks.bytes as u64,
        };
        self.bytes += bytes;
        self.entries.push_back((sequence, bytes));
        if limits::FLEET_LOG_KEPT < self.entries.len() as u64 {
            self.entries.pop_front();
        }
    }

    /// Takes the sequence of a new base: only entries after it still count.
    pub(super) fn folded(&mut self, base: u64) {
        let newer = self.entries.iter().filter(|(sequence, _)| base < *sequence);
        self.bytes = newer.map(|(_, bytes)| bytes).sum();
    }

    /// Takes the least number of entries in a log that began before this process.
    pub(super) fn at_least(&mut self, entries: u64) {
        self.bytes = self.bytes.max(entries * 256);
    }
}

impl Fleet {
    pub(super) fn log_size(&self) -> MutexGuard<'_, LogSize> {
        self.0.log_size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks now and then, for ever, whether folding is worth while.
pub(super) async fn run(fleet: &Fleet, published: Arc<Published>) -> Infallible {
    loop {
        // Nodes must not all look at once.
        let jitter = random_below(limits::FLEET_FOLD_LOOK.as_millis() as u64);
        tokio::time::sleep(limits::FLEET_FOLD_LOOK / 2 + Duration::from_millis(jitter)).await;
        if !is_due(fleet) {
            continue;
        }
        if let Err(error) = fold(fleet, &published).await {
            warn!("fleet: the log is not folded: {error}");
        }
    }
}

fn is_due(fleet: &Fleet) -> bool {
    let view = fleet.0.view.borrow();
    let is_well = view.connected && view.lost.is_none() && !view.left;
    // A table that lacks rules must not become the table of all nodes.
    let is_whole = view.rejected.is_empty() && !fleet.is_quiet();
    let base_bytes = view.base.as_ref().map_or(0, |base| base.chunks.bytes as u64);
    is_well && is_whole && is_fold_due(fleet.log_size().bytes, base_bytes)
}

async fn fold(fleet: &Fleet, published: &Published) -> Result<(), EtcdError> {
    let shared = &fleet.0;
    let lease = shared.client.grant(limits::FLEET_LEASE_SECONDS * 4).await?;
    let lock = shared.keys.fold_lock();
    let take = TxnRequest {
        compare: vec![etcd::is_at(&lock, 0)],
        success: vec![etcd::put_leased(&lock, fleet.node(), lease)],
        failure: Vec::new(),
    };
    let outcome = match shared.client.txn(take).await {
        Ok(taken) if taken.succeeded => fold_locked(fleet, published, taken.revision()).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    // If this fails, the lease ends by itself.
    let _ = shared.client.revoke(lease).await;
    outcome
}

/// Folds under the lock. `lock`: the revision at which the lock was taken.
async fn fold_locked(fleet: &Fleet, published: &Published, lock: i64) -> Result<(), EtcdError> {
    let shared = &fleet.0;
    let keys = &shared.keys;
    let found = shared.client.get(&keys.base()).await?;
    let old = found.kvs.first();
    let old_revision = old.map_or(0, |kv| kv.mod_revision);
    let now = TaggedTable::clone(&published.table());
    let sequence = now.tag.sequence;
    let base = write_base(&shared.client, keys, &now.table, sequence).await?;
    let mut compare =
        vec![etcd::is_at(&keys.fold_lock(), lock), etcd::is_at(&keys.base(), old_revision)];
    if base.chunks.count != 0 {
        compare.push(etcd::exists(&keys.base_piece(&base.chunks.nonce, 0)));
    }
    let success = vec![etcd::put(&keys.base(), base.to_value())];
    let done = shared.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
    if !done.succeeded {
        delete_prefix(fleet, &keys.base_pieces(&base.chunks.nonce)).await?;
        return Ok(());
    }
    info!("fleet: folded the log up to {sequence} into {} bytes", base.chunks.bytes);
    delete_other_bases(fleet, &base.chunks.nonce).await?;
    let sizes: Vec<(u64, u64)> = fleet.log_size().entries.iter().rev().copied().collect();
    let oldest_known = sizes.last().map_or(sequence + 1, |(sequence, _)| *sequence);
    // Entries from before this process count by their number alone, as their sizes are not known.
    let older = (1..oldest_known).rev().map(|sequence| (sequence, 0));
    let first = first_kept(sequence, sizes.into_iter().chain(older));
    delete(fleet, keys.log(0), keys.log(first)).await?;
    // The sequence in a chunk's key may be smaller than that of its entry, by this much at most.
    let chunks = first.saturating_sub(limits::FLEET_CHUNKS_BEHIND_MAX);
    delete(fleet, keys.all_chunks(), keys.chunks_from(chunks)).await
}

async fn delete_other_bases(fleet: &Fleet, kept: &str) -> Result<(), EtcdError> {
    let keys = &fleet.0.keys;
    let request = RangeRequest { keys_only: true, ..RangeRequest::of_prefix(&keys.all_bases()) };
    let found = fleet.0.client.range(request).await?;
    let sets = found.kvs.iter().filter_map(|kv| keys.set_of_piece(&kv.key));
    let sets: std::collections::BTreeSet<&str> = sets.filter(|set| *set != kept).collect();
    for set in sets {
        delete_prefix(fleet, &keys.base_pieces(set)).await?;
    }
    Ok(())
}

async fn delete_prefix(fleet: &Fleet, prefix: &str) -> Result<(), EtcdError> {
    fleet.0.client.delete_range(DeleteRangeRequest::of_prefix(prefix)).await.map(drop)
}

async fn delete(fleet: &Fleet, from: String, end: String) -> Result<(), EtcdError> {
    let request = DeleteRangeRequest { key: from.into(), range_end: end.into() };
    fleet.0.client.delete_range(request).await.map(drop)
}
