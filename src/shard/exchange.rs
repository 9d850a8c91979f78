//! One request and its response through one backend. The verdict goes to `connection`, which
//! replies in a backend's place, holds the request, or opens a tunnel.
//!
//! The two directions are independent: the response may come, and may even end, while a request
//! body is still being sent. A request without a body takes a simpler path. Only there is a second
//! attempt possible: when a connection from the pool turns out to be dead before a byte of the
//! response has come, and the request may be repeated (RFC 9110 §9.2.2).

use super::backend::{Asking, acquire, hold_reason, timeout_connect};
use super::body::Body;
use super::client::ClientSide;
use super::ending::Ending;
use super::heads;
use super::hold::Waited;
use super::inbox::Inbox;
use super::open_requests;
use super::phase::Phase;
use super::pool::{Lease, OwnConnection};
use super::request::{Next, Request};
use super::response::{Answer, AnswerProgress, Answered, Failed, Progress};
use super::upload::{self, ResponseEnd};
use crate::http::{Refusal, RequestFraming};
use crate::limits;
use crate::link::{Counter, HoldReason};
use crate::ring::EndCounts;
use crate::table::Proxy;

/// The backend's side of an exchange. It lives in the connection's `attempt` and is lent to each
/// stage. If it were moved from future to future, every idle connection would hold room for one
/// copy per move.
#[derive(Default)]
pub(super) struct BackendSide {
    pub(super) lease: Option<Lease>,
    pub(super) inbox: Inbox,
    /// The client's own connection to one of the rule's backends.
    pub(super) own: Option<Box<OwnConnection>>,
}

impl BackendSide {
    /// Gives up a connection that turned out dead, and takes back the request that was sent on it.
    async fn take_back(&mut self, side: &ClientSide, request: &Request) -> Option<Vec<u8>> {
        // The lease gives its permit back before another permit is asked for: there may be only
        // one.
        let lease = self.lease.take()?;
        let server = request.timeout_server(side.shard.timeouts());
        side.deadline.set(server);
        // A send on a dead connection ends at once, with success or with an error.
        let _ = lease.stream.sent(&side.deadline, server).await;
        self.inbox.consume(&side.shard.ring, self.inbox.bytes().len());
        lease.stream.take_sent()
    }
}

/// An exchange that no longer needs its rule: the snapshot can be released before the bytes flow.
pub(super) enum Started {
    /// The request has been sent, and a response head of this many bytes has come.
    Answering(usize),
    /// A connection is open; this head and the body are still to be sent.
    Uploading(Vec<u8>),
}

/// Verdict on an exchange.
pub(super) enum Outcome {
    /// The exchange is over, and this follows.
    Next(Next),
    /// The next request may come. The lease is the client's own: the client is logged in on it.
    LoggedIn,
    /// The lease carries a tunnel; the backend's inbox may hold bytes of it.
    Tunnel,
    /// The request breaks a rule; none of its response has gone to the client.
    Refuse(Refusal),
    /// A reply takes the place of the response. The request says how much of its body is left to
    /// read.
    Fail(Ending),
    /// No backend can be reached, and the rule says to wait for one. The request is at the front of
    /// the inbox.
    Hold {
        why: HoldReason,
        /// How often the request was sent, on connections that ended without a byte of a response.
        silences: u8,
    },
}

