//! The table on disk: a state file, and a journal of the changes since it was written.
//!
//! After any crash, every change that [`Store::commit`] has acknowledged is found again. Of the
//! commit that was under way, all changes, the first few or none may be found; nothing else is.
//! `state` says what the files hold and how a torn end is read. This module decides when what
//! reaches the disk:
//!
//! - Between operations, the journal is in order up to `journal_bytes`, and all of that is on disk.
//!   Bytes that a failed write left after it are cut off again, on disk, before anything else is
//!   done.
//! - A failed fdatasync may have thrown the pages away and marked them clean, so that the next one
//!   succeeds and means nothing (PostgreSQL found out in 2018). No file is trusted after that:
//!   changes are refused until [`Store::rewrite`] has put the whole table into new files.
//! - Changes of names are put on disk one by one: the name of a file is on disk before anything
//!   that is acknowledged is written to the file, and a file is removed only once its replacement
//!   is on disk.
//! - The number of a change is never used twice, unless it is certain that the first use is gone.
//! - The names must still lead to the files that this store wrote. If they do not (because a file
//!   was removed, moved, mounted over, restored from a backup or edited), the store notices before
//!   it acknowledges a commit, and [`Store::rewrite`] is due. A file that another program put there
//!   is kept under another name.
//!
//! All operations block. One thread owns the store; a [`Fold`] runs on another.

mod disk;
mod fold;
mod load;
mod lock;
mod rejected;
mod warnings;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits::{COMMIT_BUFFER_KEPT_BYTES, FOLD_BYTES_MIN, SEQUENCE_MAX};
use crate::state::{Membership, Rejected, Totals, journal};
use crate::table::{Names, Snapshot};
use disk::{Disk, Folder, Output, Part, Trace};
use lock::LockError;

pub(super) use crate::state::Record;
pub(super) use fold::{Fold, Folded};
pub(super) use load::StoredState;

/// The files of a table, open for writing.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    mode: Mode,
    /// The last change that is on disk.
    durable: u64,
    /// The last number that may be in the journal: after a failure, more than `durable`.
    tried: u64,
    journal_bytes: u64,
    /// Bytes of the journal that is to be folded, by a fold that runs or was broken off; `None`:
    /// there is no such journal.
    folding_bytes: Option<u64>,
    is_folding: bool,
    /// Size of the journals above which folding them is worthwhile.
    fold_at: u64,
    /// Rejected rules that only the state file still has. They must not be lost when it is
    /// replaced.
    rejected: Vec<Rejected>,
    /// How many rules of the files were not used at the start.
    rejected_count: usize,
    /// The fleet that the table belongs to, according to the files.
    fleet: Option<Membership>,
    buffer: Vec<u8>,
    /// The state file as it was last read or written; `None`: there was none.
    state: Option<Trace>,
    /// The journal that was given up because its name leads to no file or to another one, or
    /// because another program wrote to it.
    lost_journal: Option<Trace>,
    is_displaced: bool,
    /// Why the last commit or rewrite failed; `None`: it succeeded.
    failure: Option<String>,
    /// Notes for the log: files that were found and kept under another name.
    notes: Vec<String>,
}

enum Mode {
    Ready(Box<dyn Output>),
    /// The last try to write failed, for this reason. The next commit tries again.
    ReadOnly(String),
    /// No file can be trusted until the table is written to new ones, for this reason.
    Spoilt(String),
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Nothing has changed on disk.
    #[error("can't {what} {}: {error}{}", path.display(), advice(error, path))]
    Failed { what: &'static str, path: PathBuf, error: io::Error },
    /// Refusal of a change: the state files can't be written, for this reason.
    #[error("the state can't be written: {0}")]
    ReadOnly(String),
    /// [`Store::rewrite`] is due.
    #[error("changes are refused until the whole state is written anew: {0}")]
    NeedsRewrite(String),
    /// A fold is under way.
    #[error("the journal is being folded")]
    Folding,
}

impl StoreError {
    fn failed(what: &'static str, path: PathBuf, error: io::Error) -> StoreError {
        StoreError::Failed { what, path, error }
    }
}

impl Store {
    /// Reads the files for `--check`: writes nothing and needs no lock.
    pub(super) fn read(path: &Path, names: &mut Names) -> Result<StoredState, String> {
        let folder = Folder::of(path).map_err(|error| load::failed(path, &error))?;
        let read = |names: &mut Names| load::load(&folder, names);
        // A running daemon may remove a file between two reads, so reading is tried three times. It
        // does not fail three times in a row by chance.
        let replayed = read(names).or_else(|_| read(names)).or_else(|_| read(names))?;
        let mut loaded = StoredState::new(replayed, &folder);
        loaded.warnings.extend(mounted(&folder));
        Ok(loaded)
    }

