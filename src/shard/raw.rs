//! Raw connections: bytes in both directions, under the rule of one host. With `bind_tcp` the
//! address decides which host that is; with `bind_tls` the server name in the ClientHello does,
//! which goes on untouched.
//!
//! A rule that is not `proxy` or `spin` has no reply for such a client: the connection is closed,
//! after an alert if the client speaks TLS.

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Asking, acquire, hold_reason, timeout_connect};
use super::client::{BytesEvent, ClientSide, Front, Idleness};
use super::ending::Ending;
use super::hold::{Hold, HoldOutcome, Waited};
use super::pool::Lease;
use super::request::Next;
use super::route::{self, Route};
use super::{Table, closing, hold, open_requests, tunnel};
use crate::link::Protocol;
use crate::ring::{EndCounts, SendBuf};
use crate::table::{Action, Proxy, Scheme, host};
use crate::tls::{self, Alert, Seen};

/// Serves a raw connection. Its address or its ClientHello says which host it is for. `waited` is
/// set for a connection that was held before, in another process.
pub(super) async fn serve(side: &mut ClientSide, speaks: Protocol, waited: Option<Box<Waited>>) {
    // Each is boxed: the code that leads to a tunnel, and away from it, should take no room while
    // the tunnel is open, perhaps for days.
    if let Some(RawLease { lease, timeout }) = Box::pin(lead(side, speaks, waited)).await {
        let next = Box::pin(tunnel::relay(side, &lease, timeout)).await;
        side.shard.give_permit_back(side.ticket);
        Box::pin(closing::end(side, next)).await;
        side.finish();
    }
}

/// A raw connection that has its backend.
struct RawLease {
    lease: Lease,
    /// Time for which both sides may be silent, if the rule says so.
    timeout: Option<Duration>,
}

/// Brings a connection to the point where nothing is left but to relay; `None`: it has ended
/// before.
async fn lead(
    side: &mut ClientSide,
    speaks: Protocol,
    waited: Option<Box<Waited>>,
) -> Option<RawLease> {
    let no_lease = match find_lease(side, &speaks, waited).await {
        Ok(led) if tunnel::begin(side, &led.lease, None, led.timeout).await => return Some(led),
        Ok(_) => NoLease::Next(Next::ResetOnceTaken),
        Err(no_lease) => no_lease,
    };
    let next = match no_lease {
        NoLease::Next(next) => next,
        NoLease::Alert(alert) if speaks == Protocol::Tls => {
            let mut record = side.shard.ring.take_vec();
            record.extend_from_slice(&alert.record());
            side.shard.count_sent(side.ticket, record.len());
            side.stream.begin_send(SendBuf::Vec(record));
            Next::Linger
        }
        NoLease::Alert(_) | NoLease::Hold(_) => Next::Close,
    };
    side.front = Front { head: side.inbox.bytes().len() as u32, body: 0 };
    side.shard.give_permit_back(side.ticket);
    closing::end(side, next).await;
    side.finish();
    None
}

/// Outcome of an attempt that brought no connection to a backend.
enum NoLease {
    /// The client is sent nothing, and this follows.
    Next(Next),
    /// The client is sent an alert, if it speaks TLS.
    Alert(Alert),
    /// The connection has to wait.
    Hold(Hold),
}

/// Finds out which host a connection is for; empty if the client does not say.
async fn name(side: &mut ClientSide, speaks: &Protocol) -> Result<Arc<str>, NoLease> {
    match speaks {
        Protocol::Tcp(host) => Ok(host.clone()),
        _ => Ok(hello(side).await?.unwrap_or_default().into()),
    }
}

fn end_with_alert(side: &ClientSide, ending: Ending, alert: Alert) -> NoLease {
    side.note_end(ending);
    NoLease::Alert(alert)
}

/// Receives the ClientHello; returns the name in it in canonical form, if it has one.
async fn hello(side: &mut ClientSide) -> Result<Option<String>, NoLease> {
    let longest = side.shard.tuning().head_bytes_max;
    side.deadline.set(side.shard.timeouts().http_request);
    let mut needed = 1;
    loop {
        while side.inbox.bytes().len() < needed {
            let buf = match side.more(Idleness::Begun).await {
                BytesEvent::Bytes(buf) => buf,
                BytesEvent::Moving => {
                    let next = Box::pin(side.hand_over(Protocol::Tls, None)).await;
                    return Err(NoLease::Next(next));
                }
                BytesEvent::TimedOut | BytesEvent::Ended => return Err(NoLease::Next(Next::Close)),
            };
            side.inbox.push(&side.shard.ring, buf);
            side.inbox.gather(&side.shard.ring);
        }
        match tls::client_hello(side.inbox.bytes(), longest) {
            Seen::More(more) => needed = more,
            Seen::Wrong(_) => return Err(NoLease::Alert(Alert::DecodeError)),
            Seen::Hello(None) => return Ok(None),
            Seen::Hello(Some(name)) => {
                // A server name may hold neither a port nor an address (RFC 6066 §3).
                let is_name = !name.iter().any(|byte| matches!(byte, b':' | b'['));
                let mut room = [0; 256];
                let name = host::canonical(&name, &mut room).ok().filter(|_| is_name);
                return Ok(name.map(str::to_owned));
            }
        }
    }
}

