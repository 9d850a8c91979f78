//! Root until the addresses are bound, then `uid` and `gid`, for good and verified.

use std::fmt::Display;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, chown, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};

use crate::config::{Config, Identity};

/// Who the daemon is to become.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    uid: Uid,
    gid: Gid,
}

impl Target {
    /// The group that is to own what is made for it: none where nothing changes.
    pub(super) fn group(&self) -> Option<Gid> {
        are_root().then_some(self.gid)
    }

    pub(super) fn user(&self) -> Option<Uid> {
        are_root().then_some(self.uid)
    }

    /// Whether root is kept.
    pub(super) fn stays_root(&self) -> bool {
        self.uid.is_root()
    }
}

/// Whether we may become somebody else.
pub(super) fn are_root() -> bool {
    geteuid().is_root()
}

/// Looks the names up, before anything is bound.
pub(super) fn find(config: &Config) -> Result<Target, Vec<String>> {
    match (user(&config.uid), group(&config.gid)) {
        (Ok(uid), Ok(gid)) => Ok(Target { uid, gid }),
        (uid, gid) => Err(uid.err().into_iter().chain(gid.err()).collect()),
    }
}

/// Becomes `target` when started as root; otherwise there is nothing to give up.
/// Called while the process has one thread.
pub(super) fn drop_to(target: Target) -> Result<(), String> {
    let Target { uid, gid } = target;
    // Nothing we run may gain rights by a set-uid file, whoever we are.
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| format!("can't forbid new privileges: {errno}"))?;
    if !are_root() {
        return drop_capabilities();
    }
    if uid.is_root() && gid.as_raw() == 0 {
        tracing::warn!("Running as root, as uid = 0 asks for");
        return Ok(());
    }
    if !uid.is_root() {
        forbid_capabilities();
    }
    // Those of root stay otherwise, and with them what they may read.
    setgroups(&[]).map_err(|errno| refused("give up supplementary groups", errno))?;
    setresgid(gid, gid, gid).map_err(|errno| refused(&format!("become gid {gid}"), errno))?;
    setresuid(uid, uid, uid).map_err(|errno| refused(&format!("become uid {uid}"), errno))?;
    verify(target)?;
    if uid.is_root() {
        tracing::warn!("Running as root, as uid = 0 asks for");
        return Ok(());
    }
    // Those in force went with root; what may be inherited would not have.
    drop_capabilities()?;
    tracing::info!("Dropped to UID {uid}, GID {gid}");
    Ok(())
}

/// Not even a file with capabilities could give them back. In a container root may not be allowed to do that; with
/// no_new_privs there is no such file.
fn forbid_capabilities() {
    for number in 0..u64::BITS {
        let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

/// What a unit has given us to bind port 80 (`AmbientCapabilities=`) has done its work.
fn drop_capabilities() -> Result<(), String> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let failed = |error: rustix::io::Errno| format!("can't drop capabilities: {error}");
    // Kernels before 4.3 have no such set.
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

/// Makes the folder of the state file for whoever we are to become, where root can and nobody has yet.
/// What is there already keeps its owner: it may be anybody's.
pub(super) fn make_folder(state_file: &Path, target: Target) -> Result<(), String> {
    let folder = state_file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder.filter(|folder| are_root() && !folder.exists()) else {
        return Ok(());
    };
    let failed = |what: &dyn Display| {
        format!("state_file = {}: can't make its folder: {what}", state_file.display())
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    chown(folder, Some(target.uid), Some(target.gid)).map_err(|errno| failed(&errno.desc()))
}

/// A security module may let the calls succeed and do nothing.
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

/// Staying root must be meant: a name may have become root's by a slip in a file of users.
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
