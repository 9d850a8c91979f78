//! `backend list`: prints the backends of all rules, with their health and the rules that use them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::pool::{Share, members, normal};
use super::print::{columns, entries, plain};
use super::request::{Api, Ask};
use super::{lines, print_json, query};

/// Most hosts that a row names; the others are only counted.
const NAMED_MAX: usize = 3;

/// Rules of each backend, with the share that the backend has in each: its weight, or `backup`.
type Uses = BTreeMap<String, Vec<(String, Share)>>;

/// Prints all backends or, given an address, that backend with its share in each rule.
pub async fn list(api: &Api, address: Option<&str>, json: bool) -> Result<(), Failure> {
    let wanted = address.map(normal);
    let table = api.fetch(Ask::get("/hostname/")).await?;
    let mut uses = Uses::new();
    let read = entries(&table.body, |host, rule| {
        for (backend, share) in members(&rule) {
            if wanted.as_ref().is_none_or(|wanted| *wanted == normal(&backend)) {
                uses.entry(backend).or_default().push((host.clone(), share));
            }
        }
    });
    read.map_err(|error| table.foreign(&error))?;
    if let (Some(address), true) = (address, uses.is_empty()) {
        return Err(Failure::Other(format!("no rule has the backend {}", plain(address))));
    }
    let query = query(wanted.as_deref().map(|wanted| ("address", wanted)));
    let known = api.fetch(Ask::get(format!("/backends/{query}"))).await?.value()?;
    let health = Health::of(&known);
    if json {
        return print_json(to_json(&uses, &health).to_string().as_bytes());
    }
    let mut rows = vec![["BACKEND", "HEALTH", "OPEN", "RULES", "HOSTS"].map(str::to_owned)];
    rows.extend(uses.iter().map(|(backend, rules)| {
        let BackendState { state, open } = health.state_of(backend);
        [plain(backend), state, open.to_string(), rules.len().to_string(), hosts(rules)]
    }));
    lines(columns(&rows).into_iter())?;
    if address.is_none() {
        return Ok(());
    }
    let all = uses.values().flatten();
    lines(all.map(|(host, share)| match share {
        Share::Weight(weight) => format!("  {} weight {weight}", plain(host)),
        Share::Backup => format!("  {} backup", plain(host)),
    }))
}

/// Text of the column HOSTS.
fn hosts(rules: &[(String, Share)]) -> String {
    let shown = rules.iter().take(NAMED_MAX).map(|(host, share)| match share {
        Share::Weight(0) => format!("{} (drained)", plain(host)),
        Share::Weight(_) => plain(host),
        Share::Backup => format!("{} (backup)", plain(host)),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match rules.len().checked_sub(NAMED_MAX) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// State of a backend, taken together over all its addresses.
struct BackendState {
    /// States of the addresses, each once, as in `down/up`.
    state: String,
    /// Open requests.
    open: u64,
}

/// Entries of the API's `/backends/`, by the address and by the names of each backend.
struct Health<'a>(HashMap<String, Vec<&'a Value>>);

impl<'a> Health<'a> {
    fn of(known: &'a Value) -> Health<'a> {
        let mut by_backend: HashMap<String, Vec<&Value>> = HashMap::new();
        for (address, entry) in known.as_object().into_iter().flatten() {
            by_backend.entry(normal(address)).or_default().push(entry);
            let names = entry["names"].as_array().into_iter().flatten();
            for name in names.filter_map(Value::as_str) {
                by_backend.entry(normal(name)).or_default().push(entry);
            }
        }
        Health(by_backend)
    }

    /// State of a backend. A backend without an entry counts as up: no check or request has failed
    /// there.
    fn state_of(&self, backend: &str) -> BackendState {
        let found = self.0.get(&normal(backend)).map(Vec::as_slice).unwrap_or_default();
        let mut states: Vec<&str> =
            found.iter().filter_map(|entry| entry["state"].as_str()).collect();
        states.sort_unstable();
        states.dedup();
        let open = found.iter().filter_map(|entry| entry["open_requests"].as_u64()).sum();
        let state = if states.is_empty() { "up".to_owned() } else { plain(&states.join("/")) };
        BackendState { state, open }
    }
}

/// The list as `--json` prints it.
fn to_json(uses: &Uses, health: &Health<'_>) -> Value {
    let backends = uses.iter().map(|(backend, rules)| {
        let BackendState { state, open } = health.state_of(backend);
        let share = |share: &Share| match share {
            Share::Weight(weight) => json!(weight),
            Share::Backup => json!("backup"),
        };
        let rules: Map<String, Value> =
            rules.iter().map(|(host, part)| (host.clone(), share(part))).collect();
        (backend.clone(), json!({ "health": state, "open_requests": open, "rules": rules }))
    });
    Value::Object(backends.collect())
}
