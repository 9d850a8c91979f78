//! A client connection: read a head, act on it, again or close.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::backend::backend_at;
use super::exchange::Halt;
use super::hold::{End, Hold, Waited};
use super::inbox::Inbox;
use super::plan::{self, Client, Plan, Request};
use super::pool::{Lease, OwnConnection};
use super::record::Cause;
use super::tally::Tally;
use super::{Shard, exchange};
use crate::http::{self, Refusal, RequestFraming};
use crate::limits;
use crate::link::{HandedOver, HoldReason, Protocol, Shed};
use crate::proxy_protocol;
use crate::ring::{Abort, Deadline, EndCounts, SendBuf, Stream};
use crate::table::Proxy;

/// A client connection and what was received on it.
pub(super) struct Connection {
    pub(super) shard: Rc<Shard>,
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    pub(super) deadline: Deadline,
    pub(super) client: Client,
    /// The request under way.
    pub(super) tally: Tally,
    /// Backends that have authenticated this connection.
    own: Option<Box<OwnBackends>>,
}

/// Connections to backends that are this client connection's alone; hardly any has one. Boxed,
/// each: they pass through futures that every connection has room for.
#[expect(clippy::vec_box, reason = "what is taken out of it should be a word")]
struct OwnBackends(Vec<Box<OwnConnection>>);

impl Drop for Connection {
    fn drop(&mut self) {
        // One that a panic, or the end of the shard, cut off: it must not look complete.
        if self.tally != Tally::NONE {
            self.stream.reset_on_drop();
        }
        self.shard.cut_off(self.tally);
        if self.client.is_counted {
            self.shard.end.together.sources.leave(self.client.peer);
        }
    }
}

/// Counts a connection of this client, unless there are as many as one may have. A terminator's are those of
/// all its clients: they have no limit.
pub(super) fn is_welcome(shard: &Shard, client: &mut Client) -> bool {
    if let Some(most) = shard.tuning().connections_per_source_max
        && !client.trusted
    {
        client.is_counted = shard.end.together.sources.enter(client.peer, most.get());
        return client.is_counted;
    }
    true
}

/// What follows an exchange.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The next request.
    KeepAlive,
    /// Nothing is owed in either direction.
    Close,
    /// Our answer is complete, but the client may still be sending: see that it can read it.
    Linger,
    /// The answer goes no further, and its framing shows that: what the kernel has of it may still arrive.
    Cut,
    /// What was sent must not look complete.
    Reset,
    /// [`Reset`](Next::Reset) once the client's kernel has all that was sent: a reset takes the
    /// rest away.
    ResetOnceTaken,
}

/// Serves one client until its connection ends.
/// `waited` is set for one whose request was held before, in another process.
pub(super) async fn serve(connection: &mut Connection, mut waited: Option<Box<Waited>>) {
    let mut idle = Idle::New;
    let end = loop {
        let next = match connection.next_head(idle).await {
            Came::Head(len) => connection.act(len, waited.take()).await,
            Came::Refused(refusal) => connection.refuse(refusal).await,
            Came::Nothing => Next::Close,
            // Boxed: rare, as is all of a hand-over.
            Came::Moving => Box::pin(connection.hand_over(None)).await,
        };
        if next != Next::KeepAlive {
            break next;
        }
        idle = Idle::Kept;
    };
    connection.end(end).await;
}

/// Whether a client owes us nothing.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Idle {
    /// It has begun to say something.
    No,
    /// It has not asked for anything yet.
    New,
    /// It has had its answers.
    Kept,
}

/// What acting on a head came to.
enum Attempt {
    /// The request is over, and this follows.
    Over(Next),
    /// It has to wait. Its head is at the front of the inbox.
    Hold(Box<(Request, Hold)>),
}

/// What waiting for a head came to.
enum Came {
    /// One of this many bytes is at the front of the inbox.
    Head(usize),
    /// Not one we accept.
    Refused(Refusal),
    /// None will come, and nobody waits for an answer.
    Nothing,
    /// It is for the process that takes over.
    Moving,
}

