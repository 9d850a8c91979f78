//! Classifies errors of connecting, for requests and for probes: faults of this machine, and faults
//! of the backend.

use std::fmt;
use std::io;

/// Whether a connection could not be opened because of this machine, and not because of the
/// backend: no local port or address is free (EADDRNOTAVAIL, EADDRINUSE, EAGAIN), a firewall or
/// sandbox forbids it (EACCES, EPERM), the protocol is missing (EAFNOSUPPORT), the interface is off
/// (ENETDOWN). ENETUNREACH and EHOSTUNREACH count as faults of the backend: routers on the way
/// report them, too, and passing over an address without a route helps the client.
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

/// Whether a descriptor or memory was lacking at that moment.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Reason for which no connection to a backend could be opened, if that is the backend's fault.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unreached {
    /// Nothing listens at the address.
    Refused,
    /// Nothing answered in time.
    TimedOut,
    /// No route leads to the address.
    NoRoute,
    /// No Unix socket is at the path.
    NoSocket,
    /// Mantrid's user may not use the Unix socket, or a folder on the way to it.
    NotPermitted,
    /// The queue of a Unix socket had no room in time: the backend does not accept.
    QueueFull,
    /// The Unix socket is not a stream socket.
    NoStream,
    /// Anything else.
    Failed,
}

impl Unreached {
    /// Reads the error of a connect, to a Unix socket or by TCP.
    pub(crate) fn of(error: &io::Error) -> Unreached {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Unreached::Refused,
            Some(libc::ETIMEDOUT) => Unreached::TimedOut,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => Unreached::NoRoute,
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Unreached::NoSocket,
            Some(libc::EACCES | libc::EPERM) => Unreached::NotPermitted,
            Some(libc::EAGAIN) => Unreached::QueueFull,
            Some(libc::EPROTOTYPE) => Unreached::NoStream,
            _ => Unreached::Failed,
        }
    }

    /// Value of `reason` in the access log.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Unreached::Refused => "refused",
            Unreached::TimedOut => "timed_out",
            Unreached::NoRoute => "no_route",
            Unreached::NoSocket => "no_socket",
            Unreached::NotPermitted => "not_permitted",
            Unreached::QueueFull => "queue_full",
            Unreached::NoStream => "no_stream_socket",
            Unreached::Failed => "failed",
        }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreached::Refused => "connection refused",
            Unreached::TimedOut => "timed out",
            Unreached::NoRoute => "no route to it",
            Unreached::NoSocket => "there is no such socket",
            Unreached::NotPermitted => "permission denied",
            Unreached::QueueFull => "its queue of connections is full",
            Unreached::NoStream => "the socket is none for streams",
            Unreached::Failed => "the connection failed",
        })
    }
}
