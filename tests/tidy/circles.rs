//! No circle of files below `src/`: a file that imports another, directly or through others, is
//! never imported by it. A folder's `mod.rs` may name the files that it declares; every other arrow
//! counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Source, expect_none, sources};

/// Files by module path (`shard::pool`), the root being the empty path.
struct Modules<'a> {
    files: BTreeMap<Vec<String>, &'a Source>,
    /// Names that a module passes on as its own: `pub use pool::Pool`.
    exports: BTreeMap<(Vec<String>, String), Vec<String>>,
}

#[test]
fn no_circle_of_files() {
    let sources = sources();
    let product: Vec<&Source> = sources.iter().filter(|source| is_product(source)).collect();
    let arrows = arrows(&product);
    assert!(300 < arrows.values().map(BTreeSet::len).sum::<usize>(), "arrows are not seen");
    let findings: Vec<String> = circles(&arrows)
        .into_iter()
        .map(|files| format!("{}: one of them knows too much", files.join(" <-> ")))
        .collect();
    expect_none(&findings);
}

#[test]
fn circles_are_found() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
        code: crate::code_of(text),
    };
    let files = [
        source("src/a/mod.rs", "mod b;\nmod c;\npub(crate) use b::{B, D as E};\nfn f() { c::g() }"),
        source("src/a/b.rs", "use super::c::C;\npub struct B;"),
        source("src/a/c.rs", "use super::E;\npub struct C;"),
        source("src/d.rs", "use crate::a::{B, c};\nfn f() { c::g() }"),
    ];
    let arrows = arrows(&files.iter().collect::<Vec<_>>());
    assert_eq!(circles(&arrows), [["src/a/b.rs", "src/a/c.rs"]]);
    let of_d: Vec<&str> = arrows["src/d.rs"].iter().copied().collect();
    assert_eq!(of_d, ["src/a/b.rs", "src/a/c.rs"]);
}

fn is_product(source: &Source) -> bool {
    source.path.starts_with("src/")
        && !["/tests.rs", "/properties.rs"].iter().any(|end| source.path.ends_with(end))
        && !source.path.contains("/tests/")
}

/// The module that a file holds: `src/shard/pool.rs` is `shard::pool`, `src/shard/mod.rs` is
/// `shard`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<String> = path.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

fn arrows<'a>(sources: &[&'a Source]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let files: BTreeMap<Vec<String>, &Source> =
        sources.iter().map(|source| (module_of(&source.path), *source)).collect();
    let mut modules = Modules { files, exports: BTreeMap::new() };
    for source in sources {
        let here = module_of(&source.path);
        for statement in uses(source).into_iter().filter(|(_, is_public)| *is_public) {
            for (path, name) in tree(statement.0.trim(), &[]) {
                let target = absolute(&here, &path);
                modules.exports.insert((here.clone(), name), target);
            }
        }
    }
    let mut arrows = BTreeMap::new();
    for source in sources {
        let here = module_of(&source.path);
        let mut targets = BTreeSet::new();
        for path in paths(source, &here) {
            let Some(file) = modules.file_of(&path, 0) else { continue };
            let declares = source.path.ends_with("/mod.rs")
                && module_of(&file.path).starts_with(&here)
                && file.path != source.path;
            if file.path != source.path && !declares {
                targets.insert(file.path.as_str());
            }
        }
        arrows.insert(source.path.as_str(), targets);
    }
    arrows
}

impl<'a> Modules<'a> {
    /// The file in which the item at `path` is defined; re-exports are followed.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&'a Source> {
        let mut length = path.len();
        while 0 < length {
            if let Some(file) = self.files.get(&path[..length]) {
                let export = path
                    .get(length)
                    .and_then(|name| self.exports.get(&(path[..length].to_vec(), name.clone())));
                return match export {
                    Some(target) if depth < 8 => {
                        let rest = [target.as_slice(), &path[length + 1..]].concat();
                        self.file_of(&rest, depth + 1).or(Some(file))
                    }
                    _ => Some(file),
                };
            }
            length -= 1;
        }
        None
    }
}

