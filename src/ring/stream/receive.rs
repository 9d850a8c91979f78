//! Receiving on a stream, and looking at what its peer has done without receiving.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;

use super::{Abort, EndCounts, Quiet, Stream};
use crate::ring::buffers::{Group, RecvBuf};
use crate::ring::socket::{Item, Portion, Readiness, ReceiveMode};
use crate::ring::tasks::register;
use crate::ring::{Deadline, Inner, KnownFrom};

impl Stream {
    /// Starts a receive unless one is in flight, or its bytes, or the end, are waiting to be taken.
    pub(crate) fn arm(&self) {
        self.arm_from(Group::Heads);
    }

    /// [`arm`](Self::arm) for a connection that is to be lent again. Returns when bytes that the
    /// kernel holds now are here. The receive tries before it waits for the socket.
    pub(crate) fn arm_at_once(&self) -> KnownFrom {
        let mut inner = self.ring.inner.borrow_mut();
        let turn = inner.turns;
        let side = &mut inner.socket(self.slot).receive;
        side.check();
        if side.flows_since_before(turn) {
            return KnownFrom::Mark(inner.departures.want_mark());
        }
        side.readiness = Readiness::Try;
        if side.may_arm() {
            inner.arm(self.slot, Group::Heads);
        }
        KnownFrom::Turn(turn)
    }

    /// [`arm`](Self::arm) with a large buffer, for a body that is known to go on.
    pub(crate) fn arm_bulk(&self) {
        self.stop_flow();
        self.ring.inner.borrow_mut().stop_multishot(self.slot);
        self.arm_from(Group::Bulk);
    }

    fn arm_from(&self, group: Group) {
        let mut inner = self.ring.inner.borrow_mut();
        let side = &mut inner.socket(self.slot).receive;
        side.check();
        if side.may_arm() {
            inner.arm(self.slot, group);
        }
    }

    /// Makes receives go on by themselves from now on, without being armed again for each: for a
    /// peer that sends little at a time. Bytes that come faster than they are taken stop the flow.
    pub(crate) fn start_flow(&self) {
        self.with(|slot| slot.receive.mode = ReceiveMode::Multishot);
    }

    /// [`start_flow`](Self::start_flow) for a peer that may send much at a time. Does nothing on a
    /// kernel where one such peer could take all buffers of the ring.
    pub(crate) fn start_bounded_flow(&self) {
        let mut inner = self.ring.inner.borrow_mut();
        if inner.bounds_flows {
            inner.socket(self.slot).receive.mode = ReceiveMode::Multishot;
        }
    }

    /// Takes note of a message that was small, from head to end. A bounded flow starts once
    /// [`limits::SMALL_MESSAGES`](crate::limits::SMALL_MESSAGES) of them have followed each other.
    pub(crate) fn note_small(&self) {
        let mut inner = self.ring.inner.borrow_mut();
        if inner.bounds_flows {
            inner.socket(self.slot).receive.note_small();
        }
    }

    /// Makes receives be armed one by one from now on. The one in flight may go on: see
    /// [`halted`](Self::halted).
    fn stop_flow(&self) {
        self.with(|slot| slot.receive.stop_flow());
    }

    /// Whether a receive is in flight that goes on by itself.
    pub(crate) fn is_flowing(&self) -> bool {
        self.with(|slot| slot.receive.is_multishot())
    }

    /// Makes the next receive take the first [`limits::PEEK_BYTES`](crate::limits::PEEK_BYTES) at
    /// most: for a head in front of a body that is to be spliced. Bytes that come along with the
    /// head can't be spliced.
    pub(crate) fn peek(&self) {
        self.stop_flow();
        self.with(|slot| slot.receive.portion = Portion::Peek);
    }

    /// Ends the flow, and waits until it has ended. Bytes that it brought stay to be taken.
    pub(crate) async fn halted(&self) {
        self.stop_flow();
        let is_over = |inner: &mut Inner| {
            inner.stop_multishot(self.slot);
            !inner.socket(self.slot).receive.is_multishot()
        };
        self.receive_over(is_over).await;
    }

    /// Ends any receive in flight, and waits until it has ended: from then on nothing is taken out
    /// of the socket. Bytes that the receive brought stay to be taken.
    pub(crate) async fn released(&self) {
        self.stop_flow();
        let is_over = |inner: &mut Inner| {
            inner.cancel_receive(self.slot);
            !inner.socket(self.slot).receive.is_in_flight()
        };
        self.receive_over(is_over).await;
    }

