//! A persistent map from host names to values: old and new share all that did not change.
//!
//! A tree over the bits of a 64-bit hash. Inner nodes have 16 children and take four bits of the
//! hash each, from the top; below them are buckets of up to [`BUCKET_MAX`] slots, sorted by hash;
//! a slot points to a leaf that holds name and value in one allocation. At a million names that
//! is four inner levels (16, 256, 4096, 65536: 1.2 MB, mostly in cache), then a bucket of about 15
//! slots, then the leaf: two cache misses for a name that is there, one for a name that is not,
//! since the slot holds the whole hash. A change copies one path (16 pointers a level, and a
//! bucket), so it costs microseconds at any size.
//!
//! Names with equal hashes lie side by side in one bucket, whatever their number: the caller hashes
//! `http://a.com` as `a.com`, and finds everything about `a.com` with one probe.

use std::sync::Arc;

use triomphe::HeaderSlice;

/// Most slots of a bucket that can still be split. A bucket then splits into about two slots for
/// each child, which is what keeps a table of any size below 25 bytes of tree per name.
const BUCKET_MAX: usize = 32;
/// Fewer slots than this below an inner node, and it becomes a bucket again. Well below
/// `BUCKET_MAX`, so that a name that comes and goes does not split and join each time.
const JOIN_BELOW: usize = 16;
const BITS: u32 = 4;
const WIDTH: usize = 1 << BITS;
/// Here the hash is used up; buckets do not split any further.
const DEPTH_MAX: u32 = 64 / BITS;

/// A name and its value in one allocation; the name is `.slice`, the value `.header`.
pub(super) type Leaf<T> = triomphe::Arc<HeaderSlice<T, str>>;

/// A leaf and the hash of its name.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub hash: u64,
    pub leaf: Leaf<T>,
}

// Not derived: a derived one would ask that `T` be `Clone`.
impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot { hash: self.hash, leaf: Leaf::clone(&self.leaf) }
    }
}

/// What becomes of one name.
#[derive(Debug)]
pub(super) enum Change<T> {
    Set(Slot<T>),
    Remove { hash: u64, name: Box<str> },
}

impl<T> Change<T> {
    pub(super) fn hash(&self) -> u64 {
        match self {
            Change::Set(slot) => slot.hash,
            Change::Remove { hash, .. } => *hash,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Change::Set(slot) => &slot.leaf.slice,
            Change::Remove { name, .. } => name,
        }
    }
}

#[derive(Debug)]
enum Node<T> {
    Bucket(Arc<[Slot<T>]>),
    Inner(Arc<[Node<T>; WIDTH]>),
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Node::Bucket(slots) => Node::Bucket(Arc::clone(slots)),
            Node::Inner(children) => Node::Inner(Arc::clone(children)),
        }
    }
}

/// The map. Cloning it is two pointers and a count.
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

/// Which child of an inner node at this depth.
fn child_index(hash: u64, depth: u32) -> usize {
    debug_assert!(depth < DEPTH_MAX);
    (hash >> (64 - BITS * (depth + 1))) as usize % WIDTH
}

impl<T> Trie<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The slots with exactly this hash.
    #[inline]
    pub(super) fn probe(&self, hash: u64) -> impl Iterator<Item = &Slot<T>> {
        let mut node = &self.root;
        let mut path = hash;
        let slots = loop {
            match node {
                Node::Bucket(slots) => break slots,
                Node::Inner(children) => {
                    path = path.rotate_left(BITS);
                    node = &children[path as usize % WIDTH];
                }
            }
        };
        slots.iter().filter(move |slot| slot.hash == hash)
    }

    /// The leaf of this name, whose hash the caller computed.
    pub(super) fn get(&self, hash: u64, name: &str) -> Option<&Leaf<T>> {
        self.probe(hash).map(|slot| &slot.leaf).find(|leaf| leaf.slice == *name)
    }

    /// Every leaf, in no order that means anything.
    pub(super) fn iter(&self) -> Iter<'_, T> {
        Iter { nodes: vec![std::slice::from_ref(&self.root).iter()], slots: [].iter() }
    }

    /// The map after these changes, which must be sorted by hash and name each name once.
    /// Every node on the way to a change is made anew, once; all others are shared.
    pub(super) fn apply(&self, changes: &[Change<T>]) -> Trie<T> {
        debug_assert!(changes.is_sorted_by_key(Change::hash));
        let mut len = self.len;
        let root = self.root.apply(changes, 0, &mut len);
        Trie { root, len }
    }
}

