//! Waits until all nodes have a change.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::Fleet;
use super::etcd::message::PutRequest;

/// Count of nodes, and the nodes that do not have the change yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Waited {
    nodes: usize,
    lagging: Vec<String>,
}

impl Waited {
    pub(in crate::control) fn to_json(&self) -> Value {
        let Waited { nodes, lagging } = self;
        let mut json = json!({ "nodes": nodes, "applied": nodes - lagging.len() });
        if !lagging.is_empty() {
            json["lagging"] = json!(lagging);
        }
        json
    }
}

/// Time for which nodes are waited for before they are asked once more.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Fleet {
    /// Waits until every node with a live lease has the table of `sequence`, and asks for it again
    /// now and then. The nodes were first asked for it with the change itself.
    pub(in crate::control) async fn wait_for(&self, sequence: u64, patience: Duration) -> Waited {
        let until = Instant::now() + patience;
        let mut view = self.0.view.subscribe();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let all = view.wait_for(|view| self.lagging(&view.members, sequence).is_empty());
            if timeout(left.min(ASK_EVERY), all).await.is_ok() || left.is_zero() {
                let members = self.view().members;
                // This node has the table, even if it has sent no heartbeat yet.
                let nodes = members.len() + usize::from(!members.contains_key(self.node()));
                return Waited { nodes, lagging: self.lagging(&members, sequence) };
            }
            let ask = json!({ "sequence": sequence, "nonce": super::nonce() });
            let key = self.0.keys.ask().into();
            let put = PutRequest { key, value: ask.to_string().into_bytes(), lease: 0 };
            let _ = timeout(left, self.0.client.put(put)).await;
        }
    }

    fn lagging(
        &self,
        members: &std::collections::BTreeMap<String, super::Member>,
        sequence: u64,
    ) -> Vec<String> {
        let behind = members.iter().filter(|(_, member)| member.sequence < sequence);
        let others = behind.filter(|(name, _)| *name != self.node());
        others.map(|(name, _)| name.clone()).collect()
    }
}
