//! Log lines, to standard error or the local syslog, as text or JSON. Colours are used only on a
//! terminal. For the journal and a syslog, lines have a level and no time. No thread waits for a
//! line that it logs, and a reader that has gone away (`mantrid --help | head`) causes no panic.

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

/// Style and target of log lines, from the configuration. Before it is read, the defaults apply.
static STYLE: OnceLock<Style> = OnceLock::new();

struct Style {
    is_json: bool,
    syslog: Option<Syslog>,
}

fn syslog() -> Option<&'static Syslog> {
    STYLE.get().and_then(|style| style.syslog.as_ref())
}

/// Starts logging. Of messages from libraries only errors are logged.
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
    // This fails only when called twice, as tests may do.
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
        // Such errors would be printed to standard error. If that has no reader any more, printing
        // panics.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(Queued);
    // This fails only when called twice, as tests may do.
    let _ = if is_json {
        lines.event_format(JsonLines).try_init()
    } else if is_leveled {
        lines.with_ansi(false).without_time().with_level(false).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).try_init()
    };
    std::panic::set_hook(Box::new(tell_of_panic));
}

/// Starts the thread that writes lines from now on. Must be called after rights are dropped,
/// because each thread has rights of its own.
pub(super) fn start_writer() {
    let report = |lost| {
        plain(Level::WARN, &format!("{lost} log lines were lost: standard error was not read"))
    };
    LINES.start_writer(report, || match syslog() {
        Some(syslog) => Box::new(syslog),
        None => Box::new(io::stderr()),
    });
}

/// Waits until the last lines are written, if there is a reader.
pub(super) fn finish() {
    start_writer();
    LINES.flush(limits::LOG_FLUSH_TIME);
}

/// Logs a panic in the form of the standard library's hook, but without waiting for a reader.
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

/// Returns a line for a message that is not an event, in the style of events.
fn styled(level: Level, text: &str, name: &str) -> Vec<u8> {
    let mark = prefix(level);
    let line = match STYLE.get() {
        Some(style) if style.is_json => json_lines::line(level, text),
        // A line to a syslog already begins with the name.
        Some(style) if style.syslog.is_some() => text.to_owned(),
        _ => format!("{name}{text}"),
    };
    format!("{mark}{line}\n").into_bytes()
}

/// Returns a line with the program's name in front.
fn plain(level: Level, text: &str) -> Vec<u8> {
    styled(level, text, "mantrid: ")
}

fn push(line: Vec<u8>) {
    LINES.push(line, syslog().is_some());
}

/// Whether standard error leads to the journal (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // The variable alone is not enough: the parent process may have redirected standard error.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// Returns the level in front of a line for a syslog or the journal (sd-daemon(3)); otherwise
/// nothing.
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

/// Writer that queues each line.
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

/// Writer that queues each line with the level in front that the journal reads.
struct Levelled(Cow<'static, str>);

impl Write for Levelled {
    /// Queues one line. The subscriber calls this once for each line, with the whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        push([self.0.as_bytes(), line].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a number with its noun: `1 rule`, `2 rules`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Prints a line to standard output.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Logs a problem as an error.
pub(super) fn complain(problem: &str) {
    push(plain(Level::ERROR, problem));
}
