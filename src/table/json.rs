//! Rules as JSON: `[action, arguments, match_subdomains]`, the original's triple.
//!
//! The reader is strict where the original was not: an action or argument that is unknown, missing
//! or meaningless is refused at the edit, not at every request, with an error that names it and
//! says what was expected. The reader is lenient with the original's clients: its command line
//! sends every argument as a string, and its fork writes a backend as
//! `{"__backend__": [host, port]}`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::address::{Address, PathError, UnixPath};
use crate::fields::is_token;
use crate::limits::BACKENDS_MAX;
use crate::rule_arguments::{self, ACTIONS};

use super::access::Access;
use super::arguments::{
    Arguments, Problem, digits, items, list, page_name, problem, put, seconds_to_json, shorten,
    shown, text, whole,
};
use super::backend::{Backend, Backends, Names, Target};
use super::check;
use super::host;
use super::overrides::Overrides;
use super::reply_options::ReplyOptions;
use super::rule::{
    Action, Algorithm, Empty, Proxy, ProxyOptions, Redirect, Rule, SendProxy, Sharing, Spin,
    StaticPage,
};

#[cfg(test)]
mod tests;

/// Why a rule is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleError {
    host: String,
    problem: Problem,
}

impl RuleError {
    /// The name of the rule, as it was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Code for programs, such as `host_action_invalid:x`: the original's code where it had one.
    pub fn code(&self) -> &str {
        &self.problem.code
    }

    /// Sentence for people that says what is wrong and what was expected.
    pub fn sentence(&self) -> &str {
        &self.problem.sentence
    }
}

/// `host:code: sentence`.
impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.host, self.code(), self.sentence())
    }
}

impl std::error::Error for RuleError {}

const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("random", Algorithm::Random),
    ("round_robin", Algorithm::RoundRobin),
    ("least_connections", Algorithm::LeastConnections),
    ("source", Algorithm::Source),
];

impl Algorithm {
    /// Name in a rule; empty for an algorithm whose name goes on behind a colon, such as
    /// `cookie:NAME`.
    pub(super) fn as_str(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, other)| *other == self).map_or("", |(name, _)| name)
    }
}

impl Action {
    /// Every action as it is written in a rule.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        ACTIONS.iter().map(|action| action.name)
    }

    /// Name in a rule.
    pub fn as_str(&self) -> &'static str {
        match self {
            Action::Proxy(_) => "proxy",
            Action::Spin(_) => "spin",
            Action::Redirect(_) => "redirect",
            Action::Static(_) => "static",
            Action::Empty(_) => "empty",
            Action::Alias(_) => "alias",
            Action::Unknown => "unknown",
            Action::NoHosts => "no_hosts",
        }
    }
}

impl Rule {
    /// Reads the rule of this name; `names` gives backends their [`Name`]s.
    ///
    /// [`Name`]: super::Name
    pub fn from_json(host: &str, value: &Value, names: &mut Names) -> Result<Rule, RuleError> {
        let read = read_rule(host, value, names);
        read.map_err(|problem| RuleError { host: host.to_owned(), problem })
    }

    /// Writes the rule. `from_json` reads the result as the same rule.
    pub fn to_json(&self) -> Value {
        let mut arguments = match &self.action {
            Action::Proxy(proxy) => proxy_to_json(proxy),
            Action::Spin(spin) => spin_to_json(spin),
            Action::Redirect(redirect) => {
                let mut arguments = object([("redirect_to", Some(json!(redirect.to)))]);
                put(&mut arguments, "code", redirect.code);
                arguments
            }
            Action::Static(page) => object([("type", Some(json!(page.page)))]),
            Action::Empty(empty) => object([("code", Some(json!(empty.code)))]),
            Action::Alias(target) => object([("hostname", Some(json!(**target)))]),
            Action::Unknown | Action::NoHosts => Map::new(),
        };
        if let Some(overrides) = self.action.overrides() {
            overrides.put_into(&mut arguments);
        }
        Access::write(self.action.access(), &mut arguments);
        json!([self.action.as_str(), arguments, self.match_subdomains])
    }
}

