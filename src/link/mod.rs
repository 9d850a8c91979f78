//! Everything that the control shard and the shards share: the published state (the table in force,
//! the backends that are down, the settings), the wake-ups and stop flags of the shards, the
//! counters that a single shard writes, the messages in both directions, and the limits that hold
//! across all shards.

mod beat;
mod counters;
mod drain;
mod entrance;
mod errors;
mod gate;
mod handover;
mod health;
mod held;
mod logbook;
mod outbox;
mod own;
mod ramps;
mod rate;
mod registry;
mod shard_reports;
mod shares;
mod slots;
mod source_rates;
mod sources;
mod table;
mod times;
mod tuning;
mod turn;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use rustix::event::{EventfdFlags, eventfd};

use crate::address::Address;
use crate::http::Pages;
use crate::limits;

pub(crate) use beat::{Beat, Part};
pub(crate) use counters::{Author, Counter, Counters, Shed};
pub(crate) use drain::Drain;
pub(crate) use entrance::Entrance;
pub(crate) use errors::{Unreached, is_local_fault, is_shortage};
pub(crate) use gate::{Gate, Gates};
pub(crate) use handover::{HandedOver, Protocol};
pub(crate) use health::{Down, Ejected};
pub(crate) use held::{HoldReason, Lines, RANK_FIRST, Rank, Report, Ticket, Waits, Word};
pub(crate) use logbook::Logbook;
use outbox::{Outbox, OutboxReader};
pub(crate) use own::{Own, is_local};
pub(crate) use ramps::{Arrival, Arrivals, RAMP_STEPS, Ramps};
pub(crate) use rate::{Rate, Rates};
pub(crate) use shard_reports::{Failure, ShardReport};
pub(crate) use shares::Shares;
pub(crate) use slots::{
    BackendCount, ByKey, HostCount, Id, KeyHasher, KeySet, Slot, SlotIndex, Slots, Sums, Whole,
};
pub(crate) use source_rates::{BusySources, SourceRates};
pub(crate) use sources::{Sources, source_network};
pub(crate) use table::{Tag, TaggedTable};
pub(crate) use times::{CLASSES_OF_TIME, SlotTime, TIME_BOUNDS};
pub(crate) use tuning::{Timeouts, Tuning};
pub(crate) use turn::{Turn, Turns};

/// State that every shard reads and only the control shard replaces.
pub(crate) struct Published {
    table: ArcSwap<TaggedTable>,
    pub(crate) pages: ArcSwap<Pages>,
    pub(crate) down: Down,
    pub(crate) ramps: Ramps,
    pub(crate) lines: Lines,
    pub(crate) tuning: ArcSwap<Tuning>,
    /// Control replaces it before the tuning whose flags tell shards to look here.
    pub(crate) entrance: ArcSwap<Entrance>,
    /// Addresses on which this daemon listens; they never change while it runs.
    pub(crate) own: Own,
}

impl Published {
    pub(crate) fn new(table: TaggedTable, pages: Pages, tuning: Tuning, own: Own) -> Published {
        Published {
            table: ArcSwap::from_pointee(table),
            pages: ArcSwap::from_pointee(pages),
            down: Down::default(),
            ramps: Ramps::default(),
            lines: Lines::default(),
            tuning: ArcSwap::from_pointee(tuning),
            entrance: ArcSwap::default(),
            own,
        }
    }

    /// Borrows the table in force for a short time. Takes no lock and no reference count.
    #[inline]
    pub(crate) fn table(&self) -> Guard<Arc<TaggedTable>> {
        self.table.load()
    }

    /// Returns the table in force as a reference that may be kept.
    pub(crate) fn table_full(&self) -> Arc<TaggedTable> {
        self.table.load_full()
    }

    /// Puts a table in force: every request that begins after this call is routed by it. `lines`
    /// replace the published lines; `None` leaves them as they are. Returns the table that was in
    /// force before. Only the writer may call this.
    pub(crate) fn put_in_force(
        &self,
        table: TaggedTable,
        lines: Option<ByKey<Duration>>,
    ) -> Arc<TaggedTable> {
        let before = self.table.load().tag;
        // A fleet that was loaded anew may have another table under the same number.
        let is_newer = before.boot != table.tag.boot || before.sequence <= table.tag.sequence;
        debug_assert!(is_newer, "{before} is newer than {}", table.tag);
        // The lines come first, so that every request that is routed by the new table sees them.
        if let Some(lines) = lines {
            self.lines.publish(lines);
        }
        self.table.swap(Arc::new(table))
    }

