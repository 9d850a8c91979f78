//! The slot of a connected socket: what is in flight for it, and what its completions mean.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::task::{Context, Waker};

use io_uring::{opcode, squeue, types};

use super::buffers::Lent;
use super::{Inner, Op, SlotKind, user_data};
use crate::limits;

/// `IORING_RECVSEND_POLL_FIRST` (5.19): do not try before the socket is ready.
const POLL_FIRST: u16 = 1;
/// The group of small buffers: heads and what comes with them.
pub(super) const HEADS: u8 = 0;
/// The group of large ones: bodies that are known to go on.
pub(super) const BULK: u8 = 1;

/// Places in a queue that stay when it is empty.
const BEHIND_KEPT: usize = 4;

/// What is being sent: the ring's until the kernel is done with it.
pub(super) enum Held {
    Vec(Vec<u8>),
    Lent(Lent),
}

pub(super) struct Sending {
    pub(super) held: Held,
    pub(super) sent: usize,
    pub(super) keep: bool,
}

/// What the last receive brought and nobody took yet.
pub(super) enum Item {
    None,
    Lent(Lent),
    Own(Vec<u8>),
    /// The peer sends no more: final.
    End,
    /// An errno: final.
    Error(i32),
}

#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum PollState {
    Idle,
    Armed,
    Done(i32),
}

pub(super) struct SocketSlot {
    /// The group whose buffer the receive in flight takes.
    pub(super) armed: Option<u8>,
    /// Receives are to go on by themselves (multishot, Linux 6.0).
    pub(super) flow: bool,
    /// The one in flight does.
    pub(super) flowing: bool,
    /// It was told to end.
    pub(super) halting: bool,
    /// A poll stands in its place, as the socket is set to non-blocking.
    pub(super) rearming: bool,
    /// The same for the send.
    pub(super) resending: bool,
    /// More is known to lie in the socket: the next receive need not poll first.
    pub(super) nonempty: bool,
    /// The next receive is to take a little and leave the rest where it is.
    pub(super) peeks: bool,
    /// `O_NONBLOCK` is set.
    pub(super) nonblocking: bool,
    pub(super) item: Item,
    /// What came behind `item` before that was taken.
    /// Boxed, as few ever have any: a slot is there for each connection.
    #[expect(clippy::box_collection, reason = "a word in place of four, in each of many slots")]
    pub(super) behind: Option<Box<VecDeque<Item>>>,
    /// Where the receive in flight writes to that found no buffer of the kernel's.
    #[expect(clippy::box_collection, reason = "a word in place of three, in each of many slots")]
    pub(super) own: Option<Box<Vec<u8>>>,
    pub(super) recv_waker: Option<Waker>,
    pub(super) sending: Option<Sending>,
    pub(super) kept: Option<Vec<u8>>,
    pub(super) send_error: i32,
    pub(super) send_waker: Option<Waker>,
    pub(super) poll_in: PollState,
    pub(super) poll_out: PollState,
    /// The poll for room in flight goes on by itself.
    pub(super) out_flows: bool,
    pub(super) poll_end: PollState,
    /// What the poll for the end has reported.
    pub(super) end_events: i16,
    pub(super) address: Option<Box<(libc::sockaddr_storage, u32)>>,
}

impl SocketSlot {
    pub(super) fn new() -> SocketSlot {
        SocketSlot {
            armed: None,
            flow: false,
            flowing: false,
            halting: false,
            rearming: false,
            resending: false,
            nonempty: false,
            peeks: false,
            nonblocking: false,
            item: Item::None,
            behind: None,
            own: None,
            recv_waker: None,
            sending: None,
            kept: None,
            send_error: 0,
            send_waker: None,
            poll_in: PollState::Idle,
            poll_out: PollState::Idle,
            out_flows: false,
            poll_end: PollState::Idle,
            end_events: 0,
            address: None,
        }
    }
}

