//! Reads the fleet from etcd: what is there, entries of the log, and the whole table.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::etcd::message::{RangeRequest, TxnRequest};
use super::etcd::{self, Client, EtcdError};
use super::keys::Keys;
use super::load::{Base, read_base};
use super::log::{Chunks, Content, Edit, Entry, Rules, read_edits};
use super::member::Member;
use crate::control::SharedNames;
use crate::limits;
use crate::table::{self, Snapshot, edit_canonical};

/// The fleet at one revision of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Remote {
    pub(super) revision: i64,
    pub(super) id: Option<String>,
    pub(super) head: Option<Head>,
    pub(super) base: Option<Base>,
    /// Sequence of the oldest entry.
    pub(super) first: Option<u64>,
    pub(super) members: BTreeMap<String, Member>,
}

/// The head of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    /// The revision that last changed the head.
    pub(super) revision: i64,
}

impl Head {
    pub(super) fn read(value: &[u8], revision: i64) -> Option<Head> {
        let json: Value = serde_json::from_slice(value).ok()?;
        Some(Head { sequence: json["sequence"].as_u64()?, revision })
    }

    pub(super) fn to_value(sequence: u64, nonce: &str) -> Vec<u8> {
        serde_json::json!({ "sequence": sequence, "nonce": nonce }).to_string().into_bytes()
    }
}

fn step(range: RangeRequest) -> etcd::message::RequestOp {
    etcd::message::RequestOp { request: Some(etcd::message::Request::Range(range)) }
}

/// Reads everything of the fleet except its rules, at one revision.
pub(super) async fn look(client: &Client, keys: &Keys) -> Result<Remote, EtcdError> {
    let all = RangeRequest::of_prefix(&keys.all_log());
    let first = RangeRequest { limit: 1, keys_only: true, ..all };
    let success = vec![
        etcd::get(&keys.id()),
        etcd::get(&keys.head()),
        etcd::get(&keys.base()),
        step(first),
        step(RangeRequest::of_prefix(&keys.nodes())),
    ];
    let found = client.read_txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    let id = found.read(0).first();
    let id = id.and_then(|kv| serde_json::from_slice::<Value>(&kv.value).ok());
    let head = found.read(1).first();
    let first = found.read(3).first().and_then(|kv| match keys.live_key(&kv.key) {
        Some(super::keys::LiveKey::Log(sequence)) => Some(sequence),
        _ => None,
    });
    let now = Instant::now();
    let members = found.read(4).iter().filter_map(|kv| match keys.live_key(&kv.key) {
        Some(super::keys::LiveKey::Node(name)) => {
            Some((name.to_owned(), Member::read(&kv.value, now)?))
        }
        _ => None,
    });
    Ok(Remote {
        revision: found.revision(),
        id: id.and_then(|id| id["fleet"].as_str().map(str::to_owned)),
        head: head.and_then(|kv| Head::read(&kv.value, kv.mod_revision)),
        base: found.read(2).first().and_then(|kv| Base::read(&kv.value).ok()),
        first,
        members: members.collect(),
    })
}

/// An entry with the revision that made it.
pub(super) struct Found {
    pub(super) entry: Result<Entry, String>,
    pub(super) sequence: u64,
    pub(super) revision: i64,
}

/// Reads some of the entries `from ..= to`, from the first on, at a revision; 0: as they are now.
pub(super) async fn entries(
    client: &Client,
    keys: &Keys,
    from: u64,
    to: u64,
    revision: i64,
) -> Result<Vec<Found>, EtcdError> {
    let found = client.range(RangeRequest {
        key: keys.log(from).into(),
        range_end: keys.log(to + 1).into(),
        limit: limits::FLEET_ENTRIES_AT_ONCE,
        revision,
        ..RangeRequest::default()
    });
    let found = found.await?.kvs.into_iter().filter_map(|kv| match keys.live_key(&kv.key) {
        Some(super::keys::LiveKey::Log(sequence)) => {
            let entry = Entry::read(sequence, &kv.value);
            Some(Found { entry, sequence, revision: kv.mod_revision })
        }
        _ => None,
    });
    Ok(found.collect())
}

/// Why something can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Content of etcd that makes no sense.
    #[error("{0}")]
    Broken(String),
}

