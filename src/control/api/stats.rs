//! Counters of all hosts, of one host, and of backends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::SystemTime;

use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::SharedNames;
use super::super::fleet::add;
use super::super::health::{CheckStanding, Standing, State};
use super::super::statistics::{
    self, Busy, SharedStatistics, SlotReading, answers_to_json, name_of,
};
use super::asker::Asker;
use super::error::ApiError;
use super::guard;
use super::ranking::{HostOrder, ORDERING, SELECTING};
use super::route::Query;
use super::{Api, json_response, read, tell_counts};
use crate::address::Address;
use crate::limits;
use crate::link::{BackendCount, ByKey, HostCount, KeySet, Sums};
use crate::table::{Snapshot, UNKNOWN, host};

fn answer(value: &Value) -> Response {
    json_response(format!("{value}\n"))
}

/// `GET /stats/`: returns the counters of each rule, even if it has had no request yet, and of
/// `unknown` once it has had one.
pub(super) async fn all(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let choosing = [&["busiest"][..], &SELECTING, &ORDERING].concat();
    let query = Query::of(parts.uri.query(), &[&["fleet", "host"][..], &choosing].concat())?;
    let busiest = query.count("busiest", limits::BUSIEST_MAX)?;
    let named = read::hosts(&query, &choosing, &asker.grant)?;
    if !named.is_empty() {
        return of_named(api, parts, &query, named).await;
    }
    if HostOrder::is_asked_for(&query) {
        let order = HostOrder::of(&query, asker.grant.clone())?;
        if busiest.is_some() {
            let message = "busiest: expected alone, or sort=requests&limit= in its place";
            return Err(ApiError::bad("query_invalid", message));
        }
        return in_order(api, parts, &query, order).await;
    }
    let table = api.current();
    let shared = api.sources.statistics.clone();
    // Listing a million hosts takes a while, so another thread does it.
    let asker = asker.clone();
    let listed = tokio::task::spawn_blocking(move || match busiest {
        Some(count) => busiest_of(&shared, &table, &asker, count),
        None => every(&shared, &table, &asker),
    });
    let listed = listed.await.map_err(|_| ApiError::busy("adding up was given up"))?;
    let path = of_fleet(&query)?;
    Ok(of_all(api, parts, Value::Object(listed), path.as_deref(), std::convert::identity).await)
}

/// Path and query for the other nodes, if the query asks for the numbers of all nodes.
fn of_fleet(query: &Query<'_>) -> Result<Option<String>, ApiError> {
    if !query.flag("fleet")? {
        return Ok(None);
    }
    let mut arguments = form_urlencoded::Serializer::new(String::new());
    arguments.extend_pairs(query.pairs().filter(|(name, _)| *name != "fleet"));
    Ok(Some(format!("/stats/?{}", arguments.finish())))
}

/// Counters of these hosts, with all members. A host without a rule has none.
fn of_hosts(shared: &SharedStatistics, table: &Snapshot, names: &[&str]) -> Map<String, Value> {
    let keys: Vec<u64> = names.iter().map(|name| table.key(name)).collect();
    let (found, minutes) = counted(shared, &keys.iter().copied().collect());
    let hosts = names.iter().zip(keys).map(|(name, key)| {
        let is_there = *name == UNKNOWN || table.get(name).is_some();
        let sums = found.get(&key).copied().unwrap_or_default();
        let counters = if is_there { minutes.to_json(key, &sums) } else { Map::new() };
        ((*name).to_owned(), Value::Object(counters))
    });
    hosts.collect()
}

/// `GET /stats/?host=`: returns the counters of the named hosts.
async fn of_named(
    api: &Api,
    parts: &Parts,
    query: &Query<'_>,
    names: Vec<String>,
) -> Result<Response, ApiError> {
    let (table, shared) = (api.current(), api.sources.statistics.clone());
    // This looks at the slots of all hosts, so another thread does it.
    let found = tokio::task::spawn_blocking(move || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        of_hosts(&shared, &table, &names)
    });
    let found = found.await.map_err(|_| ApiError::busy("adding up was given up"))?;
    let path = of_fleet(query)?;
    Ok(of_all(api, parts, Value::Object(found), path.as_deref(), std::convert::identity).await)
}

