//! The fleet: its nodes, and the decisions of an operator about it.

use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tracing::field::display;
use tracing::info;

use super::super::fleet::Fleet;
use super::asker::Asker;
use super::error::ApiError;
use super::route::{FleetStep, Query};
use super::{Api, json_response};
use crate::limits;
use crate::link::Tag;

fn answer(value: &Value) -> Response {
    json_response(value.to_string())
}

/// `GET /fleet/`: describes the fleet; `null` if there is none.
pub(super) fn show(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    Ok(answer(&api.sources.fleet.as_ref().map_or(Value::Null, Fleet::to_json)))
}

/// `POST /fleet/init`, `/fleet/join` and `/fleet/leave`.
pub(super) async fn act(
    api: &Api,
    parts: &Parts,
    asker: &Asker,
    step: FleetStep,
) -> Result<Response, ApiError> {
    Query::of(parts.uri.query(), &[])?;
    debug_assert_eq!(parts.method, Method::POST);
    let fleet = api.fleet();
    let fleet = fleet.ok_or_else(|| {
        let message = "this daemon is in no fleet: set the key `fleet` and start it anew";
        ApiError::new(StatusCode::CONFLICT, "no_fleet", message)
    })?;
    match step {
        FleetStep::Init => {
            let made = fleet.init(&api.current()).await;
            made.map_err(|error| {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                ApiError::new(status, "fleet_unreachable", error.to_string())
            })?;
        }
        FleetStep::Join => fleet.join(),
        FleetStep::Leave => api.sources.orders.leave_fleet().await,
    }
    let (verb, path, result) = ("POST", parts.uri.path(), "done");
    let (who, from) = (asker.who(), asker.from().map(display));
    info!(%who, from, verb, path, result, "audit");
    Ok(answer(&json!({ "ok": true })))
}

/// Waits until all nodes have a change, and adds to the response which nodes do not.
pub(super) async fn wait(
    api: &Api,
    tag: Tag,
    timeout: Option<Duration>,
    more: &mut Map<String, Value>,
) {
    let waited = match api.fleet() {
        Some(fleet) => {
            let timeout = timeout.unwrap_or(limits::FLEET_WAIT);
            fleet.wait_for(tag.sequence, timeout).await.to_json()
        }
        None => Value::Null,
    };
    more.insert("fleet".to_owned(), waited);
}
