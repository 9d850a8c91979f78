//! Bytes both ways, after a 101 (RFC 9110 §7.8) or of a raw connection, until both sides have ended. Few are
//! copied; many are spliced.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::connection::{Connection, Next};
use super::inbox::Inbox;
use super::pool::Lease;
use super::tally::Meter;
use crate::limits;
use crate::ring::{Abort, Deadline, Moved, Pipe, SendBuf, Stream};

/// Relays until both sides have ended, one failed, or neither sent anything for `timeout_tunnel`.
/// An end of one direction is passed on; the other goes on.
pub(super) async fn run(
    connection: &mut Connection,
    lease: &Lease,
    from_backend: &mut Inbox,
) -> Next {
    let tally = connection.tally;
    let Connection { shard, stream: client, inbox: from_client, deadline, .. } = connection;
    let backend = &lease.stream;
    deadline.set(shard.timeouts().tunnel);
    let ends = Ends { client, backend, splicing: Cell::new(0) };
    let up = OneWay {
        meter: Meter { shard, tally, received: true },
        ends: &ends,
        source: client,
        target: backend,
        idle: deadline,
    };
    let down = OneWay {
        meter: Meter { shard, tally, received: false },
        ends: &ends,
        source: backend,
        target: client,
        idle: deadline,
    };
    let up = up.run(from_client);
    let down = down.run(from_backend);
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

/// What both directions use.
struct Ends<'a> {
    client: &'a Stream,
    backend: &'a Stream,
    /// Directions that splice now.
    splicing: Cell<u8>,
}

/// One direction splices as long as this is there. `splice(2)` would wait for a socket that is not set to
/// non-blocking, and the setting is of the socket, not of a direction.
struct Splicing<'a>(&'a Ends<'a>);

impl<'a> Splicing<'a> {
    fn begin(ends: &'a Ends<'a>) -> Splicing<'a> {
        if ends.splicing.replace(ends.splicing.get() + 1) == 0 {
            ends.client.set_nonblocking(true);
            ends.backend.set_nonblocking(true);
        }
        Splicing(ends)
    }
}

impl Drop for Splicing<'_> {
    fn drop(&mut self) {
        let ends = self.0;
        ends.splicing.set(ends.splicing.get() - 1);
        if ends.splicing.get() == 0 {
            ends.client.set_nonblocking(false);
            ends.backend.set_nonblocking(false);
        }
    }
}

/// One direction of a tunnel.
struct OneWay<'a> {
    meter: Meter<'a>,
    ends: &'a Ends<'a>,
    source: &'a Stream,
    target: &'a Stream,
    /// Of both directions together.
    idle: &'a Deadline,
}

/// How a direction goes on.
enum On {
    /// There is nothing more for the moment.
    Quiet,
    /// Its source has ended.
    Ended,
    Broken,
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
            if !self.target.is_sent() && !Box::pin(self.taken(pace)).await {
                return false;
            }
            if buf.is_empty() {
                return self.pass_end();
            }
            self.idle.set(pace);
            self.meter.moved(buf.len());
            // More than fits into a buffer: there is probably much more.
            let is_bulk = limits::RECV_BUFFER_BYTES as usize <= buf.len();
            self.target.start_send(SendBuf::Recv(buf), false);
            if is_bulk
                && inbox.is_empty()
                && !self.source.is_armed()
                && let Some(pipe) = Pipe::take(&self.meter.shard.ring)
            {
                match Box::pin(self.splice(pipe, pace)).await {
                    On::Quiet => {}
                    On::Ended => return self.pass_end(),
                    On::Broken => return false,
                }
            }
        }
    }

    /// Waits until the target has taken what it was sent. Boxed by its caller, as is [`splice`](Self::splice):
    /// thousands of tunnels have nothing to say.
    async fn taken(&self, pace: Duration) -> bool {
        let sending = Deadline::new(&self.meter.shard.ring);
        self.target.sent(&sending, pace).await.is_ok()
    }

    fn pass_end(&self) -> bool {
        self.target.shutdown_write();
        true
    }

    /// Moves bytes without copying them as long as they come. A pipe is not kept for a source that has
    /// nothing to say.
    async fn splice(&self, mut pipe: Pipe, pace: Duration) -> On {
        let waiting = Deadline::new(&self.meter.shard.ring);
        if self.target.sent(&waiting, pace).await.is_err() {
            return On::Broken;
        }
        let _splicing = Splicing::begin(self.ends);
        loop {
            // Where both sides are fast it would else be the only one.
            self.meter.shard.ring.give_way().await;
            match pipe.fill(self.source, u64::MAX) {
                Ok(Moved::Bytes(count)) => {
                    self.idle.set(pace);
                    self.meter.moved(count);
                }
                Ok(Moved::Later) => {
                    waiting.set(limits::PIPE_IDLE);
                    let ready = poll_fn(|cx| self.source.poll_readable(cx, &waiting)).await;
                    match ready {
                        Ok(()) => continue,
                        Err(Abort::TimedOut) => return On::Quiet,
                        Err(Abort::Io(_)) => return On::Broken,
                    }
                }
                Ok(Moved::End) => return On::Ended,
                Err(_) => return On::Broken,
            }
            while 0 < pipe.held() {
                match pipe.empty(self.target, false) {
                    Ok(Moved::Bytes(_)) => {}
                    Ok(Moved::Later) => {
                        waiting.set(pace);
                        if self.target.writable(&waiting).await.is_err() {
                            return On::Broken;
                        }
                    }
                    Ok(Moved::End) | Err(_) => return On::Broken,
                }
            }
        }
    }
}