    /// The process that has the lock, if any.
    pub(super) fn holder(path: &Path) -> Option<String> {
        lock::holder(&Folder::of(path).ok()?.file(".lock"))
    }

    /// Takes the lock, reads the files, and prepares to write them; a torn end of the journal is
    /// cut off. Files that can be read but not written are no error: each commit tries again.
    pub(super) fn open(path: &Path, names: &mut Names) -> Result<(Store, StoredState), String> {
        let folder = Folder::of(path).map_err(|error| load::failed(path, &error))?;
        let warning = mounted(&folder);
        let (store, mut loaded) = Store::open_on(Arc::new(folder), names)?;
        loaded.warnings.extend(warning);
        Ok((store, loaded))
    }

    fn open_on(disk: Arc<dyn Disk>, names: &mut Names) -> Result<(Store, StoredState), String> {
        let locked = match disk.lock() {
            Err(error @ LockError::InUse(_)) => {
                return Err(load::failed(&disk.path(Part::State), &error));
            }
            locked => locked,
        };
        let state = disk.trace(Part::State).ok().flatten();
        let replayed = load::load(&*disk, names)?;
        let (bytes_kept, bytes_sure) = (replayed.bytes_kept, replayed.bytes_sure);
        let mut loaded = StoredState::new(replayed, &*disk);
        let state_bytes = disk.bytes(Part::State).ok().flatten().unwrap_or(0);
        let mut store = Store {
            mode: Mode::ReadOnly(String::new()),
            durable: loaded.sequence,
            tried: loaded.sequence,
            journal_bytes: bytes_kept,
            folding_bytes: None,
            is_folding: false,
            fold_at: state_bytes.max(FOLD_BYTES_MIN),
            rejected_count: loaded.rejected.len(),
            rejected: loaded.rejected.clone(),
            fleet: loaded.fleet.clone(),
            buffer: Vec::new(),
            state,
            lost_journal: None,
            is_displaced: false,
            failure: None,
            notes: Vec::new(),
            disk,
        };
        let ready = match locked {
            Ok(()) => store.take_up(bytes_kept, bytes_sure),
            Err(error) => Err(store.stay_read_only(Part::State, &error)),
        };
        match ready.and_then(|()| store.keep_rejected()) {
            Ok(()) if loaded.rejected.is_empty() => {}
            Ok(()) => loaded.warnings.push(format!(
                "Rules that are not used are kept in {}",
                store.path(Part::Rejected)
            )),
            Err(error) => loaded.warnings.push(error.to_string()),
        }
        Ok((store, loaded))
    }

    /// Opens the journal for writing. Afterwards all that is kept of it is on disk.
    fn take_up(&mut self, bytes_kept: u64, bytes_sure: u64) -> Result<(), StoreError> {
        // The names of the files may so far be in memory alone. A new journal must not reach the
        // disk before the old one has its other name there.
        if let Err(error) = self.disk.sync_folder() {
            return Err(self.spoil("sync the folder of", Part::Journal, error));
        }
        let journal = self.disk.append(Part::Journal);
        let mut journal = journal.map_err(|error| self.stay_read_only(Part::Journal, &error))?;
        let folding_bytes = self.disk.bytes(Part::Folding);
        self.folding_bytes =
            folding_bytes.map_err(|error| self.stay_read_only(Part::Folding, &error))?;
        // A fold that was broken off is taken up again at once.
        if self.folding_bytes.is_some() {
            self.fold_at = 0;
        }
        // What was read may so far be in memory alone, but the next line of the journal will say
        // that it is on disk. A sync alone does not make sure of that: if an earlier sync failed,
        // the kernel takes the pages for clean.
        let outcome = cut(&mut *journal, bytes_kept, bytes_sure);
        let outcome = outcome.and_then(|()| self.disk.sync_folder());
        if let Err(error) = outcome {
            return Err(self.spoil("sync", Part::Journal, error));
        }
        // Left by a fold or a rewrite that was broken off.
        let _ = self.disk.remove(Part::New);
        self.journal_bytes = bytes_kept;
        self.mode = Mode::Ready(journal);
        Ok(())
    }

