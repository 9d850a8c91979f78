//! Reasons why a command failed: whose words the message has, and what to do next.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use nix::unistd::{Gid, Group, Uid, User};
use thiserror::Error;

use super::address::Address;

/// Time in which a connection to the daemon must open.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read. A million rules are about 100 MB, and the daemon sends no answer
/// that is far longer.
pub const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Why a command is not done.
#[derive(Debug, Error)]
pub enum Failure {
    /// The reader of our output has closed it. That is no error, and no message would be read.
    #[error("standard output is closed")]
    OutputClosed,
    /// A message in the original's words, which scripts may compare.
    #[error("{0}")]
    AsBefore(String),
    /// The daemon did not answer, or not as asked.
    #[error("mantrid-client: {0}")]
    Request(#[from] RequestError),
    /// A command that we ran failed, or what it should bring about did not happen.
    #[error("mantrid-client: {why}")]
    Command {
        /// Our exit code, which is the exit code of the command.
        code: u8,
        /// Sentence that says what went wrong, and how things are now.
        why: String,
    },
    /// Two tables differ, as was printed. That is the result of `diff`, and no error.
    #[error("they differ")]
    Different,
    /// The question of `diff` could not be answered, neither with yes nor with no.
    #[error("{0}")]
    Unanswered(Box<Failure>),
    /// Anything else.
    #[error("mantrid-client: {0}")]
    Other(String),
}

impl Failure {
    /// Exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Command { code, .. } => *code,
            Failure::Unanswered(_) => 2,
            Failure::AsBefore(_) | Failure::Request(_) | Failure::Different | Failure::Other(_) => {
                1
            }
        }
    }

    /// The failure for an error while writing to standard output.
    pub fn of_output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(format!("standard output: {error}")),
        }
    }
}

/// Prints a note on standard error that is no failure. An error while writing it is ignored.
pub fn say(what: &str) {
    let _ = writeln!(io::stderr(), "mantrid-client: {what}");
}

/// Why there is no answer, or another one than was asked for. Each message says what to do next.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The connection could not be opened.
    #[error("{}", unreachable(.address, .why))]
    Unreachable { address: Address, why: io::Error },
    /// The connection was opened, but no answer came in time.
    #[error(
        "{address} took the request and did not answer within {} s: see the daemon's log \
         (journalctl -u mantrid)", .patience.as_secs()
    )]
    Silent { address: Address, patience: Duration },
    /// The connection ended before the answer did.
    #[error("{address} closed the connection before its answer was whole: {why}")]
    CutOff { address: Address, why: String },
    /// The stream of events ended, which it does only if the daemon stops or the connection breaks.
    #[error("{address} ended its events: mantrid stopped, or the connection broke")]
    Ended { address: Address },
    /// The daemon refused the request.
    #[error("{}", refusal(.address, *.status, .message))]
    Refused { address: Address, status: StatusCode, message: String },
    /// Another program answers at this address.
    #[error(
        "{address} is no management API: it answered {what}; expected the address of \
         bind_management, by default http://localhost:8042"
    )]
    Foreign { address: Address, what: String },
    /// Text that was typed and can't be part of a request.
    #[error("{0}")]
    Unsendable(String),
    /// The answer is longer than any that makes sense.
    #[error("the answer of {address} is longer than {ANSWER_BYTES_MAX} bytes; expected less")]
    TooLong { address: Address },
}

impl RequestError {
    /// The failure of a change: a missing answer leaves open whether the change was made.
    pub fn of_change(self) -> Failure {
        match self {
            RequestError::Silent { .. } | RequestError::CutOff { .. } => Failure::Other(format!(
                "{self}; the change may have been made: look (get, list) before trying again"
            )),
            other => Failure::Request(other),
        }
    }

    /// Whether asking again later may help: the daemon is starting, stopping or busy.
    pub fn is_passing(&self) -> bool {
        match self {
            // A socket that is being made gets its permissions a moment later.
            RequestError::Unreachable { .. }
            | RequestError::Silent { .. }
            | RequestError::CutOff { .. }
            | RequestError::Ended { .. } => true,
            RequestError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            RequestError::Foreign { .. }
            | RequestError::TooLong { .. }
            | RequestError::Unsendable(_) => false,
        }
    }
}

fn unreachable(address: &Address, why: &io::Error) -> String {
    const ADVICE: &str =
        "is mantrid running? (systemctl status mantrid, or give --url or --socket)";
    match (address, why.kind()) {
        (_, io::ErrorKind::ConnectionRefused) => {
            format!("no daemon answers on {address}: {ADVICE}")
        }
        (Address::Socket(path), io::ErrorKind::NotFound) => format!(
            "there is no socket {}: {ADVICE}; its configuration needs bind_management = unix:{}",
            path.display(),
            path.display()
        ),
        (Address::Socket(path), io::ErrorKind::PermissionDenied) => no_permission(path),
        (Address::Tcp { .. }, io::ErrorKind::TimedOut) => format!(
            "{address} did not answer within {} s: is the address right, and does a firewall \
             drop it?",
            CONNECT_PATIENCE.as_secs()
        ),
        _ => format!("no connection to {address}: {why}: check --url, --socket and MANTRID_URL"),
    }
}

/// Error text that names the group that may use the socket.
fn no_permission(path: &Path) -> String {
    let shown = path.display();
    let Ok(metadata) = fs::metadata(path) else {
        return format!("no permission to look at {shown}: may this user enter its folder?");
    };
    let (uid, gid) = (metadata.uid(), metadata.gid());
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let user = user.map_or_else(|| uid.to_string(), |user| user.name);
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    let group = group.map_or_else(|| gid.to_string(), |group| group.name);
    format!(
        "no permission for {shown} (user {user}, group {group}, mode {:o}): be a member of the \
         group {group} (usermod -aG {group} NAME, then log in again), or run this as {user}",
        metadata.mode() & 0o777
    )
}

fn refusal(address: &Address, status: StatusCode, message: &str) -> String {
    match status {
        StatusCode::UNAUTHORIZED => format!(
            "{address} wants its token ({message}): set MANTRID_TOKEN to the content of its \
             management_token_file"
        ),
        StatusCode::PRECONDITION_FAILED => {
            format!("{message} (get, or dump --etag) and give --if-match the ETag that it has now")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_to_ask_again() {
        let address = Address::local();
        let refused = |status| RequestError::Refused {
            address: Address::local(),
            status,
            message: String::new(),
        };
        let unreachable = |kind: io::ErrorKind| RequestError::Unreachable {
            address: address.clone(),
            why: kind.into(),
        };
        assert!(unreachable(io::ErrorKind::ConnectionRefused).is_passing());
        assert!(unreachable(io::ErrorKind::PermissionDenied).is_passing());
        assert!(refused(StatusCode::SERVICE_UNAVAILABLE).is_passing());
        assert!(!refused(StatusCode::UNAUTHORIZED).is_passing());
    }
}
