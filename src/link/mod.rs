//! All that the control shard and the shards know of each other: what is published, how a shard is
//! woken and stopped, the counters it alone writes, what control asks it and what it tells, which
//! backends are down, and the gates that hold a limit across shards.

mod counters;
mod drain;
mod gate;
mod handover;
mod health;
mod held;
mod logbook;
mod news;
mod rate;
mod shares;
mod slots;
mod sources;
mod tuning;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};

use crate::http::Pages;
use crate::table::Snapshot;

pub(crate) use counters::{Counter, Counters, HELD_BOUNDS, Shed};
pub(crate) use drain::Drain;
pub(crate) use gate::{Gate, Gates};
pub(crate) use handover::{Handed, Speaks};
pub(crate) use health::Down;
pub(crate) use held::{Lines, PLACE_FIRST, Place, Report, Ticket, Waits, Why, Word};
pub(crate) use logbook::Logbook;
pub(crate) use news::{Failure, News};
pub(crate) use rate::{Rate, Rates};
pub(crate) use shares::Shares;
pub(crate) use slots::{ByKey, Count, Id, KeySet, Slot, Slots, Sums, TIME_BOUNDS};
pub(crate) use sources::Sources;
pub(crate) use tuning::{Timeouts, Tuning};

/// What every shard reads and only the control shard replaces.
pub(crate) struct Published {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) pages: ArcSwap<Pages>,
    pub(crate) down: Down,
    pub(crate) lines: Lines,
    pub(crate) tuning: ArcSwap<Tuning>,
}

impl Published {
    pub(crate) fn new(snapshot: Snapshot, pages: Pages, tuning: Tuning) -> Published {
        Published {
            snapshot: ArcSwap::from_pointee(snapshot),
            pages: ArcSwap::from_pointee(pages),
            down: Down::default(),
            lines: Lines::default(),
            tuning: ArcSwap::from_pointee(tuning),
        }
    }
}

/// What all shards count together.
pub(crate) struct Together {
    pub(crate) gates: Gates,
    pub(crate) rates: Rates,
    /// The nodes that limits are divided by.
    pub(crate) shares: Arc<Shares>,
    pub(crate) sources: Sources,
    pub(crate) logbook: Logbook,
}

/// How far a shard is on its way out.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub(crate) enum Stop {
    /// It is not.
    No = 0,
    /// Another process takes over: no new connections, and those that are held or between two requests go
    /// there; ends when the last one did.
    HandOver = 1,
    /// No new connections; answers say `Connection: close`; ends when the last one did.
    Drain = 2,
    /// At once.
    Now = 3,
}

