//! House rules, enforced over the sources: which folder may know which, what the pure ones never
//! touch, where `unsafe` may stand, and what tests don't do. Every message says what to do instead.

mod circles;
mod language;
mod limits;
mod shape;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src`, and the folders that each may name (`crate::…`). A new arrow is a change of
/// design: it is made here and in ARCHITECTURE.md together.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("scheme", &[]),
    ("fields", &["limits"]),
    ("network", &[]),
    ("log_style", &[]),
    ("address", &["limits"]),
    ("rule_arguments", &["limits"]),
    ("http", &["fields", "scheme", "limits"]),
    ("proxy_protocol", &[]),
    ("tls", &[]),
    ("table", &["address", "rule_arguments", "fields", "scheme", "network", "limits"]),
    ("state", &["table", "limits"]),
    ("config", &["fields", "network", "log_style", "limits"]),
    ("ring", &["limits"]),
    ("link", &["table", "http", "address", "network", "log_style", "limits"]),
    (
        "shard",
        &[
            "ring",
            "link",
            "http",
            "proxy_protocol",
            "tls",
            "table",
            "address",
            "log_style",
            "limits",
        ],
    ),
    ("control", &["link", "state", "table", "http", "address", "limits"]),
    (
        "daemon",
        &[
            "config", "control", "shard", "link", "ring", "state", "table", "http", "network",
            "limits",
        ],
    ),
    ("client", &["rule_arguments", "table"]),
];

/// Folders without I/O, clock, threads or random numbers: what they need of these is passed to them
/// as an argument.
const PURE: &[&str] = &[
    "limits",
    "scheme",
    "fields",
    "network",
    "log_style",
    "address",
    "rule_arguments",
    "http",
    "proxy_protocol",
    "tls",
    "table",
    "state",
    "config",
];

/// Folders, text that may not stand in their code, and what to do instead.
const BANNED: &[(&[&str], &[&str], &str)] = &[
    (
        PURE,
        &[
            "std::fs",
            "std::env",
            "std::thread",
            "std::process",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "Instant::now",
            "SystemTime::now",
            "tokio::",
            "glommio::",
            "tracing::",
        ],
        "this folder is pure: take what is needed as an argument",
    ),
    (&["ring", "link", "shard"], &["tokio::"], "tokio is for the control shard"),
    (&["link", "control"], &["glommio::"], "glommio is for the shards"),
    (
        &["shard", "ring"],
        &["Mutex", "RwLock", "Condvar", "to_socket_addrs", "lookup_host", "std::fs::read"],
        "a shard never waits: no locks, no lookups, no reading of files",
    ),
    (
        &["control", "daemon"],
        &["to_socket_addrs"],
        "it may block for seconds: tokio::net::lookup_host, in the resolver",
    ),
    (
        &[
            "http", "tls", "address", "table", "state", "config", "link", "shard", "control",
            "daemon", "client",
        ],
        &["unsafe "],
        "unsafe code lives in src/ring; rustix, nix and socket2 wrap most calls safely",
    ),
];

/// Text that may not stand in any Rust file, and what to do instead.
const NEVER: &[(&str, &str)] = &[
    ("thread::sleep(", "wait for the event itself, or park with a timeout where there is none"),
    ("#[ignore", "a test that is not run is not there: mend it or assert what is"),
    ("#[should_panic", "assert the error that is returned"),
    ("todo!(", "write it, or an error that says it is missing"),
    ("unimplemented!(", "write it, or an error that says it is missing"),
    ("dbg!(", "take it out, or log it"),
    ("static mut ", "share through link, or use a cell"),
];

/// Words that say nothing, and words for which the lexicon has others (docs/lexicon.md).
const WORDS: &[&str] = &[
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "manager",
    "handler",
    "context",
    "info",
    "misc",
    "upstream",
    "downstream",
    "frontend",
    "session",
    "transaction",
    "vhost",
    "worker",
];

/// One Rust file.
struct Source {
    /// Path from the root of the repository, with `/`.
    path: String,
    text: String,
    /// The text with comments and the insides of strings blanked; as many lines.
    code: String,
}

impl Source {
    /// The folder (or file) of `src` to which the file belongs.
    fn layer(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split(['/', '.']).next().unwrap_or(rest))
    }

    /// Lines of code with their numbers, up to the unit tests, which may do more.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file =
            ["/tests.rs", "/properties.rs"].iter().any(|end| self.path.ends_with(end));
        let lines: Vec<&str> = self.code.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0].starts_with("#[cfg(test)]")
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        });
        let end = if is_test_file { 0 } else { tests.unwrap_or(lines.len()) };
        lines.into_iter().take(end).enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "bench", "fuzz"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 30, "only {} files found: is this the right folder?", paths.len());
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file in UTF-8");
            let relative = path.strip_prefix(root()).expect("a path below the root");
            let path = relative.to_str().expect("a path in UTF-8").to_owned();
            let code = code_of(&text);
            Source { path, text, code }
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // Folders that a fuzzer or a build of its own leaves behind.
            let generated = ["target", "corpus", "artifacts"];
            if !generated.iter().any(|name| path.ends_with(name)) {
                collect(&path, paths);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Blanks comments and the insides of strings and of characters. Line ends stay.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => 2 + find(&rest[2..], "*/"),
            ['r', '"', ..] => 2 + find(&rest[2..], "\""),
            ['r', '#', '"', ..] => 3 + find(&rest[3..], "\"#"),
            ['"', ..] => string_length(rest),
            ['\'', '\\', ..] => 3 + find(&rest[3..], "'"),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            code.push(c);
        }
        for c in rest.iter().take(length) {
            code.push(if *c == '\n' { '\n' } else { ' ' });
        }
        at += length.max(1);
    }
    code
}

/// Number of characters up to the end of `mark`, or of all of them if there is none.
fn find(chars: &[char], mark: &str) -> usize {
    let mark: Vec<char> = mark.chars().collect();
    let found = chars.windows(mark.len()).position(|window| *window == mark[..]);
    found.map_or(chars.len(), |at| at + mark.len())
}

fn string_length(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The folders that a piece of code names: `crate::a::…` and `crate::{a, b::{…}}`.
fn named_folders(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let word = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    names.push(word(&group[start..index]));
                    start = index + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Fails with all findings at once.
#[track_caller]
fn expect_none(findings: &[String]) {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "  {finding}");
    }
    assert!(findings.is_empty(), "\n{text}");
}

#[test]
fn imports_only_point_down() {
    expect_none(&sources().iter().flat_map(wrong_arrows).collect::<Vec<_>>());
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let layer = source.layer().unwrap_or_default();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return Vec::new();
    };
    let code: Vec<&str> = source.product_lines().map(|(_, line)| line).collect();
    let is_wrong = |name: &String| {
        let is_folder = LAYERS.iter().any(|(folder, _)| folder == name);
        is_folder && name != layer && !allowed.contains(&name.as_str())
    };
    let path = &source.path;
    let finding = |name: String| {
        format!("{path}: src/{layer} may not use src/{name}: hand over what it needs from above")
    };
    named_folders(&code.join("\n")).into_iter().filter(is_wrong).map(finding).collect()
}

#[test]
fn every_folder_is_in_the_table() {
    let known = |name: &str| LAYERS.iter().any(|(folder, _)| *folder == name);
    let mut findings = Vec::new();
    for source in sources() {
        match source.layer() {
            None | Some("lib" | "bin") => {}
            Some(layer) if known(layer) => {}
            Some(layer) => findings.push(format!("src/{layer}: which layer is it? See LAYERS")),
        }
    }
    expect_none(&findings);
}

#[test]
fn each_folder_keeps_to_its_means() {
    expect_none(&sources().iter().flat_map(wrong_means).collect::<Vec<_>>());
}

fn wrong_means(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let layer = source.layer().unwrap_or_default();
    for (_, banned, instead) in BANNED.iter().filter(|(folders, ..)| folders.contains(&layer)) {
        for (number, line) in source.product_lines() {
            if let Some(word) = banned.iter().find(|word| line.contains(**word)) {
                findings.push(format!("{}:{number}: {word}: {instead}", source.path));
            }
        }
    }
    findings
}

#[test]
fn never_in_any_file() {
    expect_none(&sources().iter().flat_map(forbidden).collect::<Vec<_>>());
}

fn forbidden(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in source.code.lines().enumerate() {
        for (word, instead) in NEVER.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(format!("{}:{}: {word}: {instead}", source.path, index + 1));
        }
    }
    findings
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    let findings: Vec<String> = silent
        .map(|source| format!("{}: start with `//! ` and its purpose", source.path))
        .collect();
    expect_none(&findings);
}

