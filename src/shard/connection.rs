//! A client connection: read a head, act on it, again or close.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::backend::backend_at;
use super::call::Call;
use super::client::{BytesEvent, ClientSide, Idleness, OpenClient};
use super::ending::Ending;
use super::exchange::{BackendSide, Outcome, Started};
use super::hold::{Hold, HoldOutcome, Waited};
use super::phase::Phase;
use super::plan::{self, Plan};
use super::pool::{Lease, OwnConnection};
use super::request::{Client, Next, Request, RequestTicket};
use super::{Table, closing, exchange, hold, reply, tunnel};
use crate::http::{self, Refusal, RequestFraming};
use crate::limits;
use crate::link::{HoldReason, Protocol};
use crate::ring::{Abort, SendBuf};
use crate::table::Proxy;

/// A client connection that speaks HTTP.
pub(super) struct Connection {
    pub(super) side: ClientSide,
    idle: Idleness,
    rare: Option<Box<Rare>>,
    pub(super) call: Arc<Call>,
    /// `call` as a waker.
    waker: Waker,
    /// Dropped last: the shard may end with its last connection.
    _open: OpenClient,
}

/// Parts that hardly any connection has.
#[derive(Default)]
struct Rare {
    /// Connections to backends on which this client connection is authenticated: they are its
    /// alone. Each is boxed: it passes through futures for which every connection has room.
    #[expect(clippy::vec_box, reason = "what is taken out of it should be a word")]
    own: Vec<Box<OwnConnection>>,
    /// The connected peer, once a field of a request has named another client.
    connected: Option<(IpAddr, u16)>,
    /// Set where the first request was held before, in another process.
    waited: Option<Box<Waited>>,
}

/// Reason for which a connection needs no task any more.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Service {
    /// The client is silent: the connection calls a task when bytes come.
    Paused,
    Over,
}

/// Serves one client until it is silent, or its connection ends.
pub(super) async fn serve(connection: &mut Connection) -> Service {
    let end = loop {
        let next = match connection.next_head().await {
            HeadEvent::Head(len) => {
                let waited = connection.rare.as_mut().and_then(|rare| rare.waited.take());
                connection.act(len, waited).await
            }
            HeadEvent::Refused(refusal) => connection.refuse(refusal).await,
            HeadEvent::Nothing => Next::Close,
            HeadEvent::Silence => return Service::Paused,
            // Boxed: hand-overs are rare.
            HeadEvent::Moving => Box::pin(connection.hand_over(None)).await,
        };
        if next != Next::KeepAlive {
            break next;
        }
        connection.await_head(Idleness::Kept);
    };
    closing::end(&connection.side, end).await;
    Service::Over
}

/// Outcome of acting on a head.
enum Step {
    /// The request is over, and this follows.
    Over(Next),
    /// The request has to wait, at the front of the inbox.
    Hold(Box<Demand>),
}

/// Demand of a request to be held, for at most so long.
struct Demand {
    request: Request,
    why: HoldReason,
    timeout: Duration,
}

/// Outcome of waiting for a head.
enum HeadEvent {
    /// A head of this many bytes is at the front of the inbox.
    Head(usize),
    /// The head breaks a rule.
    Refused(Refusal),
    /// No head will come, and the client waits for no response.
    Nothing,
    /// Nothing of a head has come yet.
    Silence,
    /// The connection is for the process that takes over.
    Moving,
}

impl Connection {
    pub(super) fn new(side: ClientSide, open: OpenClient) -> Box<Connection> {
        // Most requests are small, also on the many connections that carry only one.
        side.stream.start_bounded_flow();
        let (idle, rare, call) = (Idleness::New, None, Call::new());
        let waker = call.clone().into();
        let mut connection = Box::new(Connection { side, idle, rare, call, waker, _open: open });
        connection.await_head(idle);
        connection
    }

    /// Notes that the first request was held before, in another process.
    pub(super) fn note_waited(&mut self, waited: Option<Box<Waited>>) {
        if waited.is_some() {
            self.rare.get_or_insert_default().waited = waited;
        }
    }

