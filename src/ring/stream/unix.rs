//! Connecting to a Unix socket.
//!
//! Such a connect never waits for a peer: it is over when the call returns. So it is a plain call,
//! which costs less than the ring's operation. If the backend's queue of connections is full, the
//! connect fails with EAGAIN at once, and no poll reports room there. (The ring's connect would
//! poll, find an unconnected socket ready each time, and end up asleep in a thread of the
//! kernel's.) In that case TCP waits and sends its SYN again; so this waits and connects again.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags};
use socket2::{SockAddr, SockRef};

use super::{Abort, Stream, new_socket};
use crate::limits;
use crate::ring::faults::Call;
use crate::ring::socket::Descriptor;
use crate::ring::{Deadline, Ring};

pub(super) async fn connect(
    ring: &Rc<Ring>,
    address: &SockAddr,
    deadline: &Deadline,
) -> Result<Stream, Abort> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = new_socket(ring, AddressFamily::UNIX, flags)?;
    if let Some(errno) = ring.inner.borrow_mut().faults.draw(Call::Connect) {
        return Err(Abort::errno(errno));
    }
    let mut pause = limits::UNIX_AGAIN_FIRST;
    loop {
        match SockRef::from(&socket).connect(address) {
            Ok(()) => {
                let stream = Stream::new(ring, socket);
                stream.with(|slot| slot.polls.descriptor = Descriptor::Nonblocking);
                return Ok(stream);
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                wait(ring, pause, deadline).await?;
                pause = (2 * pause).min(limits::UNIX_AGAIN_MAX);
            }
            Err(error) => return Err(Abort::Io(error)),
        }
    }
}

/// Waits a moment, or until the deadline.
async fn wait(ring: &Rc<Ring>, time: Duration, deadline: &Deadline) -> Result<(), Abort> {
    let pause = Deadline::new(ring);
    pause.set(time);
    poll_fn(|cx| {
        if deadline.poll_expired(cx) {
            Poll::Ready(Err(Abort::TimedOut))
        } else if pause.poll_expired(cx) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}
