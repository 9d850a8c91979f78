//! Client that makes a request: its address or user, and its rights.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::http::Method;
use serde_json::{Value, json};

use super::error::ApiError;
use super::guard::Peer;
use super::read;
use super::route::Route;
use crate::address::Address;
use crate::control::grant::Grant;
use crate::control::health::RuleFilter;
use crate::limits;
use crate::link::{Tag, TaggedTable};

/// Client of one request.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) peer: Peer,
    pub(super) grant: Arc<Grant>,
}

impl Asker {
    /// Makes a client whose token has not been checked yet.
    pub(super) fn new(peer: &Peer) -> Asker {
        Asker { peer: peer.clone(), grant: Arc::new(Grant::EVERYTHING) }
    }

    /// Name of the client; its address or user if it has no name.
    pub(super) fn who(&self) -> String {
        self.grant.name().map_or_else(|| self.peer.to_string(), str::to_owned)
    }

    /// Address or user of the client, if it has a name.
    pub(super) fn from(&self) -> Option<String> {
        self.grant.name().map(|_| self.peer.to_string())
    }

    /// Checks path and method: whether the client may ask about the host in the path, make a
    /// change, or decide about the whole daemon.
    pub(super) fn check(&self, route: &Route, method: &Method) -> Result<(), ApiError> {
        let grant = &self.grant;
        if let Some(raw) = route.host().filter(|_| !self.sees_all())
            && let Ok(name) = read::name(raw)
        {
            grant.check_host(&name)?;
        }
        match (route, method) {
            (Route::Support, _) => grant.check_daemon()?,
            (_, &Method::GET | &Method::HEAD) => {}
            (Route::FleetStep(_), _) => grant.check_daemon()?,
            (Route::Rules, &Method::PUT) => grant.check_change(true)?,
            _ => grant.check_change(false)?,
        }
        Ok(())
    }

    /// Whether the client may see the rule of this name, and what concerns it.
    pub(super) fn sees(&self, name: &str) -> bool {
        self.grant.covers(name)
    }

    /// Whether the client may see everything.
    pub(super) fn sees_all(&self) -> bool {
        self.grant.suffix().is_none()
    }

    /// Filter for the rules that the client may see. `None`: it may see all.
    pub(super) fn filter(&self) -> Option<RuleFilter> {
        let grant = self.grant.clone();
        (!self.sees_all()).then(|| Box::new(move |name: &str| grant.covers(name)) as RuleFilter)
    }

    /// Part of the table that the client may see. `None`: it may see all of it.
    pub(super) async fn view(&self, current: Arc<TaggedTable>) -> Option<OwnPart> {
        if self.sees_all() {
            return None;
        }
        if current.table.len() <= limits::LISTED_HERE_MAX {
            return Some(OwnPart::of(&current, &self.grant));
        }
        let (grant, nothing) = (self.grant.clone(), OwnPart::nothing(current.tag));
        let made = tokio::task::spawn_blocking(move || OwnPart::of(&current, &grant)).await;
        Some(made.unwrap_or(nothing))
    }

    /// Describes the rights of the client, for programs that show only what the client may do.
    pub(super) fn describe(&self) -> Value {
        json!({
            "name": self.grant.name(),
            "role": self.grant.role().as_str(),
            "suffix": self.grant.suffix(),
        })
    }
}

/// Part of a table that a client may see whose token is for some hosts.
pub(super) struct OwnPart {
    tag: Tag,
    at: Instant,
    pub(super) rules: usize,
    /// Addresses of the backends of these rules.
    pub(super) backends: HashSet<Address>,
    /// Addresses with the ids of the checks of these rules.
    pub(super) checks: HashSet<(Address, u64)>,
}

impl OwnPart {
    fn nothing(tag: Tag) -> OwnPart {
        let (backends, checks) = (HashSet::new(), HashSet::new());
        OwnPart { tag, at: Instant::now(), rules: 0, backends, checks }
    }

    fn of(current: &TaggedTable, grant: &Grant) -> OwnPart {
        let mut view = OwnPart::nothing(current.tag);
        for (_, rule) in current.table.iter().filter(|(name, _)| grant.covers(name)) {
            view.rules += 1;
            let check = rule.check_id();
            rule.each_address(|address| {
                view.backends.insert(address);
                view.checks.extend(check.map(|check| (address, check)));
            });
        }
        view
    }

    /// Whether the part is still that of the `current` table. It has to be made again now and then
    /// even for the same table, because names of backends may lead to other addresses.
    pub(super) fn is_fresh(&self, current: &TaggedTable) -> bool {
        self.tag == current.tag && self.at.elapsed() < limits::RESOLVE_EVERY
    }
}