/// `GET /stats/?sort=&limit=&search=&action=&filter=`: returns the counters of hosts in this order,
/// each with all members.
async fn in_order(
    api: &Api,
    parts: &Parts,
    query: &Query<'_>,
    order: HostOrder,
) -> Result<Response, ApiError> {
    let (table, sources) = (api.current(), api.host_sources());
    let own_order = order.clone();
    let chosen = tokio::task::spawn_blocking(move || {
        let chosen = own_order.choose(&sources, &table);
        let hosts = of_hosts(&sources.statistics, &table, &chosen.names);
        (hosts, [chosen.matched, chosen.rules])
    });
    let (hosts, [matched, rules]) =
        chosen.await.map_err(|_| ApiError::busy("looking through the hosts was given up"))?;
    let path = of_fleet(query)?;
    let arrange = |sum| match sum {
        Value::Object(hosts) => Value::Object(order.arrange(hosts)),
        other => other,
    };
    let own = Value::Object(hosts);
    let mut response = of_all(api, parts, own, path.as_deref(), arrange).await;
    tell_counts(&mut response, [matched, rules]);
    Ok(response)
}

fn every(
    shared: &statistics::SharedStatistics,
    table: &Snapshot,
    asker: &Asker,
) -> Map<String, Value> {
    let mut names: Vec<&str> = table.iter().map(|(name, _)| name).collect();
    names.retain(|name| asker.sees(name));
    names.sort_unstable();
    let mut listed = Map::with_capacity(names.len() + 1);
    for part in names.chunks(limits::STATISTICS_AT_ONCE) {
        let keys: Vec<u64> = part.iter().map(|name| table.key(name)).collect();
        let (found, minutes) = counted(shared, &keys.iter().copied().collect());
        for (name, key) in part.iter().zip(keys) {
            let sums = found.get(&key);
            let counters = sums.map(|sums| minutes.to_json(key, sums)).unwrap_or_default();
            listed.insert((*name).to_owned(), Value::Object(counters));
        }
    }
    if asker.sees_all() && !listed.contains_key(UNKNOWN) {
        let counters = of_one(shared, table.key(UNKNOWN));
        listed.extend(counters.map(|counters| (UNKNOWN.to_owned(), Value::Object(counters))));
    }
    listed
}

type HostMinutes = statistics::Minutes<ByKey<SlotReading>>;

/// Counters of these hosts and of their last minute, both at the same moment.
fn counted(shared: &SharedStatistics, keys: &KeySet) -> (Busy, HostMinutes) {
    let statistics = statistics::lock(shared);
    (statistics.of(keys), statistics.minutes(keys))
}

/// Counters of one host, as JSON. `None`: it never had a request.
fn of_one(shared: &SharedStatistics, key: u64) -> Option<Map<String, Value>> {
    let (found, minutes) = counted(shared, &KeySet::from_iter([key]));
    found.get(&key).map(|sums| minutes.to_json(key, sums))
}

/// Returns the counters of the hosts with the most requests, in order.
fn busiest_of(
    shared: &statistics::SharedStatistics,
    table: &Snapshot,
    asker: &Asker,
    count: usize,
) -> Map<String, Value> {
    let mut known = statistics::lock(shared).known();
    if !asker.sees_all() {
        known.retain(|key| table.name_of(*key).is_some_and(|name| asker.sees(name)));
    }
    let mut found: Vec<(u64, Sums)> = Vec::new();
    for part in known.into_iter().collect::<Vec<_>>().chunks(limits::STATISTICS_AT_ONCE) {
        found.extend(statistics::lock(shared).of(&part.iter().copied().collect()));
        found.sort_by_key(|(key, sums)| (Reverse(sums.get(HostCount::Completed)), *key));
        found.truncate(count);
    }
    let keys: KeySet = found.iter().map(|(key, _)| *key).collect();
    let minutes = statistics::lock(shared).minutes(&keys);
    let named = found.into_iter().filter_map(|(key, sums)| {
        Some((name_of(table, key)?.to_owned(), Value::Object(minutes.to_json(key, &sums))))
    });
    named.collect()
}

/// Makes a response of the numbers of this node or, with `path`, of the sums over all nodes. A
/// header field names the nodes that did not answer.
async fn of_all(
    api: &Api,
    parts: &Parts,
    own: Value,
    path: Option<&str>,
    arrange: impl FnOnce(Value) -> Value,
) -> Response {
    let fleet = api.fleet();
    let (Some(path), Some(fleet)) = (path, fleet) else { return answer(&own) };
    // The other nodes check the token, as this one did.
    let token = guard::bearer(&parts.headers).and_then(|token| std::str::from_utf8(token).ok());
    let (others, missing) = fleet.ask_others(path, token).await;
    let mut sum = own;
    others.iter().for_each(|other| add(&mut sum, other));
    let mut response = answer(&arrange(sum));
    let fields = response.headers_mut();
    fields.insert("mantrid-fleet-nodes", HeaderValue::from(others.len() + 1));
    if let Ok(missing) = HeaderValue::from_str(&missing.join(", "))
        && !missing.is_empty()
    {
        fields.insert("mantrid-fleet-missing", missing);
    }
    response
}

