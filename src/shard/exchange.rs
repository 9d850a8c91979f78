//! One request and its answer through one backend.
//!
//! The two directions are independent: while a body is still going up, the answer may come, and may
//! end, first. A request without a body takes the straight road, and only there a second attempt is
//! possible: when a connection from the pool turns out dead before a byte of the answer came, and the
//! request may be repeated (RFC 9110 §9.2.2).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::Shard;
use super::backend::{Asking, NoBackend, acquire};
use super::body::{Body, Both, Broken, Relay};
use super::connection::{Connection, Next};
use super::hold::Waited;
use super::inbox::Inbox;
use super::plan::{Request, closes};
use super::pool::Lease;
use super::record::Cause;
use super::response::{Answer, AnswerProgress, Answered, Failed};
use super::tally::Meter;
use super::tunnel;
use crate::http::{self, Refusal, RequestFraming};
use crate::limits;
use crate::link::{Counter, Failure};
use crate::ring::{Deadline, EndCounts, SendBuf, Stream};
use crate::table::Proxy;

/// The backend's side of an exchange. Lives in the connection's `act` and is lent to each stage:
/// moved from future to future it would be there once per move, in every idle connection.
#[derive(Default)]
pub(super) struct Side {
    lease: Option<Lease>,
    inbox: Inbox,
    /// The request as it came, of a rule that may have it wait for a backend.
    pub(super) kept: Vec<u8>,
}

impl Side {
    /// Gives up a connection that turned out dead, and takes back the request that was sent on it.
    async fn take_back(&mut self, connection: &Connection) -> Option<Vec<u8>> {
        // Its place goes back before another is asked for: there may be only one.
        let lease = self.lease.take()?;
        let server = connection.shard.timeouts().server;
        connection.deadline.set(server);
        // On a dead connection this ends at once, one way or the other.
        let _ = lease.stream.sent(&connection.deadline, server).await;
        self.inbox.consume(&connection.shard.ring, self.inbox.bytes().len());
        lease.stream.take_sent()
    }
}

/// An exchange that needs its rule no longer: the snapshot can go before the bytes flow.
pub(super) enum Started {
    /// The request is out and a head of so many bytes came back.
    Answering(usize),
    /// There is a connection; this head and the body are still to be sent.
    Uploading(Vec<u8>),
}

/// An exchange that did not come about.
pub(super) enum Halt {
    /// The client has been told; this follows.
    Told(Next),
    /// No backend can be reached, and the rule says to wait for one. [`Side::kept`] is the request.
    NoBackend {
        /// How often it was sent, on connections that ended without a byte of an answer.
        silences: u8,
    },
}

impl From<Next> for Halt {
    fn from(next: Next) -> Halt {
        Halt::Told(next)
    }
}

