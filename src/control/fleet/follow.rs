//! Follows the log: hands the entries that the watch brings to the writer, in order, with none left
//! out.
//!
//! Before a watch begins, the state of the fleet is read as of one revision, and the entries that
//! are missing up to its head are read at that revision. The watch begins at the next revision. So
//! it does not matter what happened between two watches, or whether etcd was compacted meanwhile.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::drain::DrainAsk;
use super::etcd::message::{Event, EventKind, KeyValue};
use super::etcd::{EtcdError, Watch};
use super::keys::LiveKey;
use super::load::Base;
use super::load::{Missing, missing};
use super::log::{Edit, Entry};
use super::member::Member;
use super::remote::{self, Found, ReadError, Remote};
use super::{Brought, Fleet, LoadReason, random_below};
use crate::control::SharedNames;
use crate::control::api::unasked;
use crate::control::orders::Orders;
use crate::control::resolver::Lookups;
use crate::limits;
use crate::state::Membership;

/// The task that follows.
pub(in crate::control) struct Follower {
    pub(super) fleet: Fleet,
    pub(super) names: SharedNames,
    pub(super) orders: Orders,
    pub(super) lookups: Lookups,
    /// The last entry that was handed to the writer.
    pub(super) fed: u64,
}

/// Why a watch is over.
enum End {
    Etcd(EtcdError),
    Lost(String),
    /// Something is missing, or the operator has decided: look anew, at once.
    Again,
    Silent,
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> End {
        End::Etcd(error)
    }
}

impl Follower {
    pub(super) async fn run(mut self) -> Infallible {
        let mut pause = limits::FLEET_AGAIN;
        loop {
            if !self.fleet.is_in() {
                return std::future::pending().await;
            }
            let began = Instant::now();
            let end = self.watch().await;
            if began.elapsed() > limits::FLEET_AGAIN_MAX {
                pause = limits::FLEET_AGAIN;
            }
            let was_connected = self.fleet.0.view.borrow().connected;
            match &end {
                End::Etcd(error) if was_connected => warn!("fleet: the watch has ended: {error}"),
                End::Silent => {
                    warn!("fleet: the watch brings nothing any more");
                    self.fleet.0.client.turn_away();
                }
                End::Lost(why) => self.lost(why),
                End::Etcd(_) | End::Again => {}
            }
            self.set_connected(false);
            if matches!(end, End::Again) || was_connected {
                // Many nodes may have lost the same member of etcd at once.
                pause = limits::FLEET_AGAIN;
                tokio::time::sleep(Duration::from_millis(random_below(50))).await;
                continue;
            }
            let jitter = Duration::from_millis(random_below(pause.as_millis() as u64));
            tokio::select! {
                () = tokio::time::sleep(pause / 2 + jitter) => {}
                () = self.fleet.0.decided.notified() => {}
            }
            pause = (pause * 2).min(limits::FLEET_AGAIN_MAX);
        }
    }

    fn lost(&self, why: &str) {
        if self.fleet.0.view.borrow().lost.as_deref() != Some(why) {
            warn!("fleet: {why}; serving the table as it is, changes are refused");
            self.fleet.0.view.send_modify(|view| view.lost = Some(why.to_owned()));
        }
    }

    fn set_connected(&self, connected: bool) {
        self.fleet.0.view.send_if_modified(|view| {
            let is_other = view.connected != connected;
            if is_other {
                view.connected = connected;
                view.since = Instant::now();
            }
            is_other
        });
    }

    /// One watch from its beginning to its end.
    async fn watch(&mut self) -> End {
        match self.follow().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&mut self) -> Result<Infallible, End> {
        let shared = self.fleet.0.clone();
        let remote = remote::look(&shared.client, &shared.keys).await?;
        self.agree(&remote)?;
        self.catch_up(&remote).await?;
        self.fleet.read_idle(remote.revision).await?;
        let mut watch = shared.client.watch(&shared.keys.live(), remote.revision + 1).await?;
        shared.view.send_modify(|view| {
            view.lost = None;
            view.members.clone_from(&remote.members);
            view.base.clone_from(&remote.base);
            view.turn = None;
        });
        let folded = remote.base.as_ref().map_or(0, |base| base.sequence);
        self.fleet.log_size().at_least(self.fed.saturating_sub(folded));
        self.set_connected(true);
        self.fleet.heard();
        info!("fleet: following {} from {}", self.fleet.name(), self.fed);
        self.events(&mut watch).await
    }

