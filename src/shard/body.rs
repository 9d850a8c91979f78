//! Moves a message body from one connection to the other: copied while it is small, spliced in
//! bulk, checked as it passes, never read faster than the other side takes it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::inbox::Inbox;
use super::request::Request;
use super::splice::{Broken, Direction, splice};
use super::tally::Meter;
use crate::http::{Chunked, Passed, Refusal, RequestFraming};
use crate::limits;
use crate::ring::{Abort, Deadline, EndCounts, Pipe, RecvBuf, Ring, SendBuf, Stream};

/// A body: its end, and the rest of it that is still to come.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A count of bytes that are to come. No body is `Length(0)`.
    Length(u64),
    /// Forwarded as it came.
    Chunked(Chunked),
    /// Forwarded as it came, up to a limit. Boxed: rare, and each connection has room for a body.
    Limited(Box<LimitedChunks>),
    /// Only the data is forwarded: for an HTTP/1.0 client.
    Decoded(Chunked),
    /// All bytes until the sender closes; `true` when it has.
    UntilClose(bool),
}

/// A chunked body whose data is limited.
#[derive(Clone, Debug)]
pub(super) struct LimitedChunks {
    chunked: Chunked,
    /// Bytes of data that may still come.
    left: u64,
}

impl LimitedChunks {
    /// Advances as [`Chunked::advance`] does. A chunk that is too large is refused as soon as its
    /// size is known.
    fn advance(&mut self, bytes: &[u8]) -> Result<Passed, Refusal> {
        let (passed, data) = self.chunked.advance_counting(bytes)?;
        self.left = self.left.checked_sub(data).ok_or(Refusal::BodyTooLarge)?;
        match self.chunked.data_left() <= self.left {
            true => Ok(passed),
            false => Err(Refusal::BodyTooLarge),
        }
    }
}

impl Body {
    pub(super) const NONE: Body = Body::Length(0);

    pub(super) fn of_request(request: &Request) -> Body {
        match (request.framing, request.max_body()) {
            (RequestFraming::None, _) => Body::NONE,
            (RequestFraming::Length(n), _) => Body::Length(n),
            (RequestFraming::Chunked, None) => Body::Chunked(Chunked::new(request.trailers)),
            (RequestFraming::Chunked, Some(left)) => {
                let chunked = Chunked::new(request.trailers);
                Body::Limited(Box::new(LimitedChunks { chunked, left }))
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunked) | Body::Decoded(chunked) => chunked.is_done(),
            Body::Limited(limited) => limited.chunked.is_done(),
            Body::UntilClose(ended) => *ended,
        }
    }

    /// Whether what is left of it is worth splicing.
    pub(super) fn is_large(&self) -> bool {
        matches!(self, Body::Length(left) if limits::SPLICE_BYTES_MIN <= *left)
    }

