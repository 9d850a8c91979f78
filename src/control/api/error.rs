//! Refusals of management requests: a status, an error code and a sentence. Where the original
//! Mantrid had a code for an error, the code is the same.

use std::borrow::Cow;
use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::change::Refused;
use super::super::fleet::Trouble;
use super::super::grant::Forbidden;
use crate::limits;
use crate::table::{EditError, RuleError};

/// A refusal, sent as `{"error": code, "message": sentence}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
    /// Whether the log has a line about the refusal already.
    pub(super) is_audited: bool,
    /// A field that belongs to the status, such as `Allow` to 405.
    field: Option<Box<(header::HeaderName, HeaderValue)>>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> ApiError {
        let (code, message) = (code.into(), message.into());
        ApiError { status, code, message, is_audited: false, field: None }
    }

    pub(super) fn bad(code: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Refusal of a rule or a host name. Code and message begin with the host, because the request
    /// may hold a whole table.
    pub(super) fn of_host(host: &str, code: impl Display, sentence: &str) -> ApiError {
        let host = &*shorten_host(host);
        ApiError::bad(format!("{host}:{code}"), format!("{host}: {sentence}"))
    }

    pub(super) fn not_found(path: &str) -> ApiError {
        let path: String = path.chars().take(100).collect();
        let message = format!(
            "{path}: no such path; there are /hostname/, /hostname/HOST/, /which/HOST, /stats/, \
             /stats/HOST/, /backends/, /held/, /changes/, /history/, /fleet/, /events, /metrics, \
             /healthz, /readyz, /openapi.json, /support and /"
        );
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn not_for_metrics() -> ApiError {
        let message =
            "only /metrics, /healthz and /readyz are at this address; bind_management has the rest";
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn method(allowed: &'static str) -> ApiError {
        let message = format!("this path takes {allowed}");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            .with(header::ALLOW, HeaderValue::from_static(allowed))
    }

    pub(super) fn unauthorized(code: &str, message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, code, message)
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mantrid\""))
    }

    pub(super) fn too_large(most: usize) -> ApiError {
        let advice = match most {
            limits::RULE_BODY_BYTES_MAX => "no rule is that long",
            _ => "send the table in parts, by PATCH",
        };
        let most = most / 1024 / 1024;
        let message = format!("the body has more than {most} MiB: {advice}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            .with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn busy(message: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
            .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    pub(super) fn stale(age: std::time::Duration) -> ApiError {
        let message = format!("nothing was heard of the fleet's store for {} s", age.as_secs());
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "fleet_stale", message)
    }

    fn with(mut self, name: header::HeaderName, value: HeaderValue) -> ApiError {
        self.field = Some(Box::new((name, value)));
        self
    }
}

/// Shortens a host name that is too long to be repeated in a message. A request body may hold names
/// of any length.
fn shorten_host(host: &str) -> Cow<'_, str> {
    let most = limits::NAME_REPEATED_BYTES_MAX;
    if host.len() <= most {
        return host.into();
    }
    let end = (0..=most).rev().find(|end| host.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &host[..end]).into()
}

impl From<RuleError> for ApiError {
    fn from(error: RuleError) -> ApiError {
        ApiError::of_host(error.host(), error.code(), error.sentence())
    }
}

impl From<Forbidden> for ApiError {
    fn from(forbidden: Forbidden) -> ApiError {
        let Forbidden { host, code, sentence } = forbidden;
        let (code, message) = match host {
            Some(host) => {
                let host = shorten_host(&host);
                (format!("{host}:{code}"), format!("{host}: {sentence}"))
            }
            None => (code.to_owned(), sentence),
        };
        ApiError::new(StatusCode::FORBIDDEN, code, message)
    }
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> ApiError {
        ApiError::bad(format!("{}:{}", error.host(), error.code()), error.sentence())
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        let error: ApiError = match refused {
            Refused::Edit(error) => error.into(),
            Refused::Forbidden(forbidden) => forbidden.into(),
            Refused::Precondition(tag) => {
                let message = "the table has changed since it was read: read it again".to_owned();
                let error =
                    ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message);
                match HeaderValue::from_str(&tag.to_string()) {
                    Ok(tag) => error.with(header::ETAG, tag),
                    Err(_) => error,
                }
            }
            Refused::NotWritten(reason) => ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "state_not_written",
                format!("the change could not be written to disk and was not made: {reason}"),
            ),
            Refused::Fleet(trouble) => {
                let status = match trouble {
                    Trouble::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                let error = ApiError::new(status, trouble.code(), trouble.sentence());
                match trouble {
                    Trouble::Busy => error.with(header::RETRY_AFTER, HeaderValue::from_static("1")),
                    _ => error,
                }
            }
            Refused::Stopping => {
                ApiError::busy("the daemon is stopping, or its writer has ended: see its log")
            }
        };
        ApiError { is_audited: true, ..error }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.code, "message": self.message}).to_string() + "\n";
        let content = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (self.status, content, body).into_response();
        if let Some((name, value)) = self.field.map(|field| *field) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
