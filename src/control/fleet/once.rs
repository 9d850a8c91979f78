//! POSTs that are made once for the whole fleet: `wake` by the node that has claimed it, `idle` by
//! one node when all nodes see the host idle.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::Fleet;
use super::etcd::message::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use super::etcd::{self, EtcdError};

/// Nodes that see a host idle, with the revision of each one's key: by host and node.
pub(super) type IdleHosts = BTreeMap<(String, String), i64>;

/// Outcome of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::control) enum Claim {
    /// Claim of this node: it is to make the POST.
    Won,
    /// Another node has the claim.
    Taken,
    /// Another node has made the POST.
    Done,
    /// etcd can't be asked: each node makes its own POST.
    Unknown,
}

const DONE: &str = "done";

impl Fleet {
    /// Claims the POST of `wake` for a host, for `seconds`. A node that has the claim may claim
    /// again.
    pub(in crate::control) async fn claim_wake(&self, host: &str, seconds: u64) -> Claim {
        self.try_claim(host, seconds).await.unwrap_or(Claim::Unknown)
    }

    async fn try_claim(&self, host: &str, seconds: u64) -> Result<Claim, EtcdError> {
        if !self.0.view.borrow().connected {
            return Ok(Claim::Unknown);
        }
        let key = self.0.keys.wake(host);
        // The lease outlives the wait of any request that it is claimed for.
        let lease = self.0.client.grant(i64::try_from(seconds).unwrap_or(i64::MAX)).await?;
        let request = TxnRequest {
            compare: vec![etcd::is_at(&key, 0)],
            success: vec![etcd::put_leased(&key, self.node(), lease)],
            failure: vec![etcd::get(&key)],
        };
        let done = self.0.client.txn(request).await?;
        if done.succeeded {
            return Ok(Claim::Won);
        }
        let _ = self.0.client.revoke(lease).await;
        Ok(match done.read(0).first() {
            Some(kv) if kv.value == self.node().as_bytes() => Claim::Won,
            Some(kv) if kv.value == DONE.as_bytes() => Claim::Done,
            _ => Claim::Taken,
        })
    }

    /// Records that the POST of `wake` has succeeded.
    pub(in crate::control) async fn wake_is_told(&self, host: &str) {
        let key = self.0.keys.wake(host);
        let Ok(found) = self.0.client.get(&key).await else { return };
        let Some(lease) = found.kvs.first().map(|kv| kv.lease) else { return };
        let put = PutRequest { key: key.into(), value: DONE.into(), lease };
        let _ = self.0.client.put(put).await;
    }

    /// Gives up the claim, so that a new POST may be made: the POST failed, the rule changed, or
    /// the time is over.
    pub(in crate::control) async fn unclaim_wake(&self, host: &str) {
        let delete = DeleteRangeRequest::of_key(&self.0.keys.wake(host));
        let _ = self.0.client.delete_range(delete).await;
    }

    pub(super) fn idle_hosts(&self) -> MutexGuard<'_, IdleHosts> {
        self.0.idle_hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads which nodes see which hosts idle, as of a revision.
    pub(super) async fn read_idle(&self, revision: i64) -> Result<(), EtcdError> {
        let all = RangeRequest::of_prefix(&self.0.keys.all_idle());
        let found = self.0.client.range(RangeRequest { revision, ..all }).await?;
        let keys = found.kvs.iter().filter_map(|kv| match self.0.keys.live_key(&kv.key) {
            Some(super::keys::LiveKey::Idle(host, node)) => {
                Some(((host.to_owned(), node.to_owned()), kv.mod_revision))
            }
            _ => None,
        });
        *self.idle_hosts() = keys.collect();
        Ok(())
    }

    /// Tells the other nodes that the host is idle here; returns whether that succeeded.
    pub(in crate::control) async fn say_idle(&self, host: &str) -> bool {
        let key = self.0.keys.idle(host, self.node()).into();
        let lease = self.0.lease.load(Ordering::Relaxed);
        let put = PutRequest { key, value: Vec::new(), lease };
        lease != 0 && self.0.client.put(put).await.is_ok()
    }

    /// Takes back that the host is idle here.
    pub(in crate::control) async fn unsay_idle(&self, host: &str) {
        let delete = DeleteRangeRequest::of_key(&self.0.keys.idle(host, self.node()));
        let _ = self.0.client.delete_range(delete).await;
    }

    /// Whether this node has said that the host is idle, and no node has claimed the POST since.
    pub(in crate::control) fn has_said_idle(&self, host: &str) -> bool {
        let key = (host.to_owned(), self.node().to_owned());
        self.idle_hosts().contains_key(&key)
    }

    /// Claims the POST of `idle`, if every live node sees the host idle.
    pub(in crate::control) async fn claim_idle(&self, host: &str) -> bool {
        let compare: Option<Vec<_>> = {
            let (view, hosts) = (self.0.view.borrow(), self.idle_hosts());
            let revisions = view.members.keys().map(|node| {
                let revision = hosts.get(&(host.to_owned(), node.clone()))?;
                Some(etcd::is_at(&self.0.keys.idle(host, node), *revision))
            });
            revisions.collect()
        };
        let Some(compare) = compare.filter(|all| !all.is_empty()) else { return false };
        let prefix = self.0.keys.idle(host, "");
        let success = vec![etcd::delete_prefix(&prefix)];
        let request = TxnRequest { compare, success, failure: Vec::new() };
        self.0.client.txn(request).await.is_ok_and(|done| done.succeeded)
    }

    /// Whether etcd can be asked.
    pub(in crate::control) fn is_connected(&self) -> bool {
        self.is_in() && self.0.view.borrow().connected
    }
}
