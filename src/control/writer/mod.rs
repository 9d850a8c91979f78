//! The writer: the one thread that changes the table. It takes all changes that wait, tries each on
//! the table that the one before left, writes them to disk with one sync, has `link` put the last
//! table in force, and only then replies. So a 200 means that the change is on disk and that every
//! request from now on sees it.
//!
//! The writer has a thread of its own because it waits for the disk; the API, probes and lookups go
//! on meanwhile.

mod copy;

use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::Counted;
use super::change::{Change, Done, Happened, Refused, RuleChange};
use super::figures::Figures;
use super::fleet::FleetParts;
use super::held::Held;
use super::history::SharedChanges;
use super::loops;
use super::orders::{Order, Orders};
use super::statistics::{self, SharedStatistics};
use super::store::{Folded, Record, Store, StoreError};
use super::trial::{Asked, Made, Tried, audit, refuse, reply, try_all};
use super::wake::{WakeMemory, idle_after};
use crate::limits;
use crate::link::{ByKey, ControlEnd, KeySet, Published, TaggedTable};
use crate::state::Totals;
use crate::table::{Action, Rule, Snapshot};
use copy::TableCopy;

/// The writer's thread.
pub(super) struct Writer {
    orders: Orders,
    thread: JoinHandle<()>,
}

/// Parts of control that the writer works on.
pub(super) struct Wiring {
    pub(super) store: Store,
    /// Why changes can't be written, while they can't.
    pub(super) trouble: Arc<ArcSwapOption<String>>,
    pub(super) figures: Arc<Figures>,
    pub(super) held: Held,
    pub(super) told: WakeMemory,
    pub(super) statistics: SharedStatistics,
    pub(super) shards: ControlEnd,
    pub(super) published: Arc<Published>,
    /// Receiver of the changes that are in force.
    pub(super) happened: mpsc::UnboundedSender<Happened>,
    /// The last changes, for clients that ask for them later.
    pub(super) changes: SharedChanges,
    /// The fleet that the table belongs to.
    pub(super) fleet: Option<FleetParts>,
}

impl Writer {
    pub(super) fn start(mut wiring: Wiring) -> std::io::Result<Writer> {
        let (orders, incoming) = Orders::new();
        let copy = wiring.fleet.take().map(|fleet| Box::new(TableCopy::new(fleet)));
        let writing = Writing {
            wiring,
            incoming,
            orders: orders.clone(),
            old: Vec::new(),
            folding: false,
            released: None,
            next_rewrite: None,
            copy,
        };
        let thread = std::thread::Builder::new().name("writer".to_owned());
        let thread = thread.spawn(move || writing.run())?;
        Ok(Writer { orders, thread })
    }

    pub(super) fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Has the writer save what is left, and waits for its end.
    pub(super) async fn finish(self) {
        self.orders.finish().await;
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            error!("The writer panicked; what it had acknowledged is in the journal");
        }
    }
}

struct Writing {
    wiring: Wiring,
    incoming: mpsc::Receiver<Order>,
    orders: Orders,
    /// Tables that shards may still be using. The last reference is dropped here: freeing a million
    /// rules would keep a shard busy for long.
    old: Vec<Arc<TaggedTable>>,
    folding: bool,
    /// The sums in the state file that another process has got; `None`: no process has got it.
    released: Option<Released>,
    /// Time to try a rewrite again after one failed.
    next_rewrite: Option<Instant>,
    /// Copy of the table, in a fleet.
    copy: Option<Box<TableCopy>>,
}

/// The sums of each host when the state file was let go of.
type Released = ByKey<Totals>;

fn refuse_all(batch: impl IntoIterator<Item = Asked>, reason: &str) {
    for (change, answer) in batch {
        reply(&change, answer, Err(Refused::NotWritten(reason.to_owned())));
    }
}

