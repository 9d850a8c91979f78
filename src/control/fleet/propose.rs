//! Turns changes that wait into one entry of the log, and waits until it is in force here.
//!
//! If the answer to a transaction never comes, the log shows the outcome: the entry with this
//! sequence has the transaction's nonce, or another one. The transaction may be sent again
//! meanwhile, because both copies compare the same revision of the head, and only one of them can
//! succeed.
//!
//! If several nodes write at the same time, one of them succeeds. The others try again, on the
//! table as it is then. A node that lost several times in a row asks the others, by a leased key,
//! to let it go first.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::etcd::message::{DeleteRangeRequest, PutRequest, TxnRequest};
use super::etcd::{self, EtcdError};
use super::keys::Keys;
use super::log::{Chunks, Content, Edit, Entry, edits_text, pieces};
use super::remote::Head;
use super::{Applied, Fleet, Trouble, View, nonce};
use crate::control::change::{Done, Refused};
use crate::control::trial::{Asked, Made, Tried, refuse, reply, try_all};
use crate::limits;
use crate::link::{Published, Tag, TaggedTable};

/// The task that proposes.
pub(in crate::control) struct Proposer {
    pub(super) fleet: Fleet,
    pub(super) published: Arc<Published>,
    pub(super) proposals: mpsc::Receiver<Asked>,
}

/// How a transaction ended.
enum Outcome {
    Committed,
    /// The head has changed; it has at least this sequence.
    Conflict(u64),
}

/// Form in which a batch is written.
struct Written {
    nonce: String,
    content: Content,
    /// Text to be written in pieces, if it is too large for one value.
    text: Vec<u8>,
    /// Edits of the batch, if reading them again from their pieces would take long.
    own: Option<Vec<Edit>>,
}

