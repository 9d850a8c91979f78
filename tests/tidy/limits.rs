//! Bounds stand with their owner: each constant of `src/limits/NAME.rs` is used in `src/NAME`, or
//! is a term of a sum in `src/limits`.

use crate::{Source, expect_none, sources};

#[test]
fn every_bound_stands_with_its_owner() {
    let sources = sources();
    let mut findings = Vec::new();
    for file in sources.iter().filter(|source| source.path.starts_with("src/limits/")) {
        let owner = file.path.trim_start_matches("src/limits/").trim_end_matches(".rs");
        for name in constants(file) {
            let is_owner = |source: &&Source| {
                let layer = source.layer().unwrap_or_default();
                // The table of rule arguments belongs to `table`'s parser.
                let layer = if layer == "rule_arguments" { "table" } else { layer };
                // The fleet is a part of control.
                let owner = if owner == "fleet" { "control" } else { owner };
                (layer == owner || layer == "limits" && source.path != file.path)
                    && source.code.contains(&name)
            };
            let is_term = 1 < file.code.matches(&name).count();
            if !is_term && !sources.iter().any(|source| is_owner(&source)) {
                findings.push(format!("{}: {name} is not used in src/{owner}", file.path));
            }
        }
    }
    expect_none(&findings);
}

fn constants(source: &Source) -> Vec<String> {
    let lines = source.code.lines().filter_map(|line| line.split_once("const "));
    lines.filter_map(|(_, rest)| Some(rest.split_once(':')?.0.to_owned())).collect()
}