/// `GET /stats/HOST/`
pub(super) async fn one(api: &Api, parts: &Parts, raw: &str) -> Result<Response, ApiError> {
    let of_fleet = Query::of(parts.uri.query(), &["fleet"])?.flag("fleet")?;
    let name = read::name(raw)?;
    let table = api.current();
    let is_there = name == UNKNOWN || table.get(&name).is_some();
    let shared = &api.sources.statistics;
    let found = if is_there { of_one(shared, table.key(&name)) } else { None };
    let own = Value::Object(found.unwrap_or_default());
    let host = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
    let path = of_fleet.then(|| format!("/stats/{host}/"));
    Ok(of_all(api, parts, own, path.as_deref(), std::convert::identity).await)
}

/// State of a backend, if it is probed, and its counters.
type BackendRow = (Option<Standing>, Sums);

/// `GET /backends/`: returns state and counters of each backend that had traffic or is probed. If
/// there are very many backends, some are left out, and `Mantrid-Backends` says how many there are.
/// With `address=`, returns the given backends, even if nothing is known of them.
pub(super) async fn backends(
    api: &Api,
    parts: &Parts,
    asker: &Asker,
) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["address"])?;
    let wanted = wanted(&api.sources.names, &query)?;
    let own = asker.view(api.current()).await.map(|view| view.backends);
    let sees = asker.filter();
    // A client that may see only some hosts must not learn which names the rules of other hosts use
    // for the same address.
    let names = own.is_none().then(|| api.sources.names.clone());
    let (health, shared) = (api.sources.health.clone(), api.sources.statistics.clone());
    // Shards may have seen a million backends, so another thread does this.
    let found = tokio::task::spawn_blocking(move || {
        let names = names.as_ref().map(names_by_address).unwrap_or_default();
        let mut known: BTreeMap<Address, BackendRow> = BTreeMap::new();
        for standing in health.states(sees.as_ref()) {
            known.insert(standing.backend, (Some(standing), Sums::default()));
        }
        let (counted, minutes) = {
            let statistics = statistics::lock(&shared);
            (statistics.backends(), statistics.backend_minutes().by(|id| Address::from_words(*id)))
        };
        for (id, sums) in counted {
            known.entry(Address::from_words(id)).or_default().1 = sums;
        }
        if let Some(wanted) = wanted {
            known.retain(|address, _| wanted.contains(address));
            wanted.iter().for_each(|address| _ = known.entry(*address).or_default());
        }
        if let Some(own) = own {
            known.retain(|address, _| own.contains(address));
        }
        let count = known.len();
        let listed = most_telling(known, limits::BACKENDS_LISTED_MAX).into_iter();
        let listed = listed.map(|(address, (standing, sums))| {
            let mut row = describe(standing.as_ref(), &sums);
            let names = names.get(&address).map(Vec::as_slice).unwrap_or_default();
            row.insert("names".to_owned(), json!(names));
            row.extend(minutes.of_backend(&address));
            (address.to_string(), Value::Object(row))
        });
        (count, answer(&Value::Object(listed.collect())))
    });
    let (count, mut response) =
        found.await.map_err(|_| ApiError::busy("adding up was given up"))?;
    response.headers_mut().insert("mantrid-backends", HeaderValue::from(count));
    Ok(response)
}

/// Addresses that the query names, and the addresses of the names in it.
fn wanted(names: &SharedNames, query: &Query<'_>) -> Result<Option<BTreeSet<Address>>, ApiError> {
    let mut wanted = BTreeSet::new();
    let mut is_given = false;
    for text in query.all("address") {
        is_given = true;
        if let Ok(address) = text.parse::<Address>() {
            wanted.insert(address);
            continue;
        }
        let name = text.rsplit_once(':').and_then(|(host, port)| {
            Some((host::name(host).ok()?.into_owned(), port.parse::<u16>().ok()?))
        });
        let Some((host, port)) = name else {
            return Err(ApiError::bad(
                "query_invalid",
                format!("address={text}: expected ADDRESS:PORT, NAME:PORT or unix:/PATH"),
            ));
        };
        let names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let same = names.iter_live().filter(|name| *name.host == *host && name.port == port);
        same.for_each(|name| {
            wanted.extend(name.addresses().iter().map(|address| Address::from(*address)));
        });
    }
    Ok(is_given.then_some(wanted))
}

