//! The store in real folders: what is there after a start, and what people are told.

mod crashes;
mod faults;
mod recording;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::table::Rule;

type Change = (String, Option<Rule>);

fn rule(code: u16) -> Rule {
    let json = json!(["empty", {"code": code}, true]);
    Rule::from_json("a", &json, &mut Names::default()).expect("a rule")
}

fn set(name: &str, code: u16) -> Change {
    (name.to_owned(), Some(rule(code)))
}

fn delete(name: &str) -> Change {
    (name.to_owned(), None)
}

fn counted(name: &str, count: u64) -> (String, Totals) {
    (name.to_owned(), Totals { completed_requests: count, ..Totals::default() })
}

fn edited(table: &Snapshot, changes: &[Change]) -> Snapshot {
    crate::table::edit(table, changes.to_vec()).expect("an edit")
}

/// The content as JSON, to compare.
fn shown(loaded: &StoredState) -> Value {
    let rules = loaded.snapshot.iter().map(|(name, rule)| (name.to_owned(), rule.to_json()));
    let rules: std::collections::BTreeMap<_, _> = rules.collect();
    let stats = loaded.stats.iter().map(|(name, counted)| (name, counted.completed_requests));
    let stats: std::collections::BTreeMap<_, _> = stats.collect();
    json!([rules, stats, loaded.sequence])
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.json");
    (folder, path)
}

