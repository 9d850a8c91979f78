//! Numbers of the daemon as a whole that no shard counts, for `/metrics`: about its files, and
//! about its last reload and last upgrade.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// The numbers. Each is written by one thread.
#[derive(Default)]
pub(super) struct Figures {
    /// Size of the journal, in bytes.
    pub(super) journal_bytes: AtomicU64,
    /// Rules in the state files that are not used.
    pub(super) rules_rejected: AtomicU64,
    /// Last reading of the configuration.
    pub(super) reload: LastTry,
    /// Last upgrade: from another daemon to this one, or from this one to another.
    pub(super) upgrade: LastTry,
}

impl Figures {
    /// Makes the numbers of a daemon that has just started: the configuration that it has read is
    /// in force.
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

/// Outcome of the last attempt at something that may fail.
#[derive(Default)]
pub(super) struct LastTry {
    has_failed: AtomicBool,
    /// Time in milliseconds since 1970; 0: there was no attempt.
    at: AtomicU64,
}

impl LastTry {
    /// Notes that an attempt ended just now, and whether it succeeded.
    pub(super) fn note(&self, is_done: bool) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.at.store(at.as_millis() as u64, Ordering::Relaxed);
        self.has_failed.store(!is_done, Ordering::Relaxed);
    }

    /// Whether the last attempt succeeded; also true if there was none.
    pub(super) fn is_good(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Time of the last attempt, in seconds since 1970; 0: there was none.
    pub(super) fn at(&self) -> f64 {
        self.at.load(Ordering::Relaxed) as f64 / 1000.0
    }
}
