//! The addresses of the management API, and those for metrics only: TCP and Unix sockets. They are
//! bound while the process may still be root.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::inherited::{InheritedSockets, Tcp};
use super::privileges::Target;
use super::upgrade::Sockets;
use super::{Problems, listen, privileges};
use crate::config::{Address, Config, ManagementAddress};
use crate::control::Management;

/// The listening sockets of control.
pub(super) struct Listening {
    pub(super) management: Vec<Management>,
    pub(super) metrics: Vec<Management>,
}

impl Listening {
    /// TCP addresses of all these sockets.
    pub(super) fn addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        self.management.iter().chain(&self.metrics).filter_map(Management::address)
    }

    /// Paths of those that are Unix sockets.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.management.iter().chain(&self.metrics).filter_map(Management::path)
    }
}

/// Binds `bind_management` and `bind_metrics`, all or nothing. `Err` has every failure.
pub(super) fn bind_all(
    config: &Config,
    target: Target,
    given: &mut InheritedSockets,
) -> Result<Listening, Problems> {
    let ports = given.ports();
    let mut problems = Vec::new();
    let mut bind = |key, addresses: &[ManagementAddress], is_default| {
        let each = addresses.iter().filter_map(|address| {
            let bound = bind_one(address, target, given, &ports);
            match bound {
                Ok(bound) => Some(bound),
                // The default addresses include one of IPv6. On a machine without IPv6, that of
                // IPv4 is enough.
                Err(Unbound::Tcp(_, error)) if is_default && listen::has_no_family(&error) => None,
                Err(why) => {
                    problems.push(why.explain(key));
                    None
                }
            }
        });
        each.collect()
    };
    let is_default = config.bind_management == Config::default().bind_management;
    let management = bind(MANAGEMENT, &config.bind_management, is_default);
    let metrics = bind(METRICS, &config.bind_metrics, false);
    if problems.is_empty() { Ok(Listening { management, metrics }) } else { Err(problems) }
}

const MANAGEMENT: &str = "bind_management";
const METRICS: &str = "bind_metrics";

/// Reason for which an address is not bound.
enum Unbound {
    Tcp(Address, io::Error),
    Unix(PathBuf, String),
}

impl Unbound {
    fn explain(&self, key: &'static str) -> String {
        match self {
            Unbound::Tcp(address, error) => listen::explain(key, address, error),
            Unbound::Unix(path, problem) => format!("{key} = unix:{}: {problem}", path.display()),
        }
    }
}

fn bind_one(
    address: &ManagementAddress,
    target: Target,
    given: &mut InheritedSockets,
    ports: &HashSet<u16>,
) -> Result<Management, Unbound> {
    if let Some(given) = take(address, given) {
        return Ok(given);
    }
    match address {
        ManagementAddress::Tcp(address) => {
            let bound = listen::bind_one(address, given, ports);
            let (socket, local) = bound.map_err(|error| Unbound::Tcp(*address, error))?;
            Ok(Management::Tcp(socket, local))
        }
        ManagementAddress::Unix(path) => {
            let bound = bind_unix(path, target);
            let socket = bound.map_err(|problem| Unbound::Unix(path.clone(), problem))?;
            Ok(Management::Unix(socket, path.clone()))
        }
    }
}

/// Takes the inherited socket of this address, if there is one.
fn take(address: &ManagementAddress, given: &mut InheritedSockets) -> Option<Management> {
    match address {
        ManagementAddress::Tcp(address) => {
            let socket = given.take(address.socket())?.sockets.into_iter().next()?;
            let local = socket.local_addr().unwrap_or(address.socket());
            Some(Management::Tcp(socket, local))
        }
        ManagementAddress::Unix(path) => {
            Some(Management::Unix(given.take_unix(path)?, path.clone()))
        }
    }
}

/// Copies the sockets, for a daemon that takes over: with the addresses as they were asked for, in
/// the order of the configuration.
pub(super) fn copies(config: &Config, bound: &Listening, sockets: &mut Sockets) -> io::Result<()> {
    copies_of(&config.bind_management, &bound.management, sockets)?;
    copies_of(&config.bind_metrics, &bound.metrics, sockets)
}