    async fn receive_over(&self, is_over: impl Fn(&mut Inner) -> bool) {
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            if is_over(&mut inner) {
                return Poll::Ready(());
            }
            register(&mut inner.socket(self.slot).receive.waker, cx);
            Poll::Pending
        })
        .await;
    }

    /// The next bytes, an empty buffer at the end of the stream, or the error that ended it.
    pub(crate) fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<RecvBuf>> {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        let side = &mut slot.receive;
        side.check();
        if slot.send.departs() {
            // What is here already makes the send be withdrawn, in the turn that comes.
            register(&mut side.waker, cx);
            return Poll::Pending;
        }
        if slot.send.is_withdrawn {
            return Poll::Ready(Err(io::Error::from_raw_os_error(slot.send.error)));
        }
        let item = match side.received.first() {
            Item::None => {
                register(&mut side.waker, cx);
                if side.may_arm() {
                    inner.arm(self.slot, Group::Heads);
                }
                return Poll::Pending;
            }
            // The end and an error stay: a task that asks again gets the same answer.
            // If a send has failed, an end of stream after it comes from the kernel and is not a
            // clean close by the peer.
            Item::End if slot.send.error != 0 => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(slot.send.error)));
            }
            Item::End => return Poll::Ready(Ok(RecvBuf::empty())),
            Item::Error(errno) => return Poll::Ready(Err(io::Error::from_raw_os_error(*errno))),
            Item::Lent(_) | Item::Own(_) => side.received.take(),
        };
        drop(inner);
        let buf = match item {
            Item::Lent(lent) => RecvBuf::lent(self.ring.clone(), lent),
            Item::Own(bytes) => RecvBuf::own(bytes),
            Item::None | Item::End | Item::Error(_) => unreachable!("answered above"),
        };
        if cfg!(debug_assertions) {
            self.ring.inner.borrow().faults.look(&buf);
        }
        Poll::Ready(Ok(buf))
    }

    /// [`poll_recv`](Self::poll_recv) under a deadline.
    pub(crate) fn poll_recv_by(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<RecvBuf, Abort>> {
        match self.poll_recv(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(Abort::Io)),
            Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(Abort::TimedOut)),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(crate) async fn recv(&self, deadline: &Deadline) -> Result<RecvBuf, Abort> {
        poll_fn(|cx| self.poll_recv_by(cx, deadline)).await
    }

    /// Whether the peer has reset the connection, as far as a receive in flight could tell. Wakes
    /// `cx` when there is news. An end of stream is not a reset.
    pub(crate) fn poll_reset(&self, cx: &Context<'_>) -> bool {
        self.with(|slot| match slot.receive.received.first() {
            Item::Error(_) => true,
            Item::None => {
                register(&mut slot.receive.waker, cx);
                false
            }
            Item::Lent(_) | Item::Own(_) | Item::End => false,
        })
    }

    /// Whether the peer has left, by a reset or by an end that counts. Wakes `cx` when there is
    /// news. A receive in flight reports it. Without one, or if waiting bytes hide what is behind
    /// them, a poll reports it, which stays from then on.
    pub(crate) fn poll_left(&self, cx: &Context<'_>, counts: EndCounts) -> bool {
        let needs_poll = self.with(|slot| {
            let side = &mut slot.receive;
            register(&mut side.waker, cx);
            match side.received.first() {
                Item::Error(_) => None,
                Item::End if counts != EndCounts::Never => None,
                Item::End | Item::Lent(_) | Item::Own(_) => Some(true),
                Item::None => Some(counts == EndCounts::Always || !side.is_in_flight()),
            }
        });
        match needs_poll {
            None => return true,
            Some(true) => self.ring.inner.borrow_mut().poll_for_end(self.slot),
            Some(false) => {}
        }
        let leaving = match counts {
            EndCounts::Always => libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP,
            EndCounts::WhenReached | EndCounts::Never => libc::POLLERR | libc::POLLHUP,
        };
        self.with(|slot| slot.polls.end_events & leaving != 0)
    }

    /// Moves received bytes that no task has taken yet out of the kernel's buffers, when they may
    /// have to wait.
    pub(crate) fn gather(&self) {
        while let Some((index, lent)) = self.with(|slot| slot.receive.received.first_lent()) {
            let bytes = RecvBuf::lent(self.ring.clone(), lent).to_vec();
            self.with(|slot| slot.receive.received.replace(index, bytes));
        }
    }

    /// Whether an idle connection can still be used. Only an armed receive can tell.
    pub(crate) fn quiet(&self) -> Quiet {
        self.with(|slot| match slot.receive.received.is_empty() && slot.send.is_sent() {
            true => Quiet::Yes,
            false => Quiet::No,
        })
    }

    /// Whether the kernel holds nothing for a connection of which the ring can't tell yet. Costs a
    /// system call. `None`: the kernel can't tell either, because a receive may have taken what it
    /// held.
    pub(crate) fn quiet_by_peeking(&self) -> Option<Quiet> {
        if self.ring.inner.borrow().submitted_early {
            return None;
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // An end of stream (0 bytes) or an error is news as well.
        Some(match rustix::net::recv(self.fd(), &mut [0u8; 1][..], flags) {
            Err(rustix::io::Errno::AGAIN) => self.quiet(),
            _ => Quiet::No,
        })
    }

    /// Whether received bytes wait to be taken.
    pub(crate) fn has_bytes(&self) -> bool {
        self.with(|slot| slot.receive.received.has_bytes())
    }

    /// Whether a receive is in flight or its result waits: then nothing else may read the socket.
    pub(crate) fn is_armed(&self) -> bool {
        self.with(|slot| !slot.receive.may_arm())
    }
}
