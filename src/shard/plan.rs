//! What to do with a request: parse its head, find its rule, and write the head that goes on, or our
//! own answer. Synchronous and without allocation: the head is read where it arrived.

use std::net::IpAddr;

use super::hold::{Hold, Waited};
use super::record::Cause;
use super::tally::Keys;
use super::{Shard, Table};
use crate::http::{
    self, HttpDate, Method, ReplyTo, RequestForward, RequestFraming, RequestHead, Target,
    TrailerRules, Version,
};
use crate::link::HoldReason;
use crate::table::Scheme;
use crate::table::{Action, Match, Proxy, host};

/// What is remembered of a request once its head was forwarded.
#[derive(Copy, Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) framing: RequestFraming,
    pub(super) trailers: TrailerRules,
    /// The client wants the connection to go on.
    pub(super) keep_alive: bool,
    /// It waits for `100 Continue` before it sends the body.
    pub(super) expect_continue: bool,
    /// It asked for another protocol.
    pub(super) upgrade: bool,
    /// It brings credentials that authenticate the connection on which it goes out.
    pub(super) authenticates: bool,
}

impl Request {
    pub(super) fn reply_to(&self, close: bool, date: HttpDate) -> ReplyTo {
        ReplyTo { version: self.version, head_only: self.method == Method::Head, close, date }
    }
}

pub(super) enum Plan<'t> {
    /// Pass it on. `head` is what the backend gets.
    Proxy { proxy: &'t Proxy, keys: Keys, request: Request, head: Vec<u8> },
    /// Keep it until the table says otherwise.
    Hold { keys: Keys, request: Request, hold: Box<Hold> },
    /// Answer it here. `close` is what the answer says.
    Reply { keys: Keys, request: Request, answer: Vec<u8>, close: bool, cause: Cause },
    /// Answer and close: the head is not one we understand or accept.
    Refuse { answer: Vec<u8>, refusal: http::Refusal },
}

impl Plan<'_> {
    /// What its request is counted under; `None` for one that is not accepted.
    pub(super) fn keys(&self) -> Option<Keys> {
        match self {
            Plan::Proxy { keys, .. } | Plan::Hold { keys, .. } | Plan::Reply { keys, .. } => {
                Some(*keys)
            }
            Plan::Refuse { .. } => None,
        }
    }
}

/// Who sent it, over what.
#[derive(Copy, Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: IpAddr,
    pub(super) port: u16,
    pub(super) trusted: bool,
    /// It speaks TLS to whatever is in front of us, as far as no field that is believed says
    /// otherwise.
    pub(super) secure: bool,
    /// Of the request that it made last, among those of the shard; 0 where requests get none.
    pub(super) request_id: u64,
    /// Among those of its source.
    pub(super) is_counted: bool,
}

/// `waited` is set for one that was held already.
pub(super) fn plan<'t>(
    shard: &Shard,
    table: &'t Table,
    bytes: &[u8],
    client: Client,
    waited: Option<&Waited>,
) -> Plan<'t> {
    let mut room = http::field_room();
    let head = match http::parse_request(bytes, &mut room) {
        Ok(head) => head,
        Err(refusal) => return refuse(shard, refusal),
    };
    let mut room = [0; 256];
    let (name, found) = match head.host {
        None => ("", Match::Unknown),
        Some(raw) => match host::canonical(raw, &mut room) {
            Ok(name) => (name, table.snapshot().lookup(name, scheme(&head, client))),
            Err(_) => return refuse(shard, http::Refusal::BadHost),
        },
    };
    let request = Request {
        method: head.method,
        version: head.version,
        framing: head.framing,
        trailers: head.trailers(client.trusted, client.request_id != 0),
        keep_alive: head.keep_alive && !shard.stopping(),
        expect_continue: head.expect_continue,
        upgrade: head.upgrade,
        authenticates: head.authenticates,
    };
    let via = shard.tuning().via;
    let unknown = Keys { host: shard.unknown, rule: shard.unknown };
    let (action, keys) = match found {
        Match::NoHosts => (&Action::NoHosts, unknown),
        Match::Unknown => (&Action::Unknown, unknown),
        Match::Found(found) => (&found.rule.action, Keys { host: found.key, rule: found.rule_key }),
    };
    if via.is_set() && head.came_through(&via) {
        let close = closes(&request);
        let mut out = shard.ring.take_vec();
        http::write_status(508, request.reply_to(close, shard.date()), &mut out);
        return Plan::Reply { keys, request, answer: out, close, cause: Cause::Loop };
    }
    let hold = |why, timeout| {
        let hold = Hold { why, host: name.into(), scheme: scheme(&head, client), timeout };
        Plan::Hold { keys, request, hold: Box::new(hold) }
    };
    if let Action::Spin(spin) = action {
        return hold(HoldReason::Spin, spin.timeout());
    }
    if let Action::Proxy(_) = action
        && !shard.published().lines.is_empty()
        && !waited.is_some_and(Waited::is_let_go)
        && let key = table.snapshot().key(name)
        && let Some(wait) = shard.published().lines.wait(&[keys.host, keys.rule, key])
    {
        return hold(HoldReason::Behind, wait);
    }
    let mut out = shard.ring.take_vec();
    // One that was held has waited enough: it is not sent away.
    if let Action::Proxy(proxy) = action
        && let Some(rate) = proxy.max_requests_per_second()
        && waited.is_none()
        && !shard.admits(keys.rule, rate)
    {
        let close = closes(&request);
        http::write_too_many(request.reply_to(close, shard.date()), &mut out);
        return Plan::Reply { keys, request, answer: out, close, cause: Cause::RateLimited };
    }
    if let Action::Proxy(proxy) = action {
        let forward = RequestForward {
            client: client.peer,
            trusted: client.trusted,
            scheme: scheme(&head, client),
            request_id: shard.whole_request_id(client.request_id),
            via,
        };
        http::write_request(&head, forward, &mut out);
        if !proxy.keep_alive() && !head.upgrade {
            http::say_close(&mut out);
        }
        return Plan::Proxy { proxy, keys, request, head: out };
    }
    let close = closes(&request);
    answer(shard, action, &head, client, request.reply_to(close, shard.date()), &mut out);
    Plan::Reply { keys, request, answer: out, close, cause: Cause::Local }
}

