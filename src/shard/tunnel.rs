//! Bytes in both directions, after a 101 (RFC 9110 §7.8) or on a raw connection, until both sides
//! have ended. Few bytes are copied; many are spliced.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::Shard;
use super::client::ClientSide;
use super::ending::Ending;
use super::phase::Phase;
use super::pool::Lease;
use super::request::{Next, RequestTicket};
use super::splice::{Broken, Direction, splice};
use super::tally::Meter;
use crate::limits;
use crate::ring::{Deadline, Pipe, RecvBuf, Ring, SendBuf, Stream};

/// Runs [`begin`] and [`relay`]. Both sides may be silent for `timeout`; `None`: for the time of
/// the key `timeout_tunnel`.
pub(super) async fn run(
    side: &mut ClientSide,
    lease: &Lease,
    first: Option<RecvBuf>,
    timeout: Option<Duration>,
) -> Next {
    // Each is boxed: the code that leads to a tunnel takes no room while the tunnel is open.
    if !Box::pin(begin(side, lease, first, timeout)).await {
        return Next::ResetOnceTaken;
    }
    Box::pin(relay(side, lease, timeout)).await
}

/// Passes on bytes that have come already; `first` is the backend's. `false`: a side did not take
/// its bytes.
pub(super) async fn begin(
    side: &mut ClientSide,
    lease: &Lease,
    first: Option<RecvBuf>,
    timeout: Option<Duration>,
) -> bool {
    let guard = TunnelGuard(&lease.stream);
    side.phase.set(Phase::Tunnel);
    let from_client = side.inbox.take();
    let ends = Ends::of(side, lease, timeout);
    let up = OneWay { ends: &ends, received: true };
    let down = OneWay { ends: &ends, received: false };
    for (direction, first) in [(up, from_client), (down, first)] {
        if let Some(first) = first {
            if direction.target().sent(ends.idle, direction.pace()).await.is_err() {
                return false;
            }
            direction.pass(first);
        }
    }
    guard.disarm();
    true
}

/// Relays until both sides have ended, one failed, or neither sent anything for `timeout_tunnel`.
/// An end of one direction is passed on; the other goes on.
pub(super) async fn relay(side: &ClientSide, lease: &Lease, timeout: Option<Duration>) -> Next {
    let guard = TunnelGuard(&lease.stream);
    let ends = Ends::of(side, lease, timeout);
    let up = OneWay { ends: &ends, received: true };
    let down = OneWay { ends: &ends, received: false };
    ends.idle.set(up.pace());
    let mut up = pin!(up.run());
    let mut down = pin!(down.run());
    let (mut up_ended, mut down_ended) = (false, false);
    let whole = poll_fn(|cx| {
        for (ended, direction) in [
            (&mut up_ended, up.as_mut() as Pin<&mut dyn Future<Output = Result<(), Broken>>>),
            (&mut down_ended, down.as_mut()),
        ] {
            if !*ended && let Poll::Ready(result) = direction.poll(cx) {
                if result.is_err() {
                    return Poll::Ready(false);
                }
                *ended = true;
            }
        }
        if up_ended && down_ended { Poll::Ready(true) } else { Poll::Pending }
    })
    .await;
    if whole {
        guard.disarm();
        return Next::Close;
    }
    side.note_end(Ending::TunnelCut);
    Next::ResetOnceTaken
}

/// Makes the backend see that a tunnel was cut off, also by a panic or the end of the shard. (For
/// the client, dropping `ClientSide` does so.)
struct TunnelGuard<'a>(&'a Stream);

impl TunnelGuard<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for TunnelGuard<'_> {
    fn drop(&mut self) {
        self.0.reset_on_drop();
    }
}

/// Parts that both directions use.
struct Ends<'a> {
    shard: &'a Shard,
    ticket: RequestTicket,
    client: &'a Stream,
    backend: &'a Stream,
    /// Deadline of both directions together.
    idle: &'a Deadline,
    /// `timeout_tunnel` of the rule.
    timeout: Option<Duration>,
}

impl<'a> Ends<'a> {
    fn of(side: &'a ClientSide, lease: &'a Lease, timeout: Option<Duration>) -> Ends<'a> {
        let ClientSide { shard, stream, deadline, ticket, .. } = side;
        let (client, backend) = (stream, &lease.stream);
        Ends { shard, ticket: *ticket, client, backend, idle: deadline, timeout }
    }
}

