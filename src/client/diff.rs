//! `diff FILE`: the difference between the daemon's table and that of a file, a line for each rule.
//! Both are compared as the daemon writes rules, so that `"403"` and `403` are the same.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::check::{Judged, judge};
use super::failure::Failure;
use super::options::Looked;
use super::print::{entries, plain, value};
use super::request::{Api, Ask, Fetched};
use super::table_file::TableFile;
use super::{lines, print_json};
use crate::table::{Names, Rule};

/// Rules that differ, by host: as they are, and as they would be.
#[derive(Default)]
pub struct Difference(BTreeMap<String, (Option<Value>, Option<Value>)>);

/// Prints the difference; the exit code says whether there is one.
pub async fn diff(api: &Api, looked: &Looked, json: bool) -> Result<(), Failure> {
    let found = find(api, looked).await;
    let found = found.map_err(|failure| Failure::Unanswered(Box::new(failure)))?;
    if json {
        print_json(found.to_json().to_string().as_bytes())?;
    } else {
        lines(found.lines())?;
    }
    if found.0.is_empty() { Ok(()) } else { Err(Failure::Different) }
}

async fn find(api: &Api, looked: &Looked) -> Result<Difference, Failure> {
    let file = TableFile::open(&looked.file, looked.merge).map_err(Failure::Other)?;
    let name = file.name.clone();
    let text = file.into_text().map_err(Failure::Other)?;
    let judged = judge(&name, &text, looked.merge)?;
    if !judged.wrong.is_empty() {
        let lines = judged.wrong.join(&format!("\nmantrid-client: {name}: "));
        return Err(Failure::Other(format!("{name}: {lines}")));
    }
    Difference::with_daemon(api, judged, looked.merge).await
}

impl Difference {
    /// Compares the daemon's table with these rules; with `merge`, only the rules that they name.
    pub async fn with_daemon(
        api: &Api,
        judged: Judged,
        merge: bool,
    ) -> Result<Difference, Failure> {
        let answer: Fetched = api.fetch(Ask::get("/hostname/")).await?;
        let mut wanted: BTreeMap<String, Option<Rule>> = judged.rules.into_iter().collect();
        let mut difference = Difference::default();
        let mut names = Names::default();
        let compared = entries(&answer.body, |host, before| match wanted.remove(&host) {
            None if merge => {}
            None => difference.add(host, Some(before), None),
            Some(after) => {
                let after = after.map(|rule| rule.to_json());
                let is_same = after.as_ref().is_some_and(|after| {
                    *after == before
                        || canonical(&host, &before, &mut names).as_ref() == Some(after)
                });
                if !is_same {
                    difference.add(host, Some(before), after);
                }
            }
        });
        compared.map_err(|error| answer.foreign(&error))?;
        for (host, rule) in wanted {
            if let Some(rule) = rule {
                difference.add(host, None, Some(rule.to_json()));
            }
        }
        Ok(difference)
    }

    /// Notes a rule that differs.
    pub fn add(&mut self, host: String, before: Option<Value>, after: Option<Value>) {
        self.0.insert(host, (before, after));
    }

    /// A line for each rule: `+` if it is new, `-` if it is removed, `~` if it is changed.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(host, change)| {
            plain(&match change {
                (None, Some(after)) => format!("+ {host} {after}"),
                (Some(before), None) => format!("- {host} {before}"),
                (Some(before), Some(after)) => {
                    format!("~ {host} {}", parts(before, after).join("; "))
                }
                (None, None) => String::new(),
            })
        })
    }

    fn to_json(&self) -> Value {
        let (mut added, mut removed, mut changed) = (Map::new(), Map::new(), Map::new());
        for (host, change) in &self.0 {
            match change {
                (None, Some(after)) => added.insert(host.clone(), after.clone()),
                (Some(before), None) => removed.insert(host.clone(), before.clone()),
                (before, after) => changed.insert(host.clone(), json!([before, after])),
            };
        }
        json!({ "added": added, "removed": removed, "changed": changed })
    }
}

/// A rule as this version writes it: a daemon of another version may write it in another way.
fn canonical(host: &str, rule: &Value, names: &mut Names) -> Option<Value> {
    Rule::from_json(host, rule, names).ok().map(|rule| rule.to_json())
}

/// The parts of a rule that differ, each as it was and is.
fn parts(before: &Value, after: &Value) -> Vec<String> {
    if before[0] != after[0] {
        return vec![format!("{before} -> {after}")];
    }
    let mut parts = Vec::new();
    if before[2] != after[2] {
        parts.push(format!("subdoms {} -> {}", before[2], after[2]));
    }
    let none = Map::new();
    let (before, after) =
        (before[1].as_object().unwrap_or(&none), after[1].as_object().unwrap_or(&none));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old != new {
            let shown = |given: Option<&Value>| {
                given.map_or_else(|| "none".to_owned(), |given| value(name, given))
            };
            parts.push(format!("{name} {} -> {}", shown(old), shown(new)));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_parts_are_told_and_no_others() {
        let rule = |arguments: Value, subdoms: bool| json!(["proxy", arguments, subdoms]);
        for (before, after, expected) in [
            (
                rule(json!({"backends": [["a", 1]], "attempts": 2}), true),
                rule(json!({"backends": [["a", 1], ["::1", 2]], "attempts": 2}), true),
                vec!["backends a:1 -> a:1,[::1]:2"],
            ),
            (
                rule(json!({"backends": [["a", 1]], "attempts": 2}), true),
                rule(json!({"backends": [["a", 1]], "weights": [0]}), false),
                vec!["subdoms true -> false", "attempts 2 -> none", "weights none -> [0]"],
            ),
            (
                json!(["spin", {}, true]),
                json!(["empty", {"code": 404}, true]),
                vec![r#"["spin",{},true] -> ["empty",{"code":404},true]"#],
            ),
        ] {
            assert_eq!(parts(&before, &after), expected);
        }
    }

    #[test]
    fn lines_say_what_happens_to_each_rule() {
        let mut difference = Difference::default();
        let rule = |code: u16| Some(json!(["empty", { "code": code }, true]));
        difference.add("b.com".to_owned(), rule(402), None);
        difference.add("a.com".to_owned(), None, rule(403));
        difference.add("c.com".to_owned(), rule(404), rule(405));
        let lines: Vec<String> = difference.lines().collect();
        assert_eq!(
            lines,
            [
                r#"+ a.com ["empty",{"code":403},true]"#,
                r#"- b.com ["empty",{"code":402},true]"#,
                "~ c.com code 404 -> 405",
            ]
        );
    }
}
