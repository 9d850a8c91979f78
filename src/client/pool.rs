//! Changes of the backends of a rule together with their weights. In a rule that holds requests,
//! the rule from before is changed: a flip must not bring back a backend that was removed
//! meanwhile.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::print;

/// Change of one backend.
#[derive(Clone, Debug)]
pub enum PoolChange {
    /// Adds a backend with this weight. A backend that is there already gets the weight, if one is
    /// given. A backend of `backup` is moved to `backends`.
    Add { backend: Value, weight: Option<u16> },
    /// Adds a backend to `backup`. It is removed from `backends`, which must have another one.
    AddBackup { backend: Value },
    /// Removes a backend. `backends` must have another one.
    Remove { address: String },
    /// Puts another backend in the place of one, with its weight.
    Move { old: String, new: Value },
    /// Gives a backend no more requests.
    Drain { address: String },
    /// Gives a backend requests again.
    Undrain { address: String },
}

/// Effect of a change on a rule.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// The rule becomes this one.
    Changed(Value),
    /// The rule is already as the change would make it.
    Unchanged,
    /// The rule does not have the backend.
    Absent,
    /// The backend is the only one.
    Last,
    /// The rule has no backends.
    NoProxy,
}

/// Applies a change to a rule.
pub fn apply(rule: &Value, change: &PoolChange) -> Effect {
    let mut rule = rule.clone();
    let Some(arguments) = proxy_of(&mut rule) else { return Effect::NoProxy };
    let before = Pool::read(arguments);
    let after = match before.after(change) {
        Ok(after) => after,
        Err(effect) => return effect,
    };
    if after == before {
        return Effect::Unchanged;
    }
    after.write(arguments);
    Effect::Changed(rule)
}

/// Share of a backend in the requests of a rule.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Share {
    /// The weight among `backends`.
    Weight(u64),
    /// The backend is one of `backup`.
    Backup,
}

/// The backends of a rule, or of the rule that will stand after a flip.
pub fn members(rule: &Value) -> Vec<(String, Share)> {
    let mut rule = rule.clone();
    let Some(arguments) = proxy_of(&mut rule) else { return Vec::new() };
    let Pool { backends, backup } = Pool::read(arguments);
    let weighed = backends.into_iter().map(|(backend, weight)| (backend, Share::Weight(weight)));
    let spare = backup.into_iter().map(|backend| (backend, Share::Backup));
    weighed.chain(spare).map(|(backend, share)| (print::backend(&backend), share)).collect()
}

/// The arguments of the proxy that a rule is, or keeps for a flip.
fn proxy_of(rule: &mut Value) -> Option<&mut Map<String, Value>> {
    let rule = if rule[0] == "spin" { rule.get_mut(1)?.get_mut("then")? } else { rule };
    if rule[0] != "proxy" {
        return None;
    }
    rule.get_mut(1)?.as_object_mut()
}

/// Backends, each with its weight, and those of `backup`.
#[derive(Clone, PartialEq, Debug)]
struct Pool {
    backends: Vec<(Value, u64)>,
    backup: Vec<Value>,
}

impl Pool {
    fn read(arguments: &Map<String, Value>) -> Pool {
        let list = |name: &str| arguments.get(name).and_then(Value::as_array);
        let weights = list("weights");
        let weight = |at: usize| weights.and_then(|all| all.get(at)).and_then(Value::as_u64);
        let backends = list("backends").into_iter().flatten().cloned().enumerate();
        Pool {
            backends: backends.map(|(at, backend)| (backend, weight(at).unwrap_or(1))).collect(),
            backup: list("backup").cloned().unwrap_or_default(),
        }
    }

    fn write(self, arguments: &mut Map<String, Value>) {
        let is_plain = self.backends.iter().all(|(_, weight)| *weight == 1);
        let (backends, weights): (Vec<Value>, Vec<u64>) = self.backends.into_iter().unzip();
        arguments.insert("backends".to_owned(), json!(backends));
        match is_plain {
            true => _ = arguments.shift_remove("weights"),
            false => _ = arguments.insert("weights".to_owned(), json!(weights)),
        }
        match self.backup.is_empty() {
            true => _ = arguments.shift_remove("backup"),
            false => _ = arguments.insert("backup".to_owned(), json!(self.backup)),
        }
    }

    fn has(&self, address: &str) -> bool {
        self.backends.iter().any(|(backend, _)| is_same(backend, address))
    }

    fn has_spare(&self, address: &str) -> bool {
        self.backup.iter().any(|backend| is_same(backend, address))
    }