fn read_rule(name: &str, value: &Value, names: &mut Names) -> Result<Rule, Problem> {
    let Value::Array(details) = value else {
        return Err(problem(
            "host_details_not_list",
            "a rule is a list: [action, arguments, match_subdomains]",
        ));
    };
    let [action, arguments, match_subdomains] = details.as_slice() else {
        return Err(problem(
            "host_details_wrong_length",
            format!(
                "a rule has three elements, not {}: [action, arguments, match_subdomains]",
                details.len()
            ),
        ));
    };
    let Some(row) = action.as_str().and_then(rule_arguments::action) else {
        return Err(problem(
            format!("host_action_invalid:{}", action.as_str().map_or(shown(action), shorten)),
            format!("there is no action {}; there are {}", shown(action), list(Action::names())),
        ));
    };
    let Value::Object(given) = arguments else {
        return Err(problem(
            "host_kwargs_not_dict",
            format!(
                "the second element of a rule is an object of arguments, not {}",
                shown(arguments)
            ),
        ));
    };
    let Value::Bool(match_subdomains) = match_subdomains else {
        return Err(problem(
            "host_match_subdomains_not_bool",
            format!(
                "the third element of a rule, match_subdomains, is true or false, not {}",
                shown(match_subdomains)
            ),
        ));
    };
    let is_unknown = |name: &&String| row.arguments.iter().all(|known| known.name != **name);
    if let Some(name) = given.keys().find(is_unknown) {
        let expected = match row.arguments {
            [] => "takes no arguments".to_owned(),
            known => format!("takes {}", list(known.iter().map(|argument| argument.name))),
        };
        return Err(problem(
            format!("host_kwarg_unknown:{}", shorten(name)),
            format!("{} has no argument {}; it {expected}", row.name, shorten(name)),
        ));
    }
    let action = read_action(&Arguments { rule: name, row, given }, names)?;
    Ok(Rule { action, match_subdomains: *match_subdomains })
}

fn read_action(arguments: &Arguments<'_>, names: &mut Names) -> Result<Action, Problem> {
    Ok(match arguments.row.name {
        "proxy" => Action::Proxy(read_proxy(arguments, names)?),
        "spin" => Action::Spin(Arc::new(read_spin(arguments, names)?)),
        "redirect" => Action::Redirect(Arc::new(Redirect {
            to: arguments.required("redirect_to", |value| {
                text(value).filter(|to| !to.starts_with(['/', ':'])).map(Box::from)
            })?,
            code: arguments.optional("code", |value| {
                let code = whole(value, 300..=399)?;
                arguments.word("code", &code.to_string()).map(|_| code as u16)
            })?,
            options: ReplyOptions::read(arguments)?,
        })),
        "static" => Action::Static(Arc::new(StaticPage {
            page: arguments.required("type", page_name)?,
            options: ReplyOptions::read(arguments)?,
        })),
        "empty" => Action::Empty(Empty {
            code: arguments.needed("code", arguments.whole("code")?)? as u16,
            options: ReplyOptions::read(arguments)?,
        }),
        "alias" => Action::Alias(arguments.required("hostname", |value| {
            Some(host::rule_name_ref(value.as_str()?).ok()?.into())
        })?),
        "unknown" => Action::Unknown,
        _ => {
            debug_assert_eq!(arguments.row.name, "no_hosts", "each action of the table is read");
            Action::NoHosts
        }
    })
}

fn read_proxy(arguments: &Arguments<'_>, names: &mut Names) -> Result<Proxy, Problem> {
    let missing = || arguments.required("backends", |_| None);
    let mut backends = read_backends(arguments, "backends", names)?.map_or_else(missing, Ok)?;
    read_weights(arguments, &mut backends)?;
    let (algorithm, affinity) = arguments.optional("algorithm", read_algorithm)?.unzip();
    let sharing = Sharing {
        backup: read_backends(arguments, "backup", names)?.map(Vec::into_boxed_slice),
        affinity: affinity.flatten(),
        max_open_requests: arguments.count("max_open_requests")?,
        slow_start: arguments.seconds("slow_start")?,
    };
    let overrides = Overrides::read(arguments)?;
    let sent = overrides.as_deref().and_then(Overrides::host);
    let options = ProxyOptions {
        attempts: arguments.whole("attempts")?.map(|attempts| attempts as u16),
        delay: arguments.seconds("delay")?,
        algorithm,
        healthcheck: arguments.truth("healthcheck")?,
        max_connections: arguments.count("max_connections")?,
        max_requests_per_second: arguments.count("max_requests_per_second")?,
        check: check::read(arguments, sent)?.map(Arc::new),
        sharing: (sharing != Sharing::default()).then(|| Box::new(sharing)),
        hold: arguments.seconds("hold")?,
        idle: arguments.seconds("idle")?,
        wake: arguments.optional("wake", wake)?,
        send_proxy: arguments.optional("send_proxy", |value| match text(value)? {
            "v1" => Some(SendProxy::V1),
            "v2" => Some(SendProxy::V2),
            _ => None,
        })?,
        keep_alive: arguments.truth("keep_alive")?,
        overrides,
        access: Access::read(arguments)?,
        max_requests_per_second_per_source: arguments
            .count("max_requests_per_second_per_source")?,
    };
    let options = (options != ProxyOptions::default()).then(|| Arc::new(options));
    Ok(Proxy { backends: Backends::new(backends), options })
}