    /// Checks that etcd holds the fleet of this node. A fleet that is to be joined passes in any
    /// case.
    fn agree(&mut self, remote: &Remote) -> Result<(), End> {
        let there = remote.id.as_ref().zip(remote.head.as_ref());
        let shared = &self.fleet.0;
        let is_wanted = shared.adopt.load(Ordering::Relaxed);
        if let Some((id, _)) = there.filter(|_| is_wanted) {
            info!("fleet: joining the fleet with the id {id}");
            return Ok(());
        }
        let id = shared.view.borrow().id.clone();
        match super::start::lost(&id, self.fed, there) {
            Some(why) => Err(End::Lost(why)),
            None => Ok(()),
        }
    }

    /// Hands the writer what is missing, as of the revision of `remote`.
    async fn catch_up(&mut self, remote: &Remote) -> Result<(), End> {
        let Some(head) = &remote.head else { return Ok(()) };
        let is_wanted = self.fleet.0.adopt.swap(false, Ordering::Relaxed);
        let own = (!is_wanted).then_some(self.fed);
        match missing(own, head.sequence, remote.first) {
            Missing::Nothing => {
                // The writer has the table already; only the revision of the head may not be known
                // yet.
                self.fleet.0.applied.send_modify(|applied| {
                    if applied.sequence == head.sequence {
                        applied.revision = head.revision;
                    }
                });
                Ok(())
            }
            Missing::Entries(from) => {
                if self.feed_up_to(head.sequence, remote.revision).await? {
                    return Ok(());
                }
                warn!("fleet: entries of the log from {from} on are missing");
                self.load(remote, LoadReason::Gap).await
            }
            Missing::Table => {
                let reason = if is_wanted { LoadReason::Join } else { LoadReason::Gap };
                self.load(remote, reason).await
            }
        }
    }

    async fn read(&self, from: u64, to: u64, revision: i64) -> Result<Vec<Found>, EtcdError> {
        let shared = &self.fleet.0;
        remote::entries(&shared.client, &shared.keys, from, to, revision).await
    }

    async fn load(&mut self, remote: &Remote, reason: LoadReason) -> Result<(), End> {
        let (Some(id), Some(head)) = (&remote.id, &remote.head) else { return Ok(()) };
        if reason == LoadReason::Gap {
            // All nodes may have found the same gap.
            let jitter = Duration::from_millis(random_below(1000));
            tokio::time::sleep(jitter).await;
        }
        let shared = self.fleet.0.clone();
        shared.counts.loads[reason as usize].fetch_add(1, Ordering::Relaxed);
        let read = remote::table(&shared.client, &shared.keys, remote, &self.names).await;
        let (table, rejected) = match read {
            Ok(read) => read,
            Err(ReadError::Etcd(error)) => return Err(error.into()),
            Err(ReadError::Broken(why)) => {
                return Err(End::Etcd(EtcdError::Other(format!("the table can't be read: {why}"))));
            }
        };
        if !rejected.is_empty() {
            self.fleet.set_rejected(rejected);
        }
        let membership = Membership {
            fleet: self.fleet.name().to_owned(),
            id: id.clone(),
            instance: shared.instance.clone(),
            sequence: head.sequence,
        };
        info!("fleet: loaded the table at {} ({} rules)", head.sequence, table.len());
        shared.view.send_modify(|view| view.id.clone_from(id));
        self.fed = head.sequence;
        self.orders.bring(Brought::Table { table, membership, revision: head.revision }).await;
        Ok(())
    }

