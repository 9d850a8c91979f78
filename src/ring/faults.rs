//! Faults on purpose, for tests, in builds with debug assertions only: now and then what the kernel did is
//! reported as having failed. `MANTRID_FAULTS="ONE_IN COUNT SEED"`: one completion in so many, so many in all on
//! each ring.
//!
//! Only faults that tell the truth about what is lost: a receive whose bytes are gone fails for good.

use super::{Op, listener};

pub(super) struct Faults {
    one_in: u64,
    left: u64,
    state: u64,
}

impl Faults {
    pub(super) fn from_environment() -> Faults {
        let text = std::env::var("MANTRID_FAULTS").unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let (one_in, left) = (next(), next());
        // Each ring its own.
        let own = std::thread::current().name().map_or(0, str::len) as u64;
        Faults { one_in, left, state: (next() + own).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The result of a completion, or an error in its place.
    pub(super) fn spoil(&mut self, op: Op, result: i32, more: bool) -> i32 {
        if self.one_in == 0 || self.left == 0 || result < 0 {
            return result;
        }
        let errno = match op {
            // The kernel never reports an error and goes on.
            Op::Recv if !more && 0 < result => libc::ECONNRESET,
            Op::Send => libc::EPIPE,
            Op::Connect => libc::ECONNREFUSED,
            Op::Accept => libc::EMFILE,
            _ => return result,
        };
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        if !self.state.is_multiple_of(self.one_in) {
            return result;
        }
        self.left -= 1;
        if op == Op::Accept {
            listener::close(result);
        }
        -errno
    }
}
