//! Keys of a fleet.

use std::path::PathBuf;
use std::time::Duration;

use super::key::{DURATION, Field, InForce, Key, beware, field, key, next_start, path, repeatable};
use super::{Config, ConfigError, value};

/// Values of the keys of a fleet; without a name there is no fleet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FleetKeys {
    /// Name of the fleet.
    pub name: Option<String>,
    /// Members of the etcd cluster.
    pub endpoints: Vec<String>,
    /// Name of this node; the host's when `None`.
    pub node: Option<String>,
    /// Management URL of this node, for the others.
    pub url: Option<String>,
    /// File of the certificates that are trusted for etcd.
    pub ca: Option<PathBuf>,
    /// Certificate of this node.
    pub cert: Option<PathBuf>,
    /// Key of that certificate.
    pub key: Option<PathBuf>,
    /// User of etcd.
    pub user: Option<String>,
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
    /// Whether etcd may be used over a network without TLS.
    pub insecure: bool,
    /// Time for which a start without a copy of the table waits for etcd.
    pub start: Duration,
    /// Age of the copy from which on the node counts as unhealthy.
    pub stale: Option<Duration>,
    /// Whether each node has the limits for itself; otherwise they are divided by the live nodes.
    pub limits_each: bool,
}

impl Default for FleetKeys {
    fn default() -> FleetKeys {
        FleetKeys {
            name: None,
            endpoints: Vec::new(),
            node: None,
            url: None,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            insecure: false,
            start: Duration::from_secs(30),
            stale: None,
            limits_each: false,
        }
    }
}

/// Checks a name of letters, digits and these marks; `shown` names the marks in an error message.
fn name(text: &str, marks: &[u8], shown: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
    if text.is_empty() || 64 < text.len() || !text.bytes().all(is_plain) {
        return Err(format!("{text:?}: expected letters, digits, {shown}, at most 64"));
    }
    Ok(text.to_owned())
}

fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let is_authority = |rest: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        !rest.is_empty() && rest.bytes().all(is_plain)
    };
    match rest.filter(|rest| is_authority(rest)) {
        Some(_) => Ok(text.strip_suffix('/').unwrap_or(text).to_owned()),
        None => Err(format!("{text:?}: expected {}HOST:PORT", schemes.join("HOST:PORT or "))),
    }
}

