//! The receive side of a socket: the receive in flight, and the meaning of its completions.
//!
//! The legal states are those of [`Receiving`]; [`Cancel`] tells whether the receive in flight was
//! told to end. [`ReceiveSide::check`] asserts the rest at each door: behind the end of the stream,
//! or an error, nothing is in flight.
//!
//! ```text
//! Idle ── arm ──► Once ── no buffer free ──► Own ──► Idle
//!   │              │ ▲
//!   │   would block│ │ready        each of them ends in Idle: with bytes, the end, an error,
//!   │              ▼ │             or because it was cancelled
//!   │           Postponed ◄─┐
//!   │                       │ would block
//!   └─ arm, multishot ──► Multishot ── no buffer free ──► Own
//! ```

use std::task::Waker;

use io_uring::{opcode, squeue, types};

use super::received::{Item, Received};
use crate::limits;
use crate::ring::buffers::{Group, Lent};
use crate::ring::tasks::wake;
use crate::ring::{Inner, Op, user_data, with_field};

/// `IORING_RECVSEND_POLL_FIRST` (5.19): do not try before the socket is ready.
const POLL_FIRST: u16 = 1;

/// A receive that goes on by itself, into small buffers, until it has brought `most` bytes; 0 is no
/// bound, and the only value that kernels before 6.17 take.
pub(in crate::ring) fn multishot(fd: types::Fd, most: u32) -> squeue::Entry {
    /// Offset of `optlen` in `struct io_uring_sqe`.
    const OPTLEN: usize = 44;
    with_field::<OPTLEN>(opcode::RecvMulti::new(fd, Group::Heads as u16).build(), most)
}

/// The receive in flight. It leaves each state but `Idle` only with its last completion, so memory
/// that the kernel writes to stays as long as it may.
pub(super) enum Receiving {
    /// None: the socket is read by no one, or by others (`splice`).
    Idle,
    /// One that takes a buffer of the group and ends.
    Once { group: Group, cancel: Cancel },
    /// One that goes on by itself (Linux 6.0); it takes small buffers.
    Multishot { cancel: Cancel },
    /// One that found no buffer of the kernel's and writes to memory of its own.
    #[expect(clippy::box_collection, reason = "a word in place of three, in each of many slots")]
    Own { memory: Box<Vec<u8>>, cancel: Cancel },
    /// A poll in the place of a receive, as the socket is set to non-blocking.
    Postponed { group: Group, cancel: Cancel },
}

/// Whether the receive in flight was told to end. Its last completion is still to come.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Cancel {
    NotAsked,
    Asked,
}

/// How small receives are made from now on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum ReceiveMode {
    /// Each is armed by a task.
    Once,
    /// One goes on until it is stopped.
    Multishot,
}

/// Knowledge of the bytes that lie in the socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Readiness {
    Unknown,
    /// The next receive tries before it polls: more is known to be there, or has to be looked for.
    Try,
}

/// How much the next small receive takes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Portion {
    /// All that its buffer holds.
    Buffer,
    /// [`limits::PEEK_BYTES`] at most; the rest stays where it is.
    Peek,
}

/// The receive side of a socket.
pub(in crate::ring) struct ReceiveSide {
    receiving: Receiving,
    pub(in crate::ring) received: Received,
    pub(in crate::ring) waker: Option<Waker>,
    pub(in crate::ring) mode: ReceiveMode,
    pub(in crate::ring) readiness: Readiness,
    pub(in crate::ring) portion: Portion,
    /// Small messages that have followed each other, up to the number that starts a flow.
    smalls: u8,
    /// The turn of the ring in which the receive in flight was queued; its low bits.
    armed_in: u32,
}

/// A completed receive, as the state machine left it behind.
struct Ended {
    group: Group,
    cancel: Cancel,
    #[expect(clippy::box_collection, reason = "as it lay in the slot")]
    memory: Option<Box<Vec<u8>>>,
}

impl Ended {
    /// Result of the receive, in the buffer that it was lent or in its own.
    #[inline]
    fn item(self, result: i32, lent: Option<Lent>) -> Item {
        match (result, lent, self.memory) {
            (0, ..) => Item::End,
            (1.., Some(lent), _) => Item::Lent(lent),
            (1.., None, Some(mut bytes)) => {
                // SAFETY: the kernel wrote `result` bytes into this buffer of at least that
                // capacity.
                unsafe { bytes.set_len(result as usize) };
                Item::Own(*bytes)
            }
            // A receive with neither kind of buffer was never submitted.
            (1.., None, None) => std::process::abort(),
            (errno, ..) => Item::Error(-errno),
        }
    }
}

