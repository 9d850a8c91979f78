//! A persistent map from host names to values: the old and the new map share all that did not
//! change.
//!
//! A tree over the bits of a 64-bit hash. Inner nodes have [`WIDTH`] children and take five bits
//! of the hash each, from the top; below them are buckets of up to [`BUCKET_MAX`] entries, which
//! hold hash, value and name in place, sorted by hash. At a million names that is three inner
//! levels (1 + 32 + 1024 nodes: 0.5 MB, mostly in cache) and a bucket of about 30 entries. The
//! hash also says where in it to look: one or two cache misses for any name, present or not.
//! A change copies one path (32 pointers a level, and a bucket): microseconds at any size.
//!
//! Measured at a million names in random order, in one run on a busy machine: 0.68 us for a name
//! that is there, 0.71 for one that is not, 3.4 us (best) for a change, 73 bytes a name. With 16
//! children and a pointer from each slot to its entry it was 0.99, 0.53, 2.3 us and 90 bytes:
//! better for names that are not there, which are few. 16 children with entries in place looked
//! up about 10 % slower than 32; 256 children no faster, and changed three to four times slower.
//!
//! Names with equal hashes lie side by side in one bucket, whatever their number: the caller hashes
//! `http://a.com` as `a.com`, and finds everything about `a.com` with one probe.
//!
//! Values are copied with their bucket: whatever is large in them should be behind an `Arc`.

use std::sync::Arc;

use super::text::Text;

/// Most entries of a bucket that can still be split. A bucket then splits into about two entries
/// for each child, which keeps the tree itself below 25 bytes per name at any size.
const BUCKET_MAX: usize = 64;
/// An inner node with fewer entries than this below it becomes a bucket again. The number is well
/// below `BUCKET_MAX`, so that adding and removing one name does not split and join a bucket each
/// time.
const JOIN_BELOW: usize = 16;
const BITS: u32 = 5;
const WIDTH: usize = 1 << BITS;
/// Depth at which all bits of the hash are used: buckets do not split any further.
const DEPTH_MAX: u32 = 12;

/// A name with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<T> {
    hash: u64,
    pub value: T,
    pub name: Text,
}

/// New value of one name; no value removes it.
#[derive(Debug)]
pub(super) struct Change<'a, T> {
    pub hash: u64,
    pub name: &'a str,
    pub value: Option<T>,
}

type Bucket<T> = Arc<[Entry<T>]>;

#[derive(Debug)]
enum Node<T> {
    Bucket(Bucket<T>),
    Inner(Arc<[Node<T>; WIDTH]>),
}

// Not derived, here and below: a derived one would ask that `T` be `Clone`.
impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Node::Bucket(entries) => Node::Bucket(Arc::clone(entries)),
            Node::Inner(children) => Node::Inner(Arc::clone(children)),
        }
    }
}

/// The map. Cloning it copies a pointer and a count.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
    len: usize,
}

impl<T> Clone for Trie<T> {
    fn clone(&self) -> Self {
        Trie { root: self.root.clone(), len: self.len }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie { root: Node::Bucket(Arc::default()), len: 0 }
    }
}

/// Everything with one hash: usually one name, or none.
pub(super) struct Probe<'t, T> {
    bucket: &'t Bucket<T>,
    hash: u64,
    next: usize,
}

/// Position of an entry in the map.
#[derive(Debug)]
pub(super) struct Position<'t, T> {
    bucket: &'t Bucket<T>,
    index: usize,
}

impl<T> Copy for Position<'_, T> {}

impl<T> Clone for Position<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'t, T> Position<'t, T> {
    #[inline]
    pub(super) fn entry(self) -> &'t Entry<T> {
        &self.bucket[self.index]
    }
}

impl<'t, T> Iterator for Probe<'t, T> {
    type Item = Position<'t, T>;

    #[inline]
    fn next(&mut self) -> Option<Position<'t, T>> {
        let index = self.next;
        (self.bucket.get(index)?.hash == self.hash).then(|| {
            self.next = index + 1;
            Position { bucket: self.bucket, index }
        })
    }
}

