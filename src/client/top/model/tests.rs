//! Keys, events and answers, and how they change the screen.

use serde_json::json;

use super::*;
use crate::client::top::figures::Shard;

fn traffic(data: &Value) -> Event {
    Event { kind: "traffic".to_owned(), data: data.to_string() }
}

fn busy(count: u64) -> Screen {
    let mut screen = Screen::new("here", 200);
    let hosts: Vec<Value> = (0..count)
        .map(|n| {
            let host = format!("h{n}.com");
            json!({"host": host, "requests_per_second": n, "open_requests": count - n})
        })
        .collect();
    screen.take(&traffic(&json!({ "busiest": hosts })));
    screen.fit(10);
    screen
}

fn press(screen: &mut Screen, code: KeyCode) -> Flow {
    screen.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn names(screen: &Screen) -> Vec<&str> {
    screen.hosts().iter().map(|host| host.name.as_str()).collect()
}

#[test]
fn a_traffic_event_is_read() {
    let mut screen = Screen::new("here", 200);
    screen.take(&traffic(&json!({
        "time": 1.5, "rules": 7, "held": 2, "down": ["127.0.0.1:8000"],
        "totals": {"requests_per_second": 2.5, "bytes_sent_per_second": 3.0,
            "bytes_received_per_second": 4, "open_connections": 5, "completed_requests": 6},
        "shards": [
            {"requests_per_second": 1, "open_connections": 2, "busy": 0.25},
            {"busy": 7}
        ],
        "busiest": [{"host": "a.com", "open_requests": 1, "answers": {"2xx": 1, "5xx": 4}}, {}],
    })));
    let found = &screen.traffic;
    assert_eq!((found.rules, found.held, found.open_connections), (7, 2, 5));
    assert_eq!(found.totals.requests_rate, 2.5);
    assert_eq!(found.down, ["127.0.0.1:8000"]);
    assert_eq!(found.shards[0], Shard { requests_rate: 1.0, open_connections: 2, busy: 0.25 });
    assert_eq!(found.shards[1].busy, 1.0, "no more than all");
    assert_eq!(found.hosts.len(), 1, "a host without a name is none");
    assert_eq!((found.hosts[0].open, found.hosts[0].answers), (1, [1, 0, 0, 4]));
    assert_eq!(screen.history, [3]);
}

#[test]
fn other_events_harm_nothing() {
    let mut screen = Screen::new("here", 200);
    for data in ["", "[]", "{\"busiest\": 3, \"totals\": [], \"shards\": {}}", "{\"rules\": -1}"] {
        screen.take(&Event { kind: "traffic".to_owned(), data: data.to_owned() });
        assert_eq!(screen.traffic, Traffic::default(), "{data}");
    }
}

#[test]
fn keys_choose_the_order() {
    let mut screen = busy(3);
    assert_eq!(names(&screen), ["h2.com", "h1.com", "h0.com"]);
    assert_eq!(press(&mut screen, KeyCode::Char('o')), Flow::Go);
    assert_eq!((screen.sort, names(&screen)), (Sort::Open, vec!["h0.com", "h1.com", "h2.com"]));
    assert_eq!(screen.wanted().sort.word(), "open");
    press(&mut screen, KeyCode::Char('s'));
    assert_eq!(screen.sort, Sort::Bytes);
    press(&mut screen, KeyCode::Char('s'));
    press(&mut screen, KeyCode::Char('s'));
    assert_eq!(screen.sort, Sort::Requests);
    press(&mut screen, KeyCode::Char('S'));
    assert_eq!(screen.sort, Sort::Limited);
    for (sort, _, key) in Sort::ALL {
        press(&mut screen, KeyCode::Char(key));
        assert_eq!(screen.sort, sort);
    }
}

fn host(name: &str, value: Value) -> Host {
    Host::of(name, &value)
}

#[test]
fn the_order_of_the_daemon_is_kept() {
    let mut screen = busy(3);
    let hosts = ["z.com", "a.com", "m.com"].map(|name| host(name, json!({})));
    screen.learn(Answered::Hosts(hosts.to_vec()));
    assert_eq!(names(&screen), ["z.com", "a.com", "m.com"]);
    // Hosts that the daemon found by something else than their name stay. While a filter is typed,
    // names are filtered at once.
    for c in ['/', 'm'] {
        press(&mut screen, KeyCode::Char(c));
    }
    press(&mut screen, KeyCode::Char('.'));
    assert_eq!(names(&screen), ["m.com"]);
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.wanted().search, "m.");
    assert_eq!(names(&screen).len(), 3);
}

