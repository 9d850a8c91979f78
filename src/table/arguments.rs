//! Reads the arguments of one rule. An argument may come in several forms; a wrong value is refused
//! with an error that names the argument and says what was expected. [`super::json`] decides what
//! an argument means.

use std::borrow::Cow;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::limits::{PAGE_NAME_BYTES_MAX, RULE_SECONDS_MAX, RULE_TEXT_BYTES_MAX};
use crate::rule_arguments::{ACTIONS, ActionRow, Argument, Takes};

/// A fault of a rule, with its code and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    pub code: String,
    pub sentence: String,
}

pub(super) fn problem(code: impl Into<String>, sentence: impl Into<String>) -> Problem {
    Problem { code: code.into(), sentence: sentence.into() }
}

/// The arguments of one rule, whose names are known to be allowed.
pub(super) struct Arguments<'a> {
    /// The name of the rule, as it was given.
    pub rule: &'a str,
    pub row: &'static ActionRow,
    pub given: &'a Map<String, Value>,
}

impl Arguments<'_> {
    /// The entry of an argument that the parser names.
    pub(super) fn find(&self, name: &str) -> &'static Argument {
        let found = self.row.arguments.iter().find(|argument| argument.name == name);
        found.unwrap_or_else(|| unreachable!("{name} is not in the table of rule arguments"))
    }

    /// Reads an argument if it is given. An argument that the action does not take is never among
    /// those given.
    pub(super) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        debug_assert!(is_argument(name), "{name} is not in the table of rule arguments");
        match self.given.get(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.invalid(name, value)),
            },
        }
    }

    pub(super) fn required<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Problem> {
        self.needed(name, self.optional(name, read)?)
    }

    /// The value, or the error that the argument is missing.
    pub(super) fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T, Problem> {
        debug_assert!(self.find(name).is_required(), "{name}");
        value.ok_or_else(|| {
            problem(
                format!("host_kwarg_missing:{name}"),
                format!("{} needs the argument {name}: {}", self.row.name, self.find(name).takes),
            )
        })
    }

    /// A whole number in the range that the table gives.
    pub(super) fn whole(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.optional(name, |value| match &self.find(name).takes {
            Takes::Whole(range) | Takes::Status(range) => whole(value, range.clone()),
            _ => None,
        })
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<NonZeroU32>, Problem> {
        self.optional(name, count)
    }

    pub(super) fn seconds(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.optional(name, seconds)
    }

    /// Seconds in the range that the table gives.
    pub(super) fn seconds_within(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.optional(name, |value| match &self.find(name).takes {
            Takes::SecondsWithin(millis) => {
                let [least, most] = [*millis.start(), *millis.end()].map(Duration::from_millis);
                seconds(value).filter(|given| (least..=most).contains(given))
            }
            _ => None,
        })
    }

    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.optional(name, truth)
    }

    /// The word of the table that equals this text.
    pub(super) fn word(&self, name: &str, text: &str) -> Option<&'static str> {
        self.find(name).words().iter().copied().find(|word| *word == text)
    }

    pub(super) fn invalid(&self, name: &str, value: &Value) -> Problem {
        self.invalid_for(name, value, &self.find(name).takes)
    }

    /// The error for a wrong value, with a text of its own about what was expected.
    pub(super) fn invalid_for(&self, name: &str, value: &Value, expected: impl Display) -> Problem {
        problem(
            format!("host_kwarg_invalid:{name}"),
            format!("{name} of {} is {}; expected {expected}", self.row.name, shown(value)),
        )
    }
}

/// Whether some action takes an argument of this name.
fn is_argument(name: &str) -> bool {
    ACTIONS.iter().any(|row| row.arguments.iter().any(|argument| argument.name == name))
}

/// Whole number up to which a float holds every whole number exactly.
const FLOAT_MAX: u64 = (1 << f64::MANTISSA_DIGITS) - 1;

/// A whole number: as a number, as a number with `.0`, or as a string.
pub(super) fn whole(value: &Value, allowed: RangeInclusive<u64>) -> Option<u64> {
    let number = match value {
        Value::String(text) => digits(text)?,
        value => match value.as_u64() {
            Some(number) => number,
            None => {
                let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
                // In this range a float holds every whole number exactly.
                (0.0..=FLOAT_MAX as f64).contains(&number).then_some(number as u64)?
            }
        },
    };
    allowed.contains(&number).then_some(number)
}

/// A number written in digits alone, without a sign.
pub(super) fn digits<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn count(value: &Value) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(whole(value, 1..=u32::MAX.into())?).ok()?)
}

/// A duration in seconds, kept to the microsecond.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds: f64 = match value {
        Value::String(text) => text.parse().ok()?,
        value => value.as_f64()?,
    };
    let is_sane = (0.0..=RULE_SECONDS_MAX as f64).contains(&seconds);
    is_sane.then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        // Python prints True, shells type true.
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Text that may go into a head as it is: no space, no control character, nothing beyond ASCII.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| {
        (1..=RULE_TEXT_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

/// Items of a list, or of a text with commas; `None`: the value is neither.
pub(super) fn items(value: &Value) -> Option<Cow<'_, [Value]>> {
    match value {
        Value::Array(items) => Some(Cow::Borrowed(items)),
        Value::String(list) => Some(list.split(',').map(|item| Value::from(item.trim())).collect()),
        _ => None,
    }
}

/// Name of a page.
pub(super) fn page_name(value: &Value) -> Option<Box<str>> {
    value.as_str().filter(|name| is_page_name(name)).map(Box::from)
}

/// Whether a page may have this name. It has no separator and no leading dot, because it becomes
/// the name of a file.
fn is_page_name(name: &str) -> bool {
    (1..=PAGE_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A value for an error message, shortened because a request may hold a value of any length.
pub(super) fn shown(value: &Value) -> String {
    shorten(&value.to_string())
}

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Writes an argument if it was given.
pub(super) fn put(arguments: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        arguments.insert(name.to_owned(), value.into());
    }
}

/// Writes a duration in the form that [`seconds`] reads.
pub(super) fn seconds_to_json(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 {
        json!(duration.as_secs())
    } else {
        json!(duration.as_micros() as f64 / 1e6)
    }
}
