//! The management addresses: bound while we may still be root, TCP and Unix sockets; and the token.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use tracing::warn;

use super::privileges::Target;
use super::{Problems, listen};
use crate::config::{Config, ManagementAddress};
use crate::control::{Management, Token};

/// Binds `bind_management`, all or nothing; every failure is named.
pub(super) fn bind_all(config: &Config, target: Target) -> Result<Vec<Management>, Problems> {
    let is_default = config.bind_management == Config::default().bind_management;
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for address in &config.bind_management {
        match address {
            ManagementAddress::Tcp(address) => match listen::bind_one(address) {
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

/// A socket that its group may use. One that a daemon left behind is replaced; one that somebody
/// listens on is not.
fn bind_unix(path: &Path, target: Target) -> Result<UnixListener, String> {
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => {
            return Err("there is something else than a socket: move it away".to_owned());
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)
                    .map_err(|error| format!("a stale socket is there: {error}"))?;
            }
            Ok(_) => return Err("somebody listens there already: is mantrid running?".to_owned()),
            Err(error) => return Err(error.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    let socket = listen_unix(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the folder is not there: make it first".to_owned(),
        _ => error.to_string(),
    })?;
    if target.group().is_some() {
        nix::unistd::chown(path, target.user(), target.group())
            .map_err(|errno| format!("can't give it to uid and gid: {}", errno.desc()))?;
    }
    Ok(socket)
}

/// Never open to others, not even between being made and being given its mode.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let socket = bound?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(socket)
}

/// The token, read while we may still be root: the file need not be readable for anybody else.
pub(super) fn token(config: &Config) -> Result<Option<Token>, String> {
    let Some(path) = &config.management_token_file else { return Ok(None) };
    let problem =
        |problem: String| format!("management_token_file = {}: {problem}", path.display());
    let text = fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    let mode = path.metadata().map_or(0, |metadata| metadata.mode());
    if mode & 0o007 != 0 {
        warn!("{}", problem("others may read it too: chmod o= it".to_owned()));
    }
    let token = Token::parse(&text);
    let expected = "expected one line of printable ASCII without spaces: \
         head -c 24 /dev/urandom | base64 makes one";
    token.map(Some).ok_or_else(|| problem(expected.to_owned()))
}
