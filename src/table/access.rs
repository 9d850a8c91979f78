//! Clients that a rule lets in: its arguments `allow` and `deny`.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::arguments::{Arguments, Problem, items, problem, shown};
use crate::limits::NETWORKS_MAX;
use crate::network::{Network, NetworkError, NetworkMap};

/// Networks of clients that a rule serves (`allow`) or refuses (`deny`). At least one list is not
/// empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    allow: Box<[Network]>,
    deny: Box<[Network]>,
    /// Whether clients of each network are let in.
    is_allowed: NetworkMap<bool>,
}

impl Access {
    /// Whether the rule serves this client. The longest prefix of both lists decides; a client in
    /// neither list is served unless there are networks to allow.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.is_allowed.get(client).unwrap_or(self.allow.is_empty())
    }

    /// Reads both lists; `None`: neither is given.
    pub(super) fn read(arguments: &Arguments<'_>) -> Result<Option<Box<Access>>, Problem> {
        let (allow, deny) = (networks(arguments, "allow")?, networks(arguments, "deny")?);
        if allow.is_empty() && deny.is_empty() {
            return Ok(None);
        }
        if let Some(network) = deny.iter().find(|network| allow.contains(network)) {
            let sentence = format!("{network} is in allow and in deny of {}", arguments.row.name);
            return Err(problem("host_kwarg_invalid:deny", sentence));
        }
        let allowed = allow.iter().map(|network| (*network, true));
        let denied = deny.iter().map(|network| (*network, false));
        let is_allowed = NetworkMap::new(allowed.chain(denied));
        Ok(Some(Box::new(Access { allow, deny, is_allowed })))
    }

    /// Adds the lists to the arguments of a rule.
    pub(super) fn write(access: Option<&Access>, arguments: &mut Map<String, Value>) {
        let Some(access) = access else { return };
        for (name, list) in [("allow", &access.allow), ("deny", &access.deny)] {
            if !list.is_empty() {
                let list = list.iter().map(ToString::to_string).collect::<Vec<_>>();
                arguments.insert(name.to_owned(), list.into());
            }
        }
    }
}

/// Reads a list of networks. A list that is not given counts as empty.
fn networks(arguments: &Arguments<'_>, name: &'static str) -> Result<Box<[Network]>, Problem> {
    let code = || format!("host_kwarg_invalid:{name}");
    let action = arguments.row.name;
    let read = |item: &Value| -> Result<Network, Problem> {
        let read = item.as_str().map_or(Err(NetworkError::Syntax), Network::parse);
        read.map_err(|error| match error {
            NetworkError::Syntax => {
                let expected = "expected 192.0.2.0/24, 2001:db8::/32 or one address";
                problem(
                    code(),
                    format!("a network in {name} of {action} is {}; {expected}", shown(item)),
                )
            }
            NetworkError::HostBits(network) => problem(
                code(),
                format!(
                    "a network in {name} of {action} is {}, which has bits behind its prefix; \
                     expected {network}, or the address without a length",
                    shown(item)
                ),
            ),
        })
    };
    let Some(value) = arguments.given.get(name) else { return Ok(Box::default()) };
    let Some(items) = items(value) else { return Err(arguments.invalid(name, value)) };
    let list = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match list.len() {
        // An empty list would allow no client, or deny none. Either is most likely a mistake.
        0 => Err(arguments.invalid_for(name, &Value::Array(Vec::new()), "at least one network")),
        count if NETWORKS_MAX < count => Err(problem(
            code(),
            format!("{name} of {action} has {count} networks; expected at most {NETWORKS_MAX}"),
        )),
        _ => Ok(list.into_boxed_slice()),
    }
}