impl Connection {
    pub(super) fn new(shard: Rc<Shard>, stream: Stream, client: Client) -> Connection {
        let deadline = Deadline::new(&shard.ring);
        let (inbox, tally) = (Inbox::default(), Tally::NONE);
        Connection { shard, stream, inbox, deadline, client, tally, own: None }
    }

    /// This connection's own one to a backend of the rule, where that has authenticated it.
    pub(super) fn take_own(&mut self, proxy: &Proxy) -> Option<Box<OwnConnection>> {
        let OwnBackends(own) = &mut **self.own.as_mut()?;
        let at = own.iter().position(|own| backend_at(proxy, own.address()).is_some())?;
        Some(own.swap_remove(at))
    }

    /// Keeps a backend's connection for this client alone; it ends with the client's.
    pub(super) fn keep_own(&mut self, lease: Lease) {
        let Some(kept) = self.shard.pool.keep_own(&self.shard, lease) else { return };
        let OwnBackends(own) = &mut **self.own.get_or_insert_with(|| Box::new(OwnBackends(vec![])));
        own.retain(|other| other.address() != kept.address());
        if own.len() == limits::OWN_BACKENDS_MAX {
            own.remove(0);
        }
        own.push(kept);
    }

    /// Takes the header of the PROXY protocol that is to come first; from then on the client is who it says.
    /// `None`: it did not come.
    pub(super) async fn introduced(&mut self) -> Option<()> {
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
                        return None;
                    }
                    return Some(());
                }
                proxy_protocol::Seen::Wrong => return None,
                proxy_protocol::Seen::More => {}
            }
            let buf = self.stream.recv(&self.deadline).await.ok()?;
            if buf.is_empty() {
                return None;
            }
            self.inbox.push(&self.shard.ring, buf);
            self.inbox.gather(&self.shard.ring);
        }
    }

    /// Gives it to the process that takes over, as it is: with what was received and not acted on.
    pub(super) async fn hand_over(&mut self, waited: Option<&Waited>) -> Next {
        let Client { trusted, secure, .. } = self.client;
        let speaks = Protocol::Http { trusted, secure };
        self.hand_over_as(speaks, waited).await
    }

    pub(super) async fn hand_over_as(&mut self, speaks: Protocol, waited: Option<&Waited>) -> Next {
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
                // It has ended its side, and the other process will see that, too.
                Ok(_) if !self.inbox.is_empty() => break,
                Ok(_) | Err(_) => return Next::Close,
            }
        }
        let Ok(socket) = self.stream.fd().try_clone_to_owned() else { return Next::Close };
        let now = self.shard.ring.now();
        // Who finds nobody to take it is closed on.
        self.shard.end.hand_over(HandedOver {
            socket,
            peer: self.client.peer,
            port: self.client.port,
            secure: self.client.secure,
            speaks,
            bytes: self.inbox.bytes().to_vec(),
            held: waited.map(|waited| now.saturating_duration_since(waited.since)),
        });
        Next::Close
    }

    /// Closes it as it should be after this.
    pub(super) async fn end(&self, next: Next) {
        match next {
            Next::Reset => self.stream.reset_on_drop(),
            Next::ResetOnceTaken => {
                Box::pin(self.taken()).await;
                self.stream.reset_on_drop();
            }
            Next::Linger => Box::pin(self.linger()).await,
            Next::Cut => self.stream.drop_received(),
            Next::Close | Next::KeepAlive => self.close().await,
        }
    }

    async fn next_head(&mut self, mut idle: Idle) -> Came {
        let timeouts = self.shard.timeouts();
        self.deadline.set(match idle {
            Idle::Kept => timeouts.http_keep_alive,
            Idle::New | Idle::No => timeouts.http_request,
        });
        loop {
            if self.shard.leaving() {
                return Came::Moving;
            }
            if !self.inbox.is_empty() {
                match self.inbox.head() {
                    Ok(Some(len)) if len <= self.shard.tuning().head_bytes_max => {
                        return Came::Head(len);
                    }
                    Ok(None) if self.inbox.bytes().len() < self.shard.tuning().head_bytes_max => {}
                    Ok(_) => return Came::Refused(self.inbox.too_large()),
                    Err(refusal) => return Came::Refused(refusal),
                }
                self.inbox.gather(&self.shard.ring);
                if idle != Idle::No {
                    idle = Idle::No;
                    self.deadline.set(self.shard.timeouts().http_request);
                }
            }
            // A head that has begun is waited for even while the shard drains.
            match self.more(idle).await {
                Some(Ok(buf)) if buf.is_empty() => return Came::Nothing,
                Some(Ok(buf)) => self.inbox.push(&self.shard.ring, buf),
                Some(Err(Abort::TimedOut)) if idle == Idle::No => {
                    return Came::Refused(Refusal::HeadTimeout);
                }
                // Which is looked at again above.
                None => {}
                Some(Err(Abort::TimedOut | Abort::Io(_))) => return Came::Nothing,
            }
        }
    }

    /// Received bytes, or `None` when this connection should go to another process. When the shard stops, an idle
    /// one has its time cut short, but never to nothing: bytes that are here already have to be seen.
    pub(super) async fn more(&self, mut idle: Idle) -> Option<Result<crate::ring::RecvBuf, Abort>> {
        poll_fn(|cx| {
            if self.shard.stopping() {
                match std::mem::replace(&mut idle, Idle::No) {
                    Idle::No => {}
                    Idle::New => self.deadline.set(limits::FIRST_REQUEST_TIME),
                    Idle::Kept => self.deadline.set(Duration::ZERO),
                }
            }
            match self.stream.poll_recv_by(cx, &self.deadline) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if self.shard.leaving() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Acts on the head of `len` bytes at the front of the inbox.
    async fn act(&mut self, len: usize, mut waited: Option<Box<Waited>>) -> Next {
        if self.shard.tuning().request_id {
            self.client.request_id = self.shard.request_id();
        }
        let next = loop {
            match self.attempt(len, &mut waited).await {
                Attempt::Over(next) => break next,
                // It needs less room than an attempt, whose place it takes: no box.
                Attempt::Hold(held) => {
                    let held = self.wait(len, held, &mut waited).await;
                    if let Err(next) = held {
                        break next;
                    }
                }
            }
        };
        self.over();
        next
    }

    /// What was under way is done, however it went.
    pub(super) fn over(&mut self) {
        self.shard.finish(std::mem::replace(&mut self.tally, Tally::NONE));
    }

    /// Acts on the head by the table as it is now.
    async fn attempt(&mut self, len: usize, waited: &mut Option<Box<Waited>>) -> Attempt {
        // Held until a backend answers, never while bytes flow: a tunnel of hours must not keep a
        // table of yesterday in memory.
        let table = self.shard.table();
        let bytes = &self.inbox.bytes()[..len];
        let plan = plan::plan(&self.shard, &table, bytes, self.client, waited.as_deref());
        if let Some(keys) = plan.keys() {
            match self.tally {
                Tally::NONE => {
                    let record = self.shard.record_http(bytes, self.client);
                    self.tally = self.shard.begin(keys, len, record);
                }
                tally => self.shard.reroute(tally, keys),
            }
        }
        let mut side = exchange::Side::default();
        match &plan {
            Plan::Hold { .. } => {}
            Plan::Proxy { proxy, .. } if !proxy.hold().is_zero() => {
                side.kept = self.shard.ring.take_vec();
                side.kept.extend_from_slice(bytes);
                self.inbox.consume(&self.shard.ring, len);
            }
            _ => self.inbox.consume(&self.shard.ring, len),
        }
        if let Plan::Proxy { request: Request { framing: RequestFraming::None, .. }, .. } = plan {
            // Pipelined requests must wait, and must not keep a buffer from others while they do.
            self.inbox.gather(&self.shard.ring);
        }
        Attempt::Over(match plan {
            Plan::Hold { request, hold, .. } => return Attempt::Hold(Box::new((request, *hold))),
            Plan::Proxy { proxy, mut request, head, .. } => {
                let held = waited.as_deref();
                let started =
                    exchange::start(self, &mut side, proxy, &mut request, head, held).await;
                let timeout = proxy.hold();
                drop(table);
                let kept = std::mem::take(&mut side.kept);
                if let Err(Halt::NoBackend { silences }) = started {
                    let hold = self.take_back(kept, len, timeout, silences, waited);
                    return hold.map_or(Attempt::Over(Next::Close), |hold| {
                        Attempt::Hold(Box::new((request, hold)))
                    });
                }
                if 0 < kept.capacity() {
                    self.shard.ring.give_vec(kept);
                }
                match started {
                    Ok(started) => exchange::finish(self, &mut side, &request, started).await,
                    Err(Halt::Told(next)) => next,
                    Err(Halt::NoBackend { .. }) => unreachable!("taken back above"),
                }
            }
            Plan::Reply { request, answer, close, cause, .. } => {
                self.shard.note_end(self.tally, cause);
                self.reply(&request, answer, close).await
            }
            Plan::Refuse { answer, refusal } => self.say_no(answer, refusal).await,
        })
    }

    /// Puts a request back that found no backend: it is to wait for one.
    fn take_back(
        &mut self,
        kept: Vec<u8>,
        len: usize,
        timeout: Duration,
        silences: u8,
        waited: &mut Option<Box<Waited>>,
    ) -> Option<Hold> {
        let shard = &self.shard;
        shard.chose_none(self.tally);
        shard.uncount_received(self.tally, kept.len() - len);
        self.inbox.put_back(&shard.ring, &kept);
        shard.ring.give_vec(kept);
        let (host, scheme) = plan::whose(&self.inbox.bytes()[..len], self.client)?;
        Waited::note(waited, shard.ring.now(), silences);
        Some(Hold { why: HoldReason::NoBackend, host, scheme, timeout })
    }

    /// Holds the request at the front of the inbox. `Err`: it goes no further, and the client has been told.
    async fn wait(
        &mut self,
        len: usize,
        held: Box<(Request, Hold)>,
        waited: &mut Option<Box<Waited>>,
    ) -> Result<(), Next> {
        let (request, hold) = *held;
        match self.hold(hold, waited).await {
            End::Go => return Ok(()),
            End::Left => {
                self.shard.note_end(self.tally, Cause::ClientGone);
                return Err(Next::Close);
            }
            End::Moving => {
                self.shard.withdraw(std::mem::replace(&mut self.tally, Tally::NONE), len);
                return Err(Box::pin(self.hand_over(waited.as_deref())).await);
            }
            End::TimedOut => self.shard.note_end(self.tally, Cause::HeldTimeout),
            End::Full => self.shard.note_end(self.tally, Cause::HeldFull),
        }
        self.inbox.consume(&self.shard.ring, len);
        let close = plan::closes(&request) || self.shard.stopping();
        let to = request.reply_to(close, self.shard.date());
        let answer = plan::timeout_answer(&self.shard, to);
        Err(self.reply(&request, answer, close).await)
    }

    /// Sends an answer of our own; a short body that follows the request is read and dropped.
    pub(super) async fn reply(&mut self, request: &Request, answer: Vec<u8>, close: bool) -> Next {
        if self.send(answer).await.is_err() {
            return Next::Cut;
        }
        if close {
            return Next::Linger;
        }
        if let RequestFraming::Length(body) = request.framing
            && !self.discard(body).await
        {
            return Next::Linger;
        }
        Next::KeepAlive
    }

    /// Queues an answer of our own behind what the client has not taken yet; waits only for that.
    pub(super) async fn send(&self, answer: Vec<u8>) -> Result<(), Abort> {
        self.stream.sent(&self.deadline, self.shard.timeouts().client).await?;
        self.shard.count_answer(self.tally, http::status_of(&answer), answer.len());
        self.stream.start_send(SendBuf::Vec(answer), false);
        Ok(())
    }

    /// Refuses what came and sees that the client can read why.
    pub(super) async fn refuse(&mut self, refusal: Refusal) -> Next {
        let answer = plan::refusal_answer(&self.shard, refusal);
        self.say_no(answer, refusal).await
    }

    async fn say_no(&mut self, answer: Vec<u8>, refusal: Refusal) -> Next {
        match self.tally {
            Tally::NONE => self.shard.record_refusal(self.client, refusal, answer.len()),
            tally => self.shard.note_end(tally, Cause::Refused(refusal)),
        }
        match self.send(answer).await {
            Ok(()) => Next::Linger,
            Err(_) => Next::Cut,
        }
    }

    /// Which end of the client counts as leaving while it waits for its answer.
    pub(super) fn end_counts(&self) -> EndCounts {
        exchange::end_counts(&self.shard, &self.inbox)
    }

    async fn discard(&mut self, mut body: u64) -> bool {
        self.deadline.set(self.shard.timeouts().http_request);
        while body > 0 {
            if self.inbox.is_empty() {
                match self.stream.recv(&self.deadline).await {
                    Ok(buf) if !buf.is_empty() => self.inbox.push(&self.shard.ring, buf),
                    _ => return false,
                }
            }
            let n = body.min(self.inbox.bytes().len() as u64);
            self.shard.count_received(self.tally, n as usize);
            self.inbox.consume(&self.shard.ring, n as usize);
            body -= n;
        }
        true
    }

    /// Closes once the client has taken what was sent.
    async fn close(&self) {
        if self.stream.sent(&self.deadline, self.shard.timeouts().client).await.is_err() {
            self.stream.drop_received();
        }
    }

    /// Waits until the client's kernel has acknowledged what was sent, as long as it acknowledges
    /// some of it each few seconds.
    async fn taken(&self) {
        if self.stream.sent(&self.deadline, self.shard.timeouts().client).await.is_err() {
            return;
        }
        // A client that is gone acknowledges nothing.
        self.stream.arm();
        let until = self.shard.ring.now() + self.shard.timeouts().client;
        let (mut left, mut progress) = (self.stream.unacknowledged(), self.shard.ring.now());
        while 0 < left {
            self.deadline.set(limits::TAKEN_LOOK);
            let gone = poll_fn(|cx| match self.stream.poll_reset(cx) {
                true => Poll::Ready(true),
                false if self.deadline.poll_expired(cx) => Poll::Ready(false),
                false => Poll::Pending,
            });
            let (gone, now) = (gone.await, self.shard.ring.now());
            let before = std::mem::replace(&mut left, self.stream.unacknowledged());
            if left < before {
                progress = now;
            }
            if gone || until < now || limits::LINGER_SILENCE < now - progress {
                return;
            }
        }
    }

    /// Says that we send no more, then reads and drops what still comes: closing with unread bytes would
    /// reset the connection, and a reset overtakes the answer (RFC 9112 §9.6).
    async fn linger(&self) {
        let client = self.shard.timeouts().client;
        let mut sending = pin!(self.stream.sent(&self.deadline, client));
        // A client that writes all of its body before it reads has no room for a long answer until then.
        let sent = poll_fn(|cx| {
            let sent = sending.as_mut().poll(cx);
            if sent.is_pending() {
                while let Poll::Ready(Ok(buf)) = self.stream.poll_recv(cx)
                    && !buf.is_empty()
                {}
            }
            sent
        });
        if sent.await.is_ok() {
            self.stream.shutdown_write();
            read_off(&self.shard, &self.stream, &self.deadline, client).await;
        }
        self.stream.drop_received();
    }
}

/// Reads and drops what a client sends that has its last answer, until its end, [`limits::LINGER_SILENCE`],
/// or for so long; a shard that stops has less time for it.
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
