//! Listening sockets that are there before we bind any: systemd's, or those of the daemon that we
//! take over from.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::FdFlags;

use crate::control::Tokens;

/// Sockets of one address.
pub(super) struct Tcp {
    /// Address as it was asked for: with port 0 where any would do.
    pub(super) asked: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
    /// systemd holds them too, so that their queues outlive us.
    pub(super) is_activated: bool,
}

/// All sockets that this process was given.
#[derive(Default)]
pub(super) struct InheritedSockets {
    pub(super) tcp: Vec<Tcp>,
    pub(super) unix: Vec<(PathBuf, UnixListener)>,
    /// The tokens of the management API, which the old daemon could read as root.
    pub(super) tokens: Tokens,
}

impl InheritedSockets {
    /// Takes the sockets that systemd hands to a unit (sd_listen_fds(3)).
    pub(super) fn by_systemd() -> Result<InheritedSockets, String> {
        let mut fds = ListenFd::from_env();
        let mut given = InheritedSockets::default();
        for index in 0..fds.len() {
            let wrong = |what: &str| format!("socket {index} of LISTEN_FDS: {what}");
            if let Ok(Some(socket)) = fds.take_tcp_listener(index) {
                let asked = socket.local_addr().map_err(|error| wrong(&error.to_string()))?;
                // Not for whatever we start.
                let _ = rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC);
                given.add(Tcp { asked, sockets: vec![socket], is_activated: true });
            } else if let Ok(Some(socket)) = fds.take_unix_listener(index) {
                let address = socket.local_addr().map_err(|error| wrong(&error.to_string()))?;
                let path = address.as_pathname().ok_or_else(|| wrong("it has no path"))?;
                let _ = rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC);
                given.unix.push((path.to_owned(), socket));
            } else {
                return Err(wrong("expected a listening stream socket"));
            }
        }
        Ok(given)
    }

    /// Adds sockets of an address, of which there may be some already: each message brings a
    /// bounded number. Those asked for with port 0 have an address of their own each.
    pub(super) fn add(&mut self, mut more: Tcp) {
        let local = |of: &Tcp| of.sockets.first()?.local_addr().ok();
        let is_same = |one: &&mut Tcp| one.asked == more.asked && local(one) == local(&more);
        match self.tcp.iter_mut().find(is_same) {
            Some(one) => one.sockets.append(&mut more.sockets),
            None => self.tcp.push(more),
        }
    }

    /// Removes the sockets of an address and returns them.
    pub(super) fn take(&mut self, asked: SocketAddr) -> Option<Tcp> {
        let at = self.tcp.iter().position(|one| one.asked == asked)?;
        Some(self.tcp.remove(at))
    }

    pub(super) fn take_unix(&mut self, path: &Path) -> Option<UnixListener> {
        let at = self.unix.iter().position(|(own, _)| own == path)?;
        Some(self.unix.remove(at).1)
    }

    /// Has these ports' sockets share them with others of ours: an address that was `*` is to be
    /// another, say.
    pub(super) fn share(&self, port: u16) {
        for socket in self.tcp.iter().flat_map(|one| &one.sockets) {
            if socket.local_addr().is_ok_and(|local| local.port() == port) {
                // Where it can't be shared the bind says so.
                let _ = socket2::SockRef::from(socket).set_reuse_port(true);
            }
        }
    }

    /// The ports of those that are there.
    pub(super) fn ports(&self) -> HashSet<u16> {
        self.locals().iter().map(SocketAddr::port).collect()
    }

    /// The addresses that those are bound to.
    pub(super) fn locals(&self) -> HashSet<SocketAddr> {
        let sockets = self.tcp.iter().flat_map(|one| &one.sockets);
        sockets.filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Addresses of the sockets that were not taken.
    pub(super) fn left(&self) -> Vec<String> {
        let tcp = self.tcp.iter().map(|one| one.asked.to_string());
        tcp.chain(self.unix.iter().map(|(path, _)| format!("unix:{}", path.display()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_an_address_that_came_in_two_messages_are_together() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut given = InheritedSockets::default();
        for shards in [3, 1] {
            let socket = TcpListener::bind(any).expect("a free port");
            for _ in 0..shards {
                let sockets = vec![socket.try_clone().expect("a copy")];
                given.add(Tcp { asked: any, sockets, is_activated: false });
            }
        }
        // Each port 0 became a port of its own.
        let counts: Vec<usize> = given.tcp.iter().map(|one| one.sockets.len()).collect();
        assert_eq!(counts, [3, 1]);
    }
}