    /// Takes out the client's own connection to a backend of the rule, if it has one.
    fn take_own(&mut self, proxy: &Proxy) -> Option<Box<OwnConnection>> {
        let own = &mut self.rare.as_mut()?.own;
        let at = own.iter().position(|own| backend_at(proxy, own.address()).is_some())?;
        Some(own.swap_remove(at))
    }

    /// Keeps a backend's connection for this client alone; it is closed with the client's
    /// connection.
    fn keep_own(&mut self, lease: Lease) {
        let Some(kept) = self.side.shard.pool.keep_own(&self.side.shard, lease) else { return };
        let own = &mut self.rare.get_or_insert_default().own;
        own.retain(|other| other.address() != kept.address());
        if own.len() == limits::OWN_BACKENDS_MAX {
            own.remove(0);
        }
        own.push(kept);
    }

    /// Begins to wait for a head.
    pub(super) fn await_head(&mut self, idle: Idleness) {
        let timeouts = self.side.shard.timeouts();
        self.idle = idle;
        let (phase, time) = match idle {
            Idleness::Kept => (Phase::KeepAlive, timeouts.http_keep_alive),
            Idleness::New | Idleness::Begun => (Phase::ReadingHead, timeouts.http_request),
        };
        self.side.phase.set(phase);
        self.side.deadline.set(time);
    }

    /// Whether nothing of a head has come, and no task is needed to wait for it: the connection
    /// calls one when bytes come.
    pub(super) fn is_silent(&mut self) -> bool {
        let shard = &self.side.shard;
        if self.idle == Idleness::Begun || !self.side.inbox.is_empty() || shard.closing() {
            return false;
        }
        match self.side.poll_more(&Context::from_waker(&self.waker)) {
            Poll::Pending => return true,
            Poll::Ready(BytesEvent::Bytes(buf)) => self.side.inbox.push(&self.side.shard.ring, buf),
            // The end of a connection stays in place: the next poll reports it again.
            Poll::Ready(_) => {}
        }
        false
    }

    async fn next_head(&mut self) -> HeadEvent {
        loop {
            if self.is_silent() {
                return HeadEvent::Silence;
            }
            if self.side.shard.leaving() {
                return HeadEvent::Moving;
            }
            if !self.side.inbox.is_empty() {
                self.side.phase.set(Phase::ReadingHead);
                match self.side.inbox.head() {
                    Ok(Some(len)) if len <= self.side.shard.tuning().head_bytes_max => {
                        return HeadEvent::Head(len);
                    }
                    Ok(None)
                        if self.side.inbox.bytes().len()
                            < self.side.shard.tuning().head_bytes_max => {}
                    Ok(_) => return HeadEvent::Refused(self.side.inbox.too_large()),
                    Err(refusal) => return HeadEvent::Refused(refusal),
                }
                self.side.inbox.gather(&self.side.shard.ring);
                if self.idle != Idleness::Begun {
                    self.idle = Idleness::Begun;
                    self.side.deadline.set(self.side.shard.timeouts().http_request);
                }
            }
            // A head that has begun is waited for even while the shard drains.
            match self.side.more(self.idle).await {
                BytesEvent::Bytes(buf) => self.side.inbox.push(&self.side.shard.ring, buf),
                BytesEvent::TimedOut if self.idle == Idleness::Begun => {
                    return HeadEvent::Refused(Refusal::HeadTimeout);
                }
                BytesEvent::TimedOut | BytesEvent::Ended => return HeadEvent::Nothing,
                BytesEvent::Moving => return HeadEvent::Moving,
            }
        }
    }

    /// The client according to the connection, without the fields of a request.
    fn connected(&self) -> Client {
        match self.rare.as_ref().and_then(|rare| rare.connected) {
            Some((peer, port)) => Client { peer, port, ..self.side.client },
            None => self.side.client,
        }
    }

    /// Sets the client of a request, which a field of the request may have named.
    fn take_client(&mut self, client: Client) {
        let before = (self.side.client.peer, self.side.client.port);
        if (client.peer, client.port) != before {
            self.rare.get_or_insert_default().connected.get_or_insert(before);
            self.side.client = client;
        }
    }

    async fn hand_over(&mut self, waited: Option<&Waited>) -> Next {
        self.take_client(self.connected());
        let Client { trusted, secure, .. } = self.side.client;
        let since = waited.map(|waited| waited.since);
        self.side.hand_over(Protocol::Http { trusted, secure }, since).await
    }

