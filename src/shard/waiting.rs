//! Line of requests that wait for a permit: first come, first served, and only the first is woken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;

use crate::ring::{Deadline, Notify};

/// Requests in line, by what wakes each.
#[derive(Default)]
pub(super) struct WaitingLine(VecDeque<Weak<Notify>>);

impl WaitingLine {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a request at the end.
    pub(super) fn join(&mut self, turn: &Rc<Notify>) {
        self.0.push_back(Rc::downgrade(turn));
    }

    pub(super) fn is_first(&self, turn: &Rc<Notify>) -> bool {
        self.0.front().is_some_and(|first| std::ptr::eq(first.as_ptr(), Rc::as_ptr(turn)))
    }

    pub(super) fn wake_first(&self) {
        if let Some(first) = self.0.front().and_then(Weak::upgrade) {
            first.notify();
        }
    }

    /// Takes a request out, wherever it stands.
    pub(super) fn leave(&mut self, turn: &Rc<Notify>) {
        // Nearly always the first: ten thousand may leave one after the other.
        if self.is_first(turn) {
            self.0.pop_front();
        } else {
            self.0.retain(|other| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(turn)));
        }
    }
}

/// Waits until a request in line is woken; false once `deadline` came first.
pub(super) async fn woken(turn: &Notify, deadline: &Deadline) -> bool {
    poll_fn(|cx| {
        if turn.poll_notified(cx).is_ready() {
            Poll::Ready(true)
        } else if deadline.poll_expired(cx) {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    })
    .await
}
