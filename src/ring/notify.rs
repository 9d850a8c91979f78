//! Wakes a task of the same shard: for queues inside the shard (a free backend connection, a stop).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Ring;
use super::socket::register;

/// A flag that one task sets and another waits for.
pub(crate) struct Notify {
    ring: Rc<Ring>,
    state: RefCell<(bool, Option<Waker>)>,
}

impl Notify {
    pub(crate) fn new(ring: &Rc<Ring>) -> Notify {
        Notify { ring: ring.clone(), state: RefCell::new((false, None)) }
    }

    pub(crate) fn notify(&self) {
        let waker = {
            let mut state = self.state.borrow_mut();
            state.0 = true;
            state.1.take()
        };
        self.ring.wake(waker);
    }

    pub(crate) fn poll_notified(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.0 {
            state.0 = false;
            return Poll::Ready(());
        }
        register(&mut state.1, cx);
        Poll::Pending
    }

    pub(crate) async fn notified(&self) {
        std::future::poll_fn(|cx| self.poll_notified(cx)).await;
    }
}