impl SocketSlot {
    /// What is in flight, each with its kind.
    pub(super) fn in_flight(&self) -> [Option<Op>; 5] {
        let is_armed = |state: PollState| state == PollState::Armed;
        let (receive, send) = (
            if self.rearming { Op::Rearm } else { Op::Recv },
            if self.resending { Op::Resend } else { Op::Send },
        );
        let out = if self.address.is_some() { Op::Connect } else { Op::PollOut };
        let all = [
            (self.armed.is_some(), receive),
            (self.sending.is_some(), send),
            (is_armed(self.poll_in), Op::PollIn),
            (is_armed(self.poll_out), out),
            (is_armed(self.poll_end), Op::PollEnd),
        ];
        all.map(|(is, op)| is.then_some(op))
    }

    pub(super) fn wake_receiver(&mut self) {
        wake(&mut self.recv_waker);
    }

    /// Takes the front of what was received; what came behind it moves up.
    pub(super) fn take_item(&mut self) -> Item {
        let next = self.behind.as_mut().and_then(|behind| behind.pop_front());
        if let Some(behind) = &self.behind
            && behind.is_empty()
            && BEHIND_KEPT < behind.capacity()
        {
            self.behind = None;
        }
        std::mem::replace(&mut self.item, next.unwrap_or(Item::None))
    }

    fn put_item(&mut self, item: Item) {
        match self.item {
            Item::None => self.item = item,
            _ => self.behind.get_or_insert_default().push_back(item),
        }
    }
}

impl Inner {
    pub(super) fn socket(&mut self, index: u32) -> &mut SocketSlot {
        match &mut self.slots[index as usize].kind {
            SlotKind::Socket(socket) => socket,
            _ => unreachable!("a stream's slot is a socket's"),
        }
    }

