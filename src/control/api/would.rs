//! Prediction for `GET /which/HOST`: what a request for a host would meet now, and why, in one word
//! and one sentence. The order of the questions is that of a shard (`shard::route`,
//! `shard::backend`).

use std::net::IpAddr;
use std::time::Duration;

use crate::http::Pages;
use crate::limits;
use crate::table::{Action, Match, Proxy, Scheme, Snapshot, Spin};

/// Fate of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Would {
    /// A word for programs: `proxied`, `queued`, `held`, `limited`, `denied`, `replied`,
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

/// A backend of a rule at one of its addresses, or a name that has none.
#[derive(Clone, Debug)]
pub(super) struct BackendView {
    /// The backend as the rule has it.
    pub(super) target: String,
    pub(super) address: Option<String>,
    /// Whether the backend is one of `backup`.
    pub(super) is_backup: bool,
    pub(super) weight: u16,
    pub(super) health: &'static str,
    pub(super) reason: Option<String>,
    /// Whether the address is one of this daemon itself.
    pub(super) is_own: bool,
    /// Whether requests of the rule pass over it while there is another.
    pub(super) is_passed_over: bool,
    pub(super) open_requests: u64,
}

impl BackendView {
    fn shown(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.target)
    }

    /// Reason why requests don't go there, if there is one.
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
    /// Status of the replies where no rule is for a host.
    pub(super) unknown_status: u16,
    /// The key `timeout_connect`.
    pub(super) connect: Duration,
    /// The client, where one was named.
    pub(super) source: Option<IpAddr>,
    /// How long the request may wait behind others that are held for the same rule.
    pub(super) line: Option<Duration>,
    /// How long the rate of the rule is spent for.
    pub(super) spent: Option<Duration>,
    pub(super) held: u64,
    pub(super) backends: &'a [BackendView],
}

impl Situation<'_> {
    fn is_raw(&self) -> bool {
        matches!(self.scheme, Scheme::Tcp | Scheme::Tls)
    }
}

/// Tells the fate of a request that falls under `found` of the table.
pub(super) fn would(table: &Snapshot, found: &Match<'_>, now: &Situation<'_>) -> Would {
    let action = match found {
        Match::NoHosts => &Action::NoHosts,
        Match::Unknown => &Action::Unknown,
        Match::Found(found) => &found.rule.action,
    };
    let access = table.access(action);
    let is_denied = |source| access.is_some_and(|access| !access.admits(source));
    if let Some(source) = now.source.filter(|source| is_denied(*source)) {
        let why = format!("allow and deny of its rule keep {source} out");
        return match now.is_raw() {
            true => Would::new("closed", format!("closed: {why}")),
            false => Would::new("denied", format!("gets the status 403: {why}")),
        };
    }
    let mut would = match action {
        Action::Spin(spin) => spun(spin, now),
        Action::Proxy(proxy) => proxied(proxy, now),
        other => replied(other, matches!(found, Match::Found(_)), now),
    };
    if let Action::Proxy(proxy) = action
        && let Some(rate) = proxy.max_requests_per_second_per_source()
    {
        let limit = format!("; max_requests_per_second_per_source = {rate} limits each client");
        would.sentence.push_str(&limit);
    }
    if access.is_some() && now.source.is_none() {
        would.sentence.push_str("; allow and deny of its rule keep some clients out");
    }
    would
}

