//! Properties of the log's values, on random changes.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::load::{Base, Missing, difference, first_kept, missing, read_base};
use super::log::{Chunks, Content, Entry, Rules, edits_text, pieces, read_edits};
use crate::control::SharedNames;
use crate::control::change::Verb;
use crate::limits::{FLEET_LOG_KEPT, FLEET_VALUE_BYTES_MAX};
use crate::table::{Names, Rule, Snapshot, edit_canonical};

fn names() -> SharedNames {
    Arc::new(Mutex::new(Names::default()))
}

fn rule(choice: u8) -> Option<Rule> {
    let json = match choice % 5 {
        0 => return None,
        1 => json!(["empty", {"code": 200 + u16::from(choice)}, choice.is_multiple_of(2)]),
        2 => json!(["proxy", {"backends": [format!("127.0.0.1:{}", 1 + u16::from(choice))]}, true]),
        3 => json!(["proxy", {"backends": ["some.name:80"]}, false]),
        _ => json!(["redirect", {"redirect_to": "b.com"}, true]),
    };
    Some(Rule::from_json("a.com", &json, &mut Names::default()).expect("a rule"))
}

fn rules() -> impl Strategy<Value = Rules> {
    let one = ("[a-d][a-d]", any::<u8>());
    let one = one.prop_map(|(name, choice)| (format!("{name}.com"), rule(choice)));
    proptest::collection::vec(one, 0..20)
}

fn table(rules: &Rules) -> Snapshot {
    edit_canonical(&Snapshot::default(), rules).expect("a table without aliases")
}

