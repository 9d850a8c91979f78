//! Polls of a socket: for bytes and for room (for `splice`), and for the end of what the peer
//! sends; also the connect, which reports room as well.

use io_uring::{opcode, types};

use crate::ring::tasks::wake;
use crate::ring::{Inner, Op};

/// The poll for bytes to read; one-shot.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum ReadPoll {
    Idle,
    InFlight,
    /// The poll has completed; its result waits to be taken: bytes, the end, or an error.
    Ready,
}

/// The poll for room to send, or the connect in its place.
///
/// A one-shot poll goes `Idle → Once → Done → Idle`. The kernel adds POLLRDHUP to every poll, so a
/// one-shot poll of a peer that has ended its side completes at once, each time. A multishot poll
/// reports that end once, and then reports room, so `Once → Multishot` follows.
pub(in crate::ring) enum RoomPoll {
    Idle,
    /// The kernel reads the address until the connect has completed.
    Connecting(Box<Address>),
    Once,
    Multishot(Report),
    /// Nothing is in flight, and the result waits to be taken.
    Done(i32),
}

/// A socket address as the kernel reads it, with its length.
pub(in crate::ring) type Address = (libc::sockaddr_storage, u32);

/// Report of a multishot poll.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Report {
    /// No task has asked for one.
    NotAsked,
    Awaited,
    /// The socket has had room since the last report was taken.
    Ready,
}

/// The poll for the end of what the peer sends. Multishot, because a reset may follow an end, and a
/// second one-shot poll would find the same end.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum EndPoll {
    Idle,
    InFlight,
}

/// The mode of the descriptor. Non-blocking stays: a socket that was spliced with once will be
/// spliced with again.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Descriptor {
    /// Left as it came: nearly always blocking.
    Untouched,
    /// `O_NONBLOCK` is set.
    Nonblocking,
}

/// The polls of a socket.
pub(in crate::ring) struct Polls {
    pub(in crate::ring) read: ReadPoll,
    pub(in crate::ring) room: RoomPoll,
    pub(in crate::ring) end: EndPoll,
    /// Events that the poll for the end has reported so far.
    pub(in crate::ring) end_events: i16,
    pub(in crate::ring) descriptor: Descriptor,
}

/// The step that a completion of a poll for room calls for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum RoomStep {
    /// Wake the task that waits.
    Wake,
    /// Poll once more, multishot.
    PollOn,
    /// Wait for the next completion.
    Wait,
}

impl RoomPoll {
    /// Takes note that a task asks for room; returns whether a poll has to be submitted.
    fn ask(&mut self) -> bool {
        match self {
            RoomPoll::Idle => {
                *self = RoomPoll::Once;
                true
            }
            RoomPoll::Multishot(report @ Report::NotAsked) => {
                *report = Report::Awaited;
                false
            }
            RoomPoll::Connecting(_)
            | RoomPoll::Once
            | RoomPoll::Multishot(Report::Awaited | Report::Ready)
            | RoomPoll::Done(_) => false,
        }
    }

    /// Takes the result that waits.
    pub(in crate::ring) fn take_result(&mut self) -> Option<i32> {
        match *self {
            RoomPoll::Done(result) => {
                *self = RoomPoll::Idle;
                Some(result)
            }
            RoomPoll::Multishot(Report::Ready) => {
                *self = RoomPoll::Multishot(Report::NotAsked);
                Some(0)
            }
            _ => None,
        }
    }

    /// Takes note of a completion.
    fn complete(&mut self, result: i32, more: bool) -> RoomStep {
        let is_ready = result & i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0;
        match self {
            RoomPoll::Idle | RoomPoll::Done(_) => {
                debug_assert!(false, "a completion without a poll");
                RoomStep::Wait
            }
            RoomPoll::Once | RoomPoll::Multishot(_) if 0 <= result && !is_ready => {
                if more {
                    return RoomStep::Wait;
                }
                let report = match self {
                    RoomPoll::Multishot(report) => *report,
                    _ => Report::Awaited,
                };
                *self = RoomPoll::Multishot(report);
                RoomStep::PollOn
            }
            RoomPoll::Multishot(report) if more => {
                debug_assert!(0 <= result, "the kernel never reports an error and goes on");
                *report = Report::Ready;
                RoomStep::Wake
            }
            RoomPoll::Connecting(_) | RoomPoll::Once | RoomPoll::Multishot(_) => {
                debug_assert!(!more, "a one-shot operation goes on");
                *self = RoomPoll::Done(result);
                RoomStep::Wake
            }
        }
    }

