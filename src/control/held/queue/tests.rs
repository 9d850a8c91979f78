//! The queue in a world in which everything happens: rules change, requests come, leave and come
//! back, backends go and come back, time passes. The model is a plain list of the requests that
//! wait; `World::check` says what must hold.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::table::{Names, edit};

const TOTAL: usize = 12;
const PER_SOURCE: usize = 7;
const HOSTS: [&str; 5] = ["a.com", "x.a.com", "b.com", "alias.net", "c.com"];

impl Queue {
    /// Checks that fields that repeat each other agree.
    fn assert_consistent(&self) {
        assert_eq!(self.tickets.len(), self.waiting.len());
        for (place, waiting) in &self.waiting {
            assert!(*place <= self.next);
            assert_eq!(self.tickets.get(&(waiting.shard, waiting.ticket)), Some(place));
            let line = self.lines.get(&waiting.host).expect("a line for each host");
            assert!(line.places.contains(place));
        }
        let mut by_rule: ByKey<usize> = ByKey::default();
        let mut turns: ByKey<BTreeSet<Rank>> = ByKey::default();
        let mut places = 0;
        for line in self.lines.values() {
            assert!(!line.places.is_empty(), "lines end with the last who waits");
            places += line.places.len();
            match line.what {
                Awaited::Turn(key) => turns.entry(key).or_default().extend(&line.places),
                Awaited::Rule | Awaited::Backend => {
                    *by_rule.entry(line.rule_key).or_default() += line.places.len();
                }
            }
        }
        assert_eq!(places, self.waiting.len());
        assert_eq!(by_rule, self.by_rule);
        for (key, release) in &self.releases {
            assert_eq!(turns.remove(key).unwrap_or_default(), release.places);
        }
        assert!(turns.is_empty(), "turns without a release: {turns:?}");
        let mut by_source: HashMap<IpAddr, usize> = HashMap::new();
        for waiting in self.waiting.values() {
            *by_source.entry(waiting.source).or_default() += 1;
        }
        assert_eq!(by_source, self.by_source);
        assert!(self.waiting.len() <= self.bounds.total);
        assert!(self.by_source.values().all(|count| *count <= self.bounds.per_source));
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn read(value: &Value) -> Rule {
    Rule::from_json("a.com", value, &mut Names::default()).expect("a rule")
}

fn proxy(arguments: Value) -> Rule {
    let mut arguments = arguments;
    arguments["backends"] = json!([["10.1.1.1", 80]]);
    read(&json!(["proxy", arguments, true]))
}

fn spin(arguments: Value) -> Rule {
    read(&json!(["spin", arguments, true]))
}

/// A request, wherever it is.
#[derive(Clone, Debug)]
struct Request {
    shard: usize,
    ticket: Ticket,
    host: &'static str,
    scheme: Scheme,
    source: IpAddr,
    place: Option<Rank>,
}

/// An event of a random history.
#[derive(Clone, Debug)]
enum Event {
    /// A rule is set, by number, or deleted.
    Set(usize, usize),
    /// A request comes: host, https, shard, source; whether it saw the table of a moment ago.
    Come(usize, bool, usize, u8, bool),
    /// A waiting request leaves, or its time is over.
    Leave(usize),
    /// Backends can't be reached, or can.
    Down(bool),
    /// Milliseconds pass.
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..HOSTS.len(), 0..12_usize).prop_map(|(host, rule)| Event::Set(host, rule)),
        9 => (0..HOSTS.len(), any::<bool>(), 0..4_usize, 0..3_u8, prop::bool::weighted(0.2))
            .prop_map(|(host, tls, shard, source, stale)| {
                Event::Come(host, tls, shard, source, stale)
            }),
        3 => (0..TOTAL).prop_map(Event::Leave),
        1 => any::<bool>().prop_map(Event::Down),
        3 => prop_oneof![0..5_u64, 0..300_u64].prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..80)
}

