//! The local syslog: each line is sent to its socket as a datagram, in the form of syslog(3). Lines
//! have no time, because the syslog has the same clock. A line that can't be sent goes to standard
//! error.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::Level;

/// Facility `daemon` (RFC 5424 §6.2.1).
const DAEMON: u8 = 3 << 3;

/// The socket of a syslog.
pub(super) struct Syslog {
    path: PathBuf,
    /// `None` while no syslog listens.
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    /// Opens the socket. If that fails, also returns the error, and each line tries to open it
    /// again.
    pub(super) fn new(path: &Path) -> (Syslog, Option<io::Error>) {
        let (socket, error) = match connect(path) {
            Ok(socket) => (Some(socket), None),
            Err(error) => (None, Some(error)),
        };
        (Syslog { path: path.to_owned(), socket: Mutex::new(socket) }, error)
    }

    /// Sends a datagram. If that fails, connects again and sends once more, because a syslog that
    /// was restarted listens on a new socket. Waits while the syslog is busy.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*socket
            && open.send(datagram).is_ok()
        {
            return Ok(());
        }
        *socket = None;
        let again = connect(&self.path)?;
        again.send(datagram)?;
        *socket = Some(again);
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// Returns the beginning of a line: its severity, and the name and number of this process.
pub(super) fn prefix(level: Level) -> String {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    format!("<{}>mantrid[{}]: ", DAEMON | severity, std::process::id())
}

impl Write for &Syslog {
    /// Sends one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.send(line.trim_ascii_end()).is_err() {
            let mark = line.iter().position(|byte| *byte == b'>').map_or(0, |at| at + 1);
            let _ = io::stderr().write_all(&line[mark..]);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_whoever_listens_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let (syslog, error) = Syslog::new(&path);
        assert!(error.is_some(), "nobody listens");
        let mut writer = &syslog;
        writer.write_all(b"<30>lost to standard error\n").expect("written");
        let mut room = [0; 100];
        for text in ["one", "two"] {
            let listener = UnixDatagram::bind(&path).expect("a socket");
            writer.write_all(format!("{}{text}\n", prefix(Level::WARN)).as_bytes()).expect("sent");
            let count = listener.recv(&mut room).expect("a datagram");
            let found = String::from_utf8_lossy(&room[..count]).into_owned();
            assert_eq!(found, format!("<28>mantrid[{}]: {text}", std::process::id()));
            std::fs::remove_file(&path).expect("removed");
        }
    }
}
