//! Lines that count, lines that are dropped, and lines that stop the start.

use serde_json::json;

use super::super::journal::{self, Record};
use super::super::properties::Content;
use super::*;

fn set(name: &str) -> (String, Option<Rule>) {
    let json = json!(["empty", {"code": 200}, true]);
    (name.to_owned(), Some(Rule::from_json(name, &json, &mut Names::default()).expect("a rule")))
}

fn line(n: u64, synced: u64) -> Vec<u8> {
    let mut line = Vec::new();
    journal::encode(&mut line, n, synced, &Record::Set(&[set(&format!("host-{n}"))]));
    line
}

/// A line of this content with a right checksum.
fn saying(content: &str) -> Vec<u8> {
    [content.as_bytes(), &journal::end_of(content.as_bytes()), b"\n"].concat()
}

fn replay(covered: u64, folding: &[u8], current: &[u8]) -> Result<Replayed, ReplayError> {
    let mut replay = Replay::new(Loaded { sequence: covered, ..Loaded::default() });
    replay.read(JournalFile::Folding, folding, &mut Names::default())?;
    replay.read(JournalFile::Current, current, &mut Names::default())?;
    replay.finish()
}

fn lines(numbers: &[(u64, u64)]) -> Vec<u8> {
    numbers.iter().flat_map(|(n, synced)| line(*n, *synced)).collect()
}

