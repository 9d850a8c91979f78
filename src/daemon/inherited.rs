//! Listening sockets that the process has before it binds any: those of systemd, or those of the
//! daemon from which it takes over.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::FdFlags;

use crate::control::Tokens;

/// Sockets of one address.
pub(super) struct Tcp {
    /// Address as it was asked for; its port is 0 if any port would do.
    pub(super) asked: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
    /// Whether systemd holds the sockets, too, so that their queues outlive this process.
    pub(super) is_activated: bool,
}

/// All sockets that this process was given.
#[derive(Default)]
pub(super) struct InheritedSockets {
    pub(super) tcp: Vec<Tcp>,
    pub(super) unix: Vec<(PathBuf, UnixListener)>,
    /// Tokens of the management API, which the old daemon could read because it started as root.
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
                // Programs that this process starts must not inherit the socket.
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

    /// Adds sockets of an address. Some may be there already, because each message brings a bounded
    /// number. Addresses that were asked for with port 0 are told apart by the ports that the
    /// kernel chose.
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

    /// Lets the sockets of this port share it with new ones of this process, for example if an
    /// address changes from `*` to another one.
    pub(super) fn share(&self, port: u16) {
        for socket in self.tcp.iter().flat_map(|one| &one.sockets) {
            if socket.local_addr().is_ok_and(|local| local.port() == port) {
                // If the port can't be shared, binding fails and reports it.
                let _ = socket2::SockRef::from(socket).set_reuse_port(true);
            }
        }
    }

    /// Ports of the sockets that are left.
    pub(super) fn ports(&self) -> HashSet<u16> {
        self.locals().iter().map(SocketAddr::port).collect()
    }

    /// Addresses to which the sockets that are left are bound.
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
        // The kernel chose a different port for each port 0.
        let counts: Vec<usize> = given.tcp.iter().map(|one| one.sockets.len()).collect();
        assert_eq!(counts, [3, 1]);
    }
}
