//! Events as a client gets them whose token is only for some hosts. Events of other hosts are left
//! out, and events of several hosts name only those that the client may see.

use std::sync::Arc;

use serde_json::{Value, json};

use super::asker::{Asker, OwnPart};
use crate::control::events::Event;
use crate::control::health::HealthChange;

/// Part of an event that the client may see. `None`: it may see nothing of the event.
pub(super) fn narrowed(event: Event, asker: &Asker, view: Option<&OwnPart>) -> Option<Event> {
    let Some(view) = view else { return Some(event) };
    match event {
        Event::Change(data) => change(&data, asker).map(|data| Event::Change(data.into())),
        Event::Health(time, change) => {
            health(&change, asker, view).map(|change| Event::Health(time, Arc::new(change)))
        }
        Event::Other("fleet", data) => Some(Event::Other("fleet", data)),
        Event::Other(kind, data) => {
            let told: Value = serde_json::from_str(&data).ok()?;
            asker.sees(told["host"].as_str()?).then_some(Event::Other(kind, data))
        }
        // The writer of the tick chooses the parts that the client may see.
        Event::Tick(tick) => Some(Event::Tick(tick)),
    }
}

/// Narrows a change of health to the rules that the client may see.
fn health(change: &HealthChange, asker: &Asker, view: &OwnPart) -> Option<HealthChange> {
    let backend = change.backend;
    let mut change = change.clone();
    let Some(of) = &mut change.check else {
        return view.backends.contains(&backend).then_some(change);
    };
    // If there are very many rules, only some are named, and a rule of the client may be among the
    // others.
    let check = of.check.as_ref().map(|check| (backend, check.id()));
    let is_concerned = check.is_some_and(|check| view.checks.contains(&check));
    of.rules.retain(|name| asker.sees(name));
    of.rules_count = of.rules.len();
    (is_concerned || !of.rules.is_empty()).then_some(change)
}

/// Narrows a change to the rules that the client may see. A change of very many rules names none of
/// them, and may concern any.
fn change(data: &str, asker: &Asker) -> Option<String> {
    let mut told: Value = serde_json::from_str(data).ok()?;
    let Some(hosts) = told["hosts"].as_object_mut() else { return Some(data.to_owned()) };
    let count = hosts.len() as u64;
    hosts.retain(|name, _| asker.sees(name));
    let left = hosts.len();
    // If these hosts are the whole table, every other host was deleted, so the change may concern
    // the client.
    let is_table = told["verb"] == "PUT" && told["rules"] == json!(count);
    told["changed"] = json!(left);
    (is_table || 0 < left).then(|| told.to_string())
}
