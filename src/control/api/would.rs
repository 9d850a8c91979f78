//! Prediction for `GET /which/HOST`: what would happen now to a request for a host, and why, in one
//! word and one sentence. The checks are in the order in which a shard makes them (`shard::route`,
//! `shard::backend`).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::held::Full;
use crate::http::Pages;
use crate::limits;
use crate::table::{Action, Match, Overrides, Proxy, Scheme, Snapshot, Spin};

#[cfg(test)]
mod tests;

/// Predicted outcome of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Would {
    /// Word for programs: `proxied`, `queued`, `held`, `limited`, `denied`, `refused`, `replied`,
    /// `failed` or `closed`.
    pub(super) outcome: &'static str,
    /// Sentence for people, with the reason.
    pub(super) sentence: String,
}

impl Would {
    fn new(outcome: &'static str, sentence: impl Into<String>) -> Would {
        Would { outcome, sentence: sentence.into() }
    }
}

/// A backend of a rule at one of its addresses, or a name without an address.
#[derive(Clone, Debug)]
pub(super) struct BackendView {
    /// Backend as it is written in the rule.
    pub(super) target: String,
    pub(super) address: Option<String>,
    /// Whether the backend is one of `backup`.
    pub(super) is_backup: bool,
    pub(super) weight: u16,
    pub(super) health: &'static str,
    pub(super) reason: Option<String>,
    /// Whether the address is one of this daemon itself.
    pub(super) is_own: bool,
    /// Whether requests of the rule pass over the backend while there is another.
    pub(super) is_passed_over: bool,
    pub(super) open_requests: u64,
}

impl BackendView {
    fn shown(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.target)
    }

    /// Reason why requests don't go to the backend, if there is one.
    fn trouble(&self) -> Option<String> {
        let shown = self.shown();
        match self {
            _ if self.weight == 0 => Some(format!("{shown} is drained (weight 0)")),
            _ if self.address.is_none() => Some(format!("{shown} has no address")),
            _ if self.is_own => Some(format!("{shown} is this daemon itself")),
            BackendView { is_passed_over: true, health, reason: Some(reason), .. } => {
                Some(format!("{shown} is {health} ({reason})"))
            }
            _ if self.is_passed_over => Some(format!("{shown} is {}", self.health)),
            _ => None,
        }
    }
}

/// Facts besides the rule that decide about a request.
pub(super) struct Situation<'a> {
    pub(super) host: &'a str,
    pub(super) scheme: Scheme,
    pub(super) pages: &'a Pages,
    /// Status of the reply to a request that matches no rule.
    pub(super) unknown_status: u16,
    /// The key `timeout_connect`.
    pub(super) connect: Duration,
    /// Address of the client, if the question names one.
    pub(super) source: Option<IpAddr>,
    /// Length of the request's body, if the question names one.
    pub(super) body: Option<u64>,
    /// Time for which the request may wait behind others that are held for the same rule.
    pub(super) line: Option<Duration>,
    /// Rate that is spent, and for how long.
    pub(super) spent: Option<(SpentRate, Duration)>,
    /// Limit that keeps one more request of the rule from being held.
    pub(super) full: Option<Full>,
    /// Whether `max_open_requests` of the rule is reached, so that requests wait in line.
    pub(super) has_line: bool,
    /// Most connections of this node to each backend of the rule.
    pub(super) connections_max: Option<u32>,
    pub(super) held: u64,
    pub(super) backends: &'a [BackendView],
}

/// Limit on the rate of requests.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum SpentRate {
    /// `max_requests_per_second`.
    Rule(NonZeroU32),
    /// `max_requests_per_second_per_source`.
    Source(NonZeroU32),
}

/// Predicts the outcome of a request that matches `found` of the table.
pub(super) fn would(table: &Snapshot, found: &Match<'_>, now: &Situation<'_>) -> Would {
    let action = match found {
        Match::NoHosts => &Action::NoHosts,
        Match::Unknown => &Action::Unknown,
        Match::Found(found) => &found.rule.action,
    };
    let (access, overrides) = (table.access(action), table.overrides(action));
    let case = Case { now, overrides: overrides.as_deref() };
    let is_denied = |source| access.is_some_and(|access| !access.admits(source));
    if let Some(source) = now.source.filter(|source| is_denied(*source)) {
        let why = format!("allow and deny of its rule keep {source} out");
        return case.refused("denied", 403, &why);
    }
    let mut would = match action {
        Action::Spin(spin) => case.spun(spin),
        Action::Proxy(proxy) => case.proxied(proxy),
        other => case.replied(other, matches!(found, Match::Found(_))),
    };
    let mut note = |text: String| {
        would.sentence.push_str("; ");
        would.sentence.push_str(&text);
    };
    if let Action::Proxy(proxy) = action
        && let Some(rate) = proxy.max_requests_per_second_per_source()
        && now.source.is_none()
    {
        note(format!("max_requests_per_second_per_source = {rate} limits each client"));
    }
    if let Some(most) = case.max_body().filter(|_| now.body.is_none()) {
        note(format!("a body of more than {most} bytes gets 413"));
    }
    if access.is_some() && now.source.is_none() {
        note("allow and deny of its rule keep some clients out".to_owned());
    }
    would
}