/// Reads an algorithm, and the name of its cookie or field if it has one.
fn read_algorithm(value: &Value) -> Option<(Algorithm, Option<Box<str>>)> {
    let text = text(value)?;
    if let Some((_, algorithm)) = ALGORITHMS.iter().find(|(name, _)| *name == text) {
        return Some((*algorithm, None));
    }
    let (kind, name) = text.split_once(':')?;
    let algorithm = match kind {
        "cookie" => Algorithm::Cookie,
        "field" => Algorithm::Field,
        _ => return None,
    };
    is_token(name.as_bytes()).then(|| (algorithm, Some(name.into())))
}

fn read_spin(arguments: &Arguments<'_>, names: &mut Names) -> Result<Spin, Problem> {
    Ok(Spin {
        timeout: arguments.seconds("timeout")?,
        check_interval: arguments.seconds("check_interval")?,
        max_held: arguments.count("max_held")?,
        release_rate: arguments.count("release_rate")?,
        wake: arguments.optional("wake", wake)?,
        idle: arguments.seconds("idle")?,
        then: read_then(arguments, names)?,
        overrides: Overrides::read(arguments)?,
        access: Access::read(arguments)?,
    })
}

fn wake(value: &Value) -> Option<Box<str>> {
    let address = text(value)?;
    let rest = address.strip_prefix("http://")?;
    (!rest.is_empty() && !rest.starts_with(['/', '?', '#', ':'])).then(|| address.into())
}

/// Reads `then`, the rule that stood before. It may not be a `spin`, or rules could nest without
/// end.
fn read_then(arguments: &Arguments<'_>, names: &mut Names) -> Result<Option<Box<Rule>>, Problem> {
    let Some(value) = arguments.given.get("then") else { return Ok(None) };
    let is_spin = value.get(0).is_some_and(|action| action == "spin");
    if is_spin || !value.is_array() {
        return Err(arguments.invalid("then", value));
    }
    match read_rule(arguments.rule, value, names) {
        Ok(rule) => Ok(Some(Box::new(rule))),
        Err(Problem { sentence, .. }) => {
            Err(problem("host_kwarg_invalid:then", format!("then of spin is no rule: {sentence}")))
        }
    }
}

fn read_backends(
    arguments: &Arguments<'_>,
    name: &str,
    names: &mut Names,
) -> Result<Option<Vec<Backend>>, Problem> {
    let Some(value) = arguments.given.get(name) else { return Ok(None) };
    let takes = &arguments.find(name).takes;
    let what = if name == "backup" { "a backup" } else { "a backend" };
    let mut read = |item: &Value| -> Result<Backend, Problem> {
        read_backend(item, names).map_err(|why| {
            problem(
                format!("host_kwarg_invalid:{name}"),
                format!("{what} of proxy is {}: {why}; expected {takes}", shown(item)),
            )
        })
    };
    let Some(items) = items(value) else { return Err(arguments.invalid(name, value)) };
    let backends = items.iter().map(&mut read).collect::<Result<Vec<_>, _>>()?;
    match backends.len() {
        0 => Err(arguments.invalid_for(name, value, "at least one backend")),
        count if BACKENDS_MAX < count => Err(problem(
            format!("host_kwarg_invalid:{name}"),
            format!("{name} of proxy has {count} backends; expected at most {BACKENDS_MAX}"),
        )),
        _ => Ok(Some(backends)),
    }
}

fn read_backend(item: &Value, names: &mut Names) -> Result<Backend, &'static str> {
    const SHAPE: &str = "not host and port";
    let item = match item {
        Value::Object(tagged) if tagged.len() == 1 => tagged.get("__backend__").ok_or(SHAPE)?,
        item => item,
    };
    match item {
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(host), port] => {
                let port = whole(port, 1..=65535).ok_or("the port is not a number up to 65535")?;
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                if let Ok(address) = bare.unwrap_or(host).parse::<Ipv6Addr>() {
                    return Ok(Backend::address(SocketAddr::new(address.into(), port as u16), 1));
                }
                backend_at(host, port as u16, names)
            }
            _ => Err(SHAPE),
        },
        Value::String(text) => {
            if let Some(path) = text.strip_prefix(Address::UNIX) {
                let path = UnixPath::get(path).map_err(PathError::sentence)?;
                return Ok(Backend::unix(path, 1));
            }
            if let Ok(address @ SocketAddr::V6(_)) = text.parse::<SocketAddr>() {
                return if address.port() == 0 {
                    Err("port 0")
                } else {
                    Ok(Backend::address(address, 1))
                };
            }
            let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
            let port = digits(port).filter(|port| *port != 0);
            backend_at(host, port.ok_or("the port is not a number up to 65535")?, names)
        }
        _ => Err(SHAPE),
    }
}