impl<T> Node<T> {
    fn apply(&self, changes: &[Change<T>], depth: u32, len: &mut usize) -> Node<T> {
        match self {
            Node::Bucket(old) => {
                let slots = merge(old, changes);
                *len = *len - old.len() + slots.len();
                Node::build(slots, depth)
            }
            Node::Inner(children) => {
                let mut rest = changes;
                let children = std::array::from_fn(|index| {
                    let count =
                        rest.partition_point(|change| child_index(change.hash(), depth) <= index);
                    let (here, after) = rest.split_at(count);
                    rest = after;
                    if here.is_empty() {
                        children[index].clone()
                    } else {
                        children[index].apply(here, depth + 1, len)
                    }
                });
                Node::join(&children).unwrap_or_else(|| Node::Inner(Arc::new(children)))
            }
        }
    }

    /// A bucket, or as many inner nodes as these slots (sorted by hash) need.
    fn build(slots: Vec<Slot<T>>, depth: u32) -> Node<T> {
        if slots.len() <= BUCKET_MAX || depth == DEPTH_MAX {
            return Node::Bucket(slots.into());
        }
        let mut rest = slots.into_iter().peekable();
        Node::Inner(Arc::new(std::array::from_fn(|index| {
            let mut child = Vec::new();
            while let Some(slot) = rest.next_if(|slot| child_index(slot.hash, depth) == index) {
                child.push(slot);
            }
            Node::build(child, depth + 1)
        })))
    }

    /// One bucket in place of children that hold next to nothing.
    fn join(children: &[Node<T>; WIDTH]) -> Option<Node<T>> {
        let mut count = 0;
        for child in children {
            match child {
                Node::Bucket(slots) if count + slots.len() < JOIN_BELOW => count += slots.len(),
                _ => return None,
            }
        }
        let mut joined = Vec::with_capacity(count);
        for child in children {
            if let Node::Bucket(slots) = child {
                joined.extend_from_slice(slots);
            }
        }
        Some(Node::Bucket(joined.into()))
    }
}

/// The slots of a bucket after these changes; both are sorted by hash, and so is the result.
fn merge<T>(old: &[Slot<T>], changes: &[Change<T>]) -> Vec<Slot<T>> {
    let mut slots = Vec::with_capacity(old.len() + changes.len());
    let mut old = old.iter().peekable();
    for group in changes.chunk_by(|a, b| a.hash() == b.hash()) {
        let hash = group[0].hash();
        while let Some(slot) = old.next_if(|slot| slot.hash < hash) {
            slots.push(slot.clone());
        }
        while let Some(slot) = old.next_if(|slot| slot.hash == hash) {
            if group.iter().all(|change| *change.name() != slot.leaf.slice) {
                slots.push(slot.clone());
            }
        }
        slots.extend(group.iter().filter_map(|change| match change {
            Change::Set(slot) => Some(slot.clone()),
            Change::Remove { .. } => None,
        }));
    }
    slots.extend(old.cloned());
    slots
}

/// Walks the tree, depth first.
pub(super) struct Iter<'t, T> {
    nodes: Vec<std::slice::Iter<'t, Node<T>>>,
    slots: std::slice::Iter<'t, Slot<T>>,
}

impl<'t, T> Iterator for Iter<'t, T> {
    type Item = &'t Slot<T>;

    fn next(&mut self) -> Option<&'t Slot<T>> {
        loop {
            if let Some(slot) = self.slots.next() {
                return Some(slot);
            }
            match self.nodes.last_mut()?.next() {
                None => {
                    self.nodes.pop();
                }
                Some(Node::Bucket(slots)) => self.slots = slots.iter(),
                Some(Node::Inner(children)) => self.nodes.push(children.iter()),
            }
        }
    }
}
