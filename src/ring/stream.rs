//! A connected TCP socket on the ring.
//!
//! At most one receive and one send are in flight. A receive is one-shot and belongs to the stream:
//! [`Stream::arm`] may be called early (its completion then needs no further submission), and a reader
//! that gives up waiting loses nothing. A send belongs to the slot: short sends are continued by the
//! ring without waking anybody, and the task need not wait for it unless it wants to send more.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::{opcode, types};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

use super::buffers::RecvBuf;
use super::faults::Call;
use super::socket::{
    BULK, HEADS, Held, Item, PollState, Sending, SocketSlot, end_receiving, register,
};
use super::{Deadline, Op, Ring, Slot, SlotKind, os_error};
use crate::limits;

/// Bytes to send; the ring keeps them until the kernel is done.
pub(crate) enum SendBuf {
    /// From [`Ring::take_vec`]; goes back to the pool, or to [`Stream::take_sent`].
    Vec(Vec<u8>),
    /// What was received on another stream; its buffer goes back to the kernel afterwards.
    Recv(RecvBuf),
}

/// What an idle connection's peer has done meanwhile.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Quiet {
    /// Nothing: it can be used.
    Yes,
    /// It closed, reset, or sent bytes nobody asked for.
    No,
}

/// Which end of what a peer sends counts as leaving. A reset always does.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndCounts {
    /// No end: the peer may be waiting for an answer.
    Never,
    /// An end behind which nothing waits to be taken.
    WhenReached,
    /// Any end, also one behind bytes that nobody has taken.
    Always,
}

/// Whether a wait was ended by its deadline or by the connection.
#[derive(Debug)]
pub(crate) enum Abort {
    TimedOut,
    Io(io::Error),
}

/// The handle of a connected socket. Dropping it cancels what is in flight and closes.
pub(crate) struct Stream {
    ring: Rc<Ring>,
    slot: u32,
}

impl Stream {
    /// Takes over a connected socket. One that another process has spliced with is non-blocking; the ring waits
    /// for either kind.
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Stream {
        let slot = ring.inner.borrow_mut().slots.insert(Slot {
            fd: socket.into_raw_fd(),
            in_flight: 0,
            abandoned: false,
            kind: SlotKind::Socket(SocketSlot::new()),
        });
        Stream { ring: ring.clone(), slot: slot as u32 }
    }