    /// The pool after a change, or why there is none.
    fn after(&self, change: &PoolChange) -> Result<Pool, Effect> {
        let mut after = self.clone();
        let old = match change {
            PoolChange::Add { backend, weight } => {
                let address = print::backend(backend);
                after.backup.retain(|backend| !is_same(backend, &address));
                match (self.has(&address), weight) {
                    (false, weight) => {
                        let weight = u64::from(weight.unwrap_or(1));
                        after.backends.push((backend.clone(), weight));
                    }
                    (true, Some(weight)) => after.weigh(&address, |_| u64::from(*weight)),
                    (true, None) => {}
                }
                return Ok(after);
            }
            PoolChange::AddBackup { backend } => {
                let address = print::backend(backend);
                after.remove(&address)?;
                if !self.has_spare(&address) {
                    after.backup.push(backend.clone());
                }
                return Ok(after);
            }
            PoolChange::Remove { address } => {
                after.remove(address)?;
                after.backup.retain(|backend| !is_same(backend, address));
                address
            }
            PoolChange::Move { old, new } => {
                after.put_in_place(old, new);
                old
            }
            PoolChange::Drain { address } => {
                after.weigh(address, |_| 0);
                // A backend of `backup` has no weight, so it is removed.
                after.backup.retain(|backend| !is_same(backend, address));
                address
            }
            PoolChange::Undrain { address } => {
                after.weigh(address, |weight| weight.max(1));
                address
            }
        };
        if self.has(old) || self.has_spare(old) { Ok(after) } else { Err(Effect::Absent) }
    }

    /// Takes a backend out of `backends`, which must have another.
    fn remove(&mut self, address: &str) -> Result<(), Effect> {
        self.backends.retain(|(backend, _)| !is_same(backend, address));
        if self.backends.is_empty() { Err(Effect::Last) } else { Ok(()) }
    }

    /// Puts a backend in the place of another. If the new one is there already, the old one is only
    /// removed.
    fn put_in_place(&mut self, old: &str, new: &Value) {
        let address = print::backend(new);
        let is_old = |backend: &Value| is_same(backend, old);
        if self.has(&address) {
            self.backends.retain(|(backend, _)| !is_old(backend));
        }
        if self.has_spare(&address) {
            self.backup.retain(|backend| !is_old(backend));
        }
        let all = self.backends.iter_mut().map(|(backend, _)| backend).chain(&mut self.backup);
        all.filter(|backend| is_old(backend)).for_each(|backend| *backend = new.clone());
    }

    fn weigh(&mut self, address: &str, weight: impl Fn(u64) -> u64) {
        let found = self.backends.iter_mut().filter(|(backend, _)| is_same(backend, address));
        found.for_each(|(_, old)| *old = weight(*old));
    }
}

fn is_same(backend: &Value, address: &str) -> bool {
    normal(&print::backend(backend)) == normal(address)
}

/// Reads a backend. The error says what was expected.
pub fn backend(text: &str) -> Result<Value, String> {
    // A Unix socket. The daemon checks its path.
    if text.starts_with("unix:") {
        return Ok(json!(text));
    }
    let read = || -> Option<(&str, u16)> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // Where an address without brackets ends and its port begins can only be guessed.
        let is_host = !host.is_empty() && !host.contains([':', '[', ']']);
        let host = bare.or(is_host.then_some(host))?;
        Some((host, port.parse().ok().filter(|port| *port != 0)?))
    };
    let (host, port) = read().ok_or_else(|| {
        format!(
            "{text:?} is not a backend: expected host:port, such as 127.0.0.1:8000, \
             app.internal:8000, [::1]:8000 or unix:/run/app.sock"
        )
    })?;
    Ok(json!([host, port]))
}

