//! `--check`: would it start? One line a problem, without binding, dropping rights or serving.

use std::process::ExitCode;

use super::{privileges, resources::Resources};
use crate::config::Config;
use crate::control;

pub(super) fn run(config: &Config) -> ExitCode {
    let mut problems = Vec::new();
    for note in &config.notes {
        println!("note: {note}");
    }
    match Resources::gather(config) {
        Ok(resources) => println!("{}", resources.summary()),
        Err(found) => problems.extend(found),
    }
    problems.extend(privileges::check(config).err());
    match control::check(config) {
        Ok(summary) => println!("{summary}"),
        Err(found) => problems.extend(found),
    }
    for problem in &problems {
        eprintln!("mantrid: {problem}");
    }
    if problems.is_empty() {
        println!("The configuration is good.");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
