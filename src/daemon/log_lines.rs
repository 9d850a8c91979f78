//! Log lines on their way to standard error or to a syslog. Lines go into a bounded queue, and a
//! separate thread writes them, so that no thread that logs waits for the reader. If the queue is
//! full, lines are dropped and counted; the count is reported once the other lines are written.
//!
//! The thread must not start before rights are dropped, because each thread has rights of its own.
//! Until it runs, a line is written at once if that does not block, and queued otherwise.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::limits;

/// Queue of lines, each whole.
#[derive(Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue.
    bytes: usize,
    /// Lines that were dropped since the last report of dropped lines.
    lost: u64,
    /// Lines written so far.
    written: u64,
    /// Whether the writer has taken a line that it has not written yet.
    is_writing: bool,
    has_writer: bool,
    /// The last lines, whether they were written or not.
    recent: VecDeque<Vec<u8>>,
}

impl State {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.is_writing
    }

    fn remember(&mut self, line: &[u8]) {
        if self.recent.len() == limits::LOG_LINES_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line[..line.len().min(limits::LOG_LINE_RECENT_BYTES)].to_vec());
    }
}

impl Lines {
    pub(super) const fn new() -> Lines {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            lost: 0,
            written: 0,
            is_writing: false,
            has_writer: false,
            recent: VecDeque::new(),
        };
        Lines { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Locks the state. The lock is held for a few instructions at a time, never while a line is
    /// written.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or drops it if the queue is full. Never waits for a reader. A line that does
    /// not go to standard error (`is_elsewhere`) always waits for the writer.
    pub(super) fn push(&self, line: Vec<u8>, is_elsewhere: bool) {
        let mut state = self.state();
        state.remember(&line);
        if !is_elsewhere && !state.has_writer && state.is_idle() && write_now(&line) {
            return;
        }
        if limits::LOG_LINES_BYTES_MAX < state.bytes + line.len() {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.queue.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Starts the thread that writes. Without it, lines that can't be written at once stay in the
    /// queue.
    pub(super) fn start_writer(
        &'static self,
        report: fn(u64) -> Vec<u8>,
        open: fn() -> Box<dyn Write>,
    ) {
        if std::mem::replace(&mut self.state().has_writer, true) {
            return;
        }
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024);
        if thread.spawn(move || self.write_to(&mut *open(), report)).is_err() {
            self.state().has_writer = false;
        }
    }

    /// Writes lines for ever, one after the other.
    fn write_to(&self, out: &mut (impl Write + ?Sized), report: fn(u64) -> Vec<u8>) {
        loop {
            self.write_next(out, report);
        }
    }

    /// Waits for a line and writes it. If the queue is empty then, reports how many lines were
    /// dropped.
    fn write_next(&self, out: &mut (impl Write + ?Sized), report: fn(u64) -> Vec<u8>) {
        let nothing = |state: &mut State| state.queue.is_empty();
        let state = self.state();
        let state = self.changed.wait_while(state, nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let Some(line) = state.queue.pop_front() else { return };
        state.bytes -= line.len();
        state.is_writing = true;
        drop(state);
        // An error is ignored: the reader has gone for good.
        let _ = out.write_all(&line);
        let mut state = self.state();
        let is_last = state.queue.is_empty();
        let lost = if is_last { std::mem::take(&mut state.lost) } else { 0 };
        drop(state);
        if lost != 0 {
            let _ = out.write_all(&report(lost));
        }
        let mut state = self.state();
        state.written += 1;
        state.is_writing = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Returns the last lines, the oldest first.
    pub(super) fn recent(&self) -> Vec<String> {
        let text = |line: &Vec<u8>| String::from_utf8_lossy(line).trim_end().to_owned();
        self.state().recent.iter().map(text).collect()
    }

    /// Waits until all lines are written. Gives up when no line could be written for `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let mut state = self.state();
        while !state.is_idle() {
            let before = state.written;
            let stuck = |state: &mut State| !state.is_idle() && state.written == before;
            let waited = self.changed.wait_timeout_while(state, patience, stuck);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return;
            }
            state = now;
        }
    }
}

/// Writes a line if that can't block; returns whether it did. A pipe that is writable has room for
/// such a line.
fn write_now(line: &[u8]) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    line.len() <= rustix::pipe::PIPE_BUF
        && poll(&mut fds, Some(&now)).is_ok_and(|count| 0 < count)
        && (&stderr).write_all(line).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lost: u64) -> Vec<u8> {
        format!("{lost} lost\n").into_bytes()
    }

    #[test]
    fn lines_that_find_no_room_are_counted() {
        let lines = Lines::new();
        lines.state().has_writer = true;
        let line = |text: &str| format!("{text:>1023}\n").into_bytes();
        let most = limits::LOG_LINES_BYTES_MAX / 1024;
        for _ in 0..most + 3 {
            lines.push(line("x"), false);
        }
        let mut out = Vec::new();
        for _ in 0..most {
            lines.write_next(&mut out, report);
        }
        assert!(out.ends_with(b"x\n3 lost\n"));
        assert_eq!(out.len(), most * 1024 + 7);
        lines.push(line("y"), false);
        lines.write_next(&mut out, report);
        assert!(out.ends_with(b"y\n"));
        lines.flush(Duration::from_secs(60));
    }

    /// Writer that blocks from the beginning.
    struct Deaf(std::sync::mpsc::Receiver<()>);

    impl Write for Deaf {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_never_reads_is_not_waited_for() {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        lines.state().has_writer = true;
        let (go_on, deaf) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.write_to(&mut Deaf(deaf), report));
        for _ in 0..2 {
            lines.push(b"line\n".to_vec(), false);
        }
        lines.flush(Duration::from_millis(1));
        assert!(!lines.state().is_idle());
        drop(go_on);
        lines.flush(Duration::from_secs(60));
        assert!(lines.state().is_idle());
    }
}
