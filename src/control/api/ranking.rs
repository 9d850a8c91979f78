//! Choice and order of hosts in requests: `search`, `action`, `filter`, `sort` and `limit` of
//! `/stats/` and `/hostname/`.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::reached::with_backend_down;
use super::route::Query;
use super::search::Search;
use crate::control::grant::Grant;
use crate::control::statistics::{
    self, Chosen, HostFilter, HostSort, HostTrouble, SharedStatistics, choose,
};
use crate::limits;
use crate::link::{KeySet, Published};
use crate::table::{Action, Rule, Snapshot};

/// Arguments that select hosts.
pub(super) const SELECTING: [&str; 3] = ["search", "action", "filter"];
/// Arguments that order hosts.
pub(super) const ORDERING: [&str; 2] = ["sort", "limit"];

/// Condition that hosts must meet, the value of `filter`.
#[derive(Copy, Clone, Debug)]
enum HostCondition {
    /// Trouble that the counts of a host show.
    Troubled(HostTrouble),
    /// A backend of the host that requests pass over.
    BackendDown,
}

impl HostCondition {
    const ALL: [(&str, HostCondition); 4] = [
        ("failing", HostCondition::Troubled(HostTrouble::Failing)),
        ("held", HostCondition::Troubled(HostTrouble::Held)),
        ("down", HostCondition::BackendDown),
        ("limited", HostCondition::Troubled(HostTrouble::Limited)),
    ];
}

/// Names of the conditions, the values of `filter`.
pub(super) fn filters() -> impl Iterator<Item = &'static str> + Clone {
    HostCondition::ALL.iter().map(|(name, _)| *name)
}

/// Names of the orders, the values of `sort`.
pub(super) fn sorts() -> impl Iterator<Item = &'static str> + Clone {
    HostSort::ALL.iter().map(|(name, _)| *name)
}

/// Reads an argument that must have one of these values. An empty value is refused, because it
/// chooses nothing.
fn one_of<T: Copy>(
    query: &Query<'_>,
    name: &str,
    known: &'static [(&'static str, T)],
) -> Result<Option<T>, ApiError> {
    let names = known.iter().map(|(name, _)| *name);
    if query.get(name) == Some("") {
        let expected = names.collect::<Vec<_>>().join(", ");
        let message = format!("{name}=: expected one of {expected}");
        return Err(ApiError::bad("query_invalid", message));
    }
    let given = query.one_of(name, names)?;
    Ok(known.iter().find(|(name, _)| Some(*name) == given).map(|(_, value)| *value))
}

/// Parts of control that know the conditions of hosts.
#[derive(Clone)]
pub(super) struct HostSources {
    pub(super) statistics: SharedStatistics,
    pub(super) published: Arc<Published>,
}

/// Choice of hosts that a query asks for.
#[derive(Clone, Debug)]
pub(super) struct HostChoice {
    search: String,
    action: Option<&'static str>,
    filter: Option<HostCondition>,
    grant: Arc<Grant>,
}

impl HostChoice {
    /// Reads the arguments.
    pub(super) fn of(query: &Query<'_>, grant: Arc<Grant>) -> Result<HostChoice, ApiError> {
        let search = query.get("search").unwrap_or_default().to_owned();
        let action = query.one_of("action", Action::names())?;
        Ok(HostChoice {
            search,
            action,
            filter: one_of(query, "filter", &HostCondition::ALL)?,
            grant,
        })
    }

    /// Makes a filter of the choice, from the conditions of hosts as they are now.
    pub(super) fn look_up(
        &self,
        sources: &HostSources,
        table: &Snapshot,
    ) -> impl HostFilter + use<> {
        let among = self.filter.map(|condition| match condition {
            HostCondition::Troubled(trouble) => {
                statistics::lock(&sources.statistics).troubled(trouble)
            }
            HostCondition::BackendDown => with_backend_down(&sources.published.down, table),
        });
        let search = Search::of(&self.search, table);
        Choice { search, action: self.action, among, grant: self.grant.clone() }
    }
}

/// Order of hosts that a query asks for.
#[derive(Clone, Debug)]
pub(super) struct HostOrder {
    choice: HostChoice,
    sort: Option<HostSort>,
    limit: usize,
}

impl HostOrder {
    /// Whether the query has an argument that selects or orders hosts.
    pub(super) fn is_asked_for(query: &Query<'_>) -> bool {
        SELECTING.iter().chain(&ORDERING).any(|name| query.get(name).is_some())
    }

