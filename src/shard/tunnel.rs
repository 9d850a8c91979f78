//! Bytes both ways after a 101, until both sides have ended (RFC 9110 §7.8).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::connection::{Connection, Next};
use super::inbox::Inbox;
use super::pool::Lease;
use super::tally::Meter;
use crate::ring::{Deadline, SendBuf, Stream};

/// Relays until both sides have ended, one failed, or neither sent anything for `timeout_tunnel`.
/// An end of one direction is passed on; the other goes on.
pub(super) async fn run(
    connection: &mut Connection,
    lease: Lease,
    mut from_backend: Inbox,
) -> Next {
    let tally = connection.tally;
    let Connection { shard, stream: client, inbox: from_client, deadline, .. } = connection;
    let backend = &lease.stream;
    deadline.set(shard.timeouts().tunnel);
    let down_deadline = Deadline::new(&shard.ring);
    let up_deadline = Deadline::new(&shard.ring);
    let up = OneWay {
        meter: Meter { shard, tally, received: true },
        source: client,
        target: backend,
        idle: deadline,
        sending: &up_deadline,
    };
    let down = OneWay {
        meter: Meter { shard, tally, received: false },
        source: backend,
        target: client,
        idle: deadline,
        sending: &down_deadline,
    };
    let up = up.run(from_client);
    let down = down.run(&mut from_backend);
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

/// One direction of a tunnel.
struct OneWay<'a> {
    meter: Meter<'a>,
    source: &'a Stream,
    target: &'a Stream,
    /// Of both directions together.
    idle: &'a Deadline,
    sending: &'a Deadline,
}

impl OneWay<'_> {
    /// `true` when `source` ended and that was passed on, `false` when something broke.
    async fn run(&self, inbox: &mut Inbox) -> bool {
        let pace = self.meter.shard.timeouts().tunnel;
        loop {
            let buf = match inbox.take() {
                Some(buf) => buf,
                None => match self.source.recv(self.idle).await {
                    Ok(buf) => buf,
                    Err(_) => return false,
                },
            };
            if self.target.sent(self.sending, pace).await.is_err() {
                return false;
            }
            if buf.is_empty() {
                self.target.shutdown_write();
                return true;
            }
            self.idle.set(pace);
            self.meter.moved(buf.len());
            self.target.start_send(SendBuf::Recv(buf), false);
        }
    }
}