    /// Gives the table in force another tag, because it now belongs to another fleet or to none.
    /// Returns the table with its old tag. Only the writer may call this.
    pub(crate) fn retag(&self, tag: Tag) -> Arc<TaggedTable> {
        let table = self.table.load().table.clone();
        self.table.swap(Arc::new(TaggedTable { table, tag }))
    }
}

/// Limits and logs that all shards share.
pub(crate) struct SharedLimits {
    /// Limits on the connections to backends.
    pub(crate) gates: Gates<Address>,
    /// Limits on the open requests of rules, by key.
    pub(crate) rule_gates: Gates<u64>,
    pub(crate) rates: Rates,
    pub(crate) source_rates: SourceRates,
    /// Number of nodes among which limits are divided.
    pub(crate) shares: Arc<Shares>,
    pub(crate) sources: Sources,
    pub(crate) turns: Turns,
    pub(crate) logbook: Logbook,
    /// Progress of control.
    pub(crate) beat: Beat,
}

/// Whether and how a shard is to stop. A later value overrides an earlier one.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub(crate) enum Stop {
    /// The shard serves requests as usual.
    No = 0,
    /// Another process takes over. The shard accepts no new connections and hands over those whose
    /// request is held or that are between two requests. It ends when its last connection has
    /// ended.
    HandOver = 1,
    /// The shard accepts no new connections and sends `Connection: close` with each response. It
    /// ends when its last connection has ended.
    Drain = 2,
    /// The shard ends at once.
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

    /// Wakes the shard. Never blocks; several wake-ups before the shard runs count as one.
    pub(crate) fn wake(&self) {
        // A write to a non-blocking eventfd fails only if its counter is full. Then the eventfd is
        // readable already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Returns the descriptor on which the shard's ring waits.
    pub(crate) fn receiver(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// State that one shard and control share.
struct Shared {
    stop: AtomicU8,
    /// Whether the thread of the shard has ended, so that no progress is expected of it.
    has_ended: AtomicBool,
    waker: Waker,
    counters: Counters,
    hosts: Slots,
    backends: Slots,
}

/// Marks a shard as ended when it is dropped. The thread of the shard drops it last.
pub(crate) struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

/// The shard's side of the link: one for each shard.
pub(crate) struct ShardEnd {
    /// Position among the shards.
    pub(crate) index: usize,
    pub(crate) published: Arc<Published>,
    pub(crate) together: Arc<SharedLimits>,
    shared: Arc<Shared>,
    messages: Receiver<ToShard>,
    shard_reports: Outbox<ShardReport>,
    held_reports: Outbox<Report>,
    handed: Sender<Option<HandedOver>>,
}

/// A message of control to one shard.
pub(crate) enum ToShard {
    /// Asks how many requests are still under way at backends that were removed from a rule.
    Drain(Arc<Drain>),
    /// A connection that another process has handed over.
    Adopt(HandedOver),
    /// The decision for which a held request has waited.
    Held(Ticket, Word),
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

    /// Returns the mark that the thread of the shard keeps until it ends.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.shared.clone())
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.shared.waker
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Counters by host. The [`Id`] of a host is its key and two zeros.
    pub(crate) fn hosts(&self) -> &Slots {
        &self.shared.hosts
    }

    /// Counters by backend.
    pub(crate) fn backends(&self) -> &Slots {
        &self.shared.backends
    }

    /// Takes the next message of control, if there is one.
    pub(crate) fn next_message(&self) -> Option<ToShard> {
        self.messages.try_recv().ok()
    }

    /// Sends a connection to the process that takes over. `false`: that process is gone.
    pub(crate) fn hand_over(&self, handed: HandedOver) -> bool {
        self.handed.send(Some(handed)).is_ok()
    }

    /// Tells control that a request is held, or is held no more.
    pub(crate) fn report_held(&self, report: Report) {
        // If this fails, control has ended and knows of no held requests any more.
        self.held_reports.send(report);
    }

    /// Sends a report to control. Drops it if control is too far behind; returns whether it was
    /// sent.
    pub(crate) fn report(&self, report: ShardReport) -> bool {
        let is_told = self.shard_reports.send(report);
        if !is_told {
            self.counters().add(Counter::NewsDropped, 1);
        }
        is_told
    }
}

/// Control's side of the link, to all shards.
#[derive(Clone)]
pub(crate) struct ControlEnd {
    pub(crate) together: Arc<SharedLimits>,
    handed: Sender<Option<HandedOver>>,
    shards: Vec<ShardHandle>,
    shard_reports: OutboxReader<ShardReport>,
    held_reports: OutboxReader<Report>,
}

/// One shard, as control sees it.
#[derive(Clone)]
struct ShardHandle {
    shared: Arc<Shared>,
    messages: Sender<ToShard>,
}

impl ShardHandle {
    /// Sends a message, which the shard takes when it is woken. A message to a shard that has ended
    /// is lost, which does no harm: that shard holds no requests and has none under way, and a
    /// connection in the message is closed.
    fn send(&self, message: ToShard) {
        let _ = self.messages.send(message);
    }

    fn wake(&self) {
        self.shared.waker.wake();
    }
}

impl ControlEnd {
    /// Asks every shard to stop; a second, stronger call may follow.
    pub(crate) fn stop(&self, how: Stop) {
        for shard in &self.shards {
            shard.shared.stop.fetch_max(how as u8, Ordering::Relaxed);
            shard.wake();
        }
    }

    /// Gives a shard a connection that another process has handed over.
    pub(crate) fn adopt(&self, shard: usize, handed: HandedOver) {
        let shard = &self.shards[shard % self.shards.len()];
        shard.send(ToShard::Adopt(handed));
        shard.wake();
    }

    /// Marks the end of the connections that shards hand over.
    pub(crate) fn end_hand_over(&self) {
        // An error does not matter: the receiver may have given up.
        let _ = self.handed.send(None);
    }

    /// Sum of a counter over all shards.
    pub(crate) fn total(&self, counter: Counter) -> u64 {
        self.counters().map(|counters| counters.get(counter)).sum()
    }

    /// The counters of each shard.
    pub(crate) fn counters(&self) -> impl ExactSizeIterator<Item = &Counters> {
        self.shards.iter().map(|shard| &shard.shared.counters)
    }

    /// Time at which each shard last ran, in microseconds since the shard started; `None` for a
    /// shard that has ended.
    pub(crate) fn beats(&self) -> Vec<Option<u64>> {
        let beat = |shard: &ShardHandle| {
            let has_ended = shard.shared.has_ended.load(Ordering::Relaxed);
            (!has_ended).then(|| shard.shared.counters.get(Counter::AliveMicros))
        };
        self.shards.iter().map(beat).collect()
    }

    /// Counters by host, of each shard.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Slots> {
        self.shards.iter().map(|shard| &shard.shared.hosts)
    }

    /// Counters by backend, of each shard.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Slots> {
        self.shards.iter().map(|shard| &shard.shared.backends)
    }

    /// Asks every shard how many of the requests in question it has under way.
    pub(crate) fn ask(&self, drain: &Arc<Drain>) {
        for shard in &self.shards {
            shard.send(ToShard::Drain(drain.clone()));
            shard.wake();
        }
    }

    /// Wakes every shard, so that it looks at the published state.
    pub(crate) fn wake_all(&self) {
        self.shards.iter().for_each(ShardHandle::wake);
    }

    /// Sends decisions about held requests; each shard is woken once.
    pub(crate) fn say(&self, words: &[(usize, Ticket, Word)]) {
        let mut is_told = vec![false; self.shards.len()];
        for (shard, ticket, word) in words {
            let Some(handle) = self.shards.get(*shard) else { continue };
            handle.send(ToShard::Held(*ticket, *word));
            is_told[*shard] = true;
        }
        let told = self.shards.iter().zip(is_told).filter(|(_, is_told)| *is_told);
        told.for_each(|(shard, _)| shard.wake());
    }

    /// Takes the next report about a held request, if there is one.
    pub(crate) fn next_held_report(&self) -> Option<Report> {
        self.held_reports.next()
    }

    /// Descriptor that is readable while such a report waits.
    pub(crate) fn held_report_came(&self) -> io::Result<OwnedFd> {
        self.held_reports.readable()
    }

    /// Takes the next report of a shard that is not about a held request, if there is one.
    pub(crate) fn next_shard_report(&self) -> Option<ShardReport> {
        self.shard_reports.next()
    }

    /// Descriptor that is readable while such a report waits.
    pub(crate) fn shard_report_came(&self) -> io::Result<OwnedFd> {
        self.shard_reports.readable()
    }
}