impl Writing {
    fn run(mut self) {
        self.tell_trouble();
        while let Some(first) = self.incoming.blocking_recv() {
            let mut batch: Vec<Asked> = Vec::new();
            let mut edits = 0;
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Change(change, answer) => {
                        edits += change.edits.len();
                        batch.push((change, answer));
                    }
                    Order::Save => self.save(),
                    Order::Folded(end) => self.end_fold(end),
                    Order::Release(done) => {
                        self.change(std::mem::take(&mut batch));
                        self.release();
                        let _ = done.send(());
                    }
                    Order::Resume => self.released = None,
                    Order::CountedSince(answer) => drop(answer.send(self.counted_since())),
                    Order::Add(counted) => {
                        let table = self.wiring.published.table_full();
                        statistics::lock(&self.wiring.statistics).add_counts(&table, &counted);
                    }
                    Order::Fleet(brought) => self.take_brought(*brought),
                    Order::Finish => {
                        self.change(batch);
                        return self.finish();
                    }
                }
                let full = limits::CHANGES_AT_ONCE < batch.len() || limits::EDITS_AT_ONCE < edits;
                next = if full { None } else { self.incoming.try_recv().ok() };
            }
            if !batch.is_empty() {
                self.change(batch);
                self.fold();
            }
            self.old.retain(|table| 1 < Arc::strong_count(table));
            self.tell_trouble();
        }
    }

    /// Shows in `/healthz` and `/metrics` whether the store can be written, and logs its notes.
    fn tell_trouble(&mut self) {
        self.wiring.store.take_notes().iter().for_each(|note| warn!("state_file: {note}"));
        let store = &self.wiring.store;
        self.wiring.figures.set_files(store.bytes(), store.rejected_count());
        let now = store.trouble();
        if now.as_deref() != self.wiring.trouble.load().as_deref().map(String::as_str) {
            self.wiring.trouble.store(now.map(Arc::new));
        }
    }

    /// Makes all changes of a batch that can be made.
    fn change(&mut self, batch: Vec<Asked>) {
        let start = self.wiring.published.table_full();
        if self.released.is_some() {
            return refuse_all(batch, "another process is taking over: ask again");
        }
        if let Err(reason) = self.be_writable(&start) {
            self.tell_trouble();
            return refuse_all(batch, &reason);
        }
        let Tried { mut accepted, refused } = try_all(batch, &start);
        let outcome = self.commit(&accepted);
        // Before the reply: a client that has read it finds `/healthz` and `/metrics` in agreement
        // with it.
        self.tell_trouble();
        let last = match outcome {
            Ok(last) => last,
            Err(error) => {
                let reason = error.to_string();
                error!("state_file: changes are refused: {reason}");
                let all = accepted.into_iter().map(|made| made.asked);
                // A refusal may have depended on an accepted change that has now failed, so every
                // change gets the write error.
                return refuse_all(all.chain(refused.into_iter().map(|(asked, _)| asked)), &reason);
            }
        };
        let first = last + 1 - accepted.len() as u64;
        for (number, made) in (first..).zip(&mut accepted) {
            made.after.tag.sequence = number;
        }
        if let Some(newest) = accepted.last() {
            self.publish(newest.after.clone(), &accepted);
        }
        accepted.into_iter().for_each(|made| self.tell(made));
        refuse(refused, self.wiring.published.table().tag);
    }

    /// Writes changes to disk; returns the number of the last.
    fn commit(&mut self, accepted: &[Made]) -> Result<u64, StoreError> {
        let records = accepted.iter().map(|Made { asked: (change, _), .. }| match change.whole {
            true => Record::Replace(&change.edits),
            false => Record::Set(&change.edits),
        });
        let records: Vec<Record<'_>> = records.collect();
        match records.is_empty() {
            true => Ok(self.wiring.store.sequence()),
            false => self.wiring.store.commit(&records),
        }
    }

    /// Puts in force the table that these changes made, and lets the held requests go on that
    /// waited for it.
    fn publish(&mut self, now: TaggedTable, made: &[Made]) {
        // Forget wake-ups before a request can wait for the new rules.
        for Made { asked: (change, _), before, after } in made {
            self.wiring.told.changed(change, &before.table, &after.table);
        }
        // The queue is locked from the first call to the last: a request that arrives next is
        // decided by this table.
        let mut change = self.wiring.held.change_table(&now);
        self.old.push(self.wiring.published.put_in_force(now, change.take_lines()));
        change.finish();
        // An idle shard would keep the old table alive, and all rules that only the old table has.
        let edits: usize = made.iter().map(Made::weight).sum();
        if limits::OLD_TABLES_MAX <= self.old.len() || limits::EDITS_WORTH_A_WAKE < edits {
            self.wiring.shards.wake_all();
        }
    }

    /// Reports a change that is in force. The client that asked for it gets its reply last.
    fn tell(&mut self, made: Made) {
        let Made { asked: (mut change, answer), before, after } = made;
        self.forget_deleted(&change, &before, &after);
        let one = match &change.edits[..] {
            [(name, _)] if !change.whole => before.table.get(name).cloned(),
            _ => None,
        };
        let done = Done { tag: after.tag, before: one };
        let few = change.edits.len() <= limits::EDITS_TOLD_MAX;
        let rules = changed_rules(&change, &before.table, &after.table);
        // Before the reply: a client that has read it finds its change.
        let mut changes = self.wiring.changes.lock();
        changes.note(&change.who, change.verb, rules.as_deref(), change.edits.len());
        drop(changes);
        audit(&change, Some(after.tag), "done");
        let set = change.edits.iter().filter_map(|(name, rule)| Some((&**name, rule.as_ref()?)));
        loops::warn_of(&self.wiring.published.own, set);
        let happened = Happened {
            verb: change.verb,
            watched: watched(&change, &before.table, &after.table),
            table: after.table.clone(),
            tag: after.tag,
            rules: after.table.len(),
            changed: change.edits.len(),
            who: std::mem::take(&mut change.who),
            edits: few.then(|| std::mem::take(&mut change.edits)),
        };
        // Both receivers may have gone: a daemon that stops, a client that hung up.
        let _ = self.wiring.happened.send(happened);
        let _ = answer.send(Ok(done));
    }

    fn forget_deleted(&self, change: &Change, before: &TaggedTable, after: &TaggedTable) {
        let keys: KeySet = if change.whole {
            let names = before.table.iter().map(|(name, _)| name);
            let gone = names.filter(|name| after.table.get(name).is_none());
            gone.map(|name| before.table.key(name)).collect()
        } else {
            let deleted = change.edits.iter().filter(|(_, rule)| rule.is_none());
            deleted.map(|(name, _)| before.table.key(name)).collect()
        };
        if !keys.is_empty() {
            statistics::lock(&self.wiring.statistics).forget(&keys);
        }
    }

    /// Writes the whole state anew if the files can't be trusted: after a failed sync, or when
    /// another program took the files away.
    fn be_writable(&mut self, current: &TaggedTable) -> Result<(), String> {
        let was_due = self.wiring.store.needs_rewrite();
        self.wiring.store.look();
        if !self.wiring.store.needs_rewrite() {
            return Ok(());
        }
        if let Some(why) = self.wiring.store.trouble().filter(|_| !was_due) {
            warn!("state_file: {why}; the table in force is written anew");
        }
        if self.folding || self.next_rewrite.is_some_and(|at| Instant::now() < at) {
            let why = self.wiring.store.trouble().unwrap_or_default();
            return Err(format!("the state is to be written anew first: {why}"));
        }
        let rewritten = self.rewrite(current);
        match &rewritten {
            Ok(()) => info!("state_file: written anew; changes are taken again"),
            Err(reason) => {
                self.next_rewrite = Some(Instant::now() + limits::REWRITE_PAUSE);
                error!("state_file: can't be written anew: {reason}");
            }
        }
        rewritten
    }

    fn rewrite(&mut self, current: &TaggedTable) -> Result<(), String> {
        let saved = statistics::to_save(&self.wiring.statistics, &current.table);
        self.write_anew(current, saved)
    }

    fn write_anew(&mut self, current: &TaggedTable, saved: Vec<Counted>) -> Result<(), String> {
        let membership = self.copy.as_ref().map(|copy| copy.membership.clone());
        self.wiring.store.set_fleet(membership);
        let written = self.wiring.store.rewrite(&current.table, saved);
        if written.is_ok()
            && let Some(copy) = &mut self.copy
        {
            copy.is_kept();
        }
        written.map_err(|error| error.to_string())
    }

    fn save(&mut self) {
        if self.released.is_some() {
            return;
        }
        let current = self.wiring.published.table_full();
        if self.be_writable(&current).is_err() {
            return;
        }
        self.keep();
        let unsaved = statistics::lock(&self.wiring.statistics).take_unsaved(&current.table);
        // After a failure a save is tried even with nothing to save: it shows that the trouble is
        // over.
        if unsaved.is_empty() && self.wiring.store.trouble().is_none() {
            return;
        }
        if let Err(error) = self.wiring.store.commit(&[Record::Stats(&unsaved)]) {
            warn!("state_file: statistics are not saved: {error}");
            statistics::lock(&self.wiring.statistics).put_back(&current.table, &unsaved);
        }
        self.fold();
    }

    /// Folds the journal into a new state file, on another thread: changes go on meanwhile.
    fn fold(&mut self) {
        if self.folding || self.wiring.store.needs_rewrite() || !self.wiring.store.wants_fold() {
            return;
        }
        let fold = match self.wiring.store.begin_fold() {
            Ok(fold) => fold,
            Err(error) => {
                return warn!("state_file: the journal grows, it can't be folded: {error}");
            }
        };
        let sequence = self.wiring.store.sequence();
        let table = self.wiring.published.table_full();
        let statistics = self.wiring.statistics.clone();
        let orders = self.orders.clone();
        let thread = std::thread::Builder::new().name("fold".to_owned()).spawn(move || {
            let run = AssertUnwindSafe(|| {
                debug_assert!(fold.sequence() <= sequence);
                fold.run(&table, statistics::to_save(&statistics, &table))
            });
            // The store must learn of the end in any case, or it would wait for ever.
            let end = catch_unwind(run).unwrap_or(Err(StoreError::Folding));
            orders.folded(end);
        });
        match thread {
            Ok(_) => self.folding = true,
            Err(error) => warn!("state_file: no thread to fold the journal with: {error}"),
        }
    }

    fn end_fold(&mut self, end: Result<Folded, StoreError>) {
        self.folding = false;
        if let Err(error) = &end {
            warn!("state_file: the journal could not be folded: {error}");
        }
        self.wiring.store.end_fold(&end);
    }

    /// Leaves one tidy file, and releases it to other processes.
    fn release(&mut self) {
        if self.released.is_none() {
            self.released = Some(self.leave_one_file());
        }
        self.wiring.store.release("another process has taken over");
    }

    /// Lists the sums since the release, of each host that had requests.
    fn counted_since(&self) -> Vec<Counted> {
        let Some(left) = &self.released else { return Vec::new() };
        let table = self.wiring.published.table_full();
        statistics::lock(&self.wiring.statistics).take_over(&table);
        let all = statistics::to_save(&self.wiring.statistics, &table).into_iter();
        let since = all.filter_map(|(name, counters)| {
            let (now, then) = (counters, left.get(&table.key(&name)));
            let then = then.copied().unwrap_or_default();
            (now != then).then(|| (name, now.since(then)))
        });
        since.collect()
    }

    /// Leaves one tidy file.
    fn finish(&mut self) {
        if self.released.is_none() {
            self.leave_one_file();
        }
    }

    /// Leaves one tidy state file; returns the sums in it.
    fn leave_one_file(&mut self) -> Released {
        while self.folding {
            match self.incoming.blocking_recv() {
                Some(Order::Folded(end)) => self.end_fold(end),
                Some(Order::Change(change, answer)) => {
                    reply(&change, answer, Err(Refused::Stopping));
                }
                Some(Order::Release(done)) => drop(done.send(())),
                Some(Order::CountedSince(answer)) => drop(answer.send(Vec::new())),
                Some(Order::Fleet(brought)) => drop(brought),
                Some(Order::Save | Order::Resume | Order::Add(_) | Order::Finish) => {}
                None => return Released::default(),
            }
        }
        let current = self.wiring.published.table_full();
        let table = current.table.clone();
        statistics::lock(&self.wiring.statistics).take_over(&table);
        let saved = statistics::to_save(&self.wiring.statistics, &table);
        let left = saved.iter().map(|(name, counters)| (table.key(name), *counters));
        let left = left.collect();
        if let Err(reason) = self.write_anew(&current, saved.clone()) {
            self.end_unwritten(&table, saved, &reason);
        }
        self.tell_trouble();
        left
    }
}

