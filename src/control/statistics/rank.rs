//! Order of hosts: by errors, latency, requests or bytes of the last minute, and then since the
//! start; or by requests that are held or open now.
//!
//! A rank is made of what the slots and the archive hold side by side, so that a million hosts are
//! looked through in milliseconds; names are looked up only for hosts that may be chosen.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::archive::Row;
use super::window::SlotReading;
use super::{Statistics, name_of};
use crate::link::{ByKey, HostCount, KeySet, Slot, Sums};
use crate::table::{Rule, Snapshot, UNKNOWN};

/// Order of hosts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum HostSort {
    Errors,
    Latency,
    Held,
    Open,
    Requests,
    Bytes,
    Limited,
}

impl HostSort {
    /// All orders, with their names.
    pub(in crate::control) const ALL: [(&str, HostSort); 7] = [
        ("errors", HostSort::Errors),
        ("latency", HostSort::Latency),
        ("held", HostSort::Held),
        ("open", HostSort::Open),
        ("requests", HostSort::Requests),
        ("bytes", HostSort::Bytes),
        ("limited", HostSort::Limited),
    ];

    /// Ranks a host by the counts of one slot, or of all.
    fn rank(self, sums: &Sums, minute: &SlotReading) -> HostRank {
        let get = |count| sums.get(count);
        match self {
            HostSort::Errors => HostRank(minute.errors.into(), get(HostCount::Errors)),
            HostSort::Latency => HostRank::of_latency(minute),
            HostSort::Held => HostRank(get(HostCount::Held), get(HostCount::Completed)),
            HostSort::Open => HostRank(get(HostCount::Open), get(HostCount::Completed)),
            HostSort::Requests => HostRank(minute.requests.into(), get(HostCount::Completed)),
            HostSort::Bytes => {
                let all = get(HostCount::BytesSent).wrapping_add(get(HostCount::BytesReceived));
                HostRank(minute.sent.saturating_add(minute.received), all)
            }
            HostSort::Limited => HostRank(minute.limited.into(), get(HostCount::Limited)),
        }
    }

    /// Number of the archive that belongs to the second number of a rank.
    fn archived(self, row: &Row) -> u64 {
        match self {
            HostSort::Errors => row.errors,
            HostSort::Latency => 0,
            HostSort::Held | HostSort::Open | HostSort::Requests => row.completed,
            HostSort::Bytes => row.bytes,
            HostSort::Limited => row.limited,
        }
    }
}

/// Rank of a host in an order; a higher rank comes first. The first number is of now or of the last
/// minute. The second decides between equal ones: a number since the start, or another percentile
/// for latency.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(in crate::control) struct HostRank(u64, u64);

impl HostRank {
    fn of_latency(minute: &SlotReading) -> HostRank {
        let quantile = |part| minute.quantile(part).unwrap_or(0);
        HostRank(quantile(0.95), quantile(0.99))
    }

    fn add(&mut self, more: HostRank) {
        self.0 = self.0.saturating_add(more.0);
        self.1 = self.1.wrapping_add(more.1);
    }
}

/// Trouble that the counts of a host show.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum HostTrouble {
    /// Requests failed in the last minute.
    Failing,
    /// Requests are held now.
    Held,
    /// Limits turned requests away in the last minute.
    Limited,
}

/// Hosts that are wanted.
pub(in crate::control) trait HostFilter {
    /// Keys of the hosts among which the wanted ones are; `None`: among all.
    fn among(&self) -> Option<&KeySet>;
    /// Whether every rule that the client may see is wanted, so that no rule need be looked at.
    fn is_everything(&self) -> bool;
    /// Whether the client may see every host.
    fn sees_all(&self) -> bool;
    /// Whether the client may see the host.
    fn sees(&self, name: &str) -> bool;
    /// Whether a host that the client may see is wanted; `unknown` has no rule.
    fn matches(&self, name: &str, rule: Option<&Rule>) -> bool;
}

/// Hosts that were chosen.
pub(in crate::control) struct Chosen<'t> {
    /// Names of the hosts, in order.
    pub(in crate::control) names: Vec<&'t str>,
    /// Number of all hosts that match; `names` are the first of them.
    pub(in crate::control) matched: usize,
    /// Number of rules that the client may see.
    pub(in crate::control) rules: usize,
}

