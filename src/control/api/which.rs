//! `GET /which/HOST` returns the rule that a request for a host matches, its backends with their
//! health, and what would happen to the request now. `GET /which/?domain=HOST` asks the same for a
//! TLS terminator that gets certificates on demand: the response is 404 if no site has the name.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::health::State;
use super::asker::Asker;
use super::error::ApiError;
use super::route::Query;
use super::would::{self, BackendView, Situation, SpentRate};
use super::{Api, tagged};
use crate::limits::{ALIAS_CHAIN_MAX, RULE_BODY_MAX};
use crate::link::{BackendCount, HostCount, KeySet, SharedLimits, Timeouts, is_local};
use crate::table::host::{self, HostError};
use crate::table::{
    Action, Backend, Found, Match, Overrides, Proxy, Rule, Scheme, Snapshot, Target,
};

const SCHEMES: [(&str, Scheme); 4] =
    [("http", Scheme::Http), ("https", Scheme::Https), ("tcp", Scheme::Tcp), ("tls", Scheme::Tls)];

/// The request in question, besides its host.
#[derive(Copy, Clone)]
struct Question {
    scheme: Scheme,
    source: Option<IpAddr>,
    /// Length of the request's body, in bytes.
    body: Option<u64>,
}

/// Answers for the host `raw` or, if that is empty, for the argument `domain`.
pub(super) fn answer(
    api: &Api,
    parts: &Parts,
    asker: &Asker,
    raw: &str,
) -> Result<Response, ApiError> {
    let is_terminator = raw.is_empty();
    let known: &[&str] =
        if is_terminator { &["domain", "scheme"] } else { &["scheme", "source", "body"] };
    let query = Query::of(parts.uri.query(), known)?;
    let scheme = query.one_of("scheme", SCHEMES.iter().map(|(name, _)| *name))?;
    // A TLS terminator asks about HTTPS.
    let scheme = scheme.unwrap_or(if is_terminator { "https" } else { "http" });
    let (_, scheme) = SCHEMES.into_iter().find(|(name, _)| *name == scheme).unwrap_or(SCHEMES[0]);
    let asked = Question { scheme, source: source(&query)?, body: body(&query)? };
    let raw = if is_terminator { query.get("domain").unwrap_or_default() } else { raw };
    let host = canonical(raw).map_err(|error| refused(raw, error))?;
    let current = api.current();
    let found = current.table.lookup(&host, scheme);
    check(asker, &current.table, &host, &found)?;
    if is_terminator && !is_site(&found) {
        let message = format!("{host}: no rule serves this name");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no_rule", message));
    }
    let told = told(api, &current.table, (&host, asked), &found);
    Ok(tagged(current.tag, format!("{told}\n")))
}

/// Converts a host that was typed or copied to the form that hosts of requests have: without port
/// and last dot, and with a name in Unicode as A-labels.
fn canonical(raw: &str) -> Result<String, HostError> {
    if raw.is_ascii() {
        return host::canonical(raw.as_bytes(), &mut [0; 256]).map(str::to_owned);
    }
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = raw.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(raw, |(name, _)| name);
    host::name(name).map(String::from)
}

fn refused(raw: &str, error: HostError) -> ApiError {
    let sentence = match raw {
        "" => "name a host, /which/HOST, or /which/?domain=HOST",
        raw if raw.contains("://") => "give the host alone, and its scheme as ?scheme=https",
        _ => error.sentence(),
    };
    ApiError::of_host(raw, "hostname_invalid", sentence)
}

/// Checks that the client may see all that the response would contain. The rule may be that of a
/// parent, or of the target of an alias.
fn check(asker: &Asker, table: &Snapshot, host: &str, found: &Match<'_>) -> Result<(), ApiError> {
    if asker.sees_all() {
        return Ok(());
    }
    asker.grant.check_host(host)?;
    let Match::Found(found) = found else { return Ok(()) };
    asker.grant.check_host(found.name())?;
    for name in aliases(table, found.name()) {
        asker.grant.check_host(&name)?;
    }
    Ok(())
}

/// Address of the client in question.
fn source(query: &Query<'_>) -> Result<Option<IpAddr>, ApiError> {
    let Some(text) = query.get("source") else { return Ok(None) };
    let address = text.parse::<IpAddr>();
    let address = address.map_err(|_| {
        ApiError::bad("query_invalid", format!("source={text}: expected an address of a client"))
    })?;
    Ok(Some(address.to_canonical()))
}