/// The `use` statements of a file without `use` and `;`, and whether each passes its names on.
fn uses(source: &Source) -> Vec<(String, bool)> {
    let code: Vec<&str> = source.product_lines().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        let is_public = before == "pub" || before.starts_with("pub(") && before.ends_with(')');
        if !before.is_empty() && !is_public {
            continue;
        }
        let rest = &code[at + "use ".len()..];
        let end = rest.find(';').unwrap_or(rest.len());
        found.push((rest[..end].replace('\n', " "), is_public));
    }
    found
}

/// The leaves of a `use` tree: the path of each, and the name it gets here.
fn tree(text: &str, prefix: &[String]) -> Vec<(Vec<String>, String)> {
    let text = text.trim();
    if let Some(open) = text.find('{') {
        let head = text[..open].trim().trim_end_matches("::");
        let mut path = prefix.to_vec();
        path.extend(head.split("::").filter(|word| !word.is_empty()).map(str::to_owned));
        let inner = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
        return split(inner).into_iter().flat_map(|part| tree(part, &path)).collect();
    }
    if text.is_empty() {
        return Vec::new();
    }
    let (path, alias) = match text.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias.trim().to_owned())),
        None => (text, None),
    };
    let mut whole = prefix.to_vec();
    whole.extend(path.split("::").map(|word| word.trim().to_owned()));
    if whole.last().is_some_and(|word| word == "self") {
        whole.pop();
    }
    let name = alias.unwrap_or_else(|| whole.last().cloned().unwrap_or_default());
    vec![(whole, name)]
}

/// The members of a group, split at its own commas.
fn split(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

/// Path from the root of the crate, of a path as written in module `here`.
fn absolute(here: &[String], path: &[String]) -> Vec<String> {
    let mut base = here.to_vec();
    let mut words = path.iter().peekable();
    match words.peek().map(|word| word.as_str()) {
        Some("crate") => {
            words.next();
            base.clear();
        }
        Some("self") => {
            words.next();
        }
        _ => {}
    }
    while words.peek().is_some_and(|word| *word == "super") {
        words.next();
        base.pop();
    }
    base.extend(words.cloned());
    base
}

/// Every path that a file names: in its `use` statements, and in its code behind `crate::`,
/// `super::` or the name of a module that it has imported or declared.
fn paths(source: &Source, here: &[String]) -> Vec<Vec<String>> {
    let mut imported: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for (text, _) in uses(source) {
        for (path, name) in tree(&text, &[]) {
            let path = absolute(here, &path);
            imported.insert(name, path.clone());
            found.push(path);
        }
    }
    let code: Vec<&str> = source.product_lines().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for word in code.split(|c: char| !is_word(c) && c != ':').filter(|word| word.contains("::")) {
        // A word like this is the stem of a group, whose members were found above.
        if word.ends_with("::") {
            continue;
        }
        let words: Vec<String> =
            word.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let Some(first) = words.first() else { continue };
        if ["crate", "super", "self"].contains(&first.as_str()) {
            found.push(absolute(here, &words));
        } else if let Some(path) = imported.get(first) {
            found.push([path.as_slice(), &words[1..]].concat());
        }
    }
    found
}

/// The strongly connected components of more than one file (Tarjan's algorithm, by reachability: a
/// few hundred files).
fn circles<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reach = |from: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for target in arrows.get(file).into_iter().flatten() {
                if seen.insert(*target) {
                    open.push(target);
                }
            }
        }
        seen
    };
    let reachable: BTreeMap<&str, BTreeSet<&str>> =
        arrows.keys().map(|file| (*file, reach(file))).collect();
    let mut circles: Vec<Vec<&str>> = Vec::new();
    for (file, targets) in &reachable {
        if !targets.contains(file) || circles.iter().any(|circle| circle.contains(file)) {
            continue;
        }
        let together = targets.iter().filter(|target| reachable[*target].contains(file));
        circles.push(together.copied().collect());
    }
    circles
}