/// Whether a URL names this machine alone.
fn is_loopback(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

impl FleetKeys {
    /// Adds a problem for each pair of keys that contradict each other.
    pub(super) fn check(
        &self,
        problems: &mut Vec<ConfigError>,
        place: impl Fn(&str, &str) -> String,
    ) {
        let mut wrong = |key: &str, value: &str, problem: &str| {
            let problem = format!("{key}: {problem}");
            problems.push(ConfigError { place: place(key, value), problem });
        };
        let Some(name) = &self.name else {
            if let Some(first) = self.endpoints.first() {
                wrong("fleet_endpoints", first, "it is for a fleet, and `fleet` is not set");
            }
            return;
        };
        if self.endpoints.is_empty() {
            wrong("fleet", name, "set fleet_endpoints, as http://127.0.0.1:2379, to where etcd is");
        }
        let in_the_clear = |url: &&String| url.starts_with("http:") && !is_loopback(url);
        if let Some(url) = self.endpoints.iter().find(in_the_clear).filter(|_| !self.insecure) {
            wrong(
                "fleet_endpoints",
                url,
                "whoever is on the way can change the table: use https, or write fleet_insecure = \
                 true",
            );
        }
        if self.cert.is_some() != self.key.is_some() {
            let given = self.cert.iter().chain(&self.key).next();
            let given = given.map_or_else(String::new, |path| path.display().to_string());
            let key = if self.cert.is_some() { "fleet_cert" } else { "fleet_key" };
            wrong(key, &given, "fleet_cert and fleet_key go together");
        }
        if self.user.is_some() != self.password_file.is_some() {
            let key = if self.user.is_some() { "fleet_user" } else { "fleet_password_file" };
            wrong(key, "", "fleet_user and fleet_password_file go together");
        }
    }
}

pub(super) const FLEET: Key = key(
    "fleet",
    "none",
    "a name: letters, digits, - and _",
    "The fleet that this daemon is a node of: all nodes have one table, kept in etcd. docs/fleet.md.",
    next_start!(fleet.name),
    |config, text| {
        config.fleet.name = Some(name(text, b"-_", "- and _")?);
        Ok(())
    },
);

pub(super) const ENDPOINTS: Key = repeatable(
    key(
        "fleet_endpoints",
        "none",
        "`https://HOST:PORT`, or `http://HOST:PORT` on this machine",
        "A member of the etcd cluster; name all of them.",
        next_start!(fleet.endpoints),
        |config, text| {
            config.fleet.endpoints.push(url(text, &["https://", "http://"])?);
            Ok(())
        },
    ),
    |config| config.fleet.endpoints.clear(),
);

pub(super) const NODE: Key = key(
    "fleet_node",
    "the host's name",
    "a name: letters, digits, -, _ and .",
    "Name of this node; each has another.",
    next_start!(fleet.node),
    |config, text| {
        config.fleet.node = Some(name(text, b"-_.", "-, _ and .")?);
        Ok(())
    },
);

pub(super) const URL: Key = key(
    "fleet_url",
    "the first TCP address of bind_management",
    "`http://HOST:PORT`",
    "Management URL of this node, as the other nodes reach it: for statistics of all nodes.",
    next_start!(fleet.url),
    |config, text| {
        config.fleet.url = Some(url(text, &["http://"])?);
        Ok(())
    },
);

macro_rules! file {
    ($name:literal, $field:ident, $meaning:literal) => {
        key(
            $name,
            "none",
            "a path",
            $meaning,
            next_start!(fleet.$field),
            |config: &mut Config, text| {
                config.fleet.$field = Some(path(text)?);
                Ok(())
            },
        )
    };
}

pub(super) const CA: Key =
    file!("fleet_ca", ca, "Certificates, in PEM, one of which must have signed etcd's.");
pub(super) const CERT: Key =
    file!("fleet_cert", cert, "Certificate, in PEM, that this node shows to etcd.");
pub(super) const KEY: Key = file!("fleet_key", key, "The key that belongs to fleet_cert, in PEM.");

pub(super) const USER: Key = key(
    "fleet_user",
    "none",
    "a name",
    "User of etcd; it needs `readwrite` on the prefix /mantrid/NAME/.",
    next_start!(fleet.user),
    |config, text| {
        config.fleet.user = Some(text.to_owned());
        Ok(())
    },
);
pub(super) const PASSWORD_FILE: Key =
    file!("fleet_password_file", password_file, "A file with the password of fleet_user.");

pub(super) const INSECURE: Key = beware(
    "Whoever is on the way can read and change the table.",
    key(
        "fleet_insecure",
        "false",
        "true or false",
        "Lets etcd be spoken to without TLS over a network.",
        next_start!(fleet.insecure),
        |config, text| {
            config.fleet.insecure = value::truth(text)?;
            Ok(())
        },
    ),
);

pub(super) const START: Key = key(
    "fleet_start",
    "30s",
    DURATION,
    "How long a start waits for etcd where there is no copy of the table yet; then it ends. With a \
     copy it does not wait.",
    next_start!(fleet.start),
    |config, text| {
        config.fleet.start = value::duration(text)?;
        Ok(())
    },
);

pub(super) const STALE: Key = key(
    "fleet_stale",
    "off",
    "off, or a duration (ms, s, m, h)",
    "From when on /healthz answers 503 on a node that hears nothing of etcd. It goes on serving.",
    next_start!(fleet.stale),
    |config, text| {
        config.fleet.stale = match text {
            "off" => None,
            text => Some(value::duration(text)?),
        };
        Ok(())
    },
);

pub(super) const LIMITS: Key = key(
    "fleet_limits",
    "divide",
    "divide or each",
    "Whether max_requests_per_second, max_connections, max_open_requests, max_held and release_rate \
     of a rule are for all nodes together (divided by the live nodes, rounded up) or for each node.",
    next_start!(fleet.limits_each),
    |config, text| {
        config.fleet.limits_each = match text {
            "divide" => false,
            "each" => true,
            _ => return Err(format!("{text:?}: expected divide or each")),
        };
        Ok(())
    },
);