    async fn events(&mut self, watch: &mut Watch) -> Result<Infallible, End> {
        let shared = self.fleet.0.clone();
        loop {
            let decided = shared.decided.notified();
            let brought = tokio::select! {
                brought = timeout(limits::FLEET_SILENCE_MAX, watch.next()) => brought,
                () = decided => return Err(End::Again),
            };
            let brought = brought.map_err(|_| End::Silent)??;
            self.fleet.heard();
            for event in brought {
                self.event(event).await?;
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), End> {
        let is_put = event.kind() == EventKind::Put;
        let Some(kv) = event.kv else { return Ok(()) };
        let shared = self.fleet.0.clone();
        match shared.keys.live_key(&kv.key) {
            Some(LiveKey::Log(sequence)) if is_put => self.entry(sequence, &kv).await?,
            Some(LiveKey::Id) => {
                let id = serde_json::from_slice::<serde_json::Value>(&kv.value).ok();
                let id = id.and_then(|id| id["fleet"].as_str().map(str::to_owned));
                if !is_put || id.as_deref() != Some(&*shared.view.borrow().id) {
                    return Err(End::Again);
                }
            }
            Some(LiveKey::Head) => {
                let head = remote::Head::read(&kv.value, kv.mod_revision);
                // A head that the log does not lead to was made by `fleet init`.
                let is_next = |head: &remote::Head| {
                    head.sequence == self.fed || head.sequence == self.fed + 1
                };
                if !is_put || !head.is_some_and(|head| is_next(&head)) {
                    return Err(End::Again);
                }
            }
            Some(LiveKey::Base) if is_put => {
                if let Ok(base) = Base::read(&kv.value) {
                    self.fleet.log_size().folded(base.sequence);
                    shared.view.send_modify(|view| view.base = Some(base));
                }
            }
            Some(LiveKey::Drained(nonce, node)) => {
                let key = (nonce.to_owned(), node.to_owned());
                let answer = serde_json::from_slice(&kv.value).ok().filter(|_| is_put);
                shared.drained.send_modify(|answers| {
                    match answer {
                        Some(answer) => answers.insert(key, answer),
                        None => answers.remove(&key),
                    };
                });
            }
            Some(LiveKey::Idle(host, node)) => {
                let key = (host.to_owned(), node.to_owned());
                match is_put {
                    true => self.fleet.idle_hosts().insert(key, kv.mod_revision),
                    false => self.fleet.idle_hosts().remove(&key),
                };
            }
            Some(LiveKey::Turn) => {
                let name = is_put.then(|| String::from_utf8_lossy(&kv.value).into_owned());
                shared.view.send_modify(|view| view.turn = name);
            }
            Some(LiveKey::Node(name)) => {
                let member = is_put.then(|| Member::read(&kv.value, Instant::now())).flatten();
                shared.view.send_modify(|view| {
                    match member {
                        Some(member) => view.members.insert(name.to_owned(), member),
                        None => view.members.remove(name),
                    };
                });
            }
            Some(LiveKey::Ask) if is_put => {
                let ask = serde_json::from_slice::<serde_json::Value>(&kv.value).ok();
                let sequence = ask.as_ref().and_then(|ask| ask["sequence"].as_u64()).unwrap_or(0);
                if let Some(drain) = ask.and_then(|ask| DrainAsk::read(&ask, self.fleet.node())) {
                    // The task that answers lives as long as this one.
                    let _ = shared.drains.send(drain);
                }
                shared.asked.send_replace(sequence);
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands the writer the entries up to `last`, read at this revision. Returns false if some are
    /// missing.
    async fn feed_up_to(&mut self, last: u64, revision: i64) -> Result<bool, End> {
        while self.fed < last {
            let found = self.read(self.fed + 1, last, revision).await?;
            if found.is_empty() {
                return Ok(false);
            }
            for found in found {
                self.feed(found).await?;
            }
        }
        Ok(true)
    }

    /// Takes an entry that the watch brings. First reads the entries before it that the watch did
    /// not bring.
    async fn entry(&mut self, sequence: u64, kv: &KeyValue) -> Result<(), End> {
        if sequence <= self.fed {
            return Ok(());
        }
        if !self.feed_up_to(sequence - 1, 0).await? {
            return Err(End::Again);
        }
        let entry = Entry::read(sequence, &kv.value);
        self.feed(Found { entry, sequence, revision: kv.mod_revision }).await
    }

    /// Looks up names that are new here, because a rule that is in force should work. Gives up
    /// soon, because other changes wait meanwhile.
    async fn look_up(&self, edits: &[Edit]) {
        let unasked: Vec<_> = edits.iter().flat_map(|edit| unasked(&edit.rules)).collect();
        if !unasked.is_empty() {
            let _ = timeout(limits::FLEET_LOOKUP_TIME, self.lookups.ready(&unasked)).await;
        }
    }

    /// Hands the next entry to the writer.
    async fn feed(&mut self, found: Found) -> Result<(), End> {
        let Found { entry, sequence, revision } = found;
        if sequence <= self.fed {
            return Ok(());
        }
        if sequence != self.fed + 1 {
            return Err(End::Again);
        }
        let shared = &self.fleet.0;
        let (mut node, mut broken) = (String::new(), None);
        let edits = match entry {
            Ok(entry) => {
                node.clone_from(&entry.node);
                self.fleet.log_size().add(sequence, &entry);
                let own = self.fleet.own_edits().take_if(|(nonce, _)| *nonce == entry.nonce);
                match own {
                    Some((_, edits)) => Ok(edits),
                    None => {
                        remote::edits_of(&shared.client, &shared.keys, entry, &self.names).await
                    }
                }
            }
            Err(why) => Err(ReadError::Broken(why)),
        };
        let edits = match edits {
            Ok(edits) => edits,
            Err(ReadError::Etcd(error)) => return Err(error.into()),
            Err(ReadError::Broken(why)) => {
                broken = Some(why);
                Vec::new()
            }
        };
        self.look_up(&edits).await;
        self.fed = sequence;
        self.orders.bring(Brought::Entry { sequence, revision, node, edits, broken }).await;
        Ok(())
    }
}
