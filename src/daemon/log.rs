//! Log lines, to standard error, with colours only on a terminal; and plain lines, where a reader who
//! went away (`mantrid --help | head`) is no reason to panic.

use std::io::{self, IsTerminal, Write};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Starts logging; what the libraries say counts only when it is an error.
pub(super) fn start(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let filter = EnvFilter::new(format!("error,mantrid={level}"));
    // Fails only when called twice, as tests may.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // It would be told on standard error, where nobody listens any more: that panics.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .try_init();
}

/// A line for whoever started us.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line about what is wrong.
pub(super) fn complain(problem: &str) {
    let _ = writeln!(io::stderr(), "mantrid: {problem}");
}
