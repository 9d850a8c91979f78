//! Listening sockets: each address is bound once for each shard (SO_REUSEPORT), while the process
//! may still be root.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};
use tracing::warn;

use super::inherited::{InheritedSockets, Tcp};
use super::port_owner;
use crate::config::{Address, Bind, Config};
use crate::link::Protocol;
use crate::network::NetworkMap;
use crate::shard::TrustedPeers;
use crate::table::host;
use crate::{limits, shard};

/// Networks whose PROXY protocol headers are believed. Shards read them for each connection to an
/// address with `accept-proxy`.
pub(super) type Trusted = Arc<ArcSwap<NetworkMap<()>>>;

/// One address with a socket for each shard.
pub(super) struct Bound {
    /// Address as asked for.
    pub(super) asked: SocketAddr,
    /// Address as bound: if port 0 was asked for, with the port that the kernel chose.
    pub(super) local: SocketAddr,
    pub(super) speaks: Protocol,
    /// Peers whose PROXY protocol headers are believed; `None`: connections to the address begin
    /// without a header.
    believes: Option<TrustedPeers>,
    /// Sockets of each shard.
    sockets: Vec<Vec<TcpListener>>,
    pub(super) order: GroupOrder,
    /// Whether the sockets listen already. If the daemon before has sockets of the same port, a
    /// socket that listens takes connections away from it, so it listens only once the shards
    /// serve.
    listens: bool,
    /// Whether systemd holds the sockets, too.
    is_activated: bool,
}

impl Bound {
    /// Whether each connection begins with a header of the PROXY protocol.
    pub(super) fn accepts_proxy(&self) -> bool {
        self.believes.is_some()
    }
}

/// Order of the sockets of an address in the kernel's SO_REUSEPORT group.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum GroupOrder {
    /// The socket of shard `n` has the index `n`. Further sockets of a shard come after the first
    /// ones of all shards.
    OfShards,
    /// The order is another one or can't be known, for this reason.
    Unknown(&'static str),
}

/// Takes the sockets of one shard: one of each address, or more if the daemon before had more
/// shards.
pub(super) fn for_one_shard(bound: &mut [Bound], shard: usize) -> Vec<shard::Listener> {
    let own = |bound: &mut Bound| {
        let (speaks, believes) = (bound.speaks.clone(), bound.believes.clone());
        let one = move |socket| shard::Listener {
            socket,
            speaks: speaks.clone(),
            believes: believes.clone(),
        };
        let sockets = bound.sockets.get_mut(shard).map(std::mem::take).unwrap_or_default();
        sockets.into_iter().map(one).collect::<Vec<_>>()
    };
    bound.iter_mut().flat_map(own).collect()
}

/// Copies each socket, for a daemon that takes over. The copies are in the order in which
/// [`share_out`] found the sockets, which is that of the kernel.
pub(super) fn copies(bound: &[Bound]) -> io::Result<Vec<Tcp>> {
    let copy = |bound: &Bound| {
        let most = bound.sockets.iter().map(Vec::len).max().unwrap_or(0);
        let nth = |n: usize| bound.sockets.iter().filter_map(move |own| own.get(n));
        let sockets = (0..most).flat_map(nth).map(TcpListener::try_clone);
        let sockets = sockets.collect::<io::Result<_>>()?;
        Ok(Tcp { asked: bound.asked, sockets, is_activated: bound.is_activated })
    };
    bound.iter().map(copy).collect()
}

