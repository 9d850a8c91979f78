//! The control shard: the single writer of everything that changes. Off the request path, so ordinary
//! tokio on one thread; no shard ever waits for it.
//!
//! So far it loads the state file and the pages, keeps backend names resolved and pages fresh. The
//! management API joins [`Control::run`] as one more task; `names` is shared with it already.

mod pages;
mod resolver;
mod store;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::http::Pages;
use crate::link::Published;
use crate::state::Rejected;
use crate::table::{Names, Snapshot};
use pages::PageFolder;
use resolver::Resolver;

/// The files that control reads.
pub(crate) struct Files {
    /// The table.
    pub(crate) state: PathBuf,
    /// The folder of pages.
    pub(crate) pages: PathBuf,
}

/// What the start finds in them.
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    pub(crate) names: Names,
    pub(crate) pages: Pages,
    /// Rules and pages that are not used, and why: one line each.
    pub(crate) warnings: Vec<String>,
    rejected: Vec<Rejected>,
}

impl Loaded {
    /// Keeps the rules that could not be taken beside the state file, so that none is silently lost.
    pub(crate) fn keep_rejected(&self, state_file: &Path) {
        if self.rejected.is_empty() {
            return;
        }
        match store::keep_rejected(state_file, &self.rejected) {
            Ok(kept) => tracing::warn!("Rules that are not used are kept in {}", kept.display()),
            Err(problem) => tracing::error!("{problem}"),
        }
    }
}

/// Reads the table and the pages; changes nothing.
pub(crate) fn load(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let state = store::read(&files.state, &mut names)?;
    let mut warnings = store::warnings(&files.state, &state.rejected);
    let (pages, problems) = pages::load(&files.pages, None);
    warnings.extend(problems);
    warnings.extend(store::not_yet(&state.snapshot));
    let (snapshot, rejected) = (state.snapshot, state.rejected);
    Ok(Loaded { snapshot, names, pages, warnings, rejected })
}

/// Names are made by whoever reads rules and looked up by the resolver.
type SharedNames = Arc<Mutex<Names>>;

/// All tasks of the control shard.
pub(crate) struct Control {
    resolver: Resolver,
    pages: PageFolder,
}

impl Control {
    /// Within a tokio runtime.
    pub(crate) fn new(files: Files, names: Names, published: Arc<Published>) -> Control {
        let names: SharedNames = Arc::new(Mutex::new(names));
        Control { resolver: Resolver::new(names), pages: PageFolder::new(files.pages, published) }
    }

    /// Before the first request: looks every name up, for a few seconds at most.
    pub(crate) async fn prepare(&mut self) {
        self.resolver.first_round().await;
    }

    /// Until it is dropped.
    pub(crate) async fn run(self) -> Infallible {
        let Control { resolver, pages } = self;
        tokio::select! {
            never = resolver.run() => never,
            never = pages.run() => never,
        }
    }
}
