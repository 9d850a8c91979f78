//! A listening socket: multishot accept (Linux 5.19), one submission for all connections that come.
//!
//! Accept ends on errors. If descriptors (EMFILE, ENFILE) or memory have run out, starting it again
//! at once would spin: the caller pauses (as HAProxy and nginx do) and then calls
//! [`Listener::accept`] again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use io_uring::{opcode, types};

use super::tasks::wake;
use super::{Inner, Op, Ring, Slot, SlotKind, os_error, user_data};

pub(super) struct ListenerSlot {
    armed: bool,
    ready: VecDeque<Result<RawFd, i32>>,
    waker: Option<Waker>,
}

/// The handle of a listening socket. Dropping it stops accepting and closes.
pub(crate) struct Listener {
    ring: Rc<Ring>,
    slot: usize,
}

impl Listener {
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Listener {
        let slot = ring.inner.borrow_mut().slots.insert(Slot {
            fd: socket.into_raw_fd(),
            in_flight: 0,
            abandoned: false,
            kind: SlotKind::Listener(ListenerSlot {
                armed: false,
                ready: VecDeque::new(),
                waker: None,
            }),
        });
        Listener { ring: ring.clone(), slot }
    }

    /// Accepts the next connection: blocking mode, close-on-exec.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            let fd = types::Fd(inner.slots[self.slot].fd);
            let slot = inner.listener(self.slot);
            match slot.ready.pop_front() {
                // SAFETY: the kernel made this descriptor for us and nothing else has seen it.
                Some(Ok(fd)) => Poll::Ready(Ok(unsafe { OwnedFd::from_raw_fd(fd) })),
                Some(Err(errno)) => Poll::Ready(Err(os_error(errno))),
                None => {
                    slot.waker = Some(cx.waker().clone());
                    if !slot.armed {
                        slot.armed = true;
                        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC);
                        inner.push(self.slot, Op::Accept, entry.build());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Listener {
    /// Ends the accept in flight: from then on the ring accepts no connection. Connections that it
    /// has accepted by then are returned by [`ready`](Self::ready): if they were closed unseen,
    /// they would be reset.
    pub(crate) async fn stopped(&self) {
        let mut is_told = false;
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            let slot = inner.listener(self.slot);
            if !slot.armed {
                return Poll::Ready(());
            }
            slot.waker = Some(cx.waker().clone());
            if !std::mem::replace(&mut is_told, true) {
                let entry = opcode::AsyncCancel::new(user_data(self.slot, Op::Accept)).build();
                inner.push(self.slot, Op::Cancel, entry);
            }
            Poll::Pending
        })
        .await;
    }

    /// Returns the next connection that the ring has accepted already.
    pub(crate) fn ready(&self) -> Option<OwnedFd> {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.listener(self.slot);
        while matches!(slot.ready.front(), Some(Err(_))) {
            slot.ready.pop_front();
        }
        // SAFETY: the kernel made this descriptor for us and nothing else has seen it.
        slot.ready.pop_front()?.ok().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Accepts one waiting connection at once, without the ring: `WouldBlock` if none waits. Meant
    /// for the last ones before closing, and for shedding when descriptors are short.
    pub(crate) fn accept_now(&self) -> io::Result<OwnedFd> {
        if let Some(socket) = self.ready() {
            return Ok(socket);
        }
        let fd = self.ring.inner.borrow().slots[self.slot].fd;
        // SAFETY: the listener's descriptor is closed only after this handle is dropped.
        let listener = unsafe { BorrowedFd::borrow_raw(fd) };
        // Shards may share a socket: if another shard took the flag back in between, accept would
        // block.
        let _flag = OneAtATime::begin();
        rustix::fs::fcntl_setfl(listener, rustix::fs::OFlags::NONBLOCK)?;
        let accepted = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC);
        rustix::fs::fcntl_setfl(listener, rustix::fs::OFlags::empty())?;
        Ok(accepted?)
    }
}

/// Lock that one shard of the process holds at a time, for three system calls that do not wait.
/// Used only while descriptors are short or the shard stops.
struct OneAtATime;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

impl OneAtATime {
    fn begin() -> OneAtATime {
        while IS_TAKEN.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        OneAtATime
    }
}

impl Drop for OneAtATime {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::Release);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.listener(self.slot);
        slot.waker = None;
        for fd in slot.ready.drain(..).flatten() {
            close(fd);
        }
        inner.abandon(self.slot);
    }
}

impl Inner {
    fn listener(&mut self, index: usize) -> &mut ListenerSlot {
        match &mut self.slots[index].kind {
            SlotKind::Listener(listener) => listener,
            _ => unreachable!("a listener's slot is a listener's"),
        }
    }

    pub(super) fn accepted(&mut self, index: usize, result: i32, more: bool) -> bool {
        let abandoned = self.slots[index].abandoned;
        if abandoned {
            if result >= 0 {
                close(result);
            }
            return false;
        }
        let slot = self.listener(index);
        slot.armed = more;
        match result {
            // The accept was cancelled; or another process that has the same socket had just set it
            // to non-blocking.
            errno if [libc::ECANCELED, libc::EAGAIN].contains(&-errno) => {}
            // The connection was gone before it was accepted: no error of ours, but multishot may
            // have ended with it.
            errno if [libc::ECONNABORTED, libc::EINTR].contains(&-errno) => {}
            errno if errno < 0 => slot.ready.push_back(Err(errno)),
            fd => slot.ready.push_back(Ok(fd)),
        }
        wake(&mut slot.waker)
    }
}

pub(super) fn close(fd: RawFd) {
    // SAFETY: the kernel made this descriptor for us and nothing else has seen it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
