//! The command line. Help, completions and manual pages are made from this definition.
//!
//! The arguments of `set` are optional here although they are required: `set` itself says what is
//! missing, in the original's words.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

use super::backends::{AddBackend, BackendCommand, RemoveBackend};
use super::complete::Shell;
use super::options::{Drain, Edit, Looked};
use super::top::{Condition, Sort};
use crate::rule_arguments;

/// Position of the options of all commands in the help of one command: after its own.
const LAST: usize = 100;

/// Edits and watches the host table of a running mantrid
#[derive(Parser, Debug)]
#[command(name = "mantrid-client", version, after_help = TEACHING)]
#[command(override_usage = "mantrid-client [OPTIONS] <COMMAND>")]
pub struct Arguments {
    /// The management API: http://HOST[:PORT] or unix:/PATH [default: MANTRID_URL, else
    /// http://localhost:8042]
    #[arg(long, global = true, value_name = "URL", display_order = LAST)]
    pub url: Option<String>,
    /// The management API on a Unix socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "url")]
    #[arg(display_order = LAST + 1)]
    pub socket: Option<PathBuf>,
    /// Print JSON, as the daemon answers it
    #[arg(long, global = true, display_order = LAST + 2)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print all rules, or those that are looked for
    List(Selection),
    /// Set the rule of a host
    #[command(after_help = actions())]
    #[command(
        override_usage = "mantrid-client set [OPTIONS] <HOST> <ACTION> <SUBDOMS> [KEY=VALUE]..."
    )]
    Set(Set),
    /// Delete the rule of a host; one that is not there is no error
    Delete {
        /// The host name
        #[arg(allow_hyphen_values = true)]
        host: String,
        #[command(flatten)]
        edit: Edit,
        #[command(flatten)]
        drain: Drain,
    },
    /// Print what a request for a host would meet now, and why: rule, alias, backends with health
    Which {
        /// The host name, or an address as a browser shows it
        #[arg(allow_hyphen_values = true)]
        host: String,
        /// http, https, tcp or tls; by default that of the address, else http
        #[arg(long, value_name = "SCHEME", value_parser = ["http", "https", "tcp", "tls"])]
        scheme: Option<String>,
        /// The address of the client, for rules with `allow`, `deny` or a rate of each client
        #[arg(long, value_name = "ADDRESS")]
        source: Option<String>,
        /// The length of the request's body, for rules with `max_body`
        #[arg(long, value_name = "BYTES")]
        body: Option<String>,
    },
    /// Add a backend to the rule of a host
    AddBackend(AddBackend),
    /// Remove a backend from the rule of a host, which must have another
    RemoveBackend(RemoveBackend),
    /// Print the backends of all rules, or change one wherever it is used
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Hold the requests of a host until it is flipped back
    #[command(after_help = SPINNING)]
    Spin {
        /// The host name
        #[arg(allow_hyphen_values = true)]
        host: String,
        #[command(flatten)]
        holding: Holding,
        #[command(flatten)]
        waking: Waking,
    },
    /// Put back the rule that stood before a host was made to spin, and say how many requests were
    /// held
    Flip {
        /// The host name
        #[arg(allow_hyphen_values = true)]
        host: String,
    },
    /// Hold a host while a command restarts its application
    #[command(after_help = RESTARTING)]
    Restart(Restart),
    /// Print who is in the daemon's fleet, or decide about it
    Fleet {
        #[command(subcommand)]
        command: Option<super::fleet::FleetCommand>,
    },
    /// Print counters, of all hosts or of one
    Stats {
        /// The host name
        #[arg(allow_hyphen_values = true, conflicts_with_all = Selection::NAMES)]
        host: Option<String>,
        #[command(flatten)]
        selection: Selection,
    },
    /// Print the last changes of rules and who made them, of all hosts or of one
    Changes {
        /// The host name
        #[arg(allow_hyphen_values = true)]
        host: Option<String>,
        /// How many at most: 100 where it is not given
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Print the rule of a host
    Get {
        /// The host name
        #[arg(allow_hyphen_values = true)]
        host: String,
    },
    /// Replace the whole table by that of a file, all or nothing
    Load(Load),
    /// Print the difference between the daemon's table and that of a file; exit code 1 where there
    /// is one, 2 where that can't be said
    Diff(Looked),
    /// Check the rules of a file, without a daemon
    Check(Looked),
    /// Print the whole table as JSON, for `load`
    Dump {
        /// Write the table's ETag to this file, for `load --if-match`
        #[arg(long, value_name = "FILE")]
        etag: Option<PathBuf>,
    },
    /// Print what happens: changes of rules, health of backends, hosts that are waited for or idle
    Events {
        /// Kinds of events: change, health, held, idle, wake, fleet, traffic; several with commas
        #[arg(long, value_name = "KINDS", default_value = "change,health,held,idle,wake")]
        only: String,
    },
    /// Show the busiest hosts, live
    Top {
        /// How many hosts to ask for, 1 to 1000
        #[arg(long, value_name = "N", default_value_t = 200)]
        #[arg(value_parser = value_parser!(u32).range(1..=1000))]
        hosts: u32,
        /// Begin with this order; keys choose another
        #[arg(long, value_name = "ORDER", default_value = "requests")]
        sort: Sort,
        /// Begin with the hosts that something is wrong with in this way; f shows others
        #[arg(long, value_name = "FILTER")]
        filter: Option<Condition>,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// The folder to write them into
        dir: Option<PathBuf>,
    },
    /// Write a folder of facts for people who help: version, configuration, limits, metrics, log
    Support {
        /// The folder to make [default: mantrid-support-TIME]
        folder: Option<PathBuf>,
    },
    /// Print what may stand in the place of the last of these words, for completions
    #[command(hide = true)]
    Complete {
        /// The words of the command line, without the first
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// A command that does not exist: refused in the original's words.
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Hosts that are looked for, in which order, and how many of them.
#[derive(Args, Debug, Default)]
pub struct Selection {
    /// Only hosts whose name, backend or action has this text in it, or that a URL leads to
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub search: Option<String>,
    /// Only rules with this action: proxy, redirect, static, empty, alias, spin, unknown or
    /// no_hosts
    #[arg(long, value_name = "NAME")]
    pub action: Option<String>,
    /// Only hosts that something is wrong with: failing, held, down or limited
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// The hosts with the most come first: errors, latency, held, open, requests, bytes or limited
    #[arg(long, value_name = "ORDER")]
    pub sort: Option<String>,
    /// How many hosts at most
    #[arg(long, value_name = "N")]
    pub limit: Option<String>,
}

impl Selection {
    const NAMES: [&str; 5] = ["search", "action", "filter", "sort", "limit"];

    /// Arguments that were given, with their names.
    pub fn given(&self) -> Vec<(&'static str, &str)> {
        let Selection { search, action, filter, sort, limit } = self;
        let all = Selection::NAMES.into_iter().zip([search, action, filter, sort, limit]);
        all.filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

#[derive(Args, Debug)]
pub struct Set {
    /// The host name, with http:// or https:// in front for one scheme only
    #[arg(allow_hyphen_values = true)]
    pub host: Option<String>,
    /// proxy, redirect, static, empty, alias, spin, unknown or no_hosts
    pub action: Option<String>,
    /// Whether subdomains follow the rule: true or false
    pub subdoms: Option<String>,
    /// Arguments of the action, such as backends=10.0.0.1:8000,[2001:db8::1]:8000
    #[arg(value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    #[command(flatten)]
    pub edit: Edit,
    #[command(flatten)]
    pub drain: Drain,
}

#[derive(Args, Debug)]
pub struct Load {
    /// JSON as `dump` prints it, or a state file; - is standard input
    pub file: PathBuf,
    /// Change only the hosts in the file; null deletes one
    #[arg(long)]
    pub merge: bool,
    #[command(flatten)]
    pub edit: Edit,
}

/// How long and how many requests are held.
#[derive(Args, Debug, Default)]
pub struct Holding {
    /// How long a request waits at most, in seconds (120)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Most requests held for this rule
    #[arg(long, value_name = "N")]
    pub max_held: Option<String>,
    /// Requests per second that go on after the flip
    #[arg(long, value_name = "N")]
    pub release_rate: Option<String>,
}

/// Arguments that say who is told of requests that wait.
#[derive(Args, Debug, Default)]
pub struct Waking {
    /// An address that gets a POST when a request starts to wait
    #[arg(long, value_name = "URL")]
    pub wake: Option<String>,
    /// Seconds without requests after which it is told as well
    #[arg(long, value_name = "SECONDS")]
    pub idle: Option<String>,
}

impl Holding {
    /// The arguments of `spin` that were given.
    pub fn given(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("timeout", &self.timeout),
            ("max_held", &self.max_held),
            ("release_rate", &self.release_rate),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

impl Waking {
    /// Arguments that were given, with their names.
    pub fn given(&self) -> Vec<(&'static str, &str)> {
        let all = [("wake", &self.wake), ("idle", &self.idle)];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

#[derive(Args, Debug)]
pub struct Restart {
    /// The host name
    #[arg(allow_hyphen_values = true)]
    pub host: String,
    #[command(flatten)]
    pub holding: Holding,
    /// How long requests that are under way may take to end, before the command runs
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub drain: String,
    /// How long a backend may take to answer, after it
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub ready: String,
    /// Put the old rule back when the command fails or no backend answers
    #[arg(long)]
    pub restore: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

const TEACHING: &str = "\
Examples:
  mantrid-client set example.com proxy true backends=127.0.0.1:8000,127.0.0.1:8001
  mantrid-client set old.example.com redirect false redirect_to=example.com code=301
  mantrid-client spin example.com                  # hold its requests
  mantrid-client flip example.com                  # let them go on
  mantrid-client restart example.com -- systemctl restart example
  mantrid-client which https://www.example.com/   # where would a request go now, and why?
  mantrid-client add-backend example.com 127.0.0.1:8002
  mantrid-client backend drain 10.0.0.7:8000 --wait   # in every rule, before that machine stops
  mantrid-client delete old.example.com
  mantrid-client list --search example.com --action proxy
  mantrid-client stats example.com
  mantrid-client stats --sort errors --limit 10    # which hosts fail
  mantrid-client list --filter down                # whose backends can't be used
  mantrid-client changes example.com               # who changed it, and what was before
  mantrid-client dump > table.json && mantrid-client load table.json
  mantrid-client check table.json && mantrid-client diff table.json

Environment:
  MANTRID_URL      as --url
  MANTRID_TOKEN    a token of management_token_file or management_tokens_file

Exit codes: 0 done, 1 not done, and standard error says why; of diff 1 for a difference, 2 for an error";

const SPINNING: &str = "\
The rule that stood before is kept in the new one, for `flip`: its allow and deny, pages and max_body apply meanwhile.
A host that spins already gets these limits.

Example:
  mantrid-client spin example.com --timeout 300";

const RESTARTING: &str = "\
The host is held, what is under way ends, the command runs, and when a backend accepts connections
(or answers its check=/path as expected) the host is flipped back. Backends with weight 0 don't count.

When the command fails, or no backend answers, the host stays held: its requests wait on. Where one of
`backup` answers, the host is flipped back, and the exit code is 1.
The exit code is that of the command, 128 and the signal's number where one ended it.

Example:
  mantrid-client restart example.com --restore -- systemctl restart example";

/// The arguments of each action, in lines of at most 85 columns.
fn actions() -> String {
    let mut text = String::from("Actions and their arguments (* must be given):");
    for row in rule_arguments::ACTIONS {
        let mut line = format!("\n  {:<9}", row.name);
        for argument in row.arguments.iter().filter(|argument| !argument.is_obsolete) {
            let mark = if argument.is_required() { "*" } else { "" };
            if 85 < line.len() + argument.name.len() {
                text += &line;
                line = format!("\n  {:<9}", "");
            }
            line += &format!(" {}{mark}", argument.name);
        }
        if row.arguments.is_empty() {
            line = format!("{line} no arguments: {}", row.meaning.replace('`', ""));
        }
        text += &line;
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn commands_of_the_original_are_understood() {
        for line in [
            "mantrid-client",
            "mantrid-client list",
            "mantrid-client set",
            "mantrid-client set localhost proxy true backends=localhost:8000,localhost:8001",
            "mantrid-client set top-secret.com empty true code=403",
            "mantrid-client set localhost spin true",
            "mantrid-client set -new.example.com spin true",
            "mantrid-client delete top-secret.com",
            "mantrid-client delete -new.example.com",
            "mantrid-client stats",
            "mantrid-client stats localhost",
            "mantrid-client frob a b",
        ] {
            let parsed = parse(line);
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("not understood"));
        }
    }

    #[test]
    fn options_of_set_may_stand_anywhere() {
        for line in [
            "mantrid-client set --dry-run --if-match \"x\" a.com proxy true backends=b:1",
            "mantrid-client set a.com proxy true backends=b:1 --dry-run --if-match \"x\"",
            "mantrid-client set -a.com --dry-run proxy true backends=b:1 --if-match \"x\" --json",
        ] {
            let Ok(Arguments { command: Some(Command::Set(set)), .. }) = parse(line) else {
                panic!("{line}: {:?}", parse(line));
            };
            assert!(set.edit.dry_run, "{line}");
            assert_eq!(set.edit.if_match.as_deref(), Some("\"x\""), "{line}");
            assert_eq!(set.action.as_deref(), Some("proxy"), "{line}");
            assert_eq!(set.options, ["backends=b:1"], "{line}");
        }
    }

    #[test]
    fn lines_without_sense_are_refused() {
        for line in [
            "mantrid-client --url http://a --socket /b list",
            "mantrid-client delete",
            "mantrid-client delete a b",
            "mantrid-client delete a --timeout 3s",
            "mantrid-client set a spin true --wait --dry-run",
            "mantrid-client load",
            "mantrid-client top --hosts 0",
            "mantrid-client top --sort speed",
            "mantrid-client top --filter slow",
            "mantrid-client stats a.com --sort errors",
            "mantrid-client stats a.com --filter held",
            "mantrid-client changes a.com b.com",
            "mantrid-client completions cobol",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
