//! Rules that could not be used are kept in a file beside the state file, one JSON line each,
//! because the state file will be written without them. A line that is there already is not added
//! again, and no line is ever removed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};

use serde_json::json;

use super::disk::{Disk, Part};
use crate::state::Rejected;

/// Keeps rejected rules; they are on disk when this function returns.
pub(super) fn keep(disk: &dyn Disk, rejected: &[Rejected]) -> io::Result<()> {
    let mut before = Vec::new();
    if let Some(mut file) = disk.read(Part::Rejected)? {
        file.read_to_end(&mut before)?;
    }
    let known: HashSet<&[u8]> = before.split(|byte| *byte == b'\n').collect();
    let mut more = String::new();
    for Rejected { host, rule, error } in rejected {
        let line = json!({"host": host, "rule": rule, "error": error}).to_string();
        if !known.contains(line.as_bytes()) {
            // Writing to a String does not fail.
            let _ = writeln!(more, "{line}");
        }
    }
    if more.is_empty() {
        return Ok(());
    }
    // Begin a new line after one that a crash cut off.
    let separator = if before.last().is_none_or(|byte| *byte == b'\n') { "" } else { "\n" };
    let mut file = disk.append(Part::Rejected)?;
    file.write_all(format!("{separator}{more}").as_bytes())?;
    file.sync_all()?;
    disk.sync_folder()
}
