//! A client connection: read a head, act on it, again or close.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::inbox::Inbox;
use super::plan::{self, Client, Plan, Request};
use super::tally::Tally;
use super::{Shard, exchange};
use crate::http::{self, Refusal, RequestFraming};
use crate::limits;
use crate::ring::{Abort, Deadline, SendBuf, Stream};

/// A client connection and what was received on it.
pub(super) struct Connection {
    pub(super) shard: Rc<Shard>,
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    pub(super) deadline: Deadline,
    pub(super) client: Client,
    /// The request under way.
    pub(super) tally: Tally,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // One that a panic, or the end of the shard, cut off.
        self.shard.finish(self.tally);
    }
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
    /// What was sent must not look complete.
    Reset,
}

/// Serves one client until its connection ends.
pub(super) async fn serve(shard: Rc<Shard>, stream: Stream, peer: std::net::IpAddr, trusted: bool) {
    let deadline = Deadline::new(&shard.ring);
    let client = Client { peer, trusted };
    let (inbox, tally) = (Inbox::default(), Tally::NONE);
    let mut connection = Connection { shard, stream, inbox, deadline, client, tally };
    let mut idle_for = connection.shard.timeouts().http_request;
    let end = loop {
        let next = match connection.next_head(idle_for).await {
            Waited::Head(len) => connection.act(len).await,
            Waited::Refused(refusal) => connection.refuse(refusal).await,
            Waited::Nothing => Next::Close,
        };
        if next != Next::KeepAlive {
            break next;
        }
        idle_for = connection.shard.timeouts().http_keep_alive;
    };
    match end {
        Next::Reset => connection.stream.reset_on_drop(),
        Next::Linger => Box::pin(connection.linger()).await,
        Next::Close | Next::KeepAlive => connection.close().await,
    }
}

/// What waiting for a head came to.
enum Waited {
    /// One of this many bytes is at the front of the inbox.
    Head(usize),
    /// Not one we accept.
    Refused(Refusal),
    /// None will come, and nobody waits for an answer.
    Nothing,
}

impl Connection {
    async fn next_head(&mut self, idle_for: std::time::Duration) -> Waited {
        self.deadline.set(idle_for);
        let mut begun = false;
        loop {
            if !self.inbox.is_empty() {
                match self.inbox.head() {
                    Ok(Some(len)) if len <= self.shard.settings.head_bytes_max => {
                        return Waited::Head(len);
                    }
                    Ok(None) if self.inbox.bytes().len() < self.shard.settings.head_bytes_max => {}
                    Ok(_) => return Waited::Refused(self.inbox.too_large()),
                    Err(refusal) => return Waited::Refused(refusal),
                }
                self.inbox.gather(&self.shard.ring);
                if !begun {
                    begun = true;
                    self.deadline.set(self.shard.timeouts().http_request);
                }
            }
            // A head that has begun is waited for even while the shard drains.
            match self.more(!begun).await {
                Some(Ok(buf)) if buf.is_empty() => return Waited::Nothing,
                Some(Ok(buf)) => self.inbox.push(&self.shard.ring, buf),
                Some(Err(Abort::TimedOut)) if begun => {
                    return Waited::Refused(Refusal::HeadTimeout);
                }
                Some(Err(Abort::TimedOut | Abort::Io(_))) | None => return Waited::Nothing,
            }
        }
    }

    /// Received bytes, or `None` when the shard is stopping and this connection is idle.
    async fn more(&self, idle: bool) -> Option<Result<crate::ring::RecvBuf, Abort>> {
        poll_fn(|cx| match self.stream.poll_recv_by(cx, &self.deadline) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if idle && self.shard.stopping() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Acts on the head of `len` bytes at the front of the inbox.
    async fn act(&mut self, len: usize) -> Next {
        // Held until a backend answers, never while bytes flow: a tunnel of hours must not keep a
        // table of yesterday in memory.
        let table = self.shard.table();
        let plan = plan::plan(&self.shard, &table, &self.inbox.bytes()[..len], self.client);
        self.inbox.consume(&self.shard.ring, len);
        if let Plan::Proxy { keys, .. } | Plan::Reply { keys, .. } = plan {
            self.tally = self.shard.begin(keys, len);
        }
        if let Plan::Proxy { request: Request { framing: RequestFraming::None, .. }, .. } = plan {
            // Pipelined requests must wait, and must not keep a buffer from others while they do.
            self.inbox.gather(&self.shard.ring);
        }
        let next = match plan {
            Plan::Proxy { proxy, mut request, head, .. } => {
                let mut side = exchange::Side::default();
                let started = exchange::start(self, &mut side, proxy, &mut request, head).await;
                drop(table);
                match started {
                    Ok(started) => exchange::finish(self, &mut side, &request, started).await,
                    Err(next) => next,
                }
            }
            Plan::Reply { request, answer, close, .. } => self.reply(&request, answer, close).await,
            Plan::Refuse { answer } => match self.send(answer).await {
                Ok(()) => Next::Linger,
                Err(_) => Next::Close,
            },
        };
        self.shard.finish(std::mem::replace(&mut self.tally, Tally::NONE));
        next
    }

    /// Sends an answer of our own; a short body that follows the request is read and dropped.
    pub(super) async fn reply(&mut self, request: &Request, answer: Vec<u8>, close: bool) -> Next {
        if self.send(answer).await.is_err() {
            return Next::Close;
        }
        if close {
            let quiet = request.framing == RequestFraming::None && self.inbox.is_empty();
            return if quiet { Next::Close } else { Next::Linger };
        }
        if let RequestFraming::Length(body) = request.framing
            && !self.discard(body).await
        {
            return Next::Close;
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
        let Plan::Refuse { answer } = plan::refuse(&self.shard, refusal) else {
            unreachable!("a refusal is refused")
        };
        match self.send(answer).await {
            Ok(()) => Next::Linger,
            Err(_) => Next::Close,
        }
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
        let _ = self.stream.sent(&self.deadline, self.shard.timeouts().client).await;
    }

    /// Says that we send no more, then reads and drops for a while: closing with unread bytes would
    /// reset the connection, and a reset overtakes the answer (RFC 9112 §9.6).
    async fn linger(&self) {
        if self.stream.sent(&self.deadline, self.shard.timeouts().client).await.is_err() {
            return;
        }
        self.stream.shutdown_write();
        self.deadline.set(limits::LINGER_TIME);
        let mut dropped = 0;
        while dropped < limits::LINGER_BYTES_MAX {
            match self.stream.recv(&self.deadline).await {
                Ok(buf) if !buf.is_empty() => dropped += buf.len() as u64,
                _ => return,
            }
        }
    }
}
