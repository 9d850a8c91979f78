//! `changes`: the last changes of rules, with who made them, the oldest first, as in a log.

use std::io::{self, Write};

use serde_json::Value;

use super::events::moment;
use super::failure::Failure;
use super::print::{action, counted, plain};
use super::request::{Api, Ask};
use super::{print, print_json, query};

/// Prints the last changes, of one host or of all.
pub async fn show(
    api: &Api,
    host: Option<&str>,
    limit: Option<u32>,
    json: bool,
) -> Result<(), Failure> {
    let limit = limit.map(|limit| limit.to_string());
    let given = [("host", host), ("limit", limit.as_deref())].into_iter();
    let query = query(given.filter_map(|(name, value)| Some((name, value?))));
    let answer = api.fetch(Ask::get(format!("/changes/{query}"))).await?;
    if json {
        return print_json(&answer.body);
    }
    let changes = answer.value()?;
    print(|out| lines(&changes, out))
}

/// Writes a line for each change.
fn lines(changes: &Value, out: &mut impl Write) -> io::Result<()> {
    for change in changes.as_array().into_iter().flatten().rev() {
        let text = |name: &str| plain(change.get(name).and_then(Value::as_str).unwrap_or("?"));
        let time = moment(change.get("time").and_then(Value::as_f64).unwrap_or_default());
        let (who, verb, host) = (text("who"), text("verb"), text("host"));
        writeln!(out, "{time} {verb:<6} {host:<35} {}, by {who}", what(change))?;
    }
    Ok(())
}

/// Describes a change: the rule and the one before it.
fn what(change: &Value) -> String {
    let rule = |name: &str| change.get(name).filter(|rule| !rule.is_null());
    if let Some(changed) = change.get("changed").and_then(Value::as_u64) {
        return counted(changed, "rule");
    }
    match (rule("rule"), rule("before")) {
        (Some(rule), None) => format!("{}, new", action(rule)),
        (Some(rule), Some(before)) => format!("{}, was {}", action(rule), action(before)),
        (None, Some(before)) => format!("deleted, was {}", action(before)),
        (None, None) => "deleted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn line_says_what_was_there_before() {
        let proxy = json!(["proxy", {"backends": [["127.0.0.1", 8000]]}, true]);
        let entry = |host: &str, rule: &Value, before: &Value| {
            json!({
                "time": 951_782_399.5, "who": "ci\u{1b}", "verb": "PUT", "host": host,
                "rule": rule, "before": before,
            })
        };
        let many = json!({
            "time": 0, "who": "uid 0", "verb": "PATCH", "host": "*", "rule": null, "before": null,
            "changed": 900,
        });
        let changes = json!([
            entry("c.com", &Value::Null, &proxy),
            entry("b.com", &proxy, &json!(["spin", {}, true])),
            entry("a.com", &proxy, &Value::Null),
            many,
        ]);
        let mut out = Vec::new();
        lines(&changes, &mut out).expect("a Vec takes all");
        let out = String::from_utf8(out).expect("UTF-8");
        let expected = [
            "1970-01-01T00:00:00Z PATCH  *                                   900 rules, by uid 0",
            "2000-02-28T23:59:59Z PUT    a.com                               \
             proxy<127.0.0.1:8000>, new, by ci\\u{1b}",
            "2000-02-28T23:59:59Z PUT    b.com                               \
             proxy<127.0.0.1:8000>, was spin, by ci\\u{1b}",
            "2000-02-28T23:59:59Z PUT    c.com                               \
             deleted, was proxy<127.0.0.1:8000>, by ci\\u{1b}",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    }
}