/// Binds every address for clients, all or nothing. `Err` has every failure.
pub(super) fn bind_all(
    config: &Config,
    shards: usize,
    trusted: &Trusted,
    given: &mut InheritedSockets,
) -> Result<Vec<Bound>, Vec<String>> {
    let mut problems = Vec::new();
    let (ports, locals) = (given.ports(), given.locals());
    // All addresses are tried before any is bound, so that they do not conflict with each other, as
    // *:80 would with 127.0.0.1:80.
    let tried: Vec<_> = addresses(config)
        .filter_map(|(key, bind, speaks)| {
            if let Some(sockets) = given.take(bind.address.socket()) {
                return Some((key, bind, speaks, Way::InheritedSockets(sockets)));
            }
            let port = bind.address.socket().port();
            if ports.contains(&port) {
                given.share(port);
                return Some((key, bind, speaks, Way::Beside(bind.address)));
            }
            match find_free(&bind.address) {
                Ok(local) => Some((key, bind, speaks, Way::Bind(local))),
                Err(error) => {
                    problems.push(explain(key, &bind.address, &error));
                    None
                }
            }
        })
        .collect();
    let mut bound = Vec::new();
    let sources = trusted.clone();
    let believed: TrustedPeers = Arc::new(move |peer| sources.load().get(peer).is_some());
    for (key, bind, speaks, way) in tried {
        let believes = bind.accept_proxy.then(|| believed.clone());
        let asked = bind.address.socket();
        let is_activated = matches!(&way, Way::InheritedSockets(Tcp { is_activated: true, .. }));
        let mut listens = true;
        let made = match way {
            Way::Bind(wanted) => {
                let made = socket(wanted, true).and_then(|first| bind_each(first, shards, listens));
                made.map(|(local, sockets)| (local, sockets, GroupOrder::OfShards))
            }
            Way::InheritedSockets(given) => share_out(given, shards),
            Way::Beside(address) => {
                // The daemon before has sockets on the port. The new ones can share it, because
                // they belong to the same user.
                listens = false;
                let made = beside(&address).and_then(|first| bind_each(first, shards, listens));
                made.map(|(local, sockets)| {
                    let order = match locals.contains(&local) {
                        true => GroupOrder::Unknown("another address has sockets there, too"),
                        false => GroupOrder::OfShards,
                    };
                    (local, sockets, order)
                })
            }
        };
        match made {
            Ok((local, sockets, order)) => {
                bound.push(Bound {
                    asked,
                    local,
                    speaks,
                    believes,
                    sockets,
                    order,
                    listens,
                    is_activated,
                });
            }
            Err(error) => problems.push(explain(key, &bind.address, &error)),
        }
    }
    if problems.is_empty() { Ok(bound) } else { Err(problems) }
}

/// Listens on the sockets that had to wait until the shards start.
pub(super) fn begin(bound: &mut [Bound]) -> Result<(), String> {
    for one in bound.iter_mut().filter(|one| !one.listens) {
        for socket in one.sockets.iter().flatten() {
            let listening = socket2::SockRef::from(socket).listen(limits::BACKLOG);
            listening.map_err(|error| format!("{}: can't listen: {error}", one.local))?;
        }
        one.listens = true;
    }
    Ok(())
}

/// Way in which an address gets its sockets.
enum Way {
    Bind(SocketAddr),
    InheritedSockets(Tcp),
    /// Bind beside the daemon before, which has the port at another address.
    Beside(Address),
}

/// An address as bound, with the sockets of each shard and their order.
type Shared = (SocketAddr, Vec<Vec<TcpListener>>, GroupOrder);

/// Distributes inherited sockets over the shards. Every socket must get a shard, because clients in
/// the queue of a socket without one would wait for ever. If there are too few sockets, more are
/// bound to that address. If systemd holds the sockets, or if binding is not allowed because the
/// sockets belong to another user, shards share a socket instead. Sockets of systemd are not joined
/// by others because clients in the queue of a socket that ends with this process would be reset;
/// in the queue of systemd's socket they wait for the next daemon.
fn share_out(given: Tcp, shards: usize) -> io::Result<Shared> {
    let Tcp { sockets: given, is_activated, .. } = given;
    let first = given.first().ok_or(io::ErrorKind::NotFound)?;
    let local = first.local_addr()?;
    let few = given.len();
    let cookies = given.iter().map(rustix::net::sockopt::socket_cookie);
    let mut order = match cookies.collect::<Result<HashSet<u64>, _>>()?.len() {
        _ if is_activated => GroupOrder::Unknown("its sockets are systemd's"),
        sockets if sockets < few => GroupOrder::Unknown("shards share a socket"),
        _ => GroupOrder::OfShards,
    };
    for socket in &given {
        let socket = socket2::SockRef::from(socket);
        // The same options as in `socket`. SO_REUSEPORT may fail: a single shard does not need it.
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        if !is_activated {
            let _ = socket.set_reuse_port(true);
        }
        // The ring only waits for sockets that may block.
        socket.set_nonblocking(false)?;
        socket.listen(limits::BACKLOG)?;
    }
    let mut each: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    for (index, socket) in given.into_iter().enumerate() {
        each[index % shards].push(socket);
    }
    for index in few..shards {
        let sibling = || -> io::Result<TcpListener> {
            let sibling = socket(local, true)?;
            sibling.listen(limits::BACKLOG)?;
            Ok(sibling.into())
        };
        let sibling = if is_activated { None } else { sibling().ok() };
        let own = match sibling {
            Some(sibling) => sibling,
            None => {
                if !is_activated {
                    order = GroupOrder::Unknown("shards share a socket");
                }
                each[index % few][0].try_clone()?
            }
        };
        each[index].push(own);
    }
    Ok((local, each, order))
}