/// Finds a backend of `proxy` for a request; one without a body is sent and its answer awaited.
/// `waited` is set for a request that was held before.
pub(super) async fn start(
    connection: &mut Connection,
    side: &mut Side,
    proxy: &Proxy,
    request: &mut Request,
    mut head: Vec<u8>,
    waited: Option<&Waited>,
) -> Result<Started, Halt> {
    let shard = connection.shard.clone();
    let may_wait = !proxy.hold().is_zero();
    let forwarded = head.len();
    if let Err(refusal) = carry_body(connection, request, &mut head) {
        shard.ring.give_vec(head);
        return Err(connection.refuse(refusal).await.into());
    }
    if may_wait {
        side.kept.extend_from_slice(&head[forwarded..]);
    }
    let (uploaded, shown) = (Cell::new(true), Cell::default());
    let both = Both::new(&shard.ring, ends_before(connection, request));
    let repeatable = request.framing == RequestFraming::None && request.method.is_idempotent();
    let mut own = connection.take_own(proxy);
    let silences = waited.map_or(0, |waited| waited.silences);
    let mut again = 0;
    loop {
        let asking = Asking {
            proxy,
            client: connection.client,
            tally: connection.tally,
            // Idle connections may be as dead as the one that it was sent on before.
            fresh: 0 < silences + again,
            repeatable,
            raw: false,
            patience: Waited::patience(waited, shard.ring.now(), shard.timeouts().connect),
            ends: both.ends.get(),
        };
        let mut lease = match acquire(&shard, asking, &connection.stream, own.take()).await {
            Ok(lease) => lease,
            Err(none) => {
                shard.ring.give_vec(head);
                if matches!(none, NoBackend::Unreachable | NoBackend::Local) && may_wait {
                    return Err(Halt::NoBackend { silences: again });
                }
                return Err(no_backend(connection, request, none).await.into());
            }
        };
        lease.is_own |= request.authenticates;
        if request.framing != RequestFraming::None {
            side.lease = Some(lease);
            return Ok(Started::Uploading(head));
        }
        // Kept: it is needed again if this connection is dead, and else becomes the answer's buffer.
        lease.stream.start_send(SendBuf::Vec(head), true);
        shard.note_sent(connection.tally);
        // So that a client that resets while we wait is noticed.
        connection.stream.arm();
        let lease = &*side.lease.insert(lease);
        let answer = Answer {
            shard: &shard,
            client: &connection.stream,
            backend: &lease.stream,
            deadline: &connection.deadline,
            request,
            tally: connection.tally,
            uploaded: &uploaded,
            upload_broke: &Cell::new(false),
            shown: &shown,
            both: &both,
        };
        match answer.head(&mut side.inbox).await {
            Ok(len) => return Ok(Started::Answering(len)),
            Err(Failed::NoAnswer | Failed::Stray) if lease.reused && repeatable => {
                shard.count(Counter::Retries);
                let Some(kept) = Box::pin(side.take_back(connection)).await else {
                    return Err(failed(connection, request, Failed::NoAnswer, true).await.into());
                };
                head = kept;
                again += 1;
            }
            Err(why) => {
                note_silence(&shard, lease, why);
                if may_wait && is_sent_again(why, request, silences + again) {
                    side.lease = None;
                    return Err(Halt::NoBackend { silences: again + 1 });
                }
                return Err(failed(connection, request, why, true).await.into());
            }
        }
    }
}

/// Whether a request of a rule with `hold` that was sent so often waits to be sent again. A request that
/// a backend leaves in its accept queue when it ends is reset, and never was read.
fn is_sent_again(why: Failed, request: &Request, silences: u8) -> bool {
    why == Failed::NoAnswer && silences < limits::SILENCES_MAX && request.method.is_idempotent()
}

/// A request whose body is here already, whole and small, becomes one without: it goes out in one piece,
/// and may again.
fn carry_body(
    connection: &mut Connection,
    request: &mut Request,
    head: &mut Vec<u8>,
) -> Result<(), Refusal> {
    if request.framing != RequestFraming::None && join_whole(connection, request, head)? {
        request.framing = RequestFraming::None;
    }
    Ok(())
}

/// Appends a body to its head that is here already, whole and small. `false`: it is not.
fn join_whole(
    connection: &mut Connection,
    request: &Request,
    head: &mut Vec<u8>,
) -> Result<bool, Refusal> {
    let bytes = connection.inbox.bytes();
    let mut body = Body::of_request(request.framing, request.trailers);
    let whole = match &body {
        Body::Length(n) => *n <= bytes.len() as u64,
        // A wrong chunk that is here already: then no byte of the request has gone out yet.
        _ => {
            let mut trial = body.clone();
            trial.skim(bytes)?;
            trial.is_done()
        }
    };
    if whole {
        join(connection, &mut body, head)?;
    }
    Ok(body.is_done())
}

/// Appends what is here of a body to its head.
fn join(connection: &mut Connection, body: &mut Body, head: &mut Vec<u8>) -> Result<(), Refusal> {
    let before = connection.inbox.bytes().len();
    body.join(&connection.shard.ring, &mut connection.inbox, head)?;
    let joined = before - connection.inbox.bytes().len();
    connection.shard.count_received(connection.tally, joined);
    Ok(())
}

