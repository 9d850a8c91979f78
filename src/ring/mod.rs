//! The shard's own `io_uring`: the only way bytes move, and (beside thin system-call wrappers) the
//! only `unsafe` of the program.
//!
//! One ring belongs to one thread. Everything here works on *slots*: a slot is a descriptor with
//! its operations in flight. The ownership rule makes it sound:
//!
//! - memory named in a submission belongs to the kernel until the matching completion: send buffers
//!   and socket addresses live in the slot, received bytes land in buffers that the ring lends out;
//! - a slot is given up by dropping its handle; it is reused only after every completion of its
//!   operations has come back, so a late completion is never taken for one of another connection;
//! - a descriptor is closed *through* the ring, behind everything submitted for it: were it closed
//!   at once, a submission still queued could meet a new connection under the same number.
//!
//! A send that takes all its bytes while it is submitted has no completion. It counts as in flight
//! until a turn has seen that everything queued was submitted.
//!
//! A dropped future therefore cancels nothing by itself: a receive belongs to its stream, not to
//! the future that waits for it, and the bytes it brings are there for the next future. Only
//! dropping the [`Stream`] cancels, and even then the kernel keeps its buffers until it says so.
//!
//! Set-up: `SINGLE_ISSUER | DEFER_TASKRUN` (Linux 6.1): completions are delivered when we ask for
//! them and never interrupt the running shard. [`drive`] asks: one `io_uring_enter` for all that
//! the last round of tasks queued, and sleep in the same call when no task can run.

#[doc(hidden)]
pub mod bench;
mod buffers;
mod busy_poll;
mod departure;
mod faults;
mod listener;
mod notify;
mod probe;
mod socket;
mod splice;
mod steering;
mod stream;
mod tasks;
mod timer;
mod waker;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;

use crate::limits;

pub(crate) use buffers::RecvBuf;
pub(crate) use busy_poll::probe_busy_poll;
pub(crate) use departure::KnownFrom;
pub(crate) use listener::Listener;
pub(crate) use notify::Notify;
pub(crate) use probe::probe;
pub(crate) use splice::{Moved, Pipe};
pub(crate) use steering::{steer, stop_steering};
pub(crate) use stream::{Abort, EndCounts, Quiet, SendBuf, Stream, drop_received};
pub(crate) use timer::Deadline;
pub(crate) use waker::WakeReceiver;

use buffers::BufferGroup;
use faults::Call;
use socket::SocketSlot;
use timer::Wheel;

/// The kind of an operation. `user_data` has the slot's index in its low half, the kind above it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Op {
    Recv = 0,
    Send = 1,
    PollIn = 2,
    PollOut = 3,
    Connect = 4,
    Accept = 5,
    Cancel = 6,
    Close = 7,
    Wake = 8,
    /// A poll in front of a receive that met a non-blocking socket.
    Rearm = 9,
    /// A poll in front of a send that met one.
    Resend = 10,
    /// A poll for the end of what the peer sends; it leaves the bytes where they are, and goes on.
    PollEnd = 11,
    /// The mark behind which departures wait: see [`departure`]. It belongs to no slot.
    Mark = 12,
}

impl Op {
    fn from_bits(bits: u8) -> Op {
        match bits {
            0 => Op::Recv,
            1 => Op::Send,
            2 => Op::PollIn,
            3 => Op::PollOut,
            4 => Op::Connect,
            5 => Op::Accept,
            6 => Op::Cancel,
            7 => Op::Close,
            8 => Op::Wake,
            9 => Op::Rearm,
            10 => Op::Resend,
            11 => Op::PollEnd,
            12 => Op::Mark,
            // Only this module writes user_data; anything else means memory is not what we think.
            _ => std::process::abort(),
        }
    }
}

fn user_data(slot: usize, op: Op) -> u64 {
    (slot as u64 & 0xffff_ffff) | (op as u64) << 32
}

