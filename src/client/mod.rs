//! `mantrid-client`: edits the table of a running daemon. So far it knows its commands, and says that
//! the daemon can't take them yet.
//!
//! It speaks the management API and uses nothing else of ours.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Edits the table of a running mantrid
#[derive(Parser, Debug)]
#[command(name = "mantrid-client", version, about, after_help = TEACHING)]
struct Arguments {
    /// The management API [default: MANTRID_URL, else http://localhost:8042]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The management API on a Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Print all rules
    List,
    /// Set the rule of a host
    Set {
        /// The host name, with http:// or https:// in front for one scheme only
        host: String,
        /// proxy, redirect, static, empty, alias, spin, unknown or no_hosts
        action: String,
        /// Whether subdomains follow the rule: true or false
        #[arg(value_name = "SUBDOMS", action = clap::ArgAction::Set)]
        subdomains: bool,
        /// Arguments of the action, such as backends=10.0.0.1:8000,10.0.0.2:8000
        #[arg(value_name = "KEY=VALUE")]
        arguments: Vec<String>,
    },
    /// Delete the rule of a host
    Delete {
        /// The host name
        host: String,
    },
    /// Print counters, of all hosts or of one
    Stats {
        /// The host name
        host: Option<String>,
    },
    /// Print the rule of a host
    Get {
        /// The host name
        host: String,
    },
    /// Replace the whole table by that of a file
    Load {
        /// JSON, as `dump` prints it; - is standard input
        file: PathBuf,
    },
    /// Print the whole table as JSON
    Dump,
    /// Print changes as they happen
    Events,
    /// Show the busiest hosts
    Top,
}

const TEACHING: &str = "\
Examples:
  mantrid-client set example.com proxy true backends=127.0.0.1:8000,127.0.0.1:8001
  mantrid-client set old.example.com redirect false redirect_to=example.com code=301
  mantrid-client delete old.example.com
  mantrid-client stats example.com

Environment:
  MANTRID_URL      as --url
  MANTRID_TOKEN    the token of management_token_file

Exit codes: 0 done, 1 not done; standard error says why";

/// What it says until there is an API to talk to.
const LATER: &str = "the management API comes with the next release; until then mantrid takes its \
     table from state_file when it starts";

/// Runs `mantrid-client`.
pub fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(_) => {
            eprintln!("mantrid-client: {LATER}");
            ExitCode::FAILURE
        }
        Err(error) => {
            let is_asked =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            if is_asked { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn commands_of_the_original_are_understood() {
        for line in [
            "mantrid-client list",
            "mantrid-client set localhost proxy true backends=localhost:8000,localhost:8001",
            "mantrid-client set top-secret.com empty true code=403",
            "mantrid-client set localhost spin true",
            "mantrid-client delete top-secret.com",
            "mantrid-client stats",
            "mantrid-client stats localhost",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("not understood"));
        }
    }
}
