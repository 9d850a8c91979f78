//! `--check`: finds out whether the daemon would start, without listening or serving, and prints
//! one line for each problem.

use std::process::ExitCode;

use super::inherited::InheritedSockets;
use super::log::{counted, say};
use super::resources::{self, Resources};
use super::{listen, management, privileges, tokens};
use crate::config::Config;
use crate::control::{self, Tokens};
use crate::table::host;

/// Checks and prints the findings. A finding that would stop the start is an error, and sets the
/// exit code; any other finding is a warning.
pub(super) fn run(config: &Config) -> ExitCode {
    let mut problems = Vec::new();
    let mut warnings = 0;
    let mut warn = |warning: &String| {
        say(&format!("warning: {warning}"));
        warnings += 1;
    };
    match Resources::gather(config) {
        Ok(resources) => {
            say(&resources.summary());
            say(&resources.memory(config.max_head));
            resources.warnings().iter().for_each(&mut warn);
        }
        Err(found) => problems.extend(found),
    }
    let runs = control::running(&super::files(config));
    if let Some(pid) = &runs {
        say(&format!("mantrid (pid {pid}) runs on this state: what it listens on counts as free"));
    }
    let given = InheritedSockets::by_systemd().unwrap_or_else(|problem| {
        problems.push(problem);
        InheritedSockets::default()
    });
    problems.extend(listen::check(config, &given, runs.as_deref()));
    problems.extend(tokens::read(config, Tokens::default()).err());
    problems.extend(super::trusted::read(config).err().into_iter().flatten());
    problems.extend(hosts(config));
    problems.extend(try_fleet(config));
    // After rights are dropped, the user of the daemon must be allowed to read the files and to use
    // io_uring.
    let mut makes_folder = false;
    match privileges::find(config) {
        Ok(target) => {
            problems.extend(management::check_unix(config, target, &given, runs.is_some()));
            match privileges::would_make_folder(&config.state_file, target) {
                Ok(would) => makes_folder = would,
                Err(problem) => problems.push(problem),
            }
            problems.extend(privileges::drop_to(target, false).err());
        }
        Err(found) => problems.extend(found),
    }
    later(config, &problems, makes_folder).iter().for_each(&mut warn);
    problems.extend(super::access_log::check(&config.access_log).err());
    match crate::ring::probe() {
        Ok(()) => resources::busy_poll(config).err().iter().for_each(&mut warn),
        Err(problem) => problems.push(problem),
    }
    match control::look(&super::files(config)) {
        Ok(loaded) => {
            let rules = counted(loaded.table.len(), "rule");
            say(&format!("{rules} from {}", config.state_file.display()));
            loaded.warnings.iter().for_each(&mut warn);
        }
        Err(problem) => problems.push(problem),
    }
    super::report(&problems);
    say(&verdict(problems.len(), warnings));
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the last line, which says whether the daemon would start, and counts errors and
/// warnings.
fn verdict(errors: usize, warnings: usize) -> String {
    let warned = match warnings {
        0 => "no warning".to_owned(),
        some => counted(some, "warning"),
    };
    match (errors, warnings) {
        (0, 0) => "Nothing is wrong.".to_owned(),
        (0, _) => format!("{warned}, no error: it would start."),
        (some, _) => format!("{}, {warned}: it would not start.", counted(some, "error")),
    }
}

/// Returns warnings about files that the user of the daemon, which this process is now, will not be
/// able to read, write or find. None of them stops a start.
fn later(config: &Config, problems: &[String], makes_folder: bool) -> Vec<String> {
    let user = nix::unistd::geteuid();
    let mut warnings = Vec::new();
    for (key, path) in tokens::paths(config) {
        let is_told = problems.iter().any(|problem| problem.starts_with(&format!("{key} ")));
        if let (false, Err(error)) = (is_told, std::fs::File::open(path)) {
            warnings.push(format!(
                "{key} = {}: {error}: a start reads it as root, but once it is changed, uid {user} \
                 can't read it on SIGHUP or SIGUSR2, and the old token stays until a restart",
                path.display()
            ));
        }
    }
    if !problems.iter().any(|problem| problem.starts_with("trusted_sources")) {
        let unreadable = super::trusted::unreadable(config).into_iter();
        warnings.extend(unreadable.map(|problem| {
            format!(
                "{problem}: a start reads it as root, but uid {user} can't read it again on SIGHUP, \
                 which then changes nothing"
            )
        }));
    }
    let pages = &config.static_dir;
    if *pages != Config::default().static_dir && !pages.is_dir() {
        warnings.push(format!("static_dir = {}: there is no such folder", pages.display()));
    }
    if !problems.iter().any(|problem| problem.starts_with("state_file")) {
        warnings.extend(unwritable(config, makes_folder));
    }
    warnings
}

/// Why the state file could not be written: its folder is not writable or could not be made. A
/// folder that the start makes as root, and gives away, only has to be reachable.
fn unwritable(config: &Config, makes_folder: bool) -> Option<String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let file = &config.state_file;
    let folder = privileges::folder_of(file);
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let write = if makes_folder { Access::empty() } else { Access::WRITE_OK };
    let may = accessat(CWD, there, write | Access::EXEC_OK, AtFlags::EACCESS);
    let (user, error) = (nix::unistd::geteuid(), may.err()?);
    Some(format!(
        "state_file = {}: uid {user} can't write to {}: {error}: changes would get 507; make the folder and \
         give it to that user",
        file.display(),
        there.display()
    ))
}

/// Asks the members of a fleet's etcd cluster.
fn try_fleet(config: &Config) -> Vec<String> {
    let settings = match super::fleet::settings(config, false) {
        Ok(Some(settings)) => settings,
        Ok(None) => return Vec::new(),
        Err(problem) => return vec![problem],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = match runtime {
        Ok(runtime) => runtime.block_on(control::try_fleet(&settings)),
        Err(error) => vec![Err(format!("fleet: {error}"))],
    };
    let mut problems = Vec::new();
    for one in found {
        match one {
            Ok(line) => say(&line),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

/// Checks the host names of `bind_tcp`. The table defines what a host name is, and `config` does
/// not depend on the table.
pub(super) fn hosts(config: &Config) -> Vec<String> {
    let wrong = config.bind_tcp.iter().filter_map(|(bind, name)| {
        let error = host::name(name).err()?;
        Some(format!("bind_tcp = {} {name}: {}", bind.address, error.sentence()))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_counts_what_was_said() {
        for (errors, warnings, line) in [
            (0, 0, "Nothing is wrong."),
            (0, 1, "1 warning, no error: it would start."),
            (0, 2, "2 warnings, no error: it would start."),
            (1, 0, "1 error, no warning: it would not start."),
            (3, 1, "3 errors, 1 warning: it would not start."),
        ] {
            assert_eq!(verdict(errors, warnings), line);
        }
    }
}
