//! A change on its way to disk: its line in the journal, encoded; and put there with one write and
//! one fdatasync, as the store commits it, alone and a hundred at a time.
//!
//! The file is in the build folder: what a sync costs is that disk's affair, and most of the
//! figure. What it hides: the writer's queue, and folding the journal into a new state file. The
//! lines of every file are counted at the end.

#![allow(missing_docs, reason = "criterion's macros define an undocumented function")]

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mantrid::state::Record;
use mantrid::state::journal::encode;
use mantrid::table::{Names, Rule};
use serde_json::json;

type Change = Vec<(String, Option<Rule>)>;

fn change(number: usize) -> Change {
    let mut names = Names::default();
    let json = json!(["proxy", {"backends": [["10.0.0.1", 8000 + number % 16]]}, true]);
    let rule = Rule::from_json("bench", &json, &mut names).expect("the rule is valid");
    vec![(format!("site-{number:07}.example.com"), Some(rule))]
}

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    let one = change(1);
    let thousand: Change = (0..1000).flat_map(change).collect();
    for (what, change, count) in [("set", &one, 1), ("set_1000", &thousand, 1000)] {
        let mut out = Vec::with_capacity(1 << 20);
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("encode/{what}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(&mut out, 12, 11, &Record::Set(black_box(change)));
                assert!(
                    out.starts_with(b"{\"n\":12,\"synced\":11,\"set\":{")
                        && out.ends_with(b"\"}\n")
                );
            });
        });
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20);
    let changes: Vec<Change> = (0..100).map(change).collect();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for count in [1, 100] {
        let path = folder.path().join(format!("journal-{count}"));
        let mut file = OpenOptions::new().append(true).create(true).open(&path).expect("a file");
        let (mut n, mut buffer) = (0, Vec::new());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("append_and_sync/{count}"), |bencher| {
            bencher.iter(|| {
                buffer.clear();
                let synced = n;
                for change in &changes[..count] {
                    n += 1;
                    encode(&mut buffer, n, synced, &Record::Set(change));
                }
                file.write_all(&buffer).expect("written");
                file.sync_data().expect("on disk");
            });
        });
        check(&path, n);
    }
}

/// As many lines as were acknowledged, the last with the last number.
fn check(path: &Path, n: u64) {
    let text = std::fs::read(path).expect("the journal");
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count() as u64, n);
    let last = text[..text.len().saturating_sub(1)].rsplit(|byte| *byte == b'\n').next();
    assert!(
        n == 0 || last.is_some_and(|line| line.starts_with(format!("{{\"n\":{n},").as_bytes()))
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = lines, appends
}
criterion_main!(benches);