    pub(super) fn arm(&mut self, index: u32, group: u8) {
        let fd = types::Fd(self.slots[index as usize].fd);
        let slot = self.socket(index);
        slot.armed = Some(group);
        slot.flowing = slot.flow && group == HEADS;
        let entry = if slot.flowing {
            opcode::RecvMulti::new(fd, u16::from(group)).build()
        } else {
            let first = if slot.nonempty { 0 } else { POLL_FIRST };
            let peeks = group == HEADS && std::mem::take(&mut slot.peeks);
            // 0: as much as the buffer holds.
            let most = if peeks { limits::PEEK_BYTES } else { 0 };
            opcode::Recv::new(fd, std::ptr::null_mut(), most)
                .buf_group(u16::from(group))
                .ioprio(first)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(index as usize, Op::Recv, entry);
    }

    /// Ends a receive that goes on by itself. Its last completion is still to come.
    pub(super) fn halt(&mut self, index: u32) {
        if self.socket(index).flowing {
            self.cancel_receive(index);
        }
    }

    /// Ends a receive, unless it has been told to end.
    pub(super) fn cancel_receive(&mut self, index: u32) {
        let slot = self.socket(index);
        if slot.armed.is_some() && !std::mem::replace(&mut slot.halting, true) {
            let entry = opcode::AsyncCancel::new(user_data(index as usize, Op::Recv)).build();
            self.push(index as usize, Op::Cancel, entry);
        }
    }

    pub(super) fn received(&mut self, index: usize, result: i32, flags: u32) -> bool {
        let buffer = io_uring::cqueue::buffer_select(flags);
        let abandoned = self.slots[index].abandoned;
        let slot = self.socket(index as u32);
        let more = io_uring::cqueue::more(flags);
        let group = slot.armed.unwrap_or(HEADS);
        let halted = slot.halting && !more;
        if !more {
            slot.armed = None;
            slot.flowing = false;
            slot.halting = false;
        }
        slot.nonempty = io_uring::cqueue::sock_nonempty(flags);
        let own = slot.own.take();
        let lent = buffer.map(|buffer| Lent { group, buffer, start: 0, end: result.max(0) as u32 });
        if let Some(lent) = &lent
            && (abandoned || result <= 0)
        {
            let buffer = lent.buffer;
            self.groups[usize::from(group)].give(buffer);
        }
        if abandoned {
            return false;
        }
        if halted && matches!(-result, libc::ECANCELED | libc::ENOBUFS) {
            return wake(&mut self.socket(index as u32).recv_waker);
        }
        if result == -libc::ENOBUFS {
            // Every buffer of the group is lent out: this one connection takes memory of its own.
            self.figures.buffers_missed += 1;
            return self.arm_own(index as u32);
        }
        if result == -libc::EAGAIN || result == -libc::EINTR {
            // The socket was set to non-blocking for splice(2). 6.18 waits for such a one all the same; where
            // a kernel does not: poll, then receive.
            let entry = poll_entry(self.slots[index].fd, libc::POLLIN);
            self.push(index, Op::Rearm, entry);
            let slot = self.socket(index as u32);
            (slot.armed, slot.rearming) = (Some(group), true);
            return false;
        }
        let slot = self.socket(index as u32);
        slot.put_item(match (result, lent, own) {
            (0, ..) => Item::End,
            (1.., Some(lent), _) => Item::Lent(lent),
            (1.., None, Some(mut bytes)) => {
                // SAFETY: the kernel wrote `result` bytes into this buffer of at least that capacity.
                unsafe { bytes.set_len(result as usize) };
                Item::Own(*bytes)
            }
            // A receive with neither kind of buffer was never submitted.
            (1.., None, None) => std::process::abort(),
            (errno, ..) => Item::Error(-errno),
        });
        let woken = wake(&mut slot.recv_waker);
        if more && slot.behind.as_ref().is_some_and(|behind| !behind.is_empty()) {
            // Nobody takes it as fast as it comes: the rest is to wait in the kernel, where the window
            // tells the sender.
            self.halt(index as u32);
        }
        woken
    }

    fn arm_own(&mut self, index: u32) -> bool {
        let fd = types::Fd(self.slots[index as usize].fd);
        let mut bytes = Vec::with_capacity(limits::RECV_BUFFER_BYTES as usize);
        let entry = opcode::Recv::new(fd, bytes.as_mut_ptr(), limits::RECV_BUFFER_BYTES).build();
        let slot = self.socket(index);
        slot.armed = Some(HEADS);
        slot.own = Some(Box::new(bytes));
        self.push(index as usize, Op::Recv, entry);
        false
    }

    pub(super) fn continue_send(&mut self, index: usize) {
        let Inner { slots, groups, faults, .. } = self;
        let fd = types::Fd(slots[index].fd);
        let SlotKind::Socket(slot) = &slots[index].kind else {
            unreachable!("a send is a socket's")
        };
        let Some(sending) = &slot.sending else { return };
        let bytes: *const [u8] = match &sending.held {
            Held::Vec(bytes) => bytes.as_slice(),
            Held::Lent(lent) => groups[usize::from(lent.group)].bytes(lent),
        };
        let left = faults.shorten(bytes.len() - sending.sent);
        let start = bytes.cast::<u8>().wrapping_add(sending.sent);
        let entry = opcode::Send::new(fd, start, u32::try_from(left).unwrap_or(u32::MAX)).build();
        self.push(index, Op::Send, entry);
    }

    pub(super) fn sent(&mut self, index: usize, result: i32) -> bool {
        let abandoned = self.slots[index].abandoned;
        let Inner { slots, groups, .. } = self;
        let fd = slots[index].fd;
        let SlotKind::Socket(slot) = &mut slots[index].kind else {
            unreachable!("a send is a socket's")
        };
        let Some(sending) = &mut slot.sending else { return false };
        let total = match &sending.held {
            Held::Vec(bytes) => bytes.len(),
            Held::Lent(lent) => groups[usize::from(lent.group)].bytes(lent).len(),
        };
        if result > 0 {
            sending.sent += result as usize;
        }
        let again = result > 0 && sending.sent < total || result == -libc::EINTR;
        if again && !abandoned {
            self.continue_send(index);
            return false;
        }
        if result == -libc::EAGAIN && !abandoned {
            // Non-blocking, as in `received`.
            let entry = poll_entry(self.slots[index].fd, libc::POLLOUT);
            self.push(index, Op::Resend, entry);
            self.socket(index as u32).resending = true;
            return false;
        }
        if result < 0 {
            slot.send_error = -result;
        }
        let Some(Sending { held, keep, .. }) = slot.sending.take() else { return false };
        // A failed send ends the connection, whoever waits for what.
        let mut woken = wake(&mut slot.send_waker);
        if result < 0 {
            woken |= wake(&mut slot.recv_waker);
            if !abandoned {
                // SAFETY: the slot's handle is there, so the descriptor is open.
                end_receiving(unsafe { BorrowedFd::borrow_raw(fd) });
            }
        }
        match held {
            Held::Vec(bytes) if keep => slot.kept = Some(bytes),
            Held::Vec(bytes) => self.give_vec(bytes),
            Held::Lent(lent) => groups[usize::from(lent.group)].give(lent.buffer),
        }
        woken
    }

    /// The socket is ready for what `op` postponed.
    pub(super) fn postponed(&mut self, index: usize, op: Op) -> bool {
        let slot = self.socket(index as u32);
        match op {
            Op::Resend => slot.resending = false,
            _ => slot.rearming = false,
        }
        if self.slots[index].abandoned {
            return false;
        }
        if op == Op::Resend {
            self.continue_send(index);
        } else {
            let slot = self.socket(index as u32);
            slot.nonempty = true;
            let group = slot.armed.unwrap_or(HEADS);
            self.arm(index as u32, group);
        }
        false
    }

    pub(super) fn polled(&mut self, index: usize, op: Op, result: i32, more: bool) -> bool {
        let is_abandoned = self.slots[index].abandoned;
        let slot = self.socket(index as u32);
        if op == Op::PollIn {
            slot.poll_in = PollState::Done(result);
            return wake(&mut slot.recv_waker);
        }
        if op == Op::PollOut {
            slot.out_flows = more;
            let is_ready = result & i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0;
            if 0 <= result && !is_ready {
                // The kernel adds POLLRDHUP to every poll: one for a peer that has ended its side is over at once, each
                // time. A multishot one says that once, and then tells of room.
                if !more && !is_abandoned {
                    slot.out_flows = true;
                    let fd = types::Fd(self.slots[index].fd);
                    let entry = opcode::PollAdd::new(fd, libc::POLLOUT as u32).multi(true);
                    self.push(index, op, entry.build());
                }
                return false;
            }
        }
        slot.address = None;
        slot.poll_out = PollState::Done(result);
        wake(&mut slot.send_waker)
    }
}

impl Inner {
    /// The poll for the end of what a peer sends has something to report. One that failed for want of memory is started
    /// again by the next task that asks.
    pub(super) fn end_polled(&mut self, index: usize, result: i32, more: bool) -> bool {
        let slot = self.socket(index as u32);
        if !more {
            slot.poll_end = PollState::Idle;
        }
        slot.end_events |= result.max(0) as i16;
        wake(&mut slot.recv_waker)
    }
}

fn poll_entry(fd: i32, mask: i16) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(fd), mask as u32).build()
}

/// What has come by now (an early answer, say) is still received, and then the end. Nearly always the kernel has
/// ended the connection in both directions; where a send failed for want of memory, the peer would wait for the
/// rest of what it was sent, and we for its answer.
pub(super) fn end_receiving(socket: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
}

fn wake(waker: &mut Option<Waker>) -> bool {
    match waker.take() {
        Some(waker) => {
            waker.wake();
            true
        }
        None => false,
    }
}

/// Sees that `waker` wakes the task of `cx`; cheap when it does already.
pub(super) fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *waker = Some(cx.waker().clone()),
    }
}