    /// Appends all records with one write and one fdatasync, and returns the number of the last.
    /// After an error none of the records counts.
    pub(super) fn commit(&mut self, records: &[Record<'_>]) -> Result<u64, StoreError> {
        let outcome = self.try_commit(records);
        self.failure = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    fn try_commit(&mut self, records: &[Record<'_>]) -> Result<u64, StoreError> {
        self.make_writable()?;
        self.look();
        let journal = match &mut self.mode {
            Mode::Ready(journal) => journal,
            Mode::ReadOnly(why) => return Err(StoreError::ReadOnly(why.clone())),
            Mode::Spoilt(why) => return Err(StoreError::NeedsRewrite(why.clone())),
        };
        if records.is_empty() {
            return Ok(self.durable);
        }
        let last = self.durable.saturating_add(records.len() as u64);
        if SEQUENCE_MAX < last {
            let error = io::Error::other(format!("it has all numbers up to {SEQUENCE_MAX}"));
            return Err(StoreError::failed("write", self.disk.path(Part::Journal), error));
        }
        self.buffer.clear();
        self.buffer.shrink_to(COMMIT_BUFFER_KEPT_BYTES);
        for (n, record) in (self.durable + 1..).zip(records) {
            journal::encode(&mut self.buffer, n, self.durable, record);
        }
        self.tried = last;
        if let Err(error) = journal.write_all(&self.buffer) {
            return Err(self.take_back(error));
        }
        if let Err(error) = journal.sync_data() {
            // Cut the records off for a restart, which reads what memory has. What the disk has
            // can't be known.
            let _ = journal.truncate(self.journal_bytes);
            return Err(self.spoil("sync", Part::Journal, error));
        }
        self.journal_bytes += self.buffer.len() as u64;
        // Make sure that the records are in the file that a start would read.
        self.look();
        if let Mode::Spoilt(why) = &self.mode {
            return Err(StoreError::NeedsRewrite(why.clone()));
        }
        self.durable = last;
        for record in records {
            if let Record::Fleet(membership) = record {
                self.fleet = membership.cloned();
            }
        }
        Ok(last)
    }

    /// Finds out whether the names still lead to the files that this store wrote; if they do not,
    /// [`Store::rewrite`] is due.
    pub(super) fn look(&mut self) {
        let Mode::Ready(journal) = &self.mode else { return };
        let Ok(Some(own)) = journal.trace() else { return };
        if let Some(why) = self.displaced(own) {
            self.lost_journal = Some(own);
            self.is_displaced = true;
            self.mode = Mode::Spoilt(why);
        }
    }

    /// Finds a file that is not as this store left it, and says what is wrong with it.
    fn displaced(&self, own: Trace) -> Option<String> {
        let wrong = |part, what: &str| Some(format!("{} {what}", self.path(part)));
        match self.disk.trace(Part::Journal) {
            Err(error) => {
                return wrong(Part::Journal, &format!("can't be found any more: {error}"));
            }
            Ok(None) => return wrong(Part::Journal, "is gone: somebody has removed or moved it"),
            Ok(Some(found)) if found.file != own.file => {
                return wrong(Part::Journal, "is another file than the one that was written");
            }
            Ok(Some(found)) if found.bytes != self.journal_bytes => {
                return wrong(Part::Journal, "was written to by somebody else");
            }
            Ok(Some(_)) => {}
        }
        // A running fold is about to replace the state file, and looks at it itself before it does.
        if self.is_folding {
            return None;
        }
        match (self.disk.trace(Part::State), self.state) {
            (Err(error), _) => wrong(Part::State, &format!("can't be found any more: {error}")),
            (Ok(found), known) if found == known => None,
            (Ok(None), _) => wrong(Part::State, "is gone: somebody has removed or moved it"),
            (Ok(Some(_)), _) => wrong(Part::State, "was replaced or edited by somebody else"),
        }
    }

    /// Why changes can't be written down, as far as that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        match &self.mode {
            Mode::Ready(_) => self.failure.clone(),
            Mode::ReadOnly(why) | Mode::Spoilt(why) => Some(why.clone()),
        }
    }

    /// Bytes of the journal, with the part that is being folded.
    pub(super) fn bytes(&self) -> u64 {
        self.journal_bytes + self.folding_bytes.unwrap_or(0)
    }

    /// How many rules of the files are not used.
    pub(super) fn rejected_count(&self) -> usize {
        self.rejected_count
    }

    /// Takes the lines for the log that were added since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn note_aside(&mut self, aside: &Path) {
        self.notes.push(format!(
            "{}: somebody else had written it; that is kept as {}, and the table in force is in its place. To \
             use what was kept: `mantrid-client load` it, or stop the daemon, and put it there",
            self.path(Part::State),
            aside.display()
        ));
    }