    /// Opens a connection, or says why not by `deadline`.
    pub(crate) async fn connect(
        ring: &Rc<Ring>,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<Stream, Abort> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        if let Some(errno) = ring.inner.borrow_mut().faults.draw(Call::Socket) {
            return Err(Abort::Io(io::Error::from_raw_os_error(errno)));
        }
        let socket =
            rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| Abort::Io(error.into()))?;
        // Heads and the ends of bodies go out at once; keep-alives find peers that vanished.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let stream = Stream::new(ring, socket);
        {
            let mut inner = ring.inner.borrow_mut();
            let raw = Box::new(raw_address(address));
            let fd = types::Fd(inner.slots[stream.slot as usize].fd);
            let pointer = (&raw const raw.0).cast();
            let entry = opcode::Connect::new(fd, pointer, raw.1).build();
            let slot = inner.socket(stream.slot);
            slot.address = Some(raw);
            slot.poll_out = PollState::Armed;
            inner.push(stream.slot as usize, Op::Connect, entry);
        }
        poll_fn(|cx| stream.poll_out_done(cx, deadline)).await?;
        Ok(stream)
    }

    fn with<T>(&self, act: impl FnOnce(&mut SocketSlot) -> T) -> T {
        act(self.ring.inner.borrow_mut().socket(self.slot))
    }

    /// The descriptor, for system calls that the ring has no operation for.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.inner.borrow().slots[self.slot as usize].fd;
        // SAFETY: the descriptor is closed only after this handle is dropped (`Inner::abandon`).
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Starts a receive unless one is in flight, or its bytes, or the end, are waiting to be taken.
    pub(crate) fn arm(&self) {
        self.arm_from(HEADS);
    }

    /// [`arm`](Self::arm) with a large buffer, for a body that is known to go on.
    pub(crate) fn arm_bulk(&self) {
        self.arm_from(BULK);
    }

    /// [`arm`](Self::arm) for a connection that is to be lent again. The receive tries before it
    /// waits for the socket, so what the kernel holds is here after the next turn of the ring.
    pub(crate) fn arm_at_once(&self) {
        self.with(|slot| slot.nonempty = true);
        self.arm();
    }

    fn arm_from(&self, group: u8) {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        if slot.armed.is_none() && matches!(slot.item, Item::None) {
            inner.arm(self.slot, group);
        }
    }

    /// Whether receives from now on go on by themselves, without being armed again for each: for a peer
    /// that says little at a time. What comes faster than it is taken halts them.
    pub(crate) fn flow(&self, on: bool) {
        self.with(|slot| slot.flow = on);
    }

    /// The next receive takes the first [`limits::PEEK_BYTES`] at most: for a head in front of a body that is to
    /// be spliced, which what comes along with the head can't be.
    pub(crate) fn peek(&self) {
        self.with(|slot| slot.peeks = true);
    }

    /// Ends the flow, when that has to be certain. What it brought stays to be taken.
    pub(crate) async fn halted(&self) {
        self.flow(false);
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            inner.halt(self.slot);
            let slot = inner.socket(self.slot);
            if slot.flowing {
                register(&mut slot.recv_waker, cx);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends whatever receive is in flight: from then on nothing is taken out of the socket. What it brought
    /// stays to be taken.
    pub(crate) async fn released(&self) {
        self.flow(false);
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            inner.cancel_receive(self.slot);
            let slot = inner.socket(self.slot);
            if slot.armed.is_some() {
                register(&mut slot.recv_waker, cx);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The next bytes, an empty buffer at the end of the stream, or the error that ended it.
    pub(crate) fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<RecvBuf>> {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        let item = match slot.item {
            Item::None => {
                register(&mut slot.recv_waker, cx);
                if slot.armed.is_none() {
                    inner.arm(self.slot, HEADS);
                }
                return Poll::Pending;
            }
            // Both stay: whoever asks again gets the same answer.
            // The error may have been told to the send alone: an end behind it is none that the peer meant.
            Item::End if slot.send_error != 0 => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(slot.send_error)));
            }
            Item::End => return Poll::Ready(Ok(RecvBuf::empty())),
            Item::Error(errno) => return Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            Item::Lent(_) | Item::Own(_) => slot.take_item(),
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

    /// Whether the peer has reset the connection, as far as a receive in flight could tell. Wakes `cx`
    /// when there is news. An end of stream is not a reset.
    pub(crate) fn poll_reset(&self, cx: &Context<'_>) -> bool {
        self.with(|slot| match slot.item {
            Item::Error(_) => true,
            Item::None => {
                register(&mut slot.recv_waker, cx);
                false
            }
            Item::Lent(_) | Item::Own(_) | Item::End => false,
        })
    }

    /// Whether the peer has left, by a reset or by an end that counts. Wakes `cx` when there is news. A receive in
    /// flight tells; where there is none, or bytes that wait hide what is behind them, a poll does,
    /// which stays from then on.
    pub(crate) fn poll_left(&self, cx: &Context<'_>, counts: EndCounts) -> bool {
        let needs_poll = self.with(|slot| {
            register(&mut slot.recv_waker, cx);
            match slot.item {
                Item::Error(_) => None,
                Item::End if counts != EndCounts::Never => None,
                Item::End | Item::Lent(_) | Item::Own(_) => Some(true),
                Item::None => Some(counts == EndCounts::Always || slot.armed.is_none()),
            }
        });
        match needs_poll {
            None => return true,
            Some(true) => self.start_poll(Op::PollEnd),
            Some(false) => {}
        }
        let leaving = match counts {
            EndCounts::Always => libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP,
            EndCounts::WhenReached | EndCounts::Never => libc::POLLERR | libc::POLLHUP,
        };
        self.with(|slot| slot.end_events & leaving != 0)
    }

    /// Moves received bytes that nobody has taken yet out of the kernel's buffer, when they may have to wait.
    pub(crate) fn gather(&self) {
        for place in 0.. {
            let lent = self.with(|slot| {
                let item = match place {
                    0 => Some(&slot.item),
                    place => slot.behind.as_ref().and_then(|behind| behind.get(place - 1)),
                };
                item.map(|item| if let Item::Lent(lent) = item { Some(*lent) } else { None })
            });
            match lent {
                None => return,
                Some(None) => {}
                Some(Some(lent)) => {
                    let own = Item::Own(RecvBuf::lent(self.ring.clone(), lent).to_vec());
                    self.with(|slot| match (place, &mut slot.behind) {
                        (0, _) => slot.item = own,
                        (place, Some(behind)) => behind[place - 1] = own,
                        (_, None) => unreachable!("it was there just now"),
                    });
                }
            }
        }
    }

    /// Whether an idle connection can still be used. Needs an armed receive to know.
    pub(crate) fn quiet(&self) -> Quiet {
        self.with(|slot| match slot.item {
            Item::None if slot.send_error == 0 && slot.sending.is_none() => Quiet::Yes,
            _ => Quiet::No,
        })
    }

    /// Whether the kernel holds nothing for a connection whose receive was armed in this turn, so
    /// that the ring can't tell yet. One system call. `None`: neither can the kernel, as it may
    /// have the receive already.
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

    /// Whether a receive is in flight that goes on by itself.
    #[cfg(test)]
    pub(super) fn is_flowing(&self) -> bool {
        self.with(|slot| slot.flowing)
    }

    /// Whether received bytes wait to be taken.
    #[cfg(test)]
    pub(super) fn has_bytes(&self) -> bool {
        self.with(|slot| matches!(slot.item, Item::Lent(_) | Item::Own(_)))
    }

    /// Whether a receive is in flight or its result waits: then nobody else may read the socket.
    pub(crate) fn is_armed(&self) -> bool {
        self.with(|slot| slot.armed.is_some() || !matches!(slot.item, Item::None))
    }

    /// Starts sending. The one before must be done ([`sent`](Self::sent)). With `keep`, a `Vec` can be
    /// had back by [`take_sent`](Self::take_sent).
    pub(crate) fn start_send(&self, buf: SendBuf, keep: bool) {
        let held = match buf {
            SendBuf::Vec(bytes) => Held::Vec(bytes),
            SendBuf::Recv(buf) => match buf.into_parts() {
                Ok(lent) => Held::Lent(lent),
                Err(bytes) => Held::Vec(bytes),
            },
        };
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        assert!(slot.sending.is_none(), "one send at a time");
        slot.sending = Some(Sending { held, sent: 0, keep });
        inner.continue_send(self.slot as usize);
    }

    /// Whether nothing is in flight to the peer any more, under a deadline.
    pub(crate) fn poll_sent(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        let (error, sending) = self.with(|slot| {
            let sending = slot.sending.is_some();
            if sending {
                register(&mut slot.send_waker, cx);
            }
            (slot.send_error, sending)
        });
        if error != 0 {
            Poll::Ready(Err(Abort::Io(io::Error::from_raw_os_error(error))))
        } else if !sending {
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
        self.with(|slot| slot.sending.is_none() && slot.send_error == 0)
    }

    /// How much of what is being sent the peer has taken; another number when it is something else.
    pub(crate) fn send_progress(&self) -> usize {
        self.with(|slot| slot.sending.as_ref().map_or(usize::MAX, |sending| sending.sent))
    }

    /// Sends and waits for it.
    #[cfg(test)]
    pub(super) async fn send(
        &self,
        buf: SendBuf,
        deadline: &Deadline,
        pace: Duration,
    ) -> Result<(), Abort> {
        self.sent(deadline, pace).await?;
        self.start_send(buf, false);
        self.sent(deadline, pace).await
    }

    /// The buffer of the last send with `keep`, once it is done.
    pub(crate) fn take_sent(&self) -> Option<Vec<u8>> {
        self.with(|slot| slot.kept.take())
    }

    /// Whether the socket is readable (or at its end, or broken), for `splice`.
    pub(crate) fn poll_readable(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        self.start_poll(Op::PollIn);
        let done = self.with(|slot| {
            let done = matches!(slot.poll_in, PollState::Done(_));
            if done {
                slot.poll_in = PollState::Idle;
            } else {
                register(&mut slot.recv_waker, cx);
            }
            done
        });
        if done {
            Poll::Ready(Ok(()))
        } else if deadline.poll_expired(cx) {
            Poll::Ready(Err(Abort::TimedOut))
        } else {
            Poll::Pending
        }
    }

    /// Waits until the socket takes bytes, for `splice`.
    pub(crate) async fn writable(&self, deadline: &Deadline) -> Result<(), Abort> {
        poll_fn(|cx| self.poll_writable(cx, deadline)).await
    }

    /// Whether the socket takes bytes, under a deadline.
    pub(crate) fn poll_writable(
        &self,
        cx: &Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Result<(), Abort>> {
        self.start_poll(Op::PollOut);
        self.poll_out_done(cx, deadline)
    }

    fn start_poll(&self, op: Op) {
        let mut inner = self.ring.inner.borrow_mut();
        let fd = types::Fd(inner.slots[self.slot as usize].fd);
        let slot = inner.socket(self.slot);
        let (state, mask) = match op {
            Op::PollIn => (&mut slot.poll_in, libc::POLLIN | libc::POLLRDHUP),
            Op::PollEnd => (&mut slot.poll_end, libc::POLLRDHUP),
            _ => (&mut slot.poll_out, libc::POLLOUT),
        };
        if *state == PollState::Idle {
            *state = PollState::Armed;
            if op == Op::PollOut && slot.out_flows {
                return;
            }
            // Multishot, for the end: a reset may follow, and a second poll would find the same end.
            let entry = opcode::PollAdd::new(fd, mask as u32).multi(op == Op::PollEnd);
            inner.push(self.slot as usize, op, entry.build());
        }
    }

    fn poll_out_done(&self, cx: &Context<'_>, deadline: &Deadline) -> Poll<Result<(), Abort>> {
        let state = self.with(|slot| {
            let state = slot.poll_out;
            match state {
                PollState::Done(_) => slot.poll_out = PollState::Idle,
                _ => register(&mut slot.send_waker, cx),
            }
            state
        });
        match state {
            PollState::Done(result) if result < 0 => Poll::Ready(Err(Abort::Io(os_error(result)))),
            PollState::Done(_) => Poll::Ready(Ok(())),
            _ if deadline.poll_expired(cx) => Poll::Ready(Err(Abort::TimedOut)),
            _ => Poll::Pending,
        }
    }

    /// `O_NONBLOCK`, without which `splice(2)` would wait. It stays: what spliced once will do so again, and the
    /// ring's own operations don't mind.
    pub(crate) fn set_nonblocking(&self) {
        if !self.with(|slot| std::mem::replace(&mut slot.nonblocking, true)) {
            let _ = rustix::fs::fcntl_setfl(self.fd(), rustix::fs::OFlags::NONBLOCK);
        }
    }

    /// Sends the end of our stream (FIN) behind what was sent.
    pub(crate) fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Write);
    }

    /// Has the kernel find out about a peer that vanished, however quiet the connection is.
    pub(crate) fn set_keepalive(&self) {
        let _ = sockopt::set_socket_keepalive(self.fd(), true);
    }

    /// Takes it that nothing can be sent any more, as after a send of the ring that failed.
    pub(crate) fn sending_failed(&self, error: &io::Error) {
        self.with(|slot| slot.send_error = error.raw_os_error().unwrap_or(libc::EPIPE));
        end_receiving(self.fd());
    }

    /// [`drop_received`] of its socket.
    pub(crate) fn drop_received(&self) {
        drop_received(self.fd());
    }

    /// Whether a send has failed. An end of stream behind that is the kernel's, and no clean end of
    /// the peer's.
    pub(crate) fn send_failed(&self) -> bool {
        self.with(|slot| slot.send_error != 0)
    }

    /// Bytes that the peer's kernel has not acknowledged, sent or not.
    pub(crate) fn unacknowledged(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to where the pointer says,
        // and that lives.
        let result = unsafe { libc::ioctl(self.fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if result < 0 { 0 } else { usize::try_from(count).unwrap_or(0) }
    }

    /// Makes the close a reset: what was cut off must not look complete.
    pub(crate) fn reset_on_drop(&self) {
        let _ = sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        slot.recv_waker = None;
        slot.send_waker = None;
        let first = std::mem::replace(&mut slot.item, Item::None);
        let behind = slot.behind.take().map(|behind| *behind).unwrap_or_default();
        for item in std::iter::once(first).chain(behind) {
            if let Item::Lent(lent) = item {
                inner.groups[usize::from(lent.group)].give(lent.buffer);
            }
        }
        inner.abandon(self.slot as usize);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Reads and drops what the kernel has received, up to some megabytes: bytes that are still there when a
/// connection is closed reset it, and a reset takes back what the peer has not read yet.
pub(crate) fn drop_received(socket: BorrowedFd<'_>) {
    let mut sink = [0; limits::SINK_BYTES];
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    for _ in 0..limits::SINK_FILLS_MAX {
        match rustix::net::recv(socket, &mut sink[..], flags) {
            Ok((_, count)) if 0 < count => {}
            _ => return,
        }
    }
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    let address = socket2::SockAddr::from(address);
    let len = address.len();
    // SAFETY: `as_storage` only copies the storage out.
    (unsafe { *address.as_ptr().cast::<libc::sockaddr_storage>() }, len)
}
