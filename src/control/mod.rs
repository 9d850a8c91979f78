//! The control shard: the single writer of everything that changes. Off the request path, so ordinary
//! tokio on one thread; no shard ever waits for it.
//!
//! So far it loads the state and the pages, keeps backend names resolved and pages fresh. The
//! management API joins [`Control::run`] as one more task; `names` is shared with it already.

mod pages;
mod resolver;
// Until the management API commits to it.
#[cfg_attr(not(test), allow(dead_code))]
mod store;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::http::Pages;
use crate::link::Published;
use crate::table::{Names, Snapshot};
use pages::PageFolder;
use resolver::Resolver;
use store::Store;

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
    /// What is not used, or can't be written, and why: one line each.
    pub(crate) warnings: Vec<String>,
    /// None where it was only looked at.
    pub(crate) store: Option<Store>,
}

/// Reads the table and the pages; changes nothing.
pub(crate) fn look(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let state = Store::read(&files.state, &mut names)?;
    Ok(loaded(files, names, state, None))
}

/// The same, to go on from: nobody else may write the state from here on.
pub(crate) fn load(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let (store, state) = Store::open(&files.state, &mut names)?;
    Ok(loaded(files, names, state, Some(store)))
}

fn loaded(files: &Files, names: Names, state: store::Loaded, store: Option<Store>) -> Loaded {
    let (pages, problems) = pages::load(&files.pages, None);
    let mut warnings = state.warnings;
    warnings.extend(problems);
    warnings.extend(store::not_yet(&state.snapshot));
    Loaded { snapshot: state.snapshot, names, pages, warnings, store }
}

/// Names are made by whoever reads rules and looked up by the resolver.
type SharedNames = Arc<Mutex<Names>>;

/// All tasks of the control shard.
pub(crate) struct Control {
    resolver: Resolver,
    pages: PageFolder,
    /// Keeps others out of the state file for as long as this runs.
    _store: Option<Store>,
}

impl Control {
    /// Within a tokio runtime.
    pub(crate) fn new(
        files: Files,
        names: Names,
        store: Option<Store>,
        published: Arc<Published>,
    ) -> Control {
        let names: SharedNames = Arc::new(Mutex::new(names));
        Control {
            resolver: Resolver::new(names),
            pages: PageFolder::new(files.pages, published),
            _store: store,
        }
    }

    /// Before the first request: looks every name up, for a few seconds at most.
    pub(crate) async fn prepare(&mut self) {
        self.resolver.first_round().await;
    }

    /// Until it is dropped.
    pub(crate) async fn run(self) -> Infallible {
        let Control { resolver, pages, _store } = self;
        tokio::select! {
            never = resolver.run() => never,
            never = pages.run() => never,
        }
    }
}