    /// Cuts off what a failed write left, so that it is never read.
    fn take_back(&mut self, error: io::Error) -> StoreError {
        let Mode::Ready(journal) = &mut self.mode else {
            return self.spoil("write", Part::Journal, error);
        };
        match cut(&mut **journal, self.journal_bytes, self.journal_bytes) {
            Ok(()) => {
                self.tried = self.durable;
                StoreError::failed("write", self.disk.path(Part::Journal), error)
            }
            Err(_) => self.spoil("write", Part::Journal, error),
        }
    }

    /// Marks the journal as spoilt: from here on nothing but a rewrite helps.
    fn spoil(&mut self, what: &'static str, part: Part, error: io::Error) -> StoreError {
        let error = StoreError::failed(what, self.disk.path(part), error);
        self.mode = Mode::Spoilt(error.to_string());
        error
    }

    /// If the files could not be written before, tries again to take the lock and open the journal.
    fn make_writable(&mut self) -> Result<(), StoreError> {
        if !matches!(self.mode, Mode::ReadOnly(_)) {
            return Ok(());
        }
        self.disk.lock().map_err(|error| self.stay_read_only(Part::State, &error))?;
        // Reading all files takes time, so find out first whether the journal can be opened.
        let state = self.disk.trace(Part::State).ok().flatten();
        let opened = self.disk.sync_folder().and_then(|()| self.disk.append(Part::Journal));
        opened.map(drop).map_err(|error| self.stay_read_only(Part::Journal, &error))?;
        // Another process may have written while this one had no lock.
        let replayed = load::load(&*self.disk, &mut Names::default());
        let replayed = replayed.map_err(|error| self.stay_read_only(Part::State, &error))?;
        if replayed.loaded.sequence != self.durable {
            return Err(
                self.stay_read_only(Part::State, &"others have changed it since it was read")
            );
        }
        self.state = state;
        self.take_up(replayed.bytes_kept, replayed.bytes_sure)
    }

    fn stay_read_only(&mut self, part: Part, why: &dyn Why) -> StoreError {
        let path = self.disk.path(part);
        let advice = why.error().map(|error| advice(error, &path)).unwrap_or_default();
        let why = format!("{}: {why}{advice}", path.display());
        self.mode = Mode::ReadOnly(why.clone());
        StoreError::ReadOnly(why)
    }

    /// Releases the files to another process. The next commit or rewrite of this process takes them
    /// back, if the other one has changed nothing.
    pub(super) fn release(&mut self, why: &str) {
        self.mode = Mode::ReadOnly(why.to_owned());
        self.disk.unlock();
    }

    /// Sets the fleet that the table of the next [`Store::rewrite`] belongs to.
    pub(super) fn set_fleet(&mut self, fleet: Option<Membership>) {
        self.fleet = fleet;
    }

    /// The number of the last change that is on disk.
    pub(super) fn sequence(&self) -> u64 {
        self.durable
    }

    /// Whether the journal has grown so much that folding it is worth while.
    pub(super) fn wants_fold(&self) -> bool {
        let bytes = self.journal_bytes + self.folding_bytes.unwrap_or(0);
        matches!(self.mode, Mode::Ready(_)) && !self.is_folding && self.fold_at < bytes
    }