impl ReceiveSide {
    pub(super) const NEW: ReceiveSide = ReceiveSide {
        receiving: Receiving::Idle,
        received: Received::EMPTY,
        waker: None,
        mode: ReceiveMode::Once,
        readiness: Readiness::Unknown,
        portion: Portion::Buffer,
        smalls: 0,
        armed_in: 0,
    };

    /// Whether a receive, or the poll in its place, is in flight.
    pub(in crate::ring) fn is_in_flight(&self) -> bool {
        !matches!(self.receiving, Receiving::Idle)
    }

    /// Whether the receive in flight goes on by itself.
    pub(in crate::ring) fn is_multishot(&self) -> bool {
        matches!(self.receiving, Receiving::Multishot { .. })
    }

    /// Whether a receive that goes on by itself was submitted in an earlier turn than `turn`.
    pub(in crate::ring) fn flows_since_before(&self, turn: u64) -> bool {
        self.is_multishot() && self.armed_in != turn as u32
    }

    /// Whether a new receive may be armed.
    pub(in crate::ring) fn may_arm(&self) -> bool {
        !self.is_in_flight() && self.received.is_empty()
    }

    /// Takes note of a message that was small.
    pub(in crate::ring) fn note_small(&mut self) {
        if self.mode == ReceiveMode::Once {
            self.smalls += 1;
            if self.smalls == limits::SMALL_MESSAGES {
                self.mode = ReceiveMode::Multishot;
            }
        }
    }

    /// Has receives armed one by one from now on.
    pub(in crate::ring) fn stop_flow(&mut self) {
        self.mode = ReceiveMode::Once;
        self.smalls = 0;
    }

    /// The operation in flight.
    pub(super) fn operation(&self) -> Option<Op> {
        match self.receiving {
            Receiving::Idle => None,
            Receiving::Postponed { .. } => Some(Op::Rearm),
            Receiving::Once { .. } | Receiving::Multishot { .. } | Receiving::Own { .. } => {
                Some(Op::Recv)
            }
        }
    }

    /// Asserts what the types leave open. Called at each door of this side.
    pub(in crate::ring) fn check(&self) {
        debug_assert!(
            !self.received.is_final() || !self.is_in_flight(),
            "a receive is in flight behind the end of its stream"
        );
    }

    fn cancel_mut(&mut self) -> Option<&mut Cancel> {
        match &mut self.receiving {
            Receiving::Idle => None,
            Receiving::Once { cancel, .. }
            | Receiving::Multishot { cancel }
            | Receiving::Own { cancel, .. }
            | Receiving::Postponed { cancel, .. } => Some(cancel),
        }
    }

    /// Begins a receive into a buffer of `group`; returns whether it is a multishot one.
    fn begin(&mut self, group: Group) -> bool {
        debug_assert!(!self.is_in_flight(), "one receive at a time");
        debug_assert!(!self.received.is_final(), "nothing comes behind the end of a stream");
        let cancel = Cancel::NotAsked;
        self.receiving = match (self.mode, group) {
            (ReceiveMode::Multishot, Group::Heads) => Receiving::Multishot { cancel },
            _ => Receiving::Once { group, cancel },
        };
        self.is_multishot()
    }

    /// Takes note that the receive in flight is told to end; returns the operation to cancel, or
    /// `None` when none is in flight or it was told before.
    fn ask_to_end(&mut self) -> Option<Op> {
        let operation = self.operation()?;
        match std::mem::replace(self.cancel_mut()?, Cancel::Asked) {
            Cancel::NotAsked => Some(operation),
            Cancel::Asked => None,
        }
    }

    /// The last completion of the receive in flight, or of the poll in its place, has come.
    fn end(&mut self) -> Ended {
        match std::mem::replace(&mut self.receiving, Receiving::Idle) {
            Receiving::Once { group, cancel } | Receiving::Postponed { group, cancel } => {
                Ended { group, cancel, memory: None }
            }
            Receiving::Multishot { cancel } => Ended { group: Group::Heads, cancel, memory: None },
            Receiving::Own { memory, cancel } => {
                Ended { group: Group::Heads, cancel, memory: Some(memory) }
            }
            Receiving::Idle => {
                debug_assert!(false, "a completion without a receive");
                Ended { group: Group::Heads, cancel: Cancel::NotAsked, memory: None }
            }
        }
    }
}

