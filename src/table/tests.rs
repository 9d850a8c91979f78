//! The table as a whole: matching, aliases, edits; and the properties on random input.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn rule(value: &Value) -> Rule {
    Rule::from_json("test", value, &mut Names::default()).unwrap()
}

fn table(rules: &[(&str, Value)]) -> Snapshot {
    let changes = rules.iter().map(|(name, value)| ((*name).to_owned(), Some(rule(value))));
    edit(&Snapshot::default(), changes.collect()).unwrap()
}

fn alias(target: &str) -> Value {
    json!(["alias", {"hostname": target}, true])
}

/// Name of the rule that applies, or why none does.
fn matched<'t>(table: &'t Snapshot, host: &str, scheme: Scheme) -> &'t str {
    match table.lookup(host, scheme) {
        Match::NoHosts => "(no hosts)",
        Match::Unknown => "(unknown)",
        Match::Found(found) => found.name(),
    }
}

/// The table and the answers of the original's `BalancerTests.test_resolution`.
#[test]
fn resolves_as_the_original() {
    let table = table(&[
        ("localhost", json!(["empty", {"code": 402}, false])),
        ("local.ep.io", json!(["spin", {}, true])),
        ("http://ep.io", json!(["redirect", {"redirect_to": "https://www.ep.io"}, true])),
        ("ep.io", json!(["proxy", {"backends": [["0.0.0.0", 0x1f90]]}, true])),
    ]);
    for (host, scheme, expected) in [
        ("localhost", Scheme::Http, "localhost"),
        ("local.ep.io", Scheme::Http, "local.ep.io"),
        ("ep.io", Scheme::Http, "http://ep.io"),
        ("ep.io", Scheme::Https, "ep.io"),
        ("subdomain.localhost", Scheme::Http, "(unknown)"),
        ("subdomain.local.ep.io", Scheme::Http, "local.ep.io"),
        ("subdomain.ep.io", Scheme::Http, "http://ep.io"),
        ("multi.level.subdomain.local.ep.io", Scheme::Http, "local.ep.io"),
        ("i-love-bees.com", Scheme::Http, "(unknown)"),
    ] {
        assert_eq!(matched(&table, host, scheme), expected, "{host} {scheme:?}");
    }
}

#[test]
fn passes_over_rules_without_subdomains() {
    let yes = || json!(["unknown", {}, true]);
    let no = || json!(["unknown", {}, false]);
    let table = table(&[
        ("org", yes()),
        ("nosub.org", no()),
        ("http://mixed.org", no()),
        ("mixed.org", yes()),
        ("https://only.net", yes()),
    ]);
    for (host, scheme, expected) in [
        ("nosub.org", Scheme::Http, "nosub.org"),
        ("x.nosub.org", Scheme::Http, "org"),
        ("mixed.org", Scheme::Http, "http://mixed.org"),
        ("x.mixed.org", Scheme::Http, "mixed.org"),
        ("a.only.net", Scheme::Https, "https://only.net"),
        ("a.only.net", Scheme::Http, "(unknown)"),
        ("only.net", Scheme::Http, "(unknown)"),
        ("xorg", Scheme::Http, "(unknown)"),
        ("a.b.c.d.e.f.org", Scheme::Http, "org"),
    ] {
        assert_eq!(matched(&table, host, scheme), expected, "{host} {scheme:?}");
    }
    assert_eq!(matched(&Snapshot::default(), "a", Scheme::Http), "(no hosts)");
}

#[test]
fn finds_names_of_any_length_and_kind() {
    let long = format!("{}.com", "x".repeat(249));
    let names = [&*long, "[2001:db8::1]", "[::ffff:1.2.3.4]", "127.0.0.1", "b\u{fc}cher.example"];
    let rules: Vec<_> = names.iter().map(|name| (*name, json!(["unknown", {}, true]))).collect();
    let table = table(&rules);
    for host in [&*long, "[2001:db8::1]", "[::ffff:1.2.3.4]", "127.0.0.1", "xn--bcher-kva.example"]
    {
        assert_eq!(matched(&table, host, Scheme::Http), host);
    }
}

