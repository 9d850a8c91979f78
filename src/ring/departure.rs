//! Marks, which tell what an idle connection holds, and sends that wait for one.
//!
//! A connection that is used again may hold bytes behind its last response, and they would become
//! the beginning of the next one. A receive that goes on by itself brings them, but not at once:
//! since Linux 6.13 a call runs no more than 20 of the receives that became ready, in the order in
//! which they did. So the ring queues a *mark*: an operation that takes its place behind the
//! receives that are ready, and does nothing (`IORING_NOP_TW`, Linux 6.16). When the mark has
//! passed, everything has been delivered that the connection held when the mark was queued. If the
//! kernel has no receive that is ready, a mark would pass at once, and none is queued.
//!
//! Nearly always a mark has passed between two uses of a connection. Otherwise the send waits for
//! one (a *departure*). If its connection held something, the send is withdrawn: no byte of it is
//! sent, its bytes are returned to the task, and the connection counts as failed.

use io_uring::{opcode, squeue};

use super::tasks::wake;
use super::{Inner, Op, SlotKind, user_data, with_field};

/// Moment from which the ring has reported all that an idle connection held when it became idle.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum KnownFrom {
    /// The turn behind this one: the receive is queued and tries before it waits.
    Turn(u64),
    /// The mark behind this one: the receive goes on from before.
    Mark(u64),
}

/// The sends that wait for a mark, by their slots, and the marks.
#[derive(Default)]
pub(super) struct Departures {
    /// Slots of sends that began since the last mark was queued.
    begun: Vec<u32>,
    /// Slots of sends that wait for the mark in flight.
    marked: Vec<u32>,
    mark: Mark,
    /// Marks so far, with the one in flight.
    marks: u64,
    /// A connection became idle since the last mark.
    is_wanted: bool,
}

/// The state of the one mark.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
enum Mark {
    #[default]
    Unused,
    InFlight,
    Passed,
}

impl Departures {
    pub(super) fn add(&mut self, index: u32) {
        self.begun.push(index);
    }

    /// Asks for a mark; returns the number of the last one before it.
    pub(super) fn want_mark(&mut self) -> u64 {
        self.is_wanted = true;
        self.marks
    }

    /// Marks that have passed.
    pub(super) fn passed(&self) -> u64 {
        self.marks - u64::from(self.mark == Mark::InFlight)
    }

    /// The handle of the connection is dropped.
    pub(super) fn forget(&mut self, index: u32) {
        self.begun.retain(|begun| *begun != index);
        self.marked.retain(|marked| *marked != index);
    }

    pub(super) fn mark_passed(&mut self) {
        debug_assert_eq!(self.mark, Mark::InFlight);
        self.mark = Mark::Passed;
    }
}

/// An operation that does nothing, and completes behind all that the kernel is to deliver.
pub(super) fn mark() -> squeue::Entry {
    /// Offset of `nop_flags` in `struct io_uring_sqe`.
    const NOP_FLAGS: usize = 28;
    /// `IORING_NOP_TW`.
    const BY_TASK_WORK: u32 = 1 << 4;
    let entry = with_field::<NOP_FLAGS>(opcode::Nop::new().build(), BY_TASK_WORK);
    entry.user_data(user_data(0, Op::Mark))
}

impl Inner {
    /// Begins a turn: queues the sends that may leave, withdraws those that may not, and queues a
    /// mark for the others. Returns whether the turn must not sleep.
    pub(super) fn settle_departures(&mut self) -> bool {
        let mut is_awake = false;
        if self.departures.mark == Mark::Passed {
            self.departures.mark = Mark::Unused;
            is_awake = self.depart_all(|departures| &mut departures.marked);
        }
        let Departures { begun, mark: state, is_wanted, .. } = &self.departures;
        if *state == Mark::InFlight || (begun.is_empty() && !is_wanted) {
            return is_awake;
        }
        let passes_at_once = self.has_nothing_ready()
            && self.departures.begun.iter().all(|index| self.flows(*index));
        self.departures.marks += 1;
        self.departures.is_wanted = false;
        if passes_at_once {
            return is_awake | self.depart_all(|departures| &mut departures.begun);
        }
        let Departures { begun, marked, mark: state, .. } = &mut self.departures;
        std::mem::swap(begun, marked);
        *state = Mark::InFlight;
        self.queue(mark());
        is_awake
    }

    /// Whether the kernel has no receive that is ready, and has reported all others.
    fn has_nothing_ready(&mut self) -> bool {
        let queue = self.ring.submission();
        let has_work = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !has_work && self.ring.completion().is_empty()
    }

