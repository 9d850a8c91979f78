//! Draining on all nodes: a node whose change removes backends asks the other nodes to say when
//! they have no requests under way at these backends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::Fleet;
use super::etcd::message::{DeleteRangeRequest, PutRequest};
use crate::address::Address;
use crate::control::drained::drained;
use crate::control::elder::Elder;
use crate::link::ControlEnd;

/// Question of another node: when these backends are drained here.
pub(super) struct DrainAsk {
    nonce: String,
    sequence: u64,
    host: String,
    backends: Vec<Address>,
    wait: Duration,
}

/// Answers by nonce and node: what is left at each backend, or `null` where nothing is known.
pub(super) type Answers = BTreeMap<(String, String), Value>;

impl DrainAsk {
    /// Reads the value of `live/ask`; `None`: the question is this node's own, or not about a
    /// drain.
    pub(super) fn read(ask: &Value, own: &str) -> Option<DrainAsk> {
        let drain = ask.get("drain")?;
        if ask["node"] == own {
            return None;
        }
        let backends = drain["backends"].as_array()?.iter();
        Some(DrainAsk {
            nonce: ask["nonce"].as_str()?.to_owned(),
            sequence: ask["sequence"].as_u64()?,
            host: drain["host"].as_str()?.to_owned(),
            backends: backends.filter_map(|one| one.as_str()?.parse().ok()).collect(),
            wait: Duration::from_millis(drain["milliseconds"].as_u64()?),
        })
    }
}

/// Answers what other nodes ask, for ever.
pub(super) async fn run(
    fleet: &Fleet,
    shards: ControlEnd,
    elder: Elder,
    mut asks: mpsc::UnboundedReceiver<DrainAsk>,
) -> Infallible {
    while let Some(ask) = asks.recv().await {
        let (fleet, shards, elder) = (fleet.clone(), shards.clone(), elder.clone());
        tokio::spawn(async move { answer(&fleet, (&shards, &elder), ask).await });
    }
    std::future::pending().await
}

async fn answer(fleet: &Fleet, (shards, elder): (&ControlEnd, &Elder), ask: DrainAsk) {
    let until = Instant::now() + ask.wait;
    let mut applied = fleet.0.applied.subscribe();
    let is_there = applied.wait_for(|applied| ask.sequence <= applied.sequence);
    let is_there = timeout(ask.wait, is_there).await.is_ok_and(|seen| seen.is_ok());
    let mut left = None;
    if is_there {
        let wait = until.saturating_duration_since(Instant::now());
        match drained(shards, elder, &ask.host, ask.backends, wait).await {
            Ok(found) => left = Some(found),
            Err(error) => warn!("fleet: nothing can be waited for: {error}"),
        }
    }
    let left = left.map(|left| {
        let at = left.at.into_iter().map(|(at, count)| (at.to_string(), json!(count)));
        (left.is_nothing, Value::Object(at.collect()))
    });
    let (is_nothing, left) = left.unwrap_or_default();
    let value = json!({ "drained": is_nothing, "left": left }).to_string().into_bytes();
    let key = fleet.0.keys.drained(&ask.nonce, fleet.node()).into();
    let lease = fleet.0.lease.load(Ordering::Relaxed);
    let _ = fleet.0.client.put(PutRequest { key, value, lease }).await;
}

impl Fleet {
    /// Asks all other nodes, and waits until each has answered. Returns the requests left at each
    /// backend, added up over the nodes, and the nodes that did not answer.
    pub(in crate::control) async fn drained_elsewhere(
        &self,
        sequence: u64,
        host: &str,
        backends: &[Address],
        wait: Duration,
    ) -> (BTreeMap<Address, u64>, Vec<String>) {
        // A node that has requests under way without a backend yet counts as silent.
        let mut left = BTreeMap::new();
        let others: Vec<String> = self.others().into_iter().map(|(name, _)| name).collect();
        if others.is_empty() || backends.is_empty() {
            return (left, Vec::new());
        }
        let nonce = super::nonce();
        let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
        let milliseconds = wait.as_millis() as u64;
        let drain = json!({ "host": host, "backends": backends, "milliseconds": milliseconds });
        let ask = json!({
            "sequence": sequence, "nonce": nonce, "node": self.node(), "drain": drain,
        });
        let key = self.0.keys.ask().into();
        let mut answers = self.0.drained.subscribe();
        let put = PutRequest { key, value: ask.to_string().into_bytes(), lease: 0 };
        if self.0.client.put(put).await.is_err() {
            return (left, others);
        }
        let key_of = |name: &String| (nonce.clone(), name.clone());
        // Nodes that have gone meanwhile are not waited for.
        let has_all = |answers: &Answers| {
            let members = &self.0.view.borrow().members;
            let here = others.iter().filter(|name| members.contains_key(*name));
            here.into_iter().all(|name| answers.contains_key(&key_of(name)))
        };
        // A node answers at the latest when `wait` is over.
        let _ = timeout(wait + Duration::from_secs(2), answers.wait_for(has_all)).await;
        let found = answers.borrow().clone();
        let members = self.view().members;
        let mut silent = Vec::new();
        for name in others.iter().filter(|name| members.contains_key(*name)) {
            match found.get(&key_of(name)).and_then(|answer| answer["left"].as_object()) {
                Some(counts) => {
                    for (at, count) in counts {
                        if let Ok(at) = at.parse::<Address>() {
                            *left.entry(at).or_default() += count.as_u64().unwrap_or(0);
                        }
                    }
                    let answer = &found[&key_of(name)];
                    if counts.is_empty() && answer["drained"] != true {
                        silent.push(name.clone());
                    }
                }
                None => silent.push(name.clone()),
            }
        }
        let delete = DeleteRangeRequest::of_prefix(&self.0.keys.all_drained(&nonce));
        // If this fails, the answers go when the nodes' leases end.
        let _ = self.0.client.delete_range(delete).await;
        (left, silent)
    }
}