#[test]
fn aliases_follow_their_target() {
    let old = table(&[
        ("www.a.com", alias("a.com")),
        ("a.com", json!(["empty", {"code": 200}, false])),
        ("deep.a.com", alias("WWW.A.com.")),
    ]);
    let code = |table: &Snapshot, host| match table.lookup(host, Scheme::Http) {
        Match::Found(found) => match &found.rule.action {
            Action::Empty(empty) => (found.name().to_owned(), empty.code()),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&old, "x.deep.a.com"), ("deep.a.com".to_owned(), 200));
    // An edit of the target is seen through the alias at once; the old snapshot does not change.
    let target = rule(&json!(["empty", {"code": 404}, false]));
    let new = edit(&old, vec![("a.com".to_owned(), Some(target))]).unwrap();
    assert_eq!(code(&new, "www.a.com"), ("www.a.com".to_owned(), 404));
    assert_eq!(code(&old, "www.a.com").1, 200);
}

#[test]
fn edits_that_break_an_alias_are_refused() {
    let table = table(&[
        ("a", json!(["unknown", {}, true])),
        ("b", alias("a")),
        ("http://a", json!(["unknown", {}, true])),
    ]);
    let set = |name: &str, value: Value| (name.to_owned(), Some(rule(&value)));
    let delete = |name: &str| (name.to_owned(), None);
    for (changes, code, names) in [
        (vec![delete("a")], "host_aliased", "b"),
        (vec![delete("A.")], "host_aliased", "b"),
        (vec![set("a", alias("b"))], "alias_loop", "a"),
        (vec![set("c", alias("c"))], "alias_loop", "c"),
        (vec![set("c", alias("d"))], "alias_missing", "d"),
        (vec![set("c", alias("https://a"))], "alias_missing", "https://a"),
        (vec![set("c", alias("d")), set("d", alias("c"))], "alias_loop", "c"),
        (vec![set("ok", json!(["unknown", {}, true])), delete("a b")], "hostname_invalid", "a b"),
    ] {
        let error = edit(&table, changes.clone()).unwrap_err();
        assert_eq!(error.code(), code, "{changes:?}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{}:{code}: ", error.host())), "{text}");
        assert!(text.contains(names), "{text}");
    }
    // In order: the alias is deleted too, points elsewhere, points to another rule, or is new and
    // valid.
    for changes in [
        vec![delete("a"), delete("b")],
        vec![delete("a"), set("b", alias("http://a"))],
        vec![delete("http://a")],
        vec![set("c", alias("d")), set("d", alias("b"))],
    ] {
        assert!(edit(&table, changes.clone()).is_ok(), "{changes:?}");
    }
}

#[test]
fn chains_of_aliases_are_bounded_from_either_end() {
    let mut table = table(&[("n0", json!(["unknown", {}, true]))]);
    let change =
        |from: usize, to: usize| vec![(format!("n{from}"), Some(rule(&alias(&format!("n{to}")))))];
    for step in 1..=ALIAS_CHAIN_MAX {
        table = edit(&table, change(step, step - 1)).unwrap();
    }
    let end = format!("n{ALIAS_CHAIN_MAX}");
    assert_eq!(matched(&table, &end, Scheme::Http), end);
    let error = edit(&table, change(ALIAS_CHAIN_MAX + 1, ALIAS_CHAIN_MAX)).unwrap_err();
    assert_eq!(error.code(), "alias_too_long");
    // Now n0 becomes an alias: every chain through it grows, and the longest is too long.
    let more = vec![("m".to_owned(), Some(rule(&json!(["unknown", {}, true]))))];
    let table = edit(&table, more).unwrap();
    let error = edit(&table, vec![("n0".to_owned(), Some(rule(&alias("m"))))]).unwrap_err();
    assert_eq!((error.code(), error.host()), ("alias_too_long", &*end));
}

