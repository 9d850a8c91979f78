//! Each line that the daemon may log is explained in the operator's handbook.

use std::path::Path;

use super::page::{Page, root};

/// The texts of a source that go to the log, without what differs: `{}` cuts them.
fn lines(source: &str) -> Vec<Vec<String>> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    // where a literal goes on in the next line
    let code = code.collect::<Vec<_>>().join("\n");
    let mut joined = String::new();
    for piece in code.split("\\\n") {
        joined += if joined.is_empty() { piece } else { piece.trim_start() };
    }
    let calls =
        ["error!(", "warn!(", "info!("].into_iter().flat_map(|call| joined.split(call).skip(1));
    let literals = calls.filter_map(|rest| rest.split('"').nth(1).map(str::to_owned));
    literals.map(|literal| fixed(&literal)).collect()
}

fn fixed(literal: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in literal.split('{') {
        let text = part.split_once('}').map_or(part, |(_, text)| text);
        parts.push(text.trim().to_owned());
    }
    // a single word or less says nothing: `: `
    parts.retain(|part| part.chars().filter(|c| c.is_alphabetic()).count() > 3);
    parts
}

pub fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source");
            found.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn every_log_line_is_explained() {
    let text = Page::read("docs/operations.md").text;
    let mut sections = text.split("\n## ");
    let section = sections.find(|section| section.starts_with("What log lines mean"));
    let shown: Vec<&str> = section.expect("a section").split('`').skip(1).step_by(2).collect();
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut count = 0;
    for (path, source) in files {
        // whoever reads standard error may stop to: a shard must not wait for that
        let serves = ["/src/shard/", "/src/ring/", "/src/link/"].iter().any(|of| path.contains(of));
        assert!(!serves || lines(&source).is_empty(), "{path} logs");
        for parts in lines(&source).iter().filter(|parts| !parts.is_empty()) {
            let is_it = |shown: &&&str| parts.iter().all(|part| shown.contains(part.as_str()));
            assert!(
                shown.iter().any(|shown| is_it(&shown)),
                "docs/operations.md explains no line of {path} with {parts:?}"
            );
            count += 1;
        }
    }
    assert!(50 < count, "only {count}");
}

#[test]
fn log_lines_are_found_in_sources() {
    let source = "// warn!(\"no\")\nwarn!(\"{name} is gone: \\\n   {why}; again\");\ninfo!(who = %w, \"audit\");";
    let found = lines(source);
    assert_eq!(
        found,
        [vec!["is gone:".to_owned(), "; again".to_owned()], vec!["audit".to_owned()]]
    );
}
