//! `splice(2)`: bulk bytes from socket to socket through a pipe, without copying them.
//!
//! `IORING_OP_SPLICE` always runs on a thread of the kernel. So this is the plain system call, on
//! sockets that are set to non-blocking and stay so; a poll on the ring reports readiness. Pipes
//! come from a pool: making a pipe and setting its size costs more than moving a megabyte.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::pipe::{PipeFlags, SpliceFlags};

use super::faults::Call;
use super::{Ring, Stream};
use crate::limits;

pub(super) struct PipePair {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// A kernel pipe on loan from the ring's pool.
pub(crate) struct Pipe {
    ring: Rc<Ring>,
    pair: Option<PipePair>,
    /// Bytes inside. A pipe that is given back with bytes in it is closed instead.
    held: usize,
}

/// The outcome of one call.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    Bytes(usize),
    /// The source has nothing now, or the target is full.
    Later,
    /// The source is at its end.
    End,
}

impl Pipe {
    /// Takes a pipe from the pool. `None`: descriptors or pipe memory are short, so copy instead.
    pub(crate) fn take(ring: &Rc<Ring>) -> Option<Pipe> {
        let mut inner = ring.inner.borrow_mut();
        if inner.faults.draw(Call::Pipe).is_some() {
            return None;
        }
        let pair = match inner.pipes.pop() {
            Some(pair) => pair,
            None if inner.pipes_out < inner.pipes_max => PipePair::new().ok()?,
            None => return None,
        };
        inner.pipes_out += 1;
        drop(inner);
        Some(Pipe { ring: ring.clone(), pair: Some(pair), held: 0 })
    }

    /// Bytes inside.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Puts `bytes` into the pipe, behind those it holds. `false`: they don't fit, and the pipe is
    /// of no use any more.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(pair) = &self.pair else { return false };
        let written = self.retry(Call::Fill, || rustix::io::write(&pair.write, bytes)).unwrap_or(0);
        self.held += written;
        written == bytes.len()
    }

    /// Moves up to `most` bytes from `source`, as far as the pipe has room.
    pub(crate) fn fill(&mut self, source: &Stream, most: u64) -> io::Result<Moved> {
        let Some(pair) = &self.pair else { return Ok(Moved::Later) };
        let room = pair.capacity.saturating_sub(self.held);
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(room);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let call = || rustix::pipe::splice(source.fd(), None, &pair.write, None, most, flags);
        match self.retry(Call::Fill, call) {
            Ok(0) => Ok(Moved::End),
            Ok(n) => {
                self.held += n;
                Ok(Moved::Bytes(n))
            }
            Err(rustix::io::Errno::AGAIN) => Ok(Moved::Later),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the pipe's bytes to `target`, as far as it takes them. `SPLICE_F_MORE` is not set,
    /// even while more is to come: the flag keeps the last segment back for up to 200 ms if more is
    /// late, and costs a fifth more for 1 MiB, measured.
    pub(crate) fn empty(&mut self, target: &Stream) -> io::Result<Moved> {
        let Some(pair) = &self.pair else { return Ok(Moved::Later) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let call = || rustix::pipe::splice(&pair.read, None, target.fd(), None, self.held, flags);
        match self.retry(Call::Empty, call) {
            Ok(n) => {
                self.held -= n;
                Ok(Moved::Bytes(n))
            }
            Err(rustix::io::Errno::AGAIN) => Ok(Moved::Later),
            Err(error) => Err(error.into()),
        }
    }

    fn retry(
        &self,
        kind: Call,
        call: impl Fn() -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<usize> {
        loop {
            let fault = self.ring.inner.borrow_mut().faults.draw(kind);
            match fault.map_or_else(&call, |errno| Err(rustix::io::Errno::from_raw_os_error(errno)))
            {
                Err(rustix::io::Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        inner.pipes_out -= 1;
        // Bytes left inside belong to a connection that is gone: they must never reach the next
        // one.
        if self.held == 0 && inner.pipes.len() < limits::PIPES_KEPT {
            inner.pipes.extend(self.pair.take());
        }
    }
}

impl PipePair {
    fn new() -> io::Result<PipePair> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Past `pipe-user-pages-soft` an ordinary user gets a smaller pipe than asked for: use
        // that.
        let capacity = match rustix::pipe::fcntl_setpipe_size(&write, limits::PIPE_BYTES) {
            Ok(capacity) => capacity,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&write)?,
        };
        if capacity < limits::PIPE_BYTES_MIN {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(PipePair { read, write, capacity })
    }
}
