//! Ways to close a client's connection, so that the client gets to read what was sent, or sees that
//! it was cut off.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::Shard;
use super::client::ClientSide;
use super::phase::Phase;
use super::request::Next;
use crate::limits;
use crate::ring::{Deadline, Stream};

/// Closes a connection as `next` says.
pub(super) async fn end(side: &ClientSide, next: Next) {
    side.phase.set(Phase::Lingering);
    match next {
        Next::Reset => side.stream.reset_on_drop(),
        Next::ResetOnceTaken => {
            Box::pin(taken(side)).await;
            side.stream.reset_on_drop();
        }
        Next::Linger => Box::pin(linger(side)).await,
        Next::Cut => side.stream.drop_received(),
        Next::Close | Next::KeepAlive => close(side).await,
        Next::Last => {
            close(side).await;
            if side.stream.has_bytes() || !side.inbox.is_empty() {
                Box::pin(linger(side)).await;
            }
        }
    }
}

/// Closes once the kernel has taken what was sent.
async fn close(side: &ClientSide) {
    if side.stream.sent(&side.deadline, side.shard.timeouts().client).await.is_err() {
        side.stream.drop_received();
    }
}

/// Waits until the client's kernel has acknowledged what was sent, as long as it acknowledges some
/// of it every few seconds.
async fn taken(side: &ClientSide) {
    if side.stream.sent(&side.deadline, side.shard.timeouts().client).await.is_err() {
        return;
    }
    // A client that is gone acknowledges nothing.
    side.stream.arm();
    let until = side.shard.ring.now() + side.shard.timeouts().client;
    let (mut left, mut progress) = (side.stream.unacknowledged(), side.shard.ring.now());
    while 0 < left {
        side.deadline.set(limits::TAKEN_LOOK);
        let gone = poll_fn(|cx| match side.stream.poll_reset(cx) {
            true => Poll::Ready(true),
            false if side.deadline.poll_expired(cx) => Poll::Ready(false),
            false => Poll::Pending,
        });
        let (gone, now) = (gone.await, side.shard.ring.now());
        let before = std::mem::replace(&mut left, side.stream.unacknowledged());
        if left < before {
            progress = now;
        }
        if gone || until < now || limits::LINGER_SILENCE < now - progress {
            return;
        }
    }
}

/// Ends our side, then reads and drops what still comes: closing with unread bytes would reset the
/// connection, and a reset overtakes the response (RFC 9112 §9.6).
async fn linger(side: &ClientSide) {
    let client = side.shard.timeouts().client;
    let mut sending = pin!(side.stream.sent(&side.deadline, client));
    // A client that writes all of its body before it reads has no room for a long response until
    // then, so its body is read meanwhile.
    let sent = poll_fn(|cx| {
        let sent = sending.as_mut().poll(cx);
        if sent.is_pending() {
            while let Poll::Ready(Ok(buf)) = side.stream.poll_recv(cx)
                && !buf.is_empty()
            {}
        }
        sent
    });
    if sent.await.is_ok() {
        side.stream.shutdown_write();
        read_off(&side.shard, &side.stream, &side.deadline, client).await;
    }
    side.stream.drop_received();
}

/// Reads and drops what a client sends after its last response: until its end, until it has been
/// silent for [`limits::LINGER_SILENCE`], or for `longest`. A shard that stops allows less time.
pub(super) async fn read_off(
    shard: &Shard,
    stream: &Stream,
    deadline: &Deadline,
    longest: Duration,
) {
    let mut until = shard.ring.now() + longest;
    let mut is_stopping = false;
    loop {
        stream.arm_bulk();
        let left = until.saturating_duration_since(shard.ring.now());
        deadline.set(left.min(limits::LINGER_SILENCE));
        let received = poll_fn(|cx| {
            if shard.closing() && !std::mem::replace(&mut is_stopping, true) {
                until = until.min(shard.ring.now() + limits::LINGER_STOPPING);
                deadline.set(until.saturating_duration_since(shard.ring.now()));
            }
            stream.poll_recv_by(cx, deadline)
        });
        match received.await {
            Ok(buf) if !buf.is_empty() && shard.ring.now() < until => {}
            _ => return,
        }
    }
}
