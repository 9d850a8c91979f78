//! Places of connections at the API. At any time, either the peer waits for us (its request is
//! being answered), or we wait for the peer: for a head, for more of a body, or until it reads what
//! it was sent. If a connection comes while all places are taken, the connection whose peer we have
//! waited for longest without progress is closed. So a client that sends half of a request, or
//! nothing, or reads nothing, cannot keep another client out. Readers of events, and clients that
//! wait for backends to drain, are never sent away; the number of each kind is limited, so that
//! places remain.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// All management connections.
pub(in crate::control) struct Crowd {
    places: Arc<Semaphore>,
    guests: Mutex<Slab<Guest>>,
    /// Notice that for one more connection we now wait for the peer.
    turned: Notify,
}

/// One management connection.
struct Guest {
    /// Time since which we wait for the peer without progress; `None`: the peer waits for us.
    waited: Option<Instant>,
    /// Bytes that the peer has sent or taken since then.
    bytes: usize,
    /// Whether the connection is never sent away.
    stays: bool,
    leave: Arc<Notify>,
}

/// Outcome of the search for a connection that gives up its place.
enum Found {
    /// A connection was sent away, and gives up its place soon.
    Soon,
    /// No connection can be sent away yet. One may be, after this time.
    Later(Duration),
}

impl Crowd {
    /// Makes a crowd for as many connections as there are `places`.
    pub(in crate::control) fn new(places: Arc<Semaphore>) -> Arc<Crowd> {
        Arc::new(Crowd { places, guests: Mutex::default(), turned: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more connection. If there is none, another connection is sent away.
    /// `None`: the daemon is ending.
    pub(super) async fn seat(self: &Arc<Crowd>) -> Option<Seat> {
        let place = loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                break place;
            }
            let turned = self.turned.notified();
            let (is_turn, wait) = match self.send_one_away() {
                Found::Soon => (false, limits::MANAGEMENT_PATIENCE_LEAST),
                Found::Later(wait) => (true, wait),
            };
            tokio::select! {
                place = self.places.clone().acquire_owned() => break place.ok()?,
                () = turned, if is_turn => {}
                () = tokio::time::sleep(wait) => {}
            }
        };
        let leave = Arc::new(Notify::new());
        let waited = Some(Instant::now());
        let guest = Guest { waited, bytes: 0, stays: false, leave: leave.clone() };
        let index = self.lock().insert(guest);
        let taken = SeatHold { crowd: self.clone(), index, leave, _place: place };
        Some(Seat(Arc::new(taken)))
    }

    fn send_one_away(&self) -> Found {
        let mut guests = self.lock();
        let waiting = guests.iter_mut().filter(|(_, guest)| !guest.stays);
        let waiting = waiting.filter_map(|(_, guest)| Some((guest.waited?, guest)));
        let Some((since, guest)) = waiting.min_by_key(|(since, _)| *since) else {
            return Found::Later(limits::MANAGEMENT_HEAD_TIME);
        };
        let least = limits::MANAGEMENT_PATIENCE_LEAST;
        match least.checked_sub(since.elapsed()) {
            Some(left) if !left.is_zero() => Found::Later(left),
            _ => {
                // The connection is on its way out: do not choose it a second time.
                guest.waited = None;
                guest.leave.notify_one();
                Found::Soon
            }
        }
    }
}

/// A place that a connection has; clones share it.
#[derive(Clone)]
pub(super) struct Seat(Arc<SeatHold>);

struct SeatHold {
    crowd: Arc<Crowd>,
    index: usize,
    leave: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

impl Drop for SeatHold {
    fn drop(&mut self) {
        self.crowd.lock().try_remove(self.index);
    }
}

impl Seat {
    /// Returns the place of the connection on which a request came.
    pub(super) fn of(parts: &Parts) -> Option<&Seat> {
        parts.extensions.get()
    }

    fn change(&self, change: impl FnOnce(&mut Guest)) {
        if let Some(guest) = self.0.crowd.lock().get_mut(self.0.index) {
            change(guest);
        }
    }

    /// Notes that the peer waits for us from here on.
    pub(super) fn ours(&self) {
        self.change(|guest| guest.waited = None);
    }

    /// Notes that we wait for the peer from here on.
    pub(super) fn peers(&self) {
        self.change(|guest| {
            guest.bytes = 0;
            guest.waited = Some(Instant::now());
        });
        self.0.crowd.turned.notify_one();
    }

    /// Notes that the peer has sent or taken these bytes. They count as progress only once they add
    /// up: otherwise a peer that sends or takes a byte now and then could keep its place for as
    /// long as it liked.
    pub(super) fn moved(&self, bytes: usize) {
        self.change(|guest| {
            guest.bytes += bytes;
            if limits::MANAGEMENT_PROGRESS <= guest.bytes {
                guest.bytes = 0;
                guest.waited = guest.waited.map(|_| Instant::now());
            }
        });
    }

    /// Keeps the connection from being sent away. Another limit bounds the number of such
    /// connections.
    pub(super) fn stay(&self) {
        self.change(|guest| guest.stays = true);
    }

    /// Waits until the connection has to give up its place.
    pub(super) async fn sent_away(&self) {
        self.0.leave.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(future);
    }

    async fn some(count: usize) -> (Arc<Crowd>, Vec<Seat>) {
        let crowd = Crowd::new(Arc::new(Semaphore::new(count)));
        let mut seats = Vec::new();
        for _ in 0..count {
            seats.push(crowd.seat().await.expect("a place"));
        }
        (crowd, seats)
    }

    #[test]
    fn longest_waited_for_connection_goes() {
        run(async {
            let (crowd, mut seats) = some(4).await;
            seats[0].ours();
            seats[1].stay();
            seats[3].moved(1);
            seats[2].moved(limits::MANAGEMENT_PROGRESS);
            // Connection 3 has made no progress that counts since it came.
            let leaving = async {
                let gone = seats[3].clone();
                gone.sent_away().await;
                drop((gone, seats.pop()));
            };
            let (seat, ()) = tokio::join!(crowd.seat(), leaving);
            assert!(seat.is_some());
        });
    }

    #[test]
    fn connection_that_waits_for_us_is_not_sent_away() {
        run(async {
            let (crowd, mut seats) = some(2).await;
            seats.iter().for_each(Seat::ours);
            let answered = async {
                tokio::task::yield_now().await;
                seats[1].peers();
                seats[1].sent_away().await;
                seats.pop();
            };
            let (seat, ()) = tokio::join!(crowd.seat(), answered);
            assert!(seat.is_some());
        });
    }
}