/// The rule of this number; the last ones delete.
fn rule(number: usize) -> Option<Rule> {
    Some(match number {
        0 | 1 => spin(json!({})),
        2 => spin(json!({"release_rate": 20})),
        3 => spin(json!({"max_held": 2})),
        4 => spin(json!({"timeout": 7, "release_rate": 500})),
        5 | 6 => proxy(json!({})),
        7 | 8 => proxy(json!({"hold": 5})),
        9 => read(&json!(["empty", {"code": 402}, true])),
        10 => read(&json!(["empty", {"code": 402}, false])),
        _ => return None,
    })
}

struct World {
    queue: Queue,
    table: Snapshot,
    now: Instant,
    is_down: bool,
    waiting: Vec<Request>,
    tickets: Ticket,
    /// Lines as the shards know them.
    lines: ByKey<Duration>,
    /// Number of requests that came, and of those that have ended.
    came: usize,
    ended: usize,
}

impl World {
    fn new() -> World {
        let mut world = World {
            queue: Queue::new(Bounds { total: TOTAL, per_source: PER_SOURCE }),
            table: Snapshot::default(),
            now: Instant::now(),
            is_down: false,
            waiting: Vec::new(),
            tickets: 0,
            lines: ByKey::default(),
            came: 0,
            ended: 0,
        };
        let alias = read(&json!(["alias", {"hostname": "b.com"}, false]));
        world.set(vec![
            ("a.com".to_owned(), Some(spin(json!({})))),
            ("b.com".to_owned(), Some(spin(json!({"release_rate": 50})))),
            ("alias.net".to_owned(), Some(alias)),
        ]);
        world
    }

    fn set(&mut self, changes: Vec<(String, Option<Rule>)>) {
        // a change that is not allowed is refused, and nothing happens
        if let Ok(table) = edit(&self.table, changes) {
            self.table = table;
            self.tell(|world, outcome| world.queue.changed(&world.table, world.now, outcome));
        }
    }

    /// Reason for which a request would have to wait, as its shard sees it.
    fn why(&self, request: &Request) -> Option<HoldReason> {
        let Match::Found(found) = self.table.lookup(request.host, request.scheme) else {
            return None;
        };
        let proxy = match &found.rule.action {
            Action::Spin(_) => return Some(HoldReason::Spin),
            Action::Proxy(proxy) => proxy,
            _ => return None,
        };
        let keys = [found.key, found.rule_key, self.table.key(request.host)];
        if request.place.is_none() && keys.iter().any(|key| self.lines.contains_key(key)) {
            return Some(HoldReason::Behind);
        }
        (self.is_down && !proxy.hold().is_zero()).then_some(HoldReason::NoBackend)
    }

    fn come(&mut self, request: Request, is_stale: bool) {
        let why = if is_stale { Some(HoldReason::Spin) } else { self.why(&request) };
        let Some(why) = why else { return self.end() };
        let Request { shard, ticket, host, scheme, source, place } = request.clone();
        let waits = Waits { shard, ticket, why, place, host: host.into(), scheme, source };
        let (is_full, waited) = (self.is_full(&request), self.waiting.len());
        self.waiting.push(request);
        let mut outcome = Outcome::default();
        self.queue.arrive(waits, &self.table, self.now, &mut outcome);
        if let [(_, _, Word::Full)] = outcome.said[..] {
            assert!(is_full, "turned away by {waited}");
        }
        self.hear(outcome);
    }

    /// Whether there may be no room for one more request like this one.
    fn is_full(&self, request: &Request) -> bool {
        let resolved = |host: &str, scheme| match self.table.lookup(host, scheme) {
            Match::Found(found) => Some((found.rule_key, found.rule.clone())),
            _ => None,
        };
        let own = resolved(request.host, request.scheme);
        let most = match &own {
            Some((_, Rule { action: Action::Spin(spin), .. })) => spin.max_held(),
            _ => None,
        };
        let key = own.map(|(key, _)| key);
        let like = |other: &&Request| resolved(other.host, other.scheme).map(|it| it.0) == key;
        let of_rule = self.waiting.iter().filter(like).count();
        let of_source = self.waiting.iter().filter(|it| it.source == request.source).count();
        self.waiting.len() >= TOTAL
            || of_source >= PER_SOURCE
            || most.is_some_and(|most| of_rule >= most.get() as usize)
    }

