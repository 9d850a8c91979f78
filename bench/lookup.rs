//! The host table at 1, 10,000 and 1,000,000 rules: lookup, edit, and memory per rule.
//!
//! Each request looks up another host, in random order over the whole table, so that at a million
//! rules nearly every lookup finds its bucket and its rule outside the cache: the worst case, and
//! harsher than real traffic, where few hosts get most requests. What it hides: the rest of a
//! request, beside which these nanoseconds are few. Results are asserted inside the loops.

#![allow(missing_docs, reason = "criterion's macros define an undocumented function")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mantrid::table::{Match, Names, Rule, Scheme, Snapshot, edit, edit_canonical, host};
use serde_json::json;

const SIZES: [u32; 3] = [1, 10_000, 1_000_000];
/// All names are equally long, so that one flat text holds them and reading them costs little.
const NAME_BYTES: usize = "site-1234567.example.com".len();

fn name(number: u32) -> String {
    format!("site-{number:07}.example.com")
}

fn rule(number: u32, names: &mut Names) -> Rule {
    let [_, a, b, c] = number.to_be_bytes();
    let backend = format!("10.{a}.{b}.{c}");
    let json = json!(["proxy", {"backends": [[backend, 8000]]}, true]);
    Rule::from_json("bench", &json, names).expect("the rule is valid")
}

fn table(size: u32) -> Snapshot {
    let mut names = Names::default();
    let rules = (0..size).map(|number| (name(number), Some(rule(number, &mut names)))).collect();
    let table = edit(&Snapshot::default(), rules).expect("the rules are valid");
    assert_eq!(table.len(), size as usize);
    table
}

/// Every number below `size` in an order that looks random: a full-period generator on 2^20.
fn shuffled(size: u32) -> impl Iterator<Item = u32> {
    let mut state = 12_345_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 20);
        state
    })
    .take(1 << 20)
    .filter(move |number| *number < size)
}

fn lookup(criterion: &mut Criterion) {
    for size in SIZES {
        let table = table(size);
        let mut group = criterion.benchmark_group(format!("lookup/{size}"));
        for (what, prefix, found) in
            [("hit", "", true), ("parent", "www.", true), ("miss", "x", false)]
        {
            let order = if what == "miss" { shuffled(1 << 20) } else { shuffled(size) };
            let hosts: String = order.map(|number| format!("{prefix}{}", name(number))).collect();
            let mut hosts = hosts.as_bytes().chunks(NAME_BYTES + prefix.len()).cycle();
            group.bench_function(what, |bencher| {
                bencher.iter(|| {
                    let host = hosts.next().expect("a cycle has no end");
                    let mut room = [0; 256];
                    let host = host::canonical(host, &mut room).expect("the host is valid");
                    match table.lookup(host, Scheme::Http) {
                        Match::Found(it) => assert!(found && host.ends_with(it.name())),
                        Match::Unknown => assert!(!found),
                        Match::NoHosts => unreachable!("there are rules"),
                    }
                });
            });
        }
    }
}

/// One rule replaced, the new table in place of the old, and what that frees freed.
fn replace(criterion: &mut Criterion) {
    for size in SIZES {
        let mut names = Names::default();
        let mut current = table(size);
        let mut numbers: Vec<u32> = shuffled(size).collect();
        let mut next = move || {
            numbers.rotate_left(1);
            numbers[0]
        };
        criterion.bench_function(&format!("replace/{size}"), |bencher| {
            bencher.iter_batched(
                || {
                    let number = next();
                    vec![(name(number), Some(rule(number ^ 1, &mut names)))]
                },
                |change| {
                    current = edit(&current, change).expect("the change is valid");
                    assert_eq!(current.len(), size as usize);
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// One rule replaced and the new table put where the shards find it: all that a change does besides
/// the disk. (A shard sees it at its next request: one load.)
fn publish(criterion: &mut Criterion) {
    for size in SIZES {
        let mut names = Names::default();
        let published = ArcSwap::from_pointee(table(size));
        let mut numbers = shuffled(size).collect::<Vec<u32>>().into_iter().cycle();
        criterion.bench_function(&format!("publish/{size}"), |bencher| {
            bencher.iter_batched(
                || {
                    let number = numbers.next().expect("a cycle has no end");
                    [(name(number), Some(rule(number ^ 1, &mut names)))]
                },
                |change| {
                    let new = edit_canonical(&published.load(), &change);
                    published.store(Arc::new(new.expect("the change is valid")));
                    assert_eq!(published.load().len(), size as usize);
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// Resident memory per rule: all of it, the allocator's share too.
fn memory(_: &mut Criterion) {
    let before = resident_bytes();
    let table = table(1_000_000);
    let each = (resident_bytes() - before) / table.len();
    println!("memory/1000000          {each} bytes per rule");
    assert!(each <= 150, "a rule with one backend takes {each} bytes");
    black_box(table);
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    1024 * kib.expect("VmRSS is a number")
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = memory, lookup, replace, publish
}
criterion_main!(benches);