fn open(path: &Path) -> (Store, StoredState) {
    Store::open(path, &mut Names::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(path: &Path) -> String {
    match Store::open(path, &mut Names::default()) {
        Ok(_) => panic!("it should not open"),
        Err(error) => error,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[test]
fn what_was_committed_is_there_again() {
    let (_folder, path) = folder();
    let (mut store, loaded) = open(&path);
    assert_eq!(shown(&loaded), json!([{}, {}, 0]));
    let (one, two) = ([set("a.com", 201), set("b.com", 202)], [delete("a.com")]);
    let stats = [counted("a.com", 1), counted("b.com", 2), counted("unknown", 3)];
    let records = [Record::Set(&one), Record::Stats(&stats), Record::Set(&two)];
    assert_eq!(store.commit(&records).expect("on disk"), 3);
    assert_eq!(store.commit(&[Record::Set(&[set("c.com", 203)])]).expect("on disk"), 4);
    assert_eq!((store.commit(&[]).expect("nothing"), store.sequence()), (4, 4));
    drop(store);
    let expected = json!([
        {"b.com": ["empty", {"code": 202}, true], "c.com": ["empty", {"code": 203}, true]},
        {"b.com": 2, "unknown": 3},
        4
    ]);
    let looked = Store::read(&path, &mut Names::default()).expect("a state");
    assert_eq!((shown(&looked), looked.warnings.len()), (expected.clone(), 0));
    let (mut store, loaded) = open(&path);
    assert_eq!((shown(&loaded), loaded.warnings.len()), (expected, 0));
    let replaced = [set("d.com", 204)];
    assert_eq!(store.commit(&[Record::Replace(&replaced)]).expect("on disk"), 5);
    drop(store);
    let expected = json!([{"d.com": ["empty", {"code": 204}, true]}, {"unknown": 3}, 5]);
    assert_eq!(shown(&open(&path).1), expected);
}

#[test]
fn a_fold_runs_beside_commits_and_a_rewrite_tidies_up() {
    let (folder, path) = folder();
    let (mut store, _) = open(&path);
    let changes = [set("a.com", 201), set("b.com", 202)];
    store.commit(&[Record::Set(&changes)]).expect("on disk");
    let table = edited(&Snapshot::default(), &changes);
    let fold = store.begin_fold().expect("a fold");
    assert!(matches!(store.begin_fold(), Err(StoreError::Folding)));
    assert!(matches!(store.rewrite(&table, []), Err(StoreError::Folding)));
    let later = [delete("a.com")];
    store.commit(&[Record::Set(&later)]).expect("on disk");
    assert_eq!(fold.sequence(), 1);
    let outcome = fold.run(&table, [counted("b.com", 7)]);
    store.end_fold(&outcome);
    assert!(outcome.is_ok() && !beside(&path, ".journal.folding").exists());
    drop(store);
    let expected = json!([{"b.com": ["empty", {"code": 202}, true]}, {"b.com": 7}, 2]);
    let (mut store, loaded) = open(&path);
    assert_eq!(shown(&loaded), expected);
    store.rewrite(&loaded.snapshot, loaded.stats.clone()).expect("rewritten");
    drop(store);
    assert_eq!(fs::read(beside(&path, ".journal")).expect("a journal"), b"");
    let text = fs::read_to_string(&path).expect("a state");
    assert!(text.ends_with("\n}, \"sequence\": 2}\n"), "{text}");
    assert_eq!(shown(&open(&path).1), expected);
    let names = fs::read_dir(folder.path()).expect("a folder").flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["state.json", "state.json.journal", "state.json.lock"]);
}

#[test]
fn a_journal_that_has_grown_wants_to_be_folded() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path);
    let name = "a".repeat(250);
    let many: Vec<_> = (0..1000).map(|_| set(&name, 200)).collect();
    let mut commits = 0;
    while !store.wants_fold() {
        store.commit(&[Record::Set(&many)]).expect("on disk");
        commits += 1;
        assert!(commits < 100, "it never wants to");
    }
    assert!(store.journal_bytes > FOLD_BYTES_MIN);
    let table = edited(&Snapshot::default(), &many);
    let fold = store.begin_fold().expect("a fold");
    drop(store);
    // The fold is broken off. The next start takes it up again at once.
    drop(fold);
    let (mut store, _) = open(&path);
    assert!(store.wants_fold());
    let outcome = store.begin_fold().expect("a fold").run(&table, []);
    store.end_fold(&outcome);
    assert!(!store.wants_fold());
    assert_eq!(open_later(store, &path).1.snapshot.len(), 1);
}

fn open_later(store: Store, path: &Path) -> (Store, StoredState) {
    drop(store);
    open(path)
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let pid = std::process::id();
    let expected = format!("state_file = {}: in use by mantrid (pid {pid})", path.display());
    assert_eq!(refused(&path), expected);
    Store::read(&path, &mut Names::default()).expect("--check may look");
    open_later(store, &path);
}

#[test]
fn missing_folders_are_made() {
    let (folder, _) = folder();
    let path = folder.path().join("one/two/state.json");
    let (mut store, loaded) = open(&path);
    assert_eq!(loaded.warnings, [""; 0]);
    store.commit(&[Record::Set(&[set("a.com", 201)])]).expect("on disk");
    assert_eq!(open_later(store, &path).1.snapshot.len(), 1);
}

#[test]
fn a_symbolic_link_stays_one() {
    let (folder, path) = folder();
    let target = folder.path().join("elsewhere/table.json");
    fs::create_dir(folder.path().join("elsewhere")).expect("a folder");
    symlink("elsewhere/table.json", &path).expect("a link");
    let (mut store, _) = open(&path);
    let changes = [set("a.com", 201)];
    store.commit(&[Record::Set(&changes)]).expect("on disk");
    store.rewrite(&edited(&Snapshot::default(), &changes), []).expect("rewritten");
    assert!(path.is_symlink() && target.is_file() && beside(&target, ".journal").exists());
    assert!(!beside(&path, ".journal").exists());
    // The same state under another name is the same state.
    assert!(refused(&target).contains("in use"));
    assert_eq!(open_later(store, &path).1.snapshot.len(), 1);
    fs::remove_file(&path).expect("removed");
    symlink("state.json", &path).expect("a link");
    assert!(refused(&path).contains("symbolic links"), "{}", refused(&path));
}

#[test]
fn rights_survive() {
    let (_folder, path) = folder();
    fs::write(&path, "{\"hosts\": {}}").expect("a state");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("rights");
    let before = fs::metadata(&path).expect("a file");
    let (mut store, _) = open(&path);
    store.rewrite(&Snapshot::default(), []).expect("rewritten");
    let after = fs::metadata(&path).expect("a file");
    assert_ne!(before.ino(), after.ino());
    let journal = fs::metadata(beside(&path, ".journal")).expect("a file");
    for metadata in [&after, &journal] {
        assert_eq!(metadata.mode(), before.mode());
        assert_eq!((metadata.uid(), metadata.gid()), (before.uid(), before.gid()));
    }
}

#[test]
fn a_torn_end_is_named_and_cut_off() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path);
    store.commit(&[Record::Set(&[set("a.com", 201)])]).expect("on disk");
    drop(store);
    let journal = beside(&path, ".journal");
    let whole = fs::read(&journal).expect("a journal");
    let torn = [&whole[..], b"{\"n\":2,\"synced\":1,\"set\":{\"b.c"].concat();
    fs::write(&journal, &torn).expect("torn");
    let looked = Store::read(&path, &mut Names::default()).expect("a state");
    assert_eq!(looked.warnings.len(), 1, "{:?}", looked.warnings);
    assert!(
        looked.warnings[0].contains(".journal: line 2: it is cut off"),
        "{:?}",
        looked.warnings
    );
    assert_eq!(fs::read(&journal).expect("a journal"), torn, "--check writes nothing");
    let (mut store, loaded) = open(&path);
    assert_eq!(loaded.warnings, looked.warnings);
    assert_eq!(fs::read(&journal).expect("a journal"), whole);
    assert_eq!(store.commit(&[Record::Set(&[set("c.com", 201)])]).expect("on disk"), 2);
    let (_, loaded) = open_later(store, &path);
    assert_eq!((loaded.snapshot.len(), loaded.warnings.len()), (2, 0));
}

