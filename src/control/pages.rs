//! Pages of `static_dir`. Each file `NAME.http` is a whole response, in addition to the built-in
//! pages or instead of one. The folder is checked every few seconds, so that an edit needs no
//! restart.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::http::{Page, Pages};
use crate::limits;
use crate::link::Published;

/// Loads the built-in pages and those of the folder. A file that is not a valid page is named in
/// the list of problems, and not used. If there was a page of its name `before`, that page stays.
pub(super) fn load(folder: &Path, before: Option<&Pages>) -> (Pages, Vec<String>) {
    let mut pages = Pages::builtin();
    let mut problems = Vec::new();
    for path in files(folder).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    }) {
        // A rule cannot name a page whose name is not UTF-8.
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        match (read(&path), before.and_then(|before| before.get(name))) {
            (Ok(page), _) => pages.insert(name, page),
            (Err(problem), kept) => {
                problems.push(format!("{}: page not used: {problem}", path.display()));
                if let Some(kept) = kept {
                    pages.insert(name, kept.clone());
                }
            }
        }
    }
    (pages, problems)
}

/// Lists the `.http` files, sorted. A folder that does not exist counts as empty.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("static_dir = {}: {error}", folder.display())),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "http");
    let mut files: Vec<PathBuf> = paths.filter(is_page).collect();
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Page, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    // Reading a pipe, for example, would block.
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    if (limits::PAGE_BYTES_MAX as u64) < metadata.len() {
        let (found, most) = (metadata.len(), limits::PAGE_BYTES_MAX);
        return Err(format!("it has {found} bytes, expected at most {most}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Page::parse(&bytes).map_err(|error| error.to_string())
}

/// Inode, size and time of a file: they differ once the file has changed.
type PageTrace = (u64, u64, Option<SystemTime>);

/// Watcher of the folder.
pub(super) struct PageFolder {
    folder: PathBuf,
    published: Arc<Published>,
    seen: BTreeMap<PathBuf, Option<PageTrace>>,
    /// Notice that the folder is to be checked now.
    now: Arc<Notify>,
}

impl PageFolder {
    pub(super) fn new(folder: PathBuf, published: Arc<Published>) -> PageFolder {
        let seen = traces(&folder);
        PageFolder { folder, published, seen, now: Arc::default() }
    }

    pub(super) fn now(&self) -> Arc<Notify> {
        self.now.clone()
    }

    /// Reads the folder again whenever it has changed.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            // After the timeout as well as after a notice, the folder is checked.
            let _ = tokio::time::timeout(limits::PAGES_LOOK, self.now.notified()).await;
            self.look();
        }
    }

    /// Checks the folder, and reads it again if it has changed. Returns whether it had.
    fn look(&mut self) -> bool {
        let now = traces(&self.folder);
        if now == self.seen {
            return false;
        }
        self.seen = now;
        let (pages, problems) = load(&self.folder, Some(&self.published.pages.load()));
        problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        self.published.pages.store(Arc::new(pages));
        tracing::info!("static_dir = {}: pages read again", self.folder.display());
        true
    }
}

fn traces(folder: &Path) -> BTreeMap<PathBuf, Option<PageTrace>> {
    let trace = |path: &PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
    };
    let files = files(folder).unwrap_or_default();
    files.into_iter().map(|path| (path.clone(), trace(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Own, Tag, TaggedTable, Tuning};
    use crate::table::Snapshot;

    const GOOD: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhere";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        folder
    }

    #[test]
    fn good_pages_are_taken_and_bad_ones_named() {
        let folder =
            folder(&[("own.http", GOOD), ("unknown.http", "no page"), ("notes.txt", "no page")]);
        std::fs::create_dir(folder.path().join("folder.http")).expect("a folder");
        let (pages, problems) = load(folder.path(), None);
        assert_eq!(pages.get("own").map(Page::status), Some(200));
        assert_eq!(pages.get("unknown"), Pages::builtin().get("unknown"));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("folder.http: page not used: it is no file"), "{problems:?}");
        assert!(problems[1].contains("unknown.http: page not used: line 1"), "{problems:?}");
    }

    #[test]
    fn no_folder_is_no_problem() {
        let (pages, problems) = load(Path::new("/nowhere/at/all"), None);
        assert_eq!((pages, problems), (Pages::builtin(), Vec::new()));
    }

    #[test]
    fn a_change_is_seen_and_a_broken_page_changes_nothing() {
        let folder = folder(&[]);
        let published = Arc::new(Published::new(
            TaggedTable { table: Snapshot::default(), tag: Tag::of_start(0) },
            Pages::builtin(),
            Tuning::default(),
            Own::default(),
        ));
        let mut watched = PageFolder::new(folder.path().to_owned(), published.clone());
        let status = || published.pages.load().get("own").map(Page::status);
        assert!(!watched.look());
        std::fs::write(folder.path().join("own.http"), GOOD).expect("a page");
        assert!(watched.look());
        assert_eq!(status(), Some(200));
        std::fs::write(folder.path().join("own.http"), "half of a pa").expect("a page");
        assert!(watched.look());
        assert_eq!(status(), Some(200));
        std::fs::remove_file(folder.path().join("own.http")).expect("it is there");
        assert!(watched.look());
        assert_eq!(status(), None);
    }
}
