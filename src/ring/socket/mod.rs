//! The slot of a connected socket: operations in flight for it, and the meaning of their
//! completions.
//!
//! Each side keeps its own state, as an enum of the legal ones: [`receive`], [`send`] and [`poll`].
//! At most one receive, one send and one poll of each kind are in flight.

mod poll;
mod receive;
mod received;
mod send;

use super::{Inner, Op, SlotKind};

pub(super) use poll::{Address, Descriptor, Polls, ReadPoll};
pub(super) use receive::{Portion, Readiness, ReceiveMode, ReceiveSide, multishot};
pub(super) use received::Item;
pub(super) use send::{AfterSend, Outgoing, SendSide, end_receiving};

/// The state of a connected socket.
pub(super) struct SocketSlot {
    pub(super) receive: ReceiveSide,
    pub(super) send: SendSide,
    pub(super) polls: Polls,
}

/// Each connection has one, so it must not grow by accident.
const _: () = assert!(size_of::<SocketSlot>() <= 184);

impl SocketSlot {
    pub(super) const NEW: SocketSlot =
        SocketSlot { receive: ReceiveSide::NEW, send: SendSide::NEW, polls: Polls::NEW };

    /// The operations in flight.
    pub(super) fn operations(&self) -> [Option<Op>; 5] {
        let [read, room, end] = self.polls.operations();
        [self.receive.operation(), self.send.operation(), read, room, end]
    }

    pub(super) fn wake_receiver(&mut self) {
        super::tasks::wake(&mut self.receive.waker);
    }
}

impl Inner {
    pub(super) fn socket(&mut self, index: u32) -> &mut SocketSlot {
        match &mut self.slots[index as usize].kind {
            SlotKind::Socket(socket) => socket,
            _ => unreachable!("a stream's slot is a socket's"),
        }
    }
}
