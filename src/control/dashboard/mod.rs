//! `GET /`: the dashboard, one page that is part of the program.

use axum::response::{Html, IntoResponse, Response};

pub(super) fn answer() -> Response {
    Html("<!doctype html><title>Mantrid</title>").into_response()
}
