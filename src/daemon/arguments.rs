//! The command line of `mantrid`, and its help.

use std::fmt::Write as _;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::KEYS;

/// A reverse proxy that routes by host name, from a table that may hold a million rules
#[derive(Parser, Debug, Clone)]
#[command(name = "mantrid", version, about, after_help = SHORT, after_long_help = teaching())]
pub(super) struct Arguments {
    /// Read this configuration file [default: /etc/mantrid/mantrid.conf where it exists]
    #[arg(short = 'c', long = "config", value_name = "FILE", conflicts_with = "demo")]
    pub(super) config: Option<String>,
    /// Set a key of the configuration file, and win over it; repeatable
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
    /// Tell what is wrong with configuration, state file, limits and kernel, and end
    #[arg(short = 't', long)]
    pub(super) check: bool,
    /// Serve a playground on loopback: two backends, a few rules, and what to try
    #[arg(long, conflicts_with = "check")]
    pub(super) demo: bool,
    /// Make --demo three nodes of a fleet, with etcd, where that is installed
    #[arg(long, requires = "demo")]
    pub(super) fleet: bool,
    /// Print the manual page and end
    #[arg(long, hide = true)]
    pub(super) man: bool,
    /// Print that of the configuration file
    #[arg(long, hide = true)]
    pub(super) man_conf: bool,
    /// Give this node's own table up for the fleet's; it is kept beside the state file
    #[arg(long)]
    pub(super) adopt: bool,
    /// Log more
    #[arg(long)]
    pub(super) debug: bool,
}

/// Action that the command line asks for.
pub(super) enum Asked {
    /// Run with these arguments.
    Run(Arguments),
    /// Print this text and end with success (`--help`, `--version`).
    Print(String),
}

/// Reads the command line; an error is one line.
pub(super) fn read() -> Result<Asked, String> {
    match Arguments::try_parse() {
        Ok(arguments) if arguments.man => Ok(Asked::Print(manual_page())),
        Ok(arguments) if arguments.man_conf => Ok(Asked::Print(crate::config::manual_page())),
        Ok(arguments) => Ok(Asked::Run(arguments)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Asked::Print(error.to_string()))
            }
            _ => Err(one_line(&error.to_string())),
        },
    }
}

/// Returns the manual page mantrid(8), made from the same definition as the help.
fn manual_page() -> String {
    use clap::CommandFactory;
    let page = clap_mangen::Man::new(Arguments::command()).section("8");
    let mut text = Vec::new();
    // Writing to a Vec can't fail.
    let _ = page.render(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Joins the paragraphs of clap's error into one line: the problem, and clap's tip.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut line = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    for tip in lines.filter(|line| line.starts_with("tip:")) {
        let _ = write!(line, "; {tip}");
    }
    line + "; `mantrid --help` shows what there is"
}

const SHORT: &str = "--help has examples, files, signals, exit codes and all keys.";

fn teaching() -> String {
    let mut text = String::from(
        "\
Examples:
  mantrid --demo                         see it work, on loopback, leaving nothing behind
  mantrid -c site.conf --check           is this configuration right?
  mantrid -c site.conf                   serve
  mantrid -o bind=*:8080 -o state_file=state.json     serve without a configuration file

Files:
  /etc/mantrid/mantrid.conf              configuration: `key = value` lines, `#` starts a comment
  /var/lib/mantrid/state.json            the table of hosts (key state_file)
  /etc/mantrid/static/NAME.http          pages (key static_dir)

Signals:
  TERM, INT    finish what is under way, for at most timeout_drain, and end; the second: at once
  HUP          read the configuration and the pages again; where the program itself has been replaced,
               start the new one, as USR2 does. The keys{AT_ONCE}
               are in force at once, all others at the next start
  USR1         open the access log anew
  USR2         start the program anew; it takes over sockets, held requests and idle connections, and
               this one finishes what is under way

Exit codes:
  0    a clean stop, or nothing wrong
  1    a mistake on the command line or in the configuration, or a start that failed;
       standard error says which, one line each

Keys of the configuration, with their defaults (docs/configuration.md explains them):
",
    );
    text = text.replace("{AT_ONCE}", &keys_at_once());
    let width = KEYS.iter().map(|key| key.name.len()).max().unwrap_or_default();
    for key in KEYS {
        let _ = writeln!(text, "  {:<width$}  {}", key.name, key.default);
    }
    text
}

/// Returns the keys that HUP puts in force, in lines below the text of the signal.
fn keys_at_once() -> String {
    let mut text = String::new();
    let mut line = format!("\n{:15}", "");
    for key in KEYS.iter().filter(|key| key.is_at_once()) {
        if 95 < line.len() + key.name.len() {
            text += line.trim_end();
            line = format!("\n{:15}", "");
        }
        line = line + key.name + ", ";
    }
    (text + &line).trim_end_matches(", ").to_owned()
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
    fn a_mistake_is_one_line() {
        let error = Arguments::try_parse_from(["mantrid", "--chek"]).expect_err("a slip");
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n'), "{line:?}");
        assert!(line.starts_with("unexpected argument '--chek' found"), "{line:?}");
        assert!(line.contains("--check"), "{line:?}");
    }

    #[test]
    fn help_says_which_keys_hup_puts_in_force() {
        let help = Arguments::command().render_long_help().to_string();
        let (_, list) = help.split_once("as USR2 does. The keys").expect("the signal");
        let (list, _) = list.split_once("are in force at once").expect("the end of the keys");
        let at_once = KEYS.iter().filter(|key| key.is_at_once()).map(|key| key.name);
        assert!(at_once.eq(list.split([',', ' ', '\n']).filter(|word| !word.is_empty())), "{list}");
    }

    #[test]
    fn help_has_every_key_and_its_default() {
        let help = Arguments::command().render_long_help().to_string();
        for key in KEYS {
            let is_its = |line: &&str| line.split_whitespace().next() == Some(key.name);
            let line = help.lines().find(is_its).expect(key.name);
            assert!(line.ends_with(&format!("  {}", key.default)), "{line:?}");
        }
    }
}
