//! The send side of a socket: the bytes on their way to the kernel, and the send for them.
//!
//! Legal states: nothing is sent; the first send is to be queued ([`SendStage::Departing`]) or in
//! flight ([`SendStage::Prompt`]); another one is ([`SendStage::Waiting`]); a poll is, in its place
//! ([`SendStage::Postponed`]). Short sends are continued here, and no task is woken for them. An
//! error is final: it stays, and no send is in flight when it is noted.
//!
//! Nearly always a socket has room, and the first send takes all bytes while it is submitted. It
//! asks for no completion then: a completion would end the sleep of the shard for nothing.

use std::os::fd::BorrowedFd;
use std::task::Waker;

use io_uring::{opcode, squeue, types};

use crate::ring::buffers::{BufferGroup, Group, Lent};
use crate::ring::tasks::wake;
use crate::ring::{Inner, Op, Slot, SlotKind};

/// Bytes that are being sent: the ring's until the kernel is done with them.
pub(in crate::ring) enum Outgoing {
    Vec(Vec<u8>),
    Lent(Lent),
}

impl Outgoing {
    fn bytes(&self, groups: &[BufferGroup]) -> *const [u8] {
        match self {
            Outgoing::Vec(bytes) => bytes.as_slice(),
            Outgoing::Lent(lent) => groups[lent.group as usize].bytes(lent),
        }
    }

    /// Copies bytes that lie in a small buffer of the kernel's, and gives the buffer back: others
    /// need it while the peer takes its time. No operation may be in flight for the bytes.
    fn leave_buffer(&mut self, groups: &mut [BufferGroup]) {
        if let Outgoing::Lent(lent @ Lent { group: Group::Heads, .. }) = *self {
            // SAFETY: the buffer is lent to this send, and the operation that read it is complete.
            let bytes = unsafe { &*groups[lent.group as usize].bytes(&lent) }.to_vec();
            groups[lent.group as usize].give(lent.buffer);
            *self = Outgoing::Vec(bytes);
        }
    }
}

/// The fate of a `Vec` that was sent. Buffers of the kernel's always go back to it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum AfterSend {
    /// Goes back to the ring's pool.
    Recycle,
    /// Waits for the task to take it back.
    Return,
}

/// The operation that is in flight for bytes that are being sent.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum SendStage {
    /// None yet: the first send is queued if nothing has come on the connection.
    Departing,
    /// A send that does not wait for room. It completes while it is submitted, and only if it did
    /// not take all bytes the kernel reports it.
    Prompt,
    /// A send that waits for room.
    Waiting,
    /// A poll in the place of the send, as the socket is set to non-blocking.
    Postponed,
}

/// The meaning of a completion for the bytes that are being sent.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Progress {
    /// Some are left, or the call was interrupted: send again.
    Continue,
    /// The socket would block: poll, then send again.
    Postpone,
    /// All were taken.
    Done,
    /// The errno ended it.
    Failed(i32),
}

pub(in crate::ring) struct Sending {
    outgoing: Outgoing,
    /// Bytes that the kernel has taken.
    sent: usize,
    after: AfterSend,
    stage: SendStage,
}

impl Sending {
    /// Takes note of a completion for these `total` bytes.
    fn advance(&mut self, result: i32, total: usize) -> Progress {
        debug_assert_ne!(self.stage, SendStage::Postponed);
        match result {
            1.. => {
                self.sent += result as usize;
                debug_assert!(self.sent <= total, "more was sent than there is");
                if self.sent < total { Progress::Continue } else { Progress::Done }
            }
            0 => Progress::Done,
            errno if errno == -libc::EINTR => Progress::Continue,
            errno if errno == -libc::EAGAIN => match self.stage {
                SendStage::Departing | SendStage::Prompt => Progress::Continue,
                SendStage::Waiting | SendStage::Postponed => Progress::Postpone,
            },
            errno => Progress::Failed(-errno),
        }
    }
}

/// The send side of a socket.
pub(in crate::ring) struct SendSide {
    sending: Option<Sending>,
    /// A `Vec` that was sent with [`AfterSend::Return`], until it is taken.
    pub(in crate::ring) returned: Option<Vec<u8>>,
    /// The errno of a send that failed, or zero.
    pub(in crate::ring) error: i32,
    /// The last send was withdrawn: what is received is the response to nothing.
    pub(in crate::ring) is_withdrawn: bool,
    pub(in crate::ring) waker: Option<Waker>,
}

impl SendSide {
    pub(super) const NEW: SendSide =
        SendSide { sending: None, returned: None, error: 0, is_withdrawn: false, waker: None };

    /// Whether bytes are on their way.
    pub(in crate::ring) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether nothing is on its way, and nothing went wrong.
    pub(in crate::ring) fn is_sent(&self) -> bool {
        self.sending.is_none() && self.error == 0
    }

