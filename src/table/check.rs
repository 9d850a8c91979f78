//! Checks of backends that rules ask for: the request, the expected statuses, the interval, the
//! timeout, and how many probes in a row change the state of a backend (HAProxy's `inter`,
//! `timeout check`, `fall` and `rise`).

use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use serde_json::{Map, Value, json};

use crate::limits::{CHECK_STATUSES_MAX, CHECK_TIMEOUT_SECONDS_MAX};

use super::arguments::{Arguments, Problem, items, put, seconds_to_json, text, whole};
use super::head_arguments::HostSent;
use super::host;

/// Request of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckKind {
    /// A connection: a backend is healthy if it accepts one.
    Tcp,
    /// A GET of this path: a backend is healthy if it responds with an expected status.
    Path(Box<str>),
}

/// Statuses, single or from one to another, in the form in which they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statuses {
    ranges: Box<[(u16, u16)]>,
    is_list: bool,
}

impl Statuses {
    /// Reads a status, a range as text, a text with commas, or a list of these.
    pub(super) fn from_json(value: &Value) -> Option<Statuses> {
        let ranges: Option<Box<[_]>> = match items(value) {
            Some(items) => items.iter().map(range).collect(),
            None => Some([range(value)?].into()),
        };
        let ranges = ranges.filter(|all| (1..=CHECK_STATUSES_MAX).contains(&all.len()))?;
        Some(Statuses { ranges, is_list: value.is_array() })
    }

    fn contains(&self, status: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    fn to_json(&self) -> Value {
        match (&*self.ranges, self.is_list) {
            ([(one, last)], false) if one == last => json!(one),
            (_, false) => json!(self.to_string()),
            (ranges, true) => ranges
                .iter()
                .map(|(first, last)| match first == last {
                    true => json!(first),
                    false => json!(format!("{first}-{last}")),
                })
                .collect(),
        }
    }
}

/// Ranges with commas between them, a form that [`Statuses::from_json`] reads.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn range(value: &Value) -> Option<(u16, u16)> {
    let status = |value: &Value| Some(whole(value, 100..=599)? as u16);
    if let Some((first, last)) = value.as_str().and_then(|text| text.split_once('-')) {
        let [first, last] = [first, last].map(|text| status(&Value::from(text.trim())));
        return Some((first?, last?)).filter(|(first, last)| first <= last);
    }
    status(value).map(|status| (status, status))
}

/// The arguments of a check; `None` is "not given".
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct CheckArguments {
    pub kind: Option<CheckKind>,
    pub host: Option<HostSent>,
    pub status: Option<Statuses>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub fall: Option<u16>,
    pub rise: Option<u16>,
}

/// Check of the backends of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    id: u64,
    /// Host of the request; `None`: the address of the backend.
    host: Option<HostSent>,
    /// Rule of the check, if the request names the backend as its host: other rules may name
    /// another backend at the same address.
    rule: Option<Box<str>>,
    pub(super) given: CheckArguments,
}

impl Check {
    /// Makes the check of the rule with this name, whose requests have the Host `sent`; `None`: no
    /// argument of a check is given.
    pub(super) fn new(given: CheckArguments, rule: &str, sent: Option<&HostSent>) -> Option<Check> {
        if given == CheckArguments::default() {
            return None;
        }
        let host = match given.kind {
            Some(CheckKind::Path(_)) => {
                let host = given.host.as_ref().or(sent).cloned();
                host.or_else(|| host_of(rule).map(HostSent::Fixed))
            }
            Some(CheckKind::Tcp) | None => None,
        };
        let rule = (host == Some(HostSent::Backend)).then(|| rule.into());
        let mut check = Check { id: 0, host, rule, given };
        // This hash is the same for all snapshots of a process, and a tenant can't predict it.
        let hasher = SeedableRandomState::with_seed(0, SharedSeed::global_random());
        check.id = hasher.hash_one(check.parameters());
        Some(check)
    }

    /// Hash of all parameters. Checks that make the same probes have the same id, and other checks
    /// almost certainly have another.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether backends are probed, because the argument `check` itself is given.
    pub(super) fn is_active(&self) -> bool {
        self.given.kind.is_some()
    }

    /// Path of the request; `None`: the probe only opens a connection.
    pub fn path(&self) -> Option<&str> {
        match &self.given.kind {
            Some(CheckKind::Path(path)) => Some(path),
            Some(CheckKind::Tcp) | None => None,
        }
    }