/// Waits until this machine has the addresses, because the network may come up late during a boot.
/// If some are missing after `patience`, binding will fail and report them.
pub(super) fn wait_for_addresses(config: &Config, given: &InheritedSockets, patience: Duration) {
    let clients = addresses(config).map(|(key, bind, _)| (key, &bind.address));
    let until = Instant::now() + patience;
    for (key, address) in clients.chain(config.control_tcp()) {
        let mut local = address.socket();
        let is_given = given.tcp.iter().any(|one| one.asked == local);
        if is_given || address.is_loopback() || matches!(address, Address::Any(_)) {
            continue;
        }
        local.set_port(0);
        let is_missing = || {
            let tried = socket(local, false);
            tried.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL))
        };
        let mut is_told = false;
        while Instant::now() < until && is_missing() {
            if !std::mem::replace(&mut is_told, true) {
                let most = patience.as_secs();
                warn!(
                    "{key} = {address}: this machine has no such address: waiting {most} s for it"
                );
            }
            std::thread::park_timeout(limits::ADDRESS_AGAIN);
        }
    }
}

/// Returns, for `--check`, why addresses could not be bound at a start, including those of
/// management. Ports of systemd, or of the daemon that `runs` on this state file, count as free.
pub(super) fn check(config: &Config, given: &InheritedSockets, runs: Option<&str>) -> Vec<String> {
    let is_default = config.bind_management == Config::default().bind_management;
    let is_ours = |port: u16| {
        let is_one_of = |pid: &str| port_owner::is_of(port, pid);
        runs.is_some_and(is_one_of) || (has_systemd() && is_one_of("1"))
    };
    let try_one = |(key, address): (&'static str, &Address)| {
        let is_given = given.tcp.iter().any(|one| one.asked == address.socket());
        let port = address.socket().port();
        if is_given || (port != 0 && is_ours(port)) {
            return None;
        }
        match find_free(address).err()? {
            error if key == MANAGEMENT && is_default && has_no_family(&error) => None,
            error => Some(explain(key, address, &error)),
        }
    };
    let clients = addresses(config).map(|(key, bind, _)| (key, &bind.address));
    clients.chain(config.control_tcp()).filter_map(try_one).collect()
}

/// Whether process 1 is systemd, which may hold the sockets of a unit that is not started yet.
fn has_systemd() -> bool {
    std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim() == "systemd")
}

const MANAGEMENT: &str = "bind_management";

fn addresses(config: &Config) -> impl Iterator<Item = (&'static str, &Bind, Protocol)> {
    let http = |trusted, bind: &Bind| Protocol::Http { trusted, secure: bind.https };
    let untrusted = config.bind.iter().map(move |bind| ("bind", bind, http(false, bind)));
    let internal = config.bind_internal.iter();
    let internal = internal.map(move |bind| ("bind_internal", bind, http(true, bind)));
    // The configuration was checked: this is a host name.
    let canonical = |name: &str| host::name(name).map_or_else(|_| name.into(), Arc::from);
    let tcp = config.bind_tcp.iter();
    let tcp = tcp.map(move |(bind, name)| ("bind_tcp", bind, Protocol::Tcp(canonical(name))));
    let tls = config.bind_tls.iter().map(|bind| ("bind_tls", bind, Protocol::Tls));
    untrusted.chain(internal).chain(tcp).chain(tls)
}

/// Returns the address to bind. For `*` on a machine without IPv6 this is 0.0.0.0.
///
/// With SO_REUSEPORT, a second daemon of the same user could bind the address unnoticed and would
/// get half of the connections. So each address is first bound without SO_REUSEPORT, which fails if
/// another process listens there.
fn find_free(address: &Address) -> io::Result<SocketAddr> {
    with_ipv4(address, |address| unused(address).map(|_| address))
}

/// Tries an address; for `*` on a machine without IPv6, tries 0.0.0.0 then.
fn with_ipv4<T>(address: &Address, act: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match act(address.socket()) {
        Err(error) if matches!(address, Address::Any(_)) && has_no_family(&error) => {
            act(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.socket().port()))
        }
        result => result,
    }
}