/// Finds a backend of `proxy` for a request. A request without a body is also sent, and its
/// response is awaited. The request's bytes at the front of the inbox are taken once a backend has
/// the request; if the request may be held, once a response head has come. `waited` is set for a
/// request that was held before.
pub(super) async fn start(
    side: &mut ClientSide,
    backend: &mut BackendSide,
    (proxy, waited): (&Proxy, Option<&Waited>),
    request: &mut Request,
    mut head: Vec<u8>,
) -> Result<Started, Outcome> {
    if let Err(refusal) = carry_body(side, request, &mut head) {
        side.shard.ring.give_vec(head);
        return Err(Outcome::Refuse(refusal));
    }
    if let Some(limit) = proxy.max_open_requests() {
        let asking = asking(side, (proxy, waited), request, 0);
        // Boxed: a connection that waits for its next request should not carry this path's state.
        let entered = Box::pin(open_requests::enter(side.waiter(), limit, asking));
        if let Err(ending) = entered.await {
            return Err(without_backend(side, proxy, (ending, 0), head));
        }
    }
    let progress = Progress::new(&side.shard.ring, true, ends_before(side, request));
    let mut again = 0;
    loop {
        let asking = asking(side, (proxy, waited), request, again);
        let own = backend.own.take();
        let mut lease = match acquire(side.waiter(), asking, own).await {
            Ok(lease) => lease,
            Err(ending) => return Err(without_backend(side, proxy, (ending, again), head)),
        };
        lease.is_own |= request.authenticates;
        heads::name_backend(&side.shard, proxy, request, &lease, &mut head);
        let lease = &*backend.lease.insert(lease);
        if request.framing != RequestFraming::None {
            side.take_front();
            return Ok(Started::Uploading(head));
        }
        if proxy.hold().is_zero() {
            side.take_front();
        }
        send(side, lease, head);
        let answer = Answer::new(side, lease, request, &progress);
        let failed = match answer.head(&mut backend.inbox).await {
            Ok(len) => {
                side.take_front();
                return Ok(Started::Answering(len));
            }
            Err(failed) => failed,
        };
        if !(failed.is_dead_connection() && lease.reused && is_repeatable(request)) {
            note_silence(side, lease, failed);
            return Err(without_response(side, (proxy, waited), request, failed, again));
        }
        side.shard.count(Counter::Retries);
        let Some(kept) = Box::pin(backend.take_back(side, request)).await else {
            return Err(failure(side, request, Ending::BackendSilent.into(), true));
        };
        head = kept;
        again += 1;
    }
}

/// Sends a request that has no body, and watches its client from then on.
fn send(side: &mut ClientSide, lease: &Lease, head: Vec<u8>) {
    // Bytes behind the request have to wait, and must not keep a buffer from others while they do.
    side.inbox.gather(&side.shard.ring);
    side.phase.set(Phase::AwaitingResponse);
    // The head is kept: it is sent again if this connection is dead. Otherwise its memory becomes
    // the buffer of the response.
    match lease.is_known {
        true => lease.stream.begin_send_kept(head),
        false => lease.stream.begin_send_if_quiet(head),
    }
    side.shard.note_sent(side.ticket);
    // The receive notices a client that resets while we wait.
    side.stream.note_small();
    side.stream.arm();
}

/// Says what follows when a backend that was sent the request ended the connection without a
/// response. Connections in the accept queue of a backend that stops are reset, and their requests
/// were never read: such a request may be held.
fn without_response(
    side: &ClientSide,
    (proxy, waited): (&Proxy, Option<&Waited>),
    request: &mut Request,
    failed: Failed,
    again: u8,
) -> Outcome {
    let silences = waited.map_or(0, |waited| waited.silences) + again;
    if failed.ending == Ending::BackendSilent
        && !proxy.hold().is_zero()
        && silences < limits::SILENCES_MAX
        && request.method.is_idempotent()
    {
        return Outcome::Hold { why: HoldReason::Unserved, silences: again + 1 };
    }
    failure(side, request, failed, true)
}

fn asking<'a>(
    side: &ClientSide,
    (proxy, waited): (&'a Proxy, Option<&Waited>),
    request: &Request,
    again: u8,
) -> Asking<'a> {
    let shard = &side.shard;
    Asking {
        proxy,
        client: side.client,
        ticket: side.ticket,
        // Other idle connections may be as dead as the one on which the request was sent before.
        fresh: 0 < waited.map_or(0, |waited| waited.silences) + again,
        repeatable: is_repeatable(request),
        raw: false,
        patience: Waited::patience(waited, shard.ring.now(), timeout_connect(shard, proxy)),
        ends: ends_before(side, request),
    }
}