/// Opens a connection to a backend of the host as soon as its rule allows one.
async fn find_lease(
    side: &mut ClientSide,
    speaks: &Protocol,
    mut waited: Option<Box<Waited>>,
) -> Result<RawLease, NoLease> {
    let host = Box::pin(name(side, speaks)).await?;
    let scheme = if *speaks == Protocol::Tls { Scheme::Tls } else { Scheme::Tcp };
    loop {
        let hold = match attempt(side, (&host, scheme), &mut waited).await {
            Err(NoLease::Hold(hold)) => hold,
            result => return result,
        };
        match hold::hold(side, hold, &mut waited).await {
            HoldOutcome::Released => {}
            HoldOutcome::Moving => {
                side.withdraw();
                let since = waited.map(|waited| waited.since);
                return Err(NoLease::Next(Box::pin(side.hand_over(speaks.clone(), since)).await));
            }
            HoldOutcome::Ended(ending) => return Err(without_backend(side, ending)),
        }
    }
}

fn without_backend(side: &ClientSide, ending: Ending) -> NoLease {
    if ending == Ending::ClientGone {
        side.note_end(ending);
        return NoLease::Next(Next::Close);
    }
    end_with_alert(side, ending, Alert::InternalError)
}

/// Decides on a connection by the rule of its host, and counts it; returns a rule with backends.
fn decide<'t>(
    side: &mut ClientSide,
    table: &'t Table,
    (host, scheme): (&str, Scheme),
    waited: Option<&Waited>,
) -> Result<&'t Proxy, NoLease> {
    let shard = &side.shard;
    let name = (!host.is_empty()).then_some(host);
    let rule = route::find(shard, table, name, scheme);
    shard.count_under(&mut side.ticket, rule.keys, || shard.record_raw(name, scheme, side.client));
    let whose = (host, side.client.peer);
    let (ending, alert) = match route::decide(shard, table, &rule, whose, waited) {
        Route::Proxy(proxy) => return Ok(proxy),
        Route::Hold(why, timeout) => {
            return Err(NoLease::Hold(Hold { why, host: host.into(), scheme, timeout }));
        }
        Route::Denied => (Ending::AccessDenied, Alert::AccessDenied),
        Route::Limited(spent) => (spent.ending(), Alert::InternalError),
        Route::Reply(Action::Unknown | Action::NoHosts) => {
            (Ending::NoRule, Alert::UnrecognizedName)
        }
        Route::Reply(_) => (Ending::NoRule, Alert::AccessDenied),
    };
    Err(end_with_alert(side, ending, alert))
}

async fn attempt(
    side: &mut ClientSide,
    (host, scheme): (&str, Scheme),
    waited: &mut Option<Box<Waited>>,
) -> Result<RawLease, NoLease> {
    let table = side.shard.table();
    let proxy = decide(side, &table, (host, scheme), waited.as_deref())?;
    let shard = &side.shard;
    let connect = timeout_connect(shard, proxy);
    let patience = Waited::patience(waited.as_deref(), shard.ring.now(), connect);
    let asking = Asking {
        proxy,
        client: side.client,
        ticket: side.ticket,
        fresh: true,
        repeatable: false,
        raw: true,
        patience,
        // A half-close is legitimate here: the client may still be waiting for data.
        ends: EndCounts::Never,
    };
    if let Some(limit) = proxy.max_open_requests() {
        let entered = Box::pin(open_requests::enter(side.waiter(), limit, asking)).await;
        entered.map_err(|ending| without_backend(side, ending))?;
    }
    match acquire(side.waiter(), asking, None).await {
        Ok(lease) => Ok(RawLease { lease, timeout: proxy.timeout_tunnel() }),
        Err(ending @ (Ending::NoBackend(_) | Ending::NoConnection)) if !proxy.hold().is_zero() => {
            side.shard.chose_none(side.ticket);
            Waited::note(waited, side.shard.ring.now(), 0);
            let (why, timeout) = (hold_reason(proxy, ending), proxy.hold());
            Err(NoLease::Hold(Hold { why, host: host.into(), scheme, timeout }))
        }
        Err(ending) => Err(without_backend(side, ending)),
    }
}
