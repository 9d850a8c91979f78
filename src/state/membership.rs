//! The fleet that a table belongs to, and how much of the fleet's log is in it.
//!
//! The membership stands in the state file as `"fleet": {…}`, and in a line of the journal behind
//! those of an entry. Where that line is missing because a machine stopped, the entry is made once
//! more: all that it says is what rules are to be, so nothing changes.

use serde_json::{Value, json};

use crate::limits::SEQUENCE_MAX;

/// A copy's place in its fleet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Name of the fleet.
    pub fleet: String,
    /// Identity of the fleet: another one under the same name has another.
    pub id: String,
    /// Random text that tells this node from another one with its name.
    pub instance: String,
    /// The last entry of the fleet's log that is in the table.
    pub sequence: u64,
}

impl Membership {
    /// Returns the JSON that [`Membership::read`] reads.
    pub fn to_json(&self) -> Value {
        let Membership { fleet, id, instance, sequence } = self;
        json!({ "fleet": fleet, "id": id, "instance": instance, "sequence": sequence })
    }

    /// `None`: it is of no fleet, or nothing can be made of what stands there. A node that doesn't
    /// know its place compares its table.
    pub fn read(json: &Value) -> Option<Membership> {
        let text = |name: &str| json.get(name)?.as_str().map(str::to_owned);
        let sequence = json.get("sequence")?.as_u64().filter(|number| *number <= SEQUENCE_MAX)?;
        Some(Membership {
            fleet: text("fleet")?,
            id: text("id")?,
            instance: text("instance")?,
            sequence,
        })
    }
}
