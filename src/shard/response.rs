//! The backend's answer: its head, what it means for both connections, and its body.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::Shard;
use super::body::{Body, Both, Relay};
use super::client::ClientSide;
use super::ending::{BadAnswer, Ending};
use super::heads;
use super::inbox::Inbox;
use super::phase::Phase;
use super::pool::{KeepTerms, Lease};
use super::request::{Request, RequestTicket};
use super::tally::Meter;
use crate::http::{self, Chunked, FramingOut, Refusal, ResponseForward, ResponseFraming, Version};
use crate::limits;
use crate::ring::{Deadline, EndCounts, Ring, SendBuf, Stream};

/// Ending of a request without a response, or with only a part of one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    pub(super) ending: Ending,
    /// Only a reset shows the client that the response was cut off.
    pub(super) is_hidden: bool,
}

impl Failed {
    /// Whether the backend's connection was dead: none of the response came on it.
    pub(super) fn is_dead_connection(&self) -> bool {
        let stray = Ending::BackendBadAnswer(BadAnswer::Stray);
        self.ending == Ending::BackendSilent || self.ending == stray
    }
}

impl From<Ending> for Failed {
    fn from(ending: Ending) -> Failed {
        Failed { ending, is_hidden: false }
    }
}

impl From<BadAnswer> for Failed {
    fn from(why: BadAnswer) -> Failed {
        Ending::from(why).into()
    }
}

/// How an answer ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Answered {
    /// The backend's connection can serve again.
    pub(super) backend_lives: bool,
    /// The client was told that its connection goes on.
    pub(super) client_lives: bool,
    /// The backend agreed to another protocol.
    pub(super) tunnel: bool,
    /// Head and body left in one send.
    pub(super) is_small: bool,
    pub(super) keeping: KeepTerms,
}

/// Progress of an answer to the client: what its breaking off means.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum AnswerProgress {
    /// Nothing of the final one: an answer of ours can take its place.
    #[default]
    Nothing,
    /// A part whose framing shows that it is cut off.
    Framed,
    /// A part that ends with the connection: only a reset shows that it is cut off.
    Unframed,
}

/// State that the two directions of an exchange share.
pub(super) struct Progress {
    /// Whether the request has gone out whole: only then the backend's time runs.
    pub(super) uploaded: Cell<bool>,
    /// Whether the request never will go out: the backend takes no more of it.
    pub(super) upload_broke: Cell<bool>,
    /// Set when the head of the final response goes to the client: from then on no reply can.
    pub(super) shown: Cell<AnswerProgress>,
    pub(super) both: Both,
}

impl Progress {
    pub(super) fn new(ring: &Ring, uploaded: bool, ends: EndCounts) -> Progress {
        Progress {
            uploaded: Cell::new(uploaded),
            upload_broke: Cell::new(false),
            shown: Cell::default(),
            both: Both::new(ring, ends),
        }
    }
}

/// The backend's side of an exchange.
pub(super) struct Answer<'a> {
    shard: &'a Rc<Shard>,
    client: &'a Stream,
    backend: &'a Stream,
    deadline: &'a Deadline,
    request: &'a Request,
    ticket: RequestTicket,
    phase: &'a Cell<Phase>,
    progress: &'a Progress,
}

