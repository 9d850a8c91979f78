//! The command line of `mantrid`.

use clap::Parser;

use crate::config::KEYS;

/// What was typed.
#[derive(Parser, Debug)]
#[command(name = "mantrid", version, about, after_long_help = teaching())]
/// A TCP and HTTP/1 proxy that routes by host name, from a table that is edited while it runs
pub(super) struct Arguments {
    /// The configuration file; /etc/mantrid/mantrid.conf where that exists, else defaults
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) config: Option<String>,
    /// Sets a key of the configuration file, and wins over it; repeatable
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
    /// Checks configuration, state file, limits and kernel; one line a problem
    #[arg(short = 't', long)]
    pub(super) check: bool,
    /// Starts a playground on loopback: ports 8080 and 8042, two backends, a few rules
    #[arg(long, conflicts_with = "check")]
    pub(super) demo: bool,
    /// Logs more
    #[arg(long)]
    pub(super) debug: bool,
}

impl Arguments {
    pub(super) fn from_command_line() -> Arguments {
        match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) => {
                let _ = error.print();
                // --help and --version are no failures; a mistyped argument is one: 1, not clap's 2.
                std::process::exit(i32::from(error.use_stderr()));
            }
        }
    }
}

fn teaching() -> String {
    let mut text = String::from(
        "Examples:\n  \
         mantrid --demo                        see it work, touch nothing\n  \
         mantrid --check -c my.conf            is this file right?\n  \
         mantrid -o bind=*:8080 -o uid=www     without a file\n\n\
         Signals:\n  \
         TERM, INT   finish what is under way (at most timeout_drain), then exit; twice: at once\n\n\
         Exit codes: 0 after a clean stop, 1 when something is wrong with the start\n\n\
         Keys (docs/configuration.md has their meaning):\n",
    );
    for key in KEYS {
        text.push_str(&format!("  {:<26}{}\n", key.name, key.default));
    }
    text
}
