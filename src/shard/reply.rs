//! Replies with a status of our own: the page of the rule or of all hosts, else a text.

use super::Shard;
use super::request::Request;
use crate::http::{self, Refusal};
use crate::table::Overrides;

/// Writes a reply with this status; `close` is what it says.
pub(super) fn status(shard: &Shard, request: &Request, status: u16, close: bool) -> Vec<u8> {
    let mut reply = shard.ring.take_vec();
    let to = request.reply_to(close, shard.date());
    let pages = shard.published().pages.load();
    let own = pages_of(request).and_then(|name| pages.own_for_status(name, status));
    // One request too many for the moment (RFC 6585 §4).
    let retry_after = (status == 429).then_some(1);
    match own.or_else(|| pages.for_status(status)) {
        Some(page) => http::write_page(page, retry_after, to, &mut reply),
        None if status == 429 => http::write_too_many(to, &mut reply),
        None => http::write_status(status, to, &mut reply),
    }
    reply
}

/// Writes the reply to a request that was held for too long, or can't be held.
pub(super) fn timeout(shard: &Shard, request: &Request, close: bool) -> Vec<u8> {
    let mut reply = shard.ring.take_vec();
    let pages = shard.published().pages.load();
    let own = pages_of(request).and_then(|name| pages.own_timeout(name));
    let page = own.unwrap_or_else(|| pages.timeout());
    http::write_page(page, Some(1), request.reply_to(close, shard.date()), &mut reply);
    reply
}

/// Name of the pages of a request's rule.
fn pages_of(request: &Request) -> Option<&str> {
    request.overrides.as_deref().and_then(Overrides::pages)
}

/// Counts the refusal of a head, and writes the reply.
pub(super) fn refusal(shard: &Shard, refusal: Refusal) -> Vec<u8> {
    shard.end.counters().add_refusal(refusal);
    let mut reply = shard.ring.take_vec();
    http::write_refusal(refusal, shard.date(), &mut reply);
    reply
}

/// Counts the refusal of a body whose head was accepted, and writes the reply. `close` is what the
/// reply to a body that is too large says; all other refusals close the connection.
pub(super) fn refusal_of_body(
    shard: &Shard,
    request: &Request,
    why: Refusal,
    close: bool,
) -> Vec<u8> {
    if why != Refusal::BodyTooLarge {
        return refusal(shard, why);
    }
    shard.end.counters().add_refusal(why);
    status(shard, request, why.status(), close)
}
