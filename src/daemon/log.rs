//! Log lines, to standard error: with colours only on a terminal, with the journal's levels and
//! without a time under systemd; and plain lines, where a reader who went away (`mantrid --help |
//! head`) is no reason to panic. No line is waited for by the thread that logs it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::log_lines::Lines;
use crate::limits;

static LINES: Lines = Lines::new();

/// Starts logging; what the libraries say counts only when it is an error.
pub(super) fn start(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let filter = EnvFilter::new(format!("error,mantrid={level}"));
    let lines = tracing_subscriber::fmt()
        .with_target(false)
        // It would be told on standard error, which has no reader any more: that panics.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(Queued);
    // Fails only when called twice, as tests may.
    let _ = if is_journal() {
        lines.with_ansi(false).without_time().with_level(false).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).try_init()
    };
    std::panic::set_hook(Box::new(tell_of_panic));
}

/// Has a thread write the lines from now on. Called when rights are dropped: they are each thread's
/// own.
pub(super) fn start_writer() {
    LINES.start_writer(|lost| {
        let level = prefix(Level::WARN);
        format!("{level}mantrid: {lost} log lines were lost: standard error was not read\n").into()
    });
}

/// Sees to it that the last lines are read, if there is a reader.
pub(super) fn finish() {
    start_writer();
    LINES.flush(limits::LOG_FLUSH_TIME);
}

/// Reports a panic as the standard library's own hook does, without waiting for a reader.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let level = prefix(Level::ERROR);
    let mut text = format!("{level}thread '{name}' {panic}\n");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text += &trace.to_string();
    }
    LINES.push(text.into_bytes());
}

/// Whether standard error is the journal's (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // The parent process may have sent it elsewhere.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// The journal's level in front of a line (sd-daemon(3)); elsewhere nothing.
fn prefix(level: Level) -> &'static str {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    if !IS_JOURNAL.get_or_init(is_journal) {
        return "";
    }
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Queues each line.
struct Queued;

impl<'a> MakeWriter<'a> for Queued {
    type Writer = Levelled;

    fn make_writer(&'a self) -> Levelled {
        Levelled(prefix(Level::INFO))
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Levelled {
        Levelled(prefix(*event.level()))
    }
}

/// One line, with the level in front that the journal reads.
struct Levelled(&'static str);

impl Write for Levelled {
    /// Called once for each line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.push([self.0.as_bytes(), line].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A number and its noun: `1 rule`, `2 rules`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Writes a line for the parent process.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line about what is wrong.
pub(super) fn complain(problem: &str) {
    let level = prefix(Level::ERROR);
    LINES.push(format!("{level}mantrid: {problem}\n").into_bytes());
}