    /// Starts a new journal and leaves the old one to be folded, while commits go on.
    pub(super) fn begin_fold(&mut self) -> Result<Fold, StoreError> {
        match &self.mode {
            _ if self.is_folding => return Err(StoreError::Folding),
            Mode::Ready(_) => {}
            Mode::ReadOnly(why) => return Err(StoreError::ReadOnly(why.clone())),
            Mode::Spoilt(why) => return Err(StoreError::NeedsRewrite(why.clone())),
        }
        self.keep_rejected()?;
        // A journal that an earlier fold left must not be overwritten. So the current journal is
        // folded together with it, and is not replaced by a new one this time.
        if self.folding_bytes.is_none() {
            self.disk.rename(Part::Journal, Part::Folding).map_err(|error| {
                StoreError::failed("rename", self.disk.path(Part::Journal), error)
            })?;
            self.folding_bytes = Some(self.journal_bytes);
            match self.disk.sync_folder().and_then(|()| new_journal(&*self.disk)) {
                Ok(journal) => self.mode = Mode::Ready(journal),
                Err(error) => return Err(self.spoil("start", Part::Journal, error)),
            }
            self.journal_bytes = 0;
        }
        self.is_folding = true;
        let (disk, fleet) = (self.disk.clone(), self.fleet.clone());
        Ok(Fold { disk, sequence: self.durable, known: self.state, fleet })
    }

    /// Takes the outcome of a fold.
    pub(super) fn end_fold(&mut self, outcome: &Result<Folded, StoreError>) {
        self.is_folding = false;
        match outcome {
            Ok(folded) => {
                self.folding_bytes = None;
                self.fold_at = folded.bytes.max(FOLD_BYTES_MIN);
                self.state = folded.trace;
                if let Some(aside) = &folded.aside {
                    self.note_aside(aside);
                }
            }
            // Don't fold again at the next commit: each try would fill a full disk once more.
            Err(_) => {
                let bytes = self.journal_bytes + self.folding_bytes.unwrap_or(0);
                self.fold_at = bytes + FOLD_BYTES_MIN;
            }
        }
    }

    /// Whether commits are refused until [`Store::rewrite`] succeeds.
    pub(super) fn needs_rewrite(&self) -> bool {
        matches!(self.mode, Mode::Spoilt(_))
    }

