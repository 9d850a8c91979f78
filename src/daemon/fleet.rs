//! Reads the settings of a fleet from the configuration, and the files that its keys name.

use std::path::Path;

use crate::config::{Config, FleetKeys};
use crate::control::{EtcdAccess, FleetSettings};

/// Returns the settings of the node in its fleet, if the configuration names one. Must be called
/// before rights are dropped, because files of keys and passwords may be readable only for root.
pub(super) fn settings(config: &Config, adopt: bool) -> Result<Option<FleetSettings>, String> {
    let keys = &config.fleet;
    let Some(name) = keys.name.clone() else {
        let adopted = "--adopt is for a node of a fleet, and the key `fleet` is not set";
        return if adopt { Err(adopted.to_owned()) } else { Ok(None) };
    };
    let node = match &keys.node {
        Some(node) => node.clone(),
        None => host_name()?,
    };
    Ok(Some(FleetSettings {
        name,
        node,
        url: keys.url.clone().unwrap_or_else(|| management_url(config)),
        access: access(keys)?,
        patience: keys.start,
        stale: keys.stale,
        divide: !keys.limits_each,
        adopt,
    }))
}

fn host_name() -> Result<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map_err(|error| format!("fleet_node: what is the host's name? {error}"))?;
    Ok(name.trim().to_owned())
}

fn management_url(config: &Config) -> String {
    let first = config.management_tcp().next();
    first.map_or_else(String::new, |address| format!("http://{}", address.socket()))
}

fn access(keys: &FleetKeys) -> Result<EtcdAccess, String> {
    let read = |key: &str, path: &Path| {
        std::fs::read(path).map_err(|error| format!("{key} = {}: {error}", path.display()))
    };
    let ca = keys.ca.as_deref().map(|path| read("fleet_ca", path)).transpose()?;
    let identity = match (&keys.cert, &keys.key) {
        (Some(cert), Some(key)) => Some((read("fleet_cert", cert)?, read("fleet_key", key)?)),
        _ => None,
    };
    let login = match (&keys.user, &keys.password_file) {
        (Some(user), Some(path)) => {
            let password = read("fleet_password_file", path)?;
            let password = String::from_utf8_lossy(&password).trim_end().to_owned();
            Some((user.clone(), password))
        }
        _ => None,
    };
    Ok(EtcdAccess { endpoints: keys.endpoints.clone(), ca, identity, login })
}