    /// Reads the arguments.
    pub(super) fn of(query: &Query<'_>, grant: Arc<Grant>) -> Result<HostOrder, ApiError> {
        let sort = one_of(query, "sort", &HostSort::ALL)?;
        let limit = query.count("limit", limits::RANKED_MAX)?.unwrap_or(limits::RANKED);
        Ok(HostOrder { choice: HostChoice::of(query, grant)?, sort, limit })
    }

    /// Chooses the first hosts.
    pub(super) fn choose<'t>(&self, sources: &HostSources, table: &'t Snapshot) -> Chosen<'t> {
        let wanted = self.choice.look_up(sources, table);
        choose(&sources.statistics, table, (self.sort, self.limit), &wanted)
    }

    /// Sorts the hosts again, once the numbers of several nodes have been added up.
    pub(super) fn arrange(&self, hosts: Map<String, Value>) -> Map<String, Value> {
        let mut hosts: Vec<(String, Value)> = hosts.into_iter().collect();
        // Members that decide the order. The sum of the first group decides; if it is equal, that
        // of the next.
        let orders: &[&[&str]] = match self.sort {
            None => &[],
            Some(HostSort::Errors) => &[&["errors_per_second"], &["errors"]],
            Some(HostSort::Latency) => &[&["p95"], &["p99"]],
            Some(HostSort::Held) => &[&["held_requests"], &["completed_requests"]],
            Some(HostSort::Open) => &[&["open_requests"], &["completed_requests"]],
            Some(HostSort::Requests) => &[&["requests_per_second"], &["completed_requests"]],
            Some(HostSort::Bytes) => &[
                &["bytes_sent_per_second", "bytes_received_per_second"],
                &["bytes_sent", "bytes_received"],
            ],
            Some(HostSort::Limited) => &[&["limited_per_second"], &["limited"]],
        };
        let number = |host: &Value, names: &[&str]| -> f64 {
            names.iter().map(|name| host[*name].as_f64().unwrap_or(-1.0)).sum()
        };
        hosts.sort_by(|(name, host), (other_name, other)| {
            let orders = orders.iter().map(|of| number(other, of).total_cmp(&number(host, of)));
            orders.fold(Ordering::Equal, Ordering::then).then_with(|| name.cmp(other_name))
        });
        hosts.truncate(self.limit);
        hosts.into_iter().collect()
    }
}

struct Choice {
    search: Search,
    action: Option<&'static str>,
    among: Option<KeySet>,
    grant: Arc<Grant>,
}

impl HostFilter for Choice {
    fn is_everything(&self) -> bool {
        self.search.is_everything() && self.action.is_none() && self.among.is_none()
    }

    fn among(&self) -> Option<&KeySet> {
        self.among.as_ref()
    }

    fn sees_all(&self) -> bool {
        self.grant.suffix().is_none()
    }

    fn sees(&self, name: &str) -> bool {
        self.grant.covers(name)
    }

    fn matches(&self, name: &str, rule: Option<&Rule>) -> bool {
        let is_of_action = match (self.action, rule) {
            (None, _) => true,
            (Some(action), rule) => rule.is_some_and(|rule| rule.action.as_str() == action),
        };
        is_of_action && self.search.matches(name, rule)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arranged(query: &str, hosts: Value) -> Vec<String> {
        let query = Query::of(Some(query), &ORDERING).expect("a query");
        let order = HostOrder::of(&query, Arc::new(Grant::EVERYTHING)).expect("an order");
        let Value::Object(hosts) = hosts else { panic!("{hosts}") };
        order.arrange(hosts).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn numbers_of_several_nodes_are_in_the_order_of_one() {
        let bytes = |sent: u64, received: u64| json!({"bytes_sent_per_second": sent, "bytes_received_per_second": received});
        let uploads = json!({"a": bytes(10, 1), "b": bytes(1, 90), "c": bytes(20, 2)});
        assert_eq!(arranged("sort=bytes", uploads), ["b", "c", "a"]);
        let limited = |rate: f64, all: u64| json!({"limited_per_second": rate, "limited": all});
        let hosts = json!({"a": limited(0.0, 7), "b": limited(0.5, 1), "c": limited(0.0, 9)});
        assert_eq!(arranged("sort=limited&limit=2", hosts), ["b", "c"]);
    }
}