    /// Writes the whole table to a new state file and starts a new journal. `table` must be that of
    /// the last commit that succeeded. Also called at the end, to leave one tidy file.
    pub(super) fn rewrite(
        &mut self,
        table: &Snapshot,
        stats: impl IntoIterator<Item = (String, Totals)>,
    ) -> Result<(), StoreError> {
        let outcome = self.try_rewrite(table, stats);
        self.failure = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    fn try_rewrite(
        &mut self,
        table: &Snapshot,
        stats: impl IntoIterator<Item = (String, Totals)>,
    ) -> Result<(), StoreError> {
        if self.is_folding {
            return Err(StoreError::Folding);
        }
        self.make_writable()?;
        self.look();
        self.keep_displaced()?;
        self.keep_rejected()?;
        // Lines of failed commits may be on disk. The state file gets the highest number that was
        // tried, so such lines count as part of it and are passed over.
        let content = (table, self.fleet.as_ref());
        let folded = fold::write_state(&*self.disk, content, stats, self.tried, self.state)?;
        self.state = folded.trace;
        if let Some(aside) = &folded.aside {
            self.note_aside(aside);
        }
        let removed =
            self.disk.remove(Part::Folding).and_then(|()| self.disk.remove(Part::Journal));
        match removed.and_then(|()| new_journal(&*self.disk)) {
            Ok(journal) => self.mode = Mode::Ready(journal),
            Err(error) => return Err(self.spoil("start", Part::Journal, error)),
        }
        self.is_displaced = false;
        self.durable = self.tried;
        self.journal_bytes = 0;
        self.folding_bytes = None;
        self.fold_at = folded.bytes.max(FOLD_BYTES_MIN);
        Ok(())
    }

    /// If the files were taken away, locks the new ones, and keeps the journals that another
    /// program put there.
    fn keep_displaced(&mut self) -> Result<(), StoreError> {
        if !self.is_displaced {
            return Ok(());
        }
        let failed = |disk: &dyn Disk, what, part, error| {
            Err(StoreError::failed(what, disk.path(part), error))
        };
        match self.disk.lock() {
            Ok(()) => {}
            Err(LockError::Failed(error)) => {
                return failed(&*self.disk, "make the folder of", Part::State, error);
            }
            Err(in_use) => {
                let error = io::Error::other(in_use.to_string());
                return failed(&*self.disk, "take back", Part::State, error);
            }
        }
        for part in [Part::Journal, Part::Folding] {
            let is_ours = |found: Trace| match part {
                Part::Journal => self.lost_journal.is_some_and(|lost| {
                    lost.file == found.file && lost.bytes == self.journal_bytes
                }),
                _ => self.folding_bytes == Some(found.bytes),
            };
            let kept = self.disk.trace(part).and_then(|found| match found {
                Some(found) if found.bytes != 0 && !is_ours(found) => {
                    self.disk.keep_aside(part).map(Some)
                }
                _ => Ok(None),
            });
            match kept {
                Ok(None) => {}
                Ok(Some(aside)) => self.note_aside(&aside),
                Err(error) => return failed(&*self.disk, "keep a copy of", part, error),
            }
        }
        Ok(())
    }

    /// Writes the table to another file, in the folder for temporary files; the last resort at the
    /// end, if the files of the store can't be written. Returns its path.
    pub(super) fn rescue(
        table: &Snapshot,
        stats: impl IntoIterator<Item = (String, Totals)>,
    ) -> io::Result<PathBuf> {
        let name = format!("mantrid-state-{}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        crate::state::write(&mut file, table, stats, 0)?;
        file.sync_all()?;
        Ok(path)
    }

    /// Keeps rejected rules in a file of their own, before a state file is written without them.
    fn keep_rejected(&mut self) -> Result<(), StoreError> {
        rejected::keep(&*self.disk, &self.rejected).map_err(|error| {
            let path = self.disk.path(Part::Rejected);
            StoreError::failed("keep rules that are not used in", path, error)
        })?;
        self.rejected.clear();
        Ok(())
    }

    fn path(&self, part: Part) -> String {
        self.disk.path(part).display().to_string()
    }
}

/// A warning, if the state file is mounted by itself.
fn mounted(folder: &Folder) -> Option<String> {
    let path = folder.path(Part::State);
    folder.is_state_mounted().then(|| {
        format!(
            "{}: it is mounted by itself, so it can't be replaced by a new one, and changes stay in the journal \
             beside it: mount its folder instead",
            path.display()
        )
    })
}

/// Why something can't be written, with the error of the system where there is one.
trait Why: fmt::Display {
    fn error(&self) -> Option<&io::Error> {
        None
    }
}

impl Why for str {}
impl Why for &str {}
impl Why for String {}

impl Why for io::Error {
    fn error(&self) -> Option<&io::Error> {
        Some(self)
    }
}

impl Why for LockError {
    fn error(&self) -> Option<&io::Error> {
        match self {
            LockError::Failed(error) => Some(error),
            LockError::InUse(_) => None,
        }
    }
}

/// Advice what to do about the error.
fn advice(error: &io::Error, path: &Path) -> String {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let folder = folder.display();
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!(
            "; uid {user} can't write to the folder {folder}: give it to that user (chown {user}:{group} \
             {folder}, and what is in it), set uid and gid to its owner's, or state_file to a folder \
             that is not there yet"
        ),
        Some(libc::EROFS) => format!(
            "; uid {user} needs a folder that can be written: mount {folder} with it, or name another by state_file"
        ),
        Some(libc::ENOSPC | libc::EDQUOT) => {
            format!("; uid {user} has no room left: make room on the file system of {folder}")
        }
        Some(libc::ENOENT | libc::ENOTDIR) => {
            format!("; make the folder {folder}, and give it to uid {user}")
        }
        Some(libc::EBUSY) => {
            format!("; it is mounted by itself: mount its folder {folder} instead")
        }
        _ => String::new(),
    }
}

/// Creates an empty journal, and puts its name on disk.
fn new_journal(disk: &dyn Disk) -> io::Result<Box<dyn Output>> {
    let journal = disk.create(Part::Journal)?;
    disk.sync_folder()?;
    Ok(journal)
}

/// Cuts a journal to `bytes`, and makes sure that these are on disk. The first `sure` of them are
/// known to be on disk already.
fn cut(journal: &mut dyn Output, bytes: u64, sure: u64) -> io::Result<()> {
    if journal.bytes()? < bytes {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "somebody else made it shorter"));
    }
    journal.truncate(bytes)?;
    // Only if needed: on a full disk even this may fail, and mostly there is nothing to write.
    if sure < bytes {
        journal.write_again(sure)?;
    }
    journal.sync_all()
}
