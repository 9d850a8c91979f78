//! `GET /healthz` says whether a restart would help, and `GET /readyz` whether this node should get
//! clients.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::route::Query;
use super::{Api, json_response};

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, json_response(format!("{value}\n"))).into_response()
}

/// Liveness.
pub(super) fn alive(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    if let Some(fleet) = api.sources.fleet.as_ref().filter(|fleet| fleet.is_stale()) {
        return Err(ApiError::stale(fleet.event_age()));
    }
    // Even if changes can't be written to disk, the daemon is alive: a restart would not help.
    let value = match api.sources.trouble.load().as_deref() {
        None => json!({ "ok": true }),
        Some(why) => json!({ "ok": true, "state_writable": false, "problem": why }),
    };
    Ok(answer(StatusCode::OK, &value))
}

/// Readiness. The response names every reason against it.
pub(super) fn ready(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    let mut reasons: Vec<(&str, String)> = Vec::new();
    if api.is_stopping.load(Ordering::Relaxed) {
        let why = "the daemon takes in no more clients and finishes what is under way";
        reasons.push(("draining", why.to_owned()));
    }
    if let Some(why) = api.sources.trouble.load().as_deref() {
        reasons.push(("state_unwritable", why.clone()));
    }
    if let Some(fleet) = api.sources.fleet.as_ref().filter(|fleet| fleet.is_stale()) {
        reasons.push(("fleet_stale", ApiError::stale(fleet.event_age()).message));
    }
    if reasons.is_empty() {
        return Ok(answer(StatusCode::OK, &json!({ "ready": true })));
    }
    let slugs: Vec<&str> = reasons.iter().map(|(slug, _)| *slug).collect();
    let sentences: Vec<&str> = reasons.iter().map(|(_, sentence)| &**sentence).collect();
    let message = sentences.join("; ");
    let value =
        json!({ "ready": false, "error": "not_ready", "message": message, "reasons": slugs });
    Ok(answer(StatusCode::SERVICE_UNAVAILABLE, &value))
}