    fn operation(&self) -> Option<Op> {
        match self {
            RoomPoll::Idle | RoomPoll::Done(_) => None,
            RoomPoll::Connecting(_) => Some(Op::Connect),
            RoomPoll::Once | RoomPoll::Multishot(_) => Some(Op::PollOut),
        }
    }
}

impl Polls {
    pub(super) const NEW: Polls = Polls {
        read: ReadPoll::Idle,
        room: RoomPoll::Idle,
        end: EndPoll::Idle,
        end_events: 0,
        descriptor: Descriptor::Untouched,
    };

    /// The operations in flight.
    pub(super) fn operations(&self) -> [Option<Op>; 3] {
        [
            (self.read == ReadPoll::InFlight).then_some(Op::PollIn),
            self.room.operation(),
            (self.end == EndPoll::InFlight).then_some(Op::PollEnd),
        ]
    }
}

impl Inner {
    /// Polls for bytes, unless a poll is in flight or has reported.
    pub(in crate::ring) fn poll_for_bytes(&mut self, index: u32) {
        let read = &mut self.socket(index).polls.read;
        if *read == ReadPoll::Idle {
            *read = ReadPoll::InFlight;
            self.push_poll(index as usize, Op::PollIn, libc::POLLIN | libc::POLLRDHUP);
        }
    }

    /// Polls for room to send, unless a poll is in flight or has reported.
    pub(in crate::ring) fn poll_for_room(&mut self, index: u32) {
        if self.socket(index).polls.room.ask() {
            self.push_poll(index as usize, Op::PollOut, libc::POLLOUT);
        }
    }

    /// Polls for the end of what the peer sends, unless a poll is in flight.
    pub(in crate::ring) fn poll_for_end(&mut self, index: u32) {
        let end = &mut self.socket(index).polls.end;
        if *end == EndPoll::Idle {
            *end = EndPoll::InFlight;
            self.push_multishot_poll(index as usize, Op::PollEnd, libc::POLLRDHUP);
        }
    }

    /// Submits a poll that ends with its first report.
    pub(in crate::ring) fn push_poll(&mut self, index: usize, op: Op, mask: i16) {
        let fd = types::Fd(self.slots[index].fd);
        self.push(index, op, opcode::PollAdd::new(fd, mask as u32).build());
    }

    fn push_multishot_poll(&mut self, index: usize, op: Op, mask: i16) {
        let fd = types::Fd(self.slots[index].fd);
        self.push(index, op, opcode::PollAdd::new(fd, mask as u32).multi(true).build());
    }

    /// Submits the connect of a new socket.
    pub(in crate::ring) fn connect(&mut self, index: u32, address: Box<Address>) {
        let fd = types::Fd(self.slots[index as usize].fd);
        let room = &mut self.socket(index).polls.room;
        debug_assert!(matches!(room, RoomPoll::Idle), "a socket is connected once");
        *room = RoomPoll::Connecting(address);
        if let RoomPoll::Connecting(address) = room {
            // The slot owns the address until the completion, which alone changes the state.
            let entry = opcode::Connect::new(fd, (&raw const address.0).cast(), address.1).build();
            self.push(index as usize, Op::Connect, entry);
        }
    }

    /// The poll for bytes has reported. Returns whether a task was woken.
    pub(in crate::ring) fn bytes_polled(&mut self, index: usize) -> bool {
        let slot = self.socket(index as u32);
        debug_assert_eq!(slot.polls.read, ReadPoll::InFlight);
        slot.polls.read = ReadPoll::Ready;
        wake(&mut slot.receive.waker)
    }

