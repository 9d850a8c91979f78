//! `mantrid-client`: edits the table of a running daemon. So far it only says that it can't yet.

use std::process::ExitCode;

/// Runs `mantrid-client`.
pub fn main() -> ExitCode {
    eprintln!(
        "mantrid-client: the management API comes with the next release; until then the table is what \
         state_file says when the daemon starts (docs/configuration.md)"
    );
    ExitCode::FAILURE
}