/// Puts a text together from its pieces, each read by a call of its own.
async fn text_of(
    client: &Client,
    chunks: &Chunks,
    key: impl Fn(usize) -> String,
    revision: i64,
) -> Result<Vec<u8>, ReadError> {
    let mut pieces = Vec::with_capacity(chunks.count.min(1024));
    for index in 0..chunks.count {
        let request = RangeRequest { key: key(index).into(), revision, ..RangeRequest::default() };
        match client.range(request).await?.kvs.into_iter().next() {
            Some(kv) => pieces.push(kv.value),
            None => return Err(ReadError::Broken(format!("piece {index} is missing"))),
        }
    }
    let chunks = chunks.clone();
    elsewhere(move || {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        chunks.join(&pieces)
    })
    .await
}

/// Runs a read that takes long on another thread. A panic there counts as an error in what was
/// read.
async fn elsewhere<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ReadError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Err("it was given up".to_owned())).map_err(ReadError::Broken)
}

/// The edits of an entry, with its chunks if it has any; large ones are read on another thread.
pub(super) async fn edits_of(
    client: &Client,
    keys: &Keys,
    entry: Entry,
    names: &SharedNames,
) -> Result<Vec<Edit>, ReadError> {
    let text = match entry.content {
        Content::Text(text) => text,
        Content::Chunks(chunks) => {
            text_of(client, &chunks, |index| keys.chunk(&chunks.nonce, index), 0).await?
        }
    };
    if text.len() <= limits::PARSED_HERE_BYTES_MAX {
        return read_edits(&text, names).map_err(ReadError::Broken);
    }
    let names = names.clone();
    elsewhere(move || read_edits(&text, &names)).await
}

/// Rules that were not taken, by name, and why.
pub(in crate::control) type NotTaken = Vec<(String, String)>;

/// Reads the whole table as of `remote`, and lists the rules that could not be taken.
pub(super) async fn table(
    client: &Client,
    keys: &Keys,
    remote: &Remote,
    names: &SharedNames,
) -> Result<(Snapshot, NotTaken), ReadError> {
    let base = remote.base.clone();
    let base = base.ok_or_else(|| ReadError::Broken("live/base is missing".to_owned()))?;
    let head = remote.head.as_ref().map_or(base.sequence, |head| head.sequence);
    let key = |index| keys.base_piece(&base.chunks.nonce, index);
    let text = text_of(client, &base.chunks, key, remote.revision).await?;
    let shared = names.clone();
    let read = elsewhere(move || {
        let mut names = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        read_base(&text, &mut names)
    });
    let (mut table, mut not_taken) = read.await?;
    let mut next = base.sequence + 1;
    while next <= head {
        let found = entries(client, keys, next, head, remote.revision).await?;
        if found.is_empty() {
            return Err(ReadError::Broken(format!("entry {next} of the log is missing")));
        }
        for found in found {
            if found.sequence != next {
                return Err(ReadError::Broken(format!("entry {next} of the log is missing")));
            }
            next += 1;
            let edits = match found.entry {
                Ok(entry) => edits_of(client, keys, entry, names).await,
                Err(why) => Err(ReadError::Broken(why)),
            };
            match edits {
                Ok(edits) => {
                    for edit in edits {
                        let (new, more) = apply(&table, &edit);
                        table = new;
                        not_taken.extend(more);
                    }
                }
                Err(ReadError::Broken(why)) => {
                    not_taken.push((format!("entry {}", found.sequence), why));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok((table, not_taken))
}

/// Returns the table after an edit. If a rule can't be taken, the rule that was there before stays
/// in force.
pub(in crate::control) fn apply(table: &Snapshot, edit: &Edit) -> (Snapshot, NotTaken) {
    let empty = Snapshot::default();
    let from = if edit.whole { &empty } else { table };
    let mut not_taken = edit.rejected.clone();
    let kept = edit.rejected.iter().filter(|_| edit.whole);
    let kept = kept.filter_map(|(name, _)| Some((name.clone(), Some(table.get(name)?.clone()))));
    let kept: Rules = kept.collect();
    let made = match kept.is_empty() {
        true => edit_canonical(from, &edit.rules),
        false => edit_canonical(from, &[kept, edit.rules.clone()].concat()),
    };
    match made {
        Ok(table) => (table, not_taken),
        // Possible only if rules were left out that other rules lead to.
        Err(_) => {
            let last: BTreeMap<_, _> = edit.rules.iter().cloned().collect();
            let (table, refused) = table::replay(from, last.into_iter().collect());
            not_taken.extend(refused.into_iter().map(|refused| (refused.host, refused.error)));
            (table, not_taken)
        }
    }
}