impl Inner {
    /// Submits a receive for a socket that has none in flight.
    pub(in crate::ring) fn arm(&mut self, index: u32, group: Group) {
        let fd = types::Fd(self.slots[index as usize].fd);
        let bound = if self.bounds_flows { limits::FLOW_BYTES } else { 0 };
        let turn = self.turns;
        let side = &mut self.socket(index).receive;
        side.armed_in = turn as u32;
        let entry = if side.begin(group) {
            multishot(fd, bound)
        } else {
            let first = match side.readiness {
                Readiness::Unknown => POLL_FIRST,
                Readiness::Try => 0,
            };
            let portion = match group {
                Group::Heads => std::mem::replace(&mut side.portion, Portion::Buffer),
                Group::Bulk => Portion::Buffer,
            };
            let most = match portion {
                // As much as the buffer holds.
                Portion::Buffer => 0,
                Portion::Peek => limits::PEEK_BYTES,
            };
            opcode::Recv::new(fd, std::ptr::null_mut(), most)
                .buf_group(group as u16)
                .ioprio(first)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(index as usize, Op::Recv, entry);
    }

    /// Ends a receive that goes on by itself. Its last completion is still to come.
    pub(in crate::ring) fn stop_multishot(&mut self, index: u32) {
        if self.socket(index).receive.is_multishot() {
            self.cancel_receive(index);
        }
    }

    /// Ends a receive, unless it has been told to end.
    pub(in crate::ring) fn cancel_receive(&mut self, index: u32) {
        if let Some(operation) = self.socket(index).receive.ask_to_end() {
            let entry = opcode::AsyncCancel::new(user_data(index as usize, operation)).build();
            self.push(index as usize, Op::Cancel, entry);
        }
    }

    /// A completion of a receive. Returns whether a task was woken.
    pub(in crate::ring) fn received(&mut self, index: usize, result: i32, flags: u32) -> bool {
        let is_abandoned = self.slots[index].abandoned;
        let more = io_uring::cqueue::more(flags);
        let side = &mut self.socket(index as u32).receive;
        let ended = if more {
            debug_assert!(side.is_multishot(), "a one-shot receive goes on");
            Ended { group: Group::Heads, cancel: Cancel::NotAsked, memory: None }
        } else {
            side.end()
        };
        side.readiness = match io_uring::cqueue::sock_nonempty(flags) {
            true => Readiness::Try,
            false => Readiness::Unknown,
        };
        let group = ended.group;
        let buffer = io_uring::cqueue::buffer_select(flags);
        let lent = buffer.map(|buffer| Lent { group, buffer, start: 0, end: result.max(0) as u32 });
        if let Some(lent) = &lent
            && (is_abandoned || result <= 0)
        {
            self.groups[group as usize].give(lent.buffer);
        }
        if is_abandoned {
            return false;
        }
        match -result {
            libc::ECANCELED | libc::ENOBUFS | libc::EAGAIN | libc::EINTR
                if ended.cancel == Cancel::Asked =>
            {
                return wake(&mut self.socket(index as u32).receive.waker);
            }
            libc::ENOBUFS => {
                // Every buffer of the group is lent out: this one connection takes memory of its
                // own.
                self.figures.buffers_missed += 1;
                self.arm_own(index as u32);
                return false;
            }
            libc::EAGAIN | libc::EINTR => {
                self.postpone_receive(index, group);
                return false;
            }
            _ => {}
        }
        let side = &mut self.socket(index as u32).receive;
        side.received.put(ended.item(result, lent));
        side.check();
        let woken = wake(&mut side.waker);
        if more && side.received.is_crowded() {
            // No task takes the bytes as fast as they come: the rest is to wait in the kernel,
            // where the window tells the sender.
            self.stop_multishot(index as u32);
        }
        woken
    }

    fn arm_own(&mut self, index: u32) {
        let fd = types::Fd(self.slots[index as usize].fd);
        let mut memory = Box::new(Vec::with_capacity(limits::RECV_BUFFER_BYTES as usize));
        let entry = opcode::Recv::new(fd, memory.as_mut_ptr(), limits::RECV_BUFFER_BYTES).build();
        let side = &mut self.socket(index).receive;
        debug_assert!(!side.is_in_flight(), "one receive at a time");
        side.receiving = Receiving::Own { memory, cancel: Cancel::NotAsked };
        self.push(index as usize, Op::Recv, entry);
    }

    /// Polls, then receives. The socket was set to non-blocking for splice(2): Linux 6.18 waits for
    /// such a one all the same, other kernels do not.
    fn postpone_receive(&mut self, index: usize, group: Group) {
        let side = &mut self.socket(index as u32).receive;
        debug_assert!(!side.is_in_flight(), "one receive at a time");
        side.receiving = Receiving::Postponed { group, cancel: Cancel::NotAsked };
        self.push_poll(index, Op::Rearm, libc::POLLIN);
    }

    /// The socket is ready for the receive that was postponed, or its poll was cancelled. Returns
    /// whether a task was woken.
    pub(in crate::ring) fn receive_ready(&mut self, index: usize) -> bool {
        let is_abandoned = self.slots[index].abandoned;
        let side = &mut self.socket(index as u32).receive;
        debug_assert_eq!(side.operation(), Some(Op::Rearm));
        let ended = side.end();
        if is_abandoned {
            return false;
        }
        match ended.cancel {
            Cancel::Asked => wake(&mut side.waker),
            Cancel::NotAsked => {
                side.readiness = Readiness::Try;
                self.arm(index as u32, ended.group);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::{on_ring, pair};

    #[test]
    fn small_receive_follows_the_mode_and_large_one_ends() {
        let mut side = ReceiveSide::NEW;
        assert!(side.may_arm());
        assert!(!side.begin(Group::Heads));
        assert!(side.is_in_flight() && !side.may_arm() && !side.is_multishot());
        side.end();
        side.mode = ReceiveMode::Multishot;
        assert!(side.begin(Group::Heads));
        side.end();
        assert!(!side.begin(Group::Bulk), "large buffers are never taken by a multishot receive");
        assert_eq!(side.end().group, Group::Bulk);
    }

    #[test]
    fn receive_is_cancelled_once() {
        let mut side = ReceiveSide::NEW;
        assert_eq!(side.ask_to_end(), None, "none is in flight");
        side.begin(Group::Heads);
        assert_eq!(side.ask_to_end(), Some(Op::Recv));
        assert_eq!(side.ask_to_end(), None);
        assert!(side.is_in_flight(), "its completion is still to come");
        assert_eq!(side.end().cancel, Cancel::Asked);
        side.begin(Group::Heads);
        assert_eq!(side.ask_to_end(), Some(Op::Recv), "the next one was not told");
    }

    #[test]
    fn postponed_receive_is_cancelled_by_its_poll() {
        let mut side = ReceiveSide::NEW;
        side.receiving = Receiving::Postponed { group: Group::Bulk, cancel: Cancel::NotAsked };
        assert_eq!(side.operation(), Some(Op::Rearm));
        assert_eq!(side.ask_to_end(), Some(Op::Rearm));
        let ended = side.end();
        assert!(ended.group == Group::Bulk && ended.cancel == Cancel::Asked);
        assert!(side.may_arm());
    }

    #[test]
    fn postponed_receive_is_released() {
        on_ring(|ring| async move {
            let (stream, _far) = pair(&ring);
            let index = ring.inner.borrow().slots.iter().next().expect("its slot").0;
            ring.inner.borrow_mut().postpone_receive(index, Group::Heads);
            assert!(stream.is_armed());
            stream.released().await;
            assert!(!stream.is_armed());
        });
    }

    #[test]
    fn memory_of_a_receive_stays_until_its_completion() {
        let mut side = ReceiveSide::NEW;
        let memory = Box::new(Vec::with_capacity(8));
        let pointer = memory.as_ptr();
        side.receiving = Receiving::Own { memory, cancel: Cancel::NotAsked };
        assert_eq!(side.ask_to_end(), Some(Op::Recv));
        let memory = side.end().memory.expect("the memory");
        assert_eq!(memory.as_ptr(), pointer);
    }

    #[test]
    fn nothing_is_armed_behind_the_end() {
        let mut side = ReceiveSide::NEW;
        side.begin(Group::Heads);
        side.end();
        side.received.put(Item::End);
        side.check();
        assert!(!side.may_arm());
    }
}
