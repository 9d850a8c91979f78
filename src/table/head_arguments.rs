//! Arguments of a rule that change heads: the Host that backends get, and fields that are set or
//! removed in requests and responses.

use serde_json::{Map, Value};

use super::arguments::{Arguments, Problem, digits, problem, shorten};
use super::host;
use crate::fields::FieldChange;
use crate::limits::RULE_FIELDS_MAX;

/// Host that backends get in place of the client's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostSent {
    /// Name and port of the backend, as the rule has them.
    Backend,
    /// A host, with or without a port.
    Fixed(Box<str>),
}

impl HostSent {
    /// Value of the argument.
    pub fn as_str(&self) -> &str {
        match self {
            HostSent::Backend => "backend",
            HostSent::Fixed(host) => host,
        }
    }

    pub(super) fn read(value: &Value) -> Option<HostSent> {
        let text = value.as_str()?;
        if text == "backend" {
            return Some(HostSent::Backend);
        }
        // The colons of an IPv6 address stand in brackets.
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (text, None),
        };
        let name = host::name(name).ok()?;
        let Some(port) = port else { return Some(HostSent::Fixed((&*name).into())) };
        let port = digits::<u16>(port).filter(|port| *port != 0)?;
        Some(HostSent::Fixed(format!("{name}:{port}").into()))
    }
}

/// Reads an object of fields, or the text of one, as the command line sends it.
pub(super) fn read_fields(
    arguments: &Arguments<'_>,
    name: &str,
) -> Result<Option<Box<[FieldChange]>>, Problem> {
    let Some(given) = arguments.given.get(name) else { return Ok(None) };
    let read: Map<String, Value>;
    let fields = match given {
        Value::Object(fields) => fields,
        Value::String(text) => {
            read = serde_json::from_str(text).map_err(|_| arguments.invalid(name, given))?;
            &read
        }
        _ => return Err(arguments.invalid(name, given)),
    };
    if RULE_FIELDS_MAX < fields.len() {
        let expected = format!("at most {RULE_FIELDS_MAX} fields");
        return Err(arguments.invalid_for(name, given, expected));
    }
    let mut changes: Vec<FieldChange> = Vec::with_capacity(fields.len());
    for (field, value) in fields {
        let change = match value {
            Value::String(text) => FieldChange::new(field, Some(text)),
            Value::Null => FieldChange::new(field, None),
            _ => Err("has a value that is neither a string nor null"),
        };
        let is_known = || changes.iter().any(|other| other.replaces(field.as_bytes()));
        let change = match change {
            Ok(_) if is_known() => Err("is there in two spellings"),
            change => change,
        };
        changes.push(change.map_err(|why| {
            let (action, field) = (arguments.row.name, shorten(&format!("{field:?}")));
            let sentence = format!("{name} of {action} has the field {field}, which {why}");
            problem(format!("host_kwarg_invalid:{name}"), sentence)
        })?);
    }
    Ok(Some(changes.into()))
}

/// Writes fields as an object that [`read_fields`] reads.
pub(super) fn fields_to_json(changes: &[FieldChange]) -> Value {
    let pair = |change: &FieldChange| (change.name().to_owned(), change.value().into());
    Value::Object(changes.iter().map(pair).collect())
}
