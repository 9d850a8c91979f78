//! Entries of the fleet's log as values: how a change is written, cut into chunks, put together
//! again and read. Pure.
//!
//! `{"sequence": 7, "node": "a", "nonce": "…", "edits": [{"verb": "PUT", "who": "…", "whole":
//! false, "rules": {name: rule or null}}]}`. An entry that is too large for one value of etcd has,
//! in place of `edits`, the description of its chunks: their bytes, one chunk after the other, are
//! the text of `edits`.

use std::fmt;
use std::sync::PoisonError;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Value, json};

use crate::control::SharedNames;
use crate::control::change::Verb;
use crate::limits::{FLEET_VALUE_BYTES_MAX, SEQUENCE_MAX};
use crate::table::{Rule, host};

/// Rules by canonical name; `None` deletes.
pub(in crate::control) type Rules = Vec<(String, Option<Rule>)>;

/// One change of the table.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct Edit {
    pub(in crate::control) verb: Verb,
    /// Address or user of the client that asked for the change.
    pub(in crate::control) who: String,
    /// Whether the rules replace the whole table.
    pub(in crate::control) whole: bool,
    pub(in crate::control) rules: Rules,
    /// Names whose rules this version can't read, and why: each keeps the rule that it had.
    pub(in crate::control) rejected: Vec<(String, String)>,
}

/// Pieces that make up a large text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Chunks {
    /// Part of their keys.
    pub(in crate::control) nonce: String,
    pub(in crate::control) count: usize,
    pub(in crate::control) bytes: usize,
    pub(in crate::control) crc32: u32,
}

/// Content of an entry beside its numbers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) enum Content {
    /// The text of the edits.
    Text(Vec<u8>),
    Chunks(Chunks),
}

/// An entry as it stands in etcd.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct Entry {
    pub(in crate::control) sequence: u64,
    pub(in crate::control) node: String,
    pub(in crate::control) nonce: String,
    pub(in crate::control) content: Content,
}

impl Entry {
    /// Writes the entry as the value of its key.
    pub(in crate::control) fn to_value(&self) -> Vec<u8> {
        let Entry { sequence, node, nonce, content } = self;
        let mut head = json!({ "sequence": sequence, "node": node, "nonce": nonce });
        match content {
            Content::Chunks(chunks) => {
                head["chunks"] = chunks.to_json();
                head.to_string().into_bytes()
            }
            Content::Text(text) => {
                let mut value = head.to_string().into_bytes();
                value.pop();
                value.extend_from_slice(b",\"edits\":");
                value.extend_from_slice(text);
                value.push(b'}');
                value
            }
        }
    }

    /// Reads the value of the key with this sequence.
    pub(in crate::control) fn read(sequence: u64, value: &[u8]) -> Result<Entry, String> {
        let parts: Parts<'_> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if parts.sequence != sequence {
            return Err(format!("it says that it has the number {}", parts.sequence));
        }
        let content = match (parts.edits, parts.chunks) {
            (Some(text), None) => Content::Text(text.get().as_bytes().to_vec()),
            (None, Some(chunks)) => Content::Chunks(Chunks::read(&chunks)?),
            _ => return Err("expected either `edits` or `chunks`".to_owned()),
        };
        Ok(Entry { sequence, node: parts.node, nonce: parts.nonce, content })
    }
}

/// An entry, with the text of its edits as it came.
struct Parts<'v> {
    sequence: u64,
    node: String,
    nonce: String,
    edits: Option<&'v serde_json::value::RawValue>,
    chunks: Option<Value>,
}

impl<'de> serde::Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PartsVisitor)
    }
}

struct PartsVisitor;

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry of a fleet's log")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Parts<'de>, M::Error> {
        let mut sequence = None;
        let (mut node, mut nonce) = (String::new(), String::new());
        let (mut edits, mut chunks) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "sequence" => sequence = Some(map.next_value()?),
                "node" => node = map.next_value()?,
                "nonce" => nonce = map.next_value()?,
                "edits" => edits = Some(map.next_value()?),
                "chunks" => chunks = Some(map.next_value()?),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        let sequence = sequence.filter(|sequence| *sequence <= SEQUENCE_MAX);
        let sequence = sequence.ok_or_else(|| M::Error::missing_field("sequence"))?;
        Ok(Parts { sequence, node, nonce, edits, chunks })
    }
}

impl Chunks {
    /// Describes a text.
    pub(in crate::control) fn of(nonce: &str, text: &[u8]) -> Chunks {
        Chunks {
            nonce: nonce.to_owned(),
            count: pieces(text).len(),
            bytes: text.len(),
            crc32: crc32fast::hash(text),
        }
    }

    pub(in crate::control) fn to_json(&self) -> Value {
        let Chunks { nonce, count, bytes, crc32 } = self;
        json!({ "nonce": nonce, "count": count, "bytes": bytes, "crc32": format!("{crc32:08x}") })
    }

