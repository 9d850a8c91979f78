//! Held requests: their hosts and sources, since when each waits, and for what.

use std::time::{Instant, SystemTime};

use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Value, json};

use super::asker::Asker;
use super::error::ApiError;
use super::route::Query;
use super::{Api, json_response, read};
use crate::control::held::HeldRequest;
use crate::limits;

/// `GET /held/`: lists held requests, the longest held first. `Mantrid-Held` counts all that match.
pub(super) fn list(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["host", "limit"])?;
    let most = query.count("limit", limits::HELD_LISTED_MAX)?.unwrap_or(limits::HELD_LISTED);
    let host = query.get("host").map(read::name).transpose()?;
    if let Some(host) = &host {
        asker.grant.check_host(host)?;
    }
    let is_wanted = |name: &str| host.as_ref().is_none_or(|host| name == host) && asker.sees(name);
    let (listed, count) = api.sources.held.list(is_wanted, most);
    let (now, time) = (Instant::now(), SystemTime::now());
    let listed: Vec<Value> = listed.iter().map(|request| describe(request, now, time)).collect();
    let mut response = json_response(format!("{}\n", Value::Array(listed)));
    response.headers_mut().insert("mantrid-held", HeaderValue::from(count));
    Ok(response)
}

fn describe(request: &HeldRequest, now: Instant, time: SystemTime) -> Value {
    let age = now.saturating_duration_since(request.since);
    let since = time.checked_sub(age).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    // Rounded down to the millisecond, the precision of times in events.
    let since = since.map(|since| since.as_millis() as f64 / 1000.0);
    json!({
        "host": &*request.rule,
        "name": &*request.host,
        "source": request.source,
        "since": since,
        "awaits": request.awaits,
    })
}