fn replied(action: &Action, has_rule: bool, now: &Situation<'_>) -> Would {
    let why = match (action, has_rule) {
        (_, true) => format!("its rule is {}", action.as_str()),
        (Action::NoHosts, false) => "the table has no rules".to_owned(),
        (_, false) => {
            format!("no rule is for {}, nor for a parent of it with match_subdomains", now.host)
        }
    };
    if now.is_raw() {
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

fn spun(spin: &Spin, now: &Situation<'_>) -> Would {
    if let Some(max) = spin.max_held()
        && u64::from(max.get()) <= now.held
    {
        let status = now.pages.timeout().status();
        let why = format!("{} held, and max_held is {max}", requests(now.held));
        return match now.is_raw() {
            true => Would::new("closed", format!("closed: {why}")),
            false => Would::new("replied", format!("gets the page timeout ({status}): {why}")),
        };
    }
    let time = seconds(spin.timeout());
    Would::new("held", format!("held for up to {time}, until it falls under another rule"))
}

fn proxied(proxy: &Proxy, now: &Situation<'_>) -> Would {
    if let Some(wait) = now.line {
        let (time, others) = (seconds(wait), requests(now.held));
        return Would::new("held", format!("held for up to {time}, behind others: {others} held"));
    }
    if let (Some(rate), Some(spent)) = (proxy.max_requests_per_second(), now.spent) {
        let why = format!("max_requests_per_second = {rate} is spent for {}", seconds(spent));
        return match now.is_raw() {
            true => Would::new("closed", format!("closed: {why}")),
            false => Would::new("limited", format!("gets the status 429: {why}")),
        };
    }
    let with_address =
        now.backends.iter().filter(|backend| backend.weight != 0 && backend.address.is_some());
    let with_address: Vec<&BackendView> = with_address.collect();
    let usable = with_address.iter().filter(|backend| !backend.is_passed_over && !backend.is_own);
    let usable = first_of(usable.copied());
    let troubles: Vec<String> = now.backends.iter().filter_map(BackendView::trouble).collect();
    if usable.is_empty() {
        return without_backend(proxy, &with_address, &troubles, now);
    }
    let but = if troubles.is_empty() { String::new() } else { format!("; {}", some(&troubles)) };
    let to = targets(&usable, proxy);
    if let Some(max) = proxy.max_connections()
        && usable.iter().all(|backend| u64::from(max.get()) <= backend.open_requests)
    {
        let time = seconds(proxy.timeout_connect().unwrap_or(now.connect));
        let sentence =
            format!("waits up to {time} for a place (max_connections = {max}) at {to}{but}");
        return Would::new("queued", sentence);
    }
    Would::new("proxied", format!("passed on to {to}{but}"))
}

/// Tells the fate of a request where every backend is to be passed over.
fn without_backend(
    proxy: &Proxy,
    with_address: &[&BackendView],
    troubles: &[String],
    now: &Situation<'_>,
) -> Would {
    let why = some(troubles);
    if proxy.is_drained() {
        return match now.is_raw() {
            true => Would::new("closed", format!("closed: {why}")),
            false => Would::new("failed", format!("gets 503: {why}")),
        };
    }
    let others = first_of(with_address.iter().filter(|backend| !backend.is_own).copied());
    let is_loop = others.is_empty() && !with_address.is_empty();
    if !proxy.hold().is_zero() && !is_loop {
        let time = seconds(proxy.hold());
        return Would::new(
            "held",
            format!("held for up to {time}, as no backend is usable: {why}"),
        );
    }
    if !others.is_empty() {
        let to = targets(&others, proxy);
        return Would::new("proxied", format!("passed on to {to} for want of another: {why}"));
    }
    match now.is_raw() {
        true => Would::new("closed", format!("closed, as no backend is usable: {why}")),
        false => Would::new("failed", format!("gets 502, as no backend is usable: {why}")),
    }
}

/// The backends of `backends` among these; those of `backup` where there are none.
fn first_of<'a>(all: impl Iterator<Item = &'a BackendView>) -> Vec<&'a BackendView> {
    let (backup, main): (Vec<_>, Vec<_>) = all.partition(|backend| backend.is_backup);
    if main.is_empty() { backup } else { main }
}

fn targets(backends: &[&BackendView], proxy: &Proxy) -> String {
    let shown: Vec<String> = backends.iter().map(|backend| backend.shown().to_owned()).collect();
    match &shown[..] {
        [one] => one.clone(),
        all => format!("one of {} ({})", some(all), proxy.algorithm().as_str()),
    }
}

