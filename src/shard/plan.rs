//! The plan for a request: parse its head, find its rule, and write the head that goes on, or our
//! own answer. Synchronous and without allocation: the head is read where it arrived.

use std::num::NonZeroU64;

use super::ending::Ending;
use super::hold::{Hold, Waited};
use super::request::{Client, Keys, Request};
use super::route::{self, Route};
use super::{Shard, Table, heads, reply};
use crate::http::{self, Method, ReplyTo, RequestForward, RequestHead, Target};
use crate::table::{self, Action, Algorithm, Proxy, Scheme, host};

pub(super) enum Plan<'t> {
    /// Pass it on. `head` is what the backend gets.
    Proxy { proxy: &'t Proxy, keys: Keys, request: Request, head: Vec<u8> },
    /// Keep it until the table says otherwise.
    Hold { keys: Keys, request: Request, hold: Box<Hold> },
    /// Answer it here. `close` is what the answer says.
    Reply { keys: Keys, request: Request, answer: Vec<u8>, close: bool, ending: Ending },
    /// Reply to a health check of this daemon, which counts under no host.
    Health { request: Request, answer: Vec<u8>, close: bool },
    /// Answer and close: the head is not one we understand or accept.
    Refuse { answer: Vec<u8>, refusal: http::Refusal },
}

impl Plan<'_> {
    /// Keys that the request is counted under; `None` for one that is not accepted.
    pub(super) fn keys(&self) -> Option<Keys> {
        match self {
            Plan::Proxy { keys, .. } | Plan::Hold { keys, .. } | Plan::Reply { keys, .. } => {
                Some(*keys)
            }
            Plan::Health { .. } | Plan::Refuse { .. } => None,
        }
    }
}

/// `client` is the one that the connection tells, and becomes the request's. `waited` is set for a
/// request that was held already. `affinity` becomes the hash of the cookie or field that decides
/// on the backend, of a rule that goes by one.
pub(super) fn plan<'t>(
    shard: &Shard,
    table: &'t Table,
    bytes: &[u8],
    (client, affinity): (&mut Client, &mut Option<NonZeroU64>),
    waited: Option<&Waited>,
) -> Plan<'t> {
    let mut room = http::field_room();
    let head = match http::parse_request(bytes, &mut room) {
        Ok(head) => head,
        Err(refusal) => return refuse(shard, refusal),
    };
    if client.trusted && shard.tuning().has_client_field {
        take_client(shard, &head, client);
    }
    let client = *client;
    let mut room = [0; 256];
    let scheme = client.scheme(head.forwarded_scheme);
    let name = match head.host.map(|raw| host::canonical(raw, &mut room)).transpose() {
        Ok(name) => name,
        Err(_) => return refuse(shard, http::Refusal::BadHost),
    };
    let rule = route::find(shard, table, name, scheme);
    let mut request = Request {
        method: head.method,
        version: head.version,
        framing: head.framing,
        trailers: head.trailers(client.trusted, client.request_id != 0),
        keep_alive: head.keep_alive && !shard.stopping(),
        expect_continue: head.expect_continue,
        upgrade: head.upgrade,
        authenticates: head.authenticates,
        overrides: table.snapshot().overrides(rule.action),
    };
    let close = request.closes();
    if shard.tuning().has_health_path && is_health_check(shard, &head) {
        let answer = health_reply(shard, request.reply_to(close, shard.date()));
        return Plan::Health { request, answer, close };
    }
    let via = shard.tuning().via;
    let keys = rule.keys;
    if via.is_set() && head.came_through(&via) {
        let to = request.reply_to(close, shard.date());
        let (ending, mut answer) = (Ending::Loop, shard.ring.take_vec());
        http::write_status(ending.status().unwrap_or(508), to, &mut answer);
        return Plan::Reply { keys, request, answer, close, ending };
    }
    let name = name.unwrap_or_default();
    let proxy = match route::decide(shard, table, &rule, (name, client.peer), waited) {
        Route::Proxy(_) | Route::Hold(..) if request.is_too_large() => {
            let refusal = http::Refusal::BodyTooLarge;
            let answer = reply::refusal_of_body(shard, &request, refusal, close);
            return Plan::Reply { keys, request, answer, close, ending: Ending::Refused(refusal) };
        }
        Route::Proxy(proxy) => proxy,
        Route::Hold(why, timeout) => {
            let hold = Hold { why, host: name.into(), scheme, timeout };
            return Plan::Hold { keys, request, hold: Box::new(hold) };
        }
        Route::Denied => {
            let answer = reply::status(shard, &request, 403, close);
            return Plan::Reply { keys, request, answer, close, ending: Ending::AccessDenied };
        }
        Route::Limited(spent) => {
            let answer = reply::status(shard, &request, 429, close);
            return Plan::Reply { keys, request, answer, close, ending: spent.ending() };
        }
        Route::Reply(action) => {
            let mut answer = shard.ring.take_vec();
            let to = request.reply_to(close, shard.date());
            write_reply(shard, action, &head, client, to, &mut answer);
            heads::change_response(&request, &mut answer);
            return Plan::Reply { keys, request, answer, close, ending: Ending::Local };
        }
    };
    *affinity = affinity_of(proxy, &head);
    let head = write_head(shard, proxy, &mut request, (&head, client, scheme), waited);
    Plan::Proxy { proxy, keys, request, head }
}

