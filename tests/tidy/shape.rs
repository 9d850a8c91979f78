//! The shape of the code: a function of the request path fits a screen, and no type holds a result
//! inside a result or an option, whose cases a reader would have to guess.

use crate::{Source, expect_none, sources};

/// Folders on the way of a request.
const REQUEST_PATH: &[&str] = &["shard", "ring", "http", "link"];

/// Most lines of a function in these folders, from `fn` to its closing brace.
const LINES: usize = 60;

/// Functions that may be longer, by file and name: tables.
const TABLES: &[(&str, &str)] = &[("src/http/reply.rs", "reason")];

#[test]
fn functions_of_the_request_path_fit_a_screen() {
    let is_on_path = |source: &&Source| REQUEST_PATH.contains(&source.layer().unwrap_or_default());
    expect_none(&sources().iter().filter(is_on_path).flat_map(long_functions).collect::<Vec<_>>());
}

#[test]
fn no_result_is_nested() {
    let is_product = |source: &&Source| source.path.starts_with("src/");
    expect_none(&sources().iter().filter(is_product).flat_map(nested_results).collect::<Vec<_>>());
}

#[test]
fn the_rules_of_shape_find_what_they_forbid() {
    let source = |text: &str| Source {
        path: "src/shard/a.rs".to_owned(),
        text: text.to_owned(),
        code: crate::code_of(text),
    };
    let function = |lines: usize| {
        let body = "        a();\n".repeat(lines - 2);
        source(&format!("impl A {{\n    pub(in crate::a) async fn b() {{\n{body}    }}\n}}\n"))
    };
    assert_eq!(long_functions(&function(60)), Vec::<String>::new());
    assert_eq!(long_functions(&function(61)).len(), 1);
    let bad = [
        "type A = Option<io::Result<u8>>;\n",
        "struct A {\n    b: Option<(Result<u8, ()>, u8)>,\n}\n",
        "fn a(\n    b: u8,\n) -> Result<\n    u8,\n    Result<u8, ()>,\n> {\n}\n",
        "fn a() -> Option<Box<Result<u8, ()>>> {\n}\n",
    ];
    for text in bad {
        assert_eq!(nested_results(&source(text)).len(), 1, "{text}");
    }
    let good = [
        "fn a(b: Option<u8>) -> Result<Option<u8>, ()> {\n    let b: Option<Result<u8, ()>>;\n}\n",
        "fn a(b: Option<fn() -> Result<u8, ()>>) -> Result<Vec<u8>, ()> {\n}\n",
        "fn poll_frame() -> Poll<Option<io::Result<u8>>> {\n}\n",
    ];
    for text in good {
        assert_eq!(nested_results(&source(text)), Vec::<String>::new(), "{text}");
    }
}

/// First and last line of each function, and where its body begins, as rustfmt lays them out.
fn functions<'s>(lines: &'s [(usize, &'s str)]) -> impl Iterator<Item = [usize; 3]> {
    lines.iter().enumerate().filter(|(_, (_, line))| is_function(line)).filter_map(|(start, _)| {
        let indent = lines[start].1.len() - lines[start].1.trim_start().len();
        let at_same = |line: &str| line.get(..=indent).is_some_and(|it| !it.ends_with(' '));
        let find = |ends: &[char]| {
            let is_end = |(_, line): &(usize, &str)| at_same(line) && line.ends_with(ends);
            Some(start + lines[start..].iter().position(is_end)?)
        };
        Some([start, find(&['{', '}', ';'])?, find(&['}', ';'])?])
    })
}

fn is_function(line: &str) -> bool {
    let before = line.split_once("fn ").map(|(before, _)| before.trim_start());
    before.is_some_and(|before| {
        let words = before.strip_prefix("pub").map_or(before, |rest| match rest.split_once(')') {
            Some((scope, rest)) if scope.starts_with('(') => rest,
            _ => rest,
        });
        let may_lead = |word| ["const", "async", "unsafe", "extern"].contains(&word);
        words.split_whitespace().all(may_lead)
    })
}

fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<_> = source.product_lines().collect();
    let is_long = |[start, _, end]: &[usize; 3]| LINES <= end - start;
    let finding = |[start, _, end]: [usize; 3]| {
        let (number, line) = lines[start];
        let name = line.split_once("fn ")?.1.split(['(', '<']).next()?;
        let length = end - start + 1;
        let is_table = TABLES.contains(&(source.path.as_str(), name));
        (!is_table).then(|| {
            format!("{}:{number}: {name} has {length} lines: name a step of it", source.path)
        })
    };
    functions(&lines).filter(is_long).filter_map(finding).collect()
}

/// Signatures and fields with a `Result` in a `Result` or `Option`, also in a tuple or a box there.
fn nested_results(source: &Source) -> Vec<String> {
    let lines: Vec<_> = source.product_lines().collect();
    let bodies: Vec<_> = functions(&lines).map(|[_, body, end]| body + 1..=end).collect();
    let mut findings = Vec::new();
    // The names of the brackets that are open.
    let mut open: Vec<&str> = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        if bodies.iter().any(|body| body.contains(&at)) {
            continue;
        }
        for (index, c) in line.char_indices() {
            match c {
                '<' | '(' | '[' => {
                    let is_part = |c: char| c.is_alphanumeric() || c == '_';
                    let name = line[..index].rsplit(|c| !is_part(c)).next().unwrap_or_default();
                    if (c, name) == ('<', "Result") && is_inside_another(&open) {
                        findings.push(format!(
                            "{}:{number}: a Result in a Result or Option: name the cases",
                            source.path
                        ));
                    }
                    open.push(if c == '<' { name } else { "" });
                }
                '>' if line[..index].ends_with('-') => open.iter_mut().for_each(|it| *it = "fn"),
                '>' if line[..index].ends_with('=') => {}
                '>' | ')' | ']' => drop(open.pop()),
                '{' | '}' | ';' => open.clear(),
                _ => {}
            }
        }
    }
    findings
}

/// Whether what stands here is a part of a `Result` or `Option`. A stream's `Poll<Option<Result>>`
/// is not ours to name.
fn is_inside_another(open: &[&str]) -> bool {
    let mut outer = open.iter().rev().skip_while(|name| ["", "Box", "Rc", "Cell"].contains(name));
    match outer.next() {
        Some(&"Result") => true,
        Some(&"Option") => outer.next() != Some(&"Poll"),
        _ => false,
    }
}
