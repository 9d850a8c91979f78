//! NAPI busy polling: before a thread sleeps in its ring it polls the network card's queues for a
//! time (Linux 6.9), which saves the wait for an interrupt and a wake-up.
//!
//! The kernel learns the queues from the sockets that the ring waits for. Loopback has none.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::IoUring;

use super::probe;
use crate::limits;

/// `struct io_uring_napi` of Linux 6.9. Later kernels use the middle of it, where zeros mean what
/// 6.9 did.
#[repr(C)]
#[derive(Default)]
struct Napi {
    busy_poll_micros: u32,
    prefer_busy_poll: u8,
    pad: [u8; 3],
    reserved: u64,
}

/// `IORING_REGISTER_NAPI`, which the crate io-uring does not have.
const REGISTER_NAPI: libc::c_uint = 27;

/// Tries busy polling on a ring as a shard would have. The error says what is missing.
pub(crate) fn probe_busy_poll(time: Duration) -> Result<(), String> {
    let ring = probe::build(limits::RING_ENTRIES).map_err(|error| probe::explain(&error))?;
    register(&ring, time).map_err(|error| explain(&error))
}

/// Makes the waits of a ring begin with this much polling. Only the ring's own thread may ask for
/// it.
pub(super) fn register(ring: &IoUring, time: Duration) -> io::Result<()> {
    let busy_poll_micros = time.as_micros().try_into().unwrap_or(u32::MAX);
    let mut napi = Napi { busy_poll_micros, ..Napi::default() };
    let (fd, count): (libc::c_int, libc::c_uint) = (ring.as_raw_fd(), 1);
    // SAFETY: the kernel reads one `io_uring_napi`, and writes the settings of before in its place;
    // `napi` has that layout and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_NAPI, &raw mut napi, count)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn explain(error: &io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EINVAL) => "this kernel is too old: Linux 6.9 or newer is needed",
        Some(libc::EOPNOTSUPP) => "this kernel was built without CONFIG_NET_RX_BUSY_POLL",
        _ => "io_uring can't poll a network card",
    };
    format!("{error}: {cause}")
}
