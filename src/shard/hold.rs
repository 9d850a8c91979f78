//! Requests that are held. They wait here, on their connection, until control lets them go on,
//! their time is over, or the client leaves. Their bytes are not moved, and nothing is read ahead:
//! what the client sends meanwhile stays in the kernel.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::Shard;
use super::client::ClientSide;
use super::ending::Ending;
use super::phase::Phase;
use super::request::RequestTicket;
use crate::link::{Counter, HoldReason, RANK_FIRST, Rank, Report, SlotTime, Ticket, Waits, Word};
use crate::table::Scheme;

/// Demand of a request to wait, as control gets it.
pub(super) struct Hold {
    pub(super) why: HoldReason,
    pub(super) host: Box<str>,
    pub(super) scheme: Scheme,
    /// How long the request may wait, counted from when it began to.
    pub(super) timeout: Duration,
}

/// How long a request has been held, and what it has met meanwhile.
#[derive(Copy, Clone, Debug)]
pub(super) struct Waited {
    /// Moment at which the request began to wait; its time counts from here.
    pub(super) since: Instant,
    /// End of the request's time.
    pub(super) until: Instant,
    place: Option<Rank>,
    /// The rank that the request should get, if another process held it before.
    claim: Option<Rank>,
    /// End of the wait for a backend that can be reached, counted from when the request first found
    /// none.
    backend_by: Option<Instant>,
    /// How many connections ended without a response; the request was sent again after each.
    pub(super) silences: u8,
}

impl Waited {
    /// Begins a wait at `now`, unless the request waited before.
    fn begun(waited: &mut Option<Box<Waited>>, now: Instant) -> &mut Waited {
        waited.get_or_insert_with(|| Box::new(Waited::since(now)))
    }

    fn since(now: Instant) -> Waited {
        Waited { since: now, until: now, place: None, claim: None, backend_by: None, silences: 0 }
    }

    /// Wait of a request that another process held for so long: it goes before all that came later.
    pub(super) fn elsewhere(now: Instant, held: Duration) -> Option<Box<Waited>> {
        let since = now.checked_sub(held)?;
        let claim = RANK_FIRST.saturating_sub(held.as_nanos() as u64);
        Some(Box::new(Waited { claim: Some(claim), ..Waited::since(since) }))
    }

    /// Notes that a request found no backend, after it was sent without a response `silences`
    /// times.
    pub(super) fn note(waited: &mut Option<Box<Waited>>, now: Instant, silences: u8) {
        Waited::begun(waited, now).silences += silences;
    }

    /// Sets the end of a wait that begins at `now`, perhaps after earlier waits.
    fn extend(&mut self, now: Instant, hold: &Hold) {
        self.until = match hold.why {
            HoldReason::Spin => self.since + hold.timeout,
            HoldReason::NoBackend | HoldReason::Unserved => {
                *self.backend_by.get_or_insert(now + hold.timeout)
            }
            HoldReason::Behind => now + hold.timeout,
        };
    }

    pub(super) fn is_let_go(&self) -> bool {
        self.place.is_some()
    }

    /// How long a request may wait for a permit of a backend. A request that was held may wait for
    /// as long as it might still have been held. Otherwise an application that has just started
    /// would be spared load by turning its visitors away.
    pub(super) fn patience(waited: Option<&Waited>, now: Instant, usual: Duration) -> Duration {
        let left = waited.map(|waited| waited.until.saturating_duration_since(now));
        usual.max(left.unwrap_or_default())
    }
}

/// Outcome of a wait.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum HoldOutcome {
    /// The request may go on by the table as it is now.
    Released,
    /// The request is for the process that takes over.
    Moving,
    /// The request goes no further.
    Ended(Ending),
}

/// The requests held on a shard.
#[derive(Default)]
pub(super) struct Holds {
    waiting: RefCell<Slab<Waiting>>,
    begun: Cell<u32>,
}

struct Waiting {
    ticket: Ticket,
    word: Option<Word>,
    waker: Option<Waker>,
}

impl Shard {
    /// Passes a word of control on to the request that waits for it.
    pub(super) fn take_word(&self, ticket: Ticket, word: Word) {
        let mut waiting = self.holds.waiting.borrow_mut();
        // The request may have ended meanwhile, and its entry may now be another request's.
        let own = waiting.get_mut(index(ticket)).filter(|own| own.ticket == ticket);
        if let Some(own) = own {
            own.word = Some(word);
            self.ring.wake(own.waker.take());
        }
    }

