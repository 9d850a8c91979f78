//! The client's side of an exchange: its connection, the bytes received on it, and the request
//! under way. It is lent to the parts of the request path; only `connection` and `raw` reply on it.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Shard;
use super::ending::Ending;
use super::inbox::Inbox;
use super::phase::Phase;
use super::request::{Client, Next, RequestTicket};
use crate::limits;
use crate::link::{Counter, HandedOver, Protocol, ShardReport, Shed};
use crate::proxy_protocol;
use crate::ring::{Abort, Deadline, EndCounts, RecvBuf, Stream};

/// Bytes of the request under way at the front of the inbox. They stay there until the request can
/// no longer be held, because a backend or a reply has taken its place.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Front {
    /// Length of the head.
    pub(super) head: u32,
    /// Length of the body, if it came along whole and goes on in one piece with the head.
    pub(super) body: u32,
}

impl Front {
    fn len(self) -> usize {
        self.head as usize + self.body as usize
    }

    pub(super) fn head_in(self, inbox: &Inbox) -> &[u8] {
        &inbox.bytes()[..self.head as usize]
    }
}

/// A client's connection and what was received on it.
pub(super) struct ClientSide {
    pub(super) shard: Rc<Shard>,
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    pub(super) front: Front,
    pub(super) phase: Cell<Phase>,
    pub(super) deadline: Deadline,
    /// Client of the request under way, or of the last one.
    pub(super) client: Client,
    /// The request under way.
    pub(super) ticket: RequestTicket,
}

/// A client that waits for a backend.
pub(super) struct Waiter<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) stream: &'a Stream,
    pub(super) inbox: &'a mut Inbox,
    pub(super) phase: &'a Cell<Phase>,
}

impl Waiter<'_> {
    /// Begins to watch whether the client leaves. Bytes that it has sent must not keep a buffer
    /// from others.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase.set(phase);
        self.stream.arm();
        self.inbox.gather(&self.shard.ring);
    }
}

impl Drop for ClientSide {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let client = SocketAddr::new(self.client.peer, self.client.port);
            let phase = self.phase.get().slug();
            self.shard.end.report(ShardReport::Panicked { client, phase });
        }
        // A request is still under way, so a panic or the end of the shard has cut it off: the
        // response must not look complete.
        if self.ticket != RequestTicket::NONE {
            self.stream.reset_on_drop();
            self.note_end(Ending::CutOff);
            self.shard.finish(self.ticket);
        }
        if self.client.is_counted {
            self.shard.end.together.sources.leave(self.client.peer);
        }
    }
}

/// Counts one open client connection while it lives.
pub(super) struct OpenClient(Rc<Shard>);

impl OpenClient {
    pub(super) fn new(shard: &Rc<Shard>) -> OpenClient {
        shard.end.counters().add(Counter::Open, 1);
        shard.connections.set(shard.connections.get() + 1);
        OpenClient(shard.clone())
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.end.counters().sub(Counter::Open, 1);
        self.0.one_less();
    }
}

/// State of a client connection on which no request is under way; its timeout depends on it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Idleness {
    /// The client has begun to send a head.
    Begun,
    /// A new connection, on which the client has not asked for anything yet.
    New,
    /// The client has had its responses.
    Kept,
}

/// Outcome of waiting for bytes of a client.
pub(super) enum BytesEvent {
    Bytes(RecvBuf),
    TimedOut,
    /// The client has ended its side, or the connection broke.
    Ended,
    /// The connection is for the process that takes over.
    Moving,
}

impl ClientSide {
    pub(super) fn new(shard: Rc<Shard>, stream: Stream, client: Client) -> ClientSide {
        let deadline = Deadline::new(&shard.ring);
        let (inbox, front, ticket) = (Inbox::default(), Front::default(), RequestTicket::NONE);
        let phase = Cell::new(Phase::ReadingHead);
        ClientSide { shard, stream, inbox, front, phase, deadline, client, ticket }
    }

