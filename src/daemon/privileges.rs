//! Rights of the process: it stays root until the addresses are bound, and then becomes `uid` and
//! `gid` for good, which is verified.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};

use crate::config::{Config, Identity};

/// User and group that the daemon is to become.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    uid: Uid,
    gid: Gid,
}

impl Target {
    /// Whether the daemon stays root.
    pub(super) fn stays_root(&self) -> bool {
        self.uid.is_root()
    }
}

/// Whether this process may become another user.
pub(super) fn are_root() -> bool {
    geteuid().is_root()
}

/// Looks up the names of user and group. This is done before anything is bound.
pub(super) fn find(config: &Config) -> Result<Target, Vec<String>> {
    match (user(&config.uid), group(&config.gid)) {
        (Ok(uid), Ok(gid)) => Ok(Target { uid, gid }),
        (uid, gid) => Err(uid.err().into_iter().chain(gid.err()).collect()),
    }
}

/// Becomes `target` if started as root; otherwise only gives up capabilities. A process that gave
/// something up, or `is_guarded` already, does not let other processes of its user read its memory.
/// Must be called while the process has a single thread.
pub(super) fn drop_to(target: Target, is_guarded: bool) -> Result<(), String> {
    let Target { uid, gid } = target;
    let had_rights = are_root() || rustix::thread::capabilities(None).is_ok_and(has_rights);
    // No program that this process starts may gain rights from a set-uid file, even if nothing else
    // is given up.
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| format!("can't forbid new privileges: {errno}"))?;
    if !are_root() {
        drop_capabilities()?;
        return if had_rights || is_guarded { guard() } else { Ok(()) };
    }
    if uid.is_root() && gid.as_raw() == 0 {
        tracing::warn!("Running as root, as uid = 0 asks for");
        return Ok(());
    }
    if !uid.is_root() {
        forbid_capabilities();
    }
    // Otherwise the supplementary groups of root would stay, with their rights to read files.
    setgroups(&[]).map_err(|errno| refused("give up supplementary groups", errno))?;
    setresgid(gid, gid, gid).map_err(|errno| refused(&format!("become gid {gid}"), errno))?;
    setresuid(uid, uid, uid).map_err(|errno| refused(&format!("become uid {uid}"), errno))?;
    verify(target)?;
    if uid.is_root() {
        tracing::warn!("Running as root, as uid = 0 asks for");
        return Ok(());
    }
    // The kernel cleared the effective capabilities with the change of user, but not the
    // inheritable ones.
    drop_capabilities()?;
    guard()?;
    tracing::info!("Dropped to UID {uid}, GID {gid}");
    Ok(())
}

fn has_rights(sets: rustix::thread::CapabilitySets) -> bool {
    sets.permitted != rustix::thread::CapabilitySet::empty()
}

/// Forbids other processes of the user to read the memory of this one, and the kernel to write a
/// core file (prctl(2), PR_SET_DUMPABLE): the memory has data of clients, and the token.
fn guard() -> Result<(), String> {
    nix::sys::prctl::set_dumpable(false).map_err(|errno| format!("can't guard memory: {errno}"))
}

/// Removes all capabilities from the bounding set, so that not even a file with capabilities could
/// give them back. In a container root may not be allowed to do that; no_new_privs has the same
/// effect on such files.
fn forbid_capabilities() {
    for number in 0..u64::BITS {
        let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

/// Drops the capabilities that a unit gave to bind port 80 (`AmbientCapabilities=`).
fn drop_capabilities() -> Result<(), String> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let failed = |error: rustix::io::Errno| format!("can't drop capabilities: {error}");
    // Fails on kernels before 4.3, which have no such set.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    let left = rustix::thread::capabilities(None).map_err(failed)?;
    if left.permitted != none {
        return Err("capabilities were dropped and are still there: not going on".to_owned());
    }
    Ok(())
}

/// Makes the folder of the state file, if it is missing and this process is root, and gives it to
/// the user that the daemon will become. A folder that exists keeps its owner.
pub(super) fn make_folder(state_file: &Path, target: Target) -> Result<(), String> {
    let Some(folder) = missing_folder(state_file) else { return Ok(()) };
    let failed = |error: &dyn Display| no_folder(state_file, error);
    let make = |is_root: bool| {
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::DirBuilder::new().mode(0o750).create(folder)?;
        if is_root { give(folder, target) } else { Ok(()) }
    };
    with_rights_for(folder, target, make).and_then(|made| made.map_err(|error| failed(&error)))
}

/// Returns, for `--check`, whether [`make_folder`] would make a folder; fails if that would fail.
pub(super) fn would_make_folder(state_file: &Path, target: Target) -> Result<bool, String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let Some(folder) = missing_folder(state_file) else { return Ok(false) };
    let may_write = |_| {
        let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        if !there.is_dir() {
            return Err(rustix::io::Errno::NOTDIR);
        }
        accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
    };
    let may = with_rights_for(folder, target, may_write)?;
    may.map(|()| true).map_err(|errno| no_folder(state_file, &io::Error::from(errno)))
}