/// Chooses the first `limit` hosts of an order, or by their names without one.
pub(in crate::control) fn choose<'t>(
    statistics: &super::SharedStatistics,
    table: &'t Snapshot,
    (sort, limit): (Option<HostSort>, usize),
    wanted: &impl HostFilter,
) -> Chosen<'t> {
    let ranks = sort.map(|sort| super::lock(statistics).ranks(sort));
    let key = table.key(UNKNOWN);
    let unknown = super::lock(statistics).has(key).then_some(UNKNOWN);
    let unknown = unknown.filter(|name| {
        let is_among = wanted.among().is_none_or(|among| among.contains(&key));
        is_among && wanted.sees(name) && wanted.matches(name, None)
    });
    match &ranks {
        Some(ranks) if wanted.is_everything() => {
            let first = super::lock(statistics).first(ranks, limit, |key| {
                name_of(table, key).is_some_and(|name| wanted.sees(name))
            });
            let named = first
                .into_iter()
                .filter_map(|(rank, key)| Some((Reverse(rank), name_of(table, key)?)));
            let mut named: Vec<(Reverse<HostRank>, &str)> = named.collect();
            named.sort_unstable();
            let mut names: Vec<&str> = named.into_iter().map(|(_, name)| name).collect();
            let others = limit - names.len().min(limit);
            let chosen: HashSet<&str> = names.iter().copied().collect();
            let mut all = first_by_name(table, others, wanted, |name| !chosen.contains(name));
            names.append(&mut all.names);
            names.truncate(limit);
            Chosen { names, matched: all.matched + usize::from(unknown.is_some()), ..all }
        }
        Some(ranks) => ranked(statistics, table, (ranks, limit), wanted, unknown),
        None => {
            let mut all = by_name(table, (None, limit), wanted);
            if let Some(unknown) = unknown {
                all.matched += 1;
                all.names.push(unknown);
                all.names.sort_unstable();
                all.names.truncate(limit);
            }
            all
        }
    }
}

/// Chooses the first `limit` rules by their names, beginning after the name `after` if it is given.
pub(in crate::control) fn by_name<'t>(
    table: &'t Snapshot,
    (after, limit): (Option<&str>, usize),
    wanted: &impl HostFilter,
) -> Chosen<'t> {
    first_by_name(table, limit, wanted, |name| after.is_none_or(|after| after < name))
}

/// Chooses the first `limit` names that match and that `accepts` takes. Needs memory for these
/// names only, however many rules there are.
fn first_by_name<'t>(
    table: &'t Snapshot,
    limit: usize,
    wanted: &impl HostFilter,
    accepts: impl Fn(&str) -> bool,
) -> Chosen<'t> {
    if limit == 0 && wanted.is_everything() && wanted.sees_all() {
        return Chosen { names: Vec::new(), matched: table.len(), rules: table.len() };
    }
    let mut matched = 0;
    let mut page: BinaryHeap<&str> = BinaryHeap::new();
    let rules = each_match(table, wanted, |name| {
        matched += 1;
        let is_late = limit <= page.len() && page.peek().is_none_or(|last| *last <= name);
        if is_late || !accepts(name) {
            return;
        }
        page.push(name);
        if limit < page.len() {
            page.pop();
        }
    });
    let mut names = page.into_vec();
    names.sort_unstable();
    Chosen { names, matched, rules }
}

/// Calls `take` with the name of each rule that is wanted; returns how many rules the client may
/// see.
fn each_match<'t>(
    table: &'t Snapshot,
    wanted: &impl HostFilter,
    mut take: impl FnMut(&'t str),
) -> usize {
    let seen = table.iter().filter(|(name, _)| wanted.sees(name));
    if let Some(among) = wanted.among() {
        for name in among.iter().filter_map(|key| table.name_of(*key)) {
            if wanted.sees(name) && wanted.matches(name, table.get(name)) {
                take(name);
            }
        }
        return if wanted.sees_all() { table.len() } else { seen.count() };
    }
    let mut rules = 0;
    for (name, rule) in seen {
        rules += 1;
        if wanted.matches(name, Some(rule)) {
            take(name);
        }
    }
    rules
}

/// Chooses the first `limit` hosts that match, by looking at each rule.
fn ranked<'t>(
    statistics: &super::SharedStatistics,
    table: &'t Snapshot,
    (ranks, limit): (&HostRanks, usize),
    wanted: &impl HostFilter,
    unknown: Option<&'t str>,
) -> Chosen<'t> {
    let mut names: Vec<&str> = Vec::new();
    let rules = each_match(table, wanted, |name| names.push(name));
    names.extend(unknown);
    let statistics = super::lock(statistics);
    let mut first: BinaryHeap<(Reverse<HostRank>, &str)> = BinaryHeap::new();
    for name in &names {
        first.push((Reverse(statistics.rank_of(ranks, table.key(name))), name));
        if limit < first.len() {
            first.pop();
        }
    }
    let chosen = first.into_sorted_vec().into_iter().map(|(_, name)| name).collect();
    Chosen { names: chosen, matched: names.len(), rules }
}

/// Ranks of the hosts that have slots, or had one in the last minute.
pub(in crate::control) struct HostRanks {
    sort: HostSort,
    of: ByKey<HostRank>,
}

impl Statistics {
    /// Whether a host ever had a request.
    fn has(&self, key: u64) -> bool {
        !self.of(&KeySet::from_iter([key])).is_empty()
    }