    /// The poll for room, or the connect, has reported. Returns whether a task was woken.
    pub(in crate::ring) fn room_polled(&mut self, index: usize, result: i32, more: bool) -> bool {
        let is_abandoned = self.slots[index].abandoned;
        let slot = self.socket(index as u32);
        match slot.polls.room.complete(result, more) {
            RoomStep::Wake => wake(&mut slot.send.waker),
            RoomStep::PollOn if !is_abandoned => {
                self.push_multishot_poll(index, Op::PollOut, libc::POLLOUT);
                false
            }
            RoomStep::PollOn | RoomStep::Wait => false,
        }
    }

    /// The poll for the end of what a peer sends has something to report. A poll that failed for
    /// want of memory is started again by the next task that asks. Returns whether a task was
    /// woken.
    pub(in crate::ring) fn end_polled(&mut self, index: usize, result: i32, more: bool) -> bool {
        let slot = self.socket(index as u32);
        debug_assert_eq!(slot.polls.end, EndPoll::InFlight);
        if !more {
            slot.polls.end = EndPoll::Idle;
        }
        slot.polls.end_events |= result.max(0) as i16;
        wake(&mut slot.receive.waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: i32 = libc::POLLOUT as i32;
    const END: i32 = libc::POLLRDHUP as i32;

    #[test]
    fn one_shot_poll_reports_once() {
        let mut room = RoomPoll::Idle;
        assert!(room.ask());
        assert!(!room.ask(), "one poll at a time");
        assert_eq!(room.operation(), Some(Op::PollOut));
        assert_eq!(room.take_result(), None);
        assert_eq!(room.complete(ROOM, false), RoomStep::Wake);
        assert_eq!(room.operation(), None);
        assert!(!room.ask(), "the report is to be taken first");
        assert_eq!(room.take_result(), Some(ROOM));
        assert!(room.ask());
    }

    #[test]
    fn ended_peer_makes_the_poll_multishot() {
        let mut room = RoomPoll::Idle;
        room.ask();
        assert_eq!(room.complete(END, false), RoomStep::PollOn);
        assert_eq!(room.complete(END, true), RoomStep::Wait);
        assert_eq!(room.take_result(), None);
        assert_eq!(room.complete(END | ROOM, true), RoomStep::Wake);
        assert_eq!(room.take_result(), Some(0));
        assert_eq!(room.operation(), Some(Op::PollOut), "the poll is still in flight");
        assert!(!room.ask());
        assert_eq!(room.complete(ROOM, true), RoomStep::Wake);
        assert_eq!(room.take_result(), Some(0));
        assert_eq!(room.complete(-libc::ECANCELED, false), RoomStep::Wake);
        assert_eq!(room.take_result(), Some(-libc::ECANCELED));
        assert_eq!(room.operation(), None);
    }

    #[test]
    fn multishot_poll_that_ends_is_started_again() {
        for report in [Report::NotAsked, Report::Awaited] {
            let mut room = RoomPoll::Multishot(report);
            assert_eq!(room.complete(END, false), RoomStep::PollOn);
            assert!(matches!(room, RoomPoll::Multishot(same) if same == report));
        }
    }

    #[test]
    fn failed_connect_reports_its_errno() {
        // SAFETY: all zeros are a sockaddr_storage; no kernel reads it.
        let storage = unsafe { std::mem::zeroed() };
        let mut room = RoomPoll::Connecting(Box::new((storage, 0)));
        assert_eq!(room.operation(), Some(Op::Connect));
        assert!(!room.ask());
        assert_eq!(room.complete(-libc::ECONNREFUSED, false), RoomStep::Wake);
        assert_eq!(room.take_result(), Some(-libc::ECONNREFUSED));
        let mut room = RoomPoll::Connecting(Box::new((storage, 0)));
        assert_eq!(room.complete(0, false), RoomStep::Wake);
        assert_eq!(room.take_result(), Some(0));
    }
}