/// One spelling of an address: IPv6 in its shortest form, names in lower case and without a last
/// dot. A path stays as it is.
pub fn normal(address: &str) -> String {
    if address.starts_with("unix:") {
        return address.to_owned();
    }
    let lower = address.to_ascii_lowercase();
    if let Ok(address) = lower.parse::<SocketAddr>() {
        return address.to_string();
    }
    match lower.rsplit_once(':') {
        Some((host, port)) => format!("{}:{port}", host.strip_suffix('.').unwrap_or(host)),
        None => lower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(backends: Value, weights: Option<Value>) -> Value {
        let mut arguments = json!({ "backends": backends, "attempts": 2 });
        if let Some(weights) = weights {
            arguments["weights"] = weights;
        }
        json!(["proxy", arguments, true])
    }

    fn address(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn weights_stay_with_their_backends() {
        let three = || json!([["10.0.0.1", 1], ["app", 2], ["::1", 3]]);
        let given = rule(three(), Some(json!([5, 6, 7])));
        let changed = |change| match apply(&given, &change) {
            Effect::Changed(rule) => (rule[1]["backends"].clone(), rule[1]["weights"].clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            changed(PoolChange::Remove { address: address("APP.:2") }),
            (json!([["10.0.0.1", 1], ["::1", 3]]), json!([5, 7]))
        );
        assert_eq!(
            changed(PoolChange::Add { backend: json!(["b", 4]), weight: None }),
            (json!([["10.0.0.1", 1], ["app", 2], ["::1", 3], ["b", 4]]), json!([5, 6, 7, 1]))
        );
        assert_eq!(
            changed(PoolChange::Move { old: address("[0:0::1]:3"), new: json!(["b", 4]) }),
            (json!([["10.0.0.1", 1], ["app", 2], ["b", 4]]), json!([5, 6, 7]))
        );
        // if the other backend is there already, it keeps its weight
        assert_eq!(
            changed(PoolChange::Move { old: address("[::1]:3"), new: json!(["app", 2]) }),
            (json!([["10.0.0.1", 1], ["app", 2]]), json!([5, 6]))
        );
        assert_eq!(
            changed(PoolChange::Drain { address: address("10.0.0.1:1") }),
            (three(), json!([0, 6, 7]))
        );
    }

    #[test]
    fn weights_are_written_where_one_differs() {
        let two = || json!([["a", 1], ["b", 2]]);
        let plain = rule(two(), None);
        let Effect::Changed(drained) =
            apply(&plain, &PoolChange::Drain { address: address("a:1") })
        else {
            panic!("not changed");
        };
        assert_eq!(drained, rule(two(), Some(json!([0, 1]))));
        let back = apply(&drained, &PoolChange::Undrain { address: address("a:1") });
        assert_eq!(back, Effect::Changed(plain));
    }

    #[test]
    fn changes_without_effect_say_why() {
        let one = rule(json!([["a", 1]]), None);
        let gone = || address("b:1");
        for (change, effect) in [
            (PoolChange::Remove { address: address("a:1") }, Effect::Last),
            (PoolChange::Remove { address: gone() }, Effect::Absent),
            (PoolChange::Move { old: gone(), new: json!(["a", 1]) }, Effect::Absent),
            (PoolChange::Drain { address: gone() }, Effect::Absent),
            (PoolChange::Undrain { address: address("a:1") }, Effect::Unchanged),
            (PoolChange::Add { backend: json!(["A", 1]), weight: None }, Effect::Unchanged),
            (PoolChange::Add { backend: json!(["a", 1]), weight: Some(1) }, Effect::Unchanged),
        ] {
            assert_eq!(apply(&one, &change), effect, "{change:?}");
        }
        for other in [json!(["empty", {"code": 404}, true]), json!(["spin", {}, true])] {
            assert_eq!(apply(&other, &PoolChange::Drain { address: gone() }), Effect::NoProxy);
        }
    }

    #[test]
    fn rule_that_stands_again_after_a_flip_is_changed() {
        let then = |backend: &str| rule(json!([[backend, 1]]), None);
        let held = |then: Value| json!(["spin", {"then": then, "timeout": 3}, true]);
        let change = PoolChange::Move { old: address("a:1"), new: json!(["b", 1]) };
        assert_eq!(apply(&held(then("a")), &change), Effect::Changed(held(then("b"))));
        assert_eq!(members(&held(then("a"))), [("a:1".to_owned(), Share::Weight(1))]);
    }

    #[test]
    fn spare_backends_are_changed_as_well() {
        let spare = |backends: Value, backup: Value| json!(["proxy", {"backends": backends, "backup": backup}, true]);
        let given = spare(json!([["a", 1]]), json!([["b", 1], ["c", 1]]));
        let changed = |change: PoolChange| apply(&given, &change);
        let moved = spare(json!([["a", 1]]), json!([["d", 1], ["c", 1]]));
        assert_eq!(
            changed(PoolChange::Move { old: address("b:1"), new: json!(["d", 1]) }),
            Effect::Changed(moved)
        );
        let left = spare(json!([["a", 1]]), json!([["c", 1]]));
        for change in [
            PoolChange::Remove { address: address("b:1") },
            PoolChange::Drain { address: address("b:1") },
        ] {
            assert_eq!(changed(change), Effect::Changed(left.clone()));
        }
        assert_eq!(changed(PoolChange::Remove { address: address("a:1") }), Effect::Last);
        let last = spare(json!([["a", 1]]), json!([["c", 1]]));
        assert_eq!(
            apply(&last, &PoolChange::Remove { address: address("c:1") }),
            Effect::Changed(json!(["proxy", {"backends": [["a", 1]]}, true]))
        );
        let shares: Vec<Share> = members(&given).into_iter().map(|(_, share)| share).collect();
        assert_eq!(shares, [Share::Weight(1), Share::Backup, Share::Backup]);
    }

    #[test]
    fn addresses_have_one_spelling() {
        for (given, expected) in [
            ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
            ("App.Internal.:80", "app.internal:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("unix:/run/App.sock", "unix:/run/App.sock"),
        ] {
            assert_eq!(normal(given), expected);
        }
    }
}
