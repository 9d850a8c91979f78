//! Bytes received and not yet used: a head that may come in pieces, and what follows it.
//!
//! Nearly always a head arrives whole and is parsed in the buffer it came in. One that spans
//! several receives is gathered in a buffer of its own, so the kernel's are never held for a slow
//! sender.

use std::rc::Rc;

use crate::http::{HeadScan, Refusal};
use crate::ring::{RecvBuf, Ring};

#[derive(Default)]
pub(super) struct Inbox {
    first: Option<RecvBuf>,
    /// Bytes gathered of several receives; while there are any, `first` is empty.
    gathered: Vec<u8>,
    at: usize,
    scan: HeadScan,
}

impl From<Vec<u8>> for Inbox {
    fn from(bytes: Vec<u8>) -> Inbox {
        Inbox { gathered: bytes, ..Inbox::default() }
    }
}

impl Inbox {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.first {
            Some(first) => first,
            None => &self.gathered[self.at..],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Adds what was received behind what is there.
    pub(super) fn push(&mut self, ring: &Rc<Ring>, buf: RecvBuf) {
        if self.is_empty() {
            self.clear(ring);
            self.first = Some(buf);
            return;
        }
        self.gather(ring);
        self.gathered.extend_from_slice(&buf);
    }

    /// Moves what is here out of the kernel's buffer, when it may have to wait.
    pub(super) fn gather(&mut self, ring: &Rc<Ring>) {
        if let Some(first) = self.first.take()
            && !first.is_empty()
        {
            self.gathered = ring.take_vec();
            self.gathered.extend_from_slice(&first);
        }
    }

    /// Moves what is here into no more memory than it takes: it will wait for long.
    pub(super) fn settle(&mut self, ring: &Rc<Ring>) {
        if self.bytes().len() < self.gathered.capacity() || self.first.is_some() {
            let bytes = self.bytes().to_vec();
            self.clear(ring);
            self.gathered = bytes;
        }
    }

    /// Refusal of a head that is longer than allowed.
    pub(super) fn too_large(&self) -> Refusal {
        self.scan.too_large()
    }

    /// Looks for the end of the head at the front; how long it is, or `None` for "more bytes".
    pub(super) fn head(&mut self) -> Result<Option<usize>, Refusal> {
        let bytes = match &self.first {
            Some(first) => first,
            None => &self.gathered[self.at..],
        };
        self.scan.advance(bytes)
    }

    /// Whether the bytes can be the beginning of a response.
    pub(super) fn may_be_response(&self) -> bool {
        const BEGINNING: &[u8] = b"HTTP/1.";
        self.bytes().iter().zip(BEGINNING).all(|(found, expected)| found == expected)
    }

    /// Drops `n` bytes from the front; the next head starts behind them.
    pub(super) fn consume(&mut self, ring: &Rc<Ring>, n: usize) {
        self.scan = HeadScan::default();
        match &mut self.first {
            Some(first) => first.consume(n),
            None => self.at += n,
        }
        if self.is_empty() {
            self.clear(ring);
        }
    }

    /// Takes everything, as a buffer to send on.
    pub(super) fn take(&mut self) -> Option<RecvBuf> {
        self.scan = HeadScan::default();
        if self.first.is_some() {
            return self.first.take();
        }
        if self.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.gathered);
        bytes.drain(..std::mem::take(&mut self.at));
        Some(RecvBuf::from(bytes))
    }

    /// Takes everything, with `head` in front of it. `None`: the room of the bytes consumed before
    /// is too small for `head`, or the bytes came in pieces; everything stays.
    pub(super) fn take_behind(&mut self, head: &[u8]) -> Option<RecvBuf> {
        if !self.first.as_mut()?.put_in_front(head) {
            return None;
        }
        self.take()
    }

    fn clear(&mut self, ring: &Rc<Ring>) {
        self.first = None;
        self.at = 0;
        if self.gathered.capacity() > 0 {
            ring.give_vec(std::mem::take(&mut self.gathered));
        }
    }
}

#[cfg(test)]
mod tests;