    /// A request has got its answer, or its client has left.
    fn end(&mut self) {
        self.ended += 1;
    }

    fn tell(&mut self, act: impl FnOnce(&mut World, &mut Outcome)) {
        let mut outcome = Outcome::default();
        act(self, &mut outcome);
        self.hear(outcome);
    }

    /// Does what shards do with the queue's decisions.
    fn hear(&mut self, outcome: Outcome) {
        if let Some(lines) = self.queue.take_lines(&self.table) {
            self.lines = lines;
        }
        self.queue.assert_consistent();
        let mut again = Vec::new();
        for (shard, ticket, word) in outcome.said {
            let own = |it: &Request| (it.shard, it.ticket) == (shard, ticket);
            let at = self.waiting.iter().position(own);
            let mut request = self.waiting.remove(at.expect("only who waits is told, and once"));
            let Word::Go(place) = word else {
                self.end();
                continue;
            };
            assert!(request.place.is_none_or(|had| had == place), "a place that was another");
            let earlier = self.waiting.iter().find(|other| {
                (other.host, other.scheme) == (request.host, request.scheme)
                    && self.place(other).is_some_and(|other| other < place)
            });
            assert!(earlier.is_none(), "{request:?} at {place} goes before {earlier:?}");
            request.place = Some(place);
            self.tickets += 1;
            request.ticket = self.tickets;
            again.push(request);
        }
        for request in again {
            // the request goes on by the table as it is now, and may have to wait again
            self.come(request, false);
        }
    }

    fn place(&self, request: &Request) -> Option<Rank> {
        self.queue.tickets.get(&(request.shard, request.ticket)).copied()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tell(|world, outcome| {
            let next = world.queue.pace(world.now, outcome);
            assert!(next.is_none_or(|next| world.now < next), "whose turn has come is let go");
        });
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Set(host, number) => {
                let names = ["a.com", "x.a.com", "b.com", "http://a.com", "c.com"];
                self.set(vec![(names[*host].to_owned(), rule(*number))]);
            }
            Event::Come(host, tls, shard, source, is_stale) => {
                self.tickets += 1;
                self.came += 1;
                let request = Request {
                    shard: *shard,
                    ticket: self.tickets,
                    host: HOSTS[*host],
                    scheme: if *tls { Scheme::Https } else { Scheme::Http },
                    source: address(*source),
                    place: None,
                };
                self.come(request, *is_stale);
            }
            Event::Leave(which) if !self.waiting.is_empty() => {
                let request = self.waiting.remove(which % self.waiting.len());
                self.queue.leave(request.shard, request.ticket);
                // leaving twice is the same as leaving once
                self.queue.leave(request.shard, request.ticket);
                self.end();
                self.hear(Outcome::default());
            }
            Event::Leave(_) => {}
            Event::Down(is_down) => {
                self.is_down = *is_down;
                if !is_down {
                    self.tell(|world, outcome| world.queue.reached(|_| true, world.now, outcome));
                }
            }
            Event::Pass(milliseconds) => self.pass(Duration::from_millis(*milliseconds)),
        }
        self.check();
    }

    /// Checks that no request waits without a reason.
    fn check(&self) {
        assert_eq!(self.came, self.ended + self.waiting.len());
        assert_eq!(self.waiting.len(), self.queue.waiting.len());
        for request in &self.waiting {
            let Match::Found(found) = self.table.lookup(request.host, request.scheme) else {
                panic!("{request:?} waits for nothing");
            };
            let host: HostKey = (request.host.into(), request.scheme);
            let what = self.queue.lines[&host].what;
            match (&found.rule.action, what) {
                (Action::Spin(_), Awaited::Rule) => {}
                // a release goes on, whichever `proxy` rule the host has now
                (Action::Proxy(_), Awaited::Turn(_)) => {}
                (Action::Proxy(proxy), Awaited::Backend) => {
                    assert!(!proxy.hold().is_zero(), "{request:?}");
                }
                (action, what) => panic!("{request:?} waits for {what:?} by {action:?}"),
            }
        }
        let held: usize = self.queue.by_name().values().sum();
        assert_eq!(held, self.waiting.len());
    }
}

