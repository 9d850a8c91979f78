//! Waits of a spliced stream: for bytes to read, and for room to write.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::{Abort, Stream};
use crate::ring::Deadline;
use crate::ring::socket::ReadPoll;
use crate::ring::tasks::register;

impl Stream {
    /// Polls until a `splice` from the socket need not wait: it has bytes, its end or an error.
    /// Fails at the deadline.
    pub(crate) fn poll_readable(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        self.ring.inner.borrow_mut().poll_for_bytes(self.slot);
        let is_ready = self.with(|slot| {
            let is_ready = slot.polls.read == ReadPoll::Ready;
            if is_ready {
                slot.polls.read = ReadPoll::Idle;
            } else {
                register(&mut slot.receive.waker, cx);
            }
            is_ready
        });
        if is_ready {
            Poll::Ready(Ok(()))
        } else if deadline.poll_expired(cx) {
            Poll::Ready(Err(Abort::TimedOut))
        } else {
            Poll::Pending
        }
    }

    /// Waits until a `splice` to the socket can write. Fails at the deadline.
    pub(crate) async fn writable(&self, deadline: &Deadline) -> Result<(), Abort> {
        poll_fn(|cx| self.poll_writable(cx, deadline)).await
    }

    /// Polls until the socket takes bytes, as [`Self::writable`] does. Fails at the deadline.
    pub(crate) fn poll_writable(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        self.ring.inner.borrow_mut().poll_for_room(self.slot);
        self.poll_room(cx, deadline)
    }

    /// Polls until the operation in flight has reported: the poll for room or, on a new socket, the
    /// connect. Fails with the error that the kernel reports, or at the deadline.
    pub(super) fn poll_room(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        let result = self.with(|slot| {
            let result = slot.polls.room.take_result();
            if result.is_none() {
                register(&mut slot.send.waker, cx);
            }
            result
        });
        match result {
            Some(errno) if errno < 0 => Poll::Ready(Err(Abort::errno(-errno))),
            Some(_) => Poll::Ready(Ok(())),
            None if deadline.poll_expired(cx) => Poll::Ready(Err(Abort::TimedOut)),
            None => Poll::Pending,
        }
    }
}
