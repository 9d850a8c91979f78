//! What shards tell control: a queue with a bound and an eventfd. A shard never waits for room in it; what
//! does not fit is counted, and told again when it happens again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::Waker;
use crate::limits;

/// Something that control should know of.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// As many requests in a row as it takes failed at this backend.
    BackendFailed { address: SocketAddr, how: Failure },
    /// A request was to go to an address on which this daemon itself listens.
    Loop { address: SocketAddr },
    /// It was said to fail, and has answered a request since.
    BackendAnswered { address: SocketAddr },
}

/// How a backend failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No connection could be opened.
    Unreachable,
    /// A new connection was closed or reset before a byte of an answer.
    Silent,
}

/// A shard's end.
pub(super) struct Reporter {
    queue: SyncSender<News>,
    waker: Waker,
}

/// Control's end. The lock is never contended: one task of one thread reads.
#[derive(Clone)]
pub(super) struct Reports {
    queue: Arc<Mutex<Receiver<News>>>,
    waker: Waker,
}

pub(super) fn queue(shards: usize) -> io::Result<(Reports, Vec<Reporter>)> {
    let (sender, receiver) = sync_channel(limits::NEWS_MAX);
    let waker = Waker::new()?;
    let reporter = || Reporter { queue: sender.clone(), waker: waker.clone() };
    let reporters = (0..shards).map(|_| reporter()).collect();
    Ok((Reports { queue: Arc::new(Mutex::new(receiver)), waker }, reporters))
}

impl Reporter {
    /// Whether there was room for it.
    pub(super) fn tell(&self, news: News) -> bool {
        let sent = self.queue.try_send(news).is_ok();
        if sent {
            self.waker.wake();
        }
        sent
    }
}

impl Reports {
    pub(super) fn next(&self) -> Option<News> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }

    /// Readable when there is something.
    pub(super) fn readable(&self) -> io::Result<OwnedFd> {
        self.waker.receiver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_waits() {
        let (reports, reporters) = queue(2).expect("a queue");
        let news = |port| News::BackendAnswered { address: ([10, 0, 0, 1], port).into() };
        assert!(reporters[0].tell(news(1)) && reporters[1].tell(news(2)));
        assert_eq!(
            [reports.next(), reports.next(), reports.next()],
            [Some(news(1)), Some(news(2)), None]
        );
        let taken = (0..=limits::NEWS_MAX).filter(|_| reporters[0].tell(news(3))).count();
        assert_eq!(taken, limits::NEWS_MAX);
        assert_eq!(reports.next(), Some(news(3)));
        assert!(reporters[1].tell(news(4)), "there is room again");
    }
}
