//! Files of the original, of its fork, of ours; and damaged ones.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::table::{Match, Scheme, properties};

fn load(text: &str) -> Loaded {
    parse(text.as_bytes(), &mut Names::default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn hosts(loaded: &Loaded) -> Vec<String> {
    let mut names: Vec<_> = loaded.snapshot.iter().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn nothing_is_damage() {
    for text in ["", " ", "{", "\n", "\0"] {
        let error = parse(text.as_bytes(), &mut Names::default()).expect_err(text);
        assert_eq!(error.line, 1, "{text:?}: {error}");
    }
    assert!(load(r#"{"hosts": {}}"#).snapshot.is_empty());
}

#[test]
fn a_file_of_the_original() {
    // As json.dump of Python 2 writes it.
    let loaded = load(
        r#"{"stats": {"a.com": {"open_requests": 2, "completed_requests": 3, "bytes_sent": 171,
        "bytes_received": 95}, "unknown": {}, "b.com": {"bytes_sent": "?", "mean": [1.5]}},
        "hosts": {"a.com": ["static", {"type": "test"}, true],
        "b\u00fccher.example": ["empty", {"code": "403"}, false],
        "http://ep.io": ["redirect", {"redirect_to": "https://www.ep.io"}, true],
        "c.com": ["proxy", {"backends": [["127.0.0.1", 8000], ["localhost", 8001]],
        "attempts": "3", "delay": "0.1"}, true]}}"#,
    );
    assert_eq!(loaded.rejected, []);
    assert_eq!(hosts(&loaded), ["a.com", "c.com", "http://ep.io", "xn--bcher-kva.example"]);
    let a = Totals::from([3, 171, 95, 0, 0]);
    assert_eq!(
        loaded.stats,
        [
            ("a.com".to_owned(), a),
            ("unknown".to_owned(), Totals::default()),
            ("b.com".to_owned(), Totals::default()),
        ]
    );
}

#[test]
fn a_file_of_the_fork() {
    let loaded = load(
        r#"{"hosts": {"a.com": ["proxy", {"backends": [{"__backend__": ["10.0.0.1", 80]}],
        "algorithm": "least_connections", "healthcheck": "true"}, true],
        "b.com": ["alias", {"hostname": "a.com"}, false]}}"#,
    );
    assert_eq!((hosts(&loaded), loaded.rejected), (vec!["a.com".into(), "b.com".into()], vec![]));
    assert!(loaded.stats.is_empty());
}

#[test]
fn rules_that_are_not_valid_do_not_stop_the_others() {
    let loaded = load(
        r#"{"hosts": {
        "good.com": ["empty", {"code": 200}, true],
        "bad.com": ["proxy", {"backends": []}, true],
        ".dot.com": ["unknown", {}, true],
        "of-bad.com": ["alias", {"hostname": "bad.com"}, true],
        "of-of-bad.com": ["alias", {"hostname": "of-bad.com"}, true],
        "of-good.com": ["alias", {"hostname": "good.com"}, true],
        "loop1": ["alias", {"hostname": "loop2"}, true],
        "loop2": ["alias", {"hostname": "loop1"}, true],
        "Twice.com": ["empty", {"code": 201}, true],
        "twice.com": ["empty", {"code": 202}, true],
        "TWICE.com": ["empty", {"code": 203}, true],
        "Respelt.com": ["empty", {"code": 204}, true],
        "RESPELT.com": ["empty", {"code": 205}, true],
        "same.com": ["empty", {"code": 206}, true],
        "same.com": ["empty", {"code": 207}, true]
        }}"#,
    );
    let expected = ["good.com", "of-good.com", "respelt.com", "same.com", "twice.com"];
    assert_eq!(hosts(&loaded), expected);
    for (host, code) in [("twice.com", 202), ("respelt.com", 204), ("same.com", 207)] {
        let rule = loaded.snapshot.get(host).map(Rule::to_json);
        assert_eq!(rule, Some(json!(["empty", {"code": code}, true])));
    }
    let mut rejected: Vec<_> = loaded.rejected.iter().map(|it| (&*it.host, &*it.error)).collect();
    rejected.sort_unstable();
    let expected = [
        (".dot.com", "empty label"),
        ("RESPELT.com", "rule for"),
        ("TWICE.com", "rule for"),
        ("Twice.com", "rule for"),
        ("bad.com", "bad.com:host_kwarg_invalid:backends: "),
        ("loop1", "alias_loop"),
        ("loop2", "alias_loop"),
        ("of-bad.com", "alias_missing"),
        ("of-of-bad.com", "alias_missing"),
        ("same.com", "later"),
    ];
    assert_eq!(rejected.len(), expected.len(), "{rejected:?}");
    for ((host, error), (expected_host, part)) in rejected.into_iter().zip(expected) {
        assert_eq!(host, expected_host);
        assert!(error.starts_with(&format!("{host}:")) && error.contains(part), "{error}");
    }
    let twice = loaded.rejected.iter().find(|rejected| rejected.host == "Twice.com");
    assert_eq!(twice.map(|it| &it.rule), Some(&json!(["empty", {"code": 201}, true])));
    // The remaining table is valid and can be edited.
    let delete = vec![("good.com".to_owned(), None)];
    let error = crate::table::edit(&loaded.snapshot, delete).unwrap_err();
    assert_eq!(error.code(), "host_aliased");
}

