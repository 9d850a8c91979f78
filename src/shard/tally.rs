//! The counts of a request, from its dispatch to its end: the shard's totals, its host's slot and
//! its backend's. This module also knows which requests are under way at which backend, because
//! control may ask one question: whether a backend that was removed has any left.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU64;
use std::sync::{Arc, Weak};
use std::time::Instant;

use slab::Slab;

use super::Shard;
use super::ending::Ending;
use super::phase::Phase;
use super::record::Record;
use super::request::{Keys, RequestTicket};
use super::waiting::Permit;
use crate::address::Address;
use crate::limits;
use crate::link::{BackendCount, ByKey, Counter, Drain, HostCount, Id, SlotTime, Slots};

/// A slot number beyond every slot there is.
pub(super) const NO_SLOT: u32 = limits::SLOTS_MAX;

pub(super) struct Live {
    pub(super) host: u32,
    rule: u64,
    /// No rule applies to the request.
    pub(super) is_unknown: bool,
    /// The generation of the table that it was routed by.
    table: u64,
    backend: Option<Address>,
    pub(super) backend_slot: u32,
    /// Moment at which the whole head of the request had arrived.
    pub(super) began: Instant,
    /// Moment at which the whole request had been sent to the backend.
    pub(super) sent: Instant,
    /// Status of the final response or reply; 0 before.
    pub(super) status: u16,
    /// The first ending that is not [`Ending::Complete`] counts.
    pub(super) ending: Ending,
    /// Line of the access log.
    pub(super) record: Option<Box<Record>>,
    /// Hash of the cookie or field that decides on the backend, if the rule goes by one.
    affinity: Option<NonZeroU64>,
    /// The permit to be open at a backend, if the rule limits that.
    permit: Option<Permit>,
}

/// All requests under way on a shard, and the slots of their hosts.
pub(super) struct Tallies {
    live: RefCell<Slab<Live>>,
    hosts: RefCell<Hosts>,
    backends: RefCell<FreeSlots>,
    /// Questions of control, each with the generation from which on the removed backends are no
    /// longer chosen.
    drains: RefCell<Vec<(Weak<Drain>, u64)>>,
    draining: Cell<bool>,
}

/// Slots that are free to be opened.
#[derive(Default)]
struct FreeSlots {
    free: Vec<u32>,
    /// Slots that are not written any more; free once control has taken them over.
    retired: Vec<u32>,
    next: u32,
}

impl FreeSlots {
    fn open(&mut self, slots: &Slots, id: Id) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.next;
            self.next = (index + 1).min(limits::SLOTS_MAX);
            index
        });
        if index < limits::SLOTS_MAX {
            slots.open(index, id);
        }
        index
    }

    fn retire(&mut self, slots: &Slots, index: u32) {
        if index < limits::SLOTS_MAX {
            slots.retire(index);
            self.retired.push(index);
        }
    }

    fn reclaim(&mut self, slots: &Slots) {
        let free = self.retired.extract_if(.., |index| slots.is_free(*index));
        self.free.extend(free);
    }
}

#[derive(Default)]
struct Hosts {
    by_key: ByKey<u32>,
    slots_free: FreeSlots,
    /// Requests completed when a slot was looked at last.
    seen: Vec<u64>,
    hand: u32,
}

impl Hosts {
    /// Gives back slots in which nothing has happened since the last look at them, while there are
    /// many slots.
    fn sweep(&mut self, slots: &Slots) {
        self.slots_free.reclaim(slots);
        if self.by_key.len() <= limits::SLOTS_KEPT {
            return;
        }
        self.seen.resize(self.slots_free.next as usize, u64::MAX);
        for _ in 0..limits::SLOTS_KEPT {
            if self.by_key.len() <= limits::SLOTS_KEPT {
                return;
            }
            self.hand = (self.hand + 1) % self.slots_free.next;
            let Some((slot, [key, ..])) = slots.live(self.hand) else { continue };
            let completed = slot.get(HostCount::Completed);
            let seen = std::mem::replace(&mut self.seen[self.hand as usize], completed);
            if seen == completed && slot.get(HostCount::Open) == 0 {
                self.by_key.remove(&key);
                self.slots_free.retire(slots, self.hand);
            }
        }
    }
}

