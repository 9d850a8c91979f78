//! The JSON of one rule as a tree, within bounds. The bounds are needed because an empty list is
//! two bytes in a body, and as many as forty times that in a tree. No valid rule comes near them.
//! Whatever exceeds them is read and dropped, and the rule is refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::limits;

/// Values that are reserved per level of depth, for the levels that enclose a value.
const LEFT_PER_DEPTH: usize = 64;

/// Room that is left for the tree of a rule.
pub(super) struct Room {
    values: usize,
    /// Depth in the rule of the value that is being read.
    depth: usize,
    bytes: usize,
    /// Whether something was dropped, so that the tree is not the whole rule.
    pub(super) is_short: bool,
}

impl Room {
    pub(super) fn new() -> Room {
        Room {
            values: limits::RULE_VALUES_MAX,
            depth: 0,
            bytes: limits::RULE_BODY_BYTES_MAX,
            is_short: false,
        }
    }

    /// Takes room for one more value, if there is any. A value that lies deep leaves some room to
    /// the levels that enclose it. So the error names what is wrong there, and does not say that
    /// everything behind it is missing.
    fn take(&mut self) -> bool {
        let has_room = LEFT_PER_DEPTH * self.depth.min(4) < self.values;
        self.values -= usize::from(has_room);
        has_room
    }

    /// Takes room for a text, and copies it. Without room the text is dropped.
    fn text(&mut self, text: &str) -> String {
        match self.bytes.checked_sub(text.len()) {
            Some(left) => {
                self.bytes = left;
                text.to_owned()
            }
            None => {
                self.is_short = true;
                String::new()
            }
        }
    }
}

/// Reads one value.
pub(super) struct Tree<'r>(pub(super) &'r mut Room);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(self.0.text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let room = self.0;
        let mut list = Vec::new();
        while room.take() {
            room.depth += 1;
            let item = items.next_element_seed(Tree(room))?;
            room.depth -= 1;
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {
            room.is_short = true;
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let room = self.0;
        let mut object = Map::new();
        while let Some(key) = entries.next_key_seed(Key(room))? {
            if room.take() {
                room.depth += 1;
                object.insert(key, entries.next_value_seed(Tree(room))?);
                room.depth -= 1;
            } else {
                room.is_short = true;
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(object))
    }
}

/// Reads the name of a value.
struct Key<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<String, E> {
        Ok(self.0.text(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (serde_json::Result<Value>, bool) {
        let mut room = Room::new();
        let mut reader = serde_json::Deserializer::from_str(text);
        let value = Tree(&mut room).deserialize(&mut reader);
        (value.and_then(|value| reader.end().map(|()| value)), room.is_short)
    }

    #[test]
    fn what_fits_is_what_a_tree_would_be() {
        let of = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        for text in [
            "null",
            r#"["proxy", {"a": [1, -2, 3.5, true, null, "\u00e4"], "b": {}}, false]"#,
            r#"["proxy", {"b": {}, "b": {"c": []}}, false]"#,
            &of("0", limits::RULE_VALUES_MAX - 1),
            &format!("\"{}\"", "x".repeat(limits::RULE_BODY_BYTES_MAX)),
        ] {
            let (value, is_short) = read(text);
            let expected: Value = serde_json::from_str(text).expect("JSON");
            assert!(value.expect("JSON") == expected && !is_short);
        }
        for text in ["", "[", "{\"a\"}", "[1,]", "{1: 2}", "1 2"] {
            assert!(read(text).0.is_err(), "{text}");
        }
        assert!(read(&format!("{}1{}", "[".repeat(200), "]".repeat(200))).0.is_err(), "too deep");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_told() {
        let many = vec!["[]"; 2 * limits::RULE_VALUES_MAX].join(",");
        for text in [
            format!("[{many}]"),
            format!("[1, [{many}], [{many}]]"),
            format!("{{\"a\": [{many}], \"b\": {{}}}}"),
            format!("{{{}}}", vec!["\"a\":{}"; 2 * limits::RULE_VALUES_MAX].join(",")),
            format!("[\"{0}\", \"{0}\"]", "x".repeat(limits::RULE_BODY_BYTES_MAX)),
            format!("{{\"{}\": 1}}", "x".repeat(limits::RULE_BODY_BYTES_MAX + 1)),
        ] {
            let (value, is_short) = read(&text);
            assert!(value.is_ok() && is_short);
        }
    }
}
