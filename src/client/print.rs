//! Output for people and their scripts: the tables of `list` and `stats`, whose first columns are
//! the original's to the byte, and a rule in words. New columns go to the right.

use std::fmt;
use std::io::{self, Write};

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

/// Text from elsewhere, with control characters escaped, so that a terminal does not obey them.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A number, as it is shown, and its noun: `1 rule`, `2 rules`.
pub fn counted(count: impl fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Gives `each` the entries of a JSON object, one by one: a million rules as one tree would need
/// gigabytes.
pub fn entries(json: &[u8], each: impl FnMut(String, Value)) -> serde_json::Result<()> {
    struct Each<F>(F);
    impl<'de, F: FnMut(String, Value)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry()? {
                (self.0)(key, value);
            }
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Each(each))?;
    deserializer.end()
}

/// Rows of cells as lines, each column as wide as its longest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A row of `list`.
pub struct Row {
    host: String,
    action: String,
    subdoms: bool,
}

impl Row {
    pub fn of(host: &str, rule: &Value) -> Row {
        let subdoms = rule.get(2).and_then(Value::as_bool) == Some(true);
        Row { host: plain(host), action: action(rule), subdoms }
    }
}

/// The table of `list`.
pub fn list(mut rows: Vec<Row>, out: &mut impl Write) -> io::Result<()> {
    rows.sort_unstable_by(|left, right| left.host.cmp(&right.host));
    list_as_it_is(&rows, out)
}

/// The table of `list` in the order of the daemon's answer.
pub fn list_as_it_is(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<35} {:<25} {:<8}", "HOST", "ACTION", "SUBDOMS")?;
    for Row { host, action, subdoms } in rows {
        // as Python writes them
        let subdoms = if *subdoms { "True" } else { "False" };
        writeln!(out, "{host:<35} {action:<25} {subdoms:<8}")?;
    }
    Ok(())
}

/// An action with what matters most about it: `proxy<127.0.0.1:8000>`. Always one word.
pub fn action(rule: &Value) -> String {
    let Some(action) = rule.get(0).and_then(Value::as_str) else { return "?".to_owned() };
    let argument = |name: &str| rule.get(1)?.get(name);
    let main = match action {
        "proxy" => argument("backends").map(backends),
        "static" => argument("type").map(text),
        "redirect" => argument("redirect_to").map(text),
        "empty" => argument("code").map(text),
        "alias" => argument("hostname").map(text),
        _ => None,
    };
    let shown = match main {
        Some(main) => format!("{action}<{main}>"),
        None => action.to_owned(),
    };
    plain(&shown).replace(' ', "_")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The value of an argument in one word.
pub fn value(name: &str, value: &Value) -> String {
    if matches!(name, "backends" | "backup") { backends(value) } else { text(value) }
}

/// Backends of a rule, with a comma between them.
pub fn backends(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(backend).collect::<Vec<_>>().join(","),
        other => text(other),
    }
}

/// `[host, port]`, `"host:port"`, or the fork's `{"__backend__": [host, port]}`.
pub fn backend(value: &Value) -> String {
    let value = value.get("__backend__").unwrap_or(value);
    match value.as_array().map(Vec::as_slice) {
        Some([host, port]) => {
            let host = text(host);
            let is_bare = host.contains(':') && !host.starts_with('[');
            let host = if is_bare { format!("[{host}]") } else { host };
            format!("{host}:{}", text(port))
        }
        _ => text(value),
    }
}

/// A number of a counters object, 0 where it is missing.
fn count(counters: &Value, names: &[&str]) -> u64 {
    let value = names.iter().try_fold(counters, |value, name| value.get(name));
    value.and_then(Value::as_u64).unwrap_or(0)
}

/// Columns of `stats`: the original's four, then ours.
const COUNTERS: &[(&str, &[&str])] = &[
    ("OPEN", &["open_requests"]),
    ("COMPLETED", &["completed_requests"]),
    ("BYTES IN", &["bytes_received"]),
    ("BYTES OUT", &["bytes_sent"]),
    ("HELD", &["held_requests"]),
    ("2XX", &["answers", "2xx"]),
    ("3XX", &["answers", "3xx"]),
    ("4XX", &["answers", "4xx"]),
    ("5XX", &["answers", "5xx"]),
];

/// A row of `stats`.
pub struct Counters {
    host: String,
    counts: Vec<u64>,
    /// Rates and percentiles of the last minute, as they are shown.
    minute: Vec<String>,
}

