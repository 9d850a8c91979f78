//! Heads as the rule of a request changes them: its Host, and fields that are set or removed. A
//! head is not looked at if the rule changes nothing.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Shard;
use super::hold::Waited;
use super::pool::Lease;
use super::request::{Client, Request};
use crate::http::{self, RequestFraming, RequestHead, TrailerRules};
use crate::table::{HostSent, Proxy};

const FORWARDED_HOST: &str = "X-Forwarded-Host";
const REQUEST_START: &str = "X-Request-Start";
const HELD_MS: &str = "X-Held-Ms";

/// Changes the head in `out` that a backend will get, as the rule and the configuration want it.
/// `waited` is set for a request that was held.
pub(super) fn change_request(
    shard: &Shard,
    request: &mut Request,
    (head, client): (&RequestHead<'_, '_>, Client),
    waited: Option<&Waited>,
    out: &mut Vec<u8>,
) {
    override_request(request, head, client, out);
    if shard.tuning().request_start {
        stamp(shard, request, (head, client), waited, out);
    }
}

fn override_request(
    request: &mut Request,
    head: &RequestHead<'_, '_>,
    client: Client,
    out: &mut Vec<u8>,
) {
    let Some(overrides) = request.overrides.as_deref() else { return };
    let changes = overrides.set_request();
    if !changes.is_empty() {
        http::change_fields(changes, out);
        if request.framing == RequestFraming::Chunked {
            changes.iter().for_each(|change| request.trailers.keep_back(change.name().as_bytes()));
        }
    }
    let Some(host) = overrides.host() else { return };
    // Without this field the application could not tell for which host the client asked.
    if let Some(asked) = head.host
        && !(client.trusted && head.has_field(FORWARDED_HOST))
    {
        http::add_field(FORWARDED_HOST, asked, out);
    }
    if let HostSent::Fixed(host) = host {
        http::set_host(host.as_bytes(), out);
    }
}

/// Writes into the head in `out` when the request came, and for how long it was held. If the client
/// is not trusted, its own fields of these names do not go on.
fn stamp(
    shard: &Shard,
    request: &mut Request,
    (head, client): (&RequestHead<'_, '_>, Client),
    waited: Option<&Waited>,
    out: &mut Vec<u8>,
) {
    let now = shard.ring.now();
    let held = waited.map(|waited| now.saturating_duration_since(waited.since));
    let mut text = shard.ring.take_vec();
    // Writing to a Vec can't fail.
    if !(client.trusted && head.has_field(REQUEST_START)) {
        let came = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let came = came.saturating_sub(held.unwrap_or_default());
        let _ = write!(text, "t={}", came.as_micros());
        http::replace_field(REQUEST_START, Some(&text), out);
    }
    text.clear();
    match held {
        Some(held) => {
            let _ = write!(text, "{}", held.as_millis());
            http::replace_field(HELD_MS, Some(&text), out);
        }
        None if !client.trusted => http::replace_field(HELD_MS, None, out),
        None => {}
    }
    shard.ring.give_vec(text);
    if request.framing == RequestFraming::Chunked && !client.trusted {
        request.trailers.keep_back(REQUEST_START.as_bytes());
        request.trailers.keep_back(HELD_MS.as_bytes());
    }
}

/// Makes the request at the front of `head` name the backend that was chosen, if the rule wants
/// that.
pub(super) fn name_backend(
    shard: &Shard,
    proxy: &Proxy,
    request: &Request,
    lease: &Lease,
    head: &mut Vec<u8>,
) {
    let host = request.overrides.as_deref().and_then(|overrides| overrides.host());
    if host != Some(&HostSent::Backend) {
        return;
    }
    let backend = proxy.backend(usize::from(lease.backend));
    let mut name = shard.ring.take_vec();
    // Writing to a Vec can't fail.
    let _ = write!(name, "{}", backend.host());
    http::set_host(&name, head);
    shard.ring.give_vec(name);
}

/// Changes the final head in `out` that the client will get.
pub(super) fn change_response(request: &Request, out: &mut Vec<u8>) {
    if let Some(overrides) = request.overrides.as_deref()
        && !overrides.set_response().is_empty()
    {
        http::change_fields(overrides.set_response(), out);
    }
}

/// Rules for the trailers of a response: fields that the rule changes in the head are held back.
pub(super) fn trailers(request: &Request, mut rules: TrailerRules) -> TrailerRules {
    if let Some(overrides) = request.overrides.as_deref() {
        let changes = overrides.set_response();
        changes.iter().for_each(|change| rules.keep_back(change.name().as_bytes()));
    }
    rules
}