/// Sets a field of `struct io_uring_sqe` for which the crate has no setter: the four bytes at
/// `OFFSET`.
fn with_field<const OFFSET: usize>(mut entry: squeue::Entry, value: u32) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    const { assert!(OFFSET + 4 <= 64 && OFFSET.is_multiple_of(4)) };
    // SAFETY: an entry is `struct io_uring_sqe`, of 64 bytes and any values; the four bytes lie in
    // it, aligned, as asserted.
    unsafe { (&raw mut entry).byte_add(OFFSET).cast::<u32>().write(value) };
    entry
}

/// A descriptor with its operations in flight.
struct Slot {
    fd: RawFd,
    /// Completions still to come. The slot is reused only at zero.
    in_flight: u16,
    /// The handle is gone: results of what still completes are thrown away.
    abandoned: bool,
    kind: SlotKind,
}

enum SlotKind {
    Socket(SocketSlot),
    Listener(listener::ListenerSlot),
    Wake(waker::WakeSlot),
}

struct Inner {
    // Dropped first: after this the kernel touches neither buffers nor slots.
    ring: IoUring,
    slots: Slab<Slot>,
    faults: faults::Faults,
    groups: [BufferGroup; 2],
    spare_vecs: Vec<Vec<u8>>,
    /// Slots whose first send was queued and is not known to be complete.
    prompt_sends: Vec<u32>,
    departures: departure::Departures,
    pipes: Vec<splice::PipePair>,
    pipes_out: usize,
    pipes_max: usize,
    figures: Figures,
    /// Turns in which the kernel took everything queued and told everything it had completed.
    turns: u64,
    /// The queue was full since the last turn: some submissions may be complete and not collected.
    submitted_early: bool,
    /// A flow ends when it has brought [`limits::FLOW_BYTES`]: see [`probe::bounds_flows`].
    bounds_flows: bool,
    wheel: Wheel,
    now: Instant,
}

/// Whether a turn of the driver may sleep.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Wait {
    No,
    /// Sleeps until something completes or the next deadline is due.
    UntilCompletion,
}

/// One `io_uring` with its buffers and timers; shared by all tasks of a shard.
pub(crate) struct Ring {
    inner: RefCell<Inner>,
    /// A task was woken since the driver last looked: the driver must not sleep.
    runnable: Cell<bool>,
    stop: Cell<bool>,
}

impl Ring {
    /// A ring for the calling thread. Errors say what the kernel refused and what to do.
    pub(crate) fn new() -> Result<Rc<Ring>, String> {
        let mut ring =
            probe::build(limits::RING_ENTRIES).map_err(|error| probe::explain(&error))?;
        let bounds_flows =
            probe::bounds_flows(&mut ring).map_err(|error| probe::explain_enter(&error))?;
        let groups = [
            BufferGroup::new(&ring, 0, limits::RECV_BUFFERS, limits::RECV_BUFFER_BYTES)
                .map_err(|error| probe::explain(&error))?,
            BufferGroup::new(&ring, 1, limits::BULK_BUFFERS, limits::BULK_BUFFER_BYTES)
                .map_err(|error| probe::explain(&error))?,
        ];
        let now = Instant::now();
        Ok(Rc::new(Ring {
            inner: RefCell::new(Inner {
                ring,
                slots: Slab::new(),
                faults: faults::Faults::from_environment(),
                groups,
                spare_vecs: Vec::new(),
                prompt_sends: Vec::new(),
                departures: departure::Departures::default(),
                pipes: Vec::new(),
                pipes_out: 0,
                pipes_max: limits::PIPES_MAX,
                figures: Figures::default(),
                turns: 0,
                submitted_early: false,
                bounds_flows,
                wheel: Wheel::new(now),
                now,
            }),
            runnable: Cell::new(true),
            stop: Cell::new(false),
        }))
    }

    /// The shard's coarse clock: read once per turn of the driver.
    pub(crate) fn now(&self) -> Instant {
        self.inner.borrow().now
    }

    /// The coarse clock in milliseconds, to measure short times with; it begins anew after 49 days.
    pub(crate) fn millis(&self) -> u32 {
        self.inner.borrow().wheel_millis() as u32
    }

