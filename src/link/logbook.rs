//! Lines on their way from the shards to the access log. Each shard writes on a page of its own,
//! and the writer of the log takes that page away from time to time. Neither waits for the other:
//! if the page is full or is just being taken away, the shard keeps the line back for a moment, or
//! drops and counts it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};

use crate::limits;

/// The pages of all shards.
pub(crate) struct Logbook {
    is_on: AtomicBool,
    /// Lines that the writer could not write.
    lost: AtomicU64,
    pages: Vec<Page>,
}

/// The page of one shard. It fills two cache lines that no other page shares, because its shard
/// writes on it all the time.
#[derive(Default)]
#[repr(align(128))]
struct Page(Mutex<Vec<u8>>);

impl Logbook {
    pub(super) fn new(shards: usize) -> Logbook {
        let pages = (0..shards).map(|_| Page::default()).collect();
        Logbook { is_on: AtomicBool::new(false), lost: AtomicU64::new(0), pages }
    }

    /// Whether there is an access log.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(crate) fn set_on(&self, on: bool) {
        self.is_on.store(on, Ordering::Relaxed);
    }

    /// Puts lines on a shard's page and leaves `lines` empty. `false`: the page is full, or is just
    /// being taken away.
    pub(crate) fn write(&self, shard: usize, lines: &mut Vec<u8>) -> bool {
        let Some(Page(page)) = self.pages.get(shard) else { return false };
        let mut page = match page.try_lock() {
            Ok(page) => page,
            Err(TryLockError::Poisoned(page)) => page.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if limits::LOG_PAGE_BYTES_MAX < page.len() + lines.len() {
            return false;
        }
        page.extend_from_slice(lines);
        lines.clear();
        true
    }

    /// Takes the lines from a shard's page and puts the buffer `empty` in their place.
    pub(crate) fn take(&self, shard: usize, empty: &mut Vec<u8>) {
        let Some(Page(page)) = self.pages.get(shard) else { return };
        let mut page = page.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::swap(&mut *page, empty);
    }

    /// Counts lines that the writer could not write.
    pub(crate) fn add_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn shards(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_taken_once() {
        let logbook = Logbook::new(2);
        let mut lines = b"one\n".to_vec();
        assert!(logbook.write(1, &mut lines) && lines.is_empty());
        assert!(logbook.write(1, &mut b"two\n".to_vec()));
        let mut taken = Vec::new();
        logbook.take(0, &mut taken);
        assert_eq!(taken, b"");
        logbook.take(1, &mut taken);
        assert_eq!(taken, b"one\ntwo\n");
        taken.clear();
        logbook.take(1, &mut taken);
        assert_eq!(taken, b"");
    }

    #[test]
    fn a_full_page_takes_no_more() {
        let logbook = Logbook::new(1);
        assert!(logbook.write(0, &mut vec![b'x'; limits::LOG_PAGE_BYTES_MAX]));
        let mut more = b"y".to_vec();
        assert!(!logbook.write(0, &mut more));
        assert_eq!(more, b"y", "kept by whoever wrote it");
    }

    #[test]
    fn a_shard_does_not_wait_for_the_writer() {
        let logbook = Logbook::new(1);
        let _taking = logbook.pages[0].0.lock().expect("free");
        assert!(!logbook.write(0, &mut b"x".to_vec()));
    }
}
