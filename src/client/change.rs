//! `set` and `delete`: change one rule. As in the original, they print nothing on success, unless
//! an option asks for more.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::failure::{Failure, RequestError, say};
use super::options::{Drain, Edit};
use super::print::plain;
use super::print_json;
use super::request::{Api, Ask, PATIENCE, Sending, encoded};

/// A change of one rule: the new rule, or `None` to delete it.
pub struct Change {
    pub host: String,
    pub rule: Option<Value>,
    pub edit: Edit,
    pub drain: Drain,
}

impl Change {
    pub async fn make(self, api: &Api, json: bool) -> Result<(), Failure> {
        let answer = api.fetch(self.ask()?).await.map_err(RequestError::of_change)?;
        let value = answer.value()?;
        if json {
            print_json(&answer.body)?;
        } else if self.edit.dry_run {
            say(&format!("{} would be changed; nothing was", plain(&self.host)));
        }
        match value.get("drained") {
            Some(Value::Bool(false)) => {
                Err(Failure::Other(not_drained(&self.host, &self.drain.timeout, &value)))
            }
            _ => Ok(()),
        }
    }

    fn ask(&self) -> Result<Ask, Failure> {
        let mut target = format!("/hostname/{}/", encoded(&self.host));
        let mut patience = PATIENCE;
        if self.edit.dry_run {
            target.push_str("?dry_run=1");
        } else if self.drain.wait {
            let time = self.drain.timeout.as_str();
            patience += duration(time).ok_or_else(|| {
                Failure::Other(format!("--timeout {time:?}: expected a time such as 30s or 2m"))
            })?;
            target.push_str(&format!("?wait=drained&timeout={time}"));
        }
        let method = if self.rule.is_some() { Method::PUT } else { Method::DELETE };
        let body = self.rule.as_ref().map(Sending::json);
        Ok(Ask { method, target, body, if_match: self.edit.if_match.clone(), patience })
    }
}

/// Says that a change is made, but that requests may still be open at the old backends.
pub fn not_drained(host: &str, timeout: &str, answer: &Value) -> String {
    let open = answer.get("in_flight").and_then(Value::as_object).into_iter().flatten();
    let open: Vec<String> = open.map(|(backend, count)| format!("{backend} ({count})")).collect();
    let (host, open) = (plain(host), plain(&open.join(", ")));
    if open.is_empty() {
        return format!(
            "{host} is changed, but after {timeout} it is not known yet whether its old backends \
             have requests: don't stop them yet"
        );
    }
    format!(
        "{host} is changed, but after {timeout} there are still requests with {open}: don't stop \
         these backends yet"
    )
}

/// A number with `ms`, `s`, `m` or `h`, as the daemon reads it.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for text in ["", "s", "3", "3 s", "-1s", "1.5s", "1d", "99999999999999999999s"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
        assert_eq!(duration("18446744073709551615h"), None);
    }
}
