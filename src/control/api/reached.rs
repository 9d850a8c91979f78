//! Rules with a backend that their requests pass over.

use crate::link::{Down, KeySet};
use crate::table::{Action, Rule, Snapshot};

/// Keys of the rules with a backend that is down or ejected, and of the aliases of such rules. For
/// a rule that spins, the backends of its `then` count.
pub(super) fn with_backend_down(down: &Down, table: &Snapshot) -> KeySet {
    let mut found = KeySet::default();
    if down.is_empty() {
        return found;
    }
    let keyed = table.iter().map(|(name, rule)| (table.key(name), rule));
    found.extend(keyed.filter(|(key, rule)| passes_one_over(down, *key, rule)).map(|(key, _)| key));
    if table.has_aliases() {
        let aliases = table.iter().filter(|(_, rule)| matches!(rule.action, Action::Alias(_)));
        let leads_there =
            |name: &&str| table.target_of(name).is_some_and(|target| found.contains(&target));
        let aliases: Vec<u64> =
            aliases.map(|(name, _)| name).filter(leads_there).map(|name| table.key(name)).collect();
        found.extend(aliases);
    }
    found
}

fn passes_one_over(down: &Down, key: u64, rule: &Rule) -> bool {
    let proxy = match &rule.action {
        Action::Proxy(proxy) => proxy,
        Action::Spin(spin) => {
            return spin.then().is_some_and(|then| passes_one_over(down, key, then));
        }
        _ => return false,
    };
    let check = proxy.check().map(|check| check.id());
    let mut is_any = false;
    rule.each_address(|address| {
        let is_ejected = || down.is_ejected(address) || down.is_ejected_for(address, key);
        is_any |= (proxy.healthcheck() && is_ejected())
            || check.is_some_and(|check| down.is_failing(address, check));
    });
    is_any
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::json;

    use super::*;
    use crate::address::Address;
    use crate::link::Ejected;
    use crate::table::{Names, edit};

    #[test]
    fn rule_goes_by_failed_requests_and_by_its_own_check() {
        let mut names = Names::default();
        let proxy = |port: u16, more: serde_json::Value| {
            let mut given = json!({"backends": [["10.0.0.1", 1], ["10.0.0.1", port]]});
            given.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap());
            json!(["proxy", given, false])
        };
        let rules = [
            ("well.com", proxy(2, json!({}))),
            ("ejected.com", proxy(7, json!({}))),
            ("deaf.com", proxy(7, json!({"healthcheck": false}))),
            ("checked.com", proxy(8, json!({"check": "/a"}))),
            ("other-check.com", proxy(8, json!({"check": "/b"}))),
            ("backup.com", proxy(2, json!({"backup": [["10.0.0.1", 7]]}))),
            ("spins.com", json!(["spin", {"then": proxy(7, json!({}))}, false])),
            ("alias.com", json!(["alias", {"hostname": "chain.com"}, false])),
            ("chain.com", json!(["alias", {"hostname": "ejected.com"}, false])),
            ("other.com", json!(["alias", {"hostname": "well.com"}, false])),
            ("silent.com", proxy(9, json!({}))),
            ("not-silent.com", proxy(9, json!({}))),
            ("empty.com", json!(["empty", {"code": 403}, false])),
        ];
        let rules = rules.map(|(name, rule)| {
            let rule = Rule::from_json(name, &rule, &mut names).expect("a rule");
            (name.to_owned(), Some(rule))
        });
        let table = edit(&Snapshot::default(), rules.to_vec()).expect("a table");
        let down = Down::default();
        assert!(with_backend_down(&down, &table).is_empty());
        let address = |port: u16| Address::from(SocketAddr::from(([10, 0, 0, 1], port)));
        let check = table.get("checked.com").and_then(Rule::check_id).expect("a check");
        let ejected = [(7, None), (9, Some(table.key("silent.com")))];
        let ejected = ejected.map(|(port, rule)| Ejected { backend: address(port), rule });
        down.publish(ejected.into_iter(), [(address(8), check)].into_iter());
        let found = with_backend_down(&down, &table);
        let mut found: Vec<_> = found.iter().filter_map(|key| table.name_of(*key)).collect();
        found.sort_unstable();
        let expected = [
            "alias.com",
            "backup.com",
            "chain.com",
            "checked.com",
            "ejected.com",
            "silent.com",
            "spins.com",
        ];
        assert_eq!(found, expected);
    }
}
