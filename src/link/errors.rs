//! Errors of this machine, told from those of a backend: for requests and for probes alike.

use std::io;

/// Whether a connection could not be opened for a reason that lies on this machine, and not with
/// the backend: no local port or address is free (EADDRNOTAVAIL, EADDRINUSE, EAGAIN), a firewall or
/// sandbox forbids it (EACCES, EPERM), the protocol is missing (EAFNOSUPPORT), the interface is off
/// (ENETDOWN). ENETUNREACH and EHOSTUNREACH are not among them: routers on the way report them,
/// too, and to pass over an address that has no route helps the client.
pub(crate) fn is_local_fault(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EAGAIN
                | libc::EACCES
                | libc::EPERM
                | libc::EAFNOSUPPORT
                | libc::ENETDOWN
        )
    )
}

/// Whether there is no descriptor or memory for it just now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}