/// A situation, and those arguments of the rule that override keys.
struct Case<'a> {
    now: &'a Situation<'a>,
    overrides: Option<&'a Overrides>,
}

impl Case<'_> {
    fn is_raw(&self) -> bool {
        matches!(self.now.scheme, Scheme::Tcp | Scheme::Tls)
    }

    /// Most bytes of a request body. `None` also for a raw connection, which has no body.
    fn max_body(&self) -> Option<u64> {
        self.overrides?.max_body().filter(|_| !self.is_raw())
    }

    /// Predicts a reply with a status, in place of the rule's action.
    fn refused(&self, outcome: &'static str, status: u16, why: &str) -> Would {
        let (name, pages) = (self.overrides.and_then(Overrides::pages), self.now.pages);
        let own = name.and_then(|name| {
            Some((format!("{name}.{status}"), pages.own_for_status(name, status)?))
        });
        let page = own.or_else(|| Some((status.to_string(), pages.for_status(status)?)));
        let gets = page.map_or_else(
            || format!("the status {status}"),
            |(name, page)| format!("the page {name} ({})", page.status()),
        );
        self.told(outcome, &gets, why)
    }

    /// Predicts the reply to a request that can't be held.
    fn not_held(&self, full: Full) -> Would {
        let (name, pages) = (self.overrides.and_then(Overrides::pages), self.now.pages);
        let own = name.and_then(|name| Some((format!("{name}.timeout"), pages.own_timeout(name)?)));
        let (name, page) = own.unwrap_or_else(|| ("timeout".to_owned(), pages.timeout()));
        let why = match full {
            Full::Rule { held, most } => {
                format!("{held} held, and max_held is {most}", held = requests(held))
            }
            Full::Total(most) => format!("{} held, and the key max_held is {most}", requests(most)),
            Full::Source(most) => {
                let source = self.now.source.map(|source| format!(" of {source}"));
                let (noun, verb) = if most == 1 { ("request", "is") } else { ("requests", "are") };
                let source = source.unwrap_or_default();
                format!("{most} {noun}{source} {verb} held, and max_held_per_source is {most}")
            }
        };
        self.told("replied", &format!("the page {name} ({})", page.status()), &why)
    }

    fn told(&self, outcome: &'static str, gets: &str, why: &str) -> Would {
        match self.is_raw() {
            true => Would::new("closed", format!("closed: {why}")),
            false => Would::new(outcome, format!("gets {gets}: {why}")),
        }
    }

    fn replied(&self, action: &Action, has_rule: bool) -> Would {
        let now = self.now;
        let why = match (action, has_rule) {
            (_, true) => format!("its rule is {}", action.as_str()),
            (Action::NoHosts, false) => "the table has no rules".to_owned(),
            (_, false) => {
                format!("no rule is for {}, nor for a parent of it with match_subdomains", now.host)
            }
        };
        if self.is_raw() {
            return Would::new("closed", format!("closed: {why}"));
        }
        let page = |name: &str, status: u16| format!("gets the page {name} ({status}): {why}");
        Would::new(
            "replied",
            match action {
                Action::Empty(empty) => format!("gets the status {} without a body", empty.code()),
                Action::Redirect(redirect) => {
                    format!("gets a redirect ({}) to {}", redirect.code(), redirect.to())
                }
                Action::Static(named) => match now.pages.get(named.page()) {
                    Some(found) => format!("gets the page {} ({})", named.page(), found.status()),
                    None => format!("gets the status 500: there is no page {}", named.page()),
                },
                Action::NoHosts => page("no-hosts", now.pages.no_hosts().status()),
                _ => page("unknown", now.unknown_status),
            },
        )
    }

    fn spun(&self, spin: &Spin) -> Would {
        let time = seconds(spin.timeout());
        self.too_large().unwrap_or_else(|| {
            self.held(format!("held for up to {time}, until it falls under another rule"))
        })
    }

    /// Predicts that a request is held, or the reply if it can't be.
    fn held(&self, sentence: String) -> Would {
        match self.now.full {
            Some(full) => self.not_held(full),
            None => Would::new("held", sentence),
        }
    }

    fn too_large(&self) -> Option<Would> {
        let most = self.max_body()?;
        self.now.body.filter(|body| most < *body)?;
        Some(self.refused("refused", 413, &format!("its body is larger than max_body = {most}")))
    }

    fn proxied(&self, proxy: &Proxy) -> Would {
        let now = self.now;
        if let Some(wait) = now.line {
            let (time, others) = (seconds(wait), requests(now.held));
            let sentence = format!("held for up to {time}, behind others: {others} held");
            return self.too_large().unwrap_or_else(|| self.held(sentence));
        }
        if let Some((rate, time)) = now.spent {
            let time = seconds(time);
            let why = match (rate, now.source) {
                (SpentRate::Source(rate), Some(source)) => format!(
                    "max_requests_per_second_per_source = {rate} is spent by {source} for {time}"
                ),
                (SpentRate::Source(rate) | SpentRate::Rule(rate), _) => {
                    format!("max_requests_per_second = {rate} is spent for {time}")
                }
            };
            return self.refused("limited", 429, &why);
        }
        if let Some(too_large) = self.too_large() {
            return too_large;
        }
        let patience = seconds(proxy.timeout_connect().unwrap_or(now.connect));
        if let Some(most) = proxy.max_open_requests().filter(|_| now.has_line) {
            let why = format!("as many requests of its rule are open (max_open_requests = {most})");
            return Would::new("queued", format!("waits up to {patience} in line: {why}"));
        }
        let with_address =
            now.backends.iter().filter(|backend| backend.weight != 0 && backend.address.is_some());
        let with_address: Vec<&BackendView> = with_address.collect();
        let usable =
            with_address.iter().filter(|backend| !backend.is_passed_over && !backend.is_own);
        let usable = first_of(usable.copied());
        let troubles: Vec<String> = now.backends.iter().filter_map(BackendView::trouble).collect();
        if usable.is_empty() {
            return self.without_backend(proxy, &with_address, &troubles);
        }
        let but =
            if troubles.is_empty() { String::new() } else { format!("; {}", some(&troubles)) };
        let to = targets(&usable, proxy);
        if let (Some(share), Some(max)) = (now.connections_max, proxy.max_connections())
            && usable.iter().all(|backend| u64::from(share) <= backend.open_requests)
        {
            let sentence =
                format!("waits up to {patience} in line (max_connections = {max}) at {to}{but}");
            return Would::new("queued", sentence);
        }
        Would::new("proxied", format!("passed on to {to}{but}"))
    }

    /// Predicts the outcome of a request if every backend is to be passed over.
    fn without_backend(
        &self,
        proxy: &Proxy,
        with_address: &[&BackendView],
        troubles: &[String],
    ) -> Would {
        let why = some(troubles);
        if proxy.is_drained() {
            return self.refused("failed", 503, &why);
        }
        let others = first_of(with_address.iter().filter(|backend| !backend.is_own).copied());
        let is_loop = others.is_empty() && !with_address.is_empty();
        if !proxy.hold().is_zero() && !is_loop {
            let time = seconds(proxy.hold());
            return self.held(format!("held for up to {time}, as no backend is usable: {why}"));
        }
        if !others.is_empty() {
            let to = targets(&others, proxy);
            let sentence = format!("passed on to {to} for want of another: {why}");
            return Would::new("proxied", sentence);
        }
        self.refused("failed", 502, &format!("no backend is usable: {why}"))
    }
}

/// Selects the backends of the rule's `backends` or, if there are none, those of `backup`.
fn first_of<'a>(all: impl Iterator<Item = &'a BackendView>) -> Vec<&'a BackendView> {
    let (backup, main): (Vec<_>, Vec<_>) = all.partition(|backend| backend.is_backup);
    if main.is_empty() { backup } else { main }
}

fn targets(backends: &[&BackendView], proxy: &Proxy) -> String {
    let shown: Vec<String> = backends.iter().map(|backend| backend.shown().to_owned()).collect();
    match &shown[..] {
        [one] => one.clone(),
        all => format!("one of {} ({})", some(all), proxy.algorithm_text()),
    }
}

/// Names the first of many, and says how many more there are.
fn some(all: &[String]) -> String {
    let most = limits::WOULD_NAMED_MAX;
    match all.len().checked_sub(most) {
        Some(more @ 1..) => format!("{} and {more} more", all[..most].join(", ")),
        _ => all.join(", "),
    }
}

fn requests(count: u64) -> String {
    if count == 1 { "1 request is".to_owned() } else { format!("{count} requests are") }
}

fn seconds(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => format!("{} s", time.as_secs_f64()),
    }
}