    /// Whether only its connection's end shows that it is complete.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self, Body::Decoded(_) | Body::UntilClose(_))
    }

    /// How many of `bytes` are part of it, and how many go on unchanged.
    fn advance(&mut self, bytes: &[u8]) -> Result<Passed, Refusal> {
        let all = |count| Passed { consumed: count, as_is: count };
        match self {
            Body::Length(left) => {
                let n = (*left).min(bytes.len() as u64);
                *left -= n;
                Ok(all(n as usize))
            }
            Body::Chunked(chunked) => chunked.advance(bytes),
            Body::Limited(limited) => limited.advance(bytes),
            Body::UntilClose(_) => Ok(all(bytes.len())),
            Body::Decoded(_) => unreachable!("decoded bytes are not forwarded as they are"),
        }
    }

    /// Appends what goes on of the front of `bytes`; how many of them are part of the body.
    fn copy(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        let Passed { consumed, as_is } = self.advance(bytes)?;
        self.put(&bytes[..as_is], out);
        Ok(consumed)
    }

    /// Appends what goes on as it came, and behind it the trailers that were kept back, once all
    /// of them are here.
    fn put(&mut self, as_is: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(as_is);
        let chunked = match self {
            Body::Chunked(chunked) => chunked,
            Body::Limited(limited) => &mut limited.chunked,
            _ => return,
        };
        if let Some(trailer) = chunked.take_trailer() {
            out.extend_from_slice(&trailer);
        }
    }

    /// Appends what goes on of a whole and small body that `bytes` begin with; how many of them it
    /// is. `None`: not all of it is here, or it is large, and nothing was appended.
    pub(super) fn copy_whole(
        mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refusal> {
        // A wrong chunk that is here already is found now: no byte of the request has gone out yet.
        let mut trial = self.clone();
        let Passed { consumed, .. } = trial.advance(bytes)?;
        if !trial.is_done() || limits::JOIN_BYTES_MAX < consumed {
            return Ok(None);
        }
        self.copy(bytes, out).map(Some)
    }

    /// Appends what is at the front of `inbox` to `out`, up to a bound: so that a small message is
    /// one send.
    pub(super) fn join(
        &mut self,
        ring: &Rc<Ring>,
        inbox: &mut Inbox,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if inbox.is_empty() || inbox.bytes().len() > limits::JOIN_BYTES_MAX || self.is_done() {
            return Ok(());
        }
        let n = match self {
            Body::Decoded(chunked) => chunked.decode(inbox.bytes(), out)?,
            _ => self.copy(inbox.bytes(), out)?,
        };
        inbox.consume(ring, n);
        Ok(())
    }

    /// Joins `head` with what is at the front of `inbox`, as [`join`](Self::join) does, and returns
    /// both as one buffer to send. Many bytes stay where they were received: the head is written in
    /// front of them, into the room of the head that came with them.
    pub(super) fn join_once(
        &mut self,
        ring: &Rc<Ring>,
        inbox: &mut Inbox,
        mut head: Vec<u8>,
    ) -> Result<SendBuf, Refusal> {
        let there = inbox.bytes().len();
        let is_much = limits::JOIN_COPY_BYTES_MAX < there && there <= limits::JOIN_BYTES_MAX;
        if is_much && !matches!(self, Body::Decoded(_)) {
            let mut rest = self.clone();
            let Passed { as_is, .. } = rest.advance(inbox.bytes())?;
            // A large rest is spliced behind a head that a pipe can take.
            if as_is == there
                && !rest.is_large()
                && let Some(buf) = inbox.take_behind(&head)
            {
                *self = rest;
                ring.give_vec(head);
                return Ok(SendBuf::Recv(buf));
            }
        }
        self.join(ring, inbox, &mut head)?;
        Ok(SendBuf::Vec(head))
    }
}

/// Knowledge that the two directions of an exchange share. Small: an idle connection has room for
/// it.
pub(super) struct Both {
    /// End of the client that counts as leaving, from now on.
    pub(super) ends: Cell<EndCounts>,
    /// Moment at which bytes last moved in either direction, as milliseconds of the ring's clock.
    moved: Cell<u32>,
    /// How far the send in flight to each side had come when that was looked at last.
    sent: [Cell<u32>; 2],
}

impl Both {
    pub(super) fn new(ring: &Ring, ends: EndCounts) -> Both {
        Both { ends: Cell::new(ends), moved: Cell::new(ring.millis()), sent: Default::default() }
    }

    pub(super) fn note_moved(&self, ring: &Ring) {
        self.moved.set(ring.millis());
    }
}

/// One direction of an exchange.
pub(super) struct Relay<'a> {
    pub(super) ring: &'a Rc<Ring>,
    pub(super) source: &'a Stream,
    pub(super) target: &'a Stream,
    pub(super) deadline: &'a Deadline,
    /// How long the source may be silent.
    pub(super) source_pace: Duration,
    /// How long the target may take nothing.
    pub(super) target_pace: Duration,
    pub(super) meter: Meter<'a>,
    pub(super) both: &'a Both,
}

