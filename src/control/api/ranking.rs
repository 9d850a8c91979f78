//! Hosts in an order that is asked for: `sort`, `limit` and `search` of `/stats/` and `/hostname/`.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::route::Query;
use super::search::Search;
use crate::control::grant::Grant;
use crate::control::statistics::{Chosen, HostFilter, HostSort, SharedStatistics, choose};
use crate::limits;
use crate::table::{Rule, Snapshot};

/// The arguments of an order.
pub(super) const ARGUMENTS: [&str; 3] = ["sort", "limit", "search"];

/// An order that is asked for.
#[derive(Clone, Debug)]
pub(super) struct HostOrder {
    sort: Option<HostSort>,
    limit: usize,
    search: String,
    action: Option<&'static str>,
    grant: Arc<Grant>,
}

impl HostOrder {
    /// Whether one of the arguments is given.
    pub(super) fn is_asked_for(query: &Query<'_>) -> bool {
        ARGUMENTS.iter().any(|name| query.get(name).is_some())
    }

    /// Reads the arguments.
    pub(super) fn of(query: &Query<'_>, grant: Arc<Grant>) -> Result<HostOrder, ApiError> {
        let names = HostSort::ALL.iter().map(|(name, _)| *name);
        if query.get("sort") == Some("") {
            let expected = names.collect::<Vec<_>>().join(", ");
            let message = format!("sort=: expected one of {expected}");
            return Err(ApiError::bad("query_invalid", message));
        }
        let sort = query.one_of("sort", names)?;
        let sort =
            HostSort::ALL.iter().find(|(name, _)| Some(*name) == sort).map(|(_, sort)| *sort);
        let limit = query.count("limit", limits::RANKED_MAX)?.unwrap_or(limits::RANKED);
        let search = query.get("search").unwrap_or_default().to_owned();
        Ok(HostOrder { sort, limit, search, action: None, grant })
    }

    /// Selects the rules with this action, of those that are found.
    pub(super) fn with_action(self, action: Option<&'static str>) -> HostOrder {
        HostOrder { action, ..self }
    }

    /// Chooses the first hosts.
    pub(super) fn choose<'t>(&self, shared: &SharedStatistics, table: &'t Snapshot) -> Chosen<'t> {
        let search = Search::of(&self.search, table);
        let wanted = Choice { search, action: self.action, grant: &self.grant };
        choose(shared, table, (self.sort, self.limit), &wanted)
    }

    /// Brings the numbers of several nodes into the order again.
    pub(super) fn arrange(&self, hosts: Map<String, Value>) -> Map<String, Value> {
        let mut hosts: Vec<(String, Value)> = hosts.into_iter().collect();
        let names: &[&str] = match self.sort {
            None => &[],
            Some(HostSort::Errors) => &["errors_per_second", "errors"],
            Some(HostSort::Latency) => &["p95", "p99"],
            Some(HostSort::Held) => &["held_requests", "completed_requests"],
            Some(HostSort::Open) => &["open_requests", "completed_requests"],
            Some(HostSort::Requests) => &["requests_per_second", "completed_requests"],
            Some(HostSort::Bytes) => &["bytes_sent_per_second", "bytes_sent"],
        };
        let number = |host: &Value, name: &str| host[name].as_f64().unwrap_or(-1.0);
        hosts.sort_by(|(name, host), (other_name, other)| {
            let orders = names.iter().map(|of| number(other, of).total_cmp(&number(host, of)));
            orders.fold(Ordering::Equal, Ordering::then).then_with(|| name.cmp(other_name))
        });
        hosts.truncate(self.limit);
        hosts.into_iter().collect()
    }
}

struct Choice<'a> {
    search: Search,
    action: Option<&'static str>,
    grant: &'a Grant,
}

impl HostFilter for Choice<'_> {
    fn is_everything(&self) -> bool {
        self.search.is_everything() && self.action.is_none()
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
