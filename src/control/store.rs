//! The state file, so far only read. What is damaged is the operator's to look at: nothing here ever
//! writes to it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::limits;
use crate::state::{self, Loaded, Rejected};
use crate::table::{Action, Names, Snapshot};

/// Reads it. A missing file is an empty table.
pub(super) fn read(path: &Path, names: &mut Names) -> Result<Loaded, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
        Err(error) => {
            let user = nix::unistd::geteuid();
            let path = path.display();
            return Err(format!(
                "state_file = {path}: {error}; user {user} must be able to read it"
            ));
        }
    };
    state::parse(&bytes, names).map_err(|error| {
        format!(
            "state_file = {}: {error}; mend it or move it away: it was left as it is",
            path.display()
        )
    })
}

/// One line a rule that is not used, and one for those past the first few.
pub(super) fn warnings(path: &Path, rejected: &[Rejected]) -> Vec<String> {
    let line =
        |rejected: &Rejected| format!("{}: rule not used: {}", path.display(), rejected.error);
    let mut lines: Vec<String> =
        rejected.iter().take(limits::REJECTED_TOLD_MAX).map(line).collect();
    if let Some(more @ 1..) = rejected.len().checked_sub(lines.len()) {
        lines.push(format!("{}: {more} more rules are not used", path.display()));
    }
    lines
}

/// Adds the rules to the state file's path with `.rejected` behind it, one JSON line each; those that
/// are there already are not added again, and nothing is ever taken out.
pub(super) fn keep_rejected(path: &Path, rejected: &[Rejected]) -> Result<PathBuf, String> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".rejected");
    let aside = PathBuf::from(aside);
    add_lines(&aside, rejected).map_err(|error| {
        format!("{}: can't keep rules that are not used there: {error}", aside.display())
    })?;
    Ok(aside)
}

fn add_lines(aside: &Path, rejected: &[Rejected]) -> io::Result<()> {
    let before = match fs::read_to_string(aside) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let known: std::collections::HashSet<&str> = before.lines().collect();
    let mut more = String::new();
    for Rejected { host, rule, error } in rejected {
        let line = json!({"host": host, "rule": rule, "error": error}).to_string();
        if !known.contains(line.as_str()) {
            // Writing to a String does not fail.
            let _ = writeln!(more, "{line}");
        }
    }
    if more.is_empty() {
        return Ok(());
    }
    // A line that was cut off by a crash stays apart from ours.
    let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let mut file = OpenOptions::new().append(true).create(true).open(aside)?;
    file.write_all(format!("{separator}{more}").as_bytes())?;
    file.sync_all()
}

/// What rules ask for that is checked and kept but not acted on yet; a line for each.
pub(super) fn not_yet(snapshot: &Snapshot) -> Vec<String> {
    let mut counts = [
        ("spin", "requests get the timeout page", 0_usize),
        ("hold", "requests fail when no backend can be reached", 0),
        ("check", "no probes are sent", 0),
        ("max_requests_per_second", "it is not limited", 0),
        ("idle", "nobody is told", 0),
    ];
    for (_, rule) in snapshot.iter() {
        let used = match &rule.action {
            Action::Spin(spin) => [true, false, false, false, spin.idle().is_some()],
            Action::Proxy(proxy) => [
                false,
                !proxy.hold().is_zero(),
                proxy.check().is_some(),
                proxy.max_requests_per_second().is_some(),
                proxy.idle().is_some(),
            ],
            _ => continue,
        };
        for (count, used) in counts.iter_mut().zip(used) {
            count.2 += usize::from(used);
        }
    }
    counts
        .into_iter()
        .filter(|(.., count)| *count != 0)
        .map(|(what, until, count)| {
            format!(
                "{what} (rules that use it: {count}) comes with a later release: until then {until}"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_GOOD: &str = r#"{"hosts": {
        "a.com": ["empty", {"code": 403}, true],
        "b.com": ["wibble", {}, true],
        "c..com": ["unknown", {}, false]
    }, "stats": {}}"#;

    fn folder_with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        fs::write(&path, text).expect("a file");
        (folder, path)
    }

    #[test]
    fn a_missing_file_is_empty_and_a_damaged_one_an_error_with_its_place() {
        let (folder, path) = folder_with("{\"hosts\":\n  nothing}");
        let nowhere = folder.path().join("none.json");
        let mut names = Names::default();
        assert!(read(&nowhere, &mut names).expect("empty").snapshot.is_empty());
        let error = read(&path, &mut names).expect_err("damaged");
        assert!(error.contains("state.json: line 2, column"), "{error}");
        let error = read(folder.path(), &mut names).expect_err("a folder");
        assert!(error.contains("state_file = "), "{error}");
    }

    #[test]
    fn rules_that_are_not_used_are_named_and_kept_once() {
        let (_folder, path) = folder_with(HALF_GOOD);
        let loaded = read(&path, &mut Names::default()).expect("a state");
        assert_eq!(loaded.snapshot.len(), 1);
        let lines = warnings(&path, &loaded.rejected);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("rule not used: b.com:"), "{lines:?}");
        let aside = keep_rejected(&path, &loaded.rejected).expect("kept");
        let first = fs::read_to_string(&aside).expect("kept");
        assert_eq!(first.lines().count(), 2);
        assert!(first.contains(r#""rule":["wibble",{},true]"#), "{first}");
        keep_rejected(&path, &loaded.rejected).expect("kept");
        assert_eq!(fs::read_to_string(&aside).expect("kept"), first);
        assert_eq!(fs::read_to_string(&path).expect("untouched"), HALF_GOOD);
    }

    #[test]
    fn many_are_counted_not_listed() {
        let one = Rejected { host: "a".to_owned(), rule: json!(1), error: "a:b: c".to_owned() };
        let many = vec![one; limits::REJECTED_TOLD_MAX + 5];
        let lines = warnings(Path::new("s"), &many);
        assert_eq!(lines.len(), limits::REJECTED_TOLD_MAX + 1);
        assert_eq!(lines.last().map(String::as_str), Some("s: 5 more rules are not used"));
    }
}