/// Names of backends that resolve to each address now.
fn names_by_address(names: &SharedNames) -> HashMap<Address, Vec<String>> {
    let mut by_address: HashMap<Address, Vec<String>> = HashMap::new();
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    for name in names.iter_live() {
        for address in name.addresses().iter() {
            by_address.entry(Address::from(*address)).or_default().push(name.to_string());
        }
    }
    by_address.values_mut().for_each(|names| names.sort_unstable());
    by_address
}

/// Selects the backends that can't be used, and after these the busiest. The result is sorted by
/// address.
fn most_telling(
    known: BTreeMap<Address, BackendRow>,
    most: usize,
) -> BTreeMap<Address, BackendRow> {
    if known.len() <= most {
        return known;
    }
    let mut all: Vec<(Address, BackendRow)> = known.into_iter().collect();
    all.select_nth_unstable_by_key(most, |(address, (standing, sums))| {
        // A backend that is up is as little worth telling as one that is not probed.
        let is_down =
            standing.as_ref().map_or((false, false), |it| (it.state.is_bad(), it.checks_down != 0));
        (Reverse(is_down), Reverse(sums.get(BackendCount::Completed)), *address)
    });
    all.truncate(most);
    all.into_iter().collect()
}

/// Describes a backend. If it has no standing, it has had traffic and was not ejected, and so
/// counts as up.
fn describe(standing: Option<&Standing>, sums: &Sums) -> Map<String, Value> {
    let since = standing.and_then(|it| it.since.duration_since(SystemTime::UNIX_EPOCH).ok());
    let row = json!({
        "state": standing.map_or(State::Up, |it| it.state).as_str(),
        "reason": standing.map(|it| it.reason.as_str()),
        "since": since.map(|since| since.as_secs()),
        "is_probed": standing.is_some(),
        "checks": standing.map_or_else(Vec::new, |it| it.checks.iter().map(check).collect()),
        "checks_count": standing.map_or(0, |it| it.checks_count),
        "checks_down": standing.map_or(0, |it| it.checks_down),
        "open_requests": sums.get(BackendCount::Open),
        "idle_connections": sums.get(BackendCount::Idle),
        "requests": sums.get(BackendCount::Completed),
        "connections": sums.get(BackendCount::Connections),
        "failures": sums.get(BackendCount::Failures),
        "answers": answers_to_json(sums),
        "errors": sums.get(BackendCount::Errors),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn check(standing: &CheckStanding) -> Value {
    let since = standing.since.duration_since(SystemTime::UNIX_EPOCH).ok();
    let mut told = standing.checked_for.describe();
    told.insert("state".to_owned(), json!(standing.state.as_str()));
    told.insert("reason".to_owned(), json!(standing.reason));
    told.insert("since".to_owned(), json!(since.map(|since| since.as_secs())));
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn of_too_many_backends_the_telling_ones_are_listed() {
        let address = |n: u16| Address::from(SocketAddr::from(([10, 0, 0, 1], n)));
        let known = || -> BTreeMap<Address, BackendRow> {
            let one = |n: u16| {
                let state = if n == 7 { State::Down } else { State::Up };
                let (reason, since) = (String::new(), SystemTime::UNIX_EPOCH);
                let checks = Vec::new();
                let (checks_count, checks_down) = (1, usize::from(n == 7));
                let backend = address(n);
                let standing =
                    Standing { backend, state, reason, since, checks, checks_count, checks_down };
                let mut sums = Sums::default();
                sums.set(BackendCount::Completed, u64::from(n % 5));
                (address(n), ((n % 2 == 1).then_some(standing), sums))
            };
            (1..=9).map(one).collect()
        };
        let listed = |most| -> Vec<u16> {
            let ports = |address: &Address| address.ip().map(|ip| ip.port());
            most_telling(known(), most).keys().filter_map(ports).collect()
        };
        assert_eq!(listed(9), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(listed(4), [3, 4, 7, 9], "of the two with three requests the first");
        assert_eq!(listed(1), [7]);
        assert_eq!(listed(0), [] as [u16; 0]);
    }
}
