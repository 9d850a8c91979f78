//! Requests that read, set and delete rules: all of them, some, or one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::super::change::{Change, Done, Verb};
use super::super::drained as drain;
use super::asker::Asker;
use super::error::ApiError;
use super::read::{self, Edits};
use super::route::Query;
use super::{Api, fleet, listing, tagged};
use crate::address::Address;
use crate::limits;
use crate::link::Tag;
use crate::table::Rule;

const CHANGE: &[&str] = &["dry_run", "wait", "timeout"];

/// `/hostname/`
pub(super) async fn all(
    api: &Api,
    parts: &Parts,
    body: Body,
    asker: &Asker,
) -> Result<Response, ApiError> {
    let verb = match parts.method {
        Method::GET | Method::HEAD => return listing::answer(api, parts, asker).await,
        Method::PUT => Verb::Put,
        _ => Verb::Patch,
    };
    let query = Query::of(parts.uri.query(), CHANGE)?;
    let dry_run = query.flag("dry_run")?;
    let wait = wait(&query)?;
    if let Some(Wait::Drained(_)) = wait {
        return Err(ApiError::bad(
            "query_unknown",
            "wait=drained: it is for the change of one rule; expected wait=fleet",
        ));
    }
    let text = api.take_body(parts, body, limits::MANAGEMENT_BODY_BYTES_MAX).await?;
    let edits = parsed(api, text.bytes, verb == Verb::Patch).await?;
    let change = Change {
        whole: verb == Verb::Put,
        everywhere: matches!(wait, Some(Wait::Fleet(_))),
        ..change(parts, asker, verb, edits, dry_run)?
    };
    let done = api.make(change).await?;
    // The rules that were read from the body need memory too, until the table has them. So the
    // permit is kept until here.
    drop(text.room);
    let mut more = Map::new();
    if let (Some(Wait::Fleet(timeout)), false) = (wait, dry_run) {
        fleet::wait(api, done.tag, timeout, &mut more).await;
    }
    Ok(changed(&done, dry_run, more))
}

/// Parses the rules of a body. A large body is parsed on another thread, so that the API goes on
/// meanwhile.
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
    asker: &Asker,
    raw: &str,
) -> Result<Response, ApiError> {
    let name = read::name(raw)?;
    if matches!(parts.method, Method::GET | Method::HEAD) {
        Query::of(parts.uri.query(), &[])?;
        let current = api.current();
        let rule = current.table.get(&name).map_or(Value::Null, Rule::to_json);
        let mut response = tagged(current.tag, format!("{rule}\n"));
        let fleet = api.fleet();
        if let Some(name) = fleet.and_then(|fleet| HeaderValue::from_str(fleet.name()).ok()) {
            response.headers_mut().insert("mantrid-fleet", name);
        }
        return Ok(response);
    }
    let query = Query::of(parts.uri.query(), CHANGE)?;
    let dry_run = query.flag("dry_run")?;
    let wait = wait(&query)?;
    let text = api.take_body(parts, body, limits::RULE_BODY_BYTES_MAX).await?;
    // Take the place before the change is made: a client that gets none is told so, and nothing has
    // changed.
    let _waiter = waiter(api, wait.filter(|_| !dry_run))?;
    let (verb, rule) = match parts.method {
        Method::DELETE => (Verb::Delete, None),
        // With the host as it was given, because an error names it like that.
        _ => (Verb::Put, Some(parsed_rule(api, raw, text.bytes).await?)),
    };
    drop(text.room);
    let removed_by = rule.clone();
    let change = change(parts, asker, verb, vec![(name.clone(), rule)], dry_run)?;
    let change = Change { everywhere: wait.is_some(), ..change };
    let done = api.make(change).await?;
    let mut more = Map::new();
    match wait.filter(|_| !dry_run) {
        Some(Wait::Drained(wait)) => {
            let removed = removed(done.before.as_ref(), removed_by.as_ref());
            drained(api, (&name, done.tag), removed, wait, &mut more).await?;
        }
        Some(Wait::Fleet(timeout)) => fleet::wait(api, done.tag, timeout, &mut more).await,
        None => {}
    }
    Ok(changed(&done, dry_run, more))
}

/// Takes one of the places for requests that wait for something after the change.
fn waiter(api: &Api, wait: Option<Wait>) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    let waiter = wait.map(|_| api.waiters.clone().try_acquire_owned()).transpose();
    waiter.map_err(|_| ApiError::busy("too many requests wait for the end of others already"))
}

