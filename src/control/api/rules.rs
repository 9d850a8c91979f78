//! Rules: read, set, deleted; all of them, some, or one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tokio::net::unix::pipe::Receiver;

use super::super::change::{Change, Done, Verb};
use super::error::ApiError;
use super::guard::Peer;
use super::read::{self, Edits};
use super::route::Query;
use super::{Api, listing, tagged};
use crate::limits;
use crate::link::Drain;
use crate::table::{Rule, Snapshot};

const CHANGE: &[&str] = &["dry_run"];
const CHANGE_ONE: &[&str] = &["dry_run", "wait", "timeout"];

/// `/hostname/`
pub(super) async fn all(
    api: &Api,
    parts: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, ApiError> {
    let verb = match parts.method {
        Method::GET | Method::HEAD => return listing::answer(api, parts).await,
        Method::PUT => Verb::Put,
        _ => Verb::Patch,
    };
    let query = Query::of(parts.uri.query(), CHANGE)?;
    let dry_run = query.flag("dry_run")?;
    let text = api.take_body(parts, body, limits::MANAGEMENT_BODY_BYTES_MAX).await?;
    let edits = parsed(api, text.bytes, verb == Verb::Patch).await?;
    let change = Change { whole: verb == Verb::Put, ..change(parts, peer, verb, edits, dry_run)? };
    let done = api.make(change).await?;
    // What was read of it takes room until the table has it.
    drop(text.room);
    Ok(changed(&done, dry_run, Map::new()))
}

/// Large bodies are read elsewhere: the API goes on meanwhile.
async fn parsed(api: &Api, text: Bytes, nulls: bool) -> Result<Edits, ApiError> {
    if text.len() <= limits::PARSED_HERE_BYTES_MAX {
        return read::rules(&text, nulls, &api.sources.names);
    }
    let names = api.sources.names.clone();
    let parsed = tokio::task::spawn_blocking(move || read::rules(&text, nulls, &names)).await;
    parsed.map_err(|_| ApiError::busy("reading the rules was given up"))?
}

async fn parsed_rule(api: &Api, raw: &str, text: Bytes) -> Result<Rule, ApiError> {
    if text.len() <= limits::PARSED_HERE_BYTES_MAX {
        return read::rule(raw, &text, &api.sources.names);
    }
    let (names, raw) = (api.sources.names.clone(), raw.to_owned());
    let parsed = tokio::task::spawn_blocking(move || read::rule(&raw, &text, &names)).await;
    parsed.map_err(|_| ApiError::busy("reading the rule was given up"))?
}

/// `/hostname/HOST/`
pub(super) async fn one(
    api: &Api,
    parts: &Parts,
    body: Body,
    peer: &Peer,
    raw: &str,
) -> Result<Response, ApiError> {
    let name = read::name(raw)?;
    if matches!(parts.method, Method::GET | Method::HEAD) {
        Query::of(parts.uri.query(), &[])?;
        let current = api.current();
        let rule = current.table.get(&name).map_or(Value::Null, Rule::to_json);
        return Ok(tagged(current.tag, format!("{rule}\n")));
    }
    let query = Query::of(parts.uri.query(), CHANGE_ONE)?;
    let dry_run = query.flag("dry_run")?;
    let wait = wait(&query)?;
    let text = api.take_body(parts, body, limits::RULE_BODY_BYTES_MAX).await?;
    // Before the change is made: a client that may not wait is told so, and nothing has changed.
    let waiter = wait.filter(|_| !dry_run).map(|wait| {
        let waiter = api.waiters.clone().try_acquire_owned();
        let too_many = |_| ApiError::busy("too many wait for backends to be drained already");
        waiter.map(|waiter| (wait, waiter)).map_err(too_many)
    });
    let waiter = waiter.transpose()?;
    let (verb, rule) = match parts.method {
        Method::DELETE => (Verb::Delete, None),
        // As the error names it: what was given.
        _ => (Verb::Put, Some(parsed_rule(api, raw, text.bytes).await?)),
    };
    drop(text.room);
    let removed_by = rule.clone();
    let change = change(parts, peer, verb, vec![(name.clone(), rule)], dry_run)?;
    let done = api.make(change).await?;
    let mut more = Map::new();
    if let Some((wait, _waiter)) = waiter {
        let removed = removed(done.before.as_ref(), removed_by.as_ref());
        drained(api, &name, removed, wait, &mut more).await?;
    }
    Ok(changed(&done, dry_run, more))
}

fn change(
    parts: &Parts,
    peer: &Peer,
    verb: Verb,
    edits: Edits,
    dry_run: bool,
) -> Result<Change, ApiError> {
    let if_match = if_match(&parts.headers)?;
    Ok(Change { verb, who: peer.to_string(), edits, whole: false, if_match, dry_run })
}

fn if_match(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let given = headers.get_all(header::IF_MATCH).iter().map(|value| value.to_str());
    let given: Result<Vec<&str>, _> = given.collect();
    let given = given.map_err(|_| ApiError::bad("if_match_invalid", "If-Match holds no ETag"))?;
    Ok((!given.is_empty()).then(|| given.join(",")))
}

/// How long to wait for what was removed, if at all.
fn wait(query: &Query<'_>) -> Result<Option<Duration>, ApiError> {
    let timeout = query.duration("timeout", limits::DRAIN_WAIT_MAX)?;
    match query.get("wait") {
        Some("drained") => Ok(Some(timeout.unwrap_or(limits::DRAIN_WAIT))),
        Some(other) => {
            Err(ApiError::bad("query_invalid", format!("wait={other}: expected wait=drained")))
        }
        None if timeout.is_some() => {
            Err(ApiError::bad("query_invalid", "timeout is for wait=drained, which is missing"))
        }
        None => Ok(None),
    }
}

/// Backends of `before` that are none of `after`.
fn removed(before: Option<&Rule>, after: Option<&Rule>) -> Vec<SocketAddr> {
    let addresses = |rule: Option<&Rule>| {
        let mut found = BTreeSet::new();
        rule.iter().for_each(|rule| rule.each_address(|address| _ = found.insert(address)));
        found
    };
    addresses(before).difference(&addresses(after)).copied().collect()
}

/// Waits until the removed backends have no request of this rule under way.
async fn drained(
    api: &Api,
    name: &str,
    removed: Vec<SocketAddr>,
    wait: Duration,
    more: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let key = Snapshot::default().key(name);
    let failed = |error: std::io::Error| {
        ApiError::busy(&format!("the change is made, but nothing can be waited for: {error}"))
    };
    let shards = api.sources.shards.counters().len();
    let drain = Arc::new(Drain::new(key, removed, shards).map_err(failed)?);
    if drain.backends.is_empty() {
        more.insert("drained".to_owned(), json!(true));
        return Ok(());
    }
    let answered = drain.answered().map_err(failed)?;
    let answered = Receiver::from_owned_fd_unchecked(answered).map_err(failed)?;
    api.sources.shards.ask(&drain);
    let mut elder = api.elder.ask(name, &drain.backends);
    let all = async {
        while drain.left() != Some(0) {
            if answered.readable().await.is_err() {
                return;
            }
            // Only to have it unreadable again; what it says stands in `drain`.
            let _ = answered.try_read(&mut [0; 8]);
        }
        if let Some(elder) = &mut elder {
            // An error: it is gone.
            let _ = elder.wait_for(|left| left.as_ref().is_some_and(|left| left.0 == 0)).await;
        }
    };
    let _ = tokio::time::timeout(wait, all).await;
    let elsewhere = elder.filter(|elder| elder.has_changed().is_ok());
    let elsewhere = elsewhere.map(|elder| elder.borrow().clone().unwrap_or((1, Vec::new())));
    let (left_elsewhere, at_elsewhere) = elsewhere.unwrap_or_default();
    let is_done = drain.left() == Some(0) && left_elsewhere == 0;
    more.insert("drained".to_owned(), json!(is_done));
    if !is_done {
        let there = |at| at_elsewhere.iter().find(|one| one.0 == at).map_or(0, |one| one.1);
        let left = drain.left_at().map(|(at, count)| (at, u64::from(count) + there(at)));
        let left = left.filter(|(_, count)| *count != 0);
        let left: Map<_, _> = left.map(|(at, count)| (at.to_string(), json!(count))).collect();
        more.insert("in_flight".to_owned(), Value::Object(left));
    }
    Ok(())
}

/// `{"ok": true}`, and more.
fn changed(done: &Done, dry_run: bool, more: Map<String, Value>) -> Response {
    let mut answer = Map::from_iter([("ok".to_owned(), json!(true))]);
    if dry_run {
        answer.insert("dry_run".to_owned(), json!(true));
    }
    answer.extend(more);
    tagged(done.tag, format!("{}\n", Value::Object(answer)))
}
