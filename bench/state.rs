//! The state on disk, as text: reading and writing a file of a million rules. What it hides: the
//! disk itself.

#![allow(missing_docs, reason = "criterion's macros define an undocumented function")]

use std::fmt::Write as _;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mantrid::state::{self, Totals};
use mantrid::table::Names;

const RULES: usize = 1_000_000;

/// A state file as the daemon writes it, a rule a line.
fn text() -> String {
    let mut text = String::from("{\"hosts\": {\n");
    for number in 0..RULES {
        let separator = if number == 0 { "" } else { ",\n" };
        let port = 8000 + number % 16;
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{separator}\"site-{number:07}.example.com\": [\"proxy\", {{\"backends\": \
             [[\"10.0.0.1\", {port}]]}}, true]"
        );
    }
    text + "\n}, \"stats\": {}}\n"
}

fn file(criterion: &mut Criterion) {
    let text = text();
    let mut group = criterion.benchmark_group(format!("state/{RULES}"));
    group.sample_size(10).measurement_time(Duration::from_secs(15));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let loaded = state::parse(text.as_bytes(), &mut Names::default()).expect("a state");
            assert_eq!((loaded.snapshot.len(), loaded.rejected.len()), (RULES, 0));
            loaded
        });
    });
    let loaded = state::parse(text.as_bytes(), &mut Names::default()).expect("a state");
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            let mut out = Vec::new();
            let stats = std::iter::empty::<(String, Totals)>();
            state::write(&mut out, &loaded.snapshot, stats, 1).expect("memory");
            assert!(RULES * 50 < out.len());
            out.len()
        });
    });
}

criterion_group!(benches, file);
criterion_main!(benches);