impl<'a> Answer<'a> {
    pub(super) fn new(
        side: &'a ClientSide,
        lease: &'a Lease,
        request: &'a Request,
        progress: &'a Progress,
    ) -> Answer<'a> {
        let ClientSide { shard, stream, deadline, phase, ticket, .. } = side;
        let (client, backend, ticket) = (stream, &lease.stream, *ticket);
        Answer { shard, client, backend, deadline, request, ticket, phase, progress }
    }

    /// The way of a request's body, against that of the answer.
    pub(super) fn upload(&self, deadline: &'a Deadline) -> Relay<'a> {
        let timeouts = self.shard.timeouts();
        Relay {
            ring: &self.shard.ring,
            source: self.client,
            target: self.backend,
            deadline,
            source_pace: timeouts.client,
            target_pace: self.request.timeout_server(timeouts),
            meter: Meter { shard: self.shard, ticket: self.ticket, received: true },
            both: &self.progress.both,
        }
    }

    /// Waits for a response head to be at the front of `inbox`; returns its length.
    pub(super) async fn head(&self, inbox: &mut Inbox) -> Result<usize, Failed> {
        if self.progress.uploaded.get() {
            self.deadline.set(self.request.timeout_server(self.shard.timeouts()));
        } else {
            self.deadline.clear();
        }
        loop {
            if !inbox.is_empty() {
                if !inbox.may_be_response() {
                    return Err(BadAnswer::Stray.into());
                }
                match inbox.head() {
                    Ok(Some(len)) => return Ok(len),
                    Ok(None) if inbox.bytes().len() < limits::RESPONSE_HEAD_BYTES_MAX => {}
                    Ok(None) => return Err(BadAnswer::from(Refusal::HeadTooLarge).into()),
                    Err(refusal) => return Err(BadAnswer::from(refusal).into()),
                }
            }
            let received = poll_fn(|cx| match self.backend.poll_recv(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(|_| ()).map(Some)),
                Poll::Pending
                    if self.progress.uploaded.get()
                        && self.client.poll_left(cx, self.progress.both.ends.get()) =>
                {
                    Poll::Ready(Ok(None))
                }
                Poll::Pending if self.deadline.poll_expired(cx) => Poll::Ready(Err(())),
                Poll::Pending => Poll::Pending,
            });
            match received.await {
                Ok(Some(buf)) if !buf.is_empty() => inbox.push(&self.shard.ring, buf),
                Ok(None) => return Err(Ending::ClientGone.into()),
                Err(()) if self.timed_out().await => return Err(Ending::BackendTimeout.into()),
                Ok(Some(_)) | Err(()) if inbox.is_empty() => {
                    return Err(Ending::BackendSilent.into());
                }
                Ok(Some(_)) | Err(()) => return Err(BadAnswer::HeadCut.into()),
            }
        }
    }

    async fn timed_out(&self) -> bool {
        poll_fn(|cx| Poll::Ready(self.deadline.poll_expired(cx))).await
    }

    /// Passes the answer on whose head of `len` bytes is at the front of `inbox`; interim ones
    /// first.
    pub(super) async fn pass_on(
        &self,
        mut len: usize,
        inbox: &mut Inbox,
    ) -> Result<Answered, Failed> {
        let mut interim = 0;
        while interim <= limits::INTERIM_BYTES_MAX {
            let mut out = self.backend.take_sent().unwrap_or_else(|| self.shard.ring.take_vec());
            out.clear();
            let mut begun = self.begin(&inbox.bytes()[..len], &mut out)?;
            inbox.consume(&self.shard.ring, len);
            if !begun.is_final {
                // An HTTP/1.0 client does not know interim responses (RFC 9110 §15.2).
                if self.request.version == Version::Http11 {
                    self.send(out, begun.status).await?;
                }
                interim += len;
                len = self.head(inbox).await?;
                continue;
            }
            self.shard.count_response(self.ticket, begun.status);
            self.phase.set(Phase::Relaying);
            if begun.answered.tunnel {
                self.upload_over().await?;
                self.progress.shown.set(AnswerProgress::Framed);
                self.send(out, begun.status).await?;
                return Ok(begun.answered);
            }
            let is_hidden = begun.body.ends_by_close();
            let first = self.first(&mut begun, inbox, out).await?;
            begun.answered.is_small = begun.body.is_done();
            if begun.answered.is_small {
                self.client.begin_send(first);
            } else {
                let head = self.begin_to_send(first);
                if begun.body.is_large() {
                    // So is the next answer, probably.
                    self.backend.peek();
                }
                let relayed = self.download().run(head, inbox, &mut begun.body).await;
                relayed.map_err(|broken| Failed { ending: broken.of_download(), is_hidden })?;
            }
            // Bytes behind the answer are nobody's (RFC 9112 §6.3): that connection is closed.
            begun.answered.backend_lives &= inbox.is_empty();
            return Ok(begun.answered);
        }
        Err(BadAnswer::Interim.into())
    }

    /// Joins the head for the client with what is here of the body, and waits until the client has
    /// taken what was sent before. Nothing has gone out until then, so what is wrong in these bytes
    /// of the body is still a clean 502.
    async fn first(
        &self,
        begun: &mut Begun,
        inbox: &mut Inbox,
        mut head: Vec<u8>,
    ) -> Result<SendBuf, Failed> {
        let (ring, body) = (&self.shard.ring, &mut begun.body);
        let shown = match body.ends_by_close() {
            true => AnswerProgress::Unframed,
            false => AnswerProgress::Framed,
        };
        let first = if self.client.is_sent() {
            let first = body.join_once(ring, inbox, head).map_err(BadAnswer::from)?;
            self.progress.shown.set(shown);
            first
        } else {
            // A response that waits for its client must not keep a buffer of the kernel's.
            body.join(ring, inbox, &mut head).map_err(BadAnswer::from)?;
            self.progress.shown.set(shown);
            self.client_taken().await?;
            SendBuf::Vec(head)
        };
        self.shard.count_answer(self.ticket, begun.status, first.len());
        Ok(first)
    }

    /// Sends the head if it has bytes of the body behind it that were not copied; otherwise returns
    /// it: the relay sends it, perhaps through a pipe.
    fn begin_to_send(&self, first: SendBuf) -> Option<Vec<u8>> {
        match first {
            SendBuf::Vec(head) => Some(head),
            SendBuf::Recv(_) => {
                self.client.begin_send(first);
                None
            }
        }
    }

    /// The way of its body to the client.
    fn download(&self) -> Relay<'a> {
        let timeouts = self.shard.timeouts();
        Relay {
            ring: &self.shard.ring,
            source: self.backend,
            target: self.client,
            deadline: self.deadline,
            source_pace: self.request.timeout_server(timeouts),
            target_pace: timeouts.client,
            meter: Meter { shard: self.shard, ticket: self.ticket, received: false },
            both: &self.progress.both,
        }
    }

    /// Waits until the request has gone out whole: then what the client sends behind it belongs
    /// to the tunnel, and nothing before.
    async fn upload_over(&self) -> Result<(), Failed> {
        // Woken by the upload, which is part of the same task.
        poll_fn(|_| match (self.progress.uploaded.get(), self.progress.upload_broke.get()) {
            (true, _) => Poll::Ready(Ok(())),
            (false, true) => Poll::Ready(Err(BadAnswer::SwitchEarly.into())),
            (false, false) => Poll::Pending,
        })
        .await
    }

    async fn send(&self, out: Vec<u8>, status: u16) -> Result<(), Failed> {
        self.client_taken().await?;
        self.shard.count_answer(self.ticket, status, out.len());
        self.client.begin_send(SendBuf::Vec(out));
        Ok(())
    }

    /// Waits until the client has taken what was sent before.
    async fn client_taken(&self) -> Result<(), Failed> {
        let sent = self.client.sent(self.deadline, self.shard.timeouts().client).await;
        Ok(sent.map_err(|_| Ending::ClientGone)?)
    }

    /// Writes the head that the client gets.
    fn begin(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Begun, BadAnswer> {
        let mut room = http::field_room();
        let head = http::parse_response(bytes, &mut room, self.request.method)
            .map_err(BadAnswer::Response)?;
        let is_final = head.status >= 200 || head.status == 101;
        let tunnel = head.status == 101;
        if tunnel && !(self.request.upgrade && head.upgrade) {
            return Err(BadAnswer::SwitchUnasked);
        }
        let trailers = || heads::trailers(self.request, head.trailers());
        let old_client = self.request.version == Version::Http10;
        let decode = old_client && head.framing == ResponseFraming::Chunked;
        let body = match head.framing {
            _ if !is_final || tunnel => Body::NONE,
            ResponseFraming::None => Body::NONE,
            ResponseFraming::Length(n) => Body::Length(n),
            ResponseFraming::Chunked if decode => Body::Decoded(Chunked::new(trailers())),
            ResponseFraming::Chunked => Body::Chunked(Chunked::new(trailers())),
            ResponseFraming::UntilClose => Body::UntilClose(false),
        };
        let client_lives =
            self.request.keep_alive && !self.shard.stopping() && !body.ends_by_close();
        let forward = ResponseForward {
            client_version: self.request.version,
            keep_alive: client_lives || !is_final,
            framing_out: if decode { FramingOut::DecodeChunked } else { FramingOut::AsIs },
            date: self.shard.date(),
            via: self.shard.tuning().via,
        };
        http::write_response(&head, forward, out);
        if is_final {
            heads::change_response(self.request, out);
        }
        let keeping = KeepTerms {
            seconds: head.keep_alive_seconds.map(|seconds| seconds.try_into().unwrap_or(u16::MAX)),
            is_doubtful: head.names_missing_body(),
            authenticates: head.authenticates,
        };
        let (backend_lives, is_small) = (head.keep_alive && !tunnel, false);
        let answered = Answered { backend_lives, client_lives, tunnel, is_small, keeping };
        Ok(Begun { status: head.status, body, is_final, answered })
    }
}

/// An answer whose head was written, as far as that tells.
struct Begun {
    status: u16,
    body: Body,
    is_final: bool,
    answered: Answered,
}