/// A backend by IPv4 address or by name.
fn backend_at(host: &str, port: u16, names: &mut Names) -> Result<Backend, &'static str> {
    if let Ok(address @ IpAddr::V4(_)) = host.parse::<IpAddr>() {
        return Ok(Backend::address(SocketAddr::new(address, port), 1));
    }
    if host.starts_with(Address::UNIX) {
        return Err("a Unix socket has no port");
    }
    if host.contains([':', '[', ']']) {
        return Err("an IPv6 address needs brackets, and nothing else may have them");
    }
    let host = host::name(host).map_err(host::HostError::sentence)?;
    // A name can't end in a number: this is a mistyped address. Refusing it now saves a search
    // later.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("neither an IPv4 address nor a name");
    }
    Ok(Backend::name(names.get(&host, port), 1))
}

/// Reads weights as a list, or as the string that the command line sends: `weights=3,1`.
fn read_weights(arguments: &Arguments<'_>, backends: &mut [Backend]) -> Result<(), Problem> {
    let weights = arguments.optional("weights", |value| {
        let weight = |item: &Value| Some(whole(item, 0..=65535)? as u16);
        let weights: Vec<u16> = match items(value) {
            Some(items) => items.iter().map(weight).collect::<Option<_>>()?,
            None => vec![weight(value)?],
        };
        (weights.len() == backends.len()).then_some(weights)
    })?;
    for (backend, weight) in backends.iter_mut().zip(weights.into_iter().flatten()) {
        backend.set_weight(weight);
    }
    Ok(())
}

fn object<const N: usize>(arguments: [(&str, Option<Value>); N]) -> Map<String, Value> {
    arguments.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn proxy_to_json(proxy: &Proxy) -> Map<String, Value> {
    let backends = proxy.backends();
    let pairs = |backends: &[Backend]| -> Value {
        let pairs = backends.iter().map(|backend| match backend.target() {
            Target::Address(address) => match address.ip() {
                Some(address) => json!([address.ip().to_string(), address.port()]),
                None => json!(address.to_string()),
            },
            Target::Name(name) => json!([name.host, name.port]),
        });
        pairs.collect()
    };
    let mut arguments = object([("backends", Some(pairs(backends)))]);
    if backends.iter().any(|backend| backend.weight() != 1) {
        put(
            &mut arguments,
            "weights",
            Some(backends.iter().map(Backend::weight).collect::<Vec<_>>()),
        );
    }
    if let Some(options) = &proxy.options {
        let none = Sharing::default();
        let sharing = options.sharing.as_deref().unwrap_or(&none);
        put(&mut arguments, "backup", sharing.backup.as_deref().map(pairs));
        put(&mut arguments, "attempts", options.attempts);
        put(&mut arguments, "delay", options.delay.map(seconds_to_json));
        put(&mut arguments, "algorithm", options.algorithm.map(|_| proxy.algorithm_text()));
        put(&mut arguments, "healthcheck", options.healthcheck);
        put(&mut arguments, "max_connections", options.max_connections.map(NonZeroU32::get));
        if let Some(check) = &options.check {
            check.put_into(&mut arguments);
        }
        put(&mut arguments, "slow_start", sharing.slow_start.map(seconds_to_json));
        let most = sharing.max_open_requests.map(NonZeroU32::get);
        put(&mut arguments, "max_open_requests", most);
        let rate = options.max_requests_per_second.map(NonZeroU32::get);
        put(&mut arguments, "max_requests_per_second", rate);
        let rate = options.max_requests_per_second_per_source.map(NonZeroU32::get);
        put(&mut arguments, "max_requests_per_second_per_source", rate);
        put(&mut arguments, "hold", options.hold.map(seconds_to_json));
        put(&mut arguments, "idle", options.idle.map(seconds_to_json));
        put(&mut arguments, "wake", options.wake.as_deref());
        put(&mut arguments, "send_proxy", options.send_proxy.map(SendProxy::as_str));
        put(&mut arguments, "keep_alive", options.keep_alive);
    }
    arguments
}

fn spin_to_json(spin: &Spin) -> Map<String, Value> {
    let mut arguments = Map::new();
    put(&mut arguments, "timeout", spin.timeout.map(seconds_to_json));
    put(&mut arguments, "check_interval", spin.check_interval.map(seconds_to_json));
    put(&mut arguments, "max_held", spin.max_held.map(NonZeroU32::get));
    put(&mut arguments, "release_rate", spin.release_rate.map(NonZeroU32::get));
    put(&mut arguments, "wake", spin.wake.as_deref());
    put(&mut arguments, "idle", spin.idle.map(seconds_to_json));
    put(&mut arguments, "then", spin.then().map(Rule::to_json));
    arguments
}
