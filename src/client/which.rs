//! `which HOST`: prints what a request for a host would meet now, and why, as the daemon says.

use std::io::{self, Write};

use serde_json::Value;

use super::failure::Failure;
use super::print::{action, plain};
use super::request::{Api, Ask, encoded};
use super::{print, print_json, query};

/// Schemes of addresses that people paste, and those of requests.
const PASTED: &[(&str, &str)] = &[
    ("http://", "http"),
    ("https://", "https"),
    ("ws://", "http"),
    ("wss://", "https"),
    ("tcp://", "tcp"),
    ("tls://", "tls"),
];

/// Asks, and prints the answer. `asked` are the arguments of the question with their names. If no
/// scheme is given, that of a pasted address is asked for.
pub async fn which(
    api: &Api,
    host: &str,
    asked: [(&str, Option<&str>); 3],
    json: bool,
) -> Result<(), Failure> {
    let (pasted, host) = taken_apart(host);
    if host.is_empty() {
        return Err(Failure::AsBefore(super::set::NO_HOST.to_owned()));
    }
    let given = asked.into_iter().map(|(name, value)| match name {
        "scheme" => (name, value.or(pasted)),
        _ => (name, value),
    });
    let query = query(given.filter_map(|(name, value)| Some((name, value?))));
    let answer = api.fetch(Ask::get(format!("/which/{}{query}", encoded(host)))).await?;
    if json {
        return print_json(&answer.body);
    }
    let found = answer.value()?;
    print(|out| told(&found, out))
}

/// The scheme and the host of an address, or of a host alone, which has no scheme.
fn taken_apart(text: &str) -> (Option<&'static str>, &str) {
    let text = text.trim();
    let prefix = PASTED.iter().find(|(prefix, _)| {
        text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    let rest = prefix.map_or(text, |(prefix, _)| &text[prefix.len()..]);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (prefix.map(|(_, scheme)| *scheme), host)
}

/// The answer for people, a line for each part.
fn told(found: &Value, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<24} {}", plain(value));
    let text = |key: &str| found[key].as_str().unwrap_or("none").to_owned();
    line("host", &text("host"))?;
    line("scheme", &text("scheme"))?;
    line("rule", &text("name"))?;
    let chain: Vec<&str> =
        found["alias"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !chain.is_empty() {
        line("alias of", &chain.join(", which is an alias of "))?;
    }
    if !found["rule"].is_null() {
        line("action", &action(&found["rule"]))?;
        line("open", &found["open_requests"].to_string())?;
        line("held", &found["held"].to_string())?;
    }
    for backend in found["backends"].as_array().into_iter().flatten() {
        line("backend", &backend_line(backend))?;
    }
    if let Some(timeouts) = found["timeouts"].as_object() {
        let each = timeouts.iter().map(|(name, seconds)| format!("{name} {seconds} s"));
        line("timeouts", &each.collect::<Vec<_>>().join(", "))?;
    }
    line("would", &text("would"))
}

fn backend_line(backend: &Value) -> String {
    let text = |key: &str| backend[key].as_str().unwrap_or_default();
    let (target, address) = (text("backend"), text("address"));
    let mut line = match address {
        "" => format!("{target} (no address)"),
        address if address == target => target.to_owned(),
        address => format!("{target} ({address})"),
    };
    line.push_str(&match backend["backup"] == true {
        true => format!(" {}, backup", text("health")),
        false => format!(" {}, weight {}", text("health"), backend["weight"]),
    });
    line.push_str(&format!(", open {}", backend["open_requests"]));
    match text("reason") {
        "" => line,
        reason => format!("{line}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, expected) in [
            ("a.com", (None, "a.com")),
            ("a.com:8080/path", (None, "a.com:8080")),
            ("https://a.com/path?x=http://b.com", (Some("https"), "a.com")),
            ("HTTPS://me:secret@A.com:443#top", (Some("https"), "A.com:443")),
            ("wss://a.com", (Some("https"), "a.com")),
            ("tls://[::1]:443", (Some("tls"), "[::1]:443")),
            (" http://a.com?x ", (Some("http"), "a.com")),
            ("https://", (Some("https"), "")),
        ] {
            assert_eq!(taken_apart(text), expected, "{text}");
        }
    }

    #[test]
    fn answer_has_a_line_for_each_part() {
        let found = json!({
            "host": "www.a.com", "scheme": "http", "name": "a.com", "alias": ["b.com"],
            "rule": ["proxy", {"backends": [["app", 1]]}, true], "action": "proxy",
            "backends": [
                {"backend": "app:1", "address": "10.0.0.1:1", "weight": 1, "health": "down",
                 "reason": "answered 500", "open_requests": 2},
                {"backend": "10.0.0.2:1", "address": "10.0.0.2:1", "weight": 0, "health": "up",
                 "reason": null, "open_requests": 0},
                {"backend": "10.0.0.3:1", "address": "10.0.0.3:1", "weight": 1, "health": "up",
                 "reason": null, "open_requests": 0, "backup": true},
            ],
            "held": 1, "open_requests": 3,
            "timeouts": {"connect": 5, "server": 0.5, "tunnel": 3600}, "outcome": "proxied", "would": "passed on\u{1b}",
        });
        let mut out = Vec::new();
        told(&found, &mut out).expect("a Vec takes all");
        let expected = "\
            host                     www.a.com\n\
            scheme                   http\n\
            rule                     a.com\n\
            alias of                 b.com\n\
            action                   proxy<app:1>\n\
            open                     3\n\
            held                     1\n\
            backend                  app:1 (10.0.0.1:1) down, weight 1, open 2: answered 500\n\
            backend                  10.0.0.2:1 up, weight 0, open 0\n\
            backend                  10.0.0.3:1 up, backup, open 0\n\
            timeouts                 connect 5 s, server 0.5 s, tunnel 3600 s\n\
            would                    passed on\\u{1b}\n";
        assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
    }
}