    /// Wakes the requests that are held, so that they look whether the shard is stopping.
    pub(super) fn wake_held(&self) {
        for (_, own) in self.holds.waiting.borrow_mut().iter_mut() {
            self.ring.wake(own.waker.take());
        }
    }
}

fn index(ticket: Ticket) -> usize {
    (ticket & u64::from(u32::MAX)) as usize
}

/// An entry among the requests held. Dropping it removes the entry and tells control.
struct Own {
    shard: Rc<Shard>,
    ticket: Ticket,
    request: RequestTicket,
    since: Instant,
}

impl Own {
    fn new(shard: &Rc<Shard>, request: RequestTicket) -> Own {
        let holds = &shard.holds;
        let begun = holds.begun.get().wrapping_add(1);
        holds.begun.set(begun);
        let ticket = {
            let mut waiting = holds.waiting.borrow_mut();
            let entry = waiting.vacant_entry();
            let ticket = u64::from(begun) << 32 | entry.key() as u64;
            entry.insert(Waiting { ticket, word: None, waker: None });
            ticket
        };
        shard.count_held(request, true);
        Own { shard: shard.clone(), ticket, request, since: shard.ring.now() }
    }

    /// The word of control, if it has come; otherwise the task of `cx` is woken when it does.
    fn word(&self, cx: &Context<'_>) -> Option<Word> {
        let own = &mut self.shard.holds.waiting.borrow_mut()[index(self.ticket)];
        own.waker = Some(cx.waker().clone());
        own.word
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let shard = &self.shard;
        shard.count_held(self.request, false);
        let waited = shard.ring.now().saturating_duration_since(self.since);
        shard.count_wait(self.request, SlotTime::Held, waited);
        let own = shard.holds.waiting.borrow_mut().remove(index(self.ticket));
        if own.word.is_none() {
            shard.end.report_held(Report::Left { shard: shard.end.index, ticket: self.ticket });
        }
    }
}

/// Holds the request that is at the front of the client's inbox.
pub(super) async fn hold(
    side: &mut ClientSide,
    hold: Hold,
    waited: &mut Option<Box<Waited>>,
) -> HoldOutcome {
    let shard = side.shard.clone();
    let now = shard.ring.now();
    let own_wait = Waited::begun(waited, now);
    own_wait.extend(now, &hold);
    let Waited { until, place, claim, .. } = *own_wait;
    if until <= now {
        return counted(&shard, HoldOutcome::Ended(Ending::HeldTimeout));
    }
    side.phase.set(Phase::Held);
    side.inbox.settle(&shard.ring);
    let own = Own::new(&shard, side.ticket);
    shard.end.report_held(Report::Waits(Waits {
        shard: shard.end.index,
        ticket: own.ticket,
        why: hold.why,
        place: place.or(claim),
        host: hold.host,
        scheme: hold.scheme,
        source: side.client.peer,
    }));
    side.deadline.set(until.saturating_duration_since(now));
    let ends = shard.end_counts(true);
    let outcome = poll_fn(|cx| {
        let word = own.word(cx);
        // A receive that was armed before may still bring bytes.
        side.stream.gather();
        let ended = |ending| Poll::Ready(HoldOutcome::Ended(ending));
        match word {
            // The client has left: no backend should see its request.
            Some(Word::Go(_)) if side.stream.poll_left(cx, ends) => ended(Ending::ClientGone),
            Some(Word::Go(place)) => {
                own_wait.place = Some(place);
                Poll::Ready(HoldOutcome::Released)
            }
            Some(Word::Full) => ended(Ending::HeldFull),
            None if side.stream.poll_left(cx, ends) => ended(Ending::ClientGone),
            None if side.deadline.poll_expired(cx) => ended(Ending::HeldTimeout),
            // The shard stops, and the host can no longer be flipped.
            None if shard.stopping() => ended(Ending::HeldTimeout),
            None if shard.leaving() => Poll::Ready(HoldOutcome::Moving),
            None => Poll::Pending,
        }
    })
    .await;
    drop(own);
    counted(&shard, outcome)
}

fn counted(shard: &Shard, outcome: HoldOutcome) -> HoldOutcome {
    shard.count(match outcome {
        // The other process holds the request, and counts it.
        HoldOutcome::Moving => return outcome,
        HoldOutcome::Released => Counter::HeldReleased,
        HoldOutcome::Ended(Ending::HeldTimeout) => Counter::HeldTimedOut,
        HoldOutcome::Ended(Ending::HeldFull) => Counter::HeldRefused,
        HoldOutcome::Ended(_) => Counter::HeldLeft,
    });
    outcome
}
