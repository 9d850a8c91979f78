//! `--check`: would it start? One line a problem, without taking a port or serving.

use std::path::Path;
use std::process::ExitCode;

use super::log::{counted, say};
use super::resources::Resources;
use super::{listen, management, privileges};
use crate::config::{Config, ManagementAddress};
use crate::control;
use crate::table::host;

/// Prints what was found. What the start would go on without is a warning; what would stop it is a
/// problem, and the exit code says that there was one.
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
    problems.extend(listen::check(config));
    problems.extend(management::token(config, None).err());
    problems.extend(hosts(config));
    problems.extend(long_paths(config));
    // From here on as the daemon's user: whether he may read the files and use io_uring is the
    // question.
    match privileges::find(config) {
        Ok(target) => problems.extend(privileges::drop_to(target, false).err()),
        Err(found) => problems.extend(found),
    }
    later(config, &problems).iter().for_each(&mut warn);
    problems.extend(super::access_log::check(&config.access_log).err());
    problems.extend(crate::ring::probe().err());
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

/// The last line: whether the daemon would start with that many errors and warnings.
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

/// What the daemon's user, who we are now, will miss: none of it stops a start.
fn later(config: &Config, problems: &[String]) -> Vec<String> {
    let user = nix::unistd::geteuid();
    let mut warnings = Vec::new();
    if let Some(path) = &config.management_token_file
        && !problems.iter().any(|problem| problem.starts_with("management_token_file"))
        && let Err(error) = std::fs::File::open(path)
    {
        warnings.push(format!(
            "management_token_file = {}: {error}: a start reads it as root, but once it is changed, uid {user} \
             can't read it on SIGHUP or SIGUSR2, and the old token stays until a restart",
            path.display()
        ));
    }
    let pages = &config.static_dir;
    if *pages != Config::default().static_dir && !pages.is_dir() {
        warnings.push(format!("static_dir = {}: there is no such folder", pages.display()));
    }
    warnings.extend(unwritable(config));
    warnings
}

/// Why the state could not be written: the folder that is there, or would have to be made.
fn unwritable(config: &Config) -> Option<String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let file = &config.state_file;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let may = accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    let (user, error) = (nix::unistd::geteuid(), may.err()?);
    Some(format!(
        "state_file = {}: uid {user} can't write to {}: {error}: changes would get 507; make the folder and \
         give it to that user",
        file.display(),
        there.display()
    ))
}

/// Unix sockets whose path the kernel has no room for.
fn long_paths(config: &Config) -> Vec<String> {
    let paths = config.bind_management.iter().filter_map(|address| match address {
        ManagementAddress::Unix(path) => Some(path),
        ManagementAddress::Tcp(_) => None,
    });
    let wrong = paths.filter_map(|path| {
        let error = std::os::unix::net::SocketAddr::from_pathname(path).err()?;
        Some(format!("bind_management = unix:{}: {error}", path.display()))
    });
    wrong.collect()
}

/// The host names of `bind_tcp`: what is a host name, the table says, and config knows no table.
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