    pub(in crate::control) fn read(json: &Value) -> Result<Chunks, String> {
        let number = |name: &str| {
            let number = json[name].as_u64().and_then(|number| usize::try_from(number).ok());
            number.ok_or_else(|| format!("`{name}` is no number"))
        };
        let text = |name: &str| json[name].as_str().ok_or_else(|| format!("`{name}` is no text"));
        Ok(Chunks {
            nonce: text("nonce")?.to_owned(),
            count: number("count")?,
            bytes: number("bytes")?,
            crc32: u32::from_str_radix(text("crc32")?, 16).map_err(|error| error.to_string())?,
        })
    }

    /// Puts pieces together, in the order of their keys.
    pub(in crate::control) fn join(&self, pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
        if pieces.len() != self.count {
            return Err(format!("{} of {} pieces are there", pieces.len(), self.count));
        }
        // Don't reserve `bytes`: the entry may be wrong about them.
        let text = pieces.concat();
        if text.len() != self.bytes || crc32fast::hash(&text) != self.crc32 {
            return Err("the pieces do not make up what was written".to_owned());
        }
        Ok(text)
    }
}

/// Pieces of a large text, each small enough for one value.
pub(in crate::control) fn pieces(text: &[u8]) -> std::slice::Chunks<'_, u8> {
    text.chunks(FLEET_VALUE_BYTES_MAX)
}

/// The text of edits.
pub(in crate::control) fn edits_text<'e>(
    edits: impl Iterator<Item = (Verb, &'e str, bool, &'e Rules)>,
) -> Vec<u8> {
    let mut text = b"[".to_vec();
    for (index, (verb, who, whole, rules)) in edits.enumerate() {
        if index != 0 {
            text.push(b',');
        }
        let head = json!({ "verb": verb.as_str(), "who": who, "whole": whole }).to_string();
        text.extend_from_slice(&head.as_bytes()[..head.len() - 1]);
        text.extend_from_slice(b",\"rules\":{");
        for (index, (name, rule)) in rules.iter().enumerate() {
            if index != 0 {
                text.push(b',');
            }
            // Writing to a Vec does not fail.
            let _ = serde_json::to_writer(&mut text, name);
            text.push(b':');
            let rule = rule.as_ref().map_or(Value::Null, Rule::to_json);
            let _ = serde_json::to_writer(&mut text, &rule);
        }
        text.extend_from_slice(b"}}");
    }
    text.push(b']');
    text
}

/// Reads the text of edits. A rule that this version can't read goes to [`Edit::rejected`]. An
/// error means that the text is not a list of edits.
pub(in crate::control) fn read_edits(
    text: &[u8],
    names: &SharedNames,
) -> Result<Vec<Edit>, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let edits = reader.deserialize_seq(EditsVisitor(names));
    edits.and_then(|edits| reader.end().map(|()| edits)).map_err(|error| error.to_string())
}

struct EditsVisitor<'n>(&'n SharedNames);

impl<'de> Visitor<'de> for EditsVisitor<'_> {
    type Value = Vec<Edit>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of edits")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Vec<Edit>, S::Error> {
        let mut edits = Vec::new();
        while let Some(edit) = list.next_element_seed(EditVisitor(self.0))? {
            edits.push(edit);
        }
        Ok(edits)
    }
}

struct EditVisitor<'n>(&'n SharedNames);

impl<'de> DeserializeSeed<'de> for EditVisitor<'_> {
    type Value = Edit;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Edit, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EditVisitor<'_> {
    type Value = Edit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an edit")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Edit, M::Error> {
        let (mut verb, mut who, mut whole) = (Verb::Patch, String::new(), None);
        let mut read = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "verb" => {
                    verb = match map.next_value::<String>()?.as_str() {
                        "PUT" => Verb::Put,
                        "DELETE" => Verb::Delete,
                        _ => Verb::Patch,
                    }
                }
                "who" => who = map.next_value()?,
                "whole" => whole = Some(map.next_value()?),
                "rules" => read = Some(map.next_value_seed(RulesVisitor(self.0))?),
                // A newer version may ask for something that this one can't do.
                other => return Err(M::Error::custom(format!("`{other}` means nothing here"))),
            }
        }
        let whole = whole.ok_or_else(|| M::Error::missing_field("whole"))?;
        let (rules, rejected) = read.ok_or_else(|| M::Error::missing_field("rules"))?;
        Ok(Edit { verb, who, whole, rules, rejected })
    }
}

struct RulesVisitor<'n>(&'n SharedNames);

impl<'de> DeserializeSeed<'de> for RulesVisitor<'_> {
    type Value = (Rules, Vec<(String, String)>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RulesVisitor<'_> {
    type Value = (Rules, Vec<(String, String)>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of rules by host name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut rules, mut rejected) = (Vec::new(), Vec::new());
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let canonical = match host::rule_name(&name) {
                Ok(canonical) => canonical,
                Err(error) => {
                    rejected.push((name, error.sentence().to_owned()));
                    continue;
                }
            };
            if value.is_null() {
                rules.push((canonical, None));
                continue;
            }
            // Lock for each rule anew, so that other readers need not wait for a million rules.
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match Rule::from_json(&name, &value, &mut names) {
                Ok(rule) => rules.push((canonical, Some(rule))),
                Err(error) => rejected.push((canonical, error.to_string())),
            }
        }
        Ok((rules, rejected))
    }
}
