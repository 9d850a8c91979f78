//! Log lines as JSON, one object a line: `time`, `level`, `message`, and the fields of the event,
//! each under its own name.

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as JSON.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}", object(*event.metadata().level(), fields.message, fields.others))
    }
}

/// Returns a line for a message that is not an event, without a newline.
pub(super) fn line(level: Level, message: &str) -> String {
    object(level, message.to_owned(), Map::new()).to_string()
}

fn object(level: Level, message: String, others: Map<String, Value>) -> Value {
    let mut time = String::new();
    // This fails if the clock is before 1970. The line is written all the same: it matters more
    // than its time.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let level = level.as_str().to_ascii_lowercase();
    let mut object = Map::from_iter([
        ("time".to_owned(), json!(time)),
        ("level".to_owned(), json!(level)),
        ("message".to_owned(), json!(message)),
    ]);
    object.extend(others);
    Value::Object(object)
}

/// Fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => {
                self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            }
            name => _ = self.others.insert(name.to_owned(), value),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_events_look_like_those_that_are() {
        let text = line(Level::WARN, "a \"b\"\nc");
        assert!(!text.contains('\n'), "{text}");
        let found: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&found["level"], &found["message"]), (&json!("warn"), &json!("a \"b\"\nc")));
        assert!(found["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }
}
