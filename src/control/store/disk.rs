//! File system as the store needs it: a few files in one folder, and when they are on disk.
//!
//! A trait, so that tests can record every operation, let any of them fail, and show what a machine
//! that stops at any moment may leave behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::lock::{self, Lock, LockError};

/// The files of a store, all in one folder.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    /// The state file itself.
    State,
    /// A state file that is being written, to replace the old one.
    New,
    /// Changes since the state file was written.
    Journal,
    /// Changes that are being folded into a new state file.
    Folding,
    /// Rules that could not be used.
    Rejected,
}

impl Part {
    fn suffix(self) -> &'static str {
        match self {
            Part::State => "",
            Part::New => ".new",
            Part::Journal => ".journal",
            Part::Folding => ".journal.folding",
            Part::Rejected => ".rejected",
        }
    }
}

/// Marks that identify a file, and that show whether another program has written to it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Trace {
    /// Device and inode.
    pub(super) file: (u64, u64),
    pub(super) bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Trace {
    fn of(metadata: &fs::Metadata) -> Trace {
        Trace {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The folder of a store. Changes of names are on disk only after [`Disk::sync_folder`].
pub(super) trait Disk: Send + Sync {
    /// Path of a file, for messages.
    fn path(&self, part: Part) -> PathBuf;
    /// Keeps other processes out for as long as this value lives; makes the folder if there is
    /// none. May be called again, and takes another lock if the file of the first one has gone.
    fn lock(&self) -> Result<(), LockError>;
    /// Lets other processes in again.
    fn unlock(&self);
    /// `None` where there is no such file.
    fn read(&self, part: Part) -> io::Result<Option<Box<dyn Read>>>;
    /// `None` where there is no such file.
    fn bytes(&self, part: Part) -> io::Result<Option<u64>>;
    /// Creates an empty file. A file that had its name is removed first.
    fn create(&self, part: Part) -> io::Result<Box<dyn Output>>;
    /// Opens the file that exists, or else creates an empty one.
    fn append(&self, part: Part) -> io::Result<Box<dyn Output>>;
    fn rename(&self, from: Part, to: Part) -> io::Result<()>;
    /// Marks of the file that has the name now; `None`: there is no such file.
    fn trace(&self, part: Part) -> io::Result<Option<Trace>>;
    /// Gives the file a second name, so that it stays when its own name goes to another file.
    /// Returns the second name.
    fn keep_aside(&self, part: Part) -> io::Result<PathBuf>;
    /// Removes a file; a missing one is fine.
    fn remove(&self, part: Part) -> io::Result<()>;
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file that is written at its end.
pub(super) trait Output: Write + Send {
    /// Syncs the content that was written (fdatasync).
    fn sync_data(&mut self) -> io::Result<()>;
    /// Syncs the content with its length and rights (fsync).
    fn sync_all(&mut self) -> io::Result<()>;
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
    /// Writes the content from `offset` on over itself, so that the next sync writes it to disk,
    /// even if the kernel takes it for written already.
    fn write_again(&mut self, offset: u64) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
    /// The marks of the file itself, whatever its name leads to now. `None`: it is in no folder
    /// that others could change.
    fn trace(&self) -> io::Result<Option<Trace>>;
}

/// Most files of other programs that are kept for each name.
const ASIDE_MAX: u32 = 1000;

/// A real folder.
pub(super) struct Folder {
    folder: PathBuf,
    /// Name of the state file.
    name: OsString,
    lock: Mutex<Option<Lock>>,
}

impl Folder {
    /// The folder of this state file. If the state file is a symbolic link, it stays one, and the
    /// folder is that of the file it leads to.
    pub(super) fn of(state_file: &Path) -> io::Result<Folder> {
        let path = follow(state_file)?;
        let expected = || io::Error::new(ErrorKind::InvalidInput, "expected the path of a file");
        let name = path.file_name().ok_or_else(expected)?.to_owned();
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Folder { folder, name, lock: Mutex::new(None) })
    }

    /// Whether the state file is mounted by itself, so that no other file can be put in its place.
    pub(super) fn is_state_mounted(&self) -> bool {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        let found = statx(CWD, self.file(""), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    pub(super) fn file(&self, suffix: &str) -> PathBuf {
        let mut name = self.name.clone();
        name.push(suffix);
        self.folder.join(name)
    }

    /// Makes missing folders, and puts their names on disk.
    fn make(&self) -> io::Result<()> {
        let missing = self.folder.ancestors().take_while(|folder| {
            *folder != Path::new("") && matches!(folder.try_exists(), Ok(false))
        });
        for folder in missing.collect::<Vec<_>>().into_iter().rev() {
            // The names of clients' hosts are not for other users to read.
            let mode = if folder == self.folder { 0o750 } else { 0o777 };
            fs::DirBuilder::new().mode(mode).create(folder)?;
            let parent = folder.parent().filter(|parent| *parent != Path::new(""));
            sync_folder(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// Gives a file the permissions and the owner of the state file, because all files of a store
    /// hold the same kind of data. But only the state file itself may be readable by everybody.
    fn make_alike(&self, part: Part, file: &File) {
        let Ok(state) = fs::metadata(self.file("")) else { return };
        let mask = if part == Part::New { 0o777 } else { 0o770 };
        // As far as it is allowed: an ordinary user can't give files away.
        let _ = std::os::unix::fs::fchown(file, Some(state.uid()), Some(state.gid()));
        let _ = file.set_permissions(fs::Permissions::from_mode(state.mode() & mask));
    }

    fn open(&self, part: Part) -> io::Result<Box<dyn Output>> {
        let path = self.path(part);
        // Not opened to append, because such a file can be written nowhere but at its end. No other
        // process writes to it.
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o640);
        let mut file = match options.create_new(true).open(&path) {
            Ok(file) => {
                self.make_alike(part, &file);
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = options.create_new(false).open(&path)?;
                lock::close_to_others(&file);
                file
            }
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(file))
    }
}

/// Follows a chain of symbolic links to its end, where nothing need exist.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // The kernel follows as many links.
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // No link, or no file: what is wrong shows when the file is read.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // The file system can't sync a folder, and there is nothing better to do.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        outcome => outcome,
    }
}

impl Disk for Folder {
    fn path(&self, part: Part) -> PathBuf {
        self.file(part.suffix())
    }

    fn lock(&self) -> Result<(), LockError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.file(".lock");
        if !lock.as_ref().is_some_and(|lock| lock.is_at(&path)) {
            self.make()?;
            *lock = Some(Lock::take(&path)?);
        }
        Ok(())
    }

    fn unlock(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn read(&self, part: Part) -> io::Result<Option<Box<dyn Read>>> {
        Ok(if_there(File::open(self.path(part)))?.map(|file| Box::new(file) as Box<dyn Read>))
    }

    fn bytes(&self, part: Part) -> io::Result<Option<u64>> {
        Ok(if_there(fs::metadata(self.path(part)))?.map(|metadata| metadata.len()))
    }

    fn create(&self, part: Part) -> io::Result<Box<dyn Output>> {
        self.remove(part)?;
        self.open(part)
    }

    fn append(&self, part: Part) -> io::Result<Box<dyn Output>> {
        self.open(part)
    }

    fn rename(&self, from: Part, to: Part) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn trace(&self, part: Part) -> io::Result<Option<Trace>> {
        Ok(if_there(fs::metadata(self.path(part)))?.as_ref().map(Trace::of))
    }

    fn keep_aside(&self, part: Part) -> io::Result<PathBuf> {
        let own = self.path(part);
        for number in 1..=ASIDE_MAX {
            let aside = self.file(&format!("{}.found-{number}", part.suffix()));
            // A link and not a rename, so that there is a state file at every moment.
            match fs::hard_link(&own, &aside) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Ok(()) => return Ok(aside),
                // Not every file system has links, and the kernel may forbid one to another user's
                // file: copy it instead.
                Err(_) => {
                    let mut options = OpenOptions::new();
                    options.write(true).create_new(true).mode(0o640);
                    let mut copy = options.open(&aside)?;
                    self.make_alike(part, &copy);
                    io::copy(&mut File::open(&own)?, &mut copy)?;
                    copy.sync_all()?;
                    return Ok(aside);
                }
            }
        }
        let problem = format!("{ASIDE_MAX} were kept already: take some of {} away", own.display());
        Err(io::Error::other(problem))
    }

    fn remove(&self, part: Part) -> io::Result<()> {
        if_there(fs::remove_file(self.path(part))).map(|_| ())
    }

    fn sync_folder(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }
}

fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Output for File {
    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        self.seek(SeekFrom::Start(bytes)).map(|_| ())
    }

    fn write_again(&mut self, mut offset: u64) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match self.read_at(&mut chunk, offset) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.write_all_at(&chunk[..count], offset)?;
                    offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn trace(&self) -> io::Result<Option<Trace>> {
        self.metadata().map(|metadata| Some(Trace::of(&metadata)))
    }
}
