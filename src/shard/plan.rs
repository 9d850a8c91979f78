//! The plan for a request: parse its head, find its rule, and write the head that goes on, or our
//! own reply. Synchronous and without allocation: the head is read where it arrived.

use std::sync::Arc;
use std::time::Duration;

use super::ending::Ending;
use super::hold::Waited;
use super::request::{Client, Request, RequestTicket};
use super::route::{self, Route};
use super::{Shard, Table, heads, reply};
use crate::http::{self, Method, ReplyTo, RequestForward, RequestHead, Target};
use crate::link::HoldReason;
use crate::table::{self, Action, Algorithm, Overrides, Proxy, host};

pub(super) enum Plan<'t> {
    /// Pass the request on. `head` is what the backend gets.
    Proxy { proxy: &'t Proxy, request: Request, head: Vec<u8> },
    /// Hold the request until the table says otherwise, for at most `timeout`.
    Hold { request: Request, why: HoldReason, timeout: Duration },
    /// Reply here. `close` is what the reply says.
    Reply { request: Request, answer: Vec<u8>, close: bool, ending: Ending },
    /// Reply and close: the head is not one that we understand or accept.
    Refuse { answer: Vec<u8>, refusal: http::Refusal },
}

/// Plans the request with this head, and begins to count it unless it is under way already.
/// `client` is at first the client according to the connection, and then that of the request.
/// `waited` is set for a request that was held already.
pub(super) fn plan<'t>(
    shard: &Shard,
    table: &'t Table,
    bytes: &[u8],
    (client, ticket): (&mut Client, &mut RequestTicket),
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
    let Ok(name) = head.host.map(|raw| host::canonical(raw, &mut room)).transpose() else {
        return refuse(shard, http::Refusal::BadHost);
    };
    let scheme = client.scheme(head.forwarded_scheme);
    let rule = route::find(shard, table, name, scheme);
    let mut request = read(shard, bytes, &head, client, table.snapshot().overrides(rule.action));
    let close = request.closes();
    let to = || request.reply_to(close, shard.date());
    if shard.tuning().has_health_path && is_health_check(shard, &head) {
        // A health check of this daemon counts under no host.
        let (ending, answer) = (Ending::Local, health_reply(shard, to()));
        return Plan::Reply { request, answer, close, ending };
    }
    shard.count_under(ticket, rule.keys, || shard.record_http(&head, (name, scheme), client));
    let via = shard.tuning().via;
    if via.is_set() && head.came_through(&via) {
        let (ending, mut answer) = (Ending::Loop, shard.ring.take_vec());
        http::write_status(ending.status().unwrap_or(508), to(), &mut answer);
        return Plan::Reply { request, answer, close, ending };
    }
    let asked = (name.unwrap_or_default(), client.peer);
    let (ending, answer) = match route::decide(shard, table, &rule, asked, waited) {
        Route::Proxy(_) | Route::Hold(..) if request.is_too_large() => {
            let refusal = http::Refusal::BodyTooLarge;
            let answer = reply::refusal_of_body(shard, &request, refusal, close);
            (Ending::Refused(refusal), answer)
        }
        Route::Proxy(proxy) => {
            note_affinity(shard, *ticket, proxy, &head);
            let head = write_head(shard, proxy, &mut request, (&head, client), waited);
            return Plan::Proxy { proxy, request, head };
        }
        Route::Hold(why, timeout) => return Plan::Hold { request, why, timeout },
        Route::Denied => (Ending::AccessDenied, reply::status(shard, &request, 403, close)),
        Route::Limited(spent) => (spent.ending(), reply::status(shard, &request, 429, close)),
        Route::Reply(action) => {
            (Ending::Local, reply_of_rule(shard, action, (&head, &request), to()))
        }
    };
    Plan::Reply { request, answer, close, ending }
}

/// Takes out of a head what is needed once it has been parsed.
fn read(
    shard: &Shard,
    bytes: &[u8],
    head: &RequestHead<'_, '_>,
    client: Client,
    overrides: Option<Arc<Overrides>>,
) -> Request {
    let host_at = head.host.map_or(0..0, |host| {
        let start = host.as_ptr().addr() - bytes.as_ptr().addr();
        start as u32..(start + host.len()) as u32
    });
    Request {
        host_at,
        scheme: client.scheme(head.forwarded_scheme),
        method: head.method,
        version: head.version,
        framing: head.framing,
        trailers: head.trailers(client.trusted, client.request_id != 0),
        keep_alive: head.keep_alive && !shard.stopping(),
        expect_continue: head.expect_continue,
        upgrade: head.upgrade,
        authenticates: head.authenticates,
        overrides,
    }
}

/// Writes the head that a backend gets.
fn write_head(
    shard: &Shard,
    proxy: &Proxy,
    request: &mut Request,
    (head, client): (&RequestHead<'_, '_>, Client),
    waited: Option<&Waited>,
) -> Vec<u8> {
    let mut out = shard.ring.take_vec();
    let forward = RequestForward {
        client: client.peer,
        trusted: client.trusted,
        scheme: request.scheme,
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

/// Notes the cookie or field by which the rule chooses a backend, where the request has it.
fn note_affinity(shard: &Shard, ticket: RequestTicket, proxy: &Proxy, head: &RequestHead<'_, '_>) {
    let value = proxy.affinity().and_then(|name| match proxy.algorithm() {
        Algorithm::Cookie => head.cookie(name),
        _ => head.field(name),
    });
    if let Some(value) = value {
        shard.note_affinity(ticket, table::affinity(value));
    }
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

/// Writes what the rule says to reply.
fn reply_of_rule(
    shard: &Shard,
    action: &Action,
    (head, request): (&RequestHead<'_, '_>, &Request),
    to: ReplyTo,
) -> Vec<u8> {
    let mut reply = shard.ring.take_vec();
    let out = &mut reply;
    let pages = shard.published().pages.load();
    match action {
        Action::Empty(empty) => http::write_empty(empty.code(), to, out),
        Action::Redirect(redirect) => {
            let path = match head.target {
                Target::Origin(path) => path,
                Target::Absolute { path, .. } => path,
                Target::Asterisk => b"/",
            };
            http::write_redirect(redirect.to(), redirect.code(), request.scheme, path, to, out);
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
    heads::change_response(request, out);
    reply
}

fn refuse<'t>(shard: &Shard, refusal: http::Refusal) -> Plan<'t> {
    Plan::Refuse { answer: reply::refusal(shard, refusal), refusal }
}
