//! Plans of probes, at times that the tests choose.

use serde_json::json;

use super::super::standing::Known;
use super::*;
use crate::table::Names;

const WELL: Finding = Finding::Answered { status: 200, is_expected: true };
const BAD: Finding = Finding::Answered { status: 500, is_expected: false };
const TIMED_OUT: Finding = Finding::TimedOut(limits::PROBE_TIME);
/// Pauses of a check with defaults.
const EVERY: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(500);
const DOWN: Duration = Duration::from_secs(1);

/// A table with the rules that tests name.
fn table() -> Snapshot {
    let rule = |name: &str| {
        let rule = json!(["empty", { "code": 404 }, false]);
        let rule = Rule::from_json(name, &rule, &mut Names::default()).expect("a rule");
        (name.to_owned(), Some(rule))
    };
    let rules = ["a", "one", "two"].map(rule);
    crate::table::edit(&Snapshot::default(), rules.into()).expect("a table")
}

fn of_all(backend: &str) -> Ejected {
    Ejected { backend: address(backend), rule: None }
}

fn of_rule(backend: &str, rule: &str) -> Ejected {
    Ejected { rule: Some(table().key(rule)), ..of_all(backend) }
}

/// A watch with its clock.
struct Scene {
    watch: Watch,
    names: Names,
    now: Now,
}

impl Scene {
    fn new() -> Scene {
        let now = Now { at: Instant::now(), date: SystemTime::UNIX_EPOCH };
        Scene { watch: Watch::default(), names: Names::default(), now }
    }

    fn pass(&mut self, time: Duration) {
        self.now.at += time;
        self.now.date += time;
    }

    fn rule(&mut self, backends: &[&str], check: &str) -> Rule {
        self.rule_of("a", backends, check)
    }

    fn rule_of(&mut self, name: &str, backends: &[&str], check: &str) -> Rule {
        let mut arguments = json!({ "backends": backends });
        if !check.is_empty() {
            arguments["check"] = json!(check);
        }
        let rule = Rule::from_json(name, &json!(["proxy", arguments, true]), &mut self.names);
        rule.expect("a rule")
    }

    fn change(&mut self, old: Option<&Rule>, new: Option<&Rule>) {
        self.change_of("a", old, new);
    }

    fn change_of(&mut self, name: &str, old: Option<&Rule>, new: Option<&Rule>) {
        self.watch.came(name, old, new, self.now);
        self.watch.went(name, old, new, self.now);
    }

    /// The probes that are begun now, by address.
    fn begin(&mut self) -> Vec<(u64, String, Probe)> {
        self.watch.follow_names(self.now);
        let mut begun = Vec::new();
        while let Some((id, address, probe)) = self.watch.next(self.now.at) {
            begun.push((id, address.to_string(), probe));
        }
        begun.sort_by(|a, b| a.1.cmp(&b.1));
        begun
    }

    /// The addresses that are probed now; each probe finds `found`.
    fn probe(&mut self, found: Finding) -> Vec<String> {
        let begun = self.begin();
        begun.iter().for_each(|(id, ..)| self.watch.ended(*id, found, self.now, 100));
        begun.into_iter().map(|(_, address, _)| address).collect()
    }

    fn fail(&mut self, backend: &str) {
        self.fail_as(of_all(backend), Failure::Unreachable(None));
    }

    fn fail_as(&mut self, ejected: Ejected, how: Failure) {
        self.watch.failed(ejected, how, &table(), self.now);
    }

    /// Changes that were told since the last call.
    fn told(&mut self) -> Vec<String> {
        let changes = self.watch.take_changes().into_iter();
        changes.map(|change| format!("{} {}", change.backend, change.state.as_str())).collect()
    }

    /// Backends that are down for all rules.
    fn down(&self) -> Vec<String> {
        let down = self.watch.down().into_iter();
        let mut down: Vec<String> = down.map(|backend| backend.to_string()).collect();
        down.sort();
        down
    }