#[test]
fn other_damage_stops_the_start_and_nothing_is_written() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path);
    for name in ["a.com", "b.com", "c.com"] {
        store.commit(&[Record::Set(&[set(name, 201)])]).expect("on disk");
    }
    drop(store);
    let journal = beside(&path, ".journal");
    let whole = fs::read_to_string(&journal).expect("a journal");
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for (bytes, expected) in [
        (whole.replace("b.com", "x.com"), "line 2: its checksum is wrong, and it was ackn"),
        ([lines[0], lines[2]].concat(), "line 2: it has the number 3 where 2 is due, and"),
        ([lines[1], lines[2]].concat(), "line 1: it has the number 2 where 1 is due, and"),
        (whole.replacen("}\n", "} ", 1), "line 1: its checksum is wrong, and it was ackn"),
        (whole.replacen("b.com", "b\n.com", 1), "line 2: it is no line of a journal, and it"),
    ] {
        fs::write(&journal, &bytes).expect("damaged");
        for error in [refused(&path), Store::read(&path, &mut Names::default()).expect_err("bad")] {
            let start = format!("state_file = {}: {}: ", path.display(), journal.display());
            assert!(error.starts_with(&start) && error.contains(expected), "{error}");
            assert!(error.ends_with("delete from that line on: it was left as it is"), "{error}");
        }
        assert_eq!(fs::read_to_string(&journal).expect("untouched"), bytes);
    }
    fs::write(&journal, whole).expect("mended");
    fs::write(&path, "{\"hosts\":\n  nothing}").expect("damaged");
    assert!(refused(&path).contains("state.json: line 2, column"), "{}", refused(&path));
    fs::write(&path, "{\"hosts\": {}, \"sequence\": 2}").expect("newer than the journal");
    assert_eq!(open(&path).1.sequence, 3);
}