#[test]
fn the_last_of_two_changes_to_one_name_counts() {
    let code = |code: u16| Some(rule(&json!(["empty", {"code": code}, true])));
    let changes = |codes: [Option<Rule>; 2]| -> Vec<(String, Option<Rule>)> {
        ["A.com".to_owned(), "a.com.".to_owned()].into_iter().zip(codes).collect()
    };
    let table = edit(&Snapshot::default(), changes([code(201), code(202)])).unwrap();
    assert_eq!((table.len(), table.get("a.com")), (1, code(202).as_ref()));
    assert!(edit(&table, changes([code(203), None])).unwrap().is_empty());
    assert_eq!(edit(&table, changes([None, code(204)])).unwrap().get("a.com"), code(204).as_ref());
}

#[test]
fn keys_are_the_same_in_every_table() {
    let old = table(&[
        ("a.com", json!(["empty", {"code": 200}, true])),
        ("http://a.com", json!(["empty", {"code": 201}, true])),
    ]);
    let find = |table: &Snapshot, scheme| match table.lookup("a.com", scheme) {
        Match::Found(found) => (found.key, found.rule.action.clone()),
        other => panic!("{other:?}"),
    };
    let (plain, old_action) = find(&old, Scheme::Https);
    let (http, _) = find(&old, Scheme::Http);
    assert_ne!(plain, http);
    let new = edit(&old, vec![("a.com".to_owned(), Some(rule(&json!(["unknown", {}, true]))))]);
    let (again, new_action) = find(&new.unwrap(), Scheme::Https);
    assert_eq!(plain, again);
    assert_eq!((old_action, new_action), (Action::Empty(Empty::new(200)), Action::Unknown));
    // Another table of this process gives the same name the same key.
    let other = table(&[("a.com", json!(["unknown", {}, false]))]);
    assert_eq!(find(&other, Scheme::Http).0, plain);
}

#[test]
fn a_table_is_shared_between_threads() {
    fn is_send_and_sync<T: Send + Sync + Clone>() {}
    is_send_and_sync::<Snapshot>();
}

#[test]
fn sample_rules_survive_a_round_trip() {
    for value in properties::sample_rules() {
        if let Err(error) = Rule::from_json("a", &value, &mut Names::default()) {
            panic!("{value}: {error}");
        }
        properties::rule_value(&value);
    }
}

/// JSON that is nearly a rule: samples with a value replaced by another's.
fn nearly_a_rule() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        (0.0..3e6_f64).prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        (1..70_000_u32).prop_map(|number| json!(number.to_string())),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
    ];
    let samples = proptest::sample::select(properties::sample_rules());
    (samples, scalar, any::<proptest::sample::Index>(), 0..5).prop_map(
        |(mut rule, value, index, place)| {
            match place {
                0..=2 => {
                    if let Some(arguments) = rule[1].as_object_mut()
                        && !arguments.is_empty()
                    {
                        let name = arguments.keys().nth(index.index(arguments.len())).cloned();
                        arguments.insert(name.unwrap_or_default(), value);
                    }
                }
                3 => rule[index.index(3)] = value,
                _ => {}
            }
            rule
        },
    )
}

proptest! {
    #[test]
    fn hosts_hold(bytes in "[A-Za-z0-9.:\\[\\]_ü%/-]{0,20}") {
        properties::host(bytes.as_bytes());
    }

    #[test]
    fn hosts_hold_for_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        properties::host(&bytes);
    }

    #[test]
    fn rules_hold(value in nearly_a_rule()) {
        properties::rule_value(&value);
        properties::rule(value.to_string().as_bytes());
    }

    #[test]
    fn edits_hold(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        properties::edits(&bytes);
    }
}
