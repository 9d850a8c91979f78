//! `--check`: would it start? One line a problem, without taking a port or serving.

use std::process::ExitCode;

use super::log::{counted, say};
use super::resources::Resources;
use super::{listen, management, privileges};
use crate::config::Config;
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
    // From here on as the daemon's user: whether he may read the files and use io_uring is the
    // question.
    match privileges::find(config) {
        Ok(target) => problems.extend(privileges::drop_to(target).err()),
        Err(found) => problems.extend(found),
    }
    problems.extend(super::access_log::check(&config.access_log).err());
    problems.extend(crate::ring::probe().err());
    match control::look(&super::files(config)) {
        Ok(loaded) => {
            let rules = counted(loaded.snapshot.len(), "rule");
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
