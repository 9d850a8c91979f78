//! Why a command is not done, and in whose words that is said.

use std::io::{self, Write};

use thiserror::Error;

use super::request::RequestError;

/// Why a command is not done.
#[derive(Debug, Error)]
pub enum Failure {
    /// Whoever read our output has enough of it. Nobody is left to tell, and nothing is wrong.
    #[error("standard output is closed")]
    OutputClosed,
    /// In the original's words, which scripts may compare.
    #[error("{0}")]
    AsBefore(String),
    /// The daemon did not answer, or not as asked.
    #[error("mantrid-client: {0}")]
    Request(#[from] RequestError),
    /// Anything else.
    #[error("mantrid-client: {0}")]
    Other(String),
}

impl Failure {
    /// For what went wrong while writing to standard output.
    pub fn of_output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(format!("standard output: {error}")),
        }
    }
}

/// Tells something on standard error that is no failure. Nobody may be left to hear it.
pub fn say(what: &str) {
    let _ = writeln!(io::stderr(), "mantrid-client: {what}");
}
