//! `GET /support`: facts for people who help an operator: the version, the configuration as it was
//! written, limits, numbers of rules, the last log lines. Only log lines contain host names, and
//! nothing contains a token or a password.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Value, json};

use super::error::ApiError;
use super::route::Query;
use super::{Api, json_response};
use crate::table::{Action, Snapshot};

/// Facts that only the daemon around control knows.
#[derive(Clone, Default)]
pub(crate) struct About {
    /// Keys of the configuration with their values, as they were written.
    pub(crate) written: Vec<(&'static str, String)>,
    /// Reads the last lines of the log.
    pub(crate) recent_lines: Option<fn() -> Vec<String>>,
}

pub(super) async fn answer(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    let current = api.current();
    let counted = tokio::task::spawn_blocking(move || count_rules(&current.table));
    let rules = counted.await.map_err(|_| ApiError::busy("counting the rules was given up"))?;
    let about = api.about.load();
    let since = api.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let written = about.written.iter();
    let written: Vec<Value> =
        written.map(|(key, value)| json!([key, without_login(value)])).collect();
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": since.as_secs(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "shards": api.sources.shards.counters().len(),
        "configuration": written,
        "limits": read("/proc/self/limits"),
        "rules": rules,
        "log": about.recent_lines.map(|recent| recent()).unwrap_or_default(),
    });
    Ok(json_response(format!("{facts}\n")))
}

fn count_rules(table: &Snapshot) -> Value {
    let mut by_action: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut with_subdomains, mut backends, mut with_check) = (0_usize, 0, 0_usize);
    for (_, rule) in table.iter() {
        *by_action.entry(rule.action.as_str()).or_default() += 1;
        with_subdomains += usize::from(rule.match_subdomains);
        if let Action::Proxy(proxy) = &rule.action {
            backends += proxy.all_backends().count();
            with_check += usize::from(proxy.check().is_some());
        }
    }
    json!({
        "rules": table.len(),
        "by_action": by_action,
        "with_subdomains": with_subdomains,
        "with_check": with_check,
        "backends": backends,
    })
}

/// Removes user and password from addresses.
fn without_login(value: &str) -> String {
    let words = value.split(' ').map(|word| {
        let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        match rest[..end].rfind('@') {
            Some(at) => format!("{scheme}://…{}", &rest[at..]),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_without_who_logs_in() {
        for (value, told) in [
            ("https://user:pa@ss@etcd.example:2379/x@y", "https://…@etcd.example:2379/x@y"),
            ("http://etcd.example:2379", "http://etcd.example:2379"),
            ("*:80 accept-proxy", "*:80 accept-proxy"),
            ("a http://u@b c", "a http://…@b c"),
        ] {
            assert_eq!(without_login(value), told);
        }
    }
}