    /// Bytes of the present send that the kernel has taken.
    pub(in crate::ring) fn progress(&self) -> Option<usize> {
        self.sending.as_ref().map(|sending| sending.sent)
    }

    /// The operation in flight.
    pub(super) fn operation(&self) -> Option<Op> {
        self.sending.as_ref().and_then(|sending| match sending.stage {
            SendStage::Departing => None,
            SendStage::Prompt | SendStage::Waiting => Some(Op::Send),
            SendStage::Postponed => Some(Op::Resend),
        })
    }

    fn stage(&self) -> Option<SendStage> {
        self.sending.as_ref().map(|sending| sending.stage)
    }

    /// Whether the next turn may complete the send without a completion of the kernel's.
    pub(in crate::ring) fn is_prompt(&self) -> bool {
        matches!(self.stage(), Some(SendStage::Departing | SendStage::Prompt))
    }

    /// Whether the send is still to be queued.
    pub(in crate::ring) fn departs(&self) -> bool {
        self.stage() == Some(SendStage::Departing)
    }

    fn begin(&mut self, outgoing: Outgoing, after: AfterSend, stage: SendStage) {
        assert!(self.sending.is_none(), "one send at a time");
        self.sending = Some(Sending { outgoing, sent: 0, after, stage });
    }

    /// Ends a send that was not queued, as a failure, and returns its bytes to the task.
    pub(in crate::ring) fn withdraw(&mut self) {
        debug_assert!(self.departs(), "bytes that are with the kernel can't be withdrawn");
        if let Some(Sending { outgoing: Outgoing::Vec(bytes), .. }) = self.sending.take() {
            self.returned = Some(bytes);
        }
        self.error = libc::ECONNRESET;
        self.is_withdrawn = true;
    }
}

impl Inner {
    /// Begins to send. The send before must be done.
    pub(in crate::ring) fn begin_send(&mut self, index: u32, outgoing: Outgoing, after: AfterSend) {
        self.socket(index).send.begin(outgoing, after, SendStage::Prompt);
        self.submit_first_send(index);
    }

    /// Sends `bytes` if nothing has come on the connection when they leave; otherwise withdraws
    /// them. A receive that goes on by itself has to be in flight. The send before must be done.
    pub(in crate::ring) fn begin_departure(&mut self, index: u32, bytes: Vec<u8>) {
        let side = &mut self.socket(index).send;
        side.begin(Outgoing::Vec(bytes), AfterSend::Return, SendStage::Departing);
        self.departures.add(index);
    }

    pub(in crate::ring) fn submit_first_send(&mut self, index: u32) {
        self.submit_send(index as usize, SendStage::Prompt);
        self.prompt_sends.push(index);
    }

    /// Completes the sends that took all bytes while they were submitted. The caller has submitted
    /// everything queued, and collected everything reported. Returns whether a task was woken.
    pub(in crate::ring) fn complete_prompt_sends(&mut self) -> bool {
        let mut woken = false;
        let mut sends = std::mem::take(&mut self.prompt_sends);
        for index in sends.drain(..) {
            let index = index as usize;
            // A send that was reported has another stage by now, or its slot is gone.
            let Some(Slot { kind: SlotKind::Socket(slot), .. }) = self.slots.get(index) else {
                continue;
            };
            if let Some(sending) = &slot.send.sending
                && sending.stage == SendStage::Prompt
            {
                let all = sending.outgoing.bytes(&self.groups).len();
                woken |= self.complete(index, Op::Send, all as i32, 0);
            }
        }
        self.prompt_sends = sends;
        woken
    }

    /// Sends what the kernel has not taken yet, and waits for room.
    fn continue_send(&mut self, index: usize) {
        self.submit_send(index, SendStage::Waiting);
    }