    /// Rules and the backends at which their checks fail.
    fn failing(&self) -> Vec<String> {
        let failing = self.watch.failing_rules(100, None).into_iter();
        failing.map(|(rule, backend)| format!("{rule} {backend}")).collect()
    }

    fn is_idle(&self) -> bool {
        let watch = &self.watch;
        watch.due(self.now.at).is_none()
            && watch.checked.is_empty()
            && watch.planned.is_empty()
            && watch.targets.is_empty()
            && watch.counts.is_empty()
            && watch.failing.is_empty()
            && watch.ejected.is_empty()
    }
}

fn rule_check(rule: &Rule) -> Arc<Check> {
    checks(Some(rule)).next().expect("a check").0.clone()
}

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

fn ip(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn without_a_check_there_is_nothing_to_do() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["10.0.0.1:80", "app.internal:80"], "");
    scene.change(None, Some(&rule));
    assert!(scene.is_idle());
    scene.change(Some(&rule), None);
    assert!(scene.is_idle());
}

#[test]
fn a_checked_backend_is_probed_at_once_and_then_in_time() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["10.0.0.1:80"], "/health");
    scene.change(None, Some(&rule));
    let begun = scene.begin();
    let [(id, at, probe)] = &begun[..] else { panic!("{begun:?}") };
    let check = rule_check(&rule);
    assert_eq!((&**at, probe), ("10.0.0.1:80", &Probe::Check(check.clone(), None)));
    assert_eq!((check.path(), check.host().map(HostSent::as_str)), (Some("/health"), Some("a")));
    scene.pass(EVERY * 10);
    assert_eq!(scene.begin(), [], "one at a time, however long it takes");
    scene.watch.ended(*id, WELL, scene.now, 100);
    assert_eq!(scene.watch.due(scene.now.at), Some(scene.now.at + EVERY));
    scene.pass(EVERY - Duration::from_millis(1));
    assert_eq!(scene.begin(), []);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    scene.pass(SOON);
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    assert_eq!((scene.down().len(), scene.told().len()), (0, 0));
    scene.pass(SOON);
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    assert_eq!(scene.told(), ["10.0.0.1:80 down"]);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    let standing = &scene.watch.states(None)[0];
    assert_eq!((standing.state, standing.since), (State::Down, scene.now.date));
    assert_eq!(standing.reason, "GET /health of a: answered 500, 3 times");
    scene.pass(DOWN);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"]);
    scene.pass(SOON);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"]);
    assert_eq!(scene.told(), ["10.0.0.1:80 up"]);
    assert!(scene.down().is_empty());
}

