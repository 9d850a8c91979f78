//! Bodies of changes: rules as JSON. They are read one by one, each within bounds, and never as one
//! tree. So a million rules need little more memory than their text, and invalid input needs almost
//! none.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::crowd::Seat;
use super::error::ApiError;
use super::route::Query;
use super::value::{Room, Tree};
use crate::control::SharedNames;
use crate::control::grant::Grant;
use crate::limits;
use crate::table::{Action, Name, Rule, Target, host};

/// Rules by canonical name. `None`: the rule is deleted.
pub(super) type Edits = Vec<(String, Option<Rule>)>;

/// Reads the whole body, up to `most` bytes and within the timeouts. `length` is its
/// `Content-Length`, or 0.
pub(super) async fn body(
    body: Body,
    length: usize,
    most: usize,
    seat: Option<&Seat>,
) -> Result<Bytes, ApiError> {
    let late = |_| ApiError::bad("body_timeout", "the body did not arrive in time");
    let all = async {
        let mut body = Limited::new(body, most);
        // Reserve the memory at the beginning: if the pieces were put together at the end, the body
        // would be in memory twice.
        let mut bytes = Vec::with_capacity(length.min(most));
        loop {
            let frame = tokio::time::timeout(limits::MANAGEMENT_BODY_SILENCE, body.frame());
            let frame = frame.await.map_err(late)?;
            match frame {
                None => return Ok(bytes.into()),
                Some(Ok(frame)) => {
                    let piece = frame.into_data().unwrap_or_default();
                    bytes.extend_from_slice(&piece);
                    if let Some(seat) = seat {
                        seat.moved(piece.len());
                    }
                }
                Some(Err(error)) if error.is::<LengthLimitError>() => {
                    return Err(ApiError::too_large(most));
                }
                Some(Err(error)) => {
                    let message = format!("the body broke off: {error}");
                    return Err(ApiError::bad("body_cut_off", message));
                }
            }
        }
    };
    if let Some(seat) = seat {
        seat.peers();
    }
    let read = tokio::time::timeout(limits::MANAGEMENT_BODY_TIME, all).await.map_err(late);
    if let Some(seat) = seat {
        seat.ours();
    }
    read?
}

/// Reads and discards an unwanted body, as long as that takes neither long nor many bytes. A client
/// that asks before sending the body (`Expect: 100-continue`) is not told to send it.
pub(super) async fn discard(parts: &Parts, mut body: Body) {
    if parts.headers.contains_key(header::EXPECT) {
        return;
    }
    let all = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.into_data().map_or(0, |data| data.len());
            if limits::MANAGEMENT_DISCARD_BYTES_MAX < dropped {
                return;
            }
        }
    };
    if let Some(seat) = Seat::of(parts) {
        seat.peers();
    }
    let _ = tokio::time::timeout(limits::MANAGEMENT_DISCARD_TIME, all).await;
}

/// Reads `{host: rule}`, or with `nulls` `{host: rule or null}`.
pub(super) fn rules(text: &[u8], nulls: bool, names: &SharedNames) -> Result<Edits, ApiError> {
    let mut reading = Reading { names, nulls, edits: Vec::new(), refused: None };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = (&mut reading).deserialize(&mut reader).and_then(|()| reader.end());
    match (reading.refused, read) {
        (Some(refused), _) => Err(refused),
        (None, Ok(())) => Ok(reading.edits),
        (None, Err(error)) if error.is_data() => {
            let message =
                "the body must be an object of rules by host name: {\"a.com\": [\"proxy\", …], …}";
            Err(ApiError::bad("body_not_a_dict", message))
        }
        (None, Err(error)) => Err(not_json(&error)),
    }
}

/// Reads one rule.
pub(super) fn rule(name: &str, text: &[u8], names: &SharedNames) -> Result<Rule, ApiError> {
    let mut room = Room::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Tree(&mut room).deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value));
    rule_of(name, &value.map_err(|error| not_json(&error))?, &room, names)
}

/// Makes a rule from its JSON. If a part of the JSON was dropped, the rule is refused, whatever the
/// rest says.
fn rule_of(name: &str, value: &Value, room: &Room, names: &SharedNames) -> Result<Rule, ApiError> {
    let rule = {
        // Lock per rule, so that other threads that need the names do not have to wait until a
        // million rules are read.
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        Rule::from_json(name, value, &mut names)
    };
    if !room.is_short {
        return Ok(rule?);
    }
    let sentence = format!(
        "the rule has more than {} values, or {} MiB of text: none is that long",
        limits::RULE_VALUES_MAX,
        limits::RULE_BODY_BYTES_MAX >> 20
    );
    let code =
        rule.err().map_or("host_details_too_long".to_owned(), |error| error.code().to_owned());
    Err(ApiError::of_host(name, code, &sentence))
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::bad("body_not_json", format!("the body is not JSON: {error}"))
}