/// Both sides of the link, and the receiver of the connections that shards hand over to another
/// process; `None` marks their end.
pub(crate) type Ends = (ControlEnd, Vec<ShardEnd>, Receiver<Option<HandedOver>>);

/// Makes the link between control and `shards` shards.
pub(crate) fn connect(published: Published, shards: usize) -> io::Result<Ends> {
    debug_assert!((1..=limits::SHARDS_MAX).contains(&shards), "{shards} shards");
    let published = Arc::new(published);
    let shared = (0..shards)
        .map(|_| {
            Ok(Arc::new(Shared {
                stop: AtomicU8::new(Stop::No as u8),
                has_ended: AtomicBool::new(false),
                waker: Waker::new()?,
                counters: Counters::default(),
                hosts: Slots::default(),
                backends: Slots::default(),
            }))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let shares = Arc::new(Shares::default());
    let wakers: Arc<[Waker]> = shared.iter().map(|shard| shard.waker.clone()).collect();
    let together = Arc::new(SharedLimits {
        gates: Gates::new(wakers.clone(), shares.clone()),
        rule_gates: Gates::new(wakers, shares.clone()),
        rates: Rates::new(shares.clone()),
        shares,
        source_rates: SourceRates::new(),
        sources: Sources::new(),
        turns: Turns::default(),
        logbook: Logbook::new(shards),
        beat: Beat::default(),
    });
    let (shard_reports, shard_reports_read) = outbox::outbox(limits::SHARD_REPORTS_MAX)?;
    // The number of connections bounds this queue: each connection has at most one held request.
    let (held_reports, held_reports_read) = outbox::outbox(usize::MAX)?;
    let (handed, handed_over) = channel();
    let ends = |(index, shared): (usize, Arc<Shared>)| {
        let (sender, messages) = channel();
        let end = ShardEnd {
            index,
            published: published.clone(),
            together: together.clone(),
            shared: shared.clone(),
            messages,
            shard_reports: shard_reports.clone(),
            held_reports: held_reports.clone(),
            handed: handed.clone(),
        };
        (ShardHandle { shared, messages: sender }, end)
    };
    let (shards, ends) = shared.into_iter().enumerate().map(ends).unzip();
    let (shard_reports, held_reports) = (shard_reports_read, held_reports_read);
    let control = ControlEnd {
        together: together.clone(),
        handed: handed.clone(),
        shards,
        shard_reports,
        held_reports,
    };
    Ok((control, ends, handed_over))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Snapshot;

    #[test]
    fn a_shard_that_sees_a_table_sees_its_lines() {
        let first = TaggedTable { table: Snapshot::default(), tag: Tag::of_start(0) };
        let published =
            Published::new(first.clone(), Pages::builtin(), Tuning::default(), Own::default());
        let last = 1000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seen = 0;
                while seen < last {
                    seen = published.table().tag.sequence;
                    let wait = published.lines.wait(&[7]).map_or(0, |wait| wait.as_secs());
                    assert!(seen <= wait, "table {seen}, lines of {wait}");
                }
            });
            for sequence in 1..=last {
                let next = TaggedTable { tag: Tag { sequence, ..first.tag }, ..first.clone() };
                let lines = [(7, Duration::from_secs(sequence))].into_iter().collect();
                let before = published.put_in_force(next, Some(lines));
                assert_eq!(before.tag.sequence, sequence - 1);
            }
        });
        assert_eq!(published.table_full().tag.sequence, last);
    }
}
