//! Faults on purpose, for tests, in builds with debug assertions only: now and then the ring is
//! told that the kernel failed. `MANTRID_FAULTS="ONE_IN COUNT SEED"`: of the calls of each kind one
//! in ONE_IN fails, COUNT of them at most on each ring; the log says when a kind is used up.
//! `MANTRID_PANIC=TEXT`: the task that receives the text panics.
//!
//! Every fault tells the truth about what is lost: a receive whose bytes are gone fails for good,
//! and a call that was not made may be tried again.

use super::{Op, listener};

/// The kinds of calls that may fail.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Recv,
    Send,
    /// A send of which the kernel takes only a part.
    ShortSend,
    Connect,
    Accept,
    /// A poll for `splice(2)`, or for the end of what a client sends.
    Poll,
    /// A poll in front of a receive or send.
    Postponed,
    Close,
    Wake,
    Enter,
    Socket,
    Pipe,
    Fill,
    Empty,
}

/// Number of kinds.
const CALLS: usize = Call::Empty as usize + 1;

pub(super) struct Faults {
    one_in: u64,
    left: [u64; CALLS],
    state: u64,
    /// Text at which the task that receives it panics.
    panic_at: Vec<u8>,
}

impl Faults {
    pub(super) fn from_environment() -> Faults {
        let text = |name| match cfg!(debug_assertions) {
            true => std::env::var(name).unwrap_or_default(),
            false => String::new(),
        };
        let (faults, panic_at) = (text("MANTRID_FAULTS"), text("MANTRID_PANIC").into_bytes());
        let mut numbers = faults.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let (one_in, left) = (next(), [next(); CALLS]);
        // Each ring draws numbers of its own.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let own =
            name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let state = (next() + own).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Faults { one_in, left, state, panic_at }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// The errno with which a call is to fail; `None`: it is made.
    #[inline]
    pub(super) fn draw(&mut self, call: Call) -> Option<i32> {
        if !cfg!(debug_assertions) || self.one_in == 0 {
            return None;
        }
        let left = self.left[call as usize];
        if left == 0 || !self.random().is_multiple_of(self.one_in) {
            return None;
        }
        self.left[call as usize] = left - 1;
        if left == 1 {
            eprintln!("mantrid: faults on purpose: {call:?} is used up");
        }
        let errnos: &[i32] = match call {
            Call::Recv => &[libc::ECONNRESET, libc::ETIMEDOUT],
            Call::Send => &[libc::EPIPE, libc::ECONNRESET],
            Call::ShortSend => &[0],
            Call::Connect => &[libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EADDRNOTAVAIL],
            Call::Accept => &[libc::EMFILE, libc::ECONNABORTED],
            Call::Poll | Call::Postponed | Call::Wake => &[libc::ENOMEM, libc::ECANCELED],
            // The kernel closes the descriptor all the same.
            Call::Close => &[libc::EIO, libc::EINTR],
            Call::Enter => &[libc::EINTR, libc::EAGAIN, libc::EBUSY],
            Call::Socket | Call::Pipe => &[libc::EMFILE, libc::ENFILE],
            Call::Fill => &[libc::EAGAIN, libc::EINTR, libc::ECONNRESET],
            Call::Empty => &[libc::EAGAIN, libc::EINTR, libc::EPIPE],
        };
        let which = self.random() >> 32;
        Some(errnos[which as usize % errnos.len()])
    }

    /// The result of a completion, or an error in its place.
    #[inline]
    pub(super) fn spoil(&mut self, op: Op, result: i32, more: bool) -> i32 {
        if !cfg!(debug_assertions) || self.one_in == 0 || result < 0 {
            return result;
        }
        let call = match op {
            // The kernel never reports an error of a receive that goes on.
            Op::Recv if !more && 0 < result => Call::Recv,
            Op::Send => Call::Send,
            Op::Connect => Call::Connect,
            Op::Accept => Call::Accept,
            Op::PollOut | Op::PollEnd if more => return result,
            Op::PollIn | Op::PollOut | Op::PollEnd => Call::Poll,
            Op::Rearm | Op::Resend => Call::Postponed,
            Op::Close => Call::Close,
            Op::Wake => Call::Wake,
            // A cancel that fails would not tell the truth: the receive may be gone.
            Op::Recv | Op::Cancel | Op::Mark => return result,
        };
        let Some(errno) = self.draw(call) else { return result };
        if op == Op::Accept {
            listener::close(result);
        }
        -errno
    }

    /// How many of these bytes are offered to the kernel.
    #[inline]
    pub(super) fn shorten(&mut self, bytes: usize) -> usize {
        match self.draw(Call::ShortSend) {
            Some(_) if 1 < bytes => 1 + self.random() as usize % (bytes - 1),
            _ => bytes,
        }
    }

    /// Panics if the bytes contain the text that a test has set.
    #[inline]
    pub(super) fn look(&self, received: &[u8]) {
        if cfg!(debug_assertions) && !self.panic_at.is_empty() {
            let is_there = memchr::memmem::find(received, &self.panic_at).is_some();
            assert!(!is_there, "on purpose");
        }
    }
}