#[test]
fn damage_is_refused_with_its_place() {
    for (text, line, column, problem) in [
        ("[]", 1, 0, "invalid type: sequence, expected an object with \"hosts\" and \"stats\""),
        ("{}", 1, 2, "missing field `hosts`"),
        ("{\"hosts\": {},\n \"hosts\": {}}", 2, 8, "duplicate field `hosts`"),
        (
            "{\"hosts\": []}",
            1,
            10,
            "invalid type: sequence, expected an object of rules by host name",
        ),
        ("{\"hosts\": {\n\"a\": [\"unknown\", {}, tru", 2, 24, "EOF while parsing a value"),
        ("{\"hosts\": {}} x", 1, 15, "trailing characters"),
        (
            "{\"hosts\": {}, \"stats\": {\"a\": 1}}",
            1,
            30,
            "invalid type: integer `1`, expected an object of counters",
        ),
        (
            "{\"hosts\": {}, \"sequence\": -1}",
            1,
            28,
            "invalid type: integer `-1`, expected the number of the last change, \
             at most 9007199254740992",
        ),
        (
            "{\"hosts\": {}, \"sequence\": 9007199254740993}",
            1,
            42,
            "invalid value: integer `9007199254740993`, expected the number of the last change, \
             at most 9007199254740992",
        ),
        ("\n\n", 3, 0, "EOF while parsing a value"),
    ] {
        let error = parse(text.as_bytes(), &mut Names::default()).unwrap_err();
        assert_eq!((error.line, error.column, &*error.problem), (line, column, problem), "{text}");
    }
    let error = parse(b"{\"hosts\": {\"\xff\": []}}", &mut Names::default()).unwrap_err();
    assert!(error.problem.contains("unicode"), "{error}");
}

#[test]
fn a_file_is_written_to_be_read_and_compared() {
    let loaded = load(
        r#"{"hosts": {"b.com": ["empty", {"code": 403}, false], "a.com": ["unknown", {}, true]},
        "sequence": 7, "stats": {"unknown": {"bytes_sent": 1}, "a.com": {},
        "b.com": {"completed_requests": 9, "errors": 4, "limited": 5}}}"#,
    );
    let mut written = Vec::new();
    write(&mut written, &loaded.snapshot, loaded.stats, loaded.sequence).unwrap();
    let expected = r#"{"hosts": {
"a.com": ["unknown",{},true],
"b.com": ["empty",{"code":403},false]
}, "stats": {
"a.com": {"completed_requests":0,"bytes_sent":0,"bytes_received":0},
"b.com": {"completed_requests":9,"bytes_sent":0,"bytes_received":0,"errors":4,"limited":5},
"unknown": {"completed_requests":0,"bytes_sent":1,"bytes_received":0}
}, "sequence": 7}
"#;
    assert_eq!(String::from_utf8(written).unwrap(), expected);
    let mut written = Vec::new();
    write(&mut written, &Snapshot::default(), [], 0).unwrap();
    assert!(load(std::str::from_utf8(&written).unwrap()).snapshot.is_empty());
    // A failed write is reported, however little could not be written.
    let mut full = [0; 10];
    assert!(write(&mut &mut full[..], &loaded.snapshot, [], 0).is_err());
}

#[test]
fn additions_of_a_newer_version_are_passed_over() {
    let loaded = load(r#"{"version": [1, {"x": null}], "hosts": {"a": ["unknown", {}, true]}}"#);
    assert!(matches!(loaded.snapshot.lookup("a", Scheme::Http), Match::Found(_)));
}

proptest! {
    /// Every rule of a file is in the table or among the rejected; the table is valid.
    #[test]
    fn nothing_is_lost(
        names in proptest::collection::btree_set("(http://)?[abAB]\\.?[a-c]{0,2}\\.?", 0..40),
        rules in proptest::collection::vec(
            prop_oneof![
                3 => proptest::sample::select(properties::sample_rules()),
                2 => "[ab]\\.[a-c]{1,2}".prop_map(|to| json!(["alias", {"hostname": to}, true])),
                1 => Just(json!(["alias", {}, true])),
            ],
            40,
        ),
    ) {
        let given: serde_json::Map<_, _> = names.into_iter().zip(rules).collect();
        let loaded = load(&json!({"hosts": given}).to_string());
        prop_assert_eq!(loaded.snapshot.len() + loaded.rejected.len(), given.len());
        for rejected in &loaded.rejected {
            prop_assert!(given.contains_key(&rejected.host));
            prop_assert!(!rejected.error.is_empty());
        }
        // Written and read again, nothing is rejected, because the rules that were taken are valid.
        let written: serde_json::Map<_, _> =
            loaded.snapshot.iter().map(|(name, rule)| (name.to_owned(), rule.to_json())).collect();
        let again = load(&json!({"hosts": written}).to_string());
        prop_assert_eq!(&again.rejected, &[]);
        for (name, rule) in loaded.snapshot.iter() {
            prop_assert_eq!(again.snapshot.get(name), Some(rule));
        }
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        super::properties::state(&bytes);
    }

    #[test]
    fn any_file(
        names in proptest::collection::vec("(http://)?[abAB]\\.?[a-c]{0,2}", 0..10),
        rules in proptest::collection::vec(
            proptest::sample::select(properties::sample_rules()), 10),
        counts in proptest::collection::vec(any::<u64>(), 10),
        sequence in 0..=SEQUENCE_MAX,
    ) {
        let counters = counts.iter().map(|count| json!({"bytes_sent": count, "x\"": 1}));
        let stats: serde_json::Map<_, _> = names.iter().cloned().zip(counters).collect();
        let hosts: serde_json::Map<_, _> = names.into_iter().zip(rules).collect();
        let text = json!({"stats": stats, "sequence": sequence, "hosts": hosts}).to_string();
        super::properties::state(text.as_bytes());
        prop_assert_eq!(load(&text).sequence, sequence);
    }

    #[test]
    fn any_journal(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        super::properties::journal(&bytes);
    }
}
