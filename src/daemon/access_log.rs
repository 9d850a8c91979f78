//! The writer of the access log: a thread that, ten times a second, takes the lines that the shards
//! wrote and writes them to the file. No shard waits for the disk: if a page is full, lines are
//! dropped. Control does not wait either: a pipe is opened without waiting for a reader, and when
//! the daemon ends, a thread that hangs is left behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{error, info, warn};

use super::log::counted;
use super::privileges;
use crate::config::AccessLog;
use crate::limits;
use crate::link::SharedLimits;

/// Order to the writer of the log.
enum Order {
    /// Open a new file of the same name, because the old one was moved away.
    Reopen,
    /// Write to another file, as the configuration names another.
    Switch(AccessLog, Option<File>),
    Finish,
}

/// Handle of the thread that writes.
pub(super) struct LogWriter {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
    /// Channel that is closed when the thread ends.
    ended: Receiver<()>,
}

/// Opens the file that the configuration names; `None` if it names none.
fn open(log: &AccessLog) -> Result<Option<File>, String> {
    let file = match log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        AccessLog::File(path) => open_file(path, true),
    };
    file.map(Some).map_err(|error| format!("access_log = {}: {error}", named(log)))
}

/// Opens a file or a pipe. A pipe is opened for reading, too, so that the call does not wait for a
/// reader.
fn open_file(path: &Path, create: bool) -> io::Result<File> {
    let is_pipe = path.metadata().is_ok_and(|found| found.file_type().is_fifo());
    let flags = if is_pipe { libc::O_NONBLOCK } else { 0 };
    let mut options = OpenOptions::new();
    options.append(true).read(is_pipe).create(create).mode(0o640).custom_flags(flags).open(path)
}

/// Checks whether the file could be opened. Does not make it.
pub(super) fn check(log: &AccessLog) -> Result<(), String> {
    let AccessLog::File(path) = log else { return Ok(()) };
    let outcome = if path.exists() {
        open_file(path, false).map(drop)
    } else {
        let folder = privileges::folder_of(path);
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)
    };
    outcome.map_err(|error| format!("access_log = {}: {error}", path.display()))
}

impl LogWriter {
    /// Opens the log and starts the thread that writes it.
    pub(super) fn start(log: &AccessLog, together: Arc<SharedLimits>) -> Result<LogWriter, String> {
        let output = open(log)?;
        let (orders, incoming) = channel();
        together.logbook.set_on(output.is_some());
        let log = log.clone();
        let mut writing =
            Writing { log, output, together, lines: Vec::new(), is_torn: false, lost: 0 };
        let (alive, ended) = channel::<()>();
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let thread = thread.spawn(move || {
            writing.run(&incoming);
            drop(alive);
        });
        let thread = thread.map_err(|error| format!("no thread for the access log: {error}"))?;
        Ok(LogWriter { orders, thread, ended })
    }

    /// Closes the file and goes on in a new one of the same name.
    pub(super) fn reopen(&self) {
        // Sending does not fail: the thread ends only when it is told to.
        let _ = self.orders.send(Order::Reopen);
    }

    /// Goes on in the file that `log` names. An error changes nothing.
    pub(super) fn switch(&self, log: &AccessLog) -> Result<(), String> {
        let output = open(log)?;
        let _ = self.orders.send(Order::Switch(log.clone(), output));
        Ok(())
    }

    /// Writes the lines that are left, but does not wait for ever: the reader of a pipe may never
    /// read.
    pub(super) fn finish(self) {
        let _ = self.orders.send(Order::Finish);
        if self.ended.recv_timeout(limits::STOP_TIME) == Err(RecvTimeoutError::Timeout) {
            return warn!("access_log: it can't be written; its last lines are lost");
        }
        if self.thread.join().is_err() {
            error!("The writer of the access log panicked");
        }
    }
}

struct Writing {
    log: AccessLog,
    output: Option<File>,
    together: Arc<SharedLimits>,
    /// Buffer for lines, kept so that its memory is used again.
    lines: Vec<u8>,
    /// Whether the last line in the file is incomplete.
    is_torn: bool,
    /// Lines that could not be written since the last report of such lines.
    lost: usize,
}

impl Writing {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            // Without a file there are no lines to fetch, only orders.
            let order = match self.output {
                Some(_) => orders.recv_timeout(limits::LOG_EVERY),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.write();
            match order {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Reopen) => self.reopen(),
                Ok(Order::Switch(log, output)) => {
                    (self.log, self.output, self.is_torn) = (log, output, false);
                    self.together.logbook.set_on(self.output.is_some());
                    info!("access_log: now {}", named(&self.log));
                }
                Ok(Order::Finish) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reopen(&mut self) {
        if self.output.is_none() {
            return;
        }
        match open(&self.log) {
            Ok(output) => {
                (self.output, self.is_torn) = (output, false);
                info!("access_log: {} opened anew", named(&self.log));
            }
            Err(problem) => error!("{problem}: going on with the file that was open"),
        }
    }

    fn write(&mut self) {
        let logbook = &self.together.logbook;
        for shard in 0..logbook.shards() {
            self.lines.clear();
            logbook.take(shard, &mut self.lines);
            let Some(output) = &mut self.output else { continue };
            if self.lines.is_empty() {
                continue;
            }
            let torn: &[u8] = if self.is_torn { b"\n" } else { b"" };
            let written = put(output, torn).and_then(|()| {
                self.is_torn = false;
                put(output, &self.lines)
            });
            match written {
                Ok(()) if self.lost != 0 => {
                    let lost = counted(self.lost, "line");
                    warn!("access_log: {lost} lost; now it can be written again");
                    self.lost = 0;
                }
                Ok(()) => {}
                Err((error, rest)) => {
                    if self.lost == 0 {
                        error!("access_log: {}: {error}: lines are lost", named(&self.log));
                    }
                    let rest = if self.is_torn { self.lines.len() } else { rest };
                    let (before, rest) = self.lines.split_at(self.lines.len() - rest);
                    self.is_torn |= before.last().is_some_and(|byte| *byte != b'\n');
                    let lost = memchr::memchr_iter(b'\n', rest).count();
                    self.lost += lost;
                    logbook.add_lost(lost as u64);
                }
            }
        }
    }
}

/// Writes all bytes; an error comes with the number of bytes that are left. If a pipe is full, this
/// waits as long as a reader takes lines. That includes a pipe that is standard output, where a
/// plain write could wait for ever.
fn put(mut output: &File, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let is_file = output.metadata().is_ok_and(|found| found.is_file());
    let mut rest = bytes;
    while !rest.is_empty() {
        if !is_file && !has_room(output) {
            return Err((io::ErrorKind::WouldBlock.into(), rest.len()));
        }
        // A pipe that is writable has room for at least this many bytes.
        let most = if is_file { rest.len() } else { rest.len().min(rustix::pipe::PIPE_BUF) };
        match output.write(&rest[..most]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), rest.len())),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err((error, rest.len())),
        }
    }
    Ok(())
}

/// Waits until a pipe is writable; `false`: it was not in time.
fn has_room(output: &File) -> bool {
    let patience = Timespec::try_from(limits::LOG_PATIENCE).ok();
    poll(&mut [PollFd::new(output, PollFlags::OUT)], patience.as_ref()).is_ok_and(|count| 0 < count)
}

fn named(log: &AccessLog) -> String {
    match log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    }
}