/// Returns the folder that a file is in, or would be in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the folder of the state file if it is missing and this process, as root, has to make it.
fn missing_folder(state_file: &Path) -> Option<&Path> {
    let folder = state_file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.filter(|folder| are_root() && !folder.exists())
}

fn no_folder(state_file: &Path, error: &dyn Display) -> String {
    format!("state_file = {}: can't make its folder: {error}", state_file.display())
}

/// Makes `target` the owner of a file or folder that root has just made in a folder that only root
/// may change.
pub(super) fn give(path: &Path, target: Target) -> io::Result<()> {
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    let (uid, gid) = (Some(target.uid), Some(target.gid));
    nix::unistd::fchownat(nix::fcntl::AT_FDCWD, path, uid, gid, flags).map_err(io::Error::from)
}

/// Runs `act`, which makes or removes files at `path`. It runs with the rights of root only if no
/// other user could put a symbolic link in the way. Otherwise it runs with the rights of `target`,
/// who then owns the files. The argument of `act` says whether it runs as root and has to give the
/// files to `target`.
pub(super) fn with_rights_for<T>(
    path: &Path,
    target: Target,
    act: impl FnOnce(bool) -> T,
) -> Result<T, String> {
    let changes = are_root() && !(target.uid.is_root() && target.gid.as_raw() == 0);
    if !changes || target.uid.is_root() || only_root_changes(path) {
        return Ok(act(changes));
    }
    let _rights = FileRights::of(target)?;
    Ok(act(false))
}

/// Rights of another user on files, for this thread (setfsuid(2)). Dropping it restores the rights
/// of root.
struct FileRights;

impl FileRights {
    fn of(target: Target) -> Result<FileRights, String> {
        let rights = FileRights;
        nix::unistd::setfsgid(target.gid);
        nix::unistd::setfsuid(target.uid);
        // The calls return the id that was in force before and report no errors, so a second call
        // shows whether the first one worked.
        let is_done = nix::unistd::setfsgid(target.gid) == target.gid
            && nix::unistd::setfsuid(target.uid) == target.uid;
        let uid = target.uid;
        is_done.then_some(rights).ok_or_else(|| format!("can't take the rights of uid {uid}"))
    }
}

impl Drop for FileRights {
    fn drop(&mut self) {
        nix::unistd::setfsuid(Uid::from_raw(0));
        nix::unistd::setfsgid(Gid::from_raw(0));
    }
}

/// Whether only root can change what `path` leads to. This holds if each folder on the way,
/// including those behind symbolic links, belongs to root, and is sticky or writable for root
/// alone. Parts of the path that do not exist yet are below such folders.
fn only_root_changes(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else { return false };
    let mut rest: Vec<PathBuf> = parts(&path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(name)) => at.push(name),
            _ => continue,
        }
        let found = match at.symlink_metadata() {
            Ok(found) => found,
            Err(error) => return error.kind() == io::ErrorKind::NotFound,
        };
        let is_last = rest.is_empty();
        if found.is_symlink() && found.uid() == 0 && links < 40 && !is_last {
            let Ok(leads_to) = at.read_link() else { return false };
            links += 1;
            at.pop();
            rest.extend(parts(&leads_to));
            continue;
        }
        let mode = found.mode();
        let is_open = mode & 0o022 != 0 && (!found.is_dir() || mode & 0o1000 == 0);
        // The last component needs no check: it is replaced, or refused.
        if !is_last && (found.uid() != 0 || is_open || !found.is_dir()) {
            return false;
        }
    }
    true
}

