//! Every address once per shard (SO_REUSEPORT), bound while we may still be root.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Address, Config};
use crate::shard;

/// One address with a socket for each shard.
pub(super) struct Bound {
    /// As bound: with the port that was chosen where 0 was asked for.
    pub(super) local: SocketAddr,
    trusted: bool,
    sockets: Mutex<Vec<Option<TcpListener>>>,
}

impl Bound {
    /// The socket of shard `index`; once.
    pub(super) fn listener(&self, index: usize) -> Result<shard::Listener, String> {
        let mut sockets = self.sockets.lock().map_err(|error| error.to_string())?;
        let socket = sockets.get_mut(index).and_then(Option::take);
        let socket =
            socket.ok_or_else(|| format!("{}: no socket for shard {index}", self.local))?;
        Ok(shard::Listener { socket, trusted: self.trusted })
    }
}

/// Binds `bind` and `bind_internal`, all or nothing; every failure is named.
pub(super) fn bind_all(config: &Config, shards: usize) -> Result<Vec<Bound>, Vec<String>> {
    let untrusted = config.bind.iter().map(|address| ("bind", address, false));
    let trusted = config.bind_internal.iter().map(|address| ("bind_internal", address, true));
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for (key, address, trusted) in untrusted.chain(trusted) {
        match bind(address, shards) {
            Ok((local, sockets)) => {
                let sockets = Mutex::new(sockets.into_iter().map(Some).collect());
                bound.push(Bound { local, trusted, sockets });
            }
            Err(error) => problems.push(format!("{key} = {address}: {}", explain(address, &error))),
        }
    }
    if problems.is_empty() { Ok(bound) } else { Err(problems) }
}

fn bind(address: &Address, shards: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut wanted = address.socket();
    // SO_REUSEPORT would let a second daemon of the same user in unnoticed and take half the traffic:
    // the first socket of an address is bound without it, to see whether anybody is there.
    let first = match probe_and_bind(wanted) {
        Err(error)
            if matches!(address, Address::Any(_))
                && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            // IPv6 is switched off: `*` is IPv4 then.
            wanted = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port());
            probe_and_bind(wanted)?
        }
        result => result?,
    };
    let local = first.local_addr()?.as_socket().unwrap_or(wanted);
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(socket(local)?);
    }
    let listeners = sockets
        .into_iter()
        .map(|socket| {
            // The kernel caps this at net.core.somaxconn.
            socket.listen(crate::limits::BACKLOG)?;
            Ok(socket.into())
        })
        .collect::<io::Result<Vec<TcpListener>>>()?;
    Ok((local, listeners))
}

fn probe_and_bind(address: SocketAddr) -> io::Result<Socket> {
    if address.port() != 0 {
        let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        probe.set_reuse_address(true)?;
        if address.is_ipv6() {
            probe.set_only_v6(false)?;
        }
        probe.bind(&address.into())?;
    }
    socket(address)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by what is accepted: no system call per connection for them.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let SocketAddr::V6(v6) = address {
        // `*` takes IPv4, too; a written IPv6 address means just that.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn explain(address: &Address, error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "the port is in use: stop what listens there (`ss -ltnp 'sport = :{}'` shows it) or choose \
             another",
            address.socket().port()
        ),
        Some(libc::EACCES) => "ports below 1024 need root or CAP_NET_BIND_SERVICE (systemd: \
             AmbientCapabilities=CAP_NET_BIND_SERVICE)"
            .to_owned(),
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address".to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor is left: raise the limit (`ulimit -n`, LimitNOFILE=)".to_owned()
        }
        _ => "can't listen".to_owned(),
    };
    format!("{error}: {advice}")
}
