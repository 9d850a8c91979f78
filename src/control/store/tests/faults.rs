//! Each operation fails once: what callers are told, what is refused, and how it goes on.

use libc::{EACCES, EINTR, EIO, ENOSPC, EROFS};

use super::super::disk::Part;
use super::recording::{Fault, Recording, Step};
use super::*;

type FaultyDisk = Recording<()>;

fn recover(disk: &FaultyDisk) -> (Store, StoredState) {
    Store::open_on(Arc::new(disk.clone()), &mut Names::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A store with one commit in it.
fn started() -> (FaultyDisk, Store) {
    let disk = FaultyDisk::default();
    let (mut store, _) = recover(&disk);
    commit(&mut store, "first").expect("on disk");
    (disk, store)
}

fn commit(store: &mut Store, name: &str) -> Result<u64, StoreError> {
    store.commit(&[Record::Set(&[set(name, 200)])])
}

fn table(names: &[&str]) -> Snapshot {
    let changes: Vec<_> = names.iter().map(|name| set(name, 200)).collect();
    edited(&Snapshot::default(), &changes)
}

fn found(disk: &FaultyDisk) -> Vec<String> {
    let (_, loaded) = recover(disk);
    let mut names: Vec<_> = loaded.snapshot.iter().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_full_disk_refuses_a_change_and_no_more() {
    for short in [0, 1, 50] {
        let (disk, mut store) = started();
        let before = disk.content(Part::Journal);
        let mut writes = 0;
        disk.decide(move |step| {
            writes += usize::from(step == Step::Write(Part::Journal));
            match writes {
                1 if short != 0 && step == Step::Write(Part::Journal) => Some(Fault::Short(short)),
                1 | 2 if step == Step::Write(Part::Journal) => Some(Fault::Fails(ENOSPC)),
                _ => None,
            }
        });
        let error = commit(&mut store, "full").expect_err("full").to_string();
        let expected = "can't write disk/Journal: No space left on device (os error 28)";
        assert!(error.starts_with(expected) && error.contains("make room"), "{error}");
        assert!(!store.needs_rewrite());
        assert_eq!(disk.content(Part::Journal), before);
        disk.decide(|_| None);
        assert_eq!(commit(&mut store, "later").expect("room again"), 2);
        assert_eq!(found(&disk), ["first", "later"]);
    }
}

#[test]
fn short_and_interrupted_writes_are_gone_on_with() {
    let (disk, mut store) = started();
    let mut turn = 0;
    disk.decide(move |step| {
        turn += 1;
        let is_write = matches!(step, Step::Write(_));
        is_write.then_some(if turn % 2 == 0 { Fault::Short(3) } else { Fault::Fails(EINTR) })
    });
    commit(&mut store, "second").expect("on disk");
    store.rewrite(&table(&["first", "second"]), []).expect("rewritten");
    commit(&mut store, "third").expect("on disk");
    assert_eq!(found(&disk), ["first", "second", "third"]);
    // A write that takes no bytes has failed.
    disk.decide(|step| (step == Step::Write(Part::Journal)).then_some(Fault::Short(0)));
    commit(&mut store, "fourth").expect_err("nothing was written");
    disk.decide(|_| None);
    commit(&mut store, "fifth").expect("on disk");
    assert_eq!(found(&disk), ["fifth", "first", "second", "third"]);
}

#[test]
fn what_can_not_be_cut_off_or_synced_needs_a_rewrite() {
    let cut_fails = |fails: Step| {
        move |step: Step| match step {
            Step::Write(Part::Journal) => Some(Fault::Fails(ENOSPC)),
            step if step == fails => Some(Fault::Fails(EIO)),
            _ => None,
        }
    };
    for (index, fails) in
        [Step::Truncate(Part::Journal), Step::Sync(Part::Journal)].into_iter().enumerate()
    {
        let (disk, mut store) = started();
        disk.decide(cut_fails(fails));
        let error = commit(&mut store, "refused").expect_err("full").to_string();
        assert!(error.contains("No space left on device"), "{error}");
        needs_rewrite(&disk, store, &format!("case {index}"));
    }
    // A sync fails; the records are cut off again, or can't be.
    for also in [Step::Lock, Step::Truncate(Part::Journal)] {
        let (disk, mut store) = started();
        disk.decide(move |step| {
            let is_it = step == Step::Sync(Part::Journal) || step == also;
            is_it.then_some(Fault::Fails(EIO))
        });
        let error = commit(&mut store, "refused").expect_err("not on disk").to_string();
        assert_eq!(error, "can't sync disk/Journal: Input/output error (os error 5)");
        needs_rewrite(&disk, store, &format!("{also:?}"));
    }
}

/// Checks that no change is taken until the table is in new files, and that nothing of the refused
/// change is left then.
fn needs_rewrite(disk: &FaultyDisk, mut store: Store, case: &str) {
    disk.decide(|_| None);
    assert!(store.needs_rewrite() && !store.wants_fold(), "{case}");
    let refused = [
        commit(&mut store, "more").map(|_| ()),
        store.commit(&[]).map(|_| ()),
        store.begin_fold().map(|_| ()),
    ];
    for refused in refused {
        let error = refused.expect_err("refused").to_string();
        assert!(error.starts_with("changes are refused until the whole state is"), "{error}");
    }
    let table = table(&["first"]);
    for step in [
        Step::Create(Part::New),
        Step::Write(Part::New),
        Step::Sync(Part::New),
        Step::Rename(Part::New),
        Step::SyncFolder,
        Step::Remove(Part::Journal),
        Step::Create(Part::Journal),
    ] {
        disk.fail_once(step, EIO);
        store.rewrite(&table, []).expect_err("not written");
        assert!(store.needs_rewrite(), "{case}: {step:?}");
    }
    store.rewrite(&table, []).expect("rewritten");
    assert!(!store.needs_rewrite(), "{case}");
    assert_eq!(found(disk), ["first"], "{case}");
    let (mut store, _) = recover(disk);
    commit(&mut store, "later").expect("on disk");
    assert_eq!(found(disk), ["first", "later"], "{case}");
}

#[test]
fn a_fold_that_can_not_start_changes_nothing_or_asks_for_a_rewrite() {
    for (step, is_spoilt) in [
        (Step::Rename(Part::Journal), false),
        (Step::SyncFolder, true),
        (Step::Create(Part::Journal), true),
    ] {
        let (disk, mut store) = started();
        disk.fail_once(step, ENOSPC);
        assert!(store.begin_fold().is_err());
        assert_eq!(store.needs_rewrite(), is_spoilt, "{step:?}");
        if is_spoilt {
            assert_eq!(found(&disk), ["first"], "{step:?}");
            needs_rewrite(&disk, store, &format!("{step:?}"));
        } else {
            commit(&mut store, "later").expect("on disk");
            assert_eq!(found(&disk), ["first", "later"]);
        }
    }
}

#[test]
fn a_fold_that_fails_leaves_all_as_it_was_and_the_next_makes_up_for_it() {
    for step in [
        Step::Create(Part::New),
        Step::Write(Part::New),
        Step::Sync(Part::New),
        Step::Rename(Part::New),
        Step::SyncFolder,
    ] {
        let (disk, mut store) = started();
        let fold = store.begin_fold().expect("a fold");
        disk.fail_once(step, ENOSPC);
        let outcome = fold.run(&table(&["first"]), []);
        let error = outcome.as_ref().expect_err("failed").to_string();
        assert!(error.contains("No space left"), "{step:?}: {error}");
        store.end_fold(&outcome);
        assert!(disk.content(Part::New).is_none(), "{step:?}: it takes up room");
        // The fold is not due again at once: the disk is still full.
        assert!(!store.wants_fold() && !store.needs_rewrite());
        commit(&mut store, "second").expect("commits go on");
        assert_eq!(found(&disk), ["first", "second"], "{step:?}");
        let fold = store.begin_fold().expect("a fold");
        commit(&mut store, "third").expect("commits go on");
        let outcome = fold.run(&table(&["first", "second"]), []);
        store.end_fold(&outcome);
        assert!(outcome.is_ok() && disk.content(Part::Folding).is_none());
        assert_eq!(found(&disk), ["first", "second", "third"], "{step:?}");
    }
}

#[test]
fn a_folded_journal_that_stays_does_no_harm() {
    let (disk, mut store) = started();
    let fold = store.begin_fold().expect("a fold");
    disk.fail_once(Step::Remove(Part::Folding), EIO);
    let outcome = fold.run(&table(&["first"]), []);
    store.end_fold(&outcome);
    assert!(outcome.is_ok() && disk.content(Part::Folding).is_some());
    commit(&mut store, "second").expect("on disk");
    assert_eq!(found(&disk), ["first", "second"]);
    let outcome = store.begin_fold().expect("a fold").run(&table(&["first", "second"]), []);
    store.end_fold(&outcome);
    assert_eq!(found(&disk), ["first", "second"]);
}

#[test]
fn what_fails_at_the_start_is_told_and_tried_again() {
    for (step, error) in [
        (Step::Lock, EROFS),
        (Step::Lock, EACCES),
        (Step::Append(Part::Journal), EACCES),
        (Step::Append(Part::Journal), EROFS),
    ] {
        let (disk, store) = started();
        drop(store);
        disk.decide(move |asked| (asked == step).then_some(Fault::Fails(error)));
        let (mut store, loaded) = recover(&disk);
        assert_eq!((loaded.snapshot.len(), loaded.warnings.len()), (1, 1));
        let why = io::Error::from_raw_os_error(error).to_string();
        assert!(loaded.warnings[0].contains(&why), "{:?}", loaded.warnings);
        let refused = commit(&mut store, "second").expect_err("read-only").to_string();
        assert!(refused.contains(&why), "{refused}");
        assert!(store.rewrite(&table(&["first"]), []).is_err() && store.begin_fold().is_err());
        disk.decide(|_| None);
        assert_eq!(commit(&mut store, "second").expect("writable"), 2);
        assert_eq!(found(&disk), ["first", "second"], "{step:?}");
    }
}

#[test]
fn a_journal_that_can_not_be_synced_at_the_start_is_not_gone_on_with() {
    for step in [
        Step::Truncate(Part::Journal),
        Step::Write(Part::Journal),
        Step::Sync(Part::Journal),
        Step::SyncFolder,
    ] {
        let (disk, store) = started();
        drop(store);
        disk.fail_once(step, EIO);
        let (store, loaded) = recover(&disk);
        assert!(loaded.warnings[0].contains("Input/output error"), "{:?}", loaded.warnings);
        needs_rewrite(&disk, store, &format!("{step:?}"));
    }
}

#[test]
fn what_can_not_be_read_stops_the_start() {
    let (disk, mut store) = started();
    let _ = store.begin_fold().expect("a fold");
    for part in [Part::State, Part::Folding, Part::Journal] {
        disk.fail_once(Step::Read(part), EACCES);
        let opened = Store::open_on(Arc::new(disk.clone()), &mut Names::default());
        let error = opened.map(|_| ()).expect_err("unreadable");
        assert!(error.starts_with("state_file = disk/State: "), "{error}");
        assert!(
            error.contains("Permission denied") && error.contains("must be able to"),
            "{error}"
        );
        assert!(error.contains(&format!("disk/{part:?}")), "{error}");
    }
}

#[test]
fn numbers_run_out_without_a_panic() {
    let disk = FaultyDisk::default();
    let (mut store, _) = recover(&disk);
    store.tried = SEQUENCE_MAX - 1;
    store.rewrite(&Snapshot::default(), []).expect("rewritten");
    let (mut store, _) = recover(&disk);
    assert_eq!(commit(&mut store, "last").expect("on disk"), SEQUENCE_MAX);
    commit(&mut store, "more").expect_err("no number is left");
    assert_eq!(recover(&disk).1.sequence, SEQUENCE_MAX);
}
