//! A Markdown document, taken apart as far as its examples need it.

use std::path::{Path, PathBuf};

/// The folder of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The word behind the fence; often none.
    pub kind: String,
    pub text: String,
    /// The line of the fence, from 1.
    pub line: usize,
    /// The last line of text before it.
    pub before: String,
}

/// A document of the project.
pub struct Page {
    /// Relative to the project.
    pub name: String,
    pub path: PathBuf,
    pub text: String,
    pub blocks: Vec<Block>,
}

impl Page {
    pub fn read(name: &str) -> Page {
        let path = root().join(name);
        let text = std::fs::read_to_string(&path).expect(name);
        let blocks = blocks(&text);
        Page { name: name.to_owned(), path, text, blocks }
    }

    pub fn all(&self, kind: &str) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.kind == kind)
    }

    /// What is not in a block.
    pub fn prose(&self) -> Vec<&str> {
        let mut is_inside = false;
        let lines = self.text.lines().filter(|line| {
            let is_fence = line.starts_with("```");
            is_inside ^= is_fence;
            !is_inside && !is_fence
        });
        lines.collect()
    }

    /// What `#…` may lead to: headings, as web pages of repositories name them.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.prose().into_iter().filter_map(|line| {
            let text = line.trim_start_matches('#');
            (text.len() < line.len()).then(|| text.strip_prefix(' '))?
        });
        let anchor = |heading: &str| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
        };
        headings.map(anchor).collect()
    }

    /// Where its links and pictures lead.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        let ends = prose.split("](").skip(1);
        ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }
}

/// The documents that people read, by name.
pub fn documents() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("docs")).expect("docs/");
    let names = folder.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    names.extend(
        ["README.md", "ARCHITECTURE.md", "bench/README.md", "loadtest/README.md"].map(String::from),
    );
    names.sort();
    names
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => {
                let (kind, before) = (kind.to_owned(), before.clone());
                open = Some(Block { kind, text: String::new(), line: number, before });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) if !line.is_empty() => line.clone_into(&mut before),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without end");
    blocks
}

/// A command of a console block, and what it prints.
#[derive(Debug)]
pub struct Step {
    pub command: String,
    pub expected: String,
    pub line: usize,
}

/// `$ ` begins a command, which `\` at the end of a line carries on; everything else was printed.
pub fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (block.line + 1..).zip(block.text.lines()) {
        if goes_on {
            let step = steps.last_mut().expect("a command that goes on");
            step.command.push('\n');
            step.command.push_str(line);
        } else if let Some(command) = line.strip_prefix("$ ") {
            let (command, expected) = (command.to_owned(), String::new());
            steps.push(Step { command, expected, line: number });
        } else {
            let step = steps.last_mut().unwrap_or_else(|| panic!("{number}: no command before"));
            step.expected.push_str(line);
            step.expected.push('\n');
            continue;
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// Whether this was printed: `…` stands for anything in a line, alone in it for any lines. What is
/// written without a last newline is as good as with it.
pub fn is_as_shown(expected: &str, found: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.strip_suffix('\n').unwrap_or(text).split('\n').map(String::from).collect()
    };
    lines_match(&lines(expected), &lines(found))
}

fn lines_match(expected: &[String], found: &[String]) -> bool {
    match expected {
        [] => found.is_empty(),
        [first, rest @ ..] if first == "…" => {
            (0..=found.len()).any(|skipped| lines_match(rest, &found[skipped..]))
        }
        [first, rest @ ..] => found
            .split_first()
            .is_some_and(|(line, others)| is_line(first, line) && lines_match(rest, others)),
    }
}

fn is_line(expected: &str, found: &str) -> bool {
    let Some((start, rest)) = expected.split_once('…') else {
        return expected.trim_end() == found.trim_end();
    };
    let Some(found) = found.strip_prefix(start) else { return false };
    let ends = found.char_indices().map(|(at, _)| at).chain([found.len()]);
    ends.into_iter().any(|at| is_line(rest, &found[at..]))
}

#[test]
fn output_is_compared_with_what_is_shown() {
    assert!(is_as_shown("a\n", "a"));
    assert!(is_as_shown("", ""));
    assert!(is_as_shown("a … c …\n…\nz\n", "a b c d\nx\ny\nz\n"));
    assert!(is_as_shown("…\nz\n", "z"));
    for (expected, found) in
        [("a\n", "b"), ("", "a"), ("a\n", ""), ("a…\n", "ab\nc"), ("…\nz", "y")]
    {
        assert!(!is_as_shown(expected, found), "{expected:?} {found:?}");
    }
}