/// Columns of the last minute.
const MINUTE: &[(&str, &str)] = &[
    ("REQ/S", "requests_per_second"),
    ("ERR/S", "errors_per_second"),
    ("P50", "p50"),
    ("P95", "p95"),
    ("P99", "p99"),
    ("LTD/S", "limited_per_second"),
];

/// A rate, or a percentile in seconds; `-` where there is none.
fn of_minute(counters: &Value, name: &str) -> String {
    let Some(number) = counters.get(name).and_then(Value::as_f64) else { return "-".to_owned() };
    match name {
        "p50" | "p95" | "p99" if number < 1.0 => format!("{:.1}ms", number * 1e3),
        "p50" | "p95" | "p99" => format!("{number:.2}s"),
        _ => format!("{number:.1}"),
    }
}

impl Counters {
    pub fn of(host: &str, counters: &Value) -> Counters {
        let counts = COUNTERS.iter().map(|(_, names)| count(counters, names)).collect();
        let minute = MINUTE.iter().map(|(_, name)| of_minute(counters, name)).collect();
        Counters { host: plain(host), counts, minute }
    }
}

/// The table of `stats` in the order of the daemon's answer, with the last minute to the right.
pub fn ranked(rows: &[Counters], out: &mut impl Write) -> io::Result<()> {
    write!(out, "{:<35}", "HOST")?;
    for title in
        COUNTERS.iter().map(|(title, _)| title).chain(MINUTE.iter().map(|(title, _)| title))
    {
        write!(out, " {title:<11}")?;
    }
    writeln!(out)?;
    for row in rows {
        write!(out, "{:<35}", row.host)?;
        let counts = row.counts.iter().map(u64::to_string);
        for cell in counts.chain(row.minute.iter().cloned()) {
            write!(out, " {cell:<11}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The table of `stats`.
pub fn stats(mut rows: Vec<Counters>, out: &mut impl Write) -> io::Result<()> {
    rows.sort_unstable_by(|left, right| left.host.cmp(&right.host));
    write!(out, "{:<35}", "HOST")?;
    for (title, _) in COUNTERS {
        write!(out, " {title:<11}")?;
    }
    writeln!(out)?;
    for row in rows {
        write!(out, "{:<35}", row.host)?;
        for count in row.counts {
            write!(out, " {count:<11}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// One rule for people, a line for each part. `etag` is the table's.
pub fn rule(host: &str, rule: &Value, etag: Option<&str>, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{:<24} {}", plain(name), plain(value));
    line("host", host)?;
    line("action", rule.get(0).and_then(Value::as_str).unwrap_or("?"))?;
    line("subdoms", &rule.get(2).map(text).unwrap_or_default())?;
    for (name, given) in rule.get(1).and_then(Value::as_object).into_iter().flatten() {
        line(name, &value(name, given))?;
    }
    etag.map_or(Ok(()), |etag| line("etag", etag))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn expect_list(table: &Value, expected: &[&str]) {
        let mut out = Vec::new();
        let mut rows = Vec::new();
        entries(table.to_string().as_bytes(), |host, rule| rows.push(Row::of(&host, &rule)))
            .expect("a table");
        list(rows, &mut out).expect("a Vec takes all");
        let out = String::from_utf8(out).expect("UTF-8");
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    }

    const LIST_HEADER: &str =
        "HOST                                ACTION                    SUBDOMS ";

    #[test]
    fn list_of_the_original() {
        expect_list(&json!({}), &[LIST_HEADER]);
        expect_list(
            &json!({
                "localhost": ["proxy", {"backends": [["127.0.0.1", 8000]]}, true],
                "a.com": ["static", {"type": "test"}, false],
                "B.com": ["empty", {"code": "403"}, true],
                "c.com": ["redirect", {"redirect_to": "http://d.com"}, true],
                "e.com": ["spin", {"timeout": 3}, false],
            }),
            &[
                LIST_HEADER,
                "B.com                               empty<403>                True    ",
                "a.com                               static<test>              False   ",
                "c.com                               redirect<http://d.com>    True    ",
                "e.com                               spin                      False   ",
                "localhost                           proxy<127.0.0.1:8000>     True    ",
            ],
        );
    }

    #[test]
    fn long_cells_push_the_row() {
        let host = "a-name-that-is-longer-than-its-column.example.com";
        let backends = json!([["127.0.0.1", 8000], ["::1", 8001], "c:1"]);
        expect_list(
            &json!({ host: ["proxy", {"backends": backends}, true] }),
            &[LIST_HEADER, &format!("{host} proxy<127.0.0.1:8000,[::1]:8001,c:1> True    ")],
        );
    }

    #[test]
    fn every_rule_has_a_row() {
        for (rule, shown) in [
            (json!(["alias", {"hostname": "a.com"}, true]), "alias<a.com>"),
            (json!(["proxy", {"backends": [{"__backend__": ["h", 1]}]}, true]), "proxy<h:1>"),
            (json!(["proxy", {"backends": "h:1,i:2"}, true]), "proxy<h:1,i:2>"),
            (json!(["proxy", {"backends": [["h"], 3, null]}, true]), "proxy<[\"h\"],3,null>"),
            (json!(["empty", {"code": 403}, true]), "empty<403>"),
            // a rule without its argument ended the original's list half-way
            (json!(["proxy", {}, true]), "proxy"),
            (json!(["static", {}, true]), "static"),
            (json!(["redirect", null, true]), "redirect"),
            (json!(["empty"]), "empty"),
            (json!([]), "?"),
            (json!("x"), "?"),
            (json!(null), "?"),
            // nothing that a terminal obeys, nothing that makes two words of one
            (json!(["static", {"type": "a b\u{1b}[2J\n"}, true]), "static<a_b\\u{1b}[2J\\n>"),
        ] {
            assert_eq!(action(&rule), shown, "{rule}");
        }
    }

    #[test]
    fn stats_of_the_original_and_more_to_the_right() {
        let rows = vec![
            Counters::of("unknown", &json!({})),
            Counters::of(
                "-new.example.com",
                &json!({
                    "open_requests": 1, "completed_requests": 12345678901_u64, "bytes_sent": 171,
                    "bytes_received": 95, "held_requests": 2,
                    "answers": {"2xx": 3, "3xx": 4, "4xx": 5, "5xx": 6},
                }),
            ),
        ];
        let mut out = Vec::new();
        stats(rows, &mut out).expect("a Vec takes all");
        let out = String::from_utf8(out).expect("UTF-8");
        let lines: Vec<&str> = out.lines().collect();
        // the original's part
        let starts = [
            "HOST                                OPEN        COMPLETED   BYTES IN    BYTES OUT   ",
            "-new.example.com                    1           12345678901 95          171         ",
            "unknown                             0           0           0           0           ",
        ];
        assert_eq!(lines.len(), starts.len(), "{out}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{start:?}\n{line:?}");
        }
        // diamond-mantrid: drops a line, splits, takes columns 1 to 4
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[1..5], ["1", "12345678901", "95", "171"]);
        assert_eq!(words[5..], ["2", "3", "4", "5", "6"]);
        assert!(lines[0].ends_with("HELD        2XX         3XX         4XX         5XX        "));
    }

    #[test]
    fn ranked_hosts_stay_in_order_with_their_last_minute() {
        let rows = [
            Counters::of(
                "slow.com",
                &json!({
                    "completed_requests": 7, "requests_per_second": 0.25, "errors_per_second": 1.5,
                    "p50": 0.0031, "p95": 1.25, "p99": null, "limited_per_second": 3,
                }),
            ),
            Counters::of("a.com", &json!({})),
        ];
        let mut out = Vec::new();
        ranked(&rows, &mut out).expect("a Vec takes all");
        let out = String::from_utf8(out).expect("UTF-8");
        let rows: Vec<Vec<&str>> =
            out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0][12..], ["REQ/S", "ERR/S", "P50", "P95", "P99", "LTD/S"], "{out}");
        assert_eq!((rows[1][0], rows[1][2]), ("slow.com", "7"));
        assert_eq!(rows[1][10..], ["0.2", "1.5", "3.1ms", "1.25s", "-", "3.0"]);
        assert_eq!((rows[2][0], rows[2][14]), ("a.com", "-"));
    }

    #[test]
    fn a_rule_in_words() {
        let value = json!(["proxy", {"backends": [["::1", 80], ["b", 81]], "attempts": 3}, true]);
        let mut out = Vec::new();
        rule("a.com", &value, Some("\"7\""), &mut out).expect("a Vec takes all");
        let expected = "\
            host                     a.com\n\
            action                   proxy\n\
            subdoms                  true\n\
            backends                 [::1]:80,b:81\n\
            attempts                 3\n\
            etag                     \"7\"\n";
        assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
    }

    #[test]
    fn other_values_than_objects_are_refused() {
        for json in ["", "[]", "{", "{\"a\": }", "{} x", "null"] {
            assert!(entries(json.as_bytes(), |_, _| ()).is_err(), "{json}");
        }
    }
}