    /// Whether the kernel has the receive of a socket, and the receive goes on by itself.
    fn flows(&self, index: u32) -> bool {
        match &self.slots[index as usize].kind {
            SlotKind::Socket(slot) => slot.receive.flows_since_before(self.turns),
            SlotKind::Listener(_) | SlotKind::Wake(_) => false,
        }
    }

    fn depart_all(&mut self, list: fn(&mut Departures) -> &mut Vec<u32>) -> bool {
        let mut is_awake = false;
        let mut sends = std::mem::take(list(&mut self.departures));
        for index in sends.drain(..) {
            is_awake |= self.depart(index);
        }
        *list(&mut self.departures) = sends;
        is_awake
    }

    /// Queues a send, or withdraws it; returns whether the turn must not sleep.
    fn depart(&mut self, index: u32) -> bool {
        let slot = self.socket(index);
        // A receive that ended has brought something, or could not go on.
        if slot.receive.is_multishot() && slot.receive.received.is_empty() {
            // No completion ends a sleep for a task that waits for the send.
            let is_awaited = slot.send.waker.is_some();
            self.submit_first_send(index);
            return is_awaited;
        }
        slot.send.withdraw();
        wake(&mut slot.receive.waker) | wake(&mut slot.send.waker)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::rc::Rc;
    use std::time::Duration;

    use super::super::tests::{deliver, in_ten_seconds, on_ring, pair, settled, turned};
    use super::super::{Abort, Quiet, Ring, Stream};

    /// A connection whose receive goes on by itself, and its far end. `None`: not on this kernel.
    async fn flowing(ring: &Rc<Ring>) -> Option<(Stream, TcpStream)> {
        let (near, far) = pair(ring);
        near.start_bounded_flow();
        near.arm();
        turned(ring).await;
        turned(ring).await;
        near.is_flowing().then_some((near, far))
    }

    /// Such connections, more of them than one call of the kernel reports.
    async fn many_flowing(ring: &Rc<Ring>) -> Option<Vec<(Stream, TcpStream)>> {
        let mut all = Vec::new();
        for _ in 0..100 {
            all.push(flowing(ring).await?);
        }
        Some(all)
    }

    /// Makes the receives of all these connections ready.
    fn deliver_to_all(pairs: &mut [(Stream, TcpStream)]) {
        for (near, far) in pairs {
            deliver(near, far, b"ready");
        }
    }

    async fn expect_ready(ring: &Rc<Ring>, pairs: &[(Stream, TcpStream)]) {
        for (near, _far) in pairs {
            let bytes = near.recv(&in_ten_seconds(ring)).await.expect("received");
            assert_eq!(&bytes[..], b"ready");
        }
    }

    async fn outcome(ring: &Rc<Ring>, near: &Stream) -> Result<(), Abort> {
        near.sent(&in_ten_seconds(ring), Duration::from_secs(10)).await
    }

    /// Asserts that nothing was sent, and that the connection is not taken for a sound one.
    async fn expect_withdrawn(ring: &Rc<Ring>, near: Stream, mut far: TcpStream) {
        assert!(outcome(ring, &near).await.is_err(), "it was sent");
        assert_eq!(near.take_sent().as_deref(), Some(&b"request"[..]));
        let received = near.recv(&in_ten_seconds(ring)).await;
        assert!(received.is_err(), "what came before a request was taken for its response");
        assert_eq!(near.quiet(), Quiet::No);
        let slots = ring.inner.borrow().slots.len();
        drop(near);
        settled(ring, slots - 1).await;
        let mut left = Vec::new();
        match far.read_to_end(&mut left) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(left, b"", "some of it was sent");
    }

    #[test]
    fn send_on_a_quiet_connection_leaves() {
        on_ring(async |ring: Rc<Ring>| {
            let Some((near, mut far)) = flowing(&ring).await else { return };
            for _ in 0..3 {
                near.begin_send_if_quiet(b"request".to_vec());
                outcome(&ring, &near).await.expect("sent");
                assert_eq!(near.take_sent().as_deref(), Some(&b"request"[..]));
                let mut room = [0; 7];
                far.read_exact(&mut room).expect("read");
                assert_eq!(&room, b"request");
                far.write_all(b"response").expect("written");
                let response = near.recv(&in_ten_seconds(&ring)).await.expect("received");
                assert_eq!(&response[..], b"response");
            }
        });
    }

    #[test]
    fn send_behind_unasked_bytes_is_withdrawn() {
        on_ring(async |ring: Rc<Ring>| {
            let Some((near, mut far)) = flowing(&ring).await else { return };
            deliver(&near, &mut far, b"surplus");
            near.begin_send_if_quiet(b"request".to_vec());
            expect_withdrawn(&ring, near, far).await;
        });
    }

    #[test]
    fn unasked_bytes_are_no_response_to_a_send_that_waits() {
        on_ring(async |ring: Rc<Ring>| {
            let Some((near, mut far)) = flowing(&ring).await else { return };
            deliver(&near, &mut far, b"surplus");
            near.begin_send_if_quiet(b"request".to_vec());
            let received = near.recv(&in_ten_seconds(&ring)).await;
            assert!(received.is_err(), "{:?} was received", received.map(|bytes| bytes.to_vec()));
            expect_withdrawn(&ring, near, far).await;
        });
    }

    #[test]
    fn send_behind_an_end_is_withdrawn() {
        on_ring(async |ring: Rc<Ring>| {
            let Some((near, far)) = flowing(&ring).await else { return };
            far.shutdown(std::net::Shutdown::Write).expect("shutdown");
            let mut poll = [rustix::event::PollFd::new(&near, rustix::event::PollFlags::RDHUP)];
            rustix::event::poll(&mut poll, None).expect("the end is there");
            near.begin_send_if_quiet(b"request".to_vec());
            expect_withdrawn(&ring, near, far).await;
        });
    }

    #[test]
    fn send_waits_behind_everything_that_is_ready() {
        on_ring(async |ring: Rc<Ring>| {
            let Some(mut others) = many_flowing(&ring).await else { return };
            let Some((last, mut last_far)) = flowing(&ring).await else { return };
            deliver_to_all(&mut others);
            deliver(&last, &mut last_far, b"surplus");
            last.begin_send_if_quiet(b"request".to_vec());
            expect_withdrawn(&ring, last, last_far).await;
            expect_ready(&ring, &others).await;
        });
    }

    #[test]
    fn idle_connection_is_known_once_a_mark_has_passed() {
        on_ring(async |ring: Rc<Ring>| {
            let Some(mut others) = many_flowing(&ring).await else { return };
            for comes in [true, false] {
                let Some((near, mut far)) = flowing(&ring).await else { return };
                deliver_to_all(&mut others);
                if comes {
                    deliver(&near, &mut far, b"surplus");
                }
                let known_from = near.arm_at_once();
                assert!(!ring.is_past(known_from), "nothing was asked of the kernel since");
                while !ring.is_past(known_from) {
                    turned(&ring).await;
                }
                assert_eq!(near.quiet() == Quiet::Yes, !comes, "some came: {comes}");
                expect_ready(&ring, &others).await;
            }
        });
    }

    #[test]
    fn receive_that_was_just_queued_is_waited_for() {
        on_ring(async |ring: Rc<Ring>| {
            for comes in [true, false] {
                let (near, mut far) = pair(&ring);
                near.start_bounded_flow();
                if comes {
                    deliver(&near, &mut far, b"surplus");
                }
                near.arm();
                if !near.is_flowing() {
                    return;
                }
                near.begin_send_if_quiet(b"request".to_vec());
                if comes {
                    expect_withdrawn(&ring, near, far).await;
                } else {
                    outcome(&ring, &near).await.expect("sent");
                }
            }
        });
    }

    #[test]
    fn dropped_connection_sends_nothing_and_its_slot_is_not_taken_for_another() {
        on_ring(async |ring: Rc<Ring>| {
            let mut fars = Vec::new();
            for turns in 0..4 {
                let Some((near, mut far)) = flowing(&ring).await else { return };
                // A receive that is ready makes the send wait for the mark.
                deliver(&near, &mut far, b"surplus");
                near.begin_send_if_quiet(b"request".to_vec());
                for _ in 0..turns {
                    turned(&ring).await;
                }
                drop(near);
                fars.push(far);
            }
            settled(&ring, 0).await;
            for mut far in fars {
                let mut left = Vec::new();
                let _ = far.read_to_end(&mut left);
                assert_eq!(left, b"");
            }
            let Some((near, mut far)) = flowing(&ring).await else { return };
            near.begin_send_if_quiet(b"request".to_vec());
            outcome(&ring, &near).await.expect("sent");
            let mut room = [0; 7];
            far.read_exact(&mut room).expect("read");
            assert_eq!(&room, b"request");
        });
    }
}