/// The host of a request that was planned before.
pub(super) fn whose(bytes: &[u8], client: Client) -> Option<(Box<str>, Scheme)> {
    let mut room = http::field_room();
    let head = http::parse_request(bytes, &mut room).ok()?;
    let mut room = [0; 256];
    let name = host::canonical(head.host?, &mut room).ok()?;
    Some((name.into(), scheme(&head, client)))
}

/// What one gets that was held for too long, or can't be.
pub(super) fn timeout_answer(shard: &Shard, to: ReplyTo) -> Vec<u8> {
    let mut out = shard.ring.take_vec();
    http::write_page(shard.published().pages.load().timeout(), Some(1), to, &mut out);
    out
}

pub(super) fn scheme(head: &RequestHead<'_, '_>, client: Client) -> Scheme {
    match (client.trusted, head.forwarded_scheme) {
        (true, Some(scheme)) => scheme,
        _ if client.secure => Scheme::Https,
        _ => Scheme::Http,
    }
}

/// Whether an answer of our own ends the connection: a body that is not known to be short is not read
/// to its end, and one that waits for a `100 Continue` may never come.
pub(super) fn closes(request: &Request) -> bool {
    let body_is_short = match request.framing {
        RequestFraming::None => true,
        RequestFraming::Length(n) => {
            n <= crate::limits::DISCARD_BYTES_MAX && !request.expect_continue
        }
        RequestFraming::Chunked => false,
    };
    !request.keep_alive || !body_is_short
}

fn answer(
    shard: &Shard,
    action: &Action,
    head: &RequestHead<'_, '_>,
    client: Client,
    to: ReplyTo,
    out: &mut Vec<u8>,
) {
    let pages = shard.published().pages.load();
    match action {
        Action::Empty(code) => http::write_empty(*code, to, out),
        Action::Redirect(redirect) => {
            let path = match head.target {
                Target::Origin(path) => path,
                Target::Absolute { path, .. } => path,
                Target::Asterisk => b"/",
            };
            let scheme = scheme(head, client);
            http::write_redirect(redirect.to(), redirect.code(), scheme, path, to, out);
        }
        Action::Static(name) => match pages.get(name) {
            Some(page) => http::write_page(page, None, to, out),
            // The page was there when the rule was set and is gone from static_dir.
            None => http::write_status(500, to, out),
        },
        Action::NoHosts => http::write_page(pages.no_hosts(), None, to, out),
        Action::Unknown | Action::Alias(_) | Action::Proxy(_) | Action::Spin(_) => {
            http::write_page(pages.unknown(), None, to, out);
        }
    }
}

pub(super) fn refuse<'t>(shard: &Shard, refusal: http::Refusal) -> Plan<'t> {
    Plan::Refuse { answer: refusal_answer(shard, refusal), refusal }
}

/// Counts a refusal; what the client is told.
pub(super) fn refusal_answer(shard: &Shard, refusal: http::Refusal) -> Vec<u8> {
    shard.end.counters().add_refusal(refusal);
    let mut answer = shard.ring.take_vec();
    http::write_refusal(refusal, shard.date(), &mut answer);
    answer
}
