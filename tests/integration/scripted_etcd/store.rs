//! The store of the scripted etcd: keys with all their versions, comparisons, leases and history,
//! in memory.

use std::collections::BTreeMap;

use super::message::{
    Compare, CompareResult, DeleteRangeRequest, DeleteRangeResponse, Event, EventKind, Expected,
    KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse, Request, RequestOp, Response,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};

#[derive(Default)]
pub struct Store {
    pub revision: i64,
    /// Revisions before this one are forgotten.
    pub compacted: i64,
    versions: BTreeMap<Vec<u8>, Vec<(i64, Option<KeyValue>)>>,
    history: Vec<(i64, Event)>,
    next_lease: i64,
}

/// Whether a key is one of a request's: the key itself, or from it to the end.
fn is_in(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => from <= key,
        end => from <= key && key < end,
    }
}

impl Store {
    pub fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: self.revision })
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.versions.get(key)?;
        let version = versions.iter().rev().find(|(at, _)| *at <= revision)?;
        version.1.as_ref()
    }

    /// `None`: the revision was compacted.
    pub fn range(&self, request: &RangeRequest) -> Option<RangeResponse> {
        let revision = if request.revision == 0 { self.revision } else { request.revision };
        if revision < self.compacted {
            return None;
        }
        let keys = self.versions.keys().filter(|key| is_in(key, &request.key, &request.range_end));
        let mut kvs: Vec<KeyValue> =
            keys.filter_map(|key| self.at(key, revision)).cloned().collect();
        let count = kvs.len() as i64;
        let more = 0 < request.limit && request.limit < count;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Some(RangeResponse { header: self.header(), kvs, more, count })
    }

    fn write(&mut self, key: Vec<u8>, value: Option<(Vec<u8>, i64)>, revision: i64) {
        let before = self.at(&key, revision).cloned();
        let (kind, kv) = match value {
            Some((value, lease)) => {
                let create_revision = before.map_or(revision, |kv| kv.create_revision);
                let mod_revision = revision;
                let kv = KeyValue { key: key.clone(), create_revision, mod_revision, value, lease };
                (EventKind::Put, kv)
            }
            None => {
                let mod_revision = revision;
                (
                    EventKind::Delete,
                    KeyValue { key: key.clone(), mod_revision, ..KeyValue::default() },
                )
            }
        };
        let kept = (kind == EventKind::Put).then(|| kv.clone());
        self.versions.entry(key).or_default().push((revision, kept));
        self.history.push((revision, Event { kind: kind.into(), kv: Some(kv) }));
    }

    pub fn put(&mut self, request: PutRequest) -> PutResponse {
        let revision = self.revision + 1;
        self.write(request.key, Some((request.value, request.lease)), revision);
        self.revision = revision;
        PutResponse { header: self.header() }
    }

    pub fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let revision = self.revision + 1;
        let deleted = self.delete_at(request, revision);
        if 0 < deleted {
            self.revision = revision;
        }
        DeleteRangeResponse { header: self.header(), deleted }
    }

    fn delete_at(&mut self, request: &DeleteRangeRequest, revision: i64) -> i64 {
        let keys = self.versions.keys().filter(|key| is_in(key, &request.key, &request.range_end));
        let there = keys.filter(|key| self.at(key, revision).is_some());
        let keys: Vec<Vec<u8>> = there.cloned().collect();
        let count = keys.len() as i64;
        keys.into_iter().for_each(|key| self.write(key, None, revision));
        count
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.at(&compare.key, self.revision);
        let (found, expected) = match compare.expected {
            Some(Expected::ModRevision(expected)) => (kv.map_or(0, |kv| kv.mod_revision), expected),
            Some(Expected::CreateRevision(expected)) => {
                (kv.map_or(0, |kv| kv.create_revision), expected)
            }
            Some(Expected::Version(expected)) => (i64::from(kv.is_some()), expected),
            None => (0, 0),
        };
        match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => found == expected,
            Ok(CompareResult::Greater) => expected < found,
            Ok(CompareResult::Less) => found < expected,
            Ok(CompareResult::NotEqual) => found != expected,
            Err(_) => false,
        }
    }

    /// `None`: a revision that it reads was compacted.
    pub fn txn(&mut self, request: TxnRequest) -> Option<TxnResponse> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let steps = if succeeded { request.success } else { request.failure };
        let revision = self.revision + 1;
        let (mut responses, mut writes) = (Vec::new(), false);
        for RequestOp { request } in steps {
            let response = match request? {
                Request::Range(range) => Response::Range(self.range(&range)?),
                Request::Put(put) => {
                    writes = true;
                    self.write(put.key, Some((put.value, put.lease)), revision);
                    Response::Put(PutResponse { header: self.header() })
                }
                Request::DeleteRange(delete) => {
                    let deleted = self.delete_at(&delete, revision);
                    writes |= 0 < deleted;
                    Response::DeleteRange(DeleteRangeResponse { header: self.header(), deleted })
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        if writes {
            self.revision = revision;
        }
        Some(TxnResponse { header: self.header(), succeeded, responses })
    }

    /// Forgets what was before the newest revision.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
        self.history.retain(|(revision, _)| self.compacted <= *revision);
    }

    pub fn grant(&mut self) -> i64 {
        self.next_lease += 1;
        self.next_lease
    }

    pub fn revoke(&mut self, lease: i64) {
        let keys = self.versions.keys();
        let leased =
            keys.filter(|key| self.at(key, self.revision).is_some_and(|kv| kv.lease == lease));
        let keys: Vec<Vec<u8>> = leased.cloned().collect();
        for key in keys {
            self.delete(&DeleteRangeRequest { key, range_end: Vec::new() });
        }
    }

    /// Events of keys in a range from a revision on, by revision.
    pub fn since(&self, revision: i64, from: &[u8], end: &[u8]) -> Vec<(i64, Vec<Event>)> {
        let mut batches: Vec<(i64, Vec<Event>)> = Vec::new();
        for (at, event) in self.history.iter().filter(|(at, _)| revision <= *at) {
            let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
            if !is_in(key, from, end) {
                continue;
            }
            match batches.last_mut() {
                Some((last, events)) if last == at => events.push(event.clone()),
                _ => batches.push((*at, vec![event.clone()])),
            }
        }
        batches
    }
}
