//! The fleet: several daemons with one table, whose journal lives in etcd. `docs/fleet.md` says
//! what it promises.
//!
//! A change becomes an entry of the log in etcd ([`propose`]), and is in force when the watch has
//! brought it back ([`follow`]) and the writer has applied it. All changes go this way, those of
//! this node too. [`beat`] tells the other nodes that this one is there and how far it is.
//! [`start`] decides what a node does at its start, when its table and the fleet's may differ.
//! [`fold`] writes the table anew when the log has grown. [`log`] and [`load`] define the values
//! that are written and read; [`etcd`] is the client. Without the key `fleet`, none of this is
//! made.

mod any_bytes;
mod beat;
mod brought;
mod drain;
mod etcd;
mod fold;
mod follow;
mod keys;
mod load;
mod log;
mod member;
mod once;
mod peers;
#[cfg(test)]
mod properties;
mod propose;
mod remote;
mod start;
mod tasks;
mod trouble;
mod wait;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};

use super::change::{Change, Done, Refused};
use super::times::Times;
use super::trial::Asked;
use crate::link::{Tag, TaggedTable};
use drain::DrainAsk;
use etcd::{Client, EtcdError};
use fold::LogSize;
use keys::Keys;
use load::Base;

pub use any_bytes::value as any_value;
pub(super) use brought::{Applied, Brought};
pub(crate) use etcd::Access as EtcdAccess;
pub(super) use load::difference;
pub(super) use log::{Edit, Rules};
use member::Member;
pub(super) use once::Claim;
pub(super) use peers::add;
pub(super) use remote::{NotTaken, apply};
pub(super) use start::{FleetParts, Joined, Own, start, try_members};
pub(super) use tasks::{Around, Tasks};
pub(super) use trouble::Trouble;

/// Keys of the configuration, with the files they name read.
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) url: String,
    pub(crate) access: EtcdAccess,
    /// How long a start waits for etcd, where it has no copy of the table.
    pub(crate) patience: Duration,
    /// Silence of etcd after which the copy of the table counts as too old to serve.
    pub(crate) stale: Option<Duration>,
    /// Whether limits are divided by the number of live nodes.
    pub(crate) divide: bool,
    /// Whether the node gives up its own table for that of the fleet.
    pub(crate) adopt: bool,
}

/// State of the fleet, as this node knows it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) id: String,
    /// Whether a watch brings what happens in the fleet.
    pub(super) connected: bool,
    /// Time at which `connected` last changed.
    pub(super) since: Instant,
    /// Why the store is not that of this fleet any more.
    pub(super) lost: Option<String>,
    /// The folded table that a node without a copy begins with.
    pub(super) base: Option<Base>,
    /// A node that lost to other nodes again and again, and that they therefore let go first.
    pub(super) turn: Option<String>,
    /// Whether the node has left the fleet, and is a single one.
    pub(super) left: bool,
    pub(super) members: BTreeMap<String, Member>,
    /// Names whose rules could not be applied, and why.
    pub(super) rejected: BTreeMap<String, String>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A node's end of its fleet; clones share it.
#[derive(Clone)]
pub(super) struct Fleet(Arc<Shared>);

pub(super) struct Shared {
    settings: Settings,
    keys: Keys,
    client: Client,
    instance: String,
    view: watch::Sender<View>,
    applied: watch::Sender<Applied>,
    proposals: mpsc::Sender<Asked>,
    drains: mpsc::UnboundedSender<DrainAsk>,
    drained: watch::Sender<drain::Answers>,
    idle_hosts: Mutex<once::IdleHosts>,
    /// The sequence that was last asked for: other nodes want to hear when this node is there.
    asked: watch::Sender<u64>,
    /// Signal to look at the fleet anew, as after a decision of the operator.
    decided: Notify,
    /// Whether the fleet is to be joined, whatever its id.
    adopt: AtomicBool,
    /// Whether another process has taken over, and speaks for the node.
    quiet: AtomicBool,
    lease: AtomicI64,
    last_event: Mutex<Instant>,
    log_size: Mutex<LogSize>,
    /// Edits of a large entry that this node is making, by its nonce.
    own_edits: Mutex<Option<(String, Vec<Edit>)>>,
    counts: Counts,
}

/// Numbers for `/metrics`.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) conflicts: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) loads: [AtomicU64; LOAD_REASONS.len()],
    pub(super) commits: Times,
    pub(super) applies: Times,
}

/// Why the whole table was loaded.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum LoadReason {
    Start = 0,
    Gap = 1,
    Join = 2,
}

pub(super) const LOAD_REASONS: [&str; 3] = ["start", "gap", "join"];

/// A random text of hexadecimal digits.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(Instant::now());
    format!("{:016x}{:016x}", random(), random())
}

/// A random number below a bound.
fn random_below(bound: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(bound) % bound.max(1)
}

/// The part of an ETag that is the same on each node of a fleet.
pub(super) fn tag_of(id: &str, sequence: u64) -> Tag {
    Tag { boot: crc32fast::hash(id.as_bytes()), sequence }
}

impl Fleet {
    pub(super) fn name(&self) -> &str {
        &self.0.settings.name
    }

    pub(super) fn node(&self) -> &str {
        &self.0.settings.node
    }