    /// Host of the request; `None`: the address of the backend.
    pub fn host(&self) -> Option<&HostSent> {
        self.host.as_ref()
    }

    /// Whether a response with this status means that the backend is healthy.
    pub fn expects(&self, status: u16) -> bool {
        match &self.given.status {
            Some(statuses) => statuses.contains(status),
            None => (200..400).contains(&status),
        }
    }

    /// Pause between two probes while nothing changes.
    pub fn interval(&self) -> Duration {
        self.given.interval.unwrap_or(Duration::from_secs(2))
    }

    /// Timeout of a whole probe. The default is the interval, as in HAProxy, up to a limit.
    pub fn timeout(&self) -> Duration {
        let longest = Duration::from_secs(CHECK_TIMEOUT_SECONDS_MAX);
        self.given.timeout.unwrap_or_else(|| self.interval().min(longest))
    }

    /// Probes in a row that must fail for the backend to go down.
    pub fn fall(&self) -> u32 {
        self.given.fall.unwrap_or(3).into()
    }

    /// Probes in a row that must succeed for the backend to come back.
    pub fn rise(&self) -> u32 {
        self.given.rise.unwrap_or(2).into()
    }

    /// All parameters as a text, by which one process recognises the check of another.
    pub fn parameters(&self) -> String {
        let (interval, timeout) = (self.interval(), self.timeout());
        let pace = format!("{interval:?} {timeout:?} {} {}", self.fall(), self.rise());
        match self.path() {
            None => format!("tcp {pace}"),
            Some(path) => {
                let host = self.host().map_or("-", HostSent::as_str);
                let statuses = self.given.status.as_ref().map(ToString::to_string);
                let statuses = statuses.as_deref().unwrap_or("200-399");
                let rule = self.rule.as_deref().unwrap_or_default();
                format!("{path} {host} {statuses} {pace} {rule}").trim_end().to_owned()
            }
        }
    }

    /// Writes the arguments that were given.
    pub(super) fn put_into(&self, arguments: &mut Map<String, Value>) {
        let given = &self.given;
        let kind = given.kind.as_ref().map(|kind| match kind {
            CheckKind::Tcp => "tcp",
            CheckKind::Path(path) => path,
        });
        put(arguments, "check", kind);
        put(arguments, "check_host", given.host.as_ref().map(HostSent::as_str));
        put(arguments, "check_status", given.status.as_ref().map(Statuses::to_json));
        put(arguments, "check_interval", given.interval.map(seconds_to_json));
        put(arguments, "check_timeout", given.timeout.map(seconds_to_json));
        put(arguments, "check_fall", given.fall);
        put(arguments, "check_rise", given.rise);
    }
}

/// Reads the check of a rule whose requests have the Host `sent`; `None`: no argument of a check is
/// given.
pub(super) fn read(
    arguments: &Arguments<'_>,
    sent: Option<&HostSent>,
) -> Result<Option<Check>, Problem> {
    let given = CheckArguments {
        kind: arguments.optional("check", |value| match text(value)? {
            "tcp" => Some(CheckKind::Tcp),
            path => path.starts_with('/').then(|| CheckKind::Path(path.into())),
        })?,
        host: arguments.optional("check_host", HostSent::read)?,
        status: arguments.optional("check_status", Statuses::from_json)?,
        interval: arguments.seconds_within("check_interval")?,
        timeout: arguments.seconds_within("check_timeout")?,
        fall: arguments.whole("check_fall")?.map(|count| count as u16),
        rise: arguments.whole("check_rise")?.map(|count| count as u16),
    };
    Ok(Check::new(given, arguments.rule, sent))
}

/// The request in words.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path(), self.host()) {
            (None, _) => f.write_str("tcp"),
            (Some(path), None) => write!(f, "GET {path}"),
            (Some(path), Some(host)) => write!(f, "GET {path} of {}", host.as_str()),
        }
    }
}

/// The host of a rule's name, if it can stand in a request.
fn host_of(rule: &str) -> Option<Box<str>> {
    let name = host::rule_name_ref(rule).ok()?;
    let host = host::split(&name).1;
    host::canonical(host.as_bytes(), &mut [0; 256]).ok().map(Box::from)
}