/// Length of the body in question.
fn body(query: &Query<'_>) -> Result<Option<u64>, ApiError> {
    let most = usize::try_from(RULE_BODY_MAX).unwrap_or(usize::MAX);
    Ok(query.count("body", most)?.map(|bytes| bytes as u64))
}

/// Whether a rule serves the name. Rules that say that nothing is there do not count. Nor does the
/// rule for all names, because with it every name would be a site.
fn is_site(found: &Match<'_>) -> bool {
    let Match::Found(found) = found else { return false };
    !matches!(found.rule.action, Action::Unknown | Action::NoHosts)
        && host::split(found.name()).1 != "*"
}

fn told(api: &Api, table: &Snapshot, (host, asked): (&str, Question), found: &Match<'_>) -> Value {
    let Question { scheme, source, body } = asked;
    let at = match found {
        Match::Found(found) => Some(found),
        Match::NoHosts | Match::Unknown => None,
    };
    let sums = at.map(|at| {
        let found = api.lock_statistics().of(&KeySet::from_iter([at.key]));
        found.into_values().next().unwrap_or_default()
    });
    let count = |count| sums.as_ref().map(|sums| sums.get(count));
    let proxied = at.and_then(|at| match &at.rule.action {
        Action::Proxy(proxy) => Some((at, proxy)),
        _ => None,
    });
    let proxy = proxied.map(|(_, proxy)| proxy);
    let backends = proxied.map(|(at, proxy)| backends(api, at, proxy)).unwrap_or_default();
    let (published, together) = (&api.sources.published, &api.sources.shards.together);
    let line = at.and_then(|at| published.lines.wait(&[at.key, at.rule_key, table.key(host)]));
    let has_line = proxied.is_some_and(|(at, proxy)| {
        let most = proxy.max_open_requests();
        most.is_some_and(|most| together.rule_gates.is_full(at.rule_key, most.get()))
    });
    let connections_max = proxy.and_then(Proxy::max_connections);
    let (pages, tuning) = (published.pages.load(), published.tuning.load());
    let would = would::would(
        table,
        found,
        &Situation {
            host,
            scheme,
            pages: &pages,
            unknown_status: tuning.unknown_status.unwrap_or_else(|| pages.unknown().status()),
            connect: tuning.timeouts.connect,
            source,
            body,
            line,
            spent: proxied.and_then(|(at, proxy)| spent(together, at.rule_key, proxy, source)),
            full: at.and_then(|at| api.sources.held.full(source, at.rule_key, at.rule)),
            has_line,
            connections_max: connections_max.map(|most| together.shares.of(most.get())),
            held: count(HostCount::Held).unwrap_or(0),
            backends: &backends,
        },
    );
    let overrides = at.and_then(|at| table.overrides(&at.rule.action));
    let timeouts = proxy.map(|_| timeouts(&tuning.timeouts, overrides.as_deref()));
    let scheme = SCHEMES.iter().find(|(_, known)| *known == scheme).map(|(name, _)| *name);
    json!({
        "host": host,
        "scheme": scheme,
        "name": at.map(Found::name),
        "alias": at.map(|at| aliases(table, at.name())).unwrap_or_default(),
        "rule": at.map(|at| at.rule.to_json()),
        "action": at.map(|at| at.rule.action.as_str()),
        "backends": backends.iter().map(described).collect::<Vec<_>>(),
        "held": count(HostCount::Held),
        "open_requests": count(HostCount::Open),
        "timeouts": timeouts,
        "outcome": would.outcome,
        "would": would.sentence,
    })
}

/// Rate that is spent for one more request of this client, and for how long. The rate per client is
/// checked first.
fn spent(
    together: &SharedLimits,
    rule_key: u64,
    proxy: &Proxy,
    source: Option<IpAddr>,
) -> Option<(SpentRate, Duration)> {
    let now = Instant::now();
    let of_source = source.zip(proxy.max_requests_per_second_per_source());
    let of_source = of_source.and_then(|(source, rate)| {
        let time = together.source_rates.spent(rule_key, source, rate, now)?;
        Some((SpentRate::Source(rate), time))
    });
    of_source.or_else(|| {
        let rate = proxy.max_requests_per_second()?;
        Some((SpentRate::Rule(rate), together.rates.spent(rule_key, rate, now)?))
    })
}

