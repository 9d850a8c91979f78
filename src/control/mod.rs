//! The control shard: the single writer of everything that changes. Off the request path, so ordinary
//! tokio on one thread.
//!
//! So far: loading the state file and the pages at start, looking up backend names, stopping.

mod pages;
mod resolver;
mod stop;
mod store;

use crate::config::Config;
use crate::http::Pages;
use crate::table::{Names, Snapshot};

pub(crate) use resolver::{keep_resolved, resolve_once};
pub(crate) use stop::{Signals, until_stopped};

/// What the start finds on disk.
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    pub(crate) names: Names,
    pub(crate) pages: Pages,
}

/// Loads the table and the pages; rules and pages that are no good are set aside and logged.
pub(crate) fn load(config: &Config) -> Result<Loaded, Vec<String>> {
    let mut names = Names::default();
    let state = store::read(&config.state_file, &mut names).map_err(|problem| vec![problem])?;
    store::set_aside(&config.state_file, &state.rejected);
    let (pages, problems) = pages::load(&config.static_dir);
    for problem in problems {
        tracing::warn!("{problem}: not used");
    }
    Ok(Loaded { snapshot: state.snapshot, names, pages })
}

/// What [`load`] would say, as problems, or a summary.
pub(crate) fn check(config: &Config) -> Result<String, Vec<String>> {
    let mut names = Names::default();
    let mut problems = Vec::new();
    let mut rules = 0;
    match store::read(&config.state_file, &mut names) {
        Ok(state) => {
            rules = state.snapshot.len();
            let place = config.state_file.display();
            problems.extend(
                state.rejected.iter().map(|rejected| format!("{place}: {}", rejected.error)),
            );
        }
        Err(problem) => problems.push(problem),
    }
    problems.extend(pages::load(&config.static_dir).1);
    if problems.is_empty() {
        Ok(format!("{rules} rules in {}", config.state_file.display()))
    } else {
        Err(problems)
    }
}