    /// Acts on the head of `len` bytes at the front of the inbox.
    async fn act(&mut self, len: usize, mut waited: Option<Box<Waited>>) -> Next {
        if self.side.shard.tuning().request_id {
            self.side.client.request_id = self.side.shard.request_id();
        }
        self.side.front.head = len as u32;
        let next = loop {
            match self.attempt(&mut waited).await {
                Step::Over(next) => break next,
                // Not boxed: the wait needs less room than an attempt, whose place it takes.
                Step::Hold(demand) => {
                    if let Err(next) = self.wait(demand, &mut waited).await {
                        break next;
                    }
                }
            }
        };
        self.side.finish();
        next
    }

    /// Acts on the head by the table as it is now.
    async fn attempt(&mut self, waited: &mut Option<Box<Waited>>) -> Step {
        self.side.phase.set(Phase::ReadingHead);
        // The table is held until a backend responds, never while bytes flow: a tunnel that is open
        // for hours must not keep yesterday's table in memory.
        let table = self.side.shard.table();
        let (proxy, mut request, head) = match self.plan(&table, waited.as_deref()) {
            Plan::Proxy { proxy, request, head } => (proxy, request, head),
            Plan::Hold { request, why, timeout } => {
                return Step::Hold(Box::new(Demand { request, why, timeout }));
            }
            Plan::Reply { request, answer, close, ending } => {
                self.side.note_end(ending);
                return Step::Over(self.reply(&request, answer, close).await);
            }
            Plan::Refuse { answer, refusal } => {
                return Step::Over(self.refuse_with(answer, refusal).await);
            }
        };
        let own = self.take_own(proxy);
        let mut backend = BackendSide { own, ..BackendSide::default() };
        let rule = (proxy, waited.as_deref());
        let started = exchange::start(&mut self.side, &mut backend, rule, &mut request, head).await;
        let timeout = proxy.hold();
        drop(table);
        let outcome = match started {
            Ok(Started::Answering(len)) => {
                exchange::respond(&mut self.side, &mut backend, &mut request, len).await
            }
            // Boxed: an upload is rare, and large beside everything else a connection can be doing.
            Ok(Started::Uploading(head)) => {
                Box::pin(exchange::upload(&mut self.side, &mut backend, &mut request, head)).await
            }
            Err(Outcome::Hold { why, silences }) => {
                self.side.shard.chose_none(self.side.ticket);
                Waited::note(waited, self.side.shard.ring.now(), silences);
                return Step::Hold(Box::new(Demand { request, why, timeout }));
            }
            Err(outcome) => outcome,
        };
        Step::Over(self.conclude(&mut backend, &request, outcome).await)
    }