proptest! {
    #[test]
    fn nobody_is_forgotten_answered_twice_or_overtaken(
        events in events(),
        ends_by_proxy in any::<bool>(),
    ) {
        let mut world = World::new();
        events.iter().for_each(|event| world.happen(event));
        // all backends come back, and each request that still waits goes on
        world.happen(&Event::Down(false));
        let last = if ends_by_proxy { rule(5) } else { rule(9) };
        let all = ["a.com", "x.a.com", "b.com", "http://a.com", "c.com"];
        world.set(all.map(|name| (name.to_owned(), last.clone())).to_vec());
        for _ in 0..100 {
            world.happen(&Event::Pass(100));
        }
        prop_assert!(world.waiting.is_empty(), "forgotten: {:?}", world.waiting);
        prop_assert_eq!(world.ended, world.came);
        prop_assert!(world.queue.is_empty() && world.queue.lines.is_empty());
        prop_assert!(world.lines.is_empty(), "shards are told that nobody waits any more");
    }

    /// Checks that a rate is never exceeded by more than a late release may catch up, and always
    /// used.
    #[test]
    fn a_rate_is_kept(
        rate in 1..2000_u32,
        count in 1..120_usize,
        steps in prop::collection::vec(0..60_u64, 1..60),
    ) {
        let (mut queue, table) = waiting(&spin(json!({"release_rate": rate})), count);
        let edits = vec![("a.com".to_owned(), Some(proxy(json!({}))))];
        let table = edit(&table, edits).expect("a table");
        let start = Instant::now();
        let (mut now, mut gone) = (start, 0);
        let mut outcome = Outcome::default();
        queue.changed(&table, now, &mut outcome);
        for step in steps {
            queue.pace(now, &mut outcome);
            queue.assert_consistent();
            let said = std::mem::take(&mut outcome.said);
            for (_, _, word) in &said {
                gone += 1;
                prop_assert_eq!(word, &Word::Go(RANK_FIRST + gone));
            }
            let seconds = (now - start).as_secs_f64();
            let due = 1.0 + seconds * f64::from(rate);
            prop_assert!(gone as f64 <= due + 1e-3, "{gone} after {seconds} s at {rate}");
            let least = (due.floor() - 1.0).min(count as f64);
            // turns that are late by more than the burst are given up for good, so there is a lower
            // bound only if the steps are short for the rate
            if u64::from(rate) * 60 < 1000 * u64::from(limits::RELEASE_BURST) {
                prop_assert!(least <= gone as f64, "only {gone} after {seconds} s at {rate}");
            }
            now += Duration::from_millis(step);
        }
    }
}

/// A queue in which so many requests wait for `a.com`, of different sources, on two shards.
fn waiting(rule: &Rule, count: usize) -> (Queue, Snapshot) {
    let table = edit(&Snapshot::default(), vec![("a.com".to_owned(), Some(rule.clone()))]);
    let table = table.expect("a table");
    let mut queue = Queue::new(Bounds { total: usize::MAX, per_source: usize::MAX });
    for ticket in 0..count as Ticket {
        assert!(come(&mut queue, &table, "a.com", ticket, HoldReason::Spin).is_empty());
    }
    (queue, table)
}

fn come(
    queue: &mut Queue,
    table: &Snapshot,
    host: &str,
    ticket: Ticket,
    why: HoldReason,
) -> Vec<Word> {
    let mut outcome = Outcome::default();
    let waits = Waits {
        shard: (ticket % 2) as usize,
        ticket,
        why,
        place: None,
        host: host.into(),
        scheme: Scheme::Http,
        source: address(ticket as u8),
    };
    queue.arrive(waits, table, Instant::now(), &mut outcome);
    queue.assert_consistent();
    outcome.said.into_iter().map(|(_, _, word)| word).collect()
}

