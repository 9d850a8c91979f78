//! The receiving end of a wake-up from another thread: an eventfd that the ring polls.

use std::future::poll_fn;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::tasks::wake;
use super::{Inner, Op, Ring, Slot, SlotKind};

pub(super) struct WakeSlot {
    armed: bool,
    woken: bool,
    waker: Option<Waker>,
}

/// Waits for an eventfd that other threads write to.
pub(crate) struct WakeReceiver {
    ring: Rc<Ring>,
    slot: usize,
    fd: OwnedFd,
}

impl WakeReceiver {
    /// Makes a receiver. `eventfd` must be non-blocking; it is duplicated for the ring to close.
    pub(crate) fn new(ring: &Rc<Ring>, eventfd: OwnedFd) -> std::io::Result<WakeReceiver> {
        let copy = eventfd.as_fd().try_clone_to_owned()?;
        let slot = ring.inner.borrow_mut().slots.insert(Slot {
            fd: copy.into_raw_fd(),
            in_flight: 0,
            abandoned: false,
            kind: SlotKind::Wake(WakeSlot { armed: false, woken: false, waker: None }),
        });
        Ok(WakeReceiver { ring: ring.clone(), slot, fd: eventfd })
    }

    /// Waits for the next wake; several that came together count as one.
    pub(crate) async fn woken(&self) {
        poll_fn(|cx| {
            let mut inner = self.ring.inner.borrow_mut();
            let slot = inner.wake_slot(self.slot);
            if std::mem::take(&mut slot.woken) {
                return Poll::Ready(());
            }
            slot.waker = Some(cx.waker().clone());
            if !slot.armed {
                slot.armed = true;
                inner.push_poll(self.slot, Op::Wake, libc::POLLIN);
            }
            Poll::Pending
        })
        .await;
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

impl Drop for WakeReceiver {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        inner.wake_slot(self.slot).waker = None;
        inner.abandon(self.slot);
    }
}

impl Inner {
    fn wake_slot(&mut self, index: usize) -> &mut WakeSlot {
        match &mut self.slots[index].kind {
            SlotKind::Wake(slot) => slot,
            _ => unreachable!("a wake slot is a waker's"),
        }
    }

    pub(super) fn remote_wake(&mut self, index: usize) -> bool {
        let slot = self.wake_slot(index);
        slot.armed = false;
        slot.woken = true;
        wake(&mut slot.waker)
    }
}
