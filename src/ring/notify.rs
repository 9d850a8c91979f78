//! Wakes a task of the same shard: for queues inside the shard (a free backend connection, a stop).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Ring;

/// A flag that one task sets and another waits for.
pub(crate) struct Notify {
    ring: Rc<Ring>,
    state: RefCell<(bool, Vec<Waker>)>,
}

impl Notify {
    pub(crate) fn new(ring: &Rc<Ring>) -> Notify {
        Notify { ring: ring.clone(), state: RefCell::new((false, Vec::new())) }
    }

    pub(crate) fn notify(&self) {
        let wakers = {
            let mut state = self.state.borrow_mut();
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        // All of them: one may belong to a future that was dropped. Who comes first takes the flag.
        wakers.into_iter().for_each(|waker| self.ring.wake(Some(waker)));
    }

    pub(crate) fn poll_notified(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.0 {
            state.0 = false;
            return Poll::Ready(());
        }
        if !state.1.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.1.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) async fn notified(&self) {
        std::future::poll_fn(|cx| self.poll_notified(cx)).await;
    }
}
