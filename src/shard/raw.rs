//! Raw connections: bytes both ways, governed by the rule of one host. Of `bind_tcp` the address says which;
//! of `bind_tls` the server name in the ClientHello, which goes on untouched.
//!
//! A rule that is not `proxy` or `spin` has nothing to say to such a client: its connection is closed, with
//! an alert where it speaks TLS.

use std::sync::Arc;

use super::backend::{Asking, NoBackend, acquire};
use super::connection::{Connection, Idle, Next};
use super::hold::{End, Hold, Waited};
use super::pool::Lease;
use super::record::Cause;
use super::tally::{Keys, Tally};
use super::tunnel;
use crate::link::{HoldReason, Protocol};
use crate::ring::{EndCounts, SendBuf};
use crate::table::{Action, Match, Scheme, host};
use crate::tls::{self, Alert, Seen};

/// Serves a connection that stands for a host, or says in its ClientHello which host it is for. `waited` is set
/// for one that was held before, in another process.
pub(super) async fn serve(
    connection: &mut Connection,
    speaks: Protocol,
    waited: Option<Box<Waited>>,
) {
    // Each boxed: what leads to a tunnel, and away from it, should take no room while it is open, perhaps for days.
    if let Some(lease) = Box::pin(lead(connection, speaks, waited)).await {
        let next = Box::pin(tunnel::relay(connection, &lease)).await;
        Box::pin(connection.end(next)).await;
        connection.over();
    }
}

/// Brings a connection to where nothing is left but to relay; `None`: it has ended before.
async fn lead(
    connection: &mut Connection,
    speaks: Protocol,
    waited: Option<Box<Waited>>,
) -> Option<Lease> {
    let ended = match Box::pin(name(connection, &speaks)).await {
        Ok(name) => match lease(connection, &name, &speaks, waited).await {
            Ok(lease) if tunnel::begin(connection, &lease, None).await => return Some(lease),
            Ok(_) => Ok(Next::ResetOnceTaken),
            Err(ended) => ended,
        },
        Err(alert) => alert.map_or(Ok(Next::Close), Err),
    };
    let next = match ended {
        Ok(next) => next,
        Err(_) if speaks != Protocol::Tls => Next::Close,
        Err(alert) => {
            let mut record = connection.shard.ring.take_vec();
            record.extend_from_slice(&alert.record());
            connection.shard.count_sent(connection.tally, record.len());
            connection.stream.start_send(SendBuf::Vec(record), false);
            Next::Linger
        }
    };
    connection.end(next).await;
    connection.over();
    None
}

/// The host that a connection is for. `Err(None)`: nobody is there to be told.
async fn name(connection: &mut Connection, speaks: &Protocol) -> Result<Arc<str>, Option<Alert>> {
    if let Protocol::Tcp(host) = speaks {
        return Ok(host.clone());
    }
    match hello(connection).await? {
        Some(name) => Ok(name.into()),
        None => {
            let unknown = connection.shard.unknown;
            let keys = Keys { host: unknown, rule: unknown };
            let record = connection.shard.record_raw(None, Scheme::Tls, connection.client);
            connection.tally = connection.shard.begin(keys, connection.inbox.bytes().len(), record);
            connection.shard.note_end(connection.tally, Cause::NoRule);
            Err(Some(Alert::UnrecognizedName))
        }
    }
}

/// Receives the ClientHello; the name in it in canonical form, if it has one. `Err(None)`: nobody is there
/// to be told.
async fn hello(connection: &mut Connection) -> Result<Option<String>, Option<Alert>> {
    let longest = connection.shard.tuning().head_bytes_max;
    connection.deadline.set(connection.shard.timeouts().http_request);
    let mut needed = 1;
    loop {
        while connection.inbox.bytes().len() < needed {
            let buf = match connection.more(Idle::No).await {
                Some(Ok(buf)) if !buf.is_empty() => buf,
                None => {
                    Box::pin(connection.hand_over_as(Protocol::Tls, None)).await;
                    return Err(None);
                }
                Some(_) => return Err(None),
            };
            connection.inbox.push(&connection.shard.ring, buf);
            connection.inbox.gather(&connection.shard.ring);
        }
        match tls::client_hello(connection.inbox.bytes(), longest) {
            Seen::More(more) => needed = more,
            Seen::Wrong(_) => return Err(Some(Alert::DecodeError)),
            Seen::Hello(None) => return Ok(None),
            Seen::Hello(Some(name)) => {
                // No port and no address may stand there (RFC 6066 §3).
                let is_name = !name.iter().any(|byte| matches!(byte, b':' | b'['));
                let mut room = [0; 256];
                let name = host::canonical(&name, &mut room).ok().filter(|_| is_name);
                return Ok(name.map(str::to_owned));
            }
        }
    }
}

