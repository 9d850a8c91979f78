//! Numbers of hosts that no slot holds (any more): handed over by shards, or saved before the last
//! start. The numbers by which hosts are sorted lie unpacked and side by side, so that a million
//! are read in a few milliseconds; the rest is packed.

use crate::link::{ByKey, HostCount, Sums, Whole};

/// Numbers by host: about 130 bytes for a host that had traffic.
#[derive(Default)]
pub(super) struct HostArchive {
    index: ByKey<u32>,
    rows: Vec<Row>,
}

/// Numbers of a host.
pub(super) struct Row {
    pub(super) key: u64,
    pub(super) completed: u64,
    /// Bytes both ways.
    pub(super) bytes: u64,
    pub(super) errors: u64,
    pub(super) limited: u64,
    packed: Box<[u8]>,
}

impl Row {
    fn new(key: u64, whole: &Whole) -> Row {
        let get = |count| whole.sums.get(count);
        Row {
            key,
            completed: get(HostCount::Completed),
            bytes: get(HostCount::BytesSent).wrapping_add(get(HostCount::BytesReceived)),
            errors: get(HostCount::Errors),
            limited: get(HostCount::Limited),
            packed: whole.pack(),
        }
    }
}

impl HostArchive {
    pub(super) fn contains(&self, key: u64) -> bool {
        self.index.contains_key(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().map(|row| row.key)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn row(&self, key: u64) -> Option<&Row> {
        self.rows.get(*self.index.get(&key)? as usize)
    }

    pub(super) fn sums(&self, key: u64) -> Option<Sums> {
        Some(Sums::unpack(&self.row(key)?.packed))
    }

    pub(super) fn whole(&self, key: u64) -> Option<Whole> {
        Some(Whole::unpack(&self.row(key)?.packed))
    }

    /// Changes the numbers of a host, which are 0 where there were none.
    pub(super) fn change(&mut self, key: u64, change: impl FnOnce(&mut Whole)) {
        let mut whole = self.whole(key).unwrap_or_default();
        change(&mut whole);
        self.set(key, &whole);
    }

    pub(super) fn set(&mut self, key: u64, whole: &Whole) {
        let row = Row::new(key, whole);
        match self.index.get(&key) {
            Some(at) => self.rows[*at as usize] = row,
            None => {
                // 2^32 hosts would need far more memory than there is.
                self.index.insert(key, self.rows.len() as u32);
                self.rows.push(row);
            }
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        let Some(at) = self.index.remove(&key) else { return };
        self.rows.swap_remove(at as usize);
        if let Some(moved) = self.rows.get(at as usize) {
            self.index.insert(moved.key, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_is_removed_leaves_the_others_as_they_are() {
        let mut base = HostArchive::default();
        for key in 1..=5_u64 {
            base.change(key, |whole| whole.sums.set(HostCount::Completed, key * 10));
        }
        base.change(2, |whole| whole.sums.set(HostCount::Errors, 7));
        base.remove(1);
        base.remove(1);
        base.remove(4);
        assert!(!base.contains(1) && base.sums(4).is_none());
        let mut left: Vec<_> = base.rows().iter().map(|row| (row.key, row.completed)).collect();
        left.sort_unstable();
        assert_eq!(left, [(2, 20), (3, 30), (5, 50)]);
        for key in [2, 3, 5] {
            let sums = base.sums(key).expect("it is there");
            assert_eq!(sums.get(HostCount::Completed), key * 10, "{key}");
            assert_eq!(base.row(key).map(|row| row.key), Some(key));
        }
        assert_eq!(base.row(2).map(|row| row.errors), Some(7));
    }
}
