//! Wakes a task of the same shard: for queues inside the shard (a free backend connection, a stop).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Ring;

/// A flag that one task sets and another waits for.
pub(crate) struct Notify {
    ring: Rc<Ring>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    is_set: bool,
    waiting: Vec<Waker>,
}

impl Notify {
    pub(crate) fn new(ring: &Rc<Ring>) -> Notify {
        Notify { ring: ring.clone(), state: RefCell::default() }
    }

    pub(crate) fn notify(&self) {
        let wakers = {
            let mut state = self.state.borrow_mut();
            state.is_set = true;
            std::mem::take(&mut state.waiting)
        };
        // Wakes all of them: one may belong to a future that was dropped. The first task that looks
        // takes the flag.
        wakers.into_iter().for_each(|waker| self.ring.wake(Some(waker)));
    }

    pub(crate) fn poll_notified(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if std::mem::take(&mut state.is_set) {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) async fn notified(&self) {
        std::future::poll_fn(|cx| self.poll_notified(cx)).await;
    }
}