/// Brings a started exchange to its end.
pub(super) async fn finish(
    connection: &mut Connection,
    side: &mut Side,
    request: &Request,
    started: Started,
) -> Next {
    let len = match started {
        Started::Answering(len) => len,
        // Boxed: rare, and large beside everything else a connection can be doing.
        Started::Uploading(head) => {
            return Box::pin(with_body(connection, side, request, head)).await;
        }
    };
    let Some(lease) = &side.lease else { return Next::Reset };
    let answered = Answer {
        shard: &connection.shard,
        client: &connection.stream,
        backend: &lease.stream,
        deadline: &connection.deadline,
        request,
        tally: connection.tally,
        uploaded: &Cell::new(true),
        upload_broke: &Cell::new(false),
        shown: &Cell::default(),
        both: &Both::new(&connection.shard.ring, connection.end_counts()),
    }
    .pass_on(len, &mut side.inbox)
    .await;
    settle(connection, side, request, answered, true).await
}

/// What follows an answer, or the want of one.
async fn settle(
    connection: &mut Connection,
    side: &mut Side,
    request: &Request,
    answered: Result<Answered, Failed>,
    uploaded: bool,
) -> Next {
    match answered {
        Ok(answered) => {
            let Some(mut lease) = side.lease.take() else { return Next::Reset };
            connection.shard.note_answer(lease.address());
            if answered.tunnel {
                let first = side.inbox.take();
                return Box::pin(tunnel::run(connection, &lease, first)).await;
            }
            if uploaded && !lease.stream.is_sent() {
                Box::pin(send_rest(connection, &lease, answered)).await;
            }
            lease.is_own |= answered.keeping.authenticates;
            lease.keeping = answered.keeping;
            keep(connection, lease, answered, uploaded)
        }
        Err(why) => {
            // One that sees only a part of the request may well have nothing to say.
            if let (Some(lease), true) = (&side.lease, uploaded) {
                note_silence(&connection.shard, lease, why);
            }
            failed(connection, request, why, uploaded).await
        }
    }
}

/// A backend that takes a new connection and ends it without a word has failed.
fn note_silence(shard: &Shard, lease: &Lease, why: Failed) {
    if why == Failed::NoAnswer && lease.watched {
        shard.note_failure(lease.address(), Failure::Silent);
    }
}

/// Sends head and body while waiting for the answer.
async fn with_body(
    connection: &mut Connection,
    side: &mut Side,
    request: &Request,
    mut head: Vec<u8>,
) -> Next {
    let shard = connection.shard.clone();
    let Some(lease) = &side.lease else { return Next::Reset };
    let mut body = Body::of_request(request.framing, request.trailers);
    // What is here already travels with its head.
    if let Err(refusal) = join(connection, &mut body, &mut head) {
        shard.ring.give_vec(head);
        return connection.refuse(refusal).await;
    }
    let uploaded = Cell::new(body.is_done());
    lease.stream.start_send(SendBuf::Vec(head), true);
    let inbox = &mut side.inbox;
    let (shown, upload_broke) = (Cell::default(), Cell::new(false));
    let tally = connection.tally;
    let ends = if uploaded.get() { connection.end_counts() } else { shard.end_counts(true) };
    let both_ways = Both::new(&shard.ring, ends);
    let ended = {
        let Connection { stream, inbox: client_inbox, deadline, .. } = &mut *connection;
        if uploaded.get() {
            stream.arm();
        }
        let upload_deadline = Deadline::new(&shard.ring);
        let relay = Relay {
            ring: &shard.ring,
            source: stream,
            target: &lease.stream,
            deadline: &upload_deadline,
            source_pace: shard.timeouts().client,
            target_pace: shard.timeouts().server,
            meter: Meter { shard: &shard, tally, received: true },
            both: &both_ways,
        };
        let answer = Answer {
            shard: &shard,
            client: stream,
            backend: &lease.stream,
            deadline,
            request,
            tally,
            uploaded: &uploaded,
            upload_broke: &upload_broke,
            shown: &shown,
            both: &both_ways,
        };
        let upload = async {
            relay.run(None, client_inbox, &mut body).await?;
            uploaded.set(true);
            both_ways.ends.set(end_counts(&shard, client_inbox));
            shard.note_sent(tally);
            stream.arm();
            if shown.get() == AnswerProgress::Nothing {
                deadline.set(shard.timeouts().server);
            }
            Ok(())
        };
        let drop_body =
            |cx: &Context<'_>| drop_body(stream, cx, || both_ways.note_moved(&shard.ring));
        let download = async {
            let len = answer.head(inbox).await?;
            answer.pass_on(len, inbox).await
        };
        both(
            pin!(upload),
            pin!(download),
            || {
                // What the backend does not take it need not: it may have answered already. But it has
                // to, in its time.
                upload_broke.set(true);
                if shown.get() == AnswerProgress::Nothing {
                    deadline.set(shard.timeouts().server);
                }
            },
            drop_body,
        )
        .await
    };
    after_upload(connection, side, request, (ended, uploaded.get(), shown.get())).await
}