/// One direction of a tunnel. Each open tunnel has two for as long as it lasts, so this holds
/// references where it can.
#[derive(Copy, Clone)]
struct OneWay<'a> {
    ends: &'a Ends<'a>,
    /// Whether the bytes come from the client, or go to it.
    received: bool,
}

impl<'a> OneWay<'a> {
    fn source(self) -> &'a Stream {
        if self.received { self.ends.client } else { self.ends.backend }
    }

    fn target(self) -> &'a Stream {
        if self.received { self.ends.backend } else { self.ends.client }
    }

    fn pace(self) -> Duration {
        self.ends.timeout.unwrap_or_else(|| self.ends.shard.timeouts().tunnel)
    }

    /// Relays until the source has ended, and passes that on.
    async fn run(self) -> Result<(), Broken> {
        loop {
            let received = poll_fn(|cx| self.source().poll_recv_by(cx, self.ends.idle)).await;
            let buf = received.map_err(Broken::source)?;
            if !self.target().is_sent() {
                Box::pin(self.taken()).await?;
            }
            if buf.is_empty() {
                break;
            }
            // The bytes fill a buffer: there are probably many more.
            let is_bulk = limits::RECV_BUFFER_BYTES as usize <= buf.len();
            self.pass(buf);
            if !is_bulk {
                self.source().start_flow();
            } else if Box::pin(self.much()).await? {
                break;
            }
        }
        self.target().shutdown_write();
        Ok(())
    }

    fn moved(self, count: usize) {
        let Ends { shard, ticket, .. } = *self.ends;
        self.ends.idle.set(self.pace());
        Meter { shard, ticket, received: self.received }.moved(count);
    }

    fn pass(self, buf: RecvBuf) {
        self.moved(buf.len());
        self.target().begin_send(SendBuf::Recv(buf));
    }

    /// Waits until the target has taken what it was sent. Boxed by the caller, like
    /// [`much`](Self::much): thousands of open tunnels have nothing to send.
    async fn taken(self) -> Result<(), Broken> {
        let sent = self.target().sent(&Deadline::new(&self.ends.shard.ring), self.pace()).await;
        sent.map_err(|error| Broken::target(self.target(), error))
    }

    /// Splices as long as bytes come. Does nothing while received bytes wait to be sent first, or
    /// if no pipe is left. The pipe is given back when the source falls silent. Returns whether the
    /// source has ended.
    async fn much(self) -> Result<bool, Broken> {
        self.source().halted().await;
        if self.source().is_armed() {
            return Ok(false);
        }
        let ring = &self.ends.shard.ring;
        let Some(mut pipe) = Pipe::take(ring) else { return Ok(false) };
        if !self.target().is_sent() {
            self.taken().await?;
        }
        let bulk = Bulk { way: self, waiting: Deadline::new(ring) };
        match splice(&bulk, &mut pipe, &mut { u64::MAX }).await {
            // The source's peer has reset the connection. The other direction's send got the error,
            // so here the reset looks like an end.
            Ok(()) if self.source().send_failed() => Err(Broken::Source),
            Err(Broken::SourceTimeout) => Ok(false),
            result => result.map(|()| true),
        }
    }
}

/// One direction while it is spliced.
struct Bulk<'a> {
    way: OneWay<'a>,
    waiting: Deadline,
}

impl Direction for Bulk<'_> {
    fn ring(&self) -> &Ring {
        &self.way.ends.shard.ring
    }

    fn source(&self) -> &Stream {
        self.way.source()
    }

    fn target(&self) -> &Stream {
        self.way.target()
    }

    fn moved(&self, count: usize) {
        self.way.moved(count);
    }

    async fn source_ready(&self) -> Result<(), Broken> {
        self.waiting.set(limits::PIPE_IDLE);
        let ready = poll_fn(|cx| self.source().poll_readable(cx, &self.waiting)).await;
        ready.map_err(Broken::source)
    }

    async fn target_ready(&self) -> Result<(), Broken> {
        self.waiting.set(self.way.pace());
        let ready = self.target().writable(&self.waiting).await;
        ready.map_err(|error| Broken::target(self.target(), error))
    }
}