#[test]
fn a_check_lasts_as_long_as_a_rule_asks_for_it() {
    let mut scene = Scene::new();
    let one = scene.rule(&["10.0.0.1:80", "10.0.0.2:80"], "tcp");
    let two = scene.rule(&["10.0.0.2:80", "10.0.0.3:80"], "tcp");
    scene.change(None, Some(&one));
    scene.change_of("b", None, Some(&two));
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(scene.told().len(), 3);
    assert_eq!(
        scene.failing(),
        ["a 10.0.0.1:80", "a 10.0.0.2:80", "b 10.0.0.2:80", "b 10.0.0.3:80"]
    );
    scene.change(Some(&one), Some(&two));
    assert_eq!(scene.told(), ["10.0.0.1:80 up"], "nobody looks any more");
    scene.pass(DOWN);
    assert_eq!(scene.probe(BAD), ["10.0.0.2:80", "10.0.0.3:80"]);
    let begun = {
        scene.pass(DOWN);
        scene.begin()
    };
    scene.change(Some(&two), None);
    scene.change_of("b", Some(&two), None);
    assert_eq!(scene.told().len(), 2);
    for (id, ..) in begun {
        // a probe that was under way when its check was removed
        scene.watch.ended(id, BAD, scene.now, 100);
    }
    scene.pass(EVERY * 2);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

#[test]
fn a_rule_that_changes_otherwise_changes_nothing() {
    let mut scene = Scene::new();
    let old = scene.rule(&["10.0.0.1:80"], "/a");
    let new = scene.rule(&["10.0.0.1:80", "10.0.0.2:80"], "/a");
    scene.change(None, Some(&old));
    assert_eq!(scene.probe(BAD).len(), 1);
    scene.change(Some(&old), Some(&new));
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    assert_eq!(scene.probe(WELL), ["10.0.0.2:80"], "only the new one is new");
    // another path is another check
    let other = scene.rule(&["10.0.0.1:80", "10.0.0.2:80"], "/b");
    scene.change(Some(&new), Some(&other));
    assert_eq!(scene.down(), [""; 0]);
    scene.pass(SOON);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn a_name_is_probed_wherever_it_is() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["app.internal:80"], "/");
    let name = scene.names.get("app.internal", 80);
    scene.change(None, Some(&rule));
    assert_eq!(scene.begin(), []);
    name.set_addresses(vec![ip("10.0.0.1:80"), ip("10.0.0.2:80")]);
    scene.pass(limits::CHECK_NAMES_EVERY);
    let begun = scene.begin();
    assert_eq!(begun.len(), 2);
    assert_eq!(begun[0].2, Probe::Check(rule_check(&rule), None));
    begun.iter().for_each(|(id, ..)| scene.watch.ended(*id, BAD, scene.now, 100));
    assert_eq!(scene.down().len(), 2);
    name.set_addresses(vec![ip("10.0.0.2:80"), ip("10.0.0.3:80")]);
    scene.pass(limits::CHECK_NAMES_EVERY);
    assert_eq!(scene.probe(WELL), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(scene.down(), ["10.0.0.2:80"]);
    drop(name);
    scene.change(Some(&rule), None);
    drop(rule);
    scene.pass(EVERY);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
    scene.names.prune();
    assert_eq!(scene.names.iter_live().count(), 0, "nothing holds on to the name");
}

#[test]
fn an_ejected_backend_is_probed_until_it_is_back() {
    let mut scene = Scene::new();
    scene.fail("10.0.0.1:80");
    scene.fail("10.0.0.1:80");
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected"]);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    assert_eq!(scene.begin(), [], "not before it can have changed");
    for _ in 0..100 {
        scene.pass(DOWN);
        assert_eq!(scene.probe(TIMED_OUT), ["10.0.0.1:80"]);
    }
    scene.pass(DOWN);
    scene.probe(Finding::Connected);
    assert_eq!(scene.told(), ["10.0.0.1:80 up"]);
    scene.pass(DOWN);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

/// A backend that accepts connections and then says nothing looks well to its probes.
#[test]
fn one_that_fails_again_and_again_is_trusted_later_each_time() {
    let mut scene = Scene::new();
    let backend = of_rule("10.0.0.1:80", "a");
    let mut pauses = Vec::new();
    for _ in 0..7 {
        scene.fail_as(backend, Failure::Silent);
        let due = scene.watch.due(scene.now.at).expect("a probe");
        let pause = due - scene.now.at;
        pauses.push(pause.as_secs());
        scene.pass(pause);
        assert_eq!(scene.probe(Finding::Connected).len(), 1);
        assert!(scene.down().is_empty());
        scene.pass(Duration::from_secs(1));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
    scene.pass(limits::RELAPSE_TIME);
    scene.fail_as(backend, Failure::Silent);
    assert_eq!(scene.watch.due(scene.now.at), Some(scene.now.at + DOWN));
    // an answer says more than a probe
    scene.watch.answered(backend, scene.now);
    scene.fail_as(backend, Failure::Silent);
    assert_eq!(scene.watch.planned.len(), 1);
    assert!(scene.watch.planned.values().all(|it| it.due == scene.now.at + DOWN));
}

#[test]
fn an_answer_or_the_end_of_its_rules_ends_an_ejection_too() {
    let mut scene = Scene::new();
    scene.fail("10.0.0.1:80");
    scene.fail("10.0.0.2:80");
    assert_eq!(scene.watch.ejected().count(), 2);
    scene.watch.answered(of_rule("10.0.0.1:80", "a"), scene.now);
    assert_eq!(scene.watch.ejected().count(), 2, "an answer to a rule is one for that rule");
    scene.watch.answered(of_all("10.0.0.1:80"), scene.now);
    scene.watch.forget(of_all("10.0.0.2:80"));
    scene.watch.answered(of_all("10.0.0.9:80"), scene.now);
    assert_eq!(scene.told().len(), 4);
    scene.pass(DOWN);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

/// Requests of one rule must not depend on the check of another.
#[test]
fn an_ejection_ends_by_itself_whatever_a_check_says() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["10.0.0.1:80"], "/");
    scene.change(None, Some(&rule));
    scene.probe(BAD);
    assert_eq!(scene.told(), ["10.0.0.1:80 down"]);
    scene.fail("10.0.0.1:80");
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected"]);
    assert_eq!(scene.watch.ejected().count(), 1);
    scene.watch.answered(of_all("10.0.0.1:80"), scene.now);
    assert_eq!(scene.told(), ["10.0.0.1:80 up"]);
    assert_eq!((scene.watch.ejected().count(), scene.failing().len()), (0, 1));
    scene.change(Some(&rule), None);
    assert!(scene.watch.planned.is_empty());
}

#[test]
fn a_check_that_comes_after_the_ejection_does_not_undo_it() {
    let mut scene = Scene::new();
    scene.fail("10.0.0.1:80");
    let rule = scene.rule(&["10.0.0.1:80"], "/");
    scene.change(None, Some(&rule));
    scene.probe(WELL);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    scene.change(Some(&rule), None);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    scene.pass(DOWN);
    scene.probe(Finding::Connected);
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected", "10.0.0.1:80 up"]);
    assert!(scene.watch.checked.is_empty());
}

#[test]
fn a_rule_goes_by_its_own_check() {
    let mut scene = Scene::new();
    let backends = ["10.0.0.1:80"];
    let [good, bad] = ["good", "bad"].map(|name| scene.rule_of(name, &backends, "/"));
    scene.change_of("good", None, Some(&good));
    scene.change_of("bad", None, Some(&bad));
    scene.pass(SOON);
    let begun = scene.begin();
    assert_eq!(begun.len(), 2, "each has a request of its own");
    for (id, _, probe) in begun {
        let found = if probe == Probe::Check(rule_check(&bad), None) { BAD } else { WELL };
        scene.watch.ended(id, found, scene.now, 100);
    }
    assert_eq!(scene.failing(), ["bad 10.0.0.1:80"]);
    assert!(scene.down().is_empty(), "others use it");
    let told = scene.watch.take_changes();
    assert_eq!(told[0].reason, "GET / of bad: answered 500");
    let standing = &scene.watch.states(None)[0];
    assert_eq!((standing.state, standing.checks_down), (State::PartlyDown, 1));
    assert_eq!(standing.reason, "GET / of bad: answered 500");
    assert_eq!(standing.checks[0].checked_for.rules, ["bad".into()]);
    assert_eq!(standing.checks[1].state, State::Up);
}

#[test]
fn rules_with_the_same_check_share_its_probes() {
    let mut scene = Scene::new();
    let rules: Vec<(String, Rule)> = (0..50)
        .map(|number| {
            let name = format!("r{number:02}");
            let rule = scene.rule_of(&name, &["10.0.0.1:80"], "tcp");
            (name, rule)
        })
        .collect();
    rules.iter().for_each(|(name, rule)| scene.change_of(name, None, Some(rule)));
    assert_eq!(scene.probe(Finding::Closed).len(), 1);
    let standing = &scene.watch.states(None)[0];
    assert_eq!(standing.state, State::Down);
    let reason = "tcp: closed the connection (rules r00, r01, r02 and 47 more)";
    // Only some of so many rules are listed.
    assert!(standing.reason.ends_with(" and 47 more)"), "{} {reason}", standing.reason);
    assert_eq!(standing.checks[0].checked_for.rules_count, 50);
    rules.iter().rev().for_each(|(name, rule)| scene.change_of(name, Some(rule), None));
    assert_eq!(scene.told(), ["10.0.0.1:80 down", "10.0.0.1:80 up"]);
    scene.pass(EVERY);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

/// A server of ten thousand tenants must not be probed ten thousand times in two seconds.
#[test]
fn checks_of_one_address_share_a_rate() {
    let mut scene = Scene::new();
    let count = 5 * limits::ADDRESS_PROBES_PER_SECOND;
    let other = scene.rule(&["10.0.0.2:80"], "/");
    for number in 0..count {
        let name = format!("r{number}");
        let rule = scene.rule_of(&name, &["10.0.0.1:80"], "/");
        scene.change_of(&name, None, Some(&rule));
    }
    scene.change(None, Some(&other));
    let mut begun: HashMap<String, u32> = HashMap::new();
    for _ in 0..200 {
        for address in scene.probe(WELL) {
            *begun.entry(address).or_default() += 1;
        }
        scene.pass(TENTH);
    }
    let (shared, alone) = (begun["10.0.0.1:80"], begun["10.0.0.2:80"]);
    let all = 20 * limits::ADDRESS_PROBES_PER_SECOND;
    assert!((all * 9 / 10..=all * 11 / 10).contains(&shared), "{shared}");
    assert_eq!(alone, 10);
}

/// If the check of a rule fails, its requests are held, but other rules keep the backend.
#[test]
fn waiting_for_a_check_ejects_nothing() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["10.0.0.1:80"], "/");
    let id = rule.check_id();
    scene.change(None, Some(&rule));
    scene.probe(BAD);
    let (backend, rule) = (address("10.0.0.1:80"), table().key("a"));
    let wanted = WantedBackend { backend, check: id, rule, is_unreached: true };
    scene.watch.want([wanted].into(), &table(), scene.now);
    assert_eq!(scene.watch.ejected().count(), 0);
    scene.pass(limits::HELD_PROBE_EVERY);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"], "sooner than was planned");
    scene.pass(limits::HELD_PROBE_EVERY);
    scene.probe(WELL);
    assert_eq!(scene.told(), ["10.0.0.1:80 down", "10.0.0.1:80 up"]);
    // The check succeeds, and still requests find no backend: the address must be out of reach.
    scene.watch.want([wanted].into(), &table(), scene.now);
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected"]);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
}

/// A request that waits because it got no response may be the only one that gets none there.
#[test]
fn waiting_after_a_silence_ejects_for_the_rule_alone() {
    let mut scene = Scene::new();
    let (backend, rule) = (address("10.0.0.1:80"), table().key("one"));
    let silent = WantedBackend { backend, check: None, rule, is_unreached: false };
    scene.watch.want([silent].into(), &table(), scene.now);
    assert_eq!(scene.watch.ejected().collect::<Vec<_>>(), [of_rule("10.0.0.1:80", "one")]);
    // The next request finds the backend ejected, and so out of reach, which was known already.
    let known = WantedBackend { is_unreached: true, ..silent };
    scene.watch.want([known].into(), &table(), scene.now);
    assert!(scene.down().is_empty());
    scene.pass(limits::HELD_PROBE_EVERY);
    assert_eq!(scene.probe(Finding::Connected), ["10.0.0.1:80"], "sooner than was planned");
    assert_eq!(scene.watch.ejected().count(), 0);
}

#[test]
fn silence_is_told_with_its_rule() {
    let mut scene = Scene::new();
    let two = scene.rule_of("two", &["10.0.0.1:80"], "/");
    scene.change_of("two", None, Some(&two));
    scene.probe(WELL);
    scene.fail_as(of_rule("10.0.0.1:80", "one"), Failure::Silent);
    assert!(scene.down().is_empty());
    let change = scene.watch.take_changes().pop().expect("a change");
    assert_eq!(change.explained(), "3 requests in a row got no answer (rule one)");
    let [standing] = &scene.watch.states(None)[..] else { panic!("one backend") };
    assert_eq!((standing.state, &*standing.reason), (State::PartlyDown, &*change.explained()));
    assert_eq!((standing.checks_count, standing.checks_down), (2, 1));
    assert_eq!(standing.checks[0].checked_for.describe()["check"], "requests");
    let sees: RuleFilter = Box::new(|rule| rule == "two");
    let [standing] = &scene.watch.states(Some(&sees))[..] else { panic!("one backend") };
    assert_eq!((standing.state, standing.checks_count), (State::Up, 1));
    let [one, two] = ["one", "two"]
        .map(|rule| scene.watch.state_for(address("10.0.0.1:80"), None, Some(table().key(rule))));
    assert_eq!((one.map(|it| it.0), two), (Some(State::Ejected), None));
    let failing = scene.watch.failing_rules(9, None);
    assert_eq!(failing, [("one".into(), address("10.0.0.1:80"))]);
}

#[test]
fn another_process_knows_the_same_afterwards() {
    let mut scene = Scene::new();
    let [one, two] = ["one", "two"].map(|name| scene.rule_of(name, &["10.0.0.1:80"], "/"));
    scene.change_of("one", None, Some(&one));
    scene.change_of("two", None, Some(&two));
    scene.pass(SOON);
    let begun = scene.begin();
    for (id, _, probe) in begun {
        let found = if probe == Probe::Check(rule_check(&two), None) { BAD } else { WELL };
        scene.watch.ended(id, found, scene.now, 100);
    }
    scene.fail("10.0.0.9:80");
    scene.fail_as(of_rule("10.0.0.8:80", "one"), Failure::Silent);
    let known = scene.watch.known();
    let mut other = Scene::new();
    other.change_of("one", None, Some(&one));
    other.change_of("two", None, Some(&two));
    other.watch.recall(known, &table(), other.now);
    assert_eq!(other.failing(), ["one 10.0.0.8:80", "two 10.0.0.1:80"]);
    assert_eq!(other.down(), ["10.0.0.9:80"]);
    assert!(other.watch.ejected().any(|ejected| ejected == of_rule("10.0.0.8:80", "one")));
    let standing = other.watch.states(None);
    let shared = standing.iter().find(|it| it.backend == address("10.0.0.1:80")).expect("it");
    assert_eq!((shared.state, &*shared.reason), (State::PartlyDown, "GET / of two: answered 500"));
    // The state as an earlier version hands it over.
    let mut other = Scene::new();
    other.change_of("one", None, Some(&one));
    let since = SystemTime::UNIX_EPOCH;
    let backend = address("10.0.0.1:80");
    let reason = "answered 500".to_owned();
    let known = Known { backend, check: None, rule: None, state: State::Down, reason, since };
    other.watch.recall(vec![known], &table(), other.now);
    assert_eq!(other.failing(), ["one 10.0.0.1:80"]);
}

#[test]
fn very_many_are_probed_in_turn() {
    let mut scene = Scene::new();
    let count = limits::PROBES_PER_TENTH * 5 / 2;
    for number in 0..count {
        let backend = format!("10.0.{}.{}:80", number / 250, number % 250);
        let rule = scene.rule(&[&backend], "tcp");
        scene.change(None, Some(&rule));
    }
    let mut seen: HashSet<String> = HashSet::new();
    for expected in [2, 2, 1] {
        let begun = scene.begin();
        assert_eq!(begun.len() as u32, limits::PROBES_PER_TENTH * expected / 2);
        seen.extend(begun.into_iter().map(|(_, address, _)| address));
        if expected == 2 {
            assert_eq!(scene.watch.due(scene.now.at), Some(scene.now.at + TENTH));
        }
        scene.pass(TENTH);
    }
    assert_eq!(seen.len() as u32, count, "each once");
}

#[test]
fn ejections_have_a_bound() {
    let mut scene = Scene::new();
    for number in 0..=limits::EJECTED_MAX as u32 {
        let ip = std::net::SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 80));
        let ejected = Ejected { backend: Address::from(ip), rule: None };
        scene.fail_as(ejected, Failure::Silent);
    }
    assert_eq!(scene.down().len(), limits::EJECTED_MAX);
}
