//! Properties that hold for any input. Each takes bytes, so that the fuzzer's targets are one
//! line each; `cargo test` runs the same ones on random bytes, and on inputs of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Action, Empty, Match, Names, Rule, Scheme, Snapshot, edit, host};
use crate::limits::ALIAS_CHAIN_MAX;

/// Checks that a host in canonical form does not change any more, in whatever case it was spelt,
/// and can be the name of a rule.
pub fn host(bytes: &[u8]) {
    let mut room = [0; 256];
    if let Ok(once) = host::canonical(bytes, &mut room) {
        assert_eq!(host::canonical(once.as_bytes(), &mut [0; 256]), Ok(once));
        assert_eq!(host::canonical(&bytes.to_ascii_uppercase(), &mut [0; 256]), Ok(once));
        assert_eq!(host::rule_name(once).as_deref(), Ok(once));
        assert!(!once.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(once) = host::rule_name(text) {
        assert_eq!(host::rule_name(&once).as_ref(), Ok(&once));
        let (_, host) = host::split(&once);
        let as_request = host::canonical(host.as_bytes(), &mut [0; 256]).map(str::to_owned);
        assert_eq!(as_request.is_ok(), host != "*", "no request asks for the host *");
        assert!(as_request.is_err() || as_request.as_deref() == Ok(host), "{host}");
    }
}

/// Checks that a rule that is accepted is the same after it is written and read again.
pub fn rule(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    rule_value(&value);
}

/// Checks the same as [`rule`], for JSON that is parsed already.
pub fn rule_value(value: &Value) {
    let mut names = Names::default();
    match Rule::from_json("a.com", value, &mut names) {
        Ok(rule) => {
            let written = rule.to_json();
            let again = Rule::from_json("a.com", &written, &mut names);
            assert_eq!(again.as_ref(), Ok(&rule), "{written}");
            assert_eq!(again.map(|rule| rule.to_json()), Ok(written));
        }
        Err(error) => {
            assert!(!error.code().is_empty() && !error.sentence().is_empty());
            assert!(error.to_string().len() < 2000, "bounded, whatever was sent");
        }
    }
}

/// Checks that edits and lookups agree with a plain map and a naive walk.
pub fn edits(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut table = Snapshot::default();
    let mut model = Model::default();
    while let Some(count) = choices.below(6) {
        let changes: Vec<_> = (0..count).map_while(|_| choices.change()).collect();
        let (before, model_before) = (table.clone(), model.clone());
        match (edit(&table, changes.clone()), model.edit(&changes)) {
            (Ok(new), true) => table = new,
            (Err(_), false) => model = model_before.clone(),
            (got, model) => panic!("{got:?}, but the model says {model} to {changes:?}"),
        }
        model.check(&table);
        model_before.check(&before);
    }
    for _ in 0..20 {
        let Some(name) = choices.host() else { return };
        for scheme in [Scheme::Http, Scheme::Https] {
            let got = match table.lookup(&name, scheme) {
                Match::NoHosts => Err(true),
                Match::Unknown => Err(false),
                Match::Found(found) => Ok((found.name().to_owned(), found.rule.clone())),
            };
            assert_eq!(got, model.lookup(&name, scheme), "{name}");
        }
    }
}

/// The bytes of a fuzzer, read as decisions.
pub(crate) struct Choices<'b>(pub(crate) &'b [u8]);

impl Choices<'_> {
    pub(crate) fn below(&mut self, limit: u8) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first % limit)
    }

    /// A host made of few different labels, so that hosts meet.
    fn host(&mut self) -> Option<String> {
        let labels = 1 + self.below(4)?;
        let labels: Option<Vec<_>> =
            (0..labels).map(|_| Some(["a", "b", "xy"][usize::from(self.below(3)?)])).collect();
        Some(labels?.join("."))
    }

    /// The host of a rule's name, now and then `*`.
    fn rule_host(&mut self) -> Option<String> {
        match self.below(12)? {
            0 => Some("*".to_owned()),
            _ => self.host(),
        }
    }

    pub(crate) fn name(&mut self) -> Option<String> {
        let prefix = ["", "", "http://", "https://"][usize::from(self.below(4)?)];
        Some(format!("{prefix}{}", self.rule_host()?))
    }

    pub(crate) fn change(&mut self) -> Option<(String, Option<Rule>)> {
        let action = self.below(8)?;
        let name = self.name()?;
        let action = match action {
            0..=1 => return Some((name, None)),
            2..=4 => Action::Empty(Empty::new(200 + u16::from(self.below(255)?))),
            _ => Action::Alias(self.name()?.into()),
        };
        Some((name, Some(Rule { action, match_subdomains: self.below(2)? == 1 })))
    }
}

