//! Items that receives have brought and that no task has taken yet, in the order of their arrival.
//!
//! Nearly always at most one item waits. More come only from a multishot receive, and the receive
//! side stops that one as soon as a second item waits.

use std::collections::VecDeque;

use crate::ring::buffers::Lent;

/// Entries of a queue that stay allocated when it is empty.
const BEHIND_KEPT: usize = 4;

/// One thing that a receive brought.
pub(in crate::ring) enum Item {
    None,
    Lent(Lent),
    Own(Vec<u8>),
    /// The peer sends no more: final.
    End,
    /// An errno: final.
    Error(i32),
}

/// The queue of one socket. Final items stay in it, so each reader gets the same result.
pub(in crate::ring) struct Received {
    first: Item,
    /// Items behind `first`. Boxed, because few sockets ever have any, and each slot has this
    /// field.
    #[expect(clippy::box_collection, reason = "a word in place of four, in each of many slots")]
    behind: Option<Box<VecDeque<Item>>>,
}

impl Received {
    pub(super) const EMPTY: Received = Received { first: Item::None, behind: None };

    /// The item that is taken next; `Item::None` when nothing waits.
    pub(in crate::ring) fn first(&self) -> &Item {
        &self.first
    }

    pub(in crate::ring) fn is_empty(&self) -> bool {
        matches!(self.first, Item::None)
    }

    /// Whether items wait behind the first.
    pub(super) fn is_crowded(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| !behind.is_empty())
    }

    /// Whether bytes wait to be taken.
    pub(in crate::ring) fn has_bytes(&self) -> bool {
        matches!(self.first, Item::Lent(_) | Item::Own(_))
    }

    /// Whether the stream is over: nothing can be put behind its last item.
    pub(super) fn is_final(&self) -> bool {
        let last = self.behind.as_ref().and_then(|behind| behind.back()).unwrap_or(&self.first);
        matches!(last, Item::End | Item::Error(_))
    }

    pub(super) fn put(&mut self, item: Item) {
        debug_assert!(!matches!(item, Item::None), "nothing was received");
        debug_assert!(!self.is_final(), "nothing comes behind the end of a stream");
        match self.first {
            Item::None => self.first = item,
            _ => self.behind.get_or_insert_default().push_back(item),
        }
    }

    /// Takes the first item; the one behind it moves up.
    pub(in crate::ring) fn take(&mut self) -> Item {
        let next = self.behind.as_mut().and_then(|behind| behind.pop_front());
        if let Some(behind) = &self.behind
            && behind.is_empty()
            && BEHIND_KEPT < behind.capacity()
        {
            self.behind = None;
        }
        std::mem::replace(&mut self.first, next.unwrap_or(Item::None))
    }

    /// The first item that lies in a buffer of the kernel's, with its index.
    pub(in crate::ring) fn first_lent(&self) -> Option<(usize, Lent)> {
        let behind = self.behind.iter().flat_map(|behind| behind.iter());
        let items = std::iter::once(&self.first).chain(behind);
        items.enumerate().find_map(|(index, item)| match item {
            Item::Lent(lent) => Some((index, *lent)),
            _ => None,
        })
    }

    /// Puts `bytes` in the place of the item at `index`, whose bytes they are.
    pub(in crate::ring) fn replace(&mut self, index: usize, bytes: Vec<u8>) {
        let item = match index {
            0 => Some(&mut self.first),
            _ => self.behind.as_mut().and_then(|behind| behind.get_mut(index - 1)),
        };
        debug_assert!(item.is_some(), "no item at {index}");
        if let Some(item) = item {
            *item = Item::Own(bytes);
        }
    }

    /// Empties the queue; returns the kernel's buffers, which the caller gives back.
    pub(in crate::ring) fn take_lent(&mut self) -> impl Iterator<Item = Lent> + use<> {
        let first = std::mem::replace(&mut self.first, Item::None);
        let behind = self.behind.take().map(|behind| *behind).unwrap_or_default();
        std::iter::once(first).chain(behind).filter_map(|item| match item {
            Item::Lent(lent) => Some(lent),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::buffers::Group;

    fn own(bytes: &[u8]) -> Item {
        Item::Own(bytes.to_vec())
    }

    fn lent(buffer: u16) -> Item {
        Item::Lent(Lent { group: Group::Heads, buffer, start: 0, end: 1 })
    }

    #[test]
    fn items_are_taken_in_order_of_arrival() {
        let mut received = Received::EMPTY;
        assert!(received.is_empty() && !received.has_bytes());
        for number in 0..10_u8 {
            received.put(own(&[number]));
            assert_eq!(received.is_crowded(), 0 < number);
        }
        received.put(Item::End);
        for number in 0..10_u8 {
            assert!(received.has_bytes() && received.is_final());
            assert!(matches!(received.take(), Item::Own(bytes) if bytes == [number]));
        }
        assert!(matches!(received.first(), Item::End));
        assert!(!received.is_empty() && !received.has_bytes() && !received.is_crowded());
    }

    #[test]
    fn emptied_queue_keeps_little_memory() {
        let mut received = Received::EMPTY;
        for _ in 0..100 {
            received.put(own(b"x"));
        }
        while !received.is_empty() {
            received.take();
        }
        assert!(received.behind.is_none(), "a long queue is given up");
        received.put(own(b"x"));
        received.put(own(b"y"));
        received.take();
        assert!(received.behind.is_some(), "a short one is kept");
        assert!(!received.is_crowded());
    }

    #[test]
    fn lent_items_are_replaced_where_they_stand() {
        let mut received = Received::EMPTY;
        received.put(own(b"a"));
        received.put(lent(7));
        received.put(lent(8));
        let (index, first) = received.first_lent().expect("a lent item");
        assert_eq!((index, first.buffer), (1, 7));
        received.replace(index, b"b".to_vec());
        let (index, _) = received.first_lent().expect("a lent item");
        received.replace(index, b"c".to_vec());
        assert!(received.first_lent().is_none());
        for expected in [b"a", b"b", b"c"] {
            assert!(matches!(received.take(), Item::Own(bytes) if bytes == expected));
        }
    }

    #[test]
    fn emptying_returns_each_lent_buffer_once() {
        let mut received = Received::EMPTY;
        received.put(lent(1));
        received.put(own(b"a"));
        received.put(lent(2));
        received.put(Item::Error(libc::ECONNRESET));
        let buffers: Vec<u16> = received.take_lent().map(|lent| lent.buffer).collect();
        assert_eq!(buffers, [1, 2]);
        assert!(received.is_empty() && received.take_lent().next().is_none());
    }
}