/// Binds a socket to an address that must be free. The kernel takes a moment to close the sockets
/// in the rings of a killed daemon, so this waits while the port is in use but belongs to no
/// process.
fn unused(address: SocketAddr) -> io::Result<Socket> {
    let until = Instant::now() + limits::BIND_WAIT;
    loop {
        match socket(address, false) {
            Err(error)
                if error.raw_os_error() == Some(libc::EADDRINUSE)
                    && Instant::now() < until
                    && !port_owner::is_process(address.port()) =>
            {
                // The kernel does not report when the port is free, so it is tried again.
                std::thread::park_timeout(limits::BIND_AGAIN);
            }
            result => return result,
        }
    }
}

pub(super) fn has_no_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Binds a socket to an address on whose port the daemon before has other sockets.
fn beside(address: &Address) -> io::Result<Socket> {
    with_ipv4(address, |address| socket(address, true))
}

/// Binds one socket to an address. No other process may have the address, unless the port is one of
/// `ports`, which this daemon or the one before uses.
pub(super) fn bind_one(
    address: &Address,
    given: &InheritedSockets,
    ports: &HashSet<u16>,
) -> io::Result<(TcpListener, SocketAddr)> {
    let port = address.socket().port();
    let socket = match ports.contains(&port) {
        true => {
            given.share(port);
            beside(address)?
        }
        false => socket(find_free(address)?, false)?,
    };
    socket.listen(limits::BACKLOG)?;
    let local = local_of(&socket)?;
    Ok((socket.into(), local))
}