    fn submit_send(&mut self, index: usize, stage: SendStage) {
        let Inner { slots, groups, faults, .. } = self;
        let fd = types::Fd(slots[index].fd);
        let SlotKind::Socket(slot) = &mut slots[index].kind else {
            unreachable!("a send is a socket's")
        };
        let Some(sending) = &mut slot.send.sending else {
            debug_assert!(false, "nothing is to be sent");
            return;
        };
        let bytes = sending.outgoing.bytes(groups);
        let all = bytes.len() - sending.sent;
        let left = faults.shorten(all);
        // A part on purpose is reported: the kernel would take it for all.
        sending.stage = if left < all { SendStage::Waiting } else { stage };
        let start = bytes.cast::<u8>().wrapping_add(sending.sent);
        let send = opcode::Send::new(fd, start, u32::try_from(left).unwrap_or(u32::MAX));
        let entry = match sending.stage {
            // MSG_WAITALL: fewer bytes than all are a failure, which is reported.
            SendStage::Prompt => send
                .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS),
            SendStage::Departing | SendStage::Waiting | SendStage::Postponed => send.build(),
        };
        self.push(index, Op::Send, entry);
    }

    /// A completion of a send. Returns whether a task was woken.
    pub(in crate::ring) fn sent(&mut self, index: usize, result: i32) -> bool {
        let Inner { slots, groups, .. } = self;
        let (fd, is_abandoned) = (slots[index].fd, slots[index].abandoned);
        let SlotKind::Socket(slot) = &mut slots[index].kind else {
            unreachable!("a send is a socket's")
        };
        let Some(sending) = &mut slot.send.sending else {
            debug_assert!(false, "a completion without a send");
            return false;
        };
        let total = sending.outgoing.bytes(groups).len();
        let progress = sending.advance(result, total);
        match progress {
            Progress::Continue if !is_abandoned => {
                sending.outgoing.leave_buffer(groups);
                self.continue_send(index);
                return false;
            }
            Progress::Postpone if !is_abandoned => {
                sending.stage = SendStage::Postponed;
                self.push_poll(index, Op::Resend, libc::POLLOUT);
                return false;
            }
            Progress::Continue | Progress::Postpone | Progress::Done | Progress::Failed(_) => {}
        }
        let Some(Sending { outgoing, after, .. }) = slot.send.sending.take() else { return false };
        let mut woken = wake(&mut slot.send.waker);
        if let Progress::Failed(errno) = progress {
            // A failed send ends the connection, whatever a task waits for.
            slot.send.error = errno;
            woken |= wake(&mut slot.receive.waker);
            if !is_abandoned {
                // SAFETY: the slot's handle is there, so the descriptor is open.
                end_receiving(unsafe { BorrowedFd::borrow_raw(fd) });
            }
        }
        match (outgoing, after) {
            (Outgoing::Vec(bytes), AfterSend::Return) => slot.send.returned = Some(bytes),
            (Outgoing::Vec(bytes), AfterSend::Recycle) => self.give_vec(bytes),
            (Outgoing::Lent(lent), _) => groups[lent.group as usize].give(lent.buffer),
        }
        woken
    }

    /// The socket is ready for the send that was postponed.
    pub(in crate::ring) fn send_ready(&mut self, index: usize) -> bool {
        debug_assert_eq!(self.socket(index as u32).send.operation(), Some(Op::Resend));
        if !self.slots[index].abandoned {
            self.continue_send(index);
        }
        false
    }
}

/// Ends receiving, behind what has come by now (an early response, say).
///
/// Nearly always the kernel has ended the connection in both directions. Where a send failed for
/// want of memory, the peer would wait for the rest of what it was sent, and we for its response.
pub(in crate::ring) fn end_receiving(socket: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(bytes: usize) -> SendSide {
        let mut side = SendSide::NEW;
        side.begin(Outgoing::Vec(vec![7; bytes]), AfterSend::Recycle, SendStage::Prompt);
        side
    }

    fn advance(side: &mut SendSide, result: i32, total: usize) -> Progress {
        side.sending.as_mut().expect("a send").advance(result, total)
    }

    #[test]
    fn short_send_is_continued_until_all_is_taken() {
        let mut side = sending(10);
        assert!(side.is_sending() && !side.is_sent());
        assert_eq!(advance(&mut side, 4, 10), Progress::Continue);
        assert_eq!(side.progress(), Some(4));
        assert_eq!(advance(&mut side, -libc::EINTR, 10), Progress::Continue);
        assert_eq!(side.progress(), Some(4));
        assert_eq!(advance(&mut side, 6, 10), Progress::Done);
    }

    #[test]
    fn full_socket_postpones_and_errors_end() {
        let mut side = sending(10);
        assert_eq!(side.operation(), Some(Op::Send));
        // The first send does not wait for room, so the next one does.
        assert_eq!(advance(&mut side, -libc::EAGAIN, 10), Progress::Continue);
        side.sending.as_mut().expect("a send").stage = SendStage::Waiting;
        assert_eq!(side.operation(), Some(Op::Send));
        assert_eq!(advance(&mut side, -libc::EAGAIN, 10), Progress::Postpone);
        assert_eq!(advance(&mut side, -libc::EPIPE, 10), Progress::Failed(libc::EPIPE));
        side.sending.as_mut().expect("a send").stage = SendStage::Postponed;
        assert_eq!(side.operation(), Some(Op::Resend));
    }

    #[test]
    fn empty_send_is_done_at_once() {
        assert_eq!(advance(&mut sending(0), 0, 0), Progress::Done);
    }

    #[test]
    fn failed_side_counts_as_unsent() {
        let side = SendSide { error: libc::EPIPE, ..SendSide::NEW };
        assert!(!side.is_sent() && !side.is_sending());
        assert_eq!(side.operation(), None);
    }
}
