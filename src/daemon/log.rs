//! Log lines, to standard error or the local syslog, as text or JSON: with colours only on a
//! terminal, with levels and without a time for the journal and a syslog; and plain lines, where a
//! reader who went away (`mantrid --help | head`) is no reason to panic. No line is waited for by
//! the thread that logs it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::{Level, Metadata, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::json_lines::{self, JsonLines};
use super::log_lines::Lines;
use super::syslog::{self, Syslog};
use crate::config::{Config, DaemonLogFormat, LogTarget};
use crate::limits;

static LINES: Lines = Lines::new();

/// How lines look and where they go, as the configuration says; before it is read the default.
static STYLE: OnceLock<Style> = OnceLock::new();

struct Style {
    is_json: bool,
    syslog: Option<Syslog>,
}

fn syslog() -> Option<&'static Syslog> {
    STYLE.get().and_then(|style| style.syslog.as_ref())
}

/// Starts logging; what the libraries say counts only when it is an error.
pub(super) fn start(debug: bool, config: &Config) {
    let (syslog, problem) = match &config.log {
        LogTarget::Stderr => (None, None),
        LogTarget::Syslog(path) => {
            let (syslog, error) = Syslog::new(path);
            let problem = error.map(|error| format!("{}: {error}", path.display()));
            (Some(syslog), problem)
        }
    };
    let is_json = config.log_format == DaemonLogFormat::Json;
    let is_leveled = syslog.is_some() || is_journal();
    // Set already where tests call it twice.
    let _ = STYLE.set(Style { is_json, syslog });
    start_events(debug, is_json, is_leveled);
    if let Some(problem) = problem {
        warn!("log: {problem}: lines go to standard error until a syslog listens there");
    }
}

fn start_events(debug: bool, is_json: bool, is_leveled: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let filter = EnvFilter::new(format!("error,mantrid={level}"));
    let lines = tracing_subscriber::fmt()
        .with_target(false)
        // It would be told on standard error, which has no reader any more: that panics.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(Queued);
    // Fails only when called twice, as tests may.
    let _ = if is_json {
        lines.event_format(JsonLines).try_init()
    } else if is_leveled {
        lines.with_ansi(false).without_time().with_level(false).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).try_init()
    };
    std::panic::set_hook(Box::new(tell_of_panic));
}

/// Has a thread write the lines from now on. Called when rights are dropped: they are each thread's
/// own.
pub(super) fn start_writer() {
    let report = |lost| {
        plain(Level::WARN, &format!("{lost} log lines were lost: standard error was not read"))
    };
    LINES.start_writer(report, || match syslog() {
        Some(syslog) => Box::new(syslog),
        None => Box::new(io::stderr()),
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
    let mut text = format!("thread '{name}' {panic}\n");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text += &trace.to_string();
    }
    push(styled(Level::ERROR, text.trim_end(), ""));
}

/// Returns the last lines, the oldest first.
pub(super) fn recent() -> Vec<String> {
    LINES.recent()
}

/// A line that is no event, in the style of those that are.
fn styled(level: Level, text: &str, name: &str) -> Vec<u8> {
    let mark = prefix(level);
    let line = match STYLE.get() {
        Some(style) if style.is_json => json_lines::line(level, text),
        // A syslog has the name in front already.
        Some(style) if style.syslog.is_some() => text.to_owned(),
        _ => format!("{name}{text}"),
    };
    format!("{mark}{line}\n").into_bytes()
}

/// A line with the program's name in front.
fn plain(level: Level, text: &str) -> Vec<u8> {
    styled(level, text, "mantrid: ")
}

fn push(line: Vec<u8>) {
    LINES.push(line, syslog().is_some());
}

/// Whether standard error is the journal's (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // The parent process may have sent it elsewhere.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// The level in front of a line, for a syslog or the journal (sd-daemon(3)); elsewhere nothing.
fn prefix(level: Level) -> Cow<'static, str> {
    if syslog().is_some() {
        return syslog::prefix(level).into();
    }
    journal_prefix(level).into()
}

fn journal_prefix(level: Level) -> &'static str {
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
struct Levelled(Cow<'static, str>);

impl Write for Levelled {
    /// Called once for each line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        push([self.0.as_bytes(), line].concat());
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
    push(plain(Level::ERROR, problem));
}
