//! Waking the tasks that wait for the ring: a waker is kept in a slot or a timer node until then.

use std::task::{Context, Waker};

/// Wakes the task that waits, if one does, and says whether one did.
pub(super) fn wake(waker: &mut Option<Waker>) -> bool {
    match waker.take() {
        Some(waker) => {
            waker.wake();
            true
        }
        None => false,
    }
}

/// Makes `waker` wake the task of `cx`; cheap when it does already.
pub(super) fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *waker = Some(cx.waker().clone()),
    }
}
