//! The table on disk: a state file, and a journal of the changes since it was written.
//!
//! A change that [`Store::commit`] has answered for is found again after any crash; besides,
//! perhaps the commit that was under way, from its first change on, and nothing else. `state` says
//! what the files hold and what to make of a torn end; here is when what reaches the disk:
//!
//! - The journal is in order up to `journal_bytes`, all of it on disk, whenever nothing is running.
//!   What a failed write left behind it is cut off again, on disk, before anything else is done.
//! - A failed fdatasync may have thrown the pages away and marked them clean, so that the next one
//!   succeeds and means nothing (PostgreSQL found out in 2018). No file is trusted after that:
//!   changes are refused until [`Store::rewrite`] has put the whole table into new ones.
//! - Changes of names are put on disk one by one: a file has its name before anything that is
//!   acknowledged goes in, and nothing is taken away before what replaces it is there.
//! - A number is never used twice, unless it is certain that the first use is gone.
//! - The files are those that were written: should their names lead elsewhere (removed, moved,
//!   mounted over, restored from a backup, edited), it shows before a commit is answered for, and
//!   [`Store::rewrite`] is due. What stands there then is kept under another name.
//!
//! All of it blocks. One thread has the store; a [`Fold`] runs on another.

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

/// The files, opened to be written.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    mode: Mode,
    /// The last change that is on disk.
    durable: u64,
    /// The last number that may be in the journal: after a failure, more than `durable`.
    tried: u64,
    journal_bytes: u64,
    /// Bytes of the journal of a fold that did not come to its end.
    folding_bytes: Option<u64>,
    is_folding: bool,
    /// Bytes of journals from which on folding them is worth while.
    fold_at: u64,
    /// Rules that are in no file but the state file, and not to be lost when that is replaced.
    rejected: Vec<Rejected>,
    /// How many rules of the files were not used at the start.
    rejected_count: usize,
    /// The fleet that the table is of, as far as the files say.
    fleet: Option<Membership>,
    buffer: Vec<u8>,
    /// The state file as it was last read or written; `None`: there was none.
    state: Option<Trace>,
    /// The journal that was given up because another stands in its place, or none.
    lost_journal: Option<Trace>,
    is_displaced: bool,
    /// Why the last commit or rewrite did not succeed, if it did not.
    failure: Option<String>,
    /// Notes for the log: files that were found and kept under another name.
    notes: Vec<String>,
}

enum Mode {
    Ready(Box<dyn Output>),
    /// The state could not be written at the last try, and why.
    ReadOnly(String),
    /// No file can be trusted until the table is in new ones, and why.
    Spoilt(String),
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Nothing has changed on disk.
    #[error("can't {what} {}: {error}{}", path.display(), advice(error, path))]
    Failed { what: &'static str, path: PathBuf, error: io::Error },
    /// The files can't be written, so far.
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
        // A daemon that is running may take a file away between two that are read. Twice is no
        // chance.
        let replayed = read(names).or_else(|_| read(names)).or_else(|_| read(names))?;
        let mut loaded = StoredState::new(replayed, &folder);
        loaded.warnings.extend(mounted(&folder));
        Ok(loaded)
    }

    /// The process that has the lock, if one has it.
    pub(super) fn holder(path: &Path) -> Option<String> {
        lock::holder(&Folder::of(path).ok()?.file(".lock"))
    }

    /// Takes the lock, reads, and makes ready to write; a torn end of the journal is cut off. What
    /// can be read but not written is no error: each commit tries again.
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

    /// Opens the journal to be written, all that is kept of it being on disk.
    fn take_up(&mut self, bytes_kept: u64, bytes_sure: u64) -> Result<(), StoreError> {
        // The names that were found are so far perhaps in memory alone, too. A new journal must not
        // get there before the old one has another name.
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
        // What was read may so far be in memory alone, and the next line will say that it is on
        // disk. Even a sync does not make it so: where one failed before, memory believes it was
        // done.
        let outcome = cut(&mut *journal, bytes_kept, bytes_sure);
        let outcome = outcome.and_then(|()| self.disk.sync_folder());
        if let Err(error) = outcome {
            return Err(self.spoil("sync", Part::Journal, error));
        }
        // Of a fold or a rewrite that did not come to its end.
        let _ = self.disk.remove(Part::New);
        self.journal_bytes = bytes_kept;
        self.mode = Mode::Ready(journal);
        Ok(())
    }

    /// Appends all records with one write and one fdatasync, and tells the number of the last.
    /// After an error none of them counts.
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
            // For a restart, which reads what memory has. What the disk has is past knowing.
            let _ = journal.truncate(self.journal_bytes);
            return Err(self.spoil("sync", Part::Journal, error));
        }
        self.journal_bytes += self.buffer.len() as u64;
        // Whether the numbers are in a file that a start would read is the question.
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

    /// Finds out whether the names still lead to the files that were written; where they do not,
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

    /// Finds a file that is not as it was left.
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
        // A fold replaces it just now, and looks at it before it does.
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

    /// Lines for the log that nobody has had yet.
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

    /// Cuts off what a failed write left, so that nobody ever reads it.
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

    /// Tries once more what could not be done before; nothing, where there is no need.
    fn make_writable(&mut self) -> Result<(), StoreError> {
        if !matches!(self.mode, Mode::ReadOnly(_)) {
            return Ok(());
        }
        self.disk.lock().map_err(|error| self.stay_read_only(Part::State, &error))?;
        // Before reading it all, which takes time, whether it is of any use.
        let state = self.disk.trace(Part::State).ok().flatten();
        let opened = self.disk.sync_folder().and_then(|()| self.disk.append(Part::Journal));
        opened.map(drop).map_err(|error| self.stay_read_only(Part::Journal, &error))?;
        // Without the lock others may have written.
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

    /// Lets another process have the files. What is asked of this one next takes them back, if that
    /// process has changed nothing.
    pub(super) fn release(&mut self, why: &str) {
        self.mode = Mode::ReadOnly(why.to_owned());
        self.disk.unlock();
    }

    /// The fleet that the table of the next [`Store::rewrite`] is of.
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
        // What an earlier fold left must not be written over; it is folded together with the
        // journal, which is then too long by that for once.
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

    /// How a fold went.
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
            // Not again with each commit: a full disk would be written full each time.
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

    /// Writes the whole table to a new state file and starts a new journal. The table is that of
    /// the last commit that succeeded. Also for the end, to leave one tidy file.
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
        // Of commits that failed some lines may be on disk: with their numbers in it, they are no
        // more than what the state file has already.
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

    /// Takes the lock of the new files where the old ones were taken away, and keeps the journals
    /// that another program put there.
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

    /// The last resort at the end, where the files can't be written: another one, in the folder for
    /// temporary files. Tells which.
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

    /// Before a state file is written that does not have them.
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

/// A line where the state file is mounted by itself.
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

/// An empty journal that is there for good.
fn new_journal(disk: &dyn Disk) -> io::Result<Box<dyn Output>> {
    let journal = disk.create(Part::Journal)?;
    disk.sync_folder()?;
    Ok(journal)
}

/// Cuts a journal; the rest is then on disk, and `sure` bytes are known to be there already.
fn cut(journal: &mut dyn Output, bytes: u64, sure: u64) -> io::Result<()> {
    if journal.bytes()? < bytes {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "somebody else made it shorter"));
    }
    journal.truncate(bytes)?;
    // On a full disk even this may fail, and mostly there is nothing to write.
    if sure < bytes {
        journal.write_again(sure)?;
    }
    journal.sync_all()
}