impl Tallies {
    pub(super) fn new() -> Tallies {
        Tallies {
            live: RefCell::default(),
            hosts: RefCell::default(),
            backends: RefCell::default(),
            drains: RefCell::default(),
            draining: Cell::new(false),
        }
    }
}

impl Shard {
    /// Counts a request under the rule that was found for it: from now on or, if it was held and is
    /// under way already, anew.
    #[inline]
    pub(super) fn count_under(
        &self,
        ticket: &mut RequestTicket,
        keys: Keys,
        record: impl FnOnce() -> Option<Box<Record>>,
    ) {
        match *ticket {
            RequestTicket::NONE => *ticket = self.begin(keys, record()),
            ticket => self.reroute(ticket, keys),
        }
    }

    fn begin(&self, keys: Keys, mut record: Option<Box<Record>>) -> RequestTicket {
        if let Some(record) = &mut record {
            self.note_rule(record, keys.host);
        }
        self.count(Counter::Requests);
        let host = self.host_of(keys.host);
        self.end.hosts().add(host, HostCount::Open, 1);
        let now = self.ring.now();
        let live = Live {
            host,
            rule: keys.rule,
            is_unknown: keys.rule == self.no_rule(),
            table: self.generation.get(),
            backend: None,
            backend_slot: NO_SLOT,
            began: now,
            sent: now,
            status: 0,
            ending: Ending::Complete,
            record,
            affinity: None,
            permit: None,
        };
        RequestTicket::of(self.tallies.live.borrow_mut().insert(live))
    }

    /// Finds or opens the slot of a host.
    #[inline]
    fn host_of(&self, key: u64) -> u32 {
        let slots = self.end.hosts();
        let hosts = &mut *self.tallies.hosts.borrow_mut();
        let host =
            *hosts.by_key.entry(key).or_insert_with(|| hosts.slots_free.open(slots, [key, 0, 0]));
        if limits::SLOTS_MAX <= host {
            // Try again with the next request: control may have caught up by then.
            hosts.by_key.remove(&key);
            self.count(Counter::Uncounted);
        }
        host
    }

    /// Counts a request that was held under the rule by which it is now routed, perhaps another
    /// one.
    fn reroute(&self, ticket: RequestTicket, keys: Keys) {
        let host = self.host_of(keys.host);
        let before = self.with_live(ticket, |live| {
            let before = (live.rule, live.host);
            live.host = host;
            live.rule = keys.rule;
            live.affinity = None;
            live.is_unknown = keys.rule == self.no_rule();
            if let Some(record) = &mut live.record {
                self.note_rule(record, keys.host);
            }
            live.table = self.generation.get();
            live.backend = None;
            live.backend_slot = NO_SLOT;
            before
        });
        let Some((rule, old)) = before else { return };
        if old != host {
            self.end.hosts().sub(old, HostCount::Open, 1);
            self.end.hosts().add(host, HostCount::Open, 1);
        }
        self.moved_on(rule);
    }

    /// Notes that a request is at no backend for the time being.
    pub(super) fn chose_none(&self, ticket: RequestTicket) {
        self.give_permit_back(ticket);
        self.note_backend(ticket, None, NO_SLOT);
    }

    /// Counts a request that begins or ceases to be held.
    pub(super) fn count_held(&self, ticket: RequestTicket, begins: bool) {
        let (counters, hosts) = (self.end.counters(), self.end.hosts());
        let host = self.host_noting(ticket, |_| {});
        if begins {
            counters.add(Counter::Held, 1);
            counters.add(Counter::HeldTotal, 1);
            hosts.add(host, HostCount::Held, 1);
        } else {
            counters.sub(Counter::Held, 1);
            hosts.sub(host, HostCount::Held, 1);
        }
    }

