//! A mailbox from all shards to control: a queue, and an eventfd that wakes the reader. A shard
//! never waits for room: if the mailbox is full, `send` fails and the sender decides what to do.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::Waker;

/// The sending end: one for each shard.
pub(super) struct Outbox<T> {
    queue: Sender<T>,
    /// Messages that wait, of all senders.
    waiting: Arc<AtomicUsize>,
    capacity: usize,
    waker: Waker,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Outbox<T> {
        let (queue, waiting, waker) =
            (self.queue.clone(), self.waiting.clone(), self.waker.clone());
        Outbox { queue, waiting, capacity: self.capacity, waker }
    }
}

/// The reading end, which control has. Its lock is never contended, because only one task of one
/// thread reads.
pub(super) struct OutboxReader<T> {
    queue: Arc<Mutex<Receiver<T>>>,
    waiting: Arc<AtomicUsize>,
    waker: Waker,
}

impl<T> Clone for OutboxReader<T> {
    fn clone(&self) -> OutboxReader<T> {
        let (queue, waiting, waker) =
            (self.queue.clone(), self.waiting.clone(), self.waker.clone());
        OutboxReader { queue, waiting, waker }
    }
}

/// Makes a mailbox in which at most `capacity` messages wait.
pub(super) fn outbox<T>(capacity: usize) -> io::Result<(Outbox<T>, OutboxReader<T>)> {
    let (sender, receiver) = channel();
    let (waiting, waker) = (Arc::new(AtomicUsize::new(0)), Waker::new()?);
    let queue = Arc::new(Mutex::new(receiver));
    let reader = OutboxReader { queue, waiting: waiting.clone(), waker: waker.clone() };
    Ok((Outbox { queue: sender, waiting, capacity, waker }, reader))
}

impl<T> Outbox<T> {
    /// Sends a message and wakes the reader. `false`: the mailbox is full, or its reader is gone.
    pub(super) fn send(&self, message: T) -> bool {
        if self.capacity <= self.waiting.fetch_add(1, Ordering::Relaxed) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let is_sent = self.queue.send(message).is_ok();
        if is_sent {
            self.waker.wake();
        }
        is_sent
    }
}

impl<T> OutboxReader<T> {
    /// Takes the next message, in the order in which the shards sent them.
    pub(super) fn next(&self) -> Option<T> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let message = queue.try_recv().ok()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(message)
    }

    /// A descriptor that is readable when a message waits.
    pub(super) fn readable(&self) -> io::Result<OwnedFd> {
        self.waker.receiver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_room_is_refused() {
        let (first, reader) = outbox(3).expect("a mailbox");
        let second = first.clone();
        assert!(first.send(1) && second.send(2) && first.send(3));
        assert!(!second.send(4), "three wait");
        assert_eq!([reader.next(), reader.next()], [Some(1), Some(2)]);
        assert!(second.send(5), "there is room again");
        assert_eq!([reader.next(), reader.next(), reader.next()], [Some(3), Some(5), None]);
    }

    #[test]
    fn messages_of_all_shards_come_in_one_order() {
        let (outbox, reader) = outbox(usize::MAX).expect("a mailbox");
        let shards = [outbox.clone(), outbox];
        for ticket in 0..3 {
            for (shard, outbox) in shards.iter().enumerate() {
                assert!(outbox.send((shard, ticket)));
            }
        }
        let all: Vec<(usize, i32)> = std::iter::from_fn(|| reader.next()).collect();
        assert_eq!(all, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]);
    }
}