    /// Whether a moment has passed: the ring has brought what the socket held when its receive was
    /// armed ([`Stream::arm_at_once`]).
    pub(crate) fn is_past(&self, moment: KnownFrom) -> bool {
        let inner = self.inner.borrow();
        match moment {
            KnownFrom::Turn(turn) => turn < inner.turns,
            KnownFrom::Mark(mark) => mark < inner.departures.passed(),
        }
    }

    /// An empty buffer to write a head or a reply into; goes back to the pool after it was sent.
    pub(crate) fn take_vec(&self) -> Vec<u8> {
        let spare = self.inner.borrow_mut().spare_vecs.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(limits::OUT_BUFFER_BYTES))
    }

    /// Gives back a buffer that was not sent.
    pub(crate) fn give_vec(&self, vec: Vec<u8>) {
        self.inner.borrow_mut().give_vec(vec);
    }

    /// Bounds how many pipes are lent out at a time.
    pub(crate) fn limit_pipes(&self, most: usize) {
        self.inner.borrow_mut().pipes_max = most;
    }

    /// Polls the network card for so long before each sleep.
    pub(crate) fn poll_busily(&self, time: Duration) -> Result<(), String> {
        let registered = busy_poll::register(&self.inner.borrow().ring, time);
        registered.map_err(|error| format!("busy_poll: {}", busy_poll::explain(&error)))
    }

    /// The counts of this ring so far.
    pub(crate) fn figures(&self) -> Figures {
        let inner = self.inner.borrow();
        Figures { pipes: inner.pipes_out, ..inner.figures }
    }

    /// Ends [`drive`] at its next turn.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
        self.runnable.set(true);
    }

    /// Hands over what is queued, without waiting: for the closes at the end.
    pub(crate) fn flush(&self) {
        self.turn(Wait::No);
    }

    /// Tells the driver that a task became runnable by other means than the ring (a spawn).
    pub(crate) fn note_runnable(&self) {
        self.runnable.set(true);
    }

    /// Lets every other task that can run have its turn: for loops that may find work without end.
    pub(crate) async fn give_way(&self) {
        self.runnable.set(true);
        yield_once().await;
    }

    /// Wakes every task that waits for bytes, so that it looks at the state of its shard again.
    pub(crate) fn wake_receivers(&self) {
        let mut inner = self.inner.borrow_mut();
        for (_, slot) in inner.slots.iter_mut() {
            if let SlotKind::Socket(socket) = &mut slot.kind {
                socket.wake_receiver();
            }
        }
        self.runnable.set(true);
    }

    /// Wakes a task of this shard.
    pub(crate) fn wake(&self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.runnable.set(true);
            waker.wake();
        }
    }

    /// Submits what is queued, collects what is complete and wakes the tasks concerned.
    fn turn(&self, wait: Wait) {
        let mut woken = self.inner.borrow_mut().settle_departures();
        self.enter(if woken { Wait::No } else { wait });
        let before = std::mem::replace(&mut self.inner.borrow_mut().now, Instant::now());
        if limits::STOOD_STILL < self.now() - before {
            // Perhaps the whole process, or machine, stood still, and the call ended because its
            // time was up. Bytes that have come meanwhile are to be seen before the deadlines are,
            // or responses that lie there would be too late.
            self.enter(Wait::No);
        }
        let mut inner = self.inner.borrow_mut();
        let is_whole = inner.note_turn();
        woken |= inner.collect();
        // A task may wait for one of these sends, and no completion would end a sleep.
        woken |= match is_whole {
            true => inner.complete_prompt_sends(),
            false => !inner.prompt_sends.is_empty(),
        };
        woken |= inner.wheel_turn();
        if woken {
            self.runnable.set(true);
        }
    }

    fn enter(&self, wait: Wait) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.figures.enters += 1;
        let (submit, pending) = {
            let mut queue = inner.ring.submission();
            queue.sync();
            (queue.len() as u32, queue.cq_overflow())
        };
        let waits = wait == Wait::UntilCompletion && !pending;
        // IORING_ENTER_GETEVENTS: runs deferred task work, flushes overflow.
        const GETEVENTS: u32 = 1;
        // IORING_ENTER_EXT_ARG: the timeout travels with the call (5.11).
        const EXT_ARG: u32 = 8;
        let fault = inner.faults.draw(Call::Enter);
        let result = if let Some(errno) = fault {
            Err(io::Error::from_raw_os_error(errno))
        } else if waits {
            let timeout = inner.wheel.until_next(Instant::now()).unwrap_or(limits::SLEEP_MAX);
            let spec = types::Timespec::from(timeout.max(Duration::from_millis(1)));
            let args = types::SubmitArgs::new().timespec(&spec);
            // SAFETY: flags and argument are what io_uring_enter(2) documents for EXT_ARG; `args`
            // and `spec` outlive the call.
            unsafe { inner.ring.submitter().enter(submit, 1, GETEVENTS | EXT_ARG, Some(&args)) }
        } else {
            // SAFETY: no argument is passed; the flags are documented ones.
            unsafe { inner.ring.submitter().enter::<libc::sigset_t>(submit, 0, GETEVENTS, None) }
        };
        if let Err(error) = result {
            match error.raw_os_error() {
                // ETIME: the deadline came; EINTR: a signal; EAGAIN and EBUSY: the kernel is short
                // of memory or of completion space for a moment: collect, then come back.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                // EBADR: completions were lost, which NODROP (5.5) rules out. Anything else means
                // the ring is not what we set up. Nothing sound can follow.
                _ => {
                    die(&format!("io_uring_enter: {error}: the ring is broken"));
                }
            }
        }
    }
}