#[test]
fn a_key_shows_the_hosts_in_one_condition() {
    let mut screen = busy(3);
    let learn = |screen: &mut Screen| {
        screen.learn(Answered::Hosts(vec![host("down.com", json!({})), host("z.com", json!({}))]));
    };
    learn(&mut screen);
    press(&mut screen, KeyCode::Down);
    let mut seen = vec![screen.wanted().only];
    for _ in 0..5 {
        press(&mut screen, KeyCode::Char('f'));
        seen.push(screen.wanted().only);
    }
    let words: Vec<_> = seen.iter().map(|only| only.map(Condition::word)).collect();
    let expected = [None, Some("failing"), Some("held"), Some("down"), Some("limited"), None];
    assert_eq!(words, expected);
    assert_eq!(screen.chosen, 0);
    // Until the daemon has answered, only hosts are shown that a `traffic` event says are failing.
    press(&mut screen, KeyCode::Char('f'));
    assert!(names(&screen).is_empty());
    screen.take(&traffic(&json!({"busiest": [
        {"host": "a.com", "errors_per_second": 2}, {"host": "b.com", "held_requests": 1}]})));
    assert_eq!(names(&screen), ["a.com"]);
    learn(&mut screen);
    assert_eq!(names(&screen), ["down.com", "z.com"], "the daemon knows");
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Go);
    assert_eq!(screen.wanted().only, None);
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Quit);
}

#[test]
fn the_chosen_host_is_followed() {
    let mut screen = busy(0);
    let learn = |screen: &mut Screen, names: [&str; 3]| {
        screen.learn(Answered::Hosts(names.map(|name| host(name, json!({}))).to_vec()));
    };
    learn(&mut screen, ["a.com", "b.com", "c.com"]);
    learn(&mut screen, ["c.com", "a.com", "b.com"]);
    assert_eq!(screen.chosen, 0, "nothing was chosen by hand");
    press(&mut screen, KeyCode::Down);
    learn(&mut screen, ["a.com", "b.com", "c.com"]);
    assert_eq!(screen.chosen, 0);
    assert_eq!(names(&screen)[screen.chosen], "a.com");
    learn(&mut screen, ["x.com", "y.com", "z.com"]);
    assert_eq!(screen.chosen, 0, "it is gone: the row stays");
}

#[test]
fn enter_opens_a_host_and_escape_goes_back() {
    let mut screen = busy(3);
    press(&mut screen, KeyCode::Down);
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.wanted().close.as_deref(), Some("h1.com"));
    let close = |name: &str| {
        let rule = json!(["proxy", {"backends": [["127.0.0.1", 8000]]}, false]);
        Close::of(name, &rule, &json!({"held_requests": 2}), &Value::Null)
    };
    screen.learn(Answered::Close(Box::new(close("h2.com"))));
    assert_eq!(screen.close.as_ref().map(|close| close.host.held), Some(0), "of another host");
    screen.learn(Answered::Close(Box::new(close("h1.com"))));
    let shown = screen.close.as_ref().expect("a host");
    assert_eq!((shown.host.held, shown.targets.join(" ")), (2, "127.0.0.1:8000".to_owned()));
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Go);
    assert_eq!(screen.wanted().close, None);
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Quit);
}

#[test]
fn help_closes_with_any_key() {
    let mut screen = busy(1);
    press(&mut screen, KeyCode::Char('?'));
    assert!(screen.helping);
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Go);
    assert!(!screen.helping);
}

#[test]
fn errors_are_those_of_a_second() {
    let mut screen = Screen::new("here", 200);
    let mut tell = |time: f64, sum: u64| {
        screen.take(&traffic(&json!({"time": time, "totals": {"answers": {"5xx": sum}}})));
        screen.errors_rate
    };
    assert_eq!(tell(1.0, 100), 0.0);
    assert_eq!(tell(3.0, 110), 5.0);
    assert_eq!(tell(4.0, 0), 0.0, "another daemon");
    screen.take(&traffic(&json!({"time": 5, "totals": {"errors_per_second": 2.5}})));
    assert_eq!(screen.errors_rate, 2.5);
}

#[test]
fn bad_backends_stand_first() {
    let mut screen = busy(0);
    let backend = |address: &str, state: &str, open: u64| {
        Backend::of(address, &json!({"state": state, "open_requests": open}))
    };
    let known = [backend("a:1", "up", 1), backend("b:1", "up", 5), backend("c:1", "down", 0)];
    screen.learn(Answered::Backends(known.to_vec()));
    let order: Vec<&str> = screen.backends.iter().map(|b| b.address.as_str()).collect();
    assert_eq!(order, ["c:1", "b:1", "a:1"]);
}