impl Writing {
    /// Says where the table is that could not be written at the end.
    fn end_unwritten(&self, table: &Snapshot, saved: Vec<Counted>, reason: &str) {
        if !self.wiring.store.needs_rewrite() {
            return warn!("state_file: not written at the end, the journal stays: {reason}");
        }
        match Store::rescue(table, saved) {
            Ok(path) => error!(
                "state_file: NOT written at the end, and its files are gone or can't be trusted: {reason}. The table is in {}: \
                 put that in its place before the next start",
                path.display()
            ),
            Err(error) => error!(
                "state_file: NOT written at the end, its files are gone or can't be trusted, and the table is lost: {reason}; \
                 nor could it be written elsewhere: {error}"
            ),
        }
    }
}

/// The rules that a change altered; `None`: there are too many to name.
fn changed_rules(change: &Change, before: &Snapshot, after: &Snapshot) -> Option<Vec<RuleChange>> {
    let replaced = if change.whole { before.len() } else { 0 };
    if limits::EDITS_TOLD_MAX < change.edits.len().max(replaced) {
        return None;
    }
    let named = change.edits.iter().map(|(name, _)| &**name);
    let replaced = before.iter().map(|(name, _)| name).take(replaced);
    // Sorted, and each name once: if a name is given twice, its last rule counts.
    let names: BTreeSet<&str> = named.chain(replaced).collect();
    let pairs = names.into_iter().map(|name| RuleChange {
        name: name.to_owned(),
        before: before.get(name).cloned(),
        after: after.get(name).cloned(),
    });
    Some(pairs.filter(|change| change.before != change.after).collect())
}

/// The rules that a change altered and that ask for more than routing (checks, `slow_start`,
/// `idle`).
fn watched(change: &Change, before: &Snapshot, after: &Snapshot) -> Vec<RuleChange> {
    let asks = |rule: &Rule| {
        let is_watched = matches!(&rule.action, Action::Proxy(proxy)
            if proxy.check().is_some() || proxy.slow_start().is_some());
        is_watched || idle_after(rule).is_some()
    };
    // Each name once: if a name is given twice, its last rule counts.
    let names: HashSet<&str> = if change.whole {
        let rules = before.iter().chain(after.iter());
        rules.filter(|(_, rule)| asks(rule)).map(|(name, _)| name).collect()
    } else {
        change.edits.iter().map(|(name, _)| &**name).collect()
    };
    let pairs = names.into_iter().map(|name| (name, [before, after].map(|table| table.get(name))));
    let is_other = |(_, [old, new]): &(&str, [Option<&Rule>; 2])| {
        old != new && [old, new].into_iter().flatten().any(|rule| asks(rule))
    };
    let watched = pairs.filter(is_other).map(|(name, [old, new])| RuleChange {
        name: name.to_owned(),
        before: old.cloned(),
        after: new.cloned(),
    });
    watched.collect()
}