impl Inner {
    /// Counts the turn, before its completions are collected, unless some submissions stayed in the
    /// queue or some completions have to wait for room. Returns whether it counts.
    fn note_turn(&mut self) -> bool {
        let mut queue = self.ring.submission();
        queue.sync();
        let is_whole = queue.is_empty() && !queue.cq_overflow();
        drop(queue);
        if is_whole {
            self.turns += 1;
            self.submitted_early = false;
        }
        is_whole
    }

    /// Drains the completion queue into the slots; returns whether a task was woken. Wakers only
    /// queue tasks, they never run them, so nothing re-enters the ring meanwhile.
    fn collect(&mut self) -> bool {
        let mut woken = false;
        while let Some(entry) = {
            let mut queue = self.ring.completion();
            queue.next()
        } {
            self.figures.completions += 1;
            let data = entry.user_data();
            let (slot, op) = ((data & 0xffff_ffff) as usize, Op::from_bits((data >> 32) as u8));
            woken |= self.complete(slot, op, entry.result(), entry.flags());
        }
        woken
    }

    fn give_vec(&mut self, mut vec: Vec<u8>) {
        if vec.capacity() <= limits::OUT_BUFFER_KEPT_BYTES
            && self.spare_vecs.len() < limits::OUT_BUFFERS_KEPT
        {
            vec.clear();
            self.spare_vecs.push(vec);
        }
    }

    /// Queues a submission for `slot` and counts it as in flight.
    ///
    /// The caller guarantees what `push` needs: every pointer in `entry` stays valid until the
    /// completion (it points into the slot, a buffer group, or memory owned by the slot).
    fn push(&mut self, slot: usize, op: Op, entry: squeue::Entry) {
        self.queue(entry.user_data(user_data(slot, op)));
        self.slots[slot].in_flight += 1;
    }

