//! The management addresses: bound while we may still be root, TCP and Unix sockets; and the token.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use tracing::warn;

use super::inherited::{InheritedSockets, Tcp};
use super::privileges::Target;
use super::upgrade::Sockets;
use super::{Problems, listen, privileges};
use crate::config::{Config, ManagementAddress};
use crate::control::{Management, Token};

/// Binds `bind_management`, all or nothing; every failure is named.
pub(super) fn bind_all(
    config: &Config,
    target: Target,
    given: &mut InheritedSockets,
) -> Result<Vec<Management>, Problems> {
    let is_default = config.bind_management == Config::default().bind_management;
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    let ports = given.ports();
    for address in &config.bind_management {
        if let Some(given) = take(address, given) {
            bound.push(given);
            continue;
        }
        match address {
            ManagementAddress::Tcp(address) => match listen::bind_one(address, given, &ports) {
                Ok((socket, local)) => bound.push(Management::Tcp(socket, local)),
                // Nobody asked for IPv6 here: where there is none, IPv4 alone will do.
                Err(error) if is_default && listen::has_no_family(&error) => {}
                Err(error) => problems.push(listen::explain("bind_management", address, &error)),
            },
            ManagementAddress::Unix(path) => match bind_unix(path, target) {
                Ok(socket) => bound.push(Management::Unix(socket, path.clone())),
                Err(problem) => {
                    problems.push(format!("bind_management = unix:{}: {problem}", path.display()));
                }
            },
        }
    }
    if problems.is_empty() { Ok(bound) } else { Err(problems) }
}

/// A socket of this address that is there already.
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

/// The sockets as they were asked for, in the order of the configuration, for a daemon that takes
/// over.
pub(super) fn copies(
    config: &Config,
    bound: &[Management],
    sockets: &mut Sockets,
) -> io::Result<()> {
    let mut asked = config.management_tcp().map(|address| address.socket());
    for one in bound {
        match one {
            Management::Tcp(socket, local) => {
                // One without IPv6 may have been passed over.
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

/// A socket that its group may use, made with no more rights than its folder asks for.
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

/// Makes the socket. One that a daemon left behind is replaced; one with a listener is not.
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

/// Finding at the path of a socket that is to be made.
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

/// Tells for `--check` which Unix sockets a start could not make; one on which the daemon listens
/// that runs on this state (`is_running`) is that daemon's.
pub(super) fn check_unix(
    config: &Config,
    target: Target,
    given: &InheritedSockets,
    is_running: bool,
) -> Problems {
    let paths = config.bind_management.iter().filter_map(|address| match address {
        ManagementAddress::Unix(path) => Some(path),
        ManagementAddress::Tcp(_) => None,
    });
    let is_given = |path: &Path| given.unix.iter().any(|(own, _)| own == path);
    let wrong = paths.filter(|path| !is_given(path)).filter_map(|path| {
        let problem = can_make_unix(path, target, is_running).err()?;
        Some(format!("bind_management = unix:{}: {problem}", path.display()))
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

/// Binds the socket with a mode that comes from the mask: a change of mode by path would follow a
/// symbolic link in its place.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    bound
}

/// The token, read while we may still be root: the file need not be readable for anybody else.
/// Where it is not, the one `given` by the daemon that we take over from does.
pub(super) fn token(config: &Config, given: Option<Token>) -> Result<Option<Token>, String> {
    let Some(path) = &config.management_token_file else { return Ok(None) };
    let problem =
        |problem: String| format!("management_token_file = {}: {problem}", path.display());
    let text = match (fs::read_to_string(path), given) {
        (Err(error), Some(given)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let user = nix::unistd::geteuid();
            warn!(
                "{}: uid {user} can't read it: the token stays that of the daemon before",
                problem(error.to_string())
            );
            return Ok(Some(given));
        }
        (text, _) => text.map_err(|error| problem(error.to_string()))?,
    };
    let mode = path.metadata().map_or(0, |metadata| metadata.mode());
    if mode & 0o007 != 0 {
        warn!("{}", problem("others may read it too: chmod o= it".to_owned()));
    }
    let token = Token::parse(&text);
    let expected = "expected one line of printable ASCII without spaces: \
         head -c 24 /dev/urandom | base64 makes one";
    token.map(Some).ok_or_else(|| problem(expected.to_owned()))
}