/// Follows an exchange with a body to its end.
async fn after_upload(
    connection: &mut Connection,
    side: &mut Side,
    request: &Request,
    (ended, uploaded, shown): (Ended, bool, AnswerProgress),
) -> Next {
    if let Some(broken) = &ended.broken {
        connection.shard.note_end(connection.tally, upload_cause(broken));
    }
    // The backend sees a message that was cut off: its connection goes with `lease`. A client whose answer has
    // begun sees that cut off, too.
    match (ended.answered, ended.broken) {
        (Some(answered), _) => settle(connection, side, request, answered, uploaded).await,
        (None, Some(_)) if shown == AnswerProgress::Framed => Next::Linger,
        (None, Some(_)) if shown == AnswerProgress::Unframed => Next::ResetOnceTaken,
        (None, Some(Broken::SourceTimeout)) => connection.refuse(Refusal::BodyTimeout).await,
        (None, Some(Broken::Framing(refusal))) => connection.refuse(refusal).await,
        (None, _) => Next::Cut,
    }
}

/// Why an upload ended early, for the access log.
fn upload_cause(broken: &Broken) -> Cause {
    match broken {
        Broken::SourceTimeout => Cause::ClientTimeout,
        Broken::Framing(refusal) => Cause::Refused(*refusal),
        Broken::Source | Broken::Target => Cause::ClientGone,
    }
}

/// What follows an answer that does not go on.
fn cut(hidden: bool) -> Next {
    if hidden { Next::Reset } else { Next::Cut }
}

struct Ended {
    answered: Option<Result<Answered, Failed>>,
    /// The client's side of the upload broke.
    broken: Option<Broken>,
}

