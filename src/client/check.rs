//! `check FILE`: judges the rules of a file as a daemon of this version would, without one. Rules
//! are read by the daemon's own parser (`table`), and together they must make a table.

use std::borrow::Cow;
use std::io::Write;

use serde_json::{Value, json};

use super::failure::{Failure, say};
use super::options::Looked;
use super::print::{counted, entries, plain};
use super::table_file::TableFile;
use super::{print, print_json};
use crate::table::{Action, EditError, Names, Rule, Snapshot, edit_canonical, host};

/// Most rules that are named because they are wrong only beside others. Each costs a look at the
/// whole table.
const TOGETHER_TOLD_MAX: usize = 100;

/// Rules of a file, and what is wrong with them.
pub struct Judged {
    /// Rules by canonical name, in the order of the file; `None` deletes.
    pub rules: Vec<(String, Option<Rule>)>,
    /// A sentence for each wrong rule, with its host.
    pub wrong: Vec<String>,
}

/// Judges the rules of a file.
pub fn check(looked: &Looked, json: bool) -> Result<(), Failure> {
    let file = TableFile::open(&looked.file, looked.merge).map_err(Failure::Other)?;
    let (name, rules) = (file.name.clone(), file.rules());
    let text = file.into_text().map_err(Failure::Other)?;
    let judged = judge(&name, &text, looked.merge)?;
    for line in &judged.wrong {
        say(&format!("{name}: {line}"));
    }
    if json {
        let answer = json!({ "rules": rules, "wrong": judged.wrong });
        print_json(answer.to_string().as_bytes())?;
    }
    match judged.wrong.len() {
        0 if json => Ok(()),
        0 => print(|out| {
            let verb = if rules == 1 { "is" } else { "are" };
            writeln!(out, "{} of {} {verb} right", counted(rules, "rule"), plain(&name))
        }),
        wrong => Err(Failure::Other(format!("{name}: {} wrong", counted(wrong, "rule")))),
    }
}

/// Reads the rules of a file whose form is right, and judges them. With `merge`, the file changes a
/// table that is not known here, and its aliases may lead to rules of that table.
pub fn judge(file: &str, text: &[u8], merge: bool) -> Result<Judged, Failure> {
    let mut names = Names::default();
    let mut rules: Vec<(String, Option<Rule>)> = Vec::new();
    let mut wrong = Vec::new();
    let read = entries(text, |host, value| {
        let name = match host::rule_name(&host) {
            Ok(name) => name,
            Err(error) => return wrong.push(format!("{}: {error}", plain(&host))),
        };
        let rule = match value {
            Value::Null if merge => None,
            value => Some(Rule::from_json(&host, &value, &mut names).unwrap_or_else(|error| {
                wrong.push(format!("{}: {}", plain(&host), plain(error.sentence())));
                stand_in()
            })),
        };
        rules.push((name, rule));
    });
    read.map_err(|error| Failure::Other(format!("{file}: {error}")))?;
    wrong.extend(wrong_together(&rules, merge));
    Ok(Judged { rules, wrong })
}

/// Rule in the place of a wrong one, so that aliases of the wrong one are not called wrong as well.
fn stand_in() -> Rule {
    Rule { action: Action::Unknown, match_subdomains: false }
}

/// Names the rules that are wrong only beside others: aliases that lead nowhere, redirects in a
/// circle.
fn wrong_together(rules: &[(String, Option<Rule>)], merge: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut tried = Cow::Borrowed(rules);
    while let Err(error) = edit_canonical(&Snapshot::default(), &tried) {
        let is_elsewhere = merge && matches!(error, EditError::AliasMissing { .. });
        if !is_elsewhere {
            let (host, sentence) = (error.host(), error.sentence());
            let is_named = sentence.contains(host);
            wrong.push(if is_named { sentence } else { format!("{host}: {sentence}") });
        }
        if TOGETHER_TOLD_MAX <= wrong.len() {
            wrong.push("more rules may be wrong: correct these first".to_owned());
            break;
        }
        let mut met = false;
        for (name, rule) in tried.to_mut() {
            if *name == error.host() {
                *rule = Some(stand_in());
                met = true;
            }
        }
        if !met {
            break;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(table: &Value, merge: bool) -> Vec<String> {
        let judged = judge("table.json", table.to_string().as_bytes(), merge);
        judged.unwrap_or_else(|error| panic!("{error}")).wrong
    }

    #[test]
    fn every_wrong_rule_is_named_once() {
        let table = json!({
            "a.com": ["proxy", {"backends": "x"}, true],
            "b.com": ["frob", {}, true],
            "c d": ["unknown", {}, true],
            "e.com": ["alias", {"hostname": "nowhere.com"}, true],
            "f.com": ["alias", {"hostname": "a.com"}, true],
            "g.com": ["redirect", {"redirect_to": "http://g.com"}, false],
            "h.com": ["empty", {"code": 404}, true],
            "i.com": ["redirect", {"redirect_to": "ftp://h.com"}, false],
        });
        let found = wrong(&table, false);
        let hosts: Vec<&str> =
            found.iter().map(|line| line.split([' ', ':']).next().unwrap_or("")).collect();
        let mut sorted = hosts.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["a.com", "b.com", "c", "e.com", "g.com", "i.com"], "{found:?}");
        let table = json!({"h.com": ["empty", {"code": 404}, true]});
        assert_eq!(wrong(&table, false), [] as [String; 0]);
    }

    #[test]
    fn part_of_a_table_may_lead_out_of_it() {
        let table = json!({"a.com": ["alias", {"hostname": "b.com"}, true], "c.com": null});
        assert_eq!(wrong(&table, true), [] as [String; 0]);
        let table = json!({"a.com": ["alias", {"hostname": "a.com"}, true], "c.com": null});
        assert_eq!(wrong(&table, true).len(), 1);
    }
}
