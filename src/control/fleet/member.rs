//! A node as the other nodes see it. Pure.

use std::time::Instant;

use serde_json::{Value, json};

/// A node with a live lease.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct Member {
    pub(in crate::control) url: String,
    pub(in crate::control) version: String,
    pub(in crate::control) instance: String,
    pub(in crate::control) sequence: u64,
    pub(in crate::control) held: u64,
    pub(in crate::control) connections: u64,
    pub(in crate::control) requests_per_second: f64,
    /// Time at which its heartbeat was read.
    pub(in crate::control) at: Instant,
}

/// Numbers of this node: requests held, connections open, requests completed.
pub(in crate::control) type Numbers = Box<dyn Fn() -> [u64; 3]>;

impl Member {
    /// Reads a node from the value of its key.
    pub(in crate::control) fn read(value: &[u8], at: Instant) -> Option<Member> {
        let json: Value = serde_json::from_slice(value).ok()?;
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| json[name].as_u64().unwrap_or(0);
        Some(Member {
            url: text("url"),
            version: text("version"),
            instance: text("boot"),
            sequence: json["sequence"].as_u64()?,
            held: number("held"),
            connections: number("connections"),
            requests_per_second: json["requests_per_second"].as_f64().unwrap_or(0.0),
            at,
        })
    }

    /// Writes the node as the value of its key.
    pub(in crate::control) fn to_value(&self) -> Vec<u8> {
        let mut json = self.json();
        json["boot"] = json!(self.instance);
        json.to_string().into_bytes()
    }

    /// Returns the part of `/fleet/` about this node.
    pub(in crate::control) fn shown(&self, now: Instant) -> Value {
        let mut json = self.json();
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        json["age"] = json!((age * 10.0).round() / 10.0);
        json
    }

    fn json(&self) -> Value {
        json!({
            "url": self.url,
            "version": self.version,
            "sequence": self.sequence,
            "held": self.held,
            "connections": self.connections,
            "requests_per_second": self.requests_per_second,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_was_written() {
        let now = Instant::now();
        let member = Member {
            url: "http://a:8042".to_owned(),
            version: "1".to_owned(),
            instance: "x".to_owned(),
            sequence: 7,
            held: 1,
            connections: 2,
            requests_per_second: 3.5,
            at: now,
        };
        assert_eq!(Member::read(&member.to_value(), now), Some(member));
        assert_eq!(Member::read(b"{}", now), None);
    }
}