fn tickets(outcome: Outcome) -> Vec<Ticket> {
    outcome.said.into_iter().map(|(_, ticket, _)| ticket).collect()
}

fn with(table: &Snapshot, host: &str, rule: Option<Rule>) -> Snapshot {
    edit(table, vec![(host.to_owned(), rule)]).expect("a table")
}

#[test]
fn shards_are_served_in_the_order_of_arrival() {
    let (mut queue, table) = waiting(&spin(json!({})), 7);
    queue.leave(1, 3);
    let mut outcome = Outcome::default();
    queue.changed(&with(&table, "a.com", None), Instant::now(), &mut outcome);
    assert_eq!(tickets(outcome), [0, 1, 2, 4, 5, 6]);
    assert!(queue.is_empty());
}

#[test]
fn who_comes_during_a_release_goes_behind_it() {
    let (mut queue, table) = waiting(&spin(json!({"release_rate": 10})), 3);
    let table = with(&table, "a.com", Some(proxy(json!({}))));
    let start = Instant::now();
    let mut outcome = Outcome::default();
    queue.changed(&table, start, &mut outcome);
    assert_eq!(tickets(outcome), [0], "one at once");
    let lines = queue.take_lines(&table).expect("shards are told");
    assert!(lines.contains_key(&table.key("a.com")));
    assert!(come(&mut queue, &table, "a.com", 9, HoldReason::Behind).is_empty());
    // a host below it has the same rule
    assert!(come(&mut queue, &table, "x.a.com", 10, HoldReason::Behind).is_empty());
    let mut gone = Vec::new();
    for tenth in 1..8 {
        let mut outcome = Outcome::default();
        queue.pace(start + Duration::from_millis(100 * tenth), &mut outcome);
        queue.assert_consistent();
        gone.extend(tickets(outcome));
    }
    assert_eq!(gone, [1, 2, 9, 10]);
    assert_eq!(queue.take_lines(&table).map(|lines| lines.len()), Some(0), "it is over");
    assert_eq!(
        come(&mut queue, &table, "a.com", 11, HoldReason::Behind).len(),
        1,
        "nobody to wait for"
    );
}

#[test]
fn one_that_comes_back_has_its_old_place() {
    let (mut queue, table) = waiting(&spin(json!({})), 3);
    let other = with(&table, "a.com", Some(spin(json!({"timeout": 5}))));
    let mut outcome = Outcome::default();
    queue.changed(&other, Instant::now(), &mut outcome);
    assert_eq!(outcome.said.len(), 3, "each looks whether its time is over");
    // the requests come back in any order
    for (shard, ticket, word) in outcome.said.into_iter().rev() {
        let Word::Go(place) = word else { panic!("no place") };
        let waits = Waits {
            shard,
            ticket: 10 + ticket,
            why: HoldReason::Spin,
            place: Some(place),
            host: "a.com".into(),
            scheme: Scheme::Http,
            source: address(1),
        };
        queue.arrive(waits, &other, Instant::now(), &mut Outcome::default());
    }
    let mut outcome = Outcome::default();
    queue.changed(&with(&other, "a.com", None), Instant::now(), &mut outcome);
    assert_eq!(tickets(outcome), [10, 11, 12]);
}

#[test]
fn the_same_rule_again_disturbs_nobody() {
    let (mut queue, table) = waiting(&spin(json!({})), 2);
    let mut outcome = Outcome::default();
    queue.changed(&with(&table, "b.com", rule(9)), Instant::now(), &mut outcome);
    queue.changed(&with(&table, "a.com", Some(spin(json!({})))), Instant::now(), &mut outcome);
    assert!(outcome.said.is_empty());
}

