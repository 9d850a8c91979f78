//! Plans of probes, at times that the tests choose.

use serde_json::json;

use super::*;
use crate::table::Names;

const WELL: Finding = Finding::Answered(200);
const BAD: Finding = Finding::Answered(500);

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
        let mut arguments = json!({ "backends": backends });
        if !check.is_empty() {
            arguments["check"] = json!(check);
        }
        let rule = Rule::from_json("a", &json!(["proxy", arguments, true]), &mut self.names);
        rule.expect("a rule")
    }

    fn change(&mut self, old: Option<&Rule>, new: Option<&Rule>) {
        self.watch.changed(old, new, self.now);
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
        self.watch.failed(address(backend), Failure::Unreachable(None), self.now);
    }

    /// Changes that were told since the last call.
    fn told(&mut self) -> Vec<String> {
        let changes = self.watch.take_changes().into_iter();
        changes.map(|change| format!("{} {}", change.backend, change.state.as_str())).collect()
    }

    fn down(&self) -> Vec<String> {
        let mut down: Vec<String> = self.watch.down().map(|backend| backend.to_string()).collect();
        down.sort();
        down
    }

    fn is_idle(&self) -> bool {
        let watch = &self.watch;
        watch.due(self.now.at).is_none()
            && watch.checked.is_empty()
            && watch.planned.is_empty()
            && watch.backends.is_empty()
            && watch.down.is_empty()
    }
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
    assert_eq!((&**at, probe), ("10.0.0.1:80", &Probe::get("/health", "10.0.0.1:80")));
    scene.pass(limits::CHECK_EVERY * 10);
    assert_eq!(scene.begin(), [], "one at a time, however long it takes");
    scene.watch.ended(*id, WELL, scene.now, 100);
    assert_eq!(scene.watch.due(scene.now.at), Some(scene.now.at + limits::CHECK_EVERY));
    scene.pass(limits::CHECK_EVERY - Duration::from_millis(1));
    assert_eq!(scene.begin(), []);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    scene.pass(limits::CHECK_SOON);
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    assert_eq!((scene.down().len(), scene.told().len()), (0, 0));
    scene.pass(limits::CHECK_SOON);
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80"]);
    assert_eq!(scene.told(), ["10.0.0.1:80 down"]);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    let standing = &scene.watch.states()[0];
    assert_eq!((standing.state, standing.since), (State::Down, scene.now.date));
    assert_eq!(standing.reason, "answered 500, 3 times");
    scene.pass(limits::CHECK_DOWN);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"]);
    scene.pass(limits::CHECK_SOON);
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
    scene.change(None, Some(&two));
    assert_eq!(scene.probe(BAD), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(scene.told().len(), 3);
    scene.change(Some(&one), Some(&two));
    assert_eq!(scene.told(), ["10.0.0.1:80 up"], "nobody looks any more");
    scene.pass(limits::CHECK_DOWN);
    assert_eq!(scene.probe(BAD), ["10.0.0.2:80", "10.0.0.3:80"]);
    let begun = {
        scene.pass(limits::CHECK_DOWN);
        scene.begin()
    };
    scene.change(Some(&two), None);
    scene.change(Some(&two), None);
    assert_eq!(scene.told().len(), 2);
    for (id, ..) in begun {
        // one that was under way when its check was removed
        scene.watch.ended(id, BAD, scene.now, 100);
    }
    scene.pass(limits::CHECK_EVERY * 2);
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
    assert_eq!(begun[0].2, Probe::get("/", "app.internal:80"));
    begun.iter().for_each(|(id, ..)| scene.watch.ended(*id, BAD, scene.now, 100));
    assert_eq!(scene.down().len(), 2);
    name.set_addresses(vec![ip("10.0.0.2:80"), ip("10.0.0.3:80")]);
    scene.pass(limits::CHECK_NAMES_EVERY);
    assert_eq!(scene.probe(WELL), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(scene.down(), ["10.0.0.2:80"]);
    drop(name);
    scene.change(Some(&rule), None);
    drop(rule);
    scene.pass(limits::CHECK_EVERY);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
    scene.names.prune();
    assert!(scene.names.is_empty(), "nothing holds on to the name");
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
        scene.pass(limits::CHECK_DOWN);
        assert_eq!(scene.probe(Finding::TimedOut), ["10.0.0.1:80"]);
    }
    scene.pass(limits::CHECK_DOWN);
    scene.probe(Finding::Connected);
    assert_eq!(scene.told(), ["10.0.0.1:80 up"]);
    scene.pass(limits::CHECK_DOWN);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

/// One that accepts connections and then says nothing looks well to its probes.
#[test]
fn one_that_fails_again_and_again_is_trusted_later_each_time() {
    let mut scene = Scene::new();
    let backend = address("10.0.0.1:80");
    let mut pauses = Vec::new();
    for _ in 0..7 {
        scene.watch.failed(backend, Failure::Silent, scene.now);
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
    scene.watch.failed(backend, Failure::Silent, scene.now);
    assert_eq!(scene.watch.due(scene.now.at), Some(scene.now.at + limits::CHECK_DOWN));
    // an answer says more than a probe
    scene.watch.answered(backend, scene.now);
    scene.watch.failed(backend, Failure::Silent, scene.now);
    assert_eq!(scene.watch.planned.len(), 1);
    assert!(scene.watch.planned.values().all(|it| it.due == scene.now.at + limits::CHECK_DOWN));
}

#[test]
fn an_answer_or_the_end_of_its_rules_ends_an_ejection_too() {
    let mut scene = Scene::new();
    scene.fail("10.0.0.1:80");
    scene.fail("10.0.0.2:80");
    assert_eq!(scene.watch.ejected().len(), 2);
    scene.watch.answered(address("10.0.0.1:80"), scene.now);
    scene.watch.forget(address("10.0.0.2:80"), scene.now);
    scene.watch.answered(address("10.0.0.9:80"), scene.now);
    assert_eq!(scene.told().len(), 4);
    scene.pass(limits::CHECK_DOWN);
    assert_eq!(scene.begin(), []);
    assert!(scene.is_idle());
}

#[test]
fn an_ejected_backend_with_a_check_comes_back_by_that() {
    let mut scene = Scene::new();
    let rule = scene.rule(&["10.0.0.1:80"], "/");
    scene.change(None, Some(&rule));
    scene.probe(WELL);
    scene.fail("10.0.0.1:80");
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected"]);
    scene.watch.answered(address("10.0.0.1:80"), scene.now);
    assert_eq!(scene.down(), ["10.0.0.1:80"]);
    scene.pass(limits::CHECK_SOON);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"], "sooner than was planned");
    scene.pass(limits::CHECK_SOON);
    assert_eq!(scene.probe(WELL), ["10.0.0.1:80"]);
    assert_eq!(scene.told(), ["10.0.0.1:80 up"]);
    scene.pass(limits::CHECK_EVERY);
    assert_eq!(scene.begin().len(), 1, "and by one row of probes");
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
    scene.pass(limits::CHECK_DOWN);
    scene.probe(Finding::Connected);
    assert_eq!(scene.told(), ["10.0.0.1:80 ejected", "10.0.0.1:80 up"]);
    assert!(scene.watch.backends.is_empty());
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
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        let backend = Address::V4(std::net::SocketAddrV4::new(ip, 80));
        scene.watch.failed(backend, Failure::Silent, scene.now);
    }
    assert_eq!(scene.down().len(), limits::EJECTED_MAX);
}