fn is_repeatable(request: &Request) -> bool {
    request.framing == RequestFraming::None && request.method.is_idempotent()
}

/// Says what follows when no backend was found for a request. Gives back the memory of `head`.
fn without_backend(
    side: &ClientSide,
    proxy: &Proxy,
    (ending, silences): (Ending, u8),
    head: Vec<u8>,
) -> Outcome {
    side.shard.ring.give_vec(head);
    match ending {
        Ending::ClientGone => {
            side.note_end(ending);
            Outcome::Next(Next::Close)
        }
        Ending::NoBackend(_) | Ending::NoConnection if !proxy.hold().is_zero() => {
            Outcome::Hold { why: hold_reason(proxy, ending), silences }
        }
        // Nothing of the request body has been read: the reply takes care of that.
        ending => Outcome::Fail(ending),
    }
}

/// Turns a request whose small body has arrived whole into one without a body: head and body are
/// sent in one piece, and can be sent again.
fn carry_body(
    side: &mut ClientSide,
    request: &mut Request,
    head: &mut Vec<u8>,
) -> Result<(), Refusal> {
    if request.framing == RequestFraming::None {
        return Ok(());
    }
    let behind = &side.inbox.bytes()[side.front.head as usize..];
    if let Some(length) = Body::of_request(request).copy_whole(behind, head)? {
        side.front.body = length as u32;
        request.framing = RequestFraming::None;
    }
    Ok(())
}

/// Passes on the response whose head of `len` bytes has come.
pub(super) async fn respond(
    side: &mut ClientSide,
    backend: &mut BackendSide,
    request: &mut Request,
    len: usize,
) -> Outcome {
    let Some(lease) = &backend.lease else { return Outcome::Next(Next::Reset) };
    let progress = Progress::new(&side.shard.ring, true, side.end_counts());
    let answer = Answer::new(side, lease, request, &progress);
    let answered = answer.pass_on(len, &mut backend.inbox).await;
    settle(side, backend, request, answered, true).await
}

/// Sends head and body while waiting for the response.
pub(super) async fn upload(
    side: &mut ClientSide,
    backend: &mut BackendSide,
    request: &mut Request,
    head: Vec<u8>,
) -> Outcome {
    let Some(lease) = &backend.lease else { return Outcome::Next(Next::Reset) };
    let ended = match upload::run(side, lease, &mut backend.inbox, request, head).await {
        Ok(ended) => ended,
        Err(refusal) => return Outcome::Refuse(refusal),
    };
    let broken = ended.broken.map(|broken| broken.of_upload());
    if let Some(ending) = broken {
        side.note_end(ending);
    }
    let shown = match ended.response {
        ResponseEnd::Over(answered) => {
            return settle(side, backend, request, answered, ended.is_uploaded).await;
        }
        ResponseEnd::Open(shown) => shown,
    };
    // The backend sees that the request was cut off: its connection is closed with the lease. A
    // client whose response has begun sees that the response is cut off, too.
    match (shown, broken) {
        (AnswerProgress::Framed, _) => Outcome::Next(Next::Linger),
        (AnswerProgress::Unframed, _) => Outcome::Next(Next::ResetOnceTaken),
        (AnswerProgress::Nothing, Some(Ending::ClientTimeout)) => {
            Outcome::Refuse(Refusal::BodyTimeout)
        }
        (AnswerProgress::Nothing, Some(Ending::Refused(refusal))) => Outcome::Refuse(refusal),
        (AnswerProgress::Nothing, _) => Outcome::Next(Next::Cut),
    }
}

