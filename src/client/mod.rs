//! `mantrid-client`: edits and watches the table of a running daemon.
//!
//! The program uses the management API, and shares the table of rule arguments and the parser of
//! rules (`check`, `diff`) with the daemon. Everything that scripts rely on is as in the original:
//! the words of `set` and its error messages, the tables of `list` and `stats`, no output if a
//! change succeeds, exit codes 0 and 1. In reading order: the definition of the command line; where
//! the daemon is and how it is asked; the commands.

mod arguments;
mod failure;
mod options;

mod address;
mod backend;
mod feed;
mod request;
mod sse;

mod backend_list;
mod backends;
mod change;
mod changes;
mod check;
mod complete;
mod diff;
mod edit;
mod events;
mod fleet;
mod load;
mod pool;
mod print;
mod restart;
mod set;
mod spin;
mod support;
mod table_file;
mod top;
mod which;

use std::env;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use address::Address;
use arguments::{Arguments, Command, Restart, Selection, Set};
use backends::{AddBackend, RemoveBackend};
use change::Change;
use failure::Failure;
use print::{Counters, Row};
use request::{Api, Ask, encoded};

/// The original's message, with the commands that came later.
const NO_ACTION: &str = "Please provide an action (add-backend, backend, changes, check, \
     completions, delete, diff, dump, events, fleet, flip, get, list, load, man, remove-backend, \
     restart, set, spin, stats, support, top, which).";

/// Runs `mantrid-client`.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_asked =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // If the terminal is gone, the message can't be shown.
            let _ = error.print();
            return if is_asked { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(arguments));
            // A lookup of a name may still be under way, on a thread of its own.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::Other(format!("can't start: {error}"))),
    };
    match done {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure @ Failure::Different) => ExitCode::from(failure.exit_code()),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.json;
    let api = || api(arguments.url.as_deref(), arguments.socket.as_deref());
    let Some(command) = arguments.command else {
        return Err(Failure::AsBefore(NO_ACTION.to_owned()));
    };
    match command {
        Command::List(wanted) => list(&api()?, &wanted, json).await,
        Command::Set(set) => {
            // Check the words first, because that needs no daemon.
            let (host, rule) = set::rule_of(&set).map_err(Failure::AsBefore)?;
            let Set { edit, drain, .. } = set;
            Change { host, rule: Some(rule), edit, drain }.make(&api()?, json).await
        }
        Command::Delete { host, edit, drain } => {
            let host = named(host)?;
            Change { host, rule: None, edit, drain }.make(&api()?, json).await
        }
        Command::Spin { host, holding, waking } => {
            let given = [holding.given(), waking.given()].concat();
            spin::spin(&api()?, &named(host)?, &given, json).await
        }
        Command::Flip { host } => spin::flip(&api()?, &named(host)?, json).await,
        Command::Fleet { command } => {
            let command = command.unwrap_or(fleet::FleetCommand::Status);
            fleet::run(&api()?, command, json).await
        }
        Command::Restart(restart) => {
            let restart = Restart { host: named(restart.host)?, ..restart };
            restart::restart(&api()?, &restart, json).await
        }
        Command::Stats { host: Some(host), .. } => stats_of(&api()?, &named(host)?, json).await,
        Command::Stats { host: None, selection } => stats(&api()?, &selection, json).await,
        Command::Changes { host, limit } => {
            let host = host.map(named).transpose()?;
            changes::show(&api()?, host.as_deref(), limit, json).await
        }
        Command::Get { host } => get(&api()?, &named(host)?, json).await,
        Command::Which { host, scheme, source, body } => {
            let asked = [("scheme", &scheme), ("source", &source), ("body", &body)];
            let asked = asked.map(|(name, value)| (name, value.as_deref()));
            which::which(&api()?, &named(host)?, asked, json).await
        }
        Command::AddBackend(adding) => {
            let adding = AddBackend { host: named(adding.host)?, ..adding };
            backends::add(&api()?, &adding, json).await
        }
        Command::RemoveBackend(removing) => {
            let removing = RemoveBackend { host: named(removing.host)?, ..removing };
            backends::remove(&api()?, &removing, json).await
        }
        Command::Backend { command } => backends::run(&api()?, &command, json).await,
        Command::Load(load) => load::load(&api()?, &load, json).await,
        Command::Diff(looked) => diff::diff(&api()?, &looked, json).await,
        Command::Check(looked) => check::check(&looked, json),
        Command::Dump { etag } => dump(&api()?, etag.as_deref()).await,
        Command::Events { only } => events::follow(&api()?, &only, json).await,
        Command::Top { hosts, sort, filter } => top::run(&api()?, hosts, sort, filter, json).await,
        Command::Support { folder } => support::support(&api()?, folder, json).await,
        Command::Complete { words } => {
            let api = |url: Option<&str>, socket: Option<&Path>| self::api(url, socket).ok();
            complete::complete(definition(), &words, api).await
        }
        Command::Completions { shell } => {
            print(|out| out.write_all(complete::script(shell).as_bytes()))
        }
        Command::Man { dir } => man(dir.as_deref()),
        Command::Unknown(words) => {
            let action = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            let action = print::plain(&action);
            Err(Failure::AsBefore(format!("Action {action} does not exist.")))
        }
    }
}