#[test]
fn the_past_stands_behind_what_was_seen() {
    let mut screen = busy(0);
    screen.take(&traffic(&json!({"totals": {"requests_per_second": 5}})));
    screen.learn(Answered::Past(vec![3; 600]));
    assert_eq!(screen.history.iter().take(4).copied().collect::<Vec<_>>(), [5, 0, 3, 3]);
    assert_eq!(screen.history.len(), HISTORY_MAX);
}

#[test]
fn an_address_may_be_down_for_one_rule_alone() {
    let backend = Backend::of(
        "a:1",
        &json!({"state": "partly_down", "checks": [
            {"check": "/a", "rules": ["a.com"], "state": "down", "reason": "503"},
            {"check": "/b", "rules": ["b.com"], "state": "up"},
        ]}),
    );
    assert_eq!(backend.trouble("a.com").map(|check| check.reason.as_str()), Some("503"));
    assert_eq!(backend.trouble("b.com"), None);
    let rule = json!(["proxy", {"backends": ["app.internal:80"]}, false]);
    let which = json!({"backends": [{"backend": "app.internal:80", "address": "10.0.0.1:80"}]});
    let close = Close::of("a.com", &rule, &Value::Null, &which);
    assert_eq!(close.targets, ["10.0.0.1:80"], "a name is known by its addresses");
}

#[test]
fn a_fleet_is_read() {
    assert_eq!(Fleet::of(&Value::Null), None);
    let fleet = Fleet::of(&json!({
        "fleet": "prod", "node": "a", "sequence": 9, "connected": false, "lost": null,
        "nodes": {"a": {"sequence": 9, "age": 1}, "b": {"sequence": 7, "age": 1, "held": 3}},
    }))
    .expect("a fleet");
    assert!(fleet.trouble.is_some_and(|why| why.contains("out of reach")));
    assert_eq!((fleet.nodes[0].behind, fleet.nodes[1].behind, fleet.nodes[1].held), (0, 2, 3));
}

#[test]
fn a_filter_is_typed_and_taken_back() {
    let mut screen = busy(12);
    press(&mut screen, KeyCode::Char('/'));
    for c in ['H', '1', 'q', 's'] {
        assert_eq!(press(&mut screen, KeyCode::Char(c)), Flow::Go, "text, no command");
    }
    assert!(names(&screen).is_empty());
    press(&mut screen, KeyCode::Backspace);
    press(&mut screen, KeyCode::Backspace);
    press(&mut screen, KeyCode::Enter);
    assert_eq!(names(&screen), ["h11.com", "h10.com", "h1.com"]);
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Go, "the first takes the filter back");
    assert_eq!(names(&screen).len(), 12);
    assert_eq!(press(&mut screen, KeyCode::Esc), Flow::Quit);
}

#[test]
fn scrolling_stays_within_the_rows() {
    let mut screen = busy(25);
    press(&mut screen, KeyCode::Up);
    assert_eq!(screen.first, 0);
    for (code, chosen, first) in [
        (KeyCode::Down, 1, 0),
        (KeyCode::PageDown, 11, 2),
        (KeyCode::PageDown, 21, 12),
        (KeyCode::Down, 22, 13),
        (KeyCode::PageUp, 12, 12),
        (KeyCode::Home, 0, 0),
        (KeyCode::End, 24, 15),
    ] {
        press(&mut screen, code);
        assert_eq!((screen.chosen, screen.first), (chosen, first), "{code:?}");
    }
    screen.take(&traffic(&json!({})));
    screen.fit(10);
    assert_eq!((screen.chosen, screen.first), (0, 0), "the hosts are gone");
}

#[test]
fn paused_is_what_is_shown() {
    let mut screen = busy(3);
    press(&mut screen, KeyCode::Char('p'));
    screen.take(&traffic(&json!({})));
    assert_eq!(screen.hosts().len(), 3);
    assert_eq!(screen.history.len(), 2);
    press(&mut screen, KeyCode::Char('p'));
    screen.take(&traffic(&json!({})));
    assert!(screen.hosts().is_empty());
}

#[test]
fn control_c_quits_always() {
    let mut screen = busy(1);
    press(&mut screen, KeyCode::Char('/'));
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.key(key), Flow::Quit);
    assert_eq!(press(&mut busy(1), KeyCode::Char('q')), Flow::Quit);
}