impl<T> Trie<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entries with exactly this hash.
    #[inline]
    pub(super) fn probe(&self, hash: u64) -> Probe<'_, T> {
        let mut node = &self.root;
        // The bits not yet used are at the top.
        let mut path = hash;
        let bucket = loop {
            match node {
                Node::Bucket(bucket) => break bucket,
                Node::Inner(children) => {
                    path = path.rotate_left(BITS);
                    node = &children[path as usize % WIDTH];
                }
            }
        };
        // The hashes of a bucket are spread evenly over its range, so this guess is off by about
        // two entries. Looking at all entries would cost a cache line each.
        let mut next = (((path >> 32) * bucket.len() as u64) >> 32) as usize;
        while bucket.get(next).is_some_and(|entry| entry.hash < hash) {
            next += 1;
        }
        while 0 < next && hash <= bucket[next - 1].hash {
            next -= 1;
        }
        Probe { bucket, hash, next }
    }

    /// The place of this name, whose hash the caller computed.
    pub(super) fn get(&self, hash: u64, name: &str) -> Option<Position<'_, T>> {
        self.probe(hash).find(|place| place.entry().name.as_bytes() == name.as_bytes())
    }

    /// Every entry, in no particular order.
    pub(super) fn iter(&self) -> Iter<'_, T> {
        Iter { nodes: vec![std::slice::from_ref(&self.root).iter()], entries: [].iter() }
    }
}

impl<T: Clone> Trie<T> {
    /// The map after these changes, which must be sorted by hash and name each name once. Every
    /// node on the way to a change is copied once; all others are shared.
    pub(super) fn apply(&self, changes: &[Change<'_, T>]) -> Trie<T> {
        debug_assert!(changes.is_sorted_by_key(|change| change.hash));
        let mut len = self.len;
        let root = match &self.root {
            root if changes.is_empty() => root.clone(),
            root => root.apply(changes, 0, &mut len),
        };
        Trie { root, len }
    }
}

/// Index of the child of an inner node at this depth.
fn child_index(hash: u64, depth: u32) -> usize {
    debug_assert!(depth < DEPTH_MAX);
    (hash >> (64 - BITS * (depth + 1))) as usize % WIDTH
}

/// Takes the items of this child from the front of `rest`, which is sorted by hash.
fn take_child<'s, S>(
    rest: &mut &'s [S],
    hash: impl Fn(&S) -> u64,
    depth: u32,
    index: usize,
) -> &'s [S] {
    let count = rest.partition_point(|item| child_index(hash(item), depth) <= index);
    let (here, after) = rest.split_at(count);
    *rest = after;
    here
}

