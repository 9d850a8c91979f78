//! Root until the addresses are bound, then `uid` and `gid`, for good.

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, setgid, setgroups, setuid};

use crate::config::{Config, Identity};

/// Becomes `uid` and `gid`. Does nothing when not started as root: then there is nothing to give up.
pub(super) fn drop_to(config: &Config) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let gid = group(&config.gid)?;
    let uid = user(&config.uid)?;
    let failed = |what: &str, error: nix::Error| format!("can't become {what}: {error}");
    if !(uid.is_root() && gid.as_raw() == 0) {
        // The groups of root stay otherwise, and with them what they may read.
        setgroups(&[]).map_err(|error| failed("free of supplementary groups", error))?;
    }
    setgid(gid).map_err(|error| failed(&format!("gid {}", config.gid), error))?;
    setuid(uid).map_err(|error| failed(&format!("uid {}", config.uid), error))?;
    if geteuid() != uid || getegid() != gid {
        return Err(format!("uid {uid} and gid {gid} did not take effect"));
    }
    if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err("root could be had back after it was given up: not going on".to_owned());
    }
    if uid.is_root() {
        tracing::warn!("Running as root, as uid = {} asks for", config.uid);
    } else {
        tracing::info!("Dropped to UID {uid}, GID {gid}");
    }
    Ok(())
}

/// Whether the names exist; for `--check`.
pub(super) fn check(config: &Config) -> Result<(), String> {
    group(&config.gid)?;
    user(&config.uid).map(|_| ())
}

fn user(identity: &Identity) -> Result<Uid, String> {
    match identity {
        Identity::Id(id) => Ok(Uid::from_raw(*id)),
        Identity::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid),
            _ => Err(format!(
                "uid = {name}: there is no such user: name one that exists, or a number"
            )),
        },
    }
}

fn group(identity: &Identity) -> Result<Gid, String> {
    match identity {
        Identity::Id(id) => Ok(Gid::from_raw(*id)),
        Identity::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid),
            _ => Err(format!(
                "gid = {name}: there is no such group: name one that exists, or a number"
            )),
        },
    }
}
