//! Numbers of the daemon as a whole that no shard counts, for `/metrics`: of its files, and how its
//! last reload and its last upgrade went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// The numbers, each written by one thread.
#[derive(Default)]
pub(super) struct Figures {
    /// Bytes of the journal.
    pub(super) journal_bytes: AtomicU64,
    /// Rules of the files that are not used.
    pub(super) rules_rejected: AtomicU64,
    /// Reading the configuration.
    pub(super) reload: LastTry,
    /// Taking over, and being taken over from.
    pub(super) upgrade: LastTry,
}

impl Figures {
    /// Begins with the configuration of the start, which is in force.
    pub(super) fn begun() -> Figures {
        let figures = Figures::default();
        figures.reload.note(true);
        figures
    }

    pub(super) fn set_files(&self, journal_bytes: u64, rules_rejected: usize) {
        self.journal_bytes.store(journal_bytes, Ordering::Relaxed);
        self.rules_rejected.store(rules_rejected as u64, Ordering::Relaxed);
    }
}

/// The last try of something that may fail.
#[derive(Default)]
pub(super) struct LastTry {
    has_failed: AtomicBool,
    /// Milliseconds since 1970; 0: there was none.
    at: AtomicU64,
}

impl LastTry {
    /// Notes that it was tried just now.
    pub(super) fn note(&self, is_done: bool) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.at.store(at.as_millis() as u64, Ordering::Relaxed);
        self.has_failed.store(!is_done, Ordering::Relaxed);
    }

    /// Whether the last try did not fail; so also where there was none.
    pub(super) fn is_good(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Seconds since 1970; 0: there was none.
    pub(super) fn at(&self) -> f64 {
        self.at.load(Ordering::Relaxed) as f64 / 1000.0
    }
}