/// Runs both directions until they are through or the client's part of the upload broke. When the backend takes
/// no more of it, the answer may still come; when the answer was first, the backend gets the rest all the same,
/// as with HAProxy, unless it wants the connection closed.
async fn both(
    mut upload: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    mut download: Pin<&mut impl Future<Output = Result<Answered, Failed>>>,
    on_backend_closed: impl Fn(),
    drop_body: impl Fn(&Context<'_>),
) -> Ended {
    let (mut uploading, mut is_dropping) = (true, false);
    let mut answered = None;
    poll_fn(move |cx| {
        if uploading && let Poll::Ready(result) = upload.as_mut().poll(cx) {
            uploading = false;
            match result {
                Ok(()) => {}
                Err(Broken::Target) => {
                    is_dropping = true;
                    on_backend_closed();
                }
                Err(broken) => {
                    return Poll::Ready(Ended { answered: answered.take(), broken: Some(broken) });
                }
            }
        }
        if is_dropping {
            drop_body(cx);
        }
        if answered.is_none() {
            let Poll::Ready(result) = download.as_mut().poll(cx) else { return Poll::Pending };
            answered = Some(result);
        }
        match answered {
            Some(Ok(Answered { backend_lives: true, .. })) if uploading => Poll::Pending,
            _ => Poll::Ready(Ended { answered: answered.take(), broken: None }),
        }
    })
    .await
}

/// The answer was first: the rest of the request is still on its way, and lost if the connection is
/// given up or lent now. A backend that closes is not waited for as long.
async fn send_rest(connection: &Connection, lease: &Lease, answered: Answered) {
    let pace = match answered.backend_lives {
        true => connection.shard.timeouts().server,
        false => limits::LINGER_SILENCE,
    };
    // Where it failed, the connection is not kept.
    let _ = lease.stream.sent(&connection.deadline, pace).await;
}

/// The answer is through: keeps what can be kept.
fn keep(connection: &mut Connection, lease: Lease, answered: Answered, uploaded: bool) -> Next {
    match answered.backend_lives && uploaded {
        true if !lease.is_own => connection.shard.pool.give(&connection.shard, lease),
        true if answered.client_lives => connection.keep_own(lease),
        // Given up.
        _ => drop(lease),
    }
    match (answered.client_lives, uploaded) {
        (true, true) => Next::KeepAlive,
        _ => Next::Linger,
    }
}

/// Which end of a client counts as leaving before its request goes out.
fn ends_before(connection: &Connection, request: &Request) -> EndCounts {
    match request.framing {
        RequestFraming::None => connection.end_counts(),
        _ => connection.shard.end_counts(true),
    }
}

/// Drops what a client sends of a body that its backend no longer takes: one that writes all of it before it reads
/// would else wait for us, and we for it.
fn drop_body(stream: &Stream, cx: &Context<'_>, moved: impl Fn()) {
    while let Poll::Ready(Ok(buf)) = stream.poll_recv(cx)
        && !buf.is_empty()
    {
        moved();
    }
}

/// Which end of a client counts as leaving while it waits for its answer: none behind requests that wait their turn.
pub(super) fn end_counts(shard: &Shard, behind: &Inbox) -> EndCounts {
    if behind.is_empty() { shard.end_counts(false) } else { EndCounts::Never }
}

async fn no_backend(connection: &mut Connection, request: &Request, why: NoBackend) -> Next {
    connection.shard.note_end(connection.tally, why.cause());
    match why {
        NoBackend::ClientGone => return Next::Close,
        NoBackend::Unreachable | NoBackend::Loop | NoBackend::Queue | NoBackend::Local => {}
    }
    let status = match why {
        NoBackend::Unreachable | NoBackend::Loop => 502,
        _ => 503,
    };
    let close = closes(request);
    let answer = status_answer(connection, request, status, close);
    // Nothing of the body has been read: that is left to `reply`.
    connection.reply(request, answer, close).await
}

/// Tells the client, where that is still possible, that there is no answer or only a part of one.
async fn failed(
    connection: &mut Connection,
    request: &Request,
    why: Failed,
    uploaded: bool,
) -> Next {
    connection.shard.note_end(connection.tally, why.cause());
    let status = match why {
        Failed::NoAnswer | Failed::Stray | Failed::BadAnswer => 502,
        Failed::TimedOut => 504,
        // The framing shows it. Bytes of the client that nobody read must not make it a reset after
        // all: that would take away what the client has not read.
        Failed::Cut { hidden: false } => return Next::Linger,
        Failed::Cut { hidden: true } => return Next::ResetOnceTaken,
        Failed::ClientGone { hidden } => return cut(hidden),
    };
    let close = !request.keep_alive || !uploaded;
    let answer = status_answer(connection, request, status, close);
    match connection.send(answer).await {
        Err(_) => Next::Cut,
        Ok(()) if !close => Next::KeepAlive,
        Ok(()) => Next::Linger,
    }
}

/// An answer of ours in place of the backend's.
fn status_answer(connection: &Connection, request: &Request, status: u16, close: bool) -> Vec<u8> {
    let mut out = connection.shard.ring.take_vec();
    let to = request.reply_to(close, connection.shard.date());
    match connection.shard.published().pages.load().for_status(status) {
        Some(page) => http::write_page(page, None, to, &mut out),
        None => http::write_status(status, to, &mut out),
    }
    out
}