/// Refuses an empty host name: its path would be that of all hosts.
fn named(host: String) -> Result<String, Failure> {
    if host.is_empty() { Err(Failure::AsBefore(set::NO_HOST.to_owned())) } else { Ok(host) }
}

/// The API that options and environment name.
fn api(url: Option<&str>, socket: Option<&Path>) -> Result<Api, Failure> {
    let from_environment = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let address = match (socket, url, from_environment("MANTRID_URL")) {
        (Some(path), ..) => Address::Socket(path.to_owned()),
        (None, Some(url), _) => {
            Address::read(url).map_err(|error| Failure::Other(format!("--url: {error}")))?
        }
        (None, None, Some(url)) => {
            Address::read(&url).map_err(|error| Failure::Other(format!("MANTRID_URL: {error}")))?
        }
        (None, None, None) => Address::local(),
    };
    Api::new(address, from_environment("MANTRID_TOKEN").as_deref()).map_err(Failure::Other)
}

/// Writes to standard output.
fn print(
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).map_err(Failure::of_output)
}

/// Prints lines.
fn lines(mut lines: impl Iterator<Item = String>) -> Result<(), Failure> {
    print(|out| lines.try_for_each(|line| writeln!(out, "{line}")))
}

/// Prints an answer unchanged.
fn print_json(body: &[u8]) -> Result<(), Failure> {
    let ends = body.ends_with(b"\n");
    print(|out| {
        out.write_all(body)?;
        if ends { Ok(()) } else { out.write_all(b"\n") }
    })
}

async fn list(api: &Api, wanted: &Selection, json: bool) -> Result<(), Failure> {
    let answer = api.fetch(Ask::get(format!("/hostname/{}", query(wanted.given())))).await?;
    if json {
        return print_json(&answer.body);
    }
    let mut rows = Vec::new();
    print::entries(&answer.body, |host, rule| rows.push(Row::of(&host, &rule)))
        .map_err(|error| answer.foreign(&error))?;
    drop(answer);
    let is_sorted = wanted.sort.is_some();
    print(|out| if is_sorted { print::list_as_it_is(&rows, out) } else { print::list(rows, out) })
}

/// The query of these arguments.
fn query<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let given = given.into_iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    let given: Vec<String> = given.collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

async fn stats_of(api: &Api, host: &str, json: bool) -> Result<(), Failure> {
    let answer = api.fetch(Ask::get(format!("/stats/{}/", encoded(host)))).await?;
    if json {
        return print_json(&answer.body);
    }
    let row = Counters::of(host, &answer.value()?);
    print(|out| print::stats(vec![row], out))
}

async fn stats(api: &Api, wanted: &Selection, json: bool) -> Result<(), Failure> {
    let given = wanted.given();
    let answer = api.fetch(Ask::get(format!("/stats/{}", query(given.iter().copied())))).await?;
    if json {
        return print_json(&answer.body);
    }
    let mut rows = Vec::new();
    print::entries(&answer.body, |host, counters| rows.push(Counters::of(&host, &counters)))
        .map_err(|error| answer.foreign(&error))?;
    let is_ranked = !given.is_empty();
    print(|out| if is_ranked { print::ranked(&rows, out) } else { print::stats(rows, out) })
}

async fn get(api: &Api, host: &str, json: bool) -> Result<(), Failure> {
    let answer = api.fetch(Ask::get(format!("/hostname/{}/", encoded(host)))).await?;
    let rule = answer.value()?;
    if json {
        print_json(&answer.body)?;
    }
    if rule.is_null() {
        let host = print::plain(host);
        return Err(Failure::Other(format!("{host} has no rule of its own")));
    }
    if json { Ok(()) } else { print(|out| print::rule(host, &rule, answer.etag.as_deref(), out)) }
}

/// Prints the table piece by piece, however large it is.
async fn dump(api: &Api, etag_file: Option<&Path>) -> Result<(), Failure> {
    let mut answer = api.ask(Ask::get("/hostname/"), "application/json").await?;
    let mut last = b'\n';
    while let Some(piece) = answer.piece().await? {
        last = piece.last().copied().unwrap_or(last);
        print(|out| out.write_all(&piece))?;
    }
    if last != b'\n' {
        print(|out| out.write_all(b"\n"))?;
    }
    if let Some(file) = etag_file {
        let etag = answer.etag().unwrap_or_default();
        std::fs::write(file, etag)
            .map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    }
    Ok(())
}

fn definition() -> clap::Command {
    Arguments::command()
}

/// Prints the manual page of the program, or writes a page for each command into a folder.
fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        clap_mangen::Man::new(definition()).render(&mut text).map_err(Failure::of_output)?;
        return print(|out| out.write_all(&text));
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(definition(), folder))
        .map_err(|error| Failure::Other(format!("{}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the message names all actions.
    #[test]
    fn all_actions_are_named() {
        let definition = definition();
        let shown = definition.get_subcommands().filter(|command| !command.is_hide_set());
        let mut names: Vec<&str> = shown.map(|command| command.get_name()).collect();
        names.sort_unstable();
        assert_eq!(NO_ACTION, format!("Please provide an action ({}).", names.join(", ")));
    }
}
