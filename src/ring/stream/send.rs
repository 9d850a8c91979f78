//! Sending on a stream.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Abort, SendBuf, Stream};
use crate::ring::Deadline;
use crate::ring::socket::{AfterSend, Outgoing, end_receiving};
use crate::ring::tasks::register;

impl Stream {
    /// Starts sending. The send before must be done ([`sent`](Self::sent)).
    pub(crate) fn begin_send(&self, buf: SendBuf) {
        self.send_then(buf, AfterSend::Recycle);
    }

    /// [`begin_send`](Self::begin_send) of bytes that can be had back by
    /// [`take_sent`](Self::take_sent) afterwards.
    pub(crate) fn begin_send_kept(&self, bytes: Vec<u8>) {
        self.send_then(SendBuf::Vec(bytes), AfterSend::Return);
    }

    /// [`begin_send_kept`](Self::begin_send_kept) on a connection that was used before, and whose
    /// receive goes on. The bytes leave only if nothing has come there by now. Otherwise no byte is
    /// sent, they can be taken back, and receiving fails.
    pub(crate) fn begin_send_if_quiet(&self, bytes: Vec<u8>) {
        debug_assert!(self.is_flowing(), "the ring would not know");
        self.ring.inner.borrow_mut().begin_departure(self.slot, bytes);
    }

    fn send_then(&self, buf: SendBuf, after: AfterSend) {
        let outgoing = match buf {
            SendBuf::Vec(bytes) => Outgoing::Vec(bytes),
            SendBuf::Recv(buf) => match buf.into_parts() {
                Ok(lent) => Outgoing::Lent(lent),
                Err(bytes) => Outgoing::Vec(bytes),
            },
        };
        self.ring.inner.borrow_mut().begin_send(self.slot, outgoing, after);
    }

    /// Whether nothing is in flight to the peer any more, under a deadline.
    pub(crate) fn poll_sent(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        let (error, is_sending) = self.with(|slot| {
            let is_sending = slot.send.is_sending();
            if is_sending {
                register(&mut slot.send.waker, cx);
            }
            if slot.send.is_prompt() {
                // The next turn completes it, and has no completion to wait for.
                self.ring.note_runnable();
            }
            (slot.send.error, is_sending)
        });
        if error != 0 {
            Poll::Ready(Err(Abort::errno(error)))
        } else if !is_sending {
            Poll::Ready(Ok(()))
        } else if deadline.poll_expired(cx) {
            Poll::Ready(Err(Abort::TimedOut))
        } else {
            Poll::Pending
        }
    }

    /// Waits until nothing is in flight to the peer. `pace` is how long the peer may take to accept
    /// each part of it (the deadline is set anew when it takes some).
    pub(crate) async fn sent(&self, deadline: &Deadline, pace: Duration) -> Result<(), Abort> {
        if self.is_sent() {
            return Ok(());
        }
        deadline.set(pace);
        let mut progress = self.send_progress();
        loop {
            match poll_fn(|cx| self.poll_sent(cx, deadline)).await {
                Err(Abort::TimedOut) if self.send_progress() != progress => {
                    progress = self.send_progress();
                    deadline.set(pace);
                }
                result => return result,
            }
        }
    }

    /// Whether nothing is in flight to the peer, and nothing went wrong.
    pub(crate) fn is_sent(&self) -> bool {
        self.with(|slot| slot.send.is_sent())
    }

    /// Bytes of the present send that the peer has taken; another number when it is another send.
    pub(crate) fn send_progress(&self) -> usize {
        self.with(|slot| slot.send.progress().unwrap_or(usize::MAX))
    }

    /// Sends and waits until all is taken.
    #[cfg(test)]
    pub(in crate::ring) async fn send(
        &self,
        buf: SendBuf,
        deadline: &Deadline,
        pace: Duration,
    ) -> Result<(), Abort> {
        self.sent(deadline, pace).await?;
        self.begin_send(buf);
        self.sent(deadline, pace).await
    }

    /// The bytes of the last [`begin_send_kept`](Self::begin_send_kept), once they are sent.
    pub(crate) fn take_sent(&self) -> Option<Vec<u8>> {
        self.with(|slot| slot.send.returned.take())
    }

    /// Takes it that nothing can be sent any more, as after a send of the ring that failed.
    pub(crate) fn sending_failed(&self, error: &io::Error) {
        self.with(|slot| slot.send.error = error.raw_os_error().unwrap_or(libc::EPIPE));
        end_receiving(self.fd());
    }

    /// Whether a send has failed. An end of stream after that comes from the kernel and is not a
    /// clean close by the peer.
    pub(crate) fn send_failed(&self) -> bool {
        self.with(|slot| slot.send.error != 0)
    }
}