impl Proposer {
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let Some(first) = self.proposals.recv().await else {
                return std::future::pending().await;
            };
            let mut edits = weight(&first);
            let mut batch = vec![first];
            while batch.len() < limits::CHANGES_AT_ONCE && edits < limits::EDITS_AT_ONCE {
                let Ok(next) = self.proposals.try_recv() else { break };
                edits += weight(&next);
                batch.push(next);
            }
            self.propose(batch, edits).await;
        }
    }

    async fn propose(&self, batch: Vec<Asked>, edits: usize) {
        let mut has_turn = false;
        self.attempt(batch, edits, &mut has_turn).await;
        let shared = &self.fleet.0;
        if has_turn {
            let delete = DeleteRangeRequest::of_key(&shared.keys.turn());
            // If this fails, the other nodes still wait for a limited time only, and the key's
            // lease ends.
            let _ = shared.client.delete_range(delete).await;
        }
    }

    /// Asks the other nodes to wait, unless they wait for another one already. Returns whether they
    /// wait for this node.
    async fn take_turn(&self) -> bool {
        let shared = &self.fleet.0;
        let (key, lease) = (shared.keys.turn(), shared.lease.load(Ordering::Relaxed));
        if lease == 0 {
            // Without a lease the key would outlive a crash.
            return false;
        }
        let request = TxnRequest {
            compare: vec![etcd::is_at(&key, 0)],
            success: vec![etcd::put_leased(&key, self.fleet.node(), lease)],
            failure: vec![etcd::get(&key)],
        };
        let Ok(done) = shared.client.txn(request).await else { return false };
        let holder = done.read(0).first().map(|kv| &*kv.value);
        done.succeeded || holder == Some(self.fleet.node().as_bytes())
    }

    /// Waits for a node that has the turn, for a while.
    async fn let_pass(&self) {
        let mut view = self.fleet.0.view.subscribe();
        let node = self.fleet.node();
        let is_free = |view: &View| view.turn.as_deref().is_none_or(|turn| turn == node);
        let _ = timeout(limits::FLEET_TURN_TIME, view.wait_for(is_free)).await;
    }

    async fn attempt(&self, mut batch: Vec<Asked>, edits: usize, has_turn: &mut bool) {
        let ask = batch.iter().any(|(change, _)| change.everywhere);
        let began = Instant::now();
        for attempt in 0.. {
            if limits::FLEET_TRIES <= attempt && limits::FLEET_COMMIT_TIME < began.elapsed() {
                break;
            }
            if limits::FLEET_TRIES_BEFORE_TURN <= attempt && !*has_turn {
                *has_turn = self.take_turn().await;
            }
            self.let_pass().await;
            let (now, at) = match self.ready().await {
                Ok(ready) => ready,
                Err(trouble) => return refuse_all(batch, &trouble),
            };
            let is_large = limits::EDITS_WORTH_A_WAKE < edits;
            let made = run_where(is_large, move || {
                let tried = try_all(batch, &now);
                let sequence = at.sequence + 1;
                let is_any = !tried.accepted.is_empty();
                let written = is_any.then(|| written(&tried.accepted, sequence));
                (tried, written)
            });
            let Some((tried, written)) = made.await else { return };
            let Some(mut written) = written else {
                return refuse(tried.refused, self.published.table().tag);
            };
            let own = written.own.take().map(|edits| (written.nonce.clone(), edits));
            *self.fleet.own_edits() = own;
            match self.commit(&written, at, ask).await {
                Ok(Outcome::Committed) => {
                    return self.committed(tried, at.sequence + 1, began).await;
                }
                Ok(Outcome::Conflict(sequence)) => {
                    self.fleet.0.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                    batch = all_of(tried);
                    if sequence <= at.sequence {
                        // Something other than a change wrote the head, so look at it anew.
                        self.fleet.look_again();
                        tokio::time::sleep(limits::FLEET_AGAIN).await;
                    }
                    if timeout(limits::FLEET_COMMIT_TIME, self.reached(sequence)).await.is_err() {
                        let why = "the watch is behind".to_owned();
                        return refuse_all(batch, &Trouble::Unreachable(why, false));
                    }
                }
                Err(trouble) => {
                    *self.fleet.own_edits() = None;
                    return refuse_all(all_of(tried), &trouble);
                }
            }
        }
        refuse_all(batch, &Trouble::Busy);
    }

    /// Waits for the table in force and for the place of the head that belongs to it.
    async fn ready(&self) -> Result<(TaggedTable, Applied), Trouble> {
        let connected = async {
            let mut view = self.fleet.0.view.subscribe();
            // The sender is this process's own, so it does not go away.
            let seen = view.wait_for(|view| view.connected || view.lost.is_some()).await;
            seen.ok().and_then(|view| view.lost.clone())
        };
        let patience = {
            let view = self.fleet.0.view.borrow();
            // If a member of etcd has just gone, another one soon replaces it, so wait. If etcd has
            // been away for long, don't.
            let is_recent = view.since.elapsed() < limits::FLEET_COMMIT_TIME;
            if is_recent { limits::FLEET_COMMIT_TIME } else { Duration::ZERO }
        };
        match timeout(patience, connected).await {
            Err(_) => {
                return Err(Trouble::Unreachable("etcd is out of reach".to_owned(), false));
            }
            Ok(Some(why)) => return Err(Trouble::Lost(why)),
            Ok(None) => {}
        }
        let mut applied = self.fleet.0.applied.subscribe();
        let until = Instant::now() + limits::FLEET_COMMIT_TIME;
        loop {
            let at = *applied.borrow_and_update();
            let now = TaggedTable::clone(&self.published.table());
            if now.tag.sequence == at.sequence && at.revision != 0 {
                return Ok((now, at));
            }
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, applied.changed()).await.is_err() {
                let why = "the table is still being read".to_owned();
                return Err(Trouble::Unreachable(why, false));
            }
        }
    }

    async fn reached(&self, sequence: u64) {
        let mut applied = self.fleet.0.applied.subscribe();
        let _ = applied.wait_for(|applied| sequence <= applied.sequence).await;
    }

    async fn commit(&self, written: &Written, at: Applied, ask: bool) -> Result<Outcome, Trouble> {
        let Written { nonce, content, text, .. } = written;
        let shared = &self.fleet.0;
        let (keys, sequence) = (&shared.keys, at.sequence + 1);
        let mut compare = vec![etcd::is_at(&keys.head(), at.revision)];
        if let Content::Chunks(chunks) = content {
            self.put_chunks(chunks, text).await.map_err(|error| Trouble::of(error, false))?;
            // It is enough to look at the first chunk: a node that folds the log deletes all chunks
            // of a nonce together.
            compare.push(etcd::exists(&keys.chunk(&chunks.nonce, 0)));
        }
        let entry = Entry {
            sequence,
            node: self.fleet.node().to_owned(),
            nonce: nonce.clone(),
            content: content.clone(),
        };
        let mut success = vec![
            etcd::put(&keys.log(sequence), entry.to_value()),
            etcd::put(&keys.head(), Head::to_value(sequence, nonce)),
        ];
        if ask {
            let ask = serde_json::json!({ "sequence": sequence, "nonce": nonce });
            success.push(etcd::put(&keys.ask(), ask.to_string()));
        }
        let failure = vec![etcd::get(&keys.head()), etcd::get(&keys.log(sequence))];
        let request = TxnRequest { compare, success, failure };
        let until = Instant::now() + limits::FLEET_COMMIT_TIME;
        let mut is_first = true;
        loop {
            match shared.client.txn(request.clone()).await {
                Ok(done) if done.succeeded => return Ok(Outcome::Committed),
                Ok(done) => {
                    let entry = done.read(1).first();
                    let entry = entry.and_then(|kv| Entry::read(sequence, &kv.value).ok());
                    if entry.is_some_and(|entry| entry.nonce == *nonce) {
                        return Ok(Outcome::Committed);
                    }
                    let head = done.read(0).first();
                    let head = head.and_then(|kv| Head::read(&kv.value, kv.mod_revision));
                    let head = head.ok_or_else(|| Trouble::Lost("the log is gone".to_owned()))?;
                    if head.revision == at.revision {
                        return Err(Trouble::Busy);
                    }
                    return Ok(Outcome::Conflict(head.sequence));
                }
                Err(EtcdError::Unreachable(_)) if Instant::now() < until => {
                    if std::mem::take(&mut is_first) {
                        // The watch may be at the same member, which is silent there, too.
                        self.fleet.look_again();
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(Trouble::of(error, true)),
            }
        }
    }

    /// Writes the pieces of a large entry; no entry leads to them yet.
    async fn put_chunks(&self, chunks: &Chunks, text: &[u8]) -> Result<(), EtcdError> {
        let shared = &self.fleet.0;
        let mut writing = JoinSet::new();
        for (index, piece) in pieces(text).enumerate() {
            if limits::FLEET_PIECES_AT_ONCE <= writing.len()
                && let Some(Ok(Err(error))) = writing.join_next().await
            {
                return Err(error);
            }
            let key = shared.keys.chunk(&chunks.nonce, index).into();
            let put = PutRequest { key, value: piece.to_vec(), lease: 0 };
            let client = shared.client.clone();
            writing.spawn(async move { client.put_again(put).await });
        }
        while let Some(written) = writing.join_next().await {
            if let Ok(Err(error)) = written {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Replies to the clients, once the entry is in force here.
    async fn committed(&self, tried: Tried, sequence: u64, began: Instant) {
        self.fleet.0.counts.commits.add(began.elapsed());
        let Tried { accepted, refused } = tried;
        if timeout(limits::FLEET_APPLY_SOON, self.reached(sequence)).await.is_err() {
            self.fleet.look_again();
        }
        if timeout(limits::FLEET_APPLY_TIME, self.reached(sequence)).await.is_err() {
            let why = format!("the change is made, as entry {sequence}, and not in force here yet");
            let asked = accepted.into_iter().map(|made| made.asked);
            return refuse_all(asked, &Trouble::Unreachable(why, true));
        }
        self.fleet.0.counts.applies.add(began.elapsed());
        let tag = Tag { sequence, ..self.published.table().tag };
        for Made { asked: (change, answer), before, .. } in accepted {
            let one = match &change.edits[..] {
                [(name, _)] if !change.whole => before.table.get(name).cloned(),
                _ => None,
            };
            let _ = answer.send(Ok(Done { tag, before: one }));
        }
        refuse(refused, tag);
    }
}

fn weight((change, _): &Asked) -> usize {
    change.edits.len()
}

fn all_of(tried: Tried) -> Vec<Asked> {
    let refused = tried.refused.into_iter().map(|(asked, _)| asked);
    tried.accepted.into_iter().map(|made| made.asked).chain(refused).collect()
}

fn refuse_all(batch: impl IntoIterator<Item = Asked>, trouble: &Trouble) {
    for (change, answer) in batch {
        reply(&change, answer, Err(Refused::Fleet(trouble.clone())));
    }
}

fn written(accepted: &[Made], sequence: u64) -> Written {
    let each = accepted.iter().map(|made| {
        let (change, _) = &made.asked;
        (change.verb, &*change.who, change.whole, &change.edits)
    });
    let text = edits_text(each);
    let nonce = nonce();
    if text.len() + 1024 <= limits::FLEET_VALUE_BYTES_MAX {
        return Written { nonce, content: Content::Text(text), text: Vec::new(), own: None };
    }
    let content = Content::Chunks(Chunks::of(&Keys::chunks_nonce(sequence, &nonce), &text));
    let edits = accepted.iter().map(|made| {
        let (change, _) = &made.asked;
        let (verb, who, whole) = (change.verb, change.who.clone(), change.whole);
        Edit { verb, who, whole, rules: change.edits.clone(), rejected: Vec::new() }
    });
    let own = Some(edits.collect());
    Written { nonce, content, text, own }
}

/// Runs `work` here, or on another thread if it takes long; `None` after a panic there.
async fn run_where<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match is_large {
        false => Some(work()),
        true => tokio::task::spawn_blocking(work).await.ok(),
    }
}