/// Writes the head that a backend gets.
fn write_head(
    shard: &Shard,
    proxy: &Proxy,
    request: &mut Request,
    (head, client, scheme): (&RequestHead<'_, '_>, Client, Scheme),
    waited: Option<&Waited>,
) -> Vec<u8> {
    let mut out = shard.ring.take_vec();
    let forward = RequestForward {
        client: client.peer,
        trusted: client.trusted,
        scheme,
        request_id: shard.whole_request_id(client.request_id),
        via: shard.tuning().via,
    };
    http::write_request(head, forward, &mut out);
    heads::change_request(shard, request, (head, client), waited, &mut out);
    if !proxy.keep_alive() && !head.upgrade {
        http::say_close(&mut out);
    }
    out
}

/// Hash of the cookie or field by which the rule chooses a backend; `None`: there is none.
fn affinity_of(proxy: &Proxy, head: &RequestHead<'_, '_>) -> Option<NonZeroU64> {
    let name = proxy.affinity()?;
    let value = match proxy.algorithm() {
        Algorithm::Cookie => head.cookie(name),
        _ => head.field(name),
    };
    value.map(table::affinity)
}

fn is_health_check(shard: &Shard, head: &RequestHead<'_, '_>) -> bool {
    let target = head.path_and_query();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let is_read = matches!(head.method, Method::Get | Method::Head);
    is_read && path == shard.published().entrance.load().health_path.as_bytes()
}

fn health_reply(shard: &Shard, to: ReplyTo) -> Vec<u8> {
    let mut out = shard.ring.take_vec();
    match shard.tuning().is_unhealthy || shard.stopping() {
        true => http::write_empty(503, to, &mut out),
        false => http::write_status(200, to, &mut out),
    }
    out
}

/// Takes the client that a field of the request names, if it names one.
fn take_client(shard: &Shard, head: &RequestHead<'_, '_>, client: &mut Client) {
    let entrance = shard.published().entrance.load();
    let values = head.values(&entrance.client_field);
    if let Some(address) = http::client_in(values, |address| entrance.trusts(address)) {
        // The field has no port.
        (client.peer, client.port) = (address, 0);
    }
}

/// The host of a request that was planned before; empty where it has none.
pub(super) fn host_of(bytes: &[u8], client: Client) -> Option<(Box<str>, Scheme)> {
    let mut room = http::field_room();
    let head = http::parse_request(bytes, &mut room).ok()?;
    let mut room = [0; 256];
    let name = head.host.map(|raw| host::canonical(raw, &mut room)).transpose().ok()?;
    Some((name.unwrap_or_default().into(), client.scheme(head.forwarded_scheme)))
}

fn write_reply(
    shard: &Shard,
    action: &Action,
    head: &RequestHead<'_, '_>,
    client: Client,
    to: ReplyTo,
    out: &mut Vec<u8>,
) {
    let pages = shard.published().pages.load();
    match action {
        Action::Empty(empty) => http::write_empty(empty.code(), to, out),
        Action::Redirect(redirect) => {
            let path = match head.target {
                Target::Origin(path) => path,
                Target::Absolute { path, .. } => path,
                Target::Asterisk => b"/",
            };
            let scheme = client.scheme(head.forwarded_scheme);
            http::write_redirect(redirect.to(), redirect.code(), scheme, path, to, out);
        }
        Action::Static(page) => match pages.get(page.page()) {
            Some(page) => http::write_page(page, None, to, out),
            // The page was there when the rule was set and is gone from static_dir.
            None => http::write_status(500, to, out),
        },
        Action::NoHosts => http::write_page(pages.no_hosts(), None, to, out),
        Action::Unknown | Action::Alias(_) | Action::Proxy(_) | Action::Spin(_) => {
            match shard.tuning().unknown_status {
                Some(status) => http::write_page_as(status, pages.unknown(), to, out),
                None => http::write_page(pages.unknown(), None, to, out),
            }
        }
    }
}

pub(super) fn refuse<'t>(shard: &Shard, refusal: http::Refusal) -> Plan<'t> {
    Plan::Refuse { answer: reply::refusal(shard, refusal), refusal }
}