/// The table, written without any thought for speed.
#[derive(Clone, Default)]
struct Model(BTreeMap<String, Rule>);

impl Model {
    /// Makes an edit. Returns whether the edit is valid; if not, the model can't be used any more.
    fn edit(&mut self, changes: &[(String, Option<Rule>)]) -> bool {
        for (name, rule) in changes {
            match rule {
                Some(rule) => _ = self.0.insert(name.clone(), rule.clone()),
                None => _ = self.0.remove(name),
            }
        }
        self.0.values().all(|rule| self.follow(rule).is_some())
    }

    fn follow<'m>(&'m self, mut rule: &'m Rule) -> Option<&'m Rule> {
        for _ in 0..=ALIAS_CHAIN_MAX {
            match &rule.action {
                Action::Alias(target) => rule = self.0.get(&**target)?,
                _ => return Some(rule),
            }
        }
        None
    }

    fn check(&self, table: &Snapshot) {
        let mut all: Vec<_> = table.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let expected: Vec<_> = self.0.iter().map(|(name, rule)| (name.as_str(), rule)).collect();
        assert_eq!(all, expected);
        assert_eq!(table.len(), self.0.len());
        for (name, rule) in &self.0 {
            assert_eq!(table.get(name), Some(rule));
        }
    }

    fn lookup(&self, host: &str, scheme: Scheme) -> Result<(String, Rule), bool> {
        let scheme = if scheme == Scheme::Http { "http" } else { "https" };
        let labels: Vec<_> = host.split('.').collect();
        let parents = (0..labels.len()).map(|level| (labels[level..].join("."), level == 0));
        for (parent, is_exact) in parents.chain([("*".to_owned(), true)]) {
            for name in [format!("{scheme}://{parent}"), parent] {
                if let Some(rule) = self.0.get(&name)
                    && (is_exact || rule.match_subdomains)
                {
                    let rule = self.follow(rule).expect("edit checked it");
                    return Ok((name, rule.clone()));
                }
            }
        }
        Err(self.0.is_empty())
    }
}

