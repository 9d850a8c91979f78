//! `--check`: would it start? One line a problem, without binding a port, dropping rights or serving.

use std::process::ExitCode;

use nix::unistd::geteuid;

use super::resources::Resources;
use super::{listen, privileges};
use crate::config::Config;
use crate::control;
use crate::table::host;

/// Prints what was found. What the start would go on without is a warning; what would stop it is a
/// problem, and the exit code says that there was one.
pub(super) fn run(config: &Config) -> ExitCode {
    for note in &config.notes {
        println!("note: {note}");
    }
    let mut problems = Vec::new();
    match Resources::gather(config) {
        Ok(resources) => {
            println!("{}", resources.summary());
            resources.warnings().iter().for_each(|warning| println!("warning: {warning}"));
        }
        Err(found) => problems.extend(found),
    }
    problems.extend(listen::check(config));
    problems.extend(hosts(config));
    let target = privileges::find(config).map_err(|found| problems.extend(found)).ok();
    problems.extend(kernel(target).err());
    match control::load(&super::files(config)) {
        Ok(loaded) => {
            println!("{}: {} rules", config.state_file.display(), loaded.snapshot.len());
            loaded.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        }
        Err(problem) => problems.push(problem),
    }
    super::report(&problems);
    if problems.is_empty() {
        println!("Nothing is wrong.");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The host names of `bind_tcp`: what is a host name, the table says, and config knows no table.
pub(super) fn hosts(config: &Config) -> Vec<String> {
    let wrong = config.bind_tcp.iter().filter_map(|(address, name)| {
        let error = host::rule_name(name).err()?;
        Some(format!("bind_tcp = {address} {name}: {}", error.sentence()))
    });
    wrong.collect()
}

/// io_uring, as the user that the shards will be.
fn kernel(target: Option<privileges::Target>) -> Result<(), String> {
    crate::ring::probe()?;
    let drops = geteuid().is_root() && target.is_some_and(|target| !target.stays_root());
    // 1: only for members of a group, and for root, who just tried.
    if drops && sysctl("io_uring_disabled").as_deref() == Some("1") {
        let group = sysctl("io_uring_group").unwrap_or_default();
        if target.is_some_and(|target| target.gid_text() != group) {
            return Err(format!(
                "kernel.io_uring_disabled is 1: set it to 0, or kernel.io_uring_group ({group}) to the \
                 gid that the daemon runs with"
            ));
        }
    }
    Ok(())
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
    Some(text.trim().to_owned())
}