    fn ranks(&self, sort: HostSort) -> HostRanks {
        let mut of = match sort {
            HostSort::Latency => self.latency_ranks(),
            _ => self.count_ranks(sort),
        };
        if sort == HostSort::Open {
            for (key, open) in &self.elder {
                of.entry(*key).or_default().add(HostRank(*open, 0));
            }
        }
        for (key, rank) in &mut of {
            rank.1 =
                rank.1.wrapping_add(self.archive.row(*key).map_or(0, |row| sort.archived(row)));
            if let Some(gone) = self.gone.get(key) {
                let since = sort.rank(&gone.sums, &SlotReading::default()).1;
                rank.1 = rank.1.wrapping_sub(since);
            }
        }
        HostRanks { sort, of }
    }

    fn count_ranks(&self, sort: HostSort) -> ByKey<HostRank> {
        let mut of: ByKey<HostRank> = ByKey::default();
        let needs_minute = !matches!(sort, HostSort::Held | HostSort::Open);
        self.each_slot(|shard, index, key, slot| {
            let minute = match needs_minute {
                true => self.host_window.minute(shard, index, &SlotReading::of_host(slot)),
                false => SlotReading::default(),
            };
            of.entry(key).or_default().add(sort.rank(&slot.sums(), &minute));
        });
        if needs_minute {
            self.host_window.each_retired(|key, minute| {
                of.entry(key).or_default().add(sort.rank(&Sums::default(), &minute));
            });
        }
        of
    }

    /// Ranks hosts by latency: percentiles of several shards can't be added up, their classes can.
    fn latency_ranks(&self) -> ByKey<HostRank> {
        let mut minutes: ByKey<SlotReading> = ByKey::default();
        self.each_slot(|shard, index, key, slot| {
            let minute = self.host_window.minute(shard, index, &SlotReading::of_host(slot));
            if minute.is_timed() {
                minutes.entry(key).or_default().add(&minute);
            }
        });
        self.host_window.each_retired(|key, minute| minutes.entry(key).or_default().add(&minute));
        minutes.into_iter().map(|(key, minute)| (key, HostRank::of_latency(&minute))).collect()
    }

    /// Keys of the hosts in trouble.
    pub(in crate::control) fn troubled(&self, trouble: HostTrouble) -> KeySet {
        let shows = |minute: &SlotReading, held: u64| match trouble {
            HostTrouble::Failing => minute.errors != 0,
            HostTrouble::Held => held != 0,
            HostTrouble::Limited => minute.limited != 0,
        };
        let mut found = KeySet::default();
        self.each_slot(|shard, index, key, slot| {
            let minute = self.host_window.minute(shard, index, &SlotReading::of_host(slot));
            if shows(&minute, slot.get(HostCount::Held)) {
                found.insert(key);
            }
        });
        self.host_window.each_retired(|key, minute| {
            if shows(&minute, 0) {
                found.insert(key);
            }
        });
        found
    }

    fn each_slot(&self, mut see: impl FnMut(usize, usize, u64, &Slot)) {
        for (shard, slots) in self.shards.hosts().enumerate() {
            slots.look(|index, [key, ..], slot| see(shard, index, key, slot));
        }
    }

    /// The rank of a host, which may have no slot.
    fn rank_of(&self, ranks: &HostRanks, key: u64) -> HostRank {
        let archived = || self.archive.row(key).map_or(0, |row| ranks.sort.archived(row));
        ranks.of.get(&key).copied().unwrap_or_else(|| HostRank(0, archived()))
    }

    /// The first `limit` hosts, in no particular order; hosts without any counts are left out.
    fn first(
        &self,
        ranks: &HostRanks,
        limit: usize,
        accepts: impl Fn(u64) -> bool,
    ) -> Vec<(HostRank, u64)> {
        let mut first: BinaryHeap<Reverse<(HostRank, u64)>> = BinaryHeap::new();
        let busy = ranks.of.iter().map(|(key, rank)| (*key, *rank, true));
        let idle = self.archive.rows().iter();
        let idle = idle.map(|row| (row.key, HostRank(0, ranks.sort.archived(row)), false));
        for (key, rank, is_busy) in busy.chain(idle) {
            let is_late =
                limit <= first.len() && first.peek().is_none_or(|Reverse((last, _))| rank <= *last);
            // The cheap tests come first: nearly all of a million hosts are late.
            if rank == HostRank::default()
                || is_late
                || (!is_busy && ranks.of.contains_key(&key))
                || !accepts(key)
            {
                continue;
            }
            first.push(Reverse((rank, key)));
            if limit < first.len() {
                first.pop();
            }
        }
        first.into_iter().map(|Reverse(one)| one).collect()
    }
}

#[cfg(test)]
mod tests;