#[test]
fn names_say_something() {
    let mut findings = Vec::new();
    for source in sources() {
        let file = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let file = [file.to_owned()].into_iter();
        for name in file.chain(source.code.lines().filter_map(defined_name)) {
            if let Some(word) = words(&name).into_iter().find(|word| WORDS.contains(&&**word)) {
                findings.push(format!(
                    "{}: {name}: `{word}` is none of our words: say what it does, or see docs/lexicon.md",
                    source.path
                ));
            }
        }
    }
    expect_none(&findings);
}

/// The type, trait or module that a line of code defines.
fn defined_name(line: &str) -> Option<String> {
    let mut words =
        line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty());
    words.find(|word| ["struct", "enum", "trait", "mod", "type"].contains(word))?;
    words.next().map(str::to_owned)
}

/// `FooBar` and `foo_bar` in words.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        if let (true, Some(last)) = (c != '_', words.last_mut()) {
            last.extend(c.to_lowercase());
        }
    }
    words
}

#[test]
fn integration_tests_have_none_of_our_code() {
    let ours = |source: &Source| {
        source.path.starts_with("tests/integration/") && source.code.contains("mantrid::")
    };
    let findings: Vec<String> = sources()
        .into_iter()
        .filter(ours)
        .map(|source| format!("{}: speak to the built program over its sockets", source.path))
        .collect();
    expect_none(&findings);
}