/// Returns the components of a path in reverse order.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

/// Verifies that the change of user worked: a security module may let the calls succeed without
/// effect.
fn verify(target: Target) -> Result<(), String> {
    let Target { uid, gid } = target;
    let users = getresuid().map_err(|errno| refused("read the user ids", errno))?;
    let groups = getresgid().map_err(|errno| refused("read the group ids", errno))?;
    let more = getgroups().map_err(|errno| refused("read the groups", errno))?;
    let is_done = [users.real, users.effective, users.saved].iter().all(|id| *id == uid)
        && [groups.real, groups.effective, groups.saved].iter().all(|id| *id == gid)
        && more.iter().all(|id| *id == gid);
    if !is_done {
        return Err(format!("uid {uid} and gid {gid} did not take effect: not going on"));
    }
    if !uid.is_root() && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err("root could be had back after it was given up: not going on".to_owned());
    }
    Ok(())
}

fn refused(what: &str, errno: Errno) -> String {
    let advice = match errno {
        Errno::EINVAL => " (the user namespace of this container does not map it)",
        Errno::EPERM => " (CAP_SETUID and CAP_SETGID are needed for it)",
        _ => "",
    };
    format!("uid and gid: can't {what}: {}{advice}", errno.desc())
}

fn user(identity: &Identity) -> Result<Uid, String> {
    let name = match identity {
        Identity::Id(id) => return Ok(Uid::from_raw(*id)),
        Identity::Name(name) => name,
    };
    match User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() => Err(named_root("uid", name)),
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => Err(format!(
            "uid = {name}: there is no such user; expected a name that exists, or a number"
        )),
        Err(errno) => Err(format!("uid = {name}: can't look it up: {}", errno.desc())),
    }
}

fn group(identity: &Identity) -> Result<Gid, String> {
    let name = match identity {
        Identity::Id(id) => return Ok(Gid::from_raw(*id)),
        Identity::Name(name) => name,
    };
    match Group::from_name(name) {
        Ok(Some(group)) if group.gid.as_raw() == 0 => Err(named_root("gid", name)),
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!(
            "gid = {name}: there is no such group; expected a name that exists, or a number"
        )),
        Err(errno) => Err(format!("gid = {name}: can't look it up: {}", errno.desc())),
    }
}

/// Error for a name that has the id of root. Staying root must be asked for with the number,
/// because a mistake in the user database may give any name this id.
fn named_root(key: &str, name: &str) -> String {
    format!("{key} = {name}: that is {key} 0, which stays root; write {key} = 0 if that is meant")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_named(uid: &str, gid: &str) -> Result<Target, Vec<String>> {
        let overrides = [format!("uid={uid}"), format!("gid={gid}")];
        find(&Config::build(None, &overrides).expect("a good configuration"))
    }

    #[test]
    fn only_a_folder_that_was_missing_is_given_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = find_named("4321", "4321").expect("numbers");
        make_folder(&folder.path().join("state.json"), target).expect("nothing to do");
        let owner =
            |path: &Path| std::os::unix::fs::MetadataExt::uid(&path.metadata().expect("it"));
        assert_eq!(owner(folder.path()), geteuid().as_raw());
        let inner = folder.path().join("lib/mantrid");
        make_folder(&inner.join("state.json"), target).expect("a folder");
        assert_eq!(inner.exists(), are_root());
        if are_root() {
            assert_eq!((owner(&inner), owner(&folder.path().join("lib"))), (4321, 0));
        }
        make_folder(Path::new("state.json"), target).expect("the folder that we are in");
    }

    #[test]
    fn numbers_need_no_entry() {
        let target = find_named("4321", "0").expect("numbers are taken as they are");
        assert_eq!((target.uid.as_raw(), target.gid.as_raw()), (4321, 0));
    }

    #[test]
    fn both_unknown_names_are_told() {
        let problems = find_named("nobody-of-that-name", "no-such-group").expect_err("unknown");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("there is no such user"), "{problems:?}");
        assert!(problems[1].contains("there is no such group"), "{problems:?}");
    }

    #[test]
    fn root_by_name_is_refused() {
        let problems = find_named("root", "4321").expect_err("root by name");
        assert!(problems[0].contains("write uid = 0"), "{problems:?}");
    }
}