#[test]
fn a_line_is_as_documented() {
    let mut out = Vec::new();
    journal::encode(&mut out, 12, 11, &Record::Set(&[set("a.com"), ("b.com".to_owned(), None)]));
    let content = r#"{"n":12,"synced":11,"set":{"a.com":["empty",{"code":200},true],"b.com":null}"#;
    let crc = crc32fast::hash(content.as_bytes());
    let expected = format!("{content},\"crc32\":\"{crc:08x}\"}}\n");
    assert_eq!(String::from_utf8(out).expect("text"), expected);
    serde_json::from_str::<Value>(&expected).expect("JSON");
    let mut out = Vec::new();
    journal::encode(&mut out, 2, 0, &Record::Replace(&[set("a.com"), ("b.com".to_owned(), None)]));
    let text = String::from_utf8(out).expect("text");
    assert!(
        text.starts_with(r#"{"n":2,"synced":0,"replace":{"a.com":["empty",{"code":200},true]},"#)
    );
    let mut out = Vec::new();
    let counters = Totals::from([1, 2, 3, 0, 0]);
    journal::encode(&mut out, 1, 0, &Record::Stats(&[("ü\"".to_owned(), counters)]));
    let text = String::from_utf8(out).expect("text");
    assert!(text.starts_with(
        r#"{"n":1,"synced":0,"stats":{"ü\"":{"completed_requests":1,"bytes_sent":2,"bytes_received":3}},"#
    ));
}

#[test]
fn lines_count_from_where_the_state_file_ends() {
    for (covered, folding, current, sequence) in [
        (0, vec![], vec![], 0),
        (0, vec![], vec![(1, 0), (2, 0), (3, 2)], 3),
        (0, vec![(1, 0), (2, 1)], vec![(3, 2)], 3),
        // Folded, and the old journal is still there.
        (2, vec![(1, 0), (2, 1)], vec![(3, 2)], 3),
        (3, vec![(1, 0), (2, 1)], vec![(3, 2), (4, 3)], 4),
        // Written anew past numbers that failed.
        (9, vec![(1, 0)], vec![(5, 4), (6, 5)], 9),
        (9, vec![(1, 0)], vec![(5, 4), (10, 9)], 10),
    ] {
        let (folding, current) = (lines(&folding), lines(&current));
        let replayed = replay(covered, &folding, &current).expect("in order");
        assert_eq!(replayed.loaded.sequence, sequence);
        let expected: Vec<_> = (covered + 1..=sequence).map(|n| format!("host-{n}")).collect();
        let mut names: Vec<_> =
            replayed.loaded.snapshot.iter().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        assert_eq!(names, expected);
        assert_eq!((replayed.bytes_kept, replayed.dropped), (current.len() as u64, None));
    }
}

#[test]
fn a_torn_batch_is_dropped() {
    let good = lines(&[(1, 0), (2, 1)]);
    let batch = lines(&[(3, 2), (4, 2), (5, 2)]);
    let first = line(3, 2).len();
    let zeros = vec![0; 100];
    for (torn, sequence) in [
        (&batch[..10], 2),
        (&batch[..first - 1], 2),
        (&batch[..first + 10], 3),
        // Pages that came out of order: the start is missing, what follows is readable.
        (&[&zeros[..], &batch[40..]].concat(), 2),
        (&[&batch[..first + 5], &zeros, &batch[2 * first - 5..]].concat(), 3),
        (&batch[first..], 2),
        (&zeros, 2),
        (&[&zeros[..], b"\n\n"].concat(), 2),
        // Remains of an old file on the disk.
        (&[&batch[..10], b"\n", &line(7, 1)].concat(), 2),
        (&line(2, 1), 2),
    ] {
        let bytes = [&good[..], torn].concat();
        let replayed = replay(0, b"", &bytes).expect("nobody was told");
        assert_eq!(replayed.loaded.sequence, sequence, "{}", String::from_utf8_lossy(torn));
        let expected = good.len() + if sequence == 3 { first } else { 0 };
        assert_eq!(replayed.bytes_kept, expected as u64);
        let (place, what) = replayed.dropped.expect("told");
        assert_eq!(
            (place.file, place.line),
            (JournalFile::Current, sequence as usize + 1),
            "{what}"
        );
    }
}

#[test]
fn damage_to_what_was_acknowledged_is_an_error() {
    let bad = |n, synced| {
        let mut line = line(n, synced);
        line[25] ^= 1;
        line
    };
    let merged = |n, synced| {
        let mut line = line(n, synced);
        line.pop();
        [line, vec![b'x']].concat()
    };
    for (folding, current, file, number) in [
        (vec![], [bad(1, 0), line(2, 1)].concat(), JournalFile::Current, 1),
        (vec![], [line(1, 0), bad(2, 1), line(3, 1), line(4, 3)].concat(), JournalFile::Current, 2),
        (vec![], [line(1, 0), bad(2, 1), bad(3, 2), line(4, 2)].concat(), JournalFile::Current, 2),
        // The line end is what is damaged.
        (vec![], [merged(1, 0), line(2, 1)].concat(), JournalFile::Current, 1),
        (vec![], [line(1, 0), line(3, 2)].concat(), JournalFile::Current, 2),
        (vec![], line(2, 1), JournalFile::Current, 1),
        // This file was whole before the other was begun.
        ([line(1, 0), bad(2, 1)].concat(), vec![], JournalFile::Folding, 2),
        ([line(1, 0), bad(2, 1)].concat(), line(3, 2), JournalFile::Folding, 2),
        (vec![0; 20], vec![], JournalFile::Folding, 1),
        (line(1, 0), line(3, 2), JournalFile::Current, 1),
    ] {
        match replay(0, &folding, &current) {
            Err(ReplayError::Damaged { place, what }) => {
                assert_eq!((place.file, place.line), (file, number), "{what}");
            }
            other => panic!("{other:?} for {}", String::from_utf8_lossy(&current)),
        }
    }
}

#[test]
fn damage_in_what_the_state_file_has_is_harmless() {
    let mut bad = line(2, 1);
    bad[25] ^= 1;
    for (covered, folding, current, sequence, kept) in [
        (3, [line(1, 0), bad.clone(), line(3, 2)].concat(), line(4, 3), 4, line(4, 3).len()),
        (2, [line(1, 0), bad.clone()].concat(), vec![], 2, 0),
        (2, [line(1, 0), bad.clone()].concat(), line(3, 2), 3, line(3, 2).len()),
        (1, vec![0; 30], line(2, 1), 2, line(2, 1).len()),
        // The end of a commit that failed; the state file took its number.
        (2, vec![], [line(1, 0), bad.clone()].concat(), 2, line(1, 0).len()),
    ] {
        let replayed = replay(covered, &folding, &current).expect("harmless");
        assert_eq!(replayed.loaded.sequence, sequence);
        assert_eq!((replayed.bytes_kept, replayed.dropped), (kept as u64, None));
        assert!(replayed.superseded.is_some());
    }
}

#[test]
fn unknown_lines_are_not_dropped() {
    for (content, expected) in [
        (r#"{"n":1,"synced":0,"wibble":{}"#, "expected `set`, `replace` or `stats`"),
        (r#"{"n":1,"synced":0,"set":{},"replace":{}"#, "more than one thing"),
        (r#"{"n":1,"synced":0,"set":[]"#, "an object of rules by host name"),
        (r#"{"n":1,"synced":0,"set":{"a":}"#, "expected value"),
    ] {
        let error = replay(0, b"", &saying(content)).expect_err("strange");
        assert!(matches!(error, ReplayError::Strange { place, .. } if place.line == 1), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let more = saying(r#"{"n":1,"synced":0,"who":["me"],"set":{"a":["unknown",{},true]},"x":1"#);
    assert_eq!(replay(0, b"", &more).expect("known").loaded.snapshot.len(), 1);
}

#[test]
fn lines_that_only_look_like_one() {
    for content in [
        r#"{"n":1,"synced":1,"set":{}"#,
        r#"{"n":99999999999999999999,"synced":0,"set":{}"#,
        r#"{"n":18446744073709551615,"synced":0,"set":{}"#,
        r#"{"n":-1,"synced":0,"set":{}"#,
        r#"{"n":1,"set":{}"#,
        r#"{"synced":0,"n":1,"set":{}"#,
        "",
    ] {
        let replayed = replay(0, b"", &saying(content)).expect("dropped");
        assert!(replayed.dropped.is_some(), "{content}");
    }
}

#[test]
fn a_host_may_be_called_n() {
    let bytes = saying(r#"{"n":1,"synced":0,"set":{"n":["unknown",{},true]}"#);
    assert_eq!(replay(0, b"", &bytes).expect("in order").loaded.snapshot.len(), 1);
    let mut damaged = b"x".to_vec();
    damaged.extend(saying(r#"{"n":2,"synced":1,"set":{"n":["unknown",{},true]}"#));
    assert!(replay(0, b"", &damaged).is_err(), "the line behind the damage was read");
}

#[test]
fn rules_that_are_not_valid_are_handed_back_until_another_takes_their_place() {
    let bytes = [
        line(1, 0),
        saying(
            r#"{"n":2,"synced":1,"set":{"host-1":["wibble",{},true],"a..b":["unknown",{},true],
            "Upper":["unknown",{},true],"later":["wibble",{},true]}"#
                .replace("\n            ", "")
                .as_str(),
        ),
        saying(r#"{"n":3,"synced":2,"set":{"later":["unknown",{},true]}"#),
        saying(r#"{"n":4,"synced":2,"set":{"lost":["alias",{"hostname":"nowhere"},true]}"#),
    ]
    .concat();
    let Loaded { snapshot, mut rejected, .. } = replay(0, b"", &bytes).expect("in order").loaded;
    rejected.sort_by(|a, b| a.host.cmp(&b.host));
    let errors: Vec<_> = rejected.iter().map(|rejected| rejected.error.as_str()).collect();
    assert!(errors[0].starts_with("a..b:hostname_invalid: "), "{errors:?}");
    assert!(errors[1].starts_with("host-1:host_action_invalid:wibble"), "{errors:?}");
    assert!(errors[2].starts_with("lost:alias_missing: "), "{errors:?}");
    let mut names: Vec<_> = snapshot.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!((names, errors.len()), (vec!["later", "upper"], 3));
}

#[test]
fn counters_go_with_their_rules() {
    let counted = |count| Totals { completed_requests: count, ..Totals::default() };
    let stats = ["a", "b", "unknown"].map(|name| (name.to_owned(), counted(1)));
    let of_file = Loaded { stats: stats.to_vec(), ..Loaded::default() };
    let mut bytes = Vec::new();
    let rules = [set("a"), set("b"), set("c")];
    let more = [("b".to_owned(), counted(2)), ("c".to_owned(), counted(3))];
    journal::encode(&mut bytes, 1, 0, &Record::Set(&rules));
    journal::encode(&mut bytes, 2, 0, &Record::Stats(&more));
    journal::encode(&mut bytes, 3, 0, &Record::Set(&[("a".to_owned(), None)]));
    let read = |bytes: &[u8]| {
        let mut replay = Replay::new(Loaded { stats: of_file.stats.clone(), ..Loaded::default() });
        replay.read(JournalFile::Current, bytes, &mut Names::default()).expect("in order");
        let stats = replay.finish().expect("in order").loaded.stats;
        stats
            .into_iter()
            .map(|(name, counters)| (name, counters.completed_requests))
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> =
        [("b", 2), ("c", 3), ("unknown", 1)].map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(read(&bytes), expected);
    journal::encode(&mut bytes, 4, 3, &Record::Replace(&rules[..2]));
    assert_eq!(read(&bytes), [expected[0].clone(), expected[2].clone()]);
}

#[test]
fn a_hundred_thousand_lines_are_soon_read() {
    let mut bytes = Vec::new();
    for n in 1..=100_000 {
        let name = format!("host-{}.example", n % 50_000);
        journal::encode(&mut bytes, n, n - 1, &Record::Set(&[(name, set("a").1)]));
    }
    let replayed = replay(0, b"", &bytes).expect("in order");
    assert_eq!((replayed.loaded.snapshot.len(), replayed.loaded.sequence), (50_000, 100_000));
    assert_eq!(Content::of(&replayed.loaded), Content::of(&replayed.loaded));
}
