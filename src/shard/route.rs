//! The decision on a request or a raw connection, by the rule of its host: which rule that is, and
//! whether the request goes on now, is held, or exceeds a rate.

use std::net::IpAddr;
use std::time::Duration;

use super::ending::Ending;
use super::hold::Waited;
use super::request::Keys;
use super::{Shard, Table};
use crate::link::{HoldReason, Shed};
use crate::table::{Action, Match, Proxy, Scheme};

/// Rule of a host.
pub(super) struct Rule<'t> {
    pub(super) action: &'t Action,
    pub(super) keys: Keys,
}

/// Decision on a request or raw connection.
#[derive(Copy, Clone, Debug)]
pub(super) enum Route<'t> {
    /// A backend of this rule gets the request.
    Proxy(&'t Proxy),
    /// The request is held, for at most this time.
    Hold(HoldReason, Duration),
    /// The rule's `allow` or `deny` keeps the client out.
    Denied,
    /// A rate is spent.
    Limited(Spent),
    /// The rule says what to reply.
    Reply(&'t Action),
}

/// Rate that one more request would exceed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Spent {
    /// `max_requests_per_second`.
    Rule,
    /// `max_requests_per_second_per_source`.
    Source,
}

impl Spent {
    /// Ending of the request.
    pub(super) fn ending(self) -> Ending {
        match self {
            Spent::Rule => Ending::RateLimited,
            Spent::Source => Ending::SourceLimited,
        }
    }
}

/// Looks up the rule of a host; a request without a host falls under the rule `*` alone.
pub(super) fn find<'t>(
    shard: &Shard,
    table: &'t Table,
    host: Option<&str>,
    scheme: Scheme,
) -> Rule<'t> {
    let unknown = Keys { host: shard.unknown, rule: shard.no_rule() };
    let table = table.snapshot();
    let found = host.map_or_else(|| table.catch_all(scheme), |host| table.lookup(host, scheme));
    match found {
        Match::NoHosts => Rule { action: &Action::NoHosts, keys: unknown },
        Match::Unknown => Rule { action: &Action::Unknown, keys: unknown },
        Match::Found(found) => Rule {
            action: &found.rule.action,
            keys: Keys { host: found.key, rule: found.rule_key },
        },
    }
}

/// Decides by a rule that was found for `host`, which this client asks for. A request that passes
/// counts towards the rate of its rule. `waited` is set for a request that was held already.
pub(super) fn decide<'t>(
    shard: &Shard,
    table: &Table,
    rule: &Rule<'t>,
    (host, client): (&str, IpAddr),
    waited: Option<&Waited>,
) -> Route<'t> {
    if table.snapshot().access(rule.action).is_some_and(|access| !access.admits(client)) {
        shard.end.counters().add_shed(Shed::Access);
        return Route::Denied;
    }
    let keys = rule.keys;
    let line = || {
        let lines = &shard.published().lines;
        match lines.is_empty() {
            true => None,
            false => lines.wait(&[keys.host, keys.rule, table.snapshot().key(host)]),
        }
    };
    by_policy(rule.action, waited, line, |proxy| shard.admits(keys.rule, client, proxy))
}

/// Applies the policy: a request waits behind those that were held for its host before it, and only
/// a request that was never held is refused because of a rate. `line` says how long it may wait
/// behind others; `admits` takes it out of the rates.
fn by_policy<'t>(
    action: &'t Action,
    waited: Option<&Waited>,
    line: impl FnOnce() -> Option<Duration>,
    admits: impl FnOnce(&Proxy) -> Result<(), Spent>,
) -> Route<'t> {
    let proxy = match action {
        Action::Spin(spin) => return Route::Hold(HoldReason::Spin, spin.timeout()),
        Action::Proxy(proxy) => proxy,
        other => return Route::Reply(other),
    };
    if !waited.is_some_and(Waited::is_let_go)
        && let Some(wait) = line()
    {
        return Route::Hold(HoldReason::Behind, wait);
    }
    // A request that was held has waited enough: it is not refused.
    match waited.map_or_else(|| admits(proxy), |_| Ok(())) {
        Ok(()) => Route::Proxy(proxy),
        Err(spent) => Route::Limited(spent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Names, Rule as TableRule};

    fn limited() -> TableRule {
        let value =
            json!(["proxy", { "backends": ["127.0.0.1:1"], "max_requests_per_second": 1 }, false]);
        TableRule::from_json("a.com", &value, &mut Names::default()).expect("a rule")
    }

    #[test]
    fn request_behind_others_takes_nothing_of_the_rate() {
        let rule = limited();
        let line = || Some(Duration::from_secs(3));
        let route = by_policy(&rule.action, None, line, |_| panic!("the rate is asked"));
        assert!(matches!(route, Route::Hold(HoldReason::Behind, _)), "{route:?}");
    }

    #[test]
    fn request_past_the_rate_is_limited() {
        let rule = limited();
        let route = by_policy(&rule.action, None, || None, |_| Err(Spent::Rule));
        assert!(matches!(route, Route::Limited(Spent::Rule)), "{route:?}");
    }

    #[test]
    fn request_that_was_held_is_not_limited() {
        let rule = limited();
        let mut waited = None;
        Waited::note(&mut waited, std::time::Instant::now(), 0);
        let route = by_policy(&rule.action, waited.as_deref(), || None, |_| Err(Spent::Rule));
        assert!(matches!(route, Route::Proxy(_)), "{route:?}");
    }

    #[test]
    fn rule_that_replies_asks_neither_line_nor_rate() {
        let route = by_policy(
            &Action::Unknown,
            None,
            || panic!("the line is asked"),
            |_| panic!("the rate is asked"),
        );
        assert!(matches!(route, Route::Reply(Action::Unknown)), "{route:?}");
    }
}