/// Says what follows a response, or its absence.
async fn settle(
    side: &mut ClientSide,
    backend: &mut BackendSide,
    request: &mut Request,
    answered: Result<Answered, Failed>,
    uploaded: bool,
) -> Outcome {
    match answered {
        Ok(answered) => {
            let Some(lease) = &mut backend.lease else { return Outcome::Next(Next::Reset) };
            side.shard.note_answer(lease.address(), side.ticket);
            if answered.tunnel {
                return Outcome::Tunnel;
            }
            if uploaded && !lease.stream.is_sent() {
                Box::pin(send_rest(side, lease, request, answered)).await;
            }
            lease.is_own |= answered.keeping.authenticates;
            lease.keeping = answered.keeping;
            keep(side, backend, request, answered, uploaded)
        }
        Err(failed) => {
            // A backend that got only a part of the request may have no reason to respond.
            if let (Some(lease), true) = (&backend.lease, uploaded) {
                note_silence(side, lease, failed);
            }
            failure(side, request, failed, uploaded)
        }
    }
}

/// Notes the failure of a backend that accepts a new connection and ends it without a response. The
/// failure counts for requests of this rule only: the backend may well serve other rules.
fn note_silence(side: &ClientSide, lease: &Lease, failed: Failed) {
    if let Some(how) = failed.ending.failure()
        && lease.watched
    {
        let rule = side.shard.rule_of(side.ticket);
        side.shard.note_failure(lease.address(), Some(rule), how);
    }
}

/// Waits until the request has been sent. The response came while the rest of the request was still
/// on its way, and that rest is lost if the connection is given up or lent now. The wait is shorter
/// for a backend that closes its connection.
async fn send_rest(side: &ClientSide, lease: &Lease, request: &Request, answered: Answered) {
    let pace = match answered.backend_lives {
        true => request.timeout_server(side.shard.timeouts()),
        false => limits::LINGER_SILENCE,
    };
    // If the send fails, the connection is not kept.
    let _ = lease.stream.sent(&side.deadline, pace).await;
}

/// Keeps the connections that can be kept after a response.
fn keep(
    side: &ClientSide,
    backend: &mut BackendSide,
    request: &Request,
    answered: Answered,
    uploaded: bool,
) -> Outcome {
    let is_kept = answered.backend_lives && uploaded;
    if is_kept && answered.client_lives && backend.lease.as_ref().is_some_and(|lease| lease.is_own)
    {
        return Outcome::LoggedIn;
    }
    if let Some(lease) = backend.lease.take()
        && is_kept
        && !lease.is_own
    {
        if answered.is_small {
            lease.stream.note_small();
        }
        side.shard.pool.give(&side.shard, lease);
    }
    Outcome::Next(match (answered.client_lives, uploaded) {
        (true, true) => Next::KeepAlive,
        // A client that said that this is its last request sends no more (RFC 9112 §9.6). A
        // response that left in one send reaches the client even if it does send more. Lingering
        // costs a sixth of such a request.
        (false, true) if answered.is_small && request.is_last_and_read() => Next::Last,
        _ => Next::Linger,
    })
}

/// Says which end of a client's bytes counts as leaving before its request is sent.
fn ends_before(side: &ClientSide, request: &Request) -> EndCounts {
    match request.framing {
        RequestFraming::None => side.end_counts(),
        _ => side.shard.end_counts(true),
    }
}

/// Says what follows when there is no response, or only a part of one.
fn failure(side: &ClientSide, request: &mut Request, failed: Failed, uploaded: bool) -> Outcome {
    side.note_end(failed.ending);
    match (failed.ending, failed.is_hidden) {
        // The framing shows that the response is cut off. Unread bytes of the client would still
        // turn the close into a reset, and a reset takes away what the client has not read yet.
        (Ending::BackendCut(_), false) => Outcome::Next(Next::Linger),
        (Ending::BackendCut(_), true) => Outcome::Next(Next::ResetOnceTaken),
        (Ending::ClientGone, false) => Outcome::Next(Next::Cut),
        (Ending::ClientGone, true) => Outcome::Next(Next::Reset),
        (ending, _) => {
            match uploaded {
                true => request.framing = RequestFraming::None,
                false => request.keep_alive = false,
            }
            Outcome::Fail(ending)
        }
    }
}