/// Rules that have each argument in every form that it may have. The tests start from them.
pub fn sample_rules() -> Vec<Value> {
    let backends = [
        json!([["10.0.0.1", 80]]),
        json!([["10.0.0.1", "80"], ["::1", 81], ["[::2]", 82], ["App.Internal.", 83]]),
        json!(["10.0.0.1:80", "[::1]:81", "app.internal:82", "bücher.example:83"]),
        json!([{"__backend__": ["10.0.0.1", 80]}, {"__backend__": ["localhost", "81"]}]),
        json!("10.0.0.1:80, localhost:81"),
        json!(["unix:/run/a.sock", "unix:@a", ["10.0.0.1", 80]]),
        json!("unix:/run/a.sock,localhost:81"),
    ];
    let mut rules: Vec<Value> =
        backends.iter().map(|backends| json!(["proxy", {"backends": backends}, true])).collect();
    for (name, values) in [
        ("attempts", json!([1, "3", 2.0, 1000])),
        ("delay", json!([0, "1", 0.25, "0.000001", 2_678_400])),
        ("algorithm", json!(["random", "round_robin", "least_connections", "source"])),
        ("weights", json!(["1,2", [0, "65535"], [1, 1]])),
        ("healthcheck", json!([true, false, "true", "False"])),
        ("max_connections", json!([1, "100", 4_294_967_295_u32])),
        ("check", json!(["tcp", "/", "/health?x=1"])),
        ("max_requests_per_second", json!([1, "50"])),
        ("max_requests_per_second_per_source", json!([1, "50"])),
        ("hold", json!([0, 30, "2.5"])),
        ("idle", json!([300, "300"])),
        ("wake", json!(["http://scaler:9000/"])),
        ("send_proxy", json!(["v1", "v2"])),
        ("keep_alive", json!([true, false, "false"])),
        ("timeout_connect", json!([1, "0.001"])),
        ("timeout_server", json!([300, "2678400"])),
        ("timeout_tunnel", json!([86_400, 0.5])),
        ("host", json!(["backend", "App.Example.", "app.example:8080", "[::1]", "[::1]:80"])),
        ("set_request", json!([{}, {"X-A": "b", "Accept-Encoding": null}, "{\"X-A\":\"b\"}"])),
        ("set_response", json!([{"Server": null, "X-Frame-Options": "DENY"}, {"X-A": ""}])),
        ("pages", json!(["shop", "a.b-c_d"])),
        ("max_body", json!([1, "1048576", 9_007_199_254_740_991_u64])),
        (
            "allow",
            json!([["10.0.0.0/8", "2001:DB8::/32", "::1"], "192.0.2.1, ::ffff:10.0.0.0/104"]),
        ),
        ("deny", json!([["0.0.0.0/0"], "10.0.0.1"])),
    ] {
        for value in values.as_array().into_iter().flatten() {
            let mut rule = json!(["proxy", {"backends": "a:1,b:2"}, false]);
            rule[1][name] = value.clone();
            rules.push(rule);
        }
    }
    rules.extend([
        json!(["spin", {}, true]),
        json!(["spin", {"timeout": "60", "check_interval": 1}, true]),
        json!(["spin", {"timeout": 0.5, "max_held": 10, "release_rate": "100",
            "wake": "http://scaler:9000/wake?app=1", "idle": 300}, true]),
        json!(["spin", {"then": ["proxy", {"backends": "a:1,[::1]:2", "hold": 5}, false]}, true]),
        json!(["spin", {"max_body": "1000", "pages": "shop"}, true]),
        json!(["spin", {"then": ["redirect", {"redirect_to": "example.net"}, true]}, true]),
        json!(["redirect", {"redirect_to": "example.net"}, true]),
        json!(["redirect", {"redirect_to": "a.b", "set_response": {"X-A": "b"}, "pages": "c"}, true]),
        json!(["static", {"type": "test", "pages": "c", "deny": "::1"}, true]),
        json!(["empty", {"code": 401, "set_response": {"WWW-Authenticate": "Basic"}}, true]),
        json!(["redirect", {"redirect_to": "https://example.net/x/", "code": "301"}, true]),
        json!(["static", {"type": "test"}, true]),
        json!(["static", {"type": "down-for_work.v2"}, false]),
        json!(["empty", {"code": "403"}, true]),
        json!(["empty", {"code": 597}, true]),
        json!(["empty", {"code": 204, "allow": "127.0.0.1", "deny": ["127.0.0.0/8"]}, true]),
        json!(["static", {"type": "test", "deny": "::/0"}, true]),
        json!(["redirect", {"redirect_to": "example.net", "allow": ["::1"]}, true]),
        json!(["spin", {"allow": ["192.0.2.0/24"]}, true]),
        json!(["alias", {"hostname": "http://Bücher.example."}, true]),
        json!(["unknown", {}, true]),
        json!(["no_hosts", {}, false]),
    ]);
    rules
}
