//! Lock that keeps a second daemon from the state file. The lock ends with the process, however the
//! process ends. The lock file stays: if it were removed, two processes could each lock a file of
//! that name.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Removes the permissions of other users from a file that an earlier version left open to them, as
/// far as that is allowed.
pub(super) fn close_to_others(file: &File) {
    if let Ok(found) = file.metadata()
        && found.mode() & 0o007 != 0
    {
        let _ = file.set_permissions(Permissions::from_mode(found.mode() & 0o770));
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another process has the lock; its pid, or `unknown`.
    #[error("in use by mantrid (pid {0})")]
    InUse(String),
    /// The lock file can't be opened or made.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Lock, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let mut file = options.open(path)?;
        close_to_others(&file);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::InUse(read_pid(&file))),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // The pid is for people. If a full disk has no room for it, the lock is taken all the same.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { file })
    }

    /// Whether a process that locks the file of this name meets this lock.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let same =
            |own: Metadata, there: Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
        let (own, there) = (self.file.metadata(), std::fs::metadata(path));
        own.and_then(|own| Ok(same(own, there?))).unwrap_or(false)
    }
}

/// The process that has the lock, if any. Makes no file; a free lock is taken for an instant.
pub(super) fn holder(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let locked = flock(&file, FlockOperation::NonBlockingLockShared);
    (locked == Err(rustix::io::Errno::WOULDBLOCK)).then(|| read_pid(&file))
}

/// The pid in the file of a lock, or `unknown`.
fn read_pid(file: &File) -> String {
    let mut pid = String::new();
    // Bounded: anything may be in the file.
    let _ = file.take(20).read_to_string(&mut pid);
    let is_pid = !pid.trim().is_empty() && pid.trim().bytes().all(|b| b.is_ascii_digit());
    if is_pid { pid.trim().to_owned() } else { "unknown".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_the_pid_of_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        std::fs::write(&path, "what a longer pid left behind").expect("a file");
        let first = Lock::take(&path).expect("the lock");
        let pid = std::process::id().to_string();
        assert_eq!(std::fs::read_to_string(&path).expect("a pid"), format!("{pid}\n"));
        let refused = Lock::take(&path).expect_err("in use");
        assert_eq!(refused.to_string(), format!("in use by mantrid (pid {pid})"));
        drop(first);
        Lock::take(&path).expect("free again");
    }

    #[test]
    fn whatever_the_file_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let _first = Lock::take(&path).expect("the lock");
        for text in ["", "wibble", "\u{fffd}\n\n1"] {
            std::fs::write(&path, text).expect("written");
            let refused = Lock::take(&path).expect_err("in use");
            assert_eq!(refused.to_string(), "in use by mantrid (pid unknown)");
        }
    }
}
