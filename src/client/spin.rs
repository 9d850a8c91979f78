//! `spin` holds the requests of a host, and `flip` lets them go on. The new rule holds the one that
//! stood before, so any operator may flip the host back, from anywhere, also after a restart of the
//! daemon.

use std::io::Write;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::failure::{Failure, RequestError, say};
use super::print::plain;
use super::request::{Api, Ask, Fetched, PATIENCE, Sending, encoded};
use super::{print, print_json};

/// Time for which a change is tried anew while other changes come first: the table's ETag changes
/// with every change of any host.
const TRY_FOR: Duration = Duration::from_secs(10);

/// Arguments of `spin`, by name.
pub type Given<'a> = [(&'static str, &'a str)];

/// Holds the requests of a host.
pub async fn spin(api: &Api, host: &str, given: &Given<'_>, json: bool) -> Result<(), Failure> {
    let done = replace(api, host, "", |rule| Ok(held(rule, given))).await?;
    if json {
        return print_json(&done.answer.body);
    }
    if !done.lagging.is_empty() {
        say(&format!("not on all nodes yet: {}", done.lagging.join(", ")));
    }
    if is_spin(&done.before) {
        say(&format!("{} held its requests already", plain(host)));
    }
    Ok(())
}

/// Puts back the rule that stood before.
pub async fn flip(api: &Api, host: &str, json: bool) -> Result<(), Failure> {
    let held = put_back(api, host).await?;
    if json {
        return print_json(json!({ "ok": true, "held": held }).to_string().as_bytes());
    }
    print(|out| writeln!(out, "{}", requests(held)))
}

/// Writes a number of requests in words.
pub fn requests(held: u64) -> String {
    match held {
        0 => "no request was held".to_owned(),
        1 => "1 request was held".to_owned(),
        held => format!("{held} requests were held"),
    }
}

/// A rule that was replaced.
pub struct Replaced {
    pub before: Value,
    pub answer: Fetched,
    /// Nodes of a fleet that did not confirm the change in time.
    pub lagging: Vec<String>,
}

/// Replaces the rule of a host by what `new` makes of it. Tries again if the table was changed
/// meanwhile.
pub async fn replace(
    api: &Api,
    host: &str,
    query: &str,
    new: impl Fn(&Value) -> Result<Value, Failure>,
) -> Result<Replaced, Failure> {
    let path = format!("/hostname/{}/", encoded(host));
    let began = Instant::now();
    loop {
        let found = api.fetch(Ask::get(path.clone())).await?;
        let before = found.value()?;
        if before.is_null() {
            let host = plain(host);
            return Err(Failure::Other(format!(
                "{host} has no rule of its own (a subdomain uses its parent's rule): set one, for \
                 example with mantrid-client set {host} proxy true backends=127.0.0.1:8000"
            )));
        }
        let query = match query {
            // The change is about the requests of all nodes, so wait for all of them.
            "" if found.in_fleet => "?wait=fleet",
            query => query,
        };
        let ask = Ask {
            method: Method::PUT,
            target: format!("{path}{query}"),
            body: Some(Sending::json(&new(&before)?)),
            if_match: found.etag,
            // The daemon waits for what `query` says with a timeout of its own.
            patience: if query.is_empty() { PATIENCE } else { PATIENCE + DRAIN_MOST },
        };
        match api.fetch(ask).await {
            Ok(answer) => {
                let lagging = lagging(&answer.value()?);
                return Ok(Replaced { before, answer, lagging });
            }
            Err(RequestError::Refused { status: StatusCode::PRECONDITION_FAILED, .. })
                if began.elapsed() < TRY_FOR => {}
            Err(error) => return Err(error.of_change()),
        }
    }
}

/// Nodes of a fleet that do not have a change yet.
fn lagging(answer: &Value) -> Vec<String> {
    let names = answer["fleet"]["lagging"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(plain)).collect()
}

/// Longest time for which the daemon waits before it answers.
const DRAIN_MOST: Duration = Duration::from_secs(3600);

/// Makes the rule that holds the requests of a host whose rule is this one. If that rule holds
/// requests already, only the limits change.
pub fn held(rule: &Value, given: &Given<'_>) -> Value {
    let mut arguments = match is_spin(rule) {
        true => rule[1].clone(),
        false => json!({ "then": rule }),
    };
    for (name, value) in given {
        arguments[*name] = json!(value);
    }
    json!(["spin", arguments, rule[2]])
}

pub fn is_spin(rule: &Value) -> bool {
    rule[0] == "spin"
}

/// The rule that stood before one that spins.
pub fn before(host: &str, rule: &Value) -> Result<Value, Failure> {
    let host = plain(host);
    if !is_spin(rule) {
        let action = plain(rule[0].as_str().unwrap_or("something else"));
        let why = format!("{host} holds no requests, its rule is {action}: nothing was changed");
        return Err(Failure::Other(why));
    }
    match &rule[1]["then"] {
        Value::Null => Err(Failure::Other(format!(
            "{host} holds its requests, and what it did before is not in its rule: set what it is to \
             do, as by mantrid-client set {host} proxy true backends=127.0.0.1:8000"
        ))),
        then => Ok(then.clone()),
    }
}

/// Flips a host back. Returns how many requests were held.
pub async fn put_back(api: &Api, host: &str) -> Result<u64, Failure> {
    let stats = api.fetch(Ask::get(format!("/stats/{}/", encoded(host)))).await?;
    let held = stats.value()?["held_requests"].as_u64().unwrap_or(0);
    let done = replace(api, host, "", |rule| before(host, rule)).await?;
    if !done.lagging.is_empty() {
        say(&format!("not on all nodes yet: {}", done.lagging.join(", ")));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_rules_keep_the_rule_before() {
        let rule = json!(["proxy", {"backends": [["a", 1]]}, true]);
        let spun = held(&rule, &[]);
        assert_eq!(spun, json!(["spin", {"then": rule}, true]));
        assert_eq!(before("a", &spun).ok(), Some(rule.clone()));
        // again, with other limits
        assert_eq!(
            held(&spun, &[("timeout", "5")]),
            json!(["spin", {"then": rule, "timeout": "5"}, true])
        );
        let error = before("a", &rule).expect_err("no spin").to_string();
        assert!(error.contains("its rule is proxy"), "{error}");
        let error = before("a", &json!(["spin", {}, true])).expect_err("no rule").to_string();
        assert!(error.contains("mantrid-client set a proxy"), "{error}");
    }
}
