//! Warnings about a table that was loaded: the rules that are not used.

use std::path::Path;

use crate::limits;
use crate::state::Rejected;

/// One line for each rule that is not used; past the first few, one line for all others.
pub(super) fn rejected(path: &Path, rejected: &[Rejected]) -> Vec<String> {
    let line = |one: &Rejected| format!("{}: rule not used: {}", path.display(), one.error);
    let mut lines: Vec<String> =
        rejected.iter().take(limits::REJECTED_TOLD_MAX).map(line).collect();
    if let Some(more @ 1..) = rejected.len().checked_sub(lines.len()) {
        lines.push(format!("{}: rules not used: {more} more", path.display()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_are_counted_not_listed() {
        let one = Rejected { host: "a".to_owned(), rule: json!(1), error: "a:b: c".to_owned() };
        let many = vec![one; limits::REJECTED_TOLD_MAX + 5];
        let lines = rejected(Path::new("s"), &many);
        assert_eq!(lines.len(), limits::REJECTED_TOLD_MAX + 1);
        assert_eq!(lines.last().map(String::as_str), Some("s: rules not used: 5 more"));
    }
}