/// Wakes a shard that sleeps in its ring.
#[derive(Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    fn new() -> io::Result<Waker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker(Arc::new(fd)))
    }

    /// Never blocks; wakes that come together count as one.
    pub(crate) fn wake(&self) {
        // The only error of a non-blocking eventfd is a full counter: then it is readable already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// The descriptor for the shard's ring to wait on.
    pub(crate) fn receiver(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// What one shard and control have between them.
struct Shared {
    stop: AtomicU8,
    waker: Waker,
    counters: Counters,
    hosts: Slots,
    backends: Slots,
}

/// The shard's end.
pub(crate) struct ShardEnd {
    /// Position among the shards.
    pub(crate) index: usize,
    pub(crate) published: Arc<Published>,
    pub(crate) together: Arc<Together>,
    shared: Arc<Shared>,
    drains: Receiver<Arc<Drain>>,
    news: news::Reporter,
    held: held::Desk,
    adopted: Receiver<Handed>,
    handed: Sender<Option<Handed>>,
}

impl ShardEnd {
    pub(crate) fn stop(&self) -> Stop {
        match self.shared.stop.load(Ordering::Relaxed) {
            0 => Stop::No,
            1 => Stop::HandOver,
            2 => Stop::Drain,
            _ => Stop::Now,
        }
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.shared.waker
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Counters by host: [`Id`] is its key and two zeros.
    pub(crate) fn hosts(&self) -> &Slots {
        &self.shared.hosts
    }

    /// Counters by backend.
    pub(crate) fn backends(&self) -> &Slots {
        &self.shared.backends
    }

    /// The next question of control, if there is one.
    pub(crate) fn next_drain(&self) -> Option<Arc<Drain>> {
        self.drains.try_recv().ok()
    }

    /// The next connection that another process has handed over, if there is one.
    pub(crate) fn next_adopted(&self) -> Option<Handed> {
        self.adopted.try_recv().ok()
    }

    /// Hands a connection over to the process that takes over; `false`: there is none any more.
    pub(crate) fn hand_over(&self, handed: Handed) -> bool {
        self.handed.send(Some(handed)).is_ok()
    }

    /// Says that a request waits, or waits no more.
    pub(crate) fn report(&self, report: Report) {
        self.held.report(report);
    }

    /// The next word on a request that waits, if there is one.
    pub(crate) fn next_word(&self) -> Option<(Ticket, Word)> {
        self.held.words.try_recv().ok()
    }

    /// Tells control, unless it is too far behind; whether it was told.
    pub(crate) fn tell(&self, news: News) -> bool {
        let told = self.news.tell(news);
        if !told {
            self.counters().add(Counter::NewsDropped, 1);
        }
        told
    }
}

/// The control shard's end: all shards.
#[derive(Clone)]
pub(crate) struct ControlEnd {
    pub(crate) together: Arc<Together>,
    handed: Sender<Option<Handed>>,
    shards: Vec<One>,
    news: news::Reports,
    held: held::Reports,
}

/// One shard, as control sees it.
#[derive(Clone)]
struct One {
    shared: Arc<Shared>,
    drains: Sender<Arc<Drain>>,
    words: Sender<(Ticket, Word)>,
    adopt: Sender<Handed>,
}

impl ControlEnd {
    /// Asks every shard to stop; a second, stronger call may follow.
    pub(crate) fn stop(&self, how: Stop) {
        for One { shared: shard, .. } in &self.shards {
            shard.stop.fetch_max(how as u8, Ordering::Relaxed);
            shard.waker.wake();
        }
    }

    /// Gives a shard a connection that another process has handed over.
    pub(crate) fn adopt(&self, shard: usize, handed: Handed) {
        let one = &self.shards[shard % self.shards.len()];
        // A shard that has ended takes nobody in: the client sees its connection closed.
        let _ = one.adopt.send(handed);
        one.shared.waker.wake();
    }

    /// Says that no shard hands anything over any more.
    pub(crate) fn end_hand_over(&self) {
        // Whoever passed it on may have given up.
        let _ = self.handed.send(None);
    }

    /// The sum over all shards.
    pub(crate) fn total(&self, counter: Counter) -> u64 {
        self.counters().map(|counters| counters.get(counter)).sum()
    }

    /// Those of each shard.
    pub(crate) fn counters(&self) -> impl ExactSizeIterator<Item = &Counters> {
        self.shards.iter().map(|one| &one.shared.counters)
    }

    /// Counters by host, of each shard.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Slots> {
        self.shards.iter().map(|one| &one.shared.hosts)
    }

    /// Counters by backend, of each shard.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Slots> {
        self.shards.iter().map(|one| &one.shared.backends)
    }

    /// Asks every shard what is under way.
    pub(crate) fn ask(&self, drain: &Arc<Drain>) {
        for One { shared, drains, .. } in &self.shards {
            // A shard that has ended has nothing under way, and nobody waits any more.
            let _ = drains.send(drain.clone());
            shared.waker.wake();
        }
    }

    /// Has every shard look at what is published.
    pub(crate) fn wake_all(&self) {
        self.shards.iter().for_each(|one| one.shared.waker.wake());
    }

    /// Says of requests that they may go on, or not; each shard is woken once.
    pub(crate) fn say(&self, words: &[(usize, Ticket, Word)]) {
        let mut is_told = vec![false; self.shards.len()];
        for (shard, ticket, word) in words {
            let Some(one) = self.shards.get(*shard) else { continue };
            // A shard that has ended holds nothing any more.
            let _ = one.words.send((*ticket, *word));
            is_told[*shard] = true;
        }
        let told = self.shards.iter().zip(is_told).filter(|(_, is_told)| *is_told);
        told.for_each(|(one, _)| one.shared.waker.wake());
    }

    /// The next report of a request that waits, or waits no more.
    pub(crate) fn next_report(&self) -> Option<Report> {
        self.held.next()
    }

    /// Readable when there is one.
    pub(crate) fn report_came(&self) -> io::Result<OwnedFd> {
        self.held.readable()
    }

    /// The next thing that a shard has told, if there is one.
    pub(crate) fn next_news(&self) -> Option<News> {
        self.news.next()
    }

    /// Readable when there is one.
    pub(crate) fn news_came(&self) -> io::Result<OwnedFd> {
        self.news.readable()
    }
}

/// Both ends, and what shards hand over to another process, up to `None`.
pub(crate) type Ends = (ControlEnd, Vec<ShardEnd>, Receiver<Option<Handed>>);

/// Makes the two ends for `shards` shards.
pub(crate) fn connect(published: Published, shards: usize) -> io::Result<Ends> {
    let published = Arc::new(published);
    let shared = (0..shards)
        .map(|_| {
            Ok(Arc::new(Shared {
                stop: AtomicU8::new(Stop::No as u8),
                waker: Waker::new()?,
                counters: Counters::default(),
                hosts: Slots::default(),
                backends: Slots::default(),
            }))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let shares = Arc::new(Shares::default());
    let wakers = shared.iter().map(|shard| shard.waker.clone()).collect();
    let together = Arc::new(Together {
        gates: Gates::new(wakers, shares.clone()),
        rates: Rates::new(shares.clone()),
        shares,
        sources: Sources::new(),
        logbook: Logbook::new(shards),
    });
    let (reports, reporters) = news::queue(shards)?;
    let (held, sender, waker) = held::reports()?;
    let (handed, handed_over) = channel();
    let (shards, ends) = shared
        .into_iter()
        .zip(reporters)
        .enumerate()
        .map(|(index, (shared, news))| {
            let (ask, drains) = channel();
            let (say, words) = channel();
            let (adopt, adopted) = channel();
            let handed: Sender<Option<Handed>> = handed.clone();
            let (published, together) = (published.clone(), together.clone());
            let held = held::Desk { reports: sender.clone(), waker: waker.clone(), words };
            let one = One { shared: shared.clone(), drains: ask, words: say, adopt };
            let end = ShardEnd {
                index,
                published,
                together,
                shared,
                drains,
                news,
                held,
                adopted,
                handed,
            };
            (one, end)
        })
        .unzip();
    Ok((ControlEnd { together, handed, shards, news: reports, held }, ends, handed_over))
}