impl<T: Clone> Node<T> {
    fn apply(&self, changes: &[Change<'_, T>], depth: u32, len: &mut usize) -> Node<T> {
        let children = match self {
            Node::Bucket(old) => return Node::merge(old, changes, depth, len),
            Node::Inner(children) => children,
        };
        let mut changes = changes;
        let children = std::array::from_fn(|index| {
            let here = take_child(&mut changes, |change| change.hash, depth, index);
            if here.is_empty() {
                children[index].clone()
            } else {
                children[index].apply(here, depth + 1, len)
            }
        });
        Node::join(&children).unwrap_or_else(|| Node::Inner(Arc::new(children)))
    }

    /// Merges changes into the entries of a bucket.
    fn merge(old: &[Entry<T>], changes: &[Change<'_, T>], depth: u32, len: &mut usize) -> Node<T> {
        if BUCKET_MAX < changes.len() && depth < DEPTH_MAX {
            // This bucket most likely splits. Splitting first saves copying all entries at each
            // level.
            let (mut old, mut changes) = (old, changes);
            let children = std::array::from_fn(|index| {
                let old = take_child(&mut old, |entry| entry.hash, depth, index);
                let changes = take_child(&mut changes, |change| change.hash, depth, index);
                Node::merge(old, changes, depth + 1, len)
            });
            return Node::join(&children).unwrap_or_else(|| Node::Inner(Arc::new(children)));
        }
        let entries = merge_entries(old, changes);
        *len = (*len + entries.len()).wrapping_sub(old.len());
        if entries.len() <= BUCKET_MAX || depth == DEPTH_MAX {
            return Node::Bucket(entries.into());
        }
        let mut rest = &entries[..];
        Node::Inner(Arc::new(std::array::from_fn(|index| {
            let entries = take_child(&mut rest, |entry| entry.hash, depth, index);
            // There is nothing to change, and the entries are counted already.
            Node::merge(entries, &[], depth + 1, &mut 0)
        })))
    }

    /// Joins the children into one bucket if they hold next to nothing.
    fn join(children: &[Node<T>; WIDTH]) -> Option<Node<T>> {
        let mut joined = 0;
        for child in children {
            match child {
                Node::Bucket(entries) if joined + entries.len() < JOIN_BELOW => {
                    joined += entries.len();
                }
                _ => return None,
            }
        }
        let entries = children.iter().flat_map(|child| match child {
            Node::Bucket(entries) => &entries[..],
            Node::Inner(_) => &[],
        });
        Some(Node::Bucket(entries.cloned().collect()))
    }
}

/// The entries of a bucket after these changes; both are sorted by hash, and so is the result.
fn merge_entries<T: Clone>(old: &[Entry<T>], changes: &[Change<'_, T>]) -> Vec<Entry<T>> {
    let mut entries = Vec::with_capacity(old.len() + changes.len());
    let mut old = old.iter().peekable();
    for group in changes.chunk_by(|a, b| a.hash == b.hash) {
        let hash = group[0].hash;
        while let Some(entry) = old.next_if(|entry| entry.hash < hash) {
            entries.push(entry.clone());
        }
        while let Some(entry) = old.next_if(|entry| entry.hash == hash) {
            let name = entry.name.as_bytes();
            if group.iter().all(|change| change.name.as_bytes() != name) {
                entries.push(entry.clone());
            }
        }
        for change in group {
            if let Some(value) = &change.value {
                let (value, name) = (value.clone(), Text::new(change.name));
                entries.push(Entry { hash, value, name });
            }
        }
    }
    entries.extend(old.cloned());
    entries
}

/// Walks the tree, depth first.
pub(super) struct Iter<'t, T> {
    nodes: Vec<std::slice::Iter<'t, Node<T>>>,
    entries: std::slice::Iter<'t, Entry<T>>,
}

impl<'t, T> Iterator for Iter<'t, T> {
    type Item = &'t Entry<T>;

    fn next(&mut self) -> Option<&'t Entry<T>> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            match self.nodes.last_mut()?.next() {
                None => {
                    self.nodes.pop();
                }
                Some(Node::Bucket(entries)) => self.entries = entries.iter(),
                Some(Node::Inner(children)) => self.nodes.push(children.iter()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// The worst hashes: many names with one hash, and hashes that differ in few bits at either
    /// end, so that buckets split down to the last level.
    fn bad_hash(name: u16) -> u64 {
        let name = u64::from(name);
        match name % 4 {
            0 => name % 8,
            1 => name << 48,
            2 => u64::MAX - name / 64,
            _ => name.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    fn check(trie: &Trie<u32>, model: &BTreeMap<String, (u64, u32)>) {
        assert_eq!(trie.len(), model.len());
        assert_eq!(trie.iter().count(), model.len());
        for entry in trie.iter() {
            assert_eq!(model[entry.name.as_str()], (entry.hash, entry.value));
        }
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for (name, (hash, value)) in model {
            assert_eq!(trie.get(*hash, name).map(|place| place.entry().value), Some(*value));
            assert!(trie.get(*hash, "not there").is_none());
            *counts.entry(*hash).or_default() += 1;
        }
        for (hash, count) in counts {
            assert_eq!(trie.probe(hash).count(), count);
        }
    }

    proptest! {
        /// Compares batches of any size with a map. The version before each batch stays as it was.
        #[test]
        fn is_a_map(
            batches in vec(btree_map(0..2000_u16, option::of(any::<u32>()), 0..300), 1..8)
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for batch in batches {
                let (trie_before, model_before) = (trie.clone(), model.clone());
                let names: Vec<_> =
                    batch.iter().map(|(n, value)| (bad_hash(*n), n.to_string(), *value)).collect();
                let mut changes: Vec<_> = names
                    .iter()
                    .map(|(hash, name, value)| Change { hash: *hash, name, value: *value })
                    .collect();
                changes.sort_by_key(|change| change.hash);
                trie = trie.apply(&changes);
                for (hash, name, value) in names {
                    match value {
                        Some(value) => _ = model.insert(name, (hash, value)),
                        None => _ = model.remove(&name),
                    }
                }
                check(&trie, &model);
                check(&trie_before, &model_before);
            }
        }
    }

    #[test]
    fn shrinks_to_one_bucket() {
        let names: Vec<_> = (0..5000_u64).map(|n| (n << 50, n.to_string())).collect();
        let changes = |value: Option<u32>| -> Vec<Change<'_, u32>> {
            names.iter().map(|(hash, name)| Change { hash: *hash, name, value }).collect()
        };
        let full = Trie::default().apply(&changes(Some(1)));
        assert_eq!(full.len(), 5000);
        let mut one_by_one = full.clone();
        for change in changes(None) {
            one_by_one = one_by_one.apply(&[change]);
        }
        for empty in [full.apply(&changes(None)), one_by_one] {
            assert_eq!(empty.len(), 0);
            assert!(matches!(&empty.root, Node::Bucket(entries) if entries.is_empty()));
        }
        assert_eq!(full.len(), 5000);
    }
}