#[test]
fn rules_that_are_not_used_are_kept_once_and_before_the_file_is_replaced() {
    let (folder, path) = folder();
    let text = r#"{"hosts": {"a.com": ["empty", {"code": 403}, true],
        "b.com": ["wibble", {}, true], "c..com": ["unknown", {}, false]}, "stats": {}}"#;
    fs::write(&path, text).expect("a state");
    let aside = beside(&path, ".rejected");
    let looked = Store::read(&path, &mut Names::default()).expect("a state");
    assert_eq!((looked.snapshot.len(), looked.warnings.len()), (1, 2), "{:?}", looked.warnings);
    assert!(!aside.exists());
    let (store, loaded) = open(&path);
    assert!(loaded.warnings[0].contains("rule not used: b.com:"), "{:?}", loaded.warnings);
    assert!(loaded.warnings[2].ends_with("state.json.rejected"), "{:?}", loaded.warnings);
    let kept = fs::read_to_string(&aside).expect("kept");
    assert_eq!(kept.lines().count(), 2);
    assert!(kept.contains(r#""rule":["wibble",{},true]"#), "{kept}");
    let (mut store, _) = open_later(store, &path);
    assert_eq!(fs::read_to_string(&aside).expect("kept"), kept);
    assert_eq!(fs::read_to_string(&path).expect("untouched"), text);
    store.rewrite(&loaded.snapshot, []).expect("rewritten");
    // If the rejected rules can't be kept, the only file that has them stays.
    drop(store);
    fs::remove_file(&aside).expect("removed");
    fs::create_dir(&aside).expect("in the way");
    fs::write(&path, text).expect("a state");
    let (mut store, loaded) = open(&path);
    assert!(loaded.warnings[2].contains("can't keep rules that are not used in"));
    assert!(store.rewrite(&loaded.snapshot, []).is_err() && store.begin_fold().is_err());
    assert_eq!(fs::read_to_string(&path).expect("untouched"), text);
    store.commit(&[Record::Set(&[set("d.com", 201)])]).expect("commits go on");
    drop((store, folder));
}

#[test]
fn what_the_journal_holds_that_is_not_valid_is_kept_too() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path);
    store.commit(&[Record::Set(&[set("a.com", 201), set("b.com", 202)])]).expect("on disk");
    drop(store);
    // A line as another version may have written it.
    let journal = beside(&path, ".journal");
    let mut text = fs::read_to_string(&journal).expect("a journal");
    let line = r#"{"n":2,"synced":1,"set":{"a.com":["wibble",{},true]},"who":"me""#;
    let crc = crc32fast::hash(line.as_bytes());
    text += &format!("{line},\"crc32\":\"{crc:08x}\"}}\n");
    fs::write(&journal, text).expect("written");
    let (_, loaded) = open(&path);
    assert_eq!(shown(&loaded), json!([{"b.com": ["empty", {"code": 202}, true]}, {}, 2]));
    assert_eq!((loaded.rejected.len(), &*loaded.rejected[0].host), (1, "a.com"));
    let kept = fs::read_to_string(beside(&path, ".rejected")).expect("kept");
    assert!(kept.contains("wibble"), "{kept}");
}

#[test]
fn without_a_right_to_write_it_is_read_only_until_it_has_one() {
    let (folder, path) = folder();
    fs::write(&path, r#"{"hosts": {"a.com": ["empty", {"code": 403}, true]}}"#).expect("a state");
    // Root may write anywhere, so something stands in the way instead.
    let lock = beside(&path, ".lock");
    fs::create_dir(&lock).expect("in the way");
    let (mut store, loaded) = open(&path);
    assert_eq!((loaded.snapshot.len(), loaded.warnings.len()), (1, 1), "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].starts_with("the state can't be written: "));
    let change = [set("b.com", 201)];
    let error = store.commit(&[Record::Set(&change)]).expect_err("read-only");
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    assert!(store.begin_fold().is_err() && !store.wants_fold() && !store.needs_rewrite());
    fs::remove_dir(&lock).expect("out of the way");
    store.commit(&[Record::Set(&change)]).expect("writable now");
    assert_eq!(open_later(store, &path).1.snapshot.len(), 2);
    // Another process has written in the meantime, so what this store knows is outdated.
    fs::remove_file(&lock).expect("removed");
    fs::create_dir(&lock).expect("in the way");
    let (mut late, _) = open(&path);
    fs::remove_dir(&lock).expect("out of the way");
    let (mut store, _) = open(&path);
    let error = late.commit(&[Record::Set(&change)]).expect_err("in use");
    assert!(error.to_string().contains("in use by mantrid"), "{error}");
    store.commit(&[Record::Set(&change)]).expect("on disk");
    drop(store);
    let error = late.commit(&[Record::Set(&change)]).expect_err("changed");
    assert!(error.to_string().contains("others have changed it"), "{error}");
    drop(folder);
}
