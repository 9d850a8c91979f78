//! Log lines, to standard error: with colours only on a terminal, with the journal's levels and without a time
//! under systemd; and plain lines, where a reader who went away (`mantrid --help | head`) is no reason to
//! panic.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging; what the libraries say counts only when it is an error.
pub(super) fn start(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let filter = EnvFilter::new(format!("error,mantrid={level}"));
    let lines = tracing_subscriber::fmt()
        .with_target(false)
        // It would be told on standard error, where nobody listens any more: that panics.
        .log_internal_errors(false)
        .with_env_filter(filter);
    // Fails only when called twice, as tests may.
    let _ = if is_journal() {
        lines.with_ansi(false).without_time().with_level(false).with_writer(Journal).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init()
    };
}

/// Whether standard error is the journal's (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // Whoever started us may have sent it elsewhere.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// Puts the level in front of each line, as the journal reads it (sd-daemon(3)).
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Levelled;

    fn make_writer(&'a self) -> Levelled {
        Levelled(6)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Levelled {
        Levelled(match *event.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        })
    }
}

struct Levelled(u8);

impl Write for Levelled {
    /// Called once for each line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut levelled = format!("<{}>", self.0).into_bytes();
        levelled.extend_from_slice(line);
        io::stderr().write_all(&levelled)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A number and its noun: `1 rule`, `2 rules`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// A line for whoever started us.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line about what is wrong.
pub(super) fn complain(problem: &str) {
    let level = if is_journal() { "<3>" } else { "" };
    let _ = writeln!(io::stderr(), "{level}mantrid: {problem}");
}