fn listed(table: &Snapshot) -> Vec<(String, Value)> {
    let mut all: Vec<_> =
        table.iter().map(|(name, rule)| (name.to_owned(), rule.to_json())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        rules in rules(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        super::any_bytes::value(&bytes);
        let text = edits_text([(Verb::Patch, "x", true, &rules)].into_iter());
        let (node, nonce) = ("a".to_owned(), "n".to_owned());
        let mut value = Entry { sequence: 7, node, nonce, content: Content::Text(text) }.to_value();
        super::any_bytes::value(&value);
        // A good value with one byte changed.
        let at = at.index(value.len());
        value[at] = byte;
        super::any_bytes::value(&value);
    }

    #[test]
    fn pieces_of_any_length_are_refused_without_room_for_them(bytes in 0..u64::MAX) {
        let chunks = json!({"nonce": "n", "count": 1, "bytes": bytes, "crc32": "00000000"});
        let entry = json!({"sequence": 7, "node": "a", "nonce": "n", "chunks": chunks});
        super::any_bytes::value(entry.to_string().as_bytes());
    }

    #[test]
    fn edits_are_read_as_they_were_written(
        changes in proptest::collection::vec((rules(), any::<bool>(), "\\PC*"), 0..4),
        sequence in 0..1_000_000u64,
    ) {
        let each = changes.iter();
        let each = each.map(|(rules, whole, who)| (Verb::Patch, who.as_str(), *whole, rules));
        let text = edits_text(each);
        let entry = Entry {
            sequence,
            node: "a".to_owned(),
            nonce: "n".to_owned(),
            content: Content::Text(text),
        };
        let read = Entry::read(sequence, &entry.to_value());
        prop_assert_eq!(read.as_ref(), Ok(&entry));
        prop_assert!(Entry::read(sequence + 1, &entry.to_value()).is_err());
        let Content::Text(text) = &entry.content else { unreachable!() };
        let read = read_edits(text, &names()).expect("edits");
        prop_assert_eq!(read.len(), changes.len());
        for (read, (rules, whole, who)) in read.iter().zip(&changes) {
            prop_assert!(read.rejected.is_empty(), "{:?}", read.rejected);
            prop_assert_eq!((&read.who, read.whole), (who, *whole));
            prop_assert_eq!(listed(&table(&read.rules)), listed(&table(rules)));
        }
    }

    #[test]
    fn a_difference_turns_one_table_into_the_other(a in rules(), b in rules()) {
        let (a, b) = (table(&a), table(&b));
        let edits = difference(&a, &b);
        let turned = edit_canonical(&a, &edits).expect("an edit");
        prop_assert_eq!(listed(&turned), listed(&b));
        prop_assert!(difference(&turned, &b).is_empty());
        prop_assert!(edits.iter().all(|(name, rule)| a.get(name) != rule.as_ref()));
    }

    #[test]
    fn a_base_is_read_as_it_was_written(rules in rules(), sequence in 0..1_000_000u64) {
        let table = table(&rules);
        let text = super::load::base_text(&table);
        let base = Base { sequence, chunks: Chunks::of("x", &text) };
        prop_assert_eq!(Base::read(&base.to_value()), Ok(base.clone()));
        let joined = base.chunks.join(&pieces(&text).collect::<Vec<_>>());
        let (read, rejected) =
            read_base(&joined.expect("whole"), &mut Names::default()).expect("a table");
        prop_assert!(rejected.is_empty());
        prop_assert_eq!(listed(&read), listed(&table));
    }

    #[test]
    fn pieces_make_up_the_text_or_are_refused(
        length in 0..3 * FLEET_VALUE_BYTES_MAX,
        spoilt in any::<prop::sample::Index>(),
    ) {
        let text: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let chunks = Chunks::of("n", &text);
        let all: Vec<&[u8]> = pieces(&text).collect();
        prop_assert!(all.iter().all(|piece| piece.len() <= FLEET_VALUE_BYTES_MAX));
        prop_assert_eq!(chunks.join(&all), Ok(text.clone()));
        if !all.is_empty() {
            prop_assert!(chunks.join(&all[1..]).is_err());
            let mut other = text.clone();
            let at = spoilt.index(other.len());
            other[at] ^= 1;
            let other: Vec<&[u8]> = pieces(&other).collect();
            prop_assert!(chunks.join(&other).is_err());
        }
    }

    /// Whatever is read ends at the head, and no entry is passed over.
    #[test]
    fn nothing_is_passed_over(own in 0..50u64, head in 0..50u64, first in 1..51u64) {
        let log = (first <= head).then_some(first);
        match missing(Some(own), head, log) {
            Missing::Nothing => prop_assert_eq!(own, head),
            Missing::Entries(from) => {
                prop_assert_eq!(from, own + 1);
                prop_assert!(first <= from && from <= head);
            }
            Missing::Table => prop_assert!(head < own || own + 1 < first),
        }
        prop_assert_eq!(missing(None, head, log), Missing::Table);
    }

    #[test]
    fn a_fold_keeps_what_the_base_lacks(
        base in 0..30_000u64,
        more in 0..100u64,
        size in 1..200_000u64,
    ) {
        let head = base + more;
        let first = first_kept(base, (1..=head).rev().map(|sequence| (sequence, size)));
        prop_assert!(first <= base + 1);
        let kept = head + 1 - first;
        prop_assert!(kept <= FLEET_LOG_KEPT.max(more));
    }
}

#[test]
fn what_is_no_entry_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"sequence":7}"#,
        r#"{"sequence":7,"edits":[],"chunks":{"nonce":"n","count":1,"bytes":1,"crc32":"0"}}"#,
        r#"{"sequence":7,"chunks":{"nonce":"n","count":-1,"bytes":1,"crc32":"0"}}"#,
        r#"{"sequence":7,"chunks":{"nonce":"n","count":1,"bytes":1,"crc32":"x"}}"#,
    ] {
        assert!(Entry::read(7, text.as_bytes()).is_err(), "{text}");
    }
    for text in ["", "{}", "[{}]", r#"[{"whole":true}]"#, r#"[{"whole":1,"rules":{}}]"#] {
        assert!(read_edits(text.as_bytes(), &names()).is_err(), "{text}");
    }
    // A newer version may use a member that changes the meaning of the others.
    let newer = br#"[{"whole":false,"rules":{},"only_on":["b"]}]"#;
    assert!(read_edits(newer, &names()).is_err());
}

#[test]
fn a_rule_of_a_newer_version_is_kept_aside() {
    let text = br#"[{"whole":false,"rules":{"a.com":["teleport",{},true],"b.com":null}}]"#;
    let edits = read_edits(text, &names()).expect("edits");
    assert_eq!(edits[0].rules, [("b.com".to_owned(), None)]);
    assert_eq!(edits[0].rejected.len(), 1);
    assert_eq!(edits[0].rejected[0].0, "a.com");
}