    /// Lends the parts that a wait for a backend needs.
    pub(super) fn waiter(&mut self) -> Waiter<'_> {
        let ClientSide { shard, stream, inbox, phase, .. } = self;
        Waiter { shard, stream, inbox, phase }
    }

    /// Notes how the request under way ended, unless an ending was noted before.
    pub(super) fn note_end(&self, ending: Ending) {
        self.shard.note_end(self.ticket, ending, self.phase.get());
    }

    /// Takes the bytes of the request under way out of the inbox, and counts them.
    pub(super) fn take_front(&mut self) {
        let count = std::mem::take(&mut self.front).len();
        if 0 < count {
            if self.ticket != RequestTicket::NONE {
                self.shard.count_received(self.ticket, count);
            }
            self.inbox.consume(&self.shard.ring, count);
        }
    }

    /// Ends the request under way, however it went.
    pub(super) fn finish(&mut self) {
        self.take_front();
        self.shard.finish(std::mem::replace(&mut self.ticket, RequestTicket::NONE));
    }

    /// Takes the request under way out of the counts; its bytes stay, for another process.
    pub(super) fn withdraw(&mut self) {
        self.front = Front::default();
        self.shard.withdraw(std::mem::replace(&mut self.ticket, RequestTicket::NONE));
    }

    /// Says which end of the client's bytes counts as leaving while it waits for its response: none
    /// if further requests wait behind this one.
    pub(super) fn end_counts(&self) -> EndCounts {
        end_counts(&self.shard, self.front.len() < self.inbox.bytes().len())
    }

    /// Reads the PROXY protocol header, which comes first, and takes the client's address from it.
    /// `false`: no such header came, or its client is not admitted.
    pub(super) async fn read_proxy_header(&mut self) -> bool {
        self.deadline.set(self.shard.timeouts().http_request);
        loop {
            match proxy_protocol::header(self.inbox.bytes()) {
                proxy_protocol::Seen::Header(header) => {
                    self.inbox.consume(&self.shard.ring, header.length);
                    self.client.secure |= header.secure;
                    if let Some(source) = header.source {
                        (self.client.peer, self.client.port) = (source.ip(), source.port());
                    }
                    if !is_welcome(&self.shard, &mut self.client) {
                        self.shard.end.counters().add_shed(Shed::Source);
                        return false;
                    }
                    return true;
                }
                proxy_protocol::Seen::Wrong => return false,
                proxy_protocol::Seen::More => {}
            }
            let Ok(buf) = self.stream.recv(&self.deadline).await else { return false };
            if buf.is_empty() {
                return false;
            }
            self.inbox.push(&self.shard.ring, buf);
            self.inbox.gather(&self.shard.ring);
        }
    }

    /// Waits for bytes. A shard that stops shortens the time of an idle connection, but never to
    /// nothing: bytes that have arrived already have to be seen.
    pub(super) async fn more(&self, mut idle: Idleness) -> BytesEvent {
        poll_fn(|cx| {
            if self.shard.stopping() {
                match std::mem::replace(&mut idle, Idleness::Begun) {
                    Idleness::Begun => {}
                    Idleness::New => self.deadline.set(limits::FIRST_REQUEST_TIME),
                    Idleness::Kept => self.deadline.set(Duration::ZERO),
                }
            }
            self.poll_more(cx)
        })
        .await
    }

    /// Takes bytes, or has `cx` woken when some come or the deadline is over.
    pub(super) fn poll_more(&self, cx: &Context<'_>) -> Poll<BytesEvent> {
        match self.stream.poll_recv_by(cx, &self.deadline) {
            Poll::Ready(Ok(buf)) if !buf.is_empty() => Poll::Ready(BytesEvent::Bytes(buf)),
            Poll::Ready(Err(Abort::TimedOut)) => Poll::Ready(BytesEvent::TimedOut),
            Poll::Ready(_) => Poll::Ready(BytesEvent::Ended),
            Poll::Pending if self.shard.leaving() => Poll::Ready(BytesEvent::Moving),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Hands the connection over to the process that takes over, with the bytes that were received
    /// and not acted on.
    pub(super) async fn hand_over(
        &mut self,
        speaks: Protocol,
        held_since: Option<Instant>,
    ) -> Next {
        if self.stream.sent(&self.deadline, self.shard.timeouts().client).await.is_err() {
            return Next::Close;
        }
        self.stream.released().await;
        self.stream.gather();
        while self.stream.is_armed() {
            match poll_fn(|cx| self.stream.poll_recv(cx)).await {
                Ok(buf) if !buf.is_empty() => {
                    self.inbox.push(&self.shard.ring, buf);
                    self.inbox.gather(&self.shard.ring);
                }
                // The client has ended its side, and the other process will see that, too.
                Ok(_) if !self.inbox.is_empty() => break,
                Ok(_) | Err(_) => return Next::Close,
            }
        }
        let Ok(socket) = self.stream.fd().try_clone_to_owned() else { return Next::Close };
        let now = self.shard.ring.now();
        // If the other process is gone, dropping the socket closes the connection.
        self.shard.end.hand_over(HandedOver {
            socket,
            peer: self.client.peer,
            port: self.client.port,
            secure: self.client.secure,
            speaks,
            bytes: self.inbox.bytes().to_vec(),
            held: held_since.map(|since| now.saturating_duration_since(since)),
        });
        Next::Close
    }
}

/// Says which end of a client's bytes counts as leaving while it waits for its response.
/// `has_more`: further requests wait behind this one.
pub(super) fn end_counts(shard: &Shard, has_more: bool) -> EndCounts {
    if has_more { EndCounts::Never } else { shard.end_counts(false) }
}

/// Counts a connection of this client. `false`: the client has as many as it may have. Connections
/// of a TLS terminator are those of all its clients, so they have no limit.
pub(super) fn is_welcome(shard: &Shard, client: &mut Client) -> bool {
    if let Some(most) = shard.tuning().connections_per_source_max
        && !client.trusted
    {
        client.is_counted = shard.end.together.sources.enter(client.peer, most.get());
        return client.is_counted;
    }
    true
}