    /// Takes a request that goes on in another process out of the counts.
    pub(super) fn withdraw(&self, ticket: RequestTicket) {
        let live = self.tallies.live.borrow_mut().remove(ticket.index());
        self.end.counters().sub(Counter::Requests, 1);
        self.end.hosts().sub(live.host, HostCount::Open, 1);
        self.moved_on(live.rule);
    }

    /// Counts the end of a request, however it came. The host's count of completed requests is
    /// raised after all other counts of the request: a reader that waits for it may then read the
    /// others. The line of the access log comes last.
    pub(super) fn finish(&self, ticket: RequestTicket) {
        if ticket == RequestTicket::NONE {
            return;
        }
        let live = self.tallies.live.borrow_mut().remove(ticket.index());
        self.end.counters().add_ending(live.ending.position());
        // Requests for names without a rule say nothing about how the others are served.
        if !live.is_unknown && (500 <= live.status || live.ending.is_failure()) {
            self.count_error(&live);
        }
        self.count_time(live.host, SlotTime::Request, self.time_since(live.began));
        self.end.backends().add(live.backend_slot, BackendCount::Completed, 1);
        self.count(Counter::Completed);
        if let Some(slot) = self.end.hosts().get(live.host) {
            if live.ending.is_limit() {
                slot.add(HostCount::Limited, 1);
            }
            slot.complete();
        }
        self.moved_on(live.rule);
        if let Some(mut record) = live.record {
            record.ending = live.ending;
            self.file(record, live.backend);
        }
    }

    pub(super) fn with_live<T>(
        &self,
        ticket: RequestTicket,
        act: impl FnOnce(&mut Live) -> T,
    ) -> Option<T> {
        self.tallies.live.borrow_mut().get_mut(ticket.index()).map(act)
    }

    /// Notes how a request ended, and in which phase of its connection, unless an ending was noted
    /// before.
    pub(super) fn note_end(&self, ticket: RequestTicket, ending: Ending, phase: Phase) {
        self.with_live(ticket, |live| {
            if live.ending == Ending::Complete {
                live.ending = ending;
                if let Some(record) = &mut live.record {
                    record.phase = phase;
                }
            }
        });
    }

    /// The key of the rule that a request falls under.
    pub(super) fn rule_of(&self, ticket: RequestTicket) -> u64 {
        self.with_live(ticket, |live| live.rule).unwrap_or(self.unknown)
    }

    /// Notes the hash of the cookie or field that decides on a request's backend.
    pub(super) fn note_affinity(&self, ticket: RequestTicket, affinity: NonZeroU64) {
        self.with_live(ticket, |live| live.affinity = Some(affinity));
    }

    pub(super) fn affinity_of(&self, ticket: RequestTicket) -> Option<NonZeroU64> {
        self.with_live(ticket, |live| live.affinity).flatten()
    }

    /// Keeps the permit of a request to be open at a backend, until the request ends.
    pub(super) fn keep_permit(&self, ticket: RequestTicket, permit: Permit) {
        self.with_live(ticket, |live| {
            debug_assert!(live.permit.is_none(), "two permits of one request");
            live.permit = Some(permit);
        });
    }

    /// Gives back a request's permit to be open, if it has one: the request is at no backend any
    /// more.
    pub(super) fn give_permit_back(&self, ticket: RequestTicket) {
        self.with_live(ticket, |live| live.permit = None);
    }

    /// Adds to the record of a request; returns the number of its host's slot.
    pub(super) fn host_noting(&self, ticket: RequestTicket, act: impl FnOnce(&mut Record)) -> u32 {
        let host = self.with_live(ticket, |live| {
            if let Some(record) = &mut live.record {
                act(record);
            }
            live.host
        });
        host.unwrap_or(NO_SLOT)
    }

    pub(super) fn count_received(&self, ticket: RequestTicket, bytes: usize) {
        self.end.counters().add(Counter::Received, bytes as u64);
        let host = self.host_noting(ticket, |record| record.received += bytes as u64);
        self.end.hosts().add(host, HostCount::BytesReceived, bytes as u64);
    }