fn change(
    parts: &Parts,
    asker: &Asker,
    verb: Verb,
    edits: Edits,
    dry_run: bool,
) -> Result<Change, ApiError> {
    let if_match = if_match(&parts.headers)?;
    let (who, from, grant) = (asker.who(), asker.from(), asker.grant.clone());
    let (whole, everywhere) = (false, false);
    Ok(Change { verb, who, from, grant, edits, whole, if_match, dry_run, everywhere })
}

fn if_match(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let given = headers.get_all(header::IF_MATCH).iter().map(|value| value.to_str());
    let given: Result<Vec<&str>, _> = given.collect();
    let given = given.map_err(|_| ApiError::bad("if_match_invalid", "If-Match holds no ETag"))?;
    Ok((!given.is_empty()).then(|| given.join(",")))
}

/// Condition for which the response waits after the change is made.
#[derive(Copy, Clone)]
enum Wait {
    /// Removed backends have no request of the rule under way any more.
    Drained(Duration),
    /// All nodes of the fleet have the change.
    Fleet(Option<Duration>),
}

/// Returns the condition that the query asks to wait for, and for how long.
fn wait(query: &Query<'_>) -> Result<Option<Wait>, ApiError> {
    let timeout = query.duration("timeout", limits::DRAIN_WAIT_MAX)?;
    match query.get("wait") {
        Some("drained") => Ok(Some(Wait::Drained(timeout.unwrap_or(limits::DRAIN_WAIT)))),
        Some("fleet") => Ok(Some(Wait::Fleet(timeout))),
        Some(other) => {
            Err(ApiError::bad("query_invalid", format!("wait={other}: expected drained or fleet")))
        }
        None if timeout.is_some() => {
            Err(ApiError::bad("query_invalid", "timeout is for wait=drained or wait=fleet"))
        }
        None => Ok(None),
    }
}

/// Backends of `before` that `after` does not have.
fn removed(before: Option<&Rule>, after: Option<&Rule>) -> Vec<Address> {
    let addresses = |rule: Option<&Rule>| {
        let mut found = BTreeSet::new();
        rule.iter().for_each(|rule| rule.each_address(|address| _ = found.insert(address)));
        found
    };
    addresses(before).difference(&addresses(after)).copied().collect()
}

/// Waits until the removed backends have no request of this rule under way. In a fleet, waits for
/// all nodes.
async fn drained(
    api: &Api,
    (name, tag): (&str, Tag),
    removed: Vec<Address>,
    wait: Duration,
    more: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let until = Instant::now() + wait;
    let fleet = api.fleet();
    if fleet.is_some() {
        fleet::wait(api, tag, Some(wait), more).await;
    }
    let wait = until.saturating_duration_since(Instant::now());
    let here = drain::drained(&api.sources.shards, &api.elder, name, removed.clone(), wait);
    let elsewhere = async {
        match fleet {
            Some(fleet) => fleet.drained_elsewhere(tag.sequence, name, &removed, wait).await,
            None => (BTreeMap::new(), Vec::new()),
        }
    };
    let (here, (elsewhere, silent)) = tokio::join!(here, elsewhere);
    let here = here.map_err(|error| {
        ApiError::busy(&format!("the change is made, but nothing can be waited for: {error}"))
    })?;
    let is_known = here.is_nothing && silent.is_empty();
    let mut left = here.at;
    for (at, count) in elsewhere {
        *left.entry(at).or_default() += count;
    }
    let is_done = is_known && left.is_empty();
    more.insert("drained".to_owned(), json!(is_done));
    if !is_done {
        let left = left.into_iter().map(|(at, count)| (at.to_string(), json!(count)));
        more.insert("in_flight".to_owned(), Value::Object(left.collect()));
    }
    if !silent.is_empty() {
        more.insert("silent".to_owned(), json!(silent));
    }
    Ok(())
}

/// Response to a change: `{"ok": true}`, and more members.
fn changed(done: &Done, dry_run: bool, more: Map<String, Value>) -> Response {
    let mut answer = Map::from_iter([("ok".to_owned(), json!(true))]);
    if dry_run {
        answer.insert("dry_run".to_owned(), json!(true));
    }
    answer.extend(more);
    tagged(done.tag, format!("{}\n", Value::Object(answer)))
}
