//! `set HOST ACTION SUBDOMS [KEY=VALUE …]`: makes a rule from words. They are checked in the
//! original's order and refused in its words. The daemon checks what the values mean.

use serde_json::{Map, Value, json};

use super::arguments::Set;
use super::pool::backend;
use crate::rule_arguments;

const USAGE: &str = "Usage: set <hostname> <action> <subdoms> [option=value, ...]";

pub const NO_HOST: &str = "You must supply a hostname.";

/// The host and its rule. An error that the original had, too, is in its words.
pub fn rule_of(set: &Set) -> Result<(String, Value), String> {
    let missing = |what: &str| format!("You must supply {what}.\n{USAGE}");
    let host = given(set.host.as_ref()).ok_or_else(|| format!("{NO_HOST}\n{USAGE}"))?;
    let action = given(set.action.as_ref()).ok_or_else(|| missing("an action"))?;
    let subdoms = set.subdoms.as_deref().and_then(truth);
    let subdoms = subdoms.ok_or_else(|| missing("True or False for the subdomains flag"))?;
    let mut arguments = Map::new();
    for option in &set.options {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| format!("{option} is not a valid option (no =)"))?;
        let value = if key == "backends" { backends(value)? } else { json!(value) };
        arguments.insert(key.to_owned(), value);
    }
    let known = rule_arguments::action(action).map_or(&[][..], |row| row.arguments);
    if let Some(missing) = known
        .iter()
        .find(|argument| argument.is_required() && !arguments.contains_key(argument.name))
    {
        return Err(format!("The {action} action requires a {} option.", missing.name));
    }
    Ok((host.to_owned(), json!([action, arguments, subdoms])))
}

fn given(word: Option<&String>) -> Option<&str> {
    word.map(String::as_str).filter(|word| !word.is_empty())
}

/// `true` and `false` in any case.
fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// `h:p,h:p` as `[[h, p], …]`.
fn backends(list: &str) -> Result<Value, String> {
    list.split(',').map(str::trim).map(backend).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Arguments, Command};
    use super::*;

    fn read(line: &str) -> Result<(String, Value), String> {
        let words = ["mantrid-client", "set"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map(|arguments| arguments.command) {
            Ok(Some(Command::Set(set))) => rule_of(&set),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_of_the_original() {
        for (line, rule) in [
            (
                "localhost proxy true backends=localhost:8000,127.0.0.1:8001",
                json!(["proxy", {"backends": [["localhost", 8000], ["127.0.0.1", 8001]]}, true]),
            ),
            ("localhost spin TRUE", json!(["spin", {}, true])),
            ("localhost spin False timeout=60", json!(["spin", {"timeout": "60"}, false])),
            ("localhost empty true code=403", json!(["empty", {"code": "403"}, true])),
            ("localhost static false type=test", json!(["static", {"type": "test"}, false])),
            // split once
            (
                "localhost redirect true redirect_to=http://a/?b=c",
                json!(["redirect", {"redirect_to": "http://a/?b=c"}, true]),
            ),
            // the last of two wins
            ("localhost empty true code=403 code=404", json!(["empty", {"code": "404"}, true])),
            // whether there is such an action is for the daemon to say
            ("localhost frob true", json!(["frob", {}, true])),
        ] {
            assert_eq!(read(line), Ok(("localhost".to_owned(), rule)), "{line}");
        }
    }

    #[test]
    fn backends_that_the_original_could_not_take() {
        let rule =
            |list: &str| read(&format!("a proxy true backends={list}")).map(|(_, rule)| rule);
        assert_eq!(
            rule("[::1]:80,b-c.internal:443"),
            Ok(json!(["proxy", {"backends": [["::1", 80], ["b-c.internal", 443]]}, true]))
        );
        assert_eq!(
            rule("unix:/run/a.sock,unix:@b,c:80"),
            Ok(json!(["proxy", {"backends": ["unix:/run/a.sock", "unix:@b", ["c", 80]]}, true]))
        );
        for list in
            ["", "a", "a:", ":80", "a:0", "a:65536", "a:x", "::1:80", "[::1]", "[::1:80", "a:1,"]
        {
            let error = rule(list).expect_err(list);
            assert!(error.contains("is not a backend: expected host:port"), "{list}: {error}");
        }
    }

    #[test]
    fn complaints_in_the_words_of_the_original() {
        let usage = "\nUsage: set <hostname> <action> <subdoms> [option=value, ...]";
        for (line, complaint, with_usage) in [
            ("", "You must supply a hostname.", true),
            ("a", "You must supply an action.", true),
            ("a proxy", "You must supply True or False for the subdomains flag.", true),
            ("a proxy yes", "You must supply True or False for the subdomains flag.", true),
            // the flag comes before the options, a bad option before a missing one
            ("a proxy yes x", "You must supply True or False for the subdomains flag.", true),
            ("a proxy true x", "x is not a valid option (no =)", false),
            ("a proxy true", "The proxy action requires a backends option.", false),
            ("a static true a=b", "The static action requires a type option.", false),
            ("a redirect true", "The redirect action requires a redirect_to option.", false),
            ("a empty true", "The empty action requires a code option.", false),
            ("a alias true", "The alias action requires a hostname option.", false),
        ] {
            let expected = format!("{complaint}{}", if with_usage { usage } else { "" });
            assert_eq!(read(line).expect_err(line), expected, "{line}");
        }
    }
}
