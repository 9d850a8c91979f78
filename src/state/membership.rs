//! The fleet that a table belongs to, and how much of the fleet's log is in it.
//!
//! The state file holds the membership as `"fleet": {…}`. The journal holds it in a line behind the
//! lines of each entry of the fleet's log. If a machine stops before that line is written, the
//! entry is applied once more. That changes nothing, because an entry only says what rules are to
//! be.

use serde_json::{Value, json};

use crate::limits::SEQUENCE_MAX;

/// A copy's place in its fleet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Name of the fleet.
    pub fleet: String,
    /// Identity of the fleet. Another fleet of the same name has another identity.
    pub id: String,
    /// Random text that distinguishes this node from another node of the same name.
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

    /// Reads a membership. `None`: the table belongs to no fleet, or the JSON can't be understood.
    /// A node without a known place in the log compares its table.
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
