//! The writer of the access log: a thread that takes away what the shards wrote, ten times a second, and puts
//! it in the file. Whatever the disk does, no shard waits for it: pages that fill up meanwhile drop lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use tracing::{error, info, warn};

use crate::config::AccessLog;
use crate::limits;
use crate::link::Together;

/// What the writer is told.
enum Order {
    /// The file was moved away: one of its name is to be made.
    Reopen,
    /// The configuration names another.
    Switch(AccessLog, Option<Output>),
    Finish,
}

type Output = Box<dyn Write + Send>;

/// The writer's thread.
pub(super) struct LogWriter {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

/// Opens what the configuration names; `None` where that is nothing.
fn open(log: &AccessLog) -> Result<Option<Output>, String> {
    Ok(match log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some(Box::new(io::stdout())),
        AccessLog::File(path) => {
            let file = open_file(path);
            let file = file.map_err(|error| format!("access_log = {}: {error}", path.display()))?;
            Some(Box::new(file))
        }
    })
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Whether it could be opened, without making it.
pub(super) fn check(log: &AccessLog) -> Result<(), String> {
    let AccessLog::File(path) = log else { return Ok(()) };
    let outcome = if path.exists() {
        OpenOptions::new().append(true).open(path).map(drop)
    } else {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)
    };
    outcome.map_err(|error| format!("access_log = {}: {error}", path.display()))
}

impl LogWriter {
    /// Opens the log and starts to write.
    pub(super) fn start(log: &AccessLog, together: Arc<Together>) -> Result<LogWriter, String> {
        let output = open(log)?;
        let (orders, incoming) = channel();
        together.logbook.set_on(output.is_some());
        let mut writing =
            Writing { log: log.clone(), output, together, lines: Vec::new(), lost: 0 };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let thread = thread.spawn(move || writing.run(&incoming));
        let thread = thread.map_err(|error| format!("no thread for the access log: {error}"))?;
        Ok(LogWriter { orders, thread })
    }

    /// Goes on in a new file of the same name.
    pub(super) fn reopen(&self) {
        // The thread ends only when it is told to.
        let _ = self.orders.send(Order::Reopen);
    }

    /// Goes on elsewhere; an error changes nothing.
    pub(super) fn switch(&self, log: &AccessLog) -> Result<(), String> {
        let output = open(log)?;
        let _ = self.orders.send(Order::Switch(log.clone(), output));
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(self) {
        let _ = self.orders.send(Order::Finish);
        if self.thread.join().is_err() {
            error!("The writer of the access log panicked");
        }
    }
}

struct Writing {
    log: AccessLog,
    output: Option<Output>,
    together: Arc<Together>,
    /// Kept for its memory.
    lines: Vec<u8>,
    /// Lines that could not be written since that was said.
    lost: usize,
}

impl Writing {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            // Where nothing is written there is nothing to look for.
            let order = match self.output {
                Some(_) => orders.recv_timeout(limits::LOG_EVERY),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.write();
            match order {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Reopen) => self.reopen(),
                Ok(Order::Switch(log, output)) => {
                    info!("access_log: now {}", named(&log));
                    (self.log, self.output) = (log, output);
                    self.together.logbook.set_on(self.output.is_some());
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
                self.output = output;
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
            let written = output.write_all(&self.lines).and_then(|()| output.flush());
            let count = || memchr::memchr_iter(b'\n', &self.lines).count();
            match written {
                Ok(()) if self.lost != 0 => {
                    warn!("access_log: {} lines were lost; now it can be written again", self.lost);
                    self.lost = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if self.lost == 0 {
                        error!("access_log: {}: {error}: lines are lost", named(&self.log));
                    }
                    let lost = count();
                    self.lost += lost;
                    logbook.add_lost(lost as u64);
                }
            }
        }
    }
}

fn named(log: &AccessLog) -> String {
    match log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    }
}
