//! The past: the last changes of rules, and the last hour of all hosts, of one host, or of one
//! backend.

use std::collections::VecDeque;

use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::asker::Asker;
use super::error::ApiError;
use super::narrowed::narrowed;
use super::route::Query;
use super::{Api, json_response, read};
use crate::address::Address;
use crate::control::events::{Event, health_data};
use crate::control::history::columns;
use crate::limits;

/// Canonical name of the host in the query. An error if the client may not ask for this host.
fn host(query: &Query<'_>, asker: &Asker) -> Result<Option<String>, ApiError> {
    let Some(raw) = query.get("host") else { return Ok(None) };
    let name = read::name(raw)?;
    asker.grant.check_host(&name)?;
    Ok(Some(name))
}

/// `GET /changes/`: lists the last changes that the client may see, newest first.
pub(super) fn changes(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["host", "limit"])?;
    let limit = query.count("limit", limits::HISTORY_CHANGES)?;
    let limit = limit.unwrap_or(limits::HISTORY_CHANGES_LISTED);
    if 1 < query.all("host").count() {
        return Err(ApiError::bad("query_invalid", "host: given twice"));
    }
    let host = host(&query, asker)?;
    let changes = api.sources.changes.lock();
    let wanted = changes.newest_first().filter(|entry| match entry.host() {
        Some(name) => host.as_ref().is_none_or(|host| host == name) && asker.sees(name),
        // This is a change of very many rules: any host may be among them.
        None => true,
    });
    let mut text = String::from("[");
    for (at, entry) in wanted.take(limit).enumerate() {
        text.push_str(if at == 0 { "" } else { "," });
        entry.write(&mut text);
    }
    text.push_str("]\n");
    Ok(json_response(text))
}

/// `GET /history/`: returns the last hour in columns, and the last events.
pub(super) async fn history(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["host", "backend", "events"])?;
    let events = query.count("events", limits::HISTORY_EVENTS)?;
    let host = host(&query, asker)?;
    let view = asker.view(api.current()).await;
    let backend = match query.get("backend") {
        None => None,
        Some(text) => match text.parse::<Address>() {
            Ok(address) => Some(address),
            Err(_) => {
                let message = format!("backend={text}: expected ADDRESS:PORT or unix:/PATH");
                return Err(ApiError::bad("query_invalid", message));
            }
        },
    };
    if host.is_some() && backend.is_some() {
        let message = "backend: expected without host, whose history is another";
        return Err(ApiError::bad("query_invalid", message));
    }
    let sees_backend =
        |address: &Address| view.as_ref().is_none_or(|view| view.backends.contains(address));
    let nothing = VecDeque::new();
    let mut all = {
        let hour = api.sources.history.lock();
        let points = match (&host, &backend) {
            (Some(host), _) => hour.hosts.of(host).unwrap_or(&nothing),
            (None, Some(address)) if sees_backend(address) => {
                hour.backends.of(&address.to_string()).unwrap_or(&nothing)
            }
            (None, Some(_)) => &nothing,
            (None, None) => &hour.totals,
        };
        let is_one = host.is_some() || backend.is_some();
        let step = if is_one { limits::WINDOW_STEP } else { limits::HISTORY_STEP };
        let mut all = Map::from_iter([("step".to_owned(), json!(step.as_secs()))]);
        all.extend(columns(points, backend.is_some()));
        all
    };
    if let Some(most) = events {
        let newest = api.sources.events.log().newest_first().into_iter();
        let seen = newest.filter_map(|event| narrowed(event, asker, view.as_ref()));
        let told = seen.filter_map(|event| described(&event));
        let told = told.filter(|event| {
            let is = |name: &str, wanted: &str| event[name].as_str() == Some(wanted);
            host.as_ref().is_none_or(|host| is("host", host))
                && backend.is_none_or(|backend| is("backend", &backend.to_string()))
        });
        all.insert("events".to_owned(), told.take(most).collect());
    }
    Ok(json_response(format!("{}\n", Value::Object(all))))
}

/// Describes an event as JSON, with its kind as `event`. A wake-up has a member `event` of its own,
/// which is renamed `told`.
fn described(event: &Event) -> Option<Value> {
    let (kind, data) = match event {
        Event::Health(time, change) => ("health", health_data(*time, change)),
        Event::Other(kind, data) => (*kind, data.to_string()),
        Event::Change(_) | Event::Tick(_) => return None,
    };
    let Ok(Value::Object(data)) = serde_json::from_str(&data) else { return None };
    let mut all = Map::from_iter([("event".to_owned(), json!(kind))]);
    let data = data.into_iter();
    all.extend(data.map(|(name, value)| match &*name {
        "event" => ("told".to_owned(), value),
        _ => (name, value),
    }));
    Some(Value::Object(all))
}