/// What became of an attempt to pass a connection on.
enum Attempt {
    Connected(Lease),
    Over(Next),
    Refused(Alert),
    Hold(Hold),
}

/// A connection to a backend of the host, as soon as its rule allows one; how it ended without one.
async fn lease(
    connection: &mut Connection,
    host: &str,
    speaks: &Protocol,
    mut waited: Option<Box<Waited>>,
) -> Result<Lease, Result<Next, Alert>> {
    let scheme = if *speaks == Protocol::Tls { Scheme::Tls } else { Scheme::Tcp };
    loop {
        let hold = match attempt(connection, host, scheme, &mut waited).await {
            Attempt::Connected(lease) => return Ok(lease),
            Attempt::Over(next) => return Err(Ok(next)),
            Attempt::Refused(alert) => return Err(Err(alert)),
            Attempt::Hold(hold) => hold,
        };
        match connection.hold(hold, &mut waited).await {
            End::Go => continue,
            End::Moving => {
                let (tally, len) = (connection.tally, connection.inbox.bytes().len());
                connection.tally = Tally::NONE;
                connection.shard.withdraw(tally, len);
                let moved = Box::pin(connection.hand_over_as(speaks.clone(), waited.as_deref()));
                return Err(Ok(moved.await));
            }
            End::Left => {
                connection.shard.note_end(connection.tally, Cause::ClientGone);
                return Err(Ok(Next::Close));
            }
            End::TimedOut => connection.shard.note_end(connection.tally, Cause::HeldTimeout),
            End::Full => connection.shard.note_end(connection.tally, Cause::HeldFull),
        }
        return Err(Err(Alert::InternalError));
    }
}

async fn attempt(
    connection: &mut Connection,
    host: &str,
    scheme: Scheme,
    waited: &mut Option<Box<Waited>>,
) -> Attempt {
    let shard = connection.shard.clone();
    let table = shard.table();
    let unknown = Keys { host: shard.unknown, rule: shard.unknown };
    let (action, keys) = match table.snapshot().lookup(host, scheme) {
        Match::NoHosts | Match::Unknown => (&Action::Unknown, unknown),
        Match::Found(found) => (&found.rule.action, Keys { host: found.key, rule: found.rule_key }),
    };
    match connection.tally {
        Tally::NONE => {
            let record = shard.record_raw(Some(host), scheme, connection.client);
            connection.tally = shard.begin(keys, connection.inbox.bytes().len(), record);
        }
        tally => shard.reroute(tally, keys),
    }
    let hold = |why, timeout| Attempt::Hold(Hold { why, host: host.into(), scheme, timeout });
    let proxy = match action {
        Action::Spin(spin) => return hold(HoldReason::Spin, spin.timeout()),
        Action::Proxy(proxy) => proxy,
        other => {
            shard.note_end(connection.tally, Cause::NoRule);
            let is_unknown = matches!(other, Action::Unknown | Action::NoHosts);
            return Attempt::Refused(match is_unknown {
                true => Alert::UnrecognizedName,
                false => Alert::AccessDenied,
            });
        }
    };
    if let Some(rate) = proxy.max_requests_per_second()
        && waited.is_none()
        && !shard.admits(keys.rule, rate)
    {
        shard.note_end(connection.tally, Cause::RateLimited);
        return Attempt::Refused(Alert::InternalError);
    }
    let key = table.snapshot().key(host);
    if !waited.as_deref().is_some_and(Waited::is_let_go)
        && let Some(wait) = shard.published().lines.wait(&[keys.host, keys.rule, key])
    {
        return hold(HoldReason::Behind, wait);
    }
    let asking = Asking {
        proxy,
        client: connection.client,
        tally: connection.tally,
        fresh: true,
        repeatable: false,
        raw: true,
        patience: Waited::patience(waited.as_deref(), shard.ring.now(), shard.timeouts().connect),
        // Who speaks anything may have ended its side and wait for an answer.
        ends: EndCounts::Never,
    };
    match acquire(&shard, asking, &connection.stream, None).await {
        Ok(lease) => Attempt::Connected(lease),
        Err(NoBackend::ClientGone) => {
            shard.note_end(connection.tally, Cause::ClientGone);
            Attempt::Over(Next::Close)
        }
        Err(NoBackend::Unreachable | NoBackend::Local) if !proxy.hold().is_zero() => {
            shard.chose_none(connection.tally);
            Waited::note(waited, shard.ring.now(), 0);
            hold(HoldReason::NoBackend, proxy.hold())
        }
        Err(why) => {
            shard.note_end(connection.tally, why.cause());
            Attempt::Refused(Alert::InternalError)
        }
    }
}
