//! Upload of a request body to the backend. The response may come while the upload still runs.

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

/// Outcome of the two directions of an exchange: the upload and the response.
pub(super) struct Ended {
    pub(super) response: ResponseEnd,
    /// Failure of the upload on the client's side, if there was one.
    pub(super) broken: Option<Broken>,
    /// Whether the whole request has been passed to the backend's connection.
    pub(super) is_uploaded: bool,
}

/// How far the response had come when the exchange ended.
pub(super) enum ResponseEnd {
    /// The response is complete, or has failed.
    Over(Result<Answered, Failed>),
    /// The upload failed on the client's side first. Holds how much of the response the client had
    /// seen by then.
    Open(AnswerProgress),
}

/// Sends head and body to a backend, and passes its response on at the same time. `Err`: the body
/// was refused before any of the request had gone out.
pub(super) async fn run(
    side: &mut ClientSide,
    lease: &Lease,
    inbox: &mut Inbox,
    request: &Request,
    head: Vec<u8>,
) -> Result<Ended, Refusal> {
    let mut body = send_head(side, lease, request, head)?;
    let ends = if body.is_done() { side.end_counts() } else { side.shard.end_counts(true) };
    // Only the upload uses the client's inbox, and changes it; both directions share the rest of
    // `side`.
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
    // timeout_server for the response begins when the upload is over: the backend has the whole
    // request, or takes no more of it.
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
        // A backend need not take the whole body: it may have responded already. So its response is
        // still awaited, under timeout_server.
        progress.upload_broke.set(true);
        set_deadline();
    };
    let drop_body = |cx: &Context<'_>| drop_body(stream, cx, || both.note_moved(&shard.ring));
    let ended =
        both_ways(pin!(upload), pin!(download), &progress, on_backend_closed, drop_body).await;
    side.inbox = client_inbox;
    Ok(ended)
}

/// Sends the head, with the bytes of the body that are in the inbox if they are few; returns the
/// rest of the body.
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

/// Runs both directions until both are complete, the response has failed, or the upload has failed
/// on the client's side.
///
/// If the backend takes no more of the body, the response is still awaited. If the response is
/// complete before the upload, the backend still gets the rest of the body, as with HAProxy, unless
/// its connection is to be closed.
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

/// Reads and discards the rest of a body that the backend no longer takes. Otherwise a client that
/// writes its whole body before it reads would wait for Mantrid to read, and Mantrid for the client
/// to take the response.
fn drop_body(stream: &Stream, cx: &Context<'_>, on_bytes: impl Fn()) {
    while let Poll::Ready(Ok(buf)) = stream.poll_recv(cx)
        && !buf.is_empty()
    {
        on_bytes();
    }
}