/// The first of many, and how many more there are.
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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;
    use crate::table::{Names, Rule, edit};

    static PAGES: LazyLock<Pages> = LazyLock::new(Pages::builtin);

    fn view(address: &str, health: &'static str) -> BackendView {
        let is_passed_over = matches!(health, "down" | "ejected");
        BackendView {
            target: address.to_owned(),
            address: Some(address.to_owned()),
            is_backup: false,
            weight: 1,
            health,
            reason: is_passed_over.then(|| "answered 500".to_owned()),
            is_own: false,
            is_passed_over,
            open_requests: 0,
        }
    }

    fn table(rule: Value) -> Snapshot {
        let rule = Rule::from_json("a.com", &rule, &mut Names::default()).expect("a rule");
        edit(&Snapshot::default(), vec![("a.com".to_owned(), Some(rule))]).expect("a table")
    }

    #[track_caller]
    fn expect<'a>(
        rule: Value,
        change: impl FnOnce(&mut Situation<'a>),
        outcome: &str,
        sentence: &str,
    ) {
        let mut now = Situation {
            host: "a.com",
            scheme: Scheme::Http,
            pages: &PAGES,
            unknown_status: 503,
            connect: Duration::from_secs(5),
            source: None,
            line: None,
            spent: None,
            held: 0,
            backends: &[],
        };
        change(&mut now);
        let table = table(rule);
        let found = would(&table, &table.lookup(now.host, now.scheme), &now);
        assert_eq!((found.outcome, &*found.sentence), (outcome, sentence));
    }

    #[test]
    fn rules_that_reply_say_what() {
        for (rule, sentence) in [
            (json!(["empty", {"code": 403}, false]), "gets the status 403 without a body"),
            (
                json!(["redirect", {"redirect_to": "b.com", "code": 301}, false]),
                "gets a redirect (301) to b.com",
            ),
            (json!(["static", {"type": "test"}, false]), "gets the page test (200)"),
            (
                json!(["static", {"type": "gone"}, false]),
                "gets the status 500: there is no page gone",
            ),
            (json!(["unknown", {}, false]), "gets the page unknown (503): its rule is unknown"),
        ] {
            expect(rule, |_| (), "replied", sentence);
        }
        let rule = json!(["empty", {"code": 403}, false]);
        expect(
            rule.clone(),
            |now| now.host = "x.b.com",
            "replied",
            "gets the page unknown (503): no rule is for x.b.com, nor for a parent of it with \
             match_subdomains",
        );
        expect(rule, |now| now.scheme = Scheme::Tcp, "closed", "closed: its rule is empty");
    }

    #[test]
    fn requests_that_wait_say_for_how_long() {
        let spin = json!(["spin", {"timeout": 30, "max_held": 2}, false]);
        let held = "held for up to 30 s, until it falls under another rule";
        expect(spin.clone(), |now| now.held = 1, "held", held);
        let full = "gets the page timeout (503): 2 requests are held, and max_held is 2";
        expect(spin, |now| now.held = 2, "replied", full);
        let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
        let behind = |now: &mut Situation<'static>| {
            (now.line, now.held) = (Some(Duration::from_secs(7)), 1);
        };
        let sentence = "held for up to 7 s, behind others: 1 request is held";
        expect(rule, behind, "held", sentence);
        let rule = json!(["proxy", {"backends": "10.0.0.1:1", "hold": 9}, false]);
        let down = [view("10.0.0.1:1", "down")];
        let sentence =
            "held for up to 9 s, as no backend is usable: 10.0.0.1:1 is down (answered 500)";
        expect(rule, |now| now.backends = &down, "held", sentence);
    }

    #[test]
    fn client_that_is_kept_out_is_denied() {
        let rule = || json!(["empty", {"code": 402, "deny": "10.0.0.0/8"}, false]);
        let from = |text: &str| text.parse::<IpAddr>().ok();
        let told = "gets the status 403: allow and deny of its rule keep 10.1.2.3 out";
        expect(rule(), |now| now.source = from("10.1.2.3"), "denied", told);
        let told = "gets the status 402 without a body";
        expect(rule(), |now| now.source = from("11.1.2.3"), "replied", told);
        let told = format!("{told}; allow and deny of its rule keep some clients out");
        expect(rule(), |_| (), "replied", &told);
    }

    #[test]
    fn rate_of_each_client_is_told() {
        let arguments = json!({"backends": "10.0.0.1:1", "max_requests_per_second_per_source": 3});
        let one = [view("10.0.0.1:1", "up")];
        let told = "passed on to 10.0.0.1:1; max_requests_per_second_per_source = 3 limits each \
                    client";
        expect(json!(["proxy", arguments, false]), |now| now.backends = &one, "proxied", told);
    }

    #[test]
    fn rate_that_is_spent_limits() {
        let arguments = json!({"backends": "10.0.0.1:1", "max_requests_per_second": 3});
        let spent = |now: &mut Situation<'static>| now.spent = Some(Duration::from_millis(250));
        let sentence = "gets the status 429: max_requests_per_second = 3 is spent for 250 ms";
        expect(json!(["proxy", arguments, false]), spent, "limited", sentence);
    }

    #[test]
    fn backends_that_get_the_request_are_named_and_the_others_explained() {
        let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
        let one = [view("10.0.0.1:1", "up")];
        expect(rule.clone(), |now| now.backends = &one, "proxied", "passed on to 10.0.0.1:1");
        let all = [
            view("10.0.0.1:1", "up"),
            view("10.0.0.2:1", "unknown"),
            view("10.0.0.3:1", "ejected"),
            BackendView { weight: 0, ..view("10.0.0.4:1", "up") },
        ];
        let sentence = "passed on to one of 10.0.0.1:1, 10.0.0.2:1 (random); 10.0.0.3:1 is ejected \
                        (answered 500), 10.0.0.4:1 is drained (weight 0)";
        expect(rule, |now| now.backends = &all, "proxied", sentence);
    }

    #[test]
    fn where_no_backend_is_well_they_are_tried_all_the_same() {
        let rule = || json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
        let down = [view("10.0.0.1:1", "down")];
        let sentence =
            "passed on to 10.0.0.1:1 for want of another: 10.0.0.1:1 is down (answered 500)";
        expect(rule(), |now| now.backends = &down, "proxied", sentence);
        let own = [BackendView { is_own: true, ..view("10.0.0.1:1", "up") }];
        let sentence = "gets 502, as no backend is usable: 10.0.0.1:1 is this daemon itself";
        expect(rule(), |now| now.backends = &own, "failed", sentence);
        let lost = [BackendView { address: None, ..view("app.internal:1", "unknown") }];
        let sentence = "gets 502, as no backend is usable: app.internal:1 has no address";
        expect(rule(), |now| now.backends = &lost, "failed", sentence);
        let closed = "closed, as no backend is usable: app.internal:1 has no address";
        expect(rule(), |now| (now.backends, now.scheme) = (&lost, Scheme::Tls), "closed", closed);
    }

    #[test]
    fn full_backends_are_waited_for() {
        let arguments = json!({"backends": "10.0.0.1:1", "max_connections": 4});
        let full = [BackendView { open_requests: 4, ..view("10.0.0.1:1", "up") }];
        let sentence = "waits up to 5 s for a place (max_connections = 4) at 10.0.0.1:1";
        expect(json!(["proxy", arguments, false]), |now| now.backends = &full, "queued", sentence);
    }

    #[test]
    fn of_many_a_few_are_named() {
        let rule = json!(["proxy", {"backends": "10.0.0.1:1"}, false]);
        let all: Vec<BackendView> = (1..=limits::WOULD_NAMED_MAX + 2)
            .map(|n| view(&format!("10.0.0.{n}:1"), "up"))
            .collect();
        let table = table(rule);
        let now = Situation {
            host: "a.com",
            scheme: Scheme::Http,
            pages: &PAGES,
            unknown_status: 503,
            connect: Duration::ZERO,
            source: None,
            line: None,
            spent: None,
            held: 0,
            backends: &all,
        };
        let found = would(&table, &table.lookup("a.com", Scheme::Http), &now);
        assert!(found.sentence.ends_with(" and 2 more (random)"), "{}", found.sentence);
    }
}
