//! Orders of hosts, compared with the plain way: look at every host alone, then sort.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::control::statistics::{SharedStatistics, lock};
use crate::http::Pages;
use crate::link::{self, Ends, Own, Published, SlotTime, Tag, TaggedTable, Tuning};
use crate::table::{Names, edit};

/// Filter for hosts whose names end in this way and that have one of these keys, if any are given.
struct Ending(&'static str, Option<KeySet>);

impl HostFilter for Ending {
    fn is_everything(&self) -> bool {
        self.0.is_empty() && self.1.is_none()
    }

    fn among(&self) -> Option<&KeySet> {
        self.1.as_ref()
    }

    fn sees_all(&self) -> bool {
        false
    }

    fn sees(&self, name: &str) -> bool {
        !name.starts_with("secret")
    }

    fn matches(&self, name: &str, _: Option<&Rule>) -> bool {
        name.ends_with(self.0)
    }
}

struct World {
    ends: Ends,
    table: Snapshot,
    statistics: SharedStatistics,
}

fn name(n: u64) -> String {
    format!("h{n:02}.{}", if n.is_multiple_of(3) { "com" } else { "org" })
}

/// Hosts on two shards, each with numbers of its own; the slots of some hosts are retired.
fn world(count: u64) -> World {
    let rule = json!(["empty", { "code": 403 }, false]);
    let rule = Rule::from_json("a", &rule, &mut Names::default()).expect("a rule");
    let names = (0..count).map(name).chain(["secret.com".to_owned(), "idle.com".to_owned()]);
    let rules = names.map(|name| (name, Some(rule.clone()))).collect();
    let table = edit(&Snapshot::default(), rules).expect("a table");
    let tagged = TaggedTable { table: table.clone(), tag: Tag::of_start(0) };
    let published = Published::new(tagged, Pages::builtin(), Tuning::default(), Own::default());
    let ends = link::connect(published, 2).expect("eventfds");
    let statistics = Statistics::new(ends.0.clone(), &table, &[]);
    let statistics = std::sync::Arc::new(std::sync::Mutex::new(statistics));
    let world = World { ends, table, statistics };
    for n in 0..count {
        world.count(n, &name(n), n * 7919 % 101);
    }
    world.count(count, "secret.com", 1000);
    lock(&world.statistics).take_over(&world.table);
    world
}

impl World {
    /// Counts something on one or both shards; `chance` decides what.
    fn count(&self, slot: u64, name: &str, chance: u64) {
        for (shard, end) in self.ends.1.iter().enumerate() {
            if shard == 1 && chance.is_multiple_of(2) {
                continue;
            }
            let (slots, index) = (end.hosts(), slot as u32);
            slots.open(index, [self.table.key(name), 0, 0]);
            let slot = slots.get(index).expect("it is open");
            slot.add(HostCount::Completed, chance);
            slot.add(HostCount::Errors, chance * 31 % 11);
            slot.add(HostCount::Limited, (chance * 13 % 7).saturating_sub(3));
            slot.add(HostCount::BytesSent, chance * 17 % 97);
            slots.add_time(index, SlotTime::Latency, Duration::from_millis(chance * 13 % 89));
            match chance % 4 {
                // A slot with open requests is not retired.
                0 => slots.retire(index),
                _ => {
                    slot.add(HostCount::Open, chance % 5);
                    slot.add(HostCount::Held, chance % 3);
                }
            }
        }
    }

    fn chosen(&self, sort: Option<HostSort>, limit: usize, ending: &'static str) -> Vec<&str> {
        choose(&self.statistics, &self.table, (sort, limit), &Ending(ending, None)).names
    }

    /// Hosts in trouble whose names end with `ending`.
    fn troubled(&self, trouble: HostTrouble, ending: &'static str) -> Ending {
        Ending(ending, Some(lock(&self.statistics).troubled(trouble)))
    }

    fn counted(&self, name: &str) -> (Sums, SlotReading) {
        let statistics = lock(&self.statistics);
        let key = self.table.key(name);
        let keys = [key].into_iter().collect();
        let sums = statistics.of(&keys).remove(&key).unwrap_or_default();
        (sums, statistics.minutes(&keys).of.get(&key).copied().unwrap_or_default())
    }

    /// Rank of a host by looking at it alone.
    fn rank(&self, sort: HostSort, name: &str) -> HostRank {
        let (sums, minute) = self.counted(name);
        sort.rank(&sums, &minute)
    }

    /// Names in the order that looking at each host alone gives.
    fn sorted(&self, sort: HostSort, ending: &str) -> Vec<&str> {
        let names = self.table.iter().map(|(name, _)| name);
        let mut names: Vec<&str> =
            names.filter(|name| name.ends_with(ending) && !name.starts_with("secret")).collect();
        names.sort_by_cached_key(|name| (Reverse(self.rank(sort, name)), *name));
        names
    }
}

#[test]
fn order_is_that_of_each_host_alone() {
    let world = world(60);
    for (word, sort) in HostSort::ALL {
        for ending in ["", ".org"] {
            let expected = world.sorted(sort, ending);
            for limit in [1, 7, 30, 100] {
                let found = world.chosen(Some(sort), limit, ending);
                let expected = &expected[..expected.len().min(limit)];
                let ranks = |names: &[&str]| -> Vec<HostRank> {
                    names.iter().map(|name| world.rank(sort, name)).collect()
                };
                assert_eq!(ranks(&found), ranks(expected), "{word} {ending} {limit}");
                // If no rule is looked at, any of several equal hosts may be among the first.
                if !ending.is_empty() || 61 <= limit {
                    assert_eq!(found, expected, "{word} {ending} {limit}");
                }
            }
        }
    }
}

#[test]
fn without_order_hosts_are_by_name() {
    let world = world(20);
    assert_eq!(world.chosen(None, 3, ""), ["h00.com", "h01.org", "h02.org"]);
    assert_eq!(world.chosen(None, 2, ".com"), ["h00.com", "h03.com"]);
    assert!(world.chosen(None, 0, "").is_empty());
    let all = choose(&world.statistics, &world.table, (None, 5), &Ending(".com", None));
    assert_eq!((all.matched, all.rules), (8, 21), "seven with numbers, and the idle one");
}

#[test]
fn trouble_is_looked_for_among_all_hosts() {
    let world = world(60);
    for trouble in [HostTrouble::Failing, HostTrouble::Held, HostTrouble::Limited] {
        let shows = |name: &&str| {
            let (sums, minute) = world.counted(name);
            match trouble {
                HostTrouble::Failing => minute.errors != 0,
                HostTrouble::Held => sums.get(HostCount::Held) != 0,
                HostTrouble::Limited => minute.limited != 0,
            }
        };
        for ending in ["", ".org"] {
            let wanted = world.troubled(trouble, ending);
            let expected = world.sorted(HostSort::Open, ending);
            let mut expected: Vec<&str> = expected.into_iter().filter(shows).collect();
            let all = expected.len();
            assert!((2..60).contains(&all), "{trouble:?}: {all}");
            let choose = |order, wanted: &Ending| {
                let Chosen { names, matched, rules } =
                    choose(&world.statistics, &world.table, order, wanted);
                assert_eq!((matched, rules), (all, 61), "{trouble:?} {ending}");
                names
            };
            assert_eq!(choose((Some(HostSort::Open), 100), &wanted), expected, "{trouble:?}");
            assert_eq!(choose((Some(HostSort::Open), 2), &wanted), expected[..2], "{trouble:?}");
            expected.sort_unstable();
            assert_eq!(choose((None, 100), &wanted), expected, "{trouble:?}");
            let page = by_name(&world.table, (Some(expected[0]), 1), &wanted);
            assert_eq!((page.names, page.matched), (vec![expected[1]], all), "{trouble:?}");
        }
    }
}

#[test]
fn host_that_may_not_be_seen_is_in_no_order() {
    let world = world(5);
    for (_, sort) in HostSort::ALL {
        assert!(!world.chosen(Some(sort), 100, "").contains(&"secret.com"));
    }
}

#[test]
fn deleted_host_has_the_last_rank() {
    let world = world(9);
    let first = world.chosen(Some(HostSort::Requests), 1, "")[0];
    lock(&world.statistics).forget(&[world.table.key(first)].into_iter().collect());
    for sort in [HostSort::Requests, HostSort::Errors, HostSort::Bytes, HostSort::Limited] {
        let statistics = lock(&world.statistics);
        let rank = statistics.rank_of(&statistics.ranks(sort), world.table.key(first));
        drop(statistics);
        assert_eq!(rank, HostRank::default(), "{sort:?}");
        assert!(world.chosen(Some(sort), 100, "").contains(&first), "{sort:?}: it has a rule");
    }
}
