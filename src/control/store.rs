//! The state file, so far only read. Nothing here ever writes to it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::state::{self, Loaded, Rejected};
use crate::table::Names;

/// Reads it; a missing file is an empty table, a damaged one is the operator's to look at.
pub(super) fn read(path: &Path, names: &mut Names) -> Result<Loaded, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
        Err(error) => return Err(format!("state_file {}: {error}", path.display())),
    };
    state::parse(&bytes, names).map_err(|error| {
        format!(
            "state_file {}: {error}: mend it or move it away; it was left as it is",
            path.display()
        )
    })
}

/// Logs rules that could not be taken and keeps them beside the state file, never silently lost.
pub(super) fn set_aside(path: &Path, rejected: &[Rejected]) {
    if rejected.is_empty() {
        return;
    }
    for rule in rejected {
        tracing::error!("{}: rule not used: {}", path.display(), rule.error);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".rejected");
    let aside = PathBuf::from(name);
    let lines: String = rejected
        .iter()
        .map(|rule| {
            let line = serde_json::json!({
                "host": rule.host, "rule": rule.rule, "error": rule.error,
            });
            format!("{line}\n")
        })
        .collect();
    let written = std::fs::File::create(&aside)
        .and_then(|mut file| file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => tracing::error!("{} rules kept in {}", rejected.len(), aside.display()),
        Err(error) => tracing::error!("{}: can't keep rejected rules: {error}", aside.display()),
    }
}