    /// Queues a submission. The caller guarantees what [`push`](Self::push) asks for.
    fn queue(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: the pointers in `entry` are into memory owned by the slot or a buffer group,
            // both kept until the completion; see the ownership rule above.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                break;
            }
            // The queue is full: hand over what is there. EAGAIN and EBUSY pass.
            self.submitted_early = true;
            let submitted = match self.faults.draw(Call::Enter) {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => self.ring.submit(),
            };
            if let Err(error) = submitted
                && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
            {
                die(&format!("io_uring_enter: {error}: the ring is broken"));
            }
        }
    }

    /// One completion. Returns whether a task was woken.
    fn complete(&mut self, index: usize, op: Op, result: i32, flags: u32) -> bool {
        if op == Op::Mark {
            self.departures.mark_passed();
            return false;
        }
        let Some(slot) = self.slots.get_mut(index) else {
            // A completion for a slot that is gone would be a completion for the wrong connection.
            die(&format!("completion without owner (slot {index}, {op:?})"));
        };
        let more = io_uring::cqueue::more(flags);
        let result = self.faults.spoil(op, result, more);
        if !more {
            slot.in_flight -= 1;
        }
        let woken = match op {
            Op::Cancel | Op::Mark => false,
            Op::Close => {
                slot.fd = -1;
                false
            }
            Op::Accept => self.accepted(index, result, more),
            Op::Wake => self.remote_wake(index),
            Op::Recv => self.received(index, result, flags),
            Op::Send => self.sent(index, result),
            Op::Rearm => self.receive_ready(index),
            Op::Resend => self.send_ready(index),
            Op::PollIn => self.bytes_polled(index),
            Op::PollEnd => self.end_polled(index, result, more),
            Op::PollOut | Op::Connect => self.room_polled(index, result, more),
        };
        let slot = &self.slots[index];
        if slot.abandoned && slot.in_flight == 0 {
            self.slots.remove(index);
        }
        woken
    }

    /// Gives up a slot whose handle was dropped: cancels what is in flight, closes behind it, and
    /// keeps the slot until all completions are in.
    fn abandon(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.abandoned = true;
        if let SlotKind::Socket(socket) = &slot.kind
            && socket.send.departs()
        {
            self.departures.forget(index as u32);
        }
        let slot = &self.slots[index];
        let fd = slot.fd;
        let expected = slot.in_flight;
        let known = match &slot.kind {
            SlotKind::Socket(socket) => socket.operations(),
            SlotKind::Listener(_) | SlotKind::Wake(_) => [None; 5],
        };
        if usize::from(expected) == known.iter().flatten().count() {
            // One by one: the kernel finds each by its name. To find all of a descriptor it looks
            // at every operation of the ring: with 4,000 connections a third of all time, measured.
            for op in known.into_iter().flatten() {
                let cancel = opcode::AsyncCancel::new(user_data(index, op));
                self.push(index, Op::Cancel, cancel.build());
            }
        } else {
            let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::fd(types::Fd(fd)).all());
            self.push(index, Op::Cancel, cancel.build());
        }
        self.push(index, Op::Close, opcode::Close::new(types::Fd(fd)).build());
    }
}

/// Counts of a ring since it was made.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Calls of `io_uring_enter`.
    pub(crate) enters: u64,
    /// Completions taken.
    pub(crate) completions: u64,
    /// Receives that found no buffer of their group and took memory of their own.
    pub(crate) buffers_missed: u64,
    /// Pipes lent out now.
    pub(crate) pipes: usize,
}

/// Runs the ring until [`Ring::stop`]: one turn, then every task that it made runnable, and again.
///
/// Must be spawned once, on the same executor as the tasks that use the ring. While no task can run
/// the thread sleeps inside the ring, not in the executor, so tasks may be woken only by what the
/// ring knows of: its own operations, deadlines, [`Notify`], or a task that says so
/// ([`Ring::note_runnable`]).
pub(crate) async fn drive(ring: Rc<Ring>) {
    while !ring.stop.get() {
        let busy = ring.runnable.replace(false);
        ring.turn(if busy { Wait::No } else { Wait::UntilCompletion });
        if ring.runnable.replace(false) || busy {
            // The driver's place in the executor's queue is behind every task just woken: when it
            // is polled again all of them have run, and `runnable` tells whether they woke others.
            yield_once().await;
        }
    }
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ends the process, and says why, unless that would have to wait for a reader of standard error.
fn die(why: &str) -> ! {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stderr = io::stderr();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)).is_ok_and(|count| 0 < count) {
        let _ = writeln!(&stderr, "mantrid: {why}, stopping");
    }
    std::process::abort()
}

fn os_error(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}