    /// Plans the request whose head is at the front of the inbox.
    fn plan<'t>(&mut self, table: &'t Table, waited: Option<&Waited>) -> Plan<'t> {
        let mut client = self.connected();
        let ClientSide { shard, inbox, front, ticket, .. } = &mut self.side;
        front.body = 0;
        let whose = (&mut client, ticket);
        let plan = plan::plan(shard, table, front.head_in(inbox), whose, waited);
        self.take_client(client);
        plan
    }

    /// Does what remains to be done after an exchange.
    async fn conclude(
        &mut self,
        backend: &mut BackendSide,
        request: &Request,
        outcome: Outcome,
    ) -> Next {
        match outcome {
            Outcome::Next(next) => next,
            Outcome::LoggedIn => {
                if let Some(lease) = backend.lease.take() {
                    self.keep_own(lease);
                }
                Next::KeepAlive
            }
            Outcome::Tunnel => {
                let first = backend.inbox.take();
                let Some(lease) = &backend.lease else { return Next::Reset };
                let timeout = request.timeout_tunnel();
                Box::pin(tunnel::run(&mut self.side, lease, first, timeout)).await
            }
            Outcome::Refuse(refusal) => {
                let reply = reply::refusal_of_body(&self.side.shard, request, refusal, true);
                self.refuse_with(reply, refusal).await
            }
            Outcome::Fail(ending) => self.fail(request, ending).await,
            Outcome::Hold { .. } => unreachable!("a request is held before its exchange starts"),
        }
    }

    /// Holds the request at the front of the inbox. `Err`: it goes no further, and this follows.
    async fn wait(
        &mut self,
        demand: Box<Demand>,
        waited: &mut Option<Box<Waited>>,
    ) -> Result<(), Next> {
        let Demand { request, why, timeout } = &*demand;
        let host = request.host_in(self.side.front.head_in(&self.side.inbox));
        let hold = Hold { why: *why, host, scheme: request.scheme, timeout: *timeout };
        let ending = match hold::hold(&mut self.side, hold, waited).await {
            HoldOutcome::Released => return Ok(()),
            HoldOutcome::Moving => {
                self.side.withdraw();
                return Err(Box::pin(self.hand_over(waited.as_deref())).await);
            }
            HoldOutcome::Ended(ending) => ending,
        };
        self.side.note_end(ending);
        if ending == Ending::ClientGone {
            return Err(Next::Close);
        }
        let close = request.closes() || self.side.shard.stopping();
        let answer = reply::timeout(&self.side.shard, request, close);
        Err(self.reply(request, answer, close).await)
    }

    /// Sends a reply; a short body that follows the request is read and dropped.
    async fn reply(&mut self, request: &Request, reply: Vec<u8>, close: bool) -> Next {
        if self.send(reply).await.is_err() {
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

    /// Replies in place of a backend.
    async fn fail(&mut self, request: &Request, ending: Ending) -> Next {
        self.side.note_end(ending);
        let shard = &self.side.shard;
        shard.give_permit_back(self.side.ticket);
        let Some(status) = ending.status() else {
            debug_assert!(false, "{ending:?} has no reply");
            return Next::Reset;
        };
        let close = request.closes();
        let reply = reply::status(shard, request, status, close);
        self.reply(request, reply, close).await
    }

    /// Queues a reply behind bytes that the client has not taken yet; waits only for those bytes.
    async fn send(&mut self, reply: Vec<u8>) -> Result<(), Abort> {
        self.side.take_front();
        let ClientSide { shard, stream, deadline, ticket, .. } = &self.side;
        stream.sent(deadline, shard.timeouts().client).await?;
        shard.count_reply(*ticket, http::status_of(&reply), reply.len());
        stream.begin_send(SendBuf::Vec(reply));
        Ok(())
    }

    /// Refuses the request, and makes sure that the client can read the reason.
    async fn refuse(&mut self, refusal: Refusal) -> Next {
        let reply = reply::refusal(&self.side.shard, refusal);
        self.refuse_with(reply, refusal).await
    }

    async fn refuse_with(&mut self, reply: Vec<u8>, refusal: Refusal) -> Next {
        match self.side.ticket {
            RequestTicket::NONE => {
                self.side.shard.record_refusal(self.connected(), refusal, reply.len());
            }
            _ => self.side.note_end(Ending::Refused(refusal)),
        }
        match self.send(reply).await {
            Ok(()) => Next::Linger,
            Err(_) => Next::Cut,
        }
    }

    async fn discard(&mut self, mut body: u64) -> bool {
        self.side.deadline.set(self.side.shard.timeouts().http_request);
        while body > 0 {
            if self.side.inbox.is_empty() {
                match self.side.stream.recv(&self.side.deadline).await {
                    Ok(buf) if !buf.is_empty() => self.side.inbox.push(&self.side.shard.ring, buf),
                    _ => return false,
                }
            }
            let n = body.min(self.side.inbox.bytes().len() as u64);
            self.side.shard.count_received(self.side.ticket, n as usize);
            self.side.inbox.consume(&self.side.shard.ring, n as usize);
            body -= n;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Bytes of user memory that each connection has, idle or not, and each request under way
    /// besides. (The ring's slot and the node of the deadline come on top.)
    #[test]
    fn connections_and_requests_stay_small() {
        let (idle, under_way) = (size_of::<Connection>(), size_of_future(serve));
        eprintln!("a connection: {idle} bytes; a request under way: {under_way}");
        assert!(idle <= 240, "{idle} bytes");
        assert!(under_way <= 1264, "{under_way} bytes");
    }
}