    pub(super) fn count_sent(&self, ticket: RequestTicket, bytes: usize) {
        self.end.counters().add(Counter::Sent, bytes as u64);
        let host = self.host_noting(ticket, |record| record.sent += bytes as u64);
        self.end.hosts().add(host, HostCount::BytesSent, bytes as u64);
    }

    /// Notes the backend that a request goes to.
    pub(super) fn chose(&self, ticket: RequestTicket, address: Address, backend_slot: u32) {
        self.note_backend(ticket, Some(address), backend_slot);
    }

    fn note_backend(&self, ticket: RequestTicket, backend: Option<Address>, backend_slot: u32) {
        let rule = self.with_live(ticket, |live| {
            (live.backend, live.backend_slot) = (backend, backend_slot);
            live.rule
        });
        if let Some(rule) = rule {
            self.moved_on(rule);
        }
    }

    /// Counts a failed attempt to open a connection.
    pub(super) fn count_failure(&self, backend_slot: u32) {
        self.count(Counter::ConnectFailures);
        self.end.backends().add(backend_slot, BackendCount::Failures, 1);
    }

    /// Notes that the whole request was sent: from now on the backend's time runs.
    pub(super) fn note_sent(&self, ticket: RequestTicket) {
        self.with_live(ticket, |live| live.sent = self.ring.now());
    }

    /// Opens a slot for a backend.
    pub(super) fn open_backend_slot(&self, address: Address) -> u32 {
        self.tallies.backends.borrow_mut().open(self.end.backends(), address.to_words())
    }

    pub(super) fn retire_backend_slot(&self, slot: u32) {
        self.tallies.backends.borrow_mut().retire(self.end.backends(), slot);
    }

    /// Frees slots of hosts that are idle, and slots that control has taken over. Called once a
    /// second.
    pub(super) fn sweep_slots(&self) {
        self.tallies.hosts.borrow_mut().sweep(self.end.hosts());
        self.tallies.backends.borrow_mut().reclaim(self.end.backends());
    }

    /// Takes a question of control, and answers it for the first time.
    pub(super) fn take_drain(&self, drain: &Arc<Drain>) {
        // Requests from now on are routed by a table at least as new as the question.
        self.table();
        let drains = &self.tallies.drains;
        let before = if drain.is_elsewhere { u64::MAX } else { self.generation.get() };
        drains.borrow_mut().push((Arc::downgrade(drain), before));
        self.tallies.draining.set(true);
        self.moved_on(drain.rule);
    }

    /// Notes that a request of this rule got a backend or ended: that may answer a question of
    /// control.
    fn moved_on(&self, rule: u64) {
        if self.tallies.draining.get() {
            self.answer_drains(rule);
        }
    }

    fn answer_drains(&self, rule: u64) {
        let mut drains = self.tallies.drains.borrow_mut();
        let live = self.tallies.live.borrow();
        drains.retain(|(drain, generation)| {
            // The asker may have dropped the question.
            let Some(drain) = drain.upgrade() else { return false };
            if drain.rule != rule {
                return true;
            }
            let own = || live.iter().map(|(_, live)| live).filter(|live| live.rule == rule);
            let at = |backend: &Address| {
                own().filter(|live| live.backend == Some(*backend)).count() as u32
            };
            let undecided =
                own().filter(|live| live.backend.is_none() && live.table < *generation).count();
            let counts = drain.backends.iter().map(at).chain([undecided as u32]);
            drain.answer(self.end.index, counts);
            true
        });
        self.tallies.draining.set(!drains.is_empty());
    }
}

/// Meter of the bytes of a body.
#[derive(Copy, Clone)]
pub(super) struct Meter<'a> {
    pub(super) shard: &'a Shard,
    pub(super) ticket: RequestTicket,
    /// Whether the bytes come from the client, or go to it.
    pub(super) received: bool,
}

impl Meter<'_> {
    pub(super) fn moved(&self, bytes: usize) {
        if self.received {
            self.shard.count_received(self.ticket, bytes);
        } else {
            self.shard.count_sent(self.ticket, bytes);
        }
    }
}

#[cfg(test)]
mod tests;
