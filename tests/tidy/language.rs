//! Plain technical English, as far as a program can see it: how a doc comment opens, how long a
//! line is, and that one layer has one type of a name.

use std::collections::BTreeMap;

use crate::{Source, expect_none, sources};

/// Longest line of a Rust file, in characters; rustfmt does not wrap comments.
const COLUMNS: usize = 100;

/// Words that a doc comment does not open with: a reader who is tired would have to look for the
/// noun. "Whether", "How" and "Why" open the description of a value and may stand.
const OPENINGS: &[&str] = &[
    "What", "Of", "That", "Those", "By", "It", "Its", "Likewise", "Who", "Whoever", "Whose",
    "Nobody", "Somebody", "They", "Them", "Their", "These", "This", "For", "From", "In", "On",
    "At", "As", "To", "With", "Within", "Without", "Until", "Since", "After", "Where", "When",
    "Which", "There", "So", "Not", "Too", "Once",
];

/// Pairs of words with which a doc comment does not open.
const OPENING_PAIRS: &[&str] = &["The same", "The other", "The others", "How it", "Whether it"];

/// Types of the same name in one layer, each with its reason.
const SAME_NAMES: &[(&str, &str, &str)] = &[
    ("control", "Access", "fleet/etcd is a layer of its own"),
    ("control", "Event", "fleet/etcd is a layer of its own"),
    ("control", "Shared", "fleet/etcd is a layer of its own; each is private to its file"),
    ("control", "Watch", "fleet/etcd is a layer of its own"),
    ("control", "Found", "each is private to its folder"),
    ("control", "Numbers", "each is private to its folder"),
    ("control", "Outcome", "each is private to its folder"),
    ("control", "Step", "one is of a test"),
];

#[test]
fn doc_comments_open_with_a_noun_or_a_verb() {
    expect_none(&product().iter().flat_map(bad_openings).collect::<Vec<_>>());
}

#[test]
fn lines_are_at_most_100_columns() {
    let mut findings = Vec::new();
    for source in sources() {
        for (index, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
            // A string may be longer: if it were cut in two, it could not be searched for.
            let bare = code.split_whitespace().map(|word| word.chars().count() + 1).sum::<usize>();
            let is_text = !line.trim_start().starts_with("//") && bare <= COLUMNS;
            let length = line.chars().count();
            if COLUMNS < length && !is_text {
                findings.push(format!("{}:{}: {length} columns", source.path, index + 1));
            }
        }
    }
    expect_none(&findings);
}

/// A list of tests reads as a list of what holds: each name has a subject and a verb.
#[test]
fn names_of_tests_are_sentences() {
    let is_test = |source: &Source| source.path.starts_with("tests/integration/");
    expect_none(&sources().iter().filter(|it| is_test(it)).flat_map(bad_names).collect::<Vec<_>>());
}

/// Names of tests that open like a doc comment must not, or are too short for a sentence.
fn bad_names(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let mut is_test = false;
    for line in source.code.lines().map(str::trim) {
        let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) else {
            is_test = line == "#[test]" || (is_test && line.starts_with("#["));
            continue;
        };
        is_test = false;
        let name = name.split('(').next().unwrap_or_default();
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default();
        if words.count() < 2 || OPENINGS.iter().any(|word| word.eq_ignore_ascii_case(first)) {
            findings.push(format!("{}: {name}: say what is shown, subject first", source.path));
        }
    }
    findings
}

#[test]
fn one_type_of_a_name_in_a_layer() {
    expect_none(&same_names(&product()));
}

#[test]
fn the_rules_of_language_find_what_they_forbid() {
    let source = |text: &str| Source {
        path: "src/shard/a.rs".to_owned(),
        text: text.to_owned(),
        code: crate::code_of(text),
    };
    let bad = source("//! What is there.\n\n/// Of one that left.\n/// The limit.\nstruct A;\n");
    assert_eq!(bad_openings(&bad).len(), 2, "{:?}", bad_openings(&bad));
    let good = source("//! A pool.\n\n/// Returns it.\n///\n/// What else.\nstruct A;\n// What\n");
    assert!(bad_openings(&good).is_empty(), "{:?}", bad_openings(&good));
    let tests = source("#[test]\nfn what_is_lost() {}\n#[test]\nfn restart() {}\nfn of_a() {}\n");
    assert_eq!(bad_names(&tests).len(), 2, "{:?}", bad_names(&tests));
    let good = source("#[test]\nfn restart_loses_nothing() {}\n");
    assert!(bad_names(&good).is_empty(), "{:?}", bad_names(&good));
    let twice = [source("struct A;\nenum B {}\n"), source("type A = B;\n")];
    assert_eq!(same_names(&twice).len(), 1, "{:?}", same_names(&twice));
}

fn product() -> Vec<Source> {
    let is_product = |source: &Source| source.path.starts_with("src/");
    sources().into_iter().filter(is_product).collect()
}

/// The first line of each doc comment that opens badly.
fn bad_openings(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let mut is_inside = false;
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim_start();
        let text = ["/// ", "//! "].iter().find_map(|mark| line.strip_prefix(mark));
        let is_doc = text.is_some() || line == "///" || line == "//!";
        if let (Some(text), false) = (text, is_inside) {
            let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
            let first = words.next().unwrap_or_default();
            let pair = format!("{first} {}", words.next().unwrap_or_default());
            if OPENINGS.contains(&first) || OPENING_PAIRS.contains(&pair.as_str()) {
                findings.push(format!("{}:{}: {text}", source.path, index + 1));
            }
        }
        is_inside = is_doc;
    }
    findings
}

fn same_names(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for source in sources {
        let layer = source.layer().unwrap_or_default().to_owned();
        for (number, line) in source.product_lines() {
            let Some(name) = defined_type(line) else { continue };
            let place = format!("{}:{number}", source.path);
            places.entry((layer.clone(), name)).or_default().push(place);
        }
    }
    let is_known = |layer: &str, name: &str| {
        SAME_NAMES.iter().any(|(known, same, _)| *known == layer && *same == name)
    };
    places
        .into_iter()
        .filter(|((layer, name), places)| 1 < places.len() && !is_known(layer, name))
        .map(|((layer, name), places)| {
            format!("src/{layer}: {name} is {} types: {}", places.len(), places.join(", "))
        })
        .collect()
}

/// The type that a line of code defines at the top level of its file.
fn defined_type(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    if !line.starts_with(word) {
        return None;
    }
    if word.starts_with("pub") {
        word = words.find(|word| !word.ends_with(')') && *word != "unsafe")?;
    }
    if !["struct", "enum", "trait", "type", "union"].contains(&word) {
        return None;
    }
    let name: String =
        words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    Some(name)
}