fn local_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Makes a socket for each shard: `first`, and more that are bound to its address.
fn bind_each(
    first: Socket,
    shards: usize,
    listens: bool,
) -> io::Result<(SocketAddr, Vec<Vec<TcpListener>>)> {
    // With port 0 the kernel has chosen a port, and the other shards use the same.
    let local = local_of(&first)?;
    let rest = (1..shards).map(|_| socket(local, true));
    let sockets = std::iter::once(Ok(first)).chain(rest).map(|socket| {
        let socket = socket?;
        if listens {
            socket.listen(limits::BACKLOG)?;
        }
        Ok(vec![socket.into()])
    });
    Ok((local, sockets.collect::<io::Result<_>>()?))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    // Connections of a daemon that has just ended may still be on the port (TIME_WAIT).
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit these options, which saves system calls for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let SocketAddr::V6(v6) = address {
        // [::] accepts IPv4, too, whatever net.ipv6.bindv6only says, as the original documents it.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(super) fn explain(key: &str, address: &Address, error: &io::Error) -> String {
    let port = address.socket().port();
    let advice = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            let port_owner = port_owner::of_port(port);
            let by = port_owner.map(|port_owner| format!(" by {port_owner}")).unwrap_or_default();
            format!(
                "the port is in use{by}: stop that, or choose another with -o {key}=ADDRESS:PORT"
            )
        }
        Some(libc::EACCES) => "no permission for this port: start as root or with \
             CAP_NET_BIND_SERVICE, or choose a port from 1024 on"
            .to_owned(),
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address".to_owned(),
        Some(libc::EAFNOSUPPORT) => "IPv6 is switched off on this machine".to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor is left: raise the limit (`ulimit -n`, LimitNOFILE=)".to_owned()
        }
        _ => error.to_string(),
    };
    format!("{key} = {address}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overrides: &[&str]) -> Config {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Config::build(None, &overrides).expect("a good configuration")
    }

    fn bind_some(config: &Config, shards: usize) -> Result<Vec<Bound>, Vec<String>> {
        bind_all(config, shards, &Trusted::default(), &mut InheritedSockets::default())
    }

    #[test]
    fn all_shards_share_the_port_that_was_chosen() {
        let mut bound = bind_some(&config(&["bind=127.0.0.1:0"]), 3).expect("a free port");
        let port = bound[0].local.port();
        assert_ne!(port, 0);
        for shard in 0..3 {
            let listeners = for_one_shard(&mut bound, shard);
            let local = listeners[0].socket.local_addr().expect("its address");
            assert_eq!(local.port(), port);
        }
        assert!(for_one_shard(&mut bound, 0).is_empty());
    }

    #[test]
    fn a_port_in_use_is_refused_and_its_holder_named() {
        // With SO_REUSEPORT, as a second daemon of the same user would set it.
        let first = bind_some(&config(&["bind=127.0.0.1:0"]), 1).expect("a free port");
        let again = format!("bind={}", first[0].local);
        let problems = bind_some(&config(&[&again]), 1).err().expect("it is in use");
        let own = format!("(pid {})", std::process::id());
        assert!(problems[0].contains("is in use by"), "{problems:?}");
        assert!(problems[0].contains(&own), "{problems:?}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let config = config(&["bind=198.51.100.1:80", "bind_internal=203.0.113.1:80"]);
        let problems = bind_some(&config, 1).err().expect("not ours");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("bind = 198.51.100.1:80: this machine has no such address"));
        assert_eq!(check(&config, &InheritedSockets::default(), None), problems);
    }

    fn given(sockets: usize) -> (InheritedSockets, SocketAddr) {
        let mut given = InheritedSockets::default();
        let first = socket("127.0.0.1:0".parse().expect("an address"), true);
        let first = first.expect("a free port");
        let (address, each) = bind_each(first, sockets, true).expect("its port");
        for socket in each.into_iter().flatten() {
            let sockets = vec![socket];
            given.add(Tcp { asked: address, sockets, is_activated: false });
        }
        (given, address)
    }

    /// Cookies, which identify sockets.
    fn cookies(of: &Tcp) -> Vec<u64> {
        let cookie = |socket| rustix::net::sockopt::socket_cookie(socket).expect("its cookie");
        of.sockets.iter().map(cookie).collect()
    }

    #[test]
    fn given_sockets_are_used_and_each_has_a_shard() {
        for (sockets, shards) in [(1, 1), (1, 3), (3, 3), (5, 2)] {
            let (mut given, address) = given(sockets);
            let order = cookies(&given.tcp[0]);
            let config = config(&[&format!("bind={address}")]);
            let mut bound =
                bind_all(&config, shards, &Trusted::default(), &mut given).expect("they are ours");
            assert!(given.left().is_empty());
            let copies = copies(&bound).expect("copies");
            // The next daemon gives them to shards in the same order.
            assert_eq!(cookies(&copies[0])[..sockets], order, "{sockets} {shards}");
            assert_eq!(bound[0].order, GroupOrder::OfShards);
            let each = (0..shards).map(|shard| for_one_shard(&mut bound, shard).len());
            let each: Vec<usize> = each.collect();
            assert!(each.iter().all(|count| 1 <= *count), "{sockets} {shards} {each:?}");
            assert_eq!(each.iter().sum::<usize>(), sockets.max(shards));
        }
    }

    /// Shards share the socket of systemd: a second queue would end with this process, and reset
    /// the clients in it.
    #[test]
    fn a_socket_of_systemd_stays_the_only_one() {
        let (mut given, address) = given(1);
        given.tcp[0].is_activated = true;
        let config = config(&[&format!("bind={address}")]);
        let mut bound =
            bind_all(&config, 3, &Trusted::default(), &mut given).expect("they are ours");
        let copies = copies(&bound).expect("copies");
        assert!(copies[0].is_activated && copies[0].sockets.len() == 3);
        let mut listeners = Vec::new();
        (0..3).for_each(|shard| listeners.extend(for_one_shard(&mut bound, shard)));
        drop(listeners);
        assert_ne!(bound[0].order, GroupOrder::OfShards);
        let cookies = cookies(&copies[0]);
        assert!(cookies.iter().all(|other| *other == cookies[0]), "{cookies:?}");
    }

    #[test]
    fn order_of_sockets_that_shards_share_is_not_known() {
        let (mut given, address) = given(2);
        let shared = given.tcp[0].sockets[0].try_clone().expect("a copy");
        given.tcp[0].sockets.push(shared);
        let config = config(&[&format!("bind={address}")]);
        let bound = bind_all(&config, 3, &Trusted::default(), &mut given).expect("they are ours");
        assert_eq!(bound[0].order, GroupOrder::Unknown("shards share a socket"));
    }

    /// All of these sockets would be in one group.
    #[test]
    fn order_of_sockets_beside_others_of_their_address_is_not_known() {
        let (mut given, address) = given(2);
        given.tcp[0].asked.set_port(0);
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let config = config(&[&format!("bind={address}"), &format!("bind={other}")]);
        let bound = bind_all(&config, 2, &Trusted::default(), &mut given).expect("they are ours");
        assert_eq!(bound[1].order, GroupOrder::OfShards);
        assert_ne!(bound[0].order, GroupOrder::OfShards);
    }

    #[test]
    fn a_given_socket_that_nobody_asks_for_is_left() {
        let (mut given, address) = given(1);
        bind_all(&config(&["bind=127.0.0.1:0"]), 1, &Trusted::default(), &mut given)
            .expect("a free port");
        assert_eq!(given.left(), [address.to_string()]);
    }
}