fn copies_of(
    addresses: &[ManagementAddress],
    bound: &[Management],
    sockets: &mut Sockets,
) -> io::Result<()> {
    let mut asked = addresses.iter().filter_map(ManagementAddress::tcp).map(Address::socket);
    for one in bound {
        match one {
            Management::Tcp(socket, local) => {
                // An IPv6 address may have been left out, so the order alone does not tell which
                // socket this is.
                let is_it = |asked: &std::net::SocketAddr| {
                    asked.ip() == local.ip() && [0, local.port()].contains(&asked.port())
                };
                let asked = asked.find(is_it).unwrap_or(*local);
                let sockets_of_it = vec![socket.try_clone()?];
                sockets.tcp.push(Tcp { asked, sockets: sockets_of_it, is_activated: false });
            }
            Management::Unix(socket, path) => {
                sockets.unix.push((path.clone(), socket.try_clone()?.into()));
            }
        }
    }
    Ok(())
}

/// Makes a Unix socket that the group of `target` may use, with no more rights than its folder
/// requires.
fn bind_unix(path: &Path, target: Target) -> Result<UnixListener, String> {
    privileges::with_rights_for(path, target, |is_root| {
        let socket = make_unix(path)?;
        if is_root {
            privileges::give(path, target)
                .map_err(|error| format!("can't give it to uid and gid: {error}"))?;
        }
        Ok(socket)
    })?
}

/// Makes the socket. A socket that a daemon left behind is replaced; a socket on which a process
/// listens is not.
fn make_unix(path: &Path) -> Result<UnixListener, String> {
    match find_at(path)? {
        Found::Nothing => {}
        Found::Stale => {
            fs::remove_file(path).map_err(|error| format!("a stale socket is there: {error}"))?;
        }
        Found::Listening => return Err(LISTENING.to_owned()),
    }
    listen_unix(path).map_err(|error| why_not_made(&error))
}

/// State of the path at which a socket is to be made.
enum Found {
    Nothing,
    /// A socket that a daemon left behind.
    Stale,
    /// A socket with a process that listens on it.
    Listening,
}

const LISTENING: &str = "somebody listens there already: is mantrid running?";

fn find_at(path: &Path) -> Result<Found, String> {
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => {
            Err("there is something else than a socket: move it away".to_owned())
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
            Ok(_) => Ok(Found::Listening),
            Err(error) => Err(error.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error.to_string()),
    }
}

fn why_not_made(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the folder is not there: make it first".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to make it: the folder must be one \
             that the daemon's user may write to, or that root alone may"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Returns, for `--check`, why Unix sockets could not be made at a start. If a daemon runs on this
/// state file (`is_running`), a socket with a listener counts as that daemon's and is no problem.
pub(super) fn check_unix(
    config: &Config,
    target: Target,
    given: &InheritedSockets,
    is_running: bool,
) -> Problems {
    let management = config.bind_management.iter().map(|address| (MANAGEMENT, address));
    let metrics = config.bind_metrics.iter().map(|address| (METRICS, address));
    let paths = management.chain(metrics).filter_map(|(key, address)| match address {
        ManagementAddress::Unix(path) => Some((key, path)),
        ManagementAddress::Tcp(_) => None,
    });
    let is_given = |path: &Path| given.unix.iter().any(|(own, _)| own == path);
    let wrong = paths.filter(|(_, path)| !is_given(path)).filter_map(|(key, path)| {
        let problem = can_make_unix(path, target, is_running).err()?;
        Some(format!("{key} = unix:{}: {problem}", path.display()))
    });
    wrong.collect()
}

fn can_make_unix(path: &Path, target: Target, is_running: bool) -> Result<(), String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    SocketAddr::from_pathname(path).map_err(|error| error.to_string())?;
    let folder = privileges::folder_of(path);
    privileges::with_rights_for(path, target, |_| {
        if let Found::Listening = find_at(path)? {
            return if is_running { Ok(()) } else { Err(LISTENING.to_owned()) };
        }
        let rights = Access::WRITE_OK | Access::EXEC_OK;
        accessat(CWD, folder, rights, AtFlags::EACCESS).map_err(|errno| why_not_made(&errno.into()))
    })?
}

/// Binds the socket, and sets its mode by the umask: changing the mode by path would follow a
/// symbolic link that was put in its place.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    bound
}
