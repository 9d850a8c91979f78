//! A connected TCP or Unix socket on the ring.
//!
//! At most one receive and one send are in flight. A receive belongs to the stream:
//! [`Stream::arm`] may be called early (its completion then needs no further submission), and a
//! reader that gives up waiting loses nothing. A send belongs to the slot: the ring continues short
//! sends without waking a task, and a task need not wait for its send unless it wants to send more.

mod poll;
mod receive;
mod send;
mod unix;

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use socket2::SockAddr;

use super::buffers::RecvBuf;
use super::faults::Call;
use super::socket::{Address, Descriptor, SocketSlot};
use super::{Deadline, Ring, Slot, SlotKind};
use crate::limits;

/// Bytes to send; the ring keeps them until the kernel is done.
pub(crate) enum SendBuf {
    /// Bytes from [`Ring::take_vec`]; their memory goes back to the pool, or to
    /// [`Stream::take_sent`].
    Vec(Vec<u8>),
    /// Bytes received on another stream; their buffer goes back to the kernel afterwards.
    Recv(RecvBuf),
}

impl SendBuf {
    pub(crate) fn len(&self) -> usize {
        match self {
            SendBuf::Vec(bytes) => bytes.len(),
            SendBuf::Recv(buf) => buf.len(),
        }
    }
}

/// Whether the peer of an idle connection has left it alone.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Quiet {
    /// Nothing has come: the connection can be used.
    Yes,
    /// The peer closed, reset, or sent bytes that no request asked for.
    No,
}

/// The end of a peer's bytes that counts as leaving. A reset always does.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndCounts {
    /// No end: the peer may be waiting for a response.
    Never,
    /// An end behind which nothing waits to be taken.
    WhenReached,
    /// Any end, also one behind bytes that no task has taken.
    Always,
}

/// Whether a wait was ended by its deadline or by the connection.
#[derive(Debug)]
pub(crate) enum Abort {
    TimedOut,
    Io(io::Error),
}

impl Abort {
    fn errno(errno: i32) -> Abort {
        Abort::Io(io::Error::from_raw_os_error(errno))
    }
}

/// The handle of a connected socket. Dropping it cancels what is in flight and closes.
pub(crate) struct Stream {
    ring: Rc<Ring>,
    slot: u32,
}

impl Stream {
    /// Takes over a connected socket. A socket that another process has spliced with is
    /// non-blocking; the ring waits for either kind.
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Stream {
        let slot = ring.inner.borrow_mut().slots.insert(Slot {
            fd: socket.into_raw_fd(),
            in_flight: 0,
            abandoned: false,
            kind: SlotKind::Socket(SocketSlot::NEW),
        });
        Stream { ring: ring.clone(), slot: slot as u32 }
    }

    /// Opens a connection, or says why not by `deadline`.
    pub(crate) async fn connect(
        ring: &Rc<Ring>,
        address: &SockAddr,
        deadline: &Deadline,
    ) -> Result<Stream, Abort> {
        let family = AddressFamily::from_raw(address.family());
        if family == AddressFamily::UNIX {
            return unix::connect(ring, address, deadline).await;
        }
        let socket = new_socket(ring, family, SocketFlags::CLOEXEC)?;
        // Heads and the ends of bodies go out at once; keep-alives find peers that vanished.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let stream = Stream::new(ring, socket);
        ring.inner.borrow_mut().connect(stream.slot, Box::new(raw_address(address)));
        poll_fn(|cx| stream.poll_room(cx, deadline)).await?;
        Ok(stream)
    }

    fn with<T>(&self, act: impl FnOnce(&mut SocketSlot) -> T) -> T {
        act(self.ring.inner.borrow_mut().socket(self.slot))
    }

    /// The descriptor, for system calls that the ring has no operation for.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.inner.borrow().slots[self.slot as usize].fd;
        // SAFETY: the descriptor is closed only after this handle is dropped (`Inner::abandon`).
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Sets `O_NONBLOCK`, without which `splice(2)` would wait. The flag stays: a socket that was
    /// spliced with once will be again, and the ring's own operations don't mind.
    pub(crate) fn set_nonblocking(&self) {
        let set = |slot: &mut SocketSlot| {
            std::mem::replace(&mut slot.polls.descriptor, Descriptor::Nonblocking)
        };
        if self.with(set) == Descriptor::Untouched {
            let _ = rustix::fs::fcntl_setfl(self.fd(), rustix::fs::OFlags::NONBLOCK);
        }
    }

    /// Sends the end of our stream (FIN) behind what was sent.
    pub(crate) fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Write);
    }

    /// Has the kernel find out about a peer that vanished, however quiet the connection is.
    pub(crate) fn set_keepalive(&self) {
        let _ = sockopt::set_socket_keepalive(self.fd(), true);
    }

    /// Reads and drops what its socket has received: [`drop_received`].
    pub(crate) fn drop_received(&self) {
        drop_received(self.fd());
    }

    /// Bytes that the peer's kernel has not acknowledged, sent or not.
    pub(crate) fn unacknowledged(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to where the pointer says,
        // and that lives.
        let result = unsafe { libc::ioctl(self.fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if result < 0 { 0 } else { usize::try_from(count).unwrap_or(0) }
    }

    /// Makes the close a reset: what was cut off must not look complete.
    pub(crate) fn reset_on_drop(&self) {
        let _ = sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.ring.inner.borrow_mut();
        let slot = inner.socket(self.slot);
        slot.receive.waker = None;
        slot.send.waker = None;
        for lent in slot.receive.received.take_lent() {
            inner.groups[lent.group as usize].give(lent.buffer);
        }
        inner.abandon(self.slot as usize);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Makes a socket that is not connected.
fn new_socket(ring: &Ring, family: AddressFamily, flags: SocketFlags) -> Result<OwnedFd, Abort> {
    if let Some(errno) = ring.inner.borrow_mut().faults.draw(Call::Socket) {
        return Err(Abort::errno(errno));
    }
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    socket.map_err(|error| Abort::Io(error.into()))
}

/// Reads and drops what the kernel has received, up to some megabytes: bytes that are still there
/// when a connection is closed reset it, and a reset takes back what the peer has not read yet.
pub(crate) fn drop_received(socket: BorrowedFd<'_>) {
    let mut sink = [0; limits::SINK_BYTES];
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    for _ in 0..limits::SINK_FILLS_MAX {
        match rustix::net::recv(socket, &mut sink[..], flags) {
            Ok((_, count)) if 0 < count => {}
            _ => return,
        }
    }
}

fn raw_address(address: &SockAddr) -> Address {
    // SAFETY: a `SockAddr` holds a whole storage, of which this is a copy.
    (unsafe { *address.as_ptr().cast::<libc::sockaddr_storage>() }, address.len())
}
