//! `--check`: would it start? One line a problem, without taking a port or serving.

use std::process::ExitCode;

use super::log::say;
use super::resources::Resources;
use super::{listen, management, privileges};
use crate::config::Config;
use crate::control;
use crate::table::host;

/// Prints what was found. What the start would go on without is a warning; what would stop it is a
/// problem, and the exit code says that there was one.
pub(super) fn run(config: &Config) -> ExitCode {
    let mut problems = Vec::new();
    match Resources::gather(config) {
        Ok(resources) => {
            say(&resources.summary());
            say(&resources.memory(config.max_head));
            resources.warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
        }
        Err(found) => problems.extend(found),
    }
    problems.extend(listen::check(config));
    problems.extend(management::token(config, None).err());
    problems.extend(hosts(config));
    problems.extend(try_fleet(config));
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
            say(&format!("{} rules from {}", loaded.snapshot.len(), config.state_file.display()));
            loaded.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
        }
        Err(problem) => problems.push(problem),
    }
    super::report(&problems);
    if problems.is_empty() {
        say("Nothing is wrong.");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

/// The host names of `bind_tcp`: what is a host name, the table says, and config knows no table.
pub(super) fn hosts(config: &Config) -> Vec<String> {
    let wrong = config.bind_tcp.iter().filter_map(|(bind, name)| {
        let error = host::name(name).err()?;
        Some(format!("bind_tcp = {} {name}: {}", bind.address, error.sentence()))
    });
    wrong.collect()
}
