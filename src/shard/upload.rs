//! A request's body on its way to the backend, while the response may come already.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::body::Body;
use super::client::{ClientSide, end_counts};
use super::inbox::Inbox;
use super::phase::Phase;
use super::pool::Lease;
use super::request::Request;
use super::response::{Answer, AnswerProgress, Answered, Failed, Progress};
use super::splice::Broken;
use crate::http::Refusal;
use crate::ring::{Deadline, Stream};

/// Result of both directions.
pub(super) struct Ended {
    pub(super) response: ResponseEnd,
    /// The client's side of the upload broke.
    pub(super) broken: Option<Broken>,
    pub(super) is_uploaded: bool,
}

/// How far the response had come.
pub(super) enum ResponseEnd {
    /// The client has it, or gets none.
    Over(Result<Answered, Failed>),
    /// The client's side of the upload broke before; the client has seen so much.
    Open(AnswerProgress),
}

/// Sends head and body to a backend while waiting for its response. `Err`: the body breaks a rule
/// before any of the request went out.
pub(super) async fn run(
    side: &mut ClientSide,
    lease: &Lease,
    inbox: &mut Inbox,
    request: &Request,
    head: Vec<u8>,
) -> Result<Ended, Refusal> {
    let mut body = send_head(side, lease, request, head)?;
    let ends = if body.is_done() { side.end_counts() } else { side.shard.end_counts(true) };
    // Lent to the body alone: all else of the client's side serves both ways.
    let mut client_inbox = std::mem::take(&mut side.inbox);
    let ClientSide { shard, stream, phase, deadline, ticket, .. } = &*side;
    let progress = Progress::new(&shard.ring, body.is_done(), ends);
    let Progress { uploaded, shown, both, .. } = &progress;
    if uploaded.get() {
        stream.arm();
    }
    let answer = Answer::new(side, lease, request, &progress);
    let body_deadline = Deadline::new(&shard.ring);
    let relay = answer.upload(&body_deadline);
    // The backend's time runs once it has, or will have, no more of the request.
    let set_deadline = || {
        if shown.get() == AnswerProgress::Nothing {
            phase.set(Phase::AwaitingResponse);
            deadline.set(request.timeout_server(shard.timeouts()));
        }
    };
    let upload = async {
        relay.run(None, &mut client_inbox, &mut body).await?;
        uploaded.set(true);
        both.ends.set(end_counts(shard, !client_inbox.is_empty()));
        shard.note_sent(*ticket);
        stream.arm();
        set_deadline();
        Ok(())
    };
    let download = async {
        let len = answer.head(inbox).await?;
        answer.pass_on(len, inbox).await
    };
    let on_backend_closed = || {
        // What the backend does not take it need not: it may have answered already. But it has to,
        // in its time.
        progress.upload_broke.set(true);
        set_deadline();
    };
    let drop_body = |cx: &Context<'_>| drop_body(stream, cx, || both.note_moved(&shard.ring));
    let ended =
        both_ways(pin!(upload), pin!(download), &progress, on_backend_closed, drop_body).await;
    side.inbox = client_inbox;
    Ok(ended)
}

/// Sends the head, and with it what is here already of the body; returns the rest of that.
fn send_head(
    side: &mut ClientSide,
    lease: &Lease,
    request: &Request,
    mut head: Vec<u8>,
) -> Result<Body, Refusal> {
    let mut body = Body::of_request(request);
    let before = side.inbox.bytes().len();
    if let Err(refusal) = body.join(&side.shard.ring, &mut side.inbox, &mut head) {
        side.shard.ring.give_vec(head);
        return Err(refusal);
    }
    side.shard.count_received(side.ticket, before - side.inbox.bytes().len());
    lease.stream.begin_send_kept(head);
    side.phase.set(Phase::SendingRequest);
    Ok(body)
}

/// Runs both directions until they are through or the client's part of the upload broke. When the
/// backend takes no more of it, the response may still come; when the response was first, the
/// backend gets the rest all the same, as with HAProxy, unless it wants the connection closed.
async fn both_ways(
    mut upload: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    mut download: Pin<&mut impl Future<Output = Result<Answered, Failed>>>,
    progress: &Progress,
    on_backend_closed: impl Fn(),
    drop_body: impl Fn(&Context<'_>),
) -> Ended {
    let (mut uploading, mut is_dropping) = (true, false);
    let mut answered = None;
    let broken = poll_fn(|cx| {
        if uploading && let Poll::Ready(result) = upload.as_mut().poll(cx) {
            uploading = false;
            match result {
                Ok(()) => {}
                Err(Broken::Target) => {
                    is_dropping = true;
                    on_backend_closed();
                }
                Err(broken) => return Poll::Ready(Some(broken)),
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
            _ => Poll::Ready(None),
        }
    })
    .await;
    let open = || ResponseEnd::Open(progress.shown.get());
    let response = answered.map_or_else(open, ResponseEnd::Over);
    Ended { response, broken, is_uploaded: progress.uploaded.get() }
}
/// Drops what a client sends of a body that its backend no longer takes: a client that writes all
/// of it before it reads would else wait for us, and we for it.
fn drop_body(stream: &Stream, cx: &Context<'_>, moved: impl Fn()) {
    while let Poll::Ready(Ok(buf)) = stream.poll_recv(cx)
        && !buf.is_empty()
    {
        moved();
    }
}
