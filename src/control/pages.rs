//! Pages of `static_dir`: `NAME.http`, each a whole response, beside or instead of the built-in ones.

use std::io;
use std::path::Path;

use crate::http::{Page, Pages};
use crate::limits;

/// The built-in pages and those of the folder; what is no good is named and left out.
pub(super) fn load(folder: &Path) -> (Pages, Vec<String>) {
    let mut pages = Pages::builtin();
    let mut problems = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            // The default folder need not exist.
            if error.kind() != io::ErrorKind::NotFound {
                problems.push(format!("static_dir {}: {error}", folder.display()));
            }
            return (pages, problems);
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().and_then(|name| name.to_str());
        let is_page = path.extension().is_some_and(|extension| extension == "http");
        let (true, Some(name)) = (is_page, name) else { continue };
        match read(&path) {
            Ok(page) => pages.insert(name, page),
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    (pages, problems)
}

fn read(path: &Path) -> Result<Page, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if limits::PAGE_BYTES_MAX as u64 <= size {
        return Err(format!("{size} bytes, expected less than {}", limits::PAGE_BYTES_MAX));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Page::parse(&bytes).map_err(|error| error.to_string())
}