/// Timeouts of a rule for its backends, in seconds.
fn timeouts(keys: &Timeouts, overrides: Option<&Overrides>) -> Value {
    let own = |of: fn(&Overrides) -> Option<Duration>| overrides.and_then(of);
    let seconds = |time: Duration| match time.subsec_nanos() {
        0 => json!(time.as_secs()),
        _ => json!(time.as_micros() as f64 / 1e6),
    };
    json!({
        "connect": seconds(own(Overrides::timeout_connect).unwrap_or(keys.connect)),
        "server": seconds(own(Overrides::timeout_server).unwrap_or(keys.server)),
        "tunnel": seconds(own(Overrides::timeout_tunnel).unwrap_or(keys.tunnel)),
    })
}

/// Names that the alias of this name leads through. The last one is the name whose rule applies.
fn aliases(table: &Snapshot, name: &str) -> Vec<String> {
    let mut chain = Vec::new();
    let mut next = table.get(name);
    while let Some(Rule { action: Action::Alias(target), .. }) = next
        && chain.len() <= ALIAS_CHAIN_MAX
    {
        chain.push(target.to_string());
        next = table.get(target);
    }
    chain
}

/// Backends of a rule, with an entry for each address of each backend.
fn backends(api: &Api, at: &Found<'_>, proxy: &Proxy) -> Vec<BackendView> {
    let mut ids = HashSet::new();
    proxy.all_backends().for_each(|it| it.each_address(|at| _ = ids.insert(at.to_words())));
    let counted = api.lock_statistics().backend_wholes(&ids);
    let check = proxy.check().map(|check| check.id());
    let rule = proxy.healthcheck().then_some(at.rule_key);
    let own = &api.sources.published.own;
    let mut views = Vec::new();
    for (index, backend) in proxy.all_backends().enumerate() {
        let is_backup = proxy.backends().len() <= index;
        let before = views.len();
        backend.each_address(|address| {
            let known = api.sources.health.state_for(address, check, rule);
            let (state, reason) = known.map_or((State::Up, None), |it| (it.0, Some(it.1)));
            views.push(BackendView {
                address: Some(address.to_string()),
                health: state.as_str(),
                reason,
                is_own: own.has(address, is_local),
                is_passed_over: state.is_bad(),
                open_requests: counted
                    .get(&address.to_words())
                    .map_or(0, |whole| whole.sums.get(BackendCount::Open)),
                ..without_address(backend, is_backup)
            });
        });
        if views.len() == before {
            views.push(without_address(backend, is_backup));
        }
    }
    views
}

fn without_address(backend: &Backend, is_backup: bool) -> BackendView {
    let reason = match backend.target() {
        Target::Name(name) if name.is_asked() => Some("the name is not found".to_owned()),
        _ => Some("the name is being looked up".to_owned()),
    };
    BackendView {
        target: backend.to_string(),
        address: None,
        is_backup,
        weight: backend.weight(),
        health: "unknown",
        reason,
        is_own: false,
        is_passed_over: false,
        open_requests: 0,
    }
}

fn described(backend: &BackendView) -> Value {
    json!({
        "backend": backend.target,
        "address": backend.address,
        "weight": backend.weight,
        "backup": backend.is_backup,
        "health": backend.health,
        "reason": backend.reason,
        "open_requests": backend.open_requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_those_of_requests() {
        for (raw, expected) in [
            ("A.com", Some("a.com")),
            ("a.com.:8080", Some("a.com")),
            ("[2001:DB8:0::1]:443", Some("[2001:db8::1]")),
            ("Bücher.Example", Some("xn--bcher-kva.example")),
            ("bücher.example:80", Some("xn--bcher-kva.example")),
            ("", None),
            ("a com", None),
            ("a.com:x", None),
            ("https://a.com", None),
        ] {
            assert_eq!(canonical(raw).ok().as_deref(), expected, "{raw}");
        }
        let told = refused("https://a.com", HostError::BadPort).message;
        assert!(told.contains("?scheme=https"), "{told}");
    }
}