#[test]
fn rules_have_room_of_their_own() {
    let (mut queue, table) = waiting(&spin(json!({"max_held": 2})), 2);
    let table = with(&table, "b.com", Some(spin(json!({"max_held": 1}))));
    assert_eq!(come(&mut queue, &table, "a.com", 5, HoldReason::Spin), [Word::Full]);
    assert_eq!(
        come(&mut queue, &table, "x.a.com", 6, HoldReason::Spin),
        [Word::Full],
        "the same rule"
    );
    assert!(come(&mut queue, &table, "b.com", 7, HoldReason::Spin).is_empty());
    assert_eq!(come(&mut queue, &table, "b.com", 8, HoldReason::Spin), [Word::Full]);
    queue.leave(0, 0);
    assert!(come(&mut queue, &table, "a.com", 9, HoldReason::Spin).is_empty());
}

/// A subscriber of IPv6 has as many addresses as there are in a network of 64 bits.
#[test]
fn sources_have_room_of_their_own() {
    let table = with(&Snapshot::default(), "a.com", Some(spin(json!({}))));
    let mut queue = Queue::new(Bounds { total: 9, per_source: 1 });
    let come = |queue: &mut Queue, ticket: Ticket, source: &str| {
        let mut outcome = Outcome::default();
        let waits = Waits {
            shard: 0,
            ticket,
            why: HoldReason::Spin,
            place: None,
            host: "a.com".into(),
            scheme: Scheme::Http,
            source: source.parse().expect("an address"),
        };
        queue.arrive(waits, &table, Instant::now(), &mut outcome);
        outcome.said.is_empty()
    };
    assert!(come(&mut queue, 1, "2001:db8::1"));
    assert!(!come(&mut queue, 2, "2001:db8::ffff:2"));
    assert!(come(&mut queue, 3, "2001:db8:0:1::1"));
    assert!(come(&mut queue, 4, "192.0.2.1"));
    assert!(!come(&mut queue, 5, "::ffff:192.0.2.1"));
    queue.leave(0, 1);
    assert!(come(&mut queue, 6, "2001:db8::3"));
}

#[test]
fn the_first_who_waits_is_told_of_once() {
    let table = with(&Snapshot::default(), "a.com", Some(spin(json!({}))));
    let mut queue = Queue::new(Bounds { total: 9, per_source: 9 });
    let mut begun = BTreeMap::new();
    for (ticket, host) in (0..).zip(["x.a.com", "a.com", "y.a.com"]) {
        let mut outcome = Outcome::default();
        let waits = Waits {
            shard: 0,
            ticket,
            why: HoldReason::Spin,
            place: None,
            host: host.into(),
            scheme: Scheme::Https,
            source: address(1),
        };
        queue.arrive(waits, &table, Instant::now(), &mut outcome);
        for Begun { name, .. } in outcome.begun {
            *begun.entry(name.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(begun, BTreeMap::from([("a.com".to_owned(), 1)]));
    assert_eq!(queue.by_name(), HashMap::from([("a.com".into(), 3)]));
}

#[test]
fn a_backend_that_comes_back_is_whose_backend_it_is() {
    let hold =
        |port: u16| read(&json!(["proxy", {"backends": [["10.1.1.1", port]], "hold": 5}, true]));
    let table = with(&Snapshot::default(), "a.com", Some(hold(1)));
    let table = with(&table, "b.com", Some(hold(2)));
    let mut queue = Queue::new(Bounds { total: 9, per_source: 9 });
    assert!(come(&mut queue, &table, "a.com", 1, HoldReason::NoBackend).is_empty());
    assert!(come(&mut queue, &table, "b.com", 2, HoldReason::NoBackend).is_empty());
    // a request that comes now need not find that out itself
    assert!(come(&mut queue, &table, "b.com", 3, HoldReason::Behind).is_empty());
    assert_eq!(queue.without_backend().count(), 2);
    let mut outcome = Outcome::default();
    queue.reached(|rule| *rule == hold(2), Instant::now(), &mut outcome);
    assert_eq!(tickets(outcome), [2, 3]);
    assert_eq!(queue.without_backend().count(), 1);
}
