//! Bytes both ways after a 101, until both sides have ended (RFC 9110 §7.8).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::Shard;
use super::connection::{Connection, Next};
use super::inbox::Inbox;
use super::pool::Lease;
use crate::ring::{Deadline, SendBuf, Stream};

/// Relays until both sides have ended, one failed, or neither sent anything for `timeout_tunnel`.
/// An end of one direction is passed on; the other goes on.
pub(super) async fn run(
    connection: &mut Connection,
    lease: Lease,
    mut from_backend: Inbox,
) -> Next {
    let Connection { shard, stream: client, inbox: from_client, deadline, .. } = connection;
    let backend = &lease.stream;
    deadline.set(shard.timeouts().tunnel);
    let down_deadline = Deadline::new(&shard.ring);
    let up_deadline = Deadline::new(&shard.ring);
    let up = one_way(shard, client, from_client, backend, deadline, &up_deadline);
    let down = one_way(shard, backend, &mut from_backend, client, deadline, &down_deadline);
    let mut up = pin!(up);
    let mut down = pin!(down);
    let (mut up_ended, mut down_ended) = (false, false);
    let whole = poll_fn(|cx| {
        for (ended, direction) in [
            (&mut up_ended, up.as_mut() as std::pin::Pin<&mut dyn Future<Output = bool>>),
            (&mut down_ended, down.as_mut()),
        ] {
            if !*ended && let Poll::Ready(whole) = direction.poll(cx) {
                if !whole {
                    return Poll::Ready(false);
                }
                *ended = true;
            }
        }
        if up_ended && down_ended { Poll::Ready(true) } else { Poll::Pending }
    })
    .await;
    if whole {
        return Next::Close;
    }
    lease.stream.reset_on_drop();
    Next::Reset
}

/// `true` when `source` ended and that was passed on, `false` when something broke.
async fn one_way(
    shard: &Shard,
    source: &Stream,
    inbox: &mut Inbox,
    target: &Stream,
    idle: &Deadline,
    sending: &Deadline,
) -> bool {
    loop {
        let buf = match inbox.take() {
            Some(buf) => buf,
            None => match source.recv(idle).await {
                Ok(buf) => buf,
                Err(_) => return false,
            },
        };
        if target.sent(sending, shard.timeouts().tunnel).await.is_err() {
            return false;
        }
        if buf.is_empty() {
            target.shutdown_write();
            return true;
        }
        idle.set(shard.timeouts().tunnel);
        target.start_send(SendBuf::Recv(buf), false);
    }
}