#[test]
fn every_dependency_has_its_reason() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let mut findings = Vec::new();
    let mut is_dependency = false;
    for line in text.lines() {
        if line.starts_with('[') {
            is_dependency = line.ends_with("dependencies]");
        } else if is_dependency && line.contains('=') && !line.contains(" # ") {
            findings.push(format!("Cargo.toml: {line}: say behind it why it is there"));
        }
    }
    expect_none(&findings);
}

#[test]
fn the_blanking_is_right() {
    assert_eq!(code_of("a // b\nc"), "a     \nc");
    assert_eq!(code_of("a /* b\nc */ d"), "a     \n     d");
    assert_eq!(code_of(r#"x("a\"//b") y"#), "x(        ) y");
    assert_eq!(code_of("r#\"a\"b\"# c"), "         c");
    assert_eq!(code_of("'\"' '\\'' 'a T"), "         'a T");
    let named = named_folders("use crate::{limits, table::{A, B}, x};\ncrate::http::y");
    assert_eq!(named, ["limits", "table", "x", "http"]);
    assert_eq!(words("FooBar_baz"), ["", "foo", "bar", "baz"]);
}

/// A rule that finds nothing may be a rule that does not look.
#[test]
fn the_rules_find_what_they_forbid() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
        code: code_of(text),
    };
    let shard = source("src/shard/a.rs", "use crate::{http, control::{A, B}};\nuse tokio::net;\n");
    assert_eq!(wrong_arrows(&shard).len(), 1, "{:?}", wrong_arrows(&shard));
    assert_eq!(wrong_means(&shard), ["src/shard/a.rs:2: tokio::: tokio is for the control shard"]);
    let pure = source("src/http/a.rs", "fn a() {\n    unsafe { b() }\n    Instant::now();\n}\n");
    assert_eq!(wrong_means(&pure).len(), 2, "{:?}", wrong_means(&pure));
    let tests = source("src/http/a.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n");
    assert!(wrong_means(&tests).is_empty());
    let sleepy = source("tests/a.rs", "#[ignore]\nfn a() {\n    thread::sleep(b);\n}\n");
    assert_eq!(forbidden(&sleepy).len(), 2, "{:?}", forbidden(&sleepy));
    assert_eq!(defined_name("pub(crate) struct PoolManager {").as_deref(), Some("PoolManager"));
}