    pub(super) fn view(&self) -> View {
        self.0.view.borrow().clone()
    }

    pub(super) fn applied(&self) -> Applied {
        *self.0.applied.borrow()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Whether changes go through the log.
    pub(super) fn is_in(&self) -> bool {
        !self.0.view.borrow().left
    }

    /// Time since the watch last brought something.
    pub(super) fn event_age(&self) -> Duration {
        self.last_event().elapsed()
    }

    fn last_event(&self) -> Instant {
        *self.0.last_event.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        *self.0.last_event.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the copy is older than the operator wants a node to serve.
    pub(super) fn is_stale(&self) -> bool {
        let age = self.event_age();
        self.is_in() && self.0.settings.stale.is_some_and(|most| most < age)
    }

    /// Proposes a change, and waits until it is in force here, or refused.
    pub(super) async fn change(&self, change: Change) -> Result<Done, Refused> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let sent = self.0.proposals.send((change, answer)).await;
        sent.map_err(|_| Refused::Stopping)?;
        answered.await.unwrap_or(Err(Refused::Stopping))
    }

    /// Records how far the writer has put the log in force.
    pub(super) fn set_applied(&self, applied: Applied) {
        self.0.applied.send_replace(applied);
    }

    /// Logs and records rules that could not be applied.
    pub(super) fn set_rejected(&self, rejected: Vec<(String, String)>) {
        self.0.counts.rejected.fetch_add(1, Ordering::Relaxed);
        for (name, why) in &rejected {
            tracing::error!("fleet: {name}: an entry of the log can't be applied: {why}");
        }
        self.0.view.send_modify(|view| {
            for (name, why) in rejected {
                if view.rejected.len() < crate::limits::REJECTED_TOLD_MAX {
                    view.rejected.insert(name, why);
                }
            }
        });
    }

    fn own_edits(&self) -> std::sync::MutexGuard<'_, Option<(String, Vec<Edit>)>> {
        self.0.own_edits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the watch begin anew, at the member of etcd that calls go to.
    fn look_again(&self) {
        self.0.decided.notify_one();
    }

    /// Lets another process speak for the node, or takes that back.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.0.quiet.store(quiet, Ordering::Relaxed);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.0.quiet.load(Ordering::Relaxed)
    }

    /// Nodes that a limit is divided by: those with a live lease, this one included.
    pub(super) fn shares(&self) -> u32 {
        if !self.0.settings.divide || !self.is_in() {
            return 1;
        }
        u32::try_from(self.0.view.borrow().members.len()).unwrap_or(1).max(1)
    }

    /// Has the fleet's table taken, whatever the fleet's id: the operator has decided so.
    pub(super) fn join(&self) {
        self.0.adopt.store(true, Ordering::Relaxed);
        self.0.decided.notify_one();
    }

    /// Returns the part of `/fleet/` about this fleet.
    pub(super) fn to_json(&self) -> Value {
        let view = self.view();
        if view.left {
            return Value::Null;
        }
        let now = Instant::now();
        let nodes = view.members.iter().map(|(name, member)| (name.clone(), member.shown(now)));
        let nodes: Value = nodes.collect();
        json!({
            "fleet": self.name(),
            "id": view.id,
            "node": self.node(),
            "sequence": self.applied().sequence,
            "connected": view.connected,
            "lost": view.lost,
            "limits": if self.0.settings.divide { "divide" } else { "each" },
            "limits_divided_by": self.shares(),
            "rejected": view.rejected,
            "nodes": nodes,
        })
    }

    /// The nodes other than this one, with the URL of each.
    pub(super) fn others(&self) -> Vec<(String, String)> {
        let view = self.0.view.borrow();
        let others = view.members.iter().filter(|(name, _)| *name != self.node());
        others.map(|(name, member)| (name.clone(), member.url.clone())).collect()
    }

    /// Makes `current` the fleet's table, whatever etcd holds: the operator has decided so.
    pub(super) async fn init(&self, current: &TaggedTable) -> Result<(), EtcdError> {
        let shared = &self.0;
        let remote = remote::look(&shared.client, &shared.keys).await?;
        let seen = remote.members.values().map(|member| member.sequence).max().unwrap_or(0);
        let head = remote.head.as_ref();
        let at = head.map_or(0, |head| head.sequence).max(seen).max(self.applied().sequence);
        let id = self.view().id;
        let over = Some(head.map_or(0, |head| head.revision));
        let made =
            start::create(&shared.client, &shared.keys, &current.table, &id, at + 1, over).await?;
        shared.decided.notify_one();
        match made {
            Some(_) => Ok(()),
            None => Err(EtcdError::Other("another node has changed it meanwhile".to_owned())),
        }
    }

    /// Records that the node has left, and is a single one from now on.
    pub(super) fn set_left(&self) {
        self.0.view.send_modify(|view| view.left = true);
        self.0.decided.notify_one();
    }

    /// Tells the others, at the end, that this node is gone.
    pub(super) async fn finish(&self) {
        let lease = self.0.lease.load(Ordering::Relaxed);
        if lease != 0 && !self.is_quiet() {
            let revoke = self.0.client.revoke(lease);
            let _ = tokio::time::timeout(Duration::from_millis(500), revoke).await;
        }
    }
}
