//! Calls of idle connections: such a connection has no task of its own, and its waker calls one.
//!
//! Pure but for the wakers of tasks. A shard is one thread, where all of its wakers are woken, so
//! its calls are kept in that thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Key of a connection that is not idle.
const NONE: u32 = u32::MAX;

thread_local! {
    static CALLS: Calls = const { Calls::new() };
}

/// The waker of a connection, which calls a task where the connection is idle.
pub(super) struct Call {
    /// Key of the connection among the idle ones, or `NONE`. Only the shard's thread uses it.
    key: AtomicU32,
}

impl Call {
    pub(super) fn new() -> Arc<Call> {
        Arc::new(Call { key: AtomicU32::new(NONE) })
    }

    /// Has the next wake call a task for the idle connection with this key.
    pub(super) fn expect(&self, key: u32) {
        self.key.store(key, Ordering::Relaxed);
    }
}

impl Wake for Call {
    fn wake(self: Arc<Call>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Call>) {
        let key = self.key.load(Ordering::Relaxed);
        if key != NONE {
            // One call is enough, whatever else happens until a task comes.
            self.key.store(NONE, Ordering::Relaxed);
            call(key);
        }
    }
}

/// Calls a task for the idle connection with this key.
pub(super) fn call(key: u32) {
    CALLS.with(|calls| calls.call(key));
}

/// Waits until a connection was called for which there is no task, and returns its key.
pub(super) async fn unserved() -> u32 {
    poll_fn(|cx| CALLS.with(|calls| calls.poll_unserved(cx))).await
}

/// Ends half of the tasks that had no connection to serve since the last dismissal.
pub(super) fn dismiss() {
    CALLS.with(Calls::dismiss);
}

/// Forgets all spare tasks, at the end of the shard.
pub(super) fn forget() {
    CALLS.with(|calls| calls.spare.take());
}

struct Calls {
    /// Tasks without a connection; the last is the next, as its memory was used last.
    spare: RefCell<Vec<Rc<ServingTask>>>,
    /// Fewest spare tasks since the last dismissal.
    fewest: Cell<usize>,
    /// Connections that were called when there was no spare task.
    unserved: RefCell<VecDeque<u32>>,
    /// The task that makes those that serve.
    maker: RefCell<Option<Waker>>,
}

impl Calls {
    const fn new() -> Calls {
        Calls {
            spare: RefCell::new(Vec::new()),
            fewest: Cell::new(0),
            unserved: RefCell::new(VecDeque::new()),
            maker: RefCell::new(None),
        }
    }

    fn call(&self, key: u32) {
        let spare = self.spare.borrow_mut().pop();
        if let Some(task) = spare {
            self.fewest.set(self.fewest.get().min(self.spare.borrow().len()));
            return task.order(Order::Serve(key));
        }
        self.unserved.borrow_mut().push_back(key);
        let maker = self.maker.take();
        if let Some(maker) = maker {
            maker.wake();
        }
    }

    fn poll_unserved(&self, cx: &Context<'_>) -> Poll<u32> {
        if let Some(key) = self.unserved.borrow_mut().pop_front() {
            return Poll::Ready(key);
        }
        self.maker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn dismiss(&self) {
        let surplus = self.fewest.get().div_ceil(2);
        let dismissed: Vec<_> = self.spare.borrow_mut().drain(..surplus).collect();
        self.fewest.set(self.spare.borrow().len());
        dismissed.into_iter().for_each(|task| task.order(Order::End));
    }
}

/// A task that serves connections, one after the other.
#[derive(Default)]
pub(super) struct ServingTask {
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
enum Order {
    /// Stay spare.
    #[default]
    Stay,
    /// Serve the idle connection with this key.
    Serve(u32),
    End,
}

impl ServingTask {
    fn order(&self, order: Order) {
        self.order.set(order);
        let waker = self.waker.borrow();
        // A task that was not polled since it became spare will look when it is.
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
    }

    /// Waits for a connection that was called; `None`: there is too little work.
    pub(super) async fn next(self: &Rc<ServingTask>) -> Option<u32> {
        let unserved = CALLS.with(|calls| calls.unserved.borrow_mut().pop_front());
        if unserved.is_some() {
            return unserved;
        }
        self.order.set(Order::Stay);
        CALLS.with(|calls| calls.spare.borrow_mut().push(self.clone()));
        poll_fn(|cx| match self.order.get() {
            // A wake that was meant for a connection that the task has served.
            Order::Stay => {
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Order::Serve(key) => Poll::Ready(Some(key)),
            Order::End => Poll::Ready(None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts its wakes.
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn spare_task(calls: &Calls) -> (Rc<ServingTask>, Arc<Count>) {
        let (task, count) = (Rc::new(ServingTask::default()), Arc::new(Count(AtomicU32::new(0))));
        task.waker.replace(Some(count.clone().into()));
        calls.spare.borrow_mut().push(task.clone());
        (task, count)
    }

    fn wakes(count: &Count) -> u32 {
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn task_that_was_busy_last_is_called() {
        let calls = Calls::new();
        let ((first, first_wakes), (last, last_wakes)) = (spare_task(&calls), spare_task(&calls));
        calls.call(7);
        assert_eq!((last.order.get(), wakes(&last_wakes)), (Order::Serve(7), 1));
        assert_eq!((first.order.get(), wakes(&first_wakes)), (Order::Stay, 0));
        calls.call(8);
        assert_eq!(first.order.get(), Order::Serve(8));
    }

    #[test]
    fn calls_without_a_task_wait_in_their_order() {
        let calls = Calls::new();
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = count.clone().into();
        let cx = Context::from_waker(&waker);
        assert_eq!(calls.poll_unserved(&cx), Poll::Pending);
        calls.call(7);
        calls.call(8);
        assert_eq!(wakes(&count), 1, "the maker takes all of them");
        assert_eq!(calls.poll_unserved(&cx), Poll::Ready(7));
        assert_eq!(calls.poll_unserved(&cx), Poll::Ready(8));
        assert_eq!(calls.poll_unserved(&cx), Poll::Pending);
    }

    #[test]
    fn half_of_the_tasks_without_work_are_dismissed() {
        let calls = Calls::new();
        let tasks: Vec<_> = (0..9).map(|_| spare_task(&calls).0).collect();
        // At their first look there is no telling how many were needed.
        calls.dismiss();
        assert_eq!(calls.spare.borrow().len(), 9);
        calls.call(1);
        calls.dismiss();
        assert_eq!(calls.spare.borrow().len(), 4);
        let is_over = |task: &Rc<ServingTask>| task.order.get() == Order::End;
        assert!(tasks[..4].iter().all(is_over) && !tasks[4..].iter().any(is_over));
    }

    #[test]
    fn connection_calls_once_and_only_while_it_is_idle() {
        let call = Call::new();
        let waker: Waker = call.clone().into();
        let unserved = || CALLS.with(|calls| calls.unserved.take());
        waker.wake_by_ref();
        assert!(unserved().is_empty());
        call.expect(3);
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(unserved(), [3]);
    }
}