/// Canonical form of the name of a rule.
pub(super) fn name(raw: &str) -> Result<String, ApiError> {
    host::rule_name(raw)
        .map_err(|error| ApiError::of_host(raw, "hostname_invalid", error.sentence()))
}

/// Hosts that a query names, in canonical form. `choosing` are the arguments that choose among all
/// hosts; none of them can be combined with a name.
pub(super) fn hosts(
    query: &Query<'_>,
    choosing: &[&str],
    grant: &Grant,
) -> Result<Vec<String>, ApiError> {
    let given: Vec<&str> = query.all("host").collect();
    let other = choosing.iter().find(|name| query.get(name).is_some());
    if let Some(other) = other.filter(|_| !given.is_empty()) {
        let message = format!("host: expected without {other}, which chooses among all hosts");
        return Err(ApiError::bad("query_invalid", message));
    }
    if limits::NAMED_HOSTS_MAX < given.len() {
        let message =
            format!("{} hosts, expected at most {}", given.len(), limits::NAMED_HOSTS_MAX);
        return Err(ApiError::bad("query_invalid", message));
    }
    let named = given.into_iter().map(|raw| {
        let name = name(raw)?;
        grant.check_host(&name)?;
        Ok(name)
    });
    named.collect()
}

/// Names of backends in these rules that were never looked up, each once.
pub(in crate::control) fn unasked(edits: &Edits) -> Vec<Arc<Name>> {
    let mut seen = HashSet::new();
    let proxies = edits.iter().filter_map(|(_, rule)| match &rule.as_ref()?.action {
        Action::Proxy(proxy) => Some(proxy),
        _ => None,
    });
    let targets = proxies.flat_map(|proxy| proxy.all_backends()).map(|backend| backend.target());
    let names = targets.filter_map(|target| match target {
        Target::Name(name) if !name.is_asked() => Some(name),
        _ => None,
    });
    names.filter(|name| seen.insert(Arc::as_ptr(name))).cloned().collect()
}

struct Reading<'n> {
    names: &'n SharedNames,
    nulls: bool,
    edits: Edits,
    refused: Option<ApiError>,
}

impl Reading<'_> {
    fn one(&mut self, raw: &str, value: &Value, room: &Room) -> Result<(), ApiError> {
        let name = name(raw)?;
        let rule = match self.nulls && value.is_null() {
            true => None,
            false => Some(rule_of(raw, value, room, self.names)?),
        };
        self.edits.push((name, rule));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of rules by host name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let mut room = Room::new();
            let value = map.next_value_seed(Tree(&mut room))?;
            if let Err(refused) = self.one(&name, &value, &room) {
                self.refused = Some(refused);
                return Err(M::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, nulls: bool) -> Result<Vec<String>, String> {
        let names = SharedNames::default();
        let edits = rules(text.as_bytes(), nulls, &names);
        edits
            .map(|edits| {
                let shown = edits.into_iter().map(|(name, rule)| match rule {
                    Some(rule) => format!("{name}={}", rule.to_json()),
                    None => format!("{name}=null"),
                });
                shown.collect()
            })
            .map_err(|error| error.code)
    }

    #[test]
    fn rules_are_read_and_named_in_canonical_form() {
        let text = r#"{"A.com.": ["empty", {"code": "403"}, true], "http://b.com": null}"#;
        let expected = [r#"a.com=["empty",{"code":403},true]"#, "http://b.com=null"];
        assert_eq!(read(text, true).expect("two edits"), expected);
        assert_eq!(read("{}", false), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, nulls, code) in [
            ("", false, "body_not_json"),
            ("{", false, "body_not_json"),
            ("{} {}", false, "body_not_json"),
            (r#"{"a.com": ["unknown", {}, true]"#, false, "body_not_json"),
            ("[]", false, "body_not_a_dict"),
            ("null", false, "body_not_a_dict"),
            (r#"{"a.com": null}"#, false, "a.com:host_details_not_list"),
            (r#"{"a.com": ["x", {}, true]}"#, true, "a.com:host_action_invalid:x"),
            (r#"{"a b": ["unknown", {}, true]}"#, true, "a b:hostname_invalid"),
            // the first of several errors
            (r#"{"a..b": null, "c": 1}"#, true, "a..b:hostname_invalid"),
        ] {
            assert_eq!(read(text, nulls), Err(code.to_owned()), "{text}");
        }
    }

    #[test]
    fn only_new_names_are_waited_for() {
        let names = SharedNames::default();
        let text = br#"{"a": ["proxy", {"backends": ["one:1", "two:2", "10.0.0.1:3"]}, false],
                        "b": ["proxy", {"backends": ["one:1"]}, false]}"#;
        let edits = rules(text, false, &names).expect("two rules");
        let mut waited: Vec<String> = unasked(&edits).iter().map(ToString::to_string).collect();
        waited.sort();
        assert_eq!(waited, ["one:1", "two:2"]);
        names.lock().expect("names").get("one", 1).set_asked();
        assert_eq!(unasked(&edits).len(), 1);
    }
}