impl Relay<'_> {
    /// Relays until `body` is done; `head` goes in front of it, to a target that has taken all it
    /// was sent. Bytes behind the body stay in `inbox`.
    pub(super) async fn run(
        &self,
        mut head: Option<Vec<u8>>,
        inbox: &mut Inbox,
        body: &mut Body,
    ) -> Result<(), Broken> {
        let mut large = false;
        loop {
            if body.is_large() && self.source.is_flowing() {
                // Boxed: rare, and each connection has room for what a relay may wait for.
                Box::pin(self.source.halted()).await;
            }
            if inbox.is_empty()
                && let Some(mut pipe) = self.pipe(body, &mut head)
                && let Body::Length(left) = body
            {
                self.sent().await?;
                splice(self, &mut pipe, left).await?;
                return if body.is_done() { Ok(()) } else { Err(Broken::Source) };
            }
            if let Some(head) = head.take() {
                self.target.begin_send(SendBuf::Vec(head));
            }
            if body.is_done() {
                return Ok(());
            }
            if inbox.is_empty() {
                let buf = self.receive(body, large).await?;
                if buf.is_empty() {
                    if let Body::UntilClose(ended) = body {
                        *ended = true;
                        continue;
                    }
                    return Err(Broken::Source);
                }
                large = limits::RECV_BUFFER_BYTES as usize <= buf.len();
                inbox.push(self.ring, buf);
            }
            let piece = self.piece(inbox, body)?;
            self.sent().await?;
            if let Some(piece) = piece {
                self.target.begin_send(piece);
            }
        }
    }

    /// A pipe with `head` in it, where the body is worth splicing.
    fn pipe(&self, body: &Body, head: &mut Option<Vec<u8>>) -> Option<Pipe> {
        if !body.is_large() || self.source.is_armed() {
            return None;
        }
        let mut pipe = Pipe::take(self.ring)?;
        if let Some(bytes) = head {
            // Through the pipe as well: what is here of the body leaves in the same segments.
            if !pipe.put(bytes) {
                return None;
            }
            self.ring.give_vec(std::mem::take(bytes));
            *head = None;
        }
        Some(pipe)
    }

    /// Waits until the target has taken what it was sent.
    async fn sent(&self) -> Result<(), Broken> {
        if self.target.is_sent() {
            return Ok(());
        }
        let mut progress = self.target.send_progress();
        self.wait_for_target(|cx| {
            loop {
                match self.target.poll_sent(cx, self.deadline) {
                    Poll::Ready(Err(Abort::TimedOut))
                        if self.target.send_progress() != progress =>
                    {
                        progress = self.target.send_progress();
                        self.deadline.set(self.target_pace);
                    }
                    sent => return sent,
                }
            }
        })
        .await
    }

    /// Waits for the target; the wait is over when the client leaves, too.
    fn wait_for_target(
        &self,
        mut poll: impl FnMut(&Context<'_>) -> Poll<Result<(), Abort>>,
    ) -> impl Future<Output = Result<(), Broken>> {
        self.deadline.set(self.target_pace);
        poll_fn(move |cx| {
            let (client, broken) = match self.meter.received {
                true => (self.source, Broken::Source),
                false => (self.target, Broken::Target),
            };
            loop {
                return match poll(cx) {
                    Poll::Ready(Err(Abort::TimedOut)) if self.goes_on(self.target_pace) => continue,
                    Poll::Ready(result) => {
                        Poll::Ready(result.map_err(|error| Broken::target(self.target, error)))
                    }
                    Poll::Pending if client.poll_left(cx, self.both.ends.get()) => {
                        Poll::Ready(Err(broken))
                    }
                    Poll::Pending => Poll::Pending,
                };
            }
        })
    }

    /// Waits for the source; a source that has nothing to say for an hour must not hide that the
    /// target has left.
    fn wait_for_source<T>(
        &self,
        poll: impl Fn(&Context<'_>) -> Poll<Result<T, Abort>>,
    ) -> impl Future<Output = Result<T, Broken>> {
        self.deadline.set(self.source_pace);
        poll_fn(move |cx| {
            loop {
                return match poll(cx) {
                    Poll::Ready(Err(Abort::TimedOut)) if self.goes_on(self.source_pace) => continue,
                    Poll::Ready(result) => Poll::Ready(result.map_err(Broken::source)),
                    Poll::Pending if self.poll_target_left(cx) => Poll::Ready(Err(Broken::Target)),
                    Poll::Pending => Poll::Pending,
                };
            }
        })
    }

    /// Whether the target has left for which a source is waited for.
    fn poll_target_left(&self, cx: &Context<'_>) -> bool {
        match self.meter.received {
            true => self.target.poll_reset(cx),
            false => self.target.poll_left(cx, self.both.ends.get()),
        }
    }

    /// Whether a side that was silent for `pace` is waited for longer, as bytes have moved in the
    /// other direction meanwhile: a peer that is busy there is alive.
    fn goes_on(&self, pace: Duration) -> bool {
        let sent = self.source.send_progress() as u32;
        if self.both.sent[usize::from(self.meter.received)].replace(sent) != sent {
            self.both.note_moved(self.ring);
        }
        let idle = self.ring.millis().wrapping_sub(self.both.moved.get());
        let idle = Duration::from_millis(idle.into());
        let goes_on = idle < pace;
        if goes_on {
            self.deadline.set(pace - idle);
        }
        goes_on
    }

    async fn receive(&self, body: &Body, large: bool) -> Result<RecvBuf, Broken> {
        let (known, is_all) = match body {
            Body::Length(left) => (*left, true),
            Body::Chunked(chunked) | Body::Decoded(chunked) => (chunked.data_left(), false),
            Body::Limited(limited) => (limited.chunked.data_left(), false),
            Body::UntilClose(_) => (0, false),
        };
        let much = u64::from(limits::RECV_BUFFER_BYTES) < known || (large && !is_all);
        if much {
            self.source.arm_bulk();
        }
        self.wait_for_source(|cx| self.source.poll_recv_by(cx, self.deadline)).await
    }

    /// Takes what to send out of `inbox`: the buffer itself where all of it goes, a copy where
    /// bytes of the next message follow.
    fn piece(&self, inbox: &mut Inbox, body: &mut Body) -> Result<Option<SendBuf>, Broken> {
        let mut out;
        let consumed = if let Body::Decoded(chunked) = body {
            out = self.ring.take_vec();
            chunked.decode(inbox.bytes(), &mut out).map_err(Broken::Framing)?
        } else {
            let Passed { consumed, as_is } =
                body.advance(inbox.bytes()).map_err(Broken::Framing)?;
            if as_is == inbox.bytes().len() {
                self.moved(as_is);
                return Ok(inbox.take().map(SendBuf::Recv));
            }
            out = self.ring.take_vec();
            body.put(&inbox.bytes()[..as_is], &mut out);
            consumed
        };
        inbox.consume(self.ring, consumed);
        self.moved(if self.meter.received { consumed } else { out.len() });
        if out.is_empty() {
            self.ring.give_vec(out);
            return Ok(None);
        }
        Ok(Some(SendBuf::Vec(out)))
    }
}

impl Direction for Relay<'_> {
    fn ring(&self) -> &Ring {
        self.ring
    }

    fn source(&self) -> &Stream {
        self.source
    }

    fn target(&self) -> &Stream {
        self.target
    }

    fn moved(&self, count: usize) {
        self.meter.moved(count);
        self.both.note_moved(self.ring);
    }

    async fn source_ready(&self) -> Result<(), Broken> {
        self.wait_for_source(|cx| self.source.poll_readable(cx, self.deadline)).await
    }

    async fn target_ready(&self) -> Result<(), Broken> {
        self.wait_for_target(|cx| self.target.poll_writable(cx, self.deadline)).await
    }
}

#[cfg(test)]
mod tests;
