//! `top` drawn into memory, compared as text.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::*;
use crate::client::sse::Event;
use crate::client::top::figures::{Backend, ChangeLine, Close, Fleet, Host};
use crate::client::top::model::{Answered, Sort};

fn screen() -> Screen {
    let mut screen = Screen::new("http://localhost:8042", 200);
    let event = |kind: &str, data: Value| Event { kind: kind.to_owned(), data: data.to_string() };
    screen.take(&event("hello", json!({"version": "0.1.0"})));
    for rate in [0.0, 500.0, 1000.0] {
        screen.take(&event(
            "traffic",
            json!({
                "rules": 1_000_000, "held": 3, "down": ["127.0.0.1:8001"],
                "totals": {"requests_per_second": rate, "bytes_received_per_second": 1536,
                    "bytes_sent_per_second": 12_582_912, "open_connections": 512,
                    "open_requests": 9},
                "shards": [{"requests_per_second": 600, "busy": 0.25},
                    {"requests_per_second": 400, "busy": 0.95}],
                "busiest": [
                    {"host": "www.example.com", "requests_per_second": 900.5, "open_requests": 8,
                        "completed_requests": 123_456_789,
                        "bytes_received_per_second": 1500, "bytes_sent_per_second": 12_000_000,
                        "answers": {"2xx": 123_456_000, "3xx": 700, "4xx": 80, "5xx": 9}},
                    {"host": "a-very-long-name-that-does-not-fit.of-a-customer.example.org",
                        "requests_per_second": 0.4, "held_requests": 3},
                    {"host": "idle.example.com"},
                ],
            }),
        ));
    }
    screen
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal =
        Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    let places = Places::of(Rect::new(0, 0, width, height), screen.traffic.shards.len());
    screen.fit(places.rows());
    terminal.draw(|frame| draw(frame, screen)).expect("memory takes all");
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(buffer.area.width.into());
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
        .map(|row| row.trim_end().to_owned())
        .collect()
}

#[track_caller]
fn expect(screen: &mut Screen, width: u16, height: u16, expected: &str) {
    let found = text(&drawn(screen, width, height)).join("\n");
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn all_of_it() {
    let expected = "\
mantrid 0.1.0 on http://localhost:8042, 1.0M rules
1.0k requests/s   0 errors/s   1.5K/s in   12.0M/s out   512 connections   9 open   3 held
backend down: 127.0.0.1:8001
 1.0k ┤                                                                                                █
    0 ┤                                                                                               ██
shard 0   ██░░░░░░░░  25%    600/s    shard 1   █████████░  95%    400/s
HOST                        ▼REQ/S   ERR/S   HELD     P95   OPEN    IN/S   OUT/S   LTD/S     P50     P99
www.example.com                900       0      0       -      8    1.5K   11.4M       0       -       -
a-very-long-name-that-do…      0.4       0      3       -      0      0B      0B       0       -       -
idle.example.com                 0       0      0       -      0      0B      0B       0       -       -



q quit   ? help   ↑↓ Enter open   s sort   / search   f filter   b backends";
    expect(&mut screen(), 104, 14, expected);
}

#[test]
fn a_narrow_and_low_terminal() {
    let expected = "\
mantrid 0.1.0 on http://localhost:8042, 1.0M rules
1.0k requests/s   0 errors/s   1.5K/s in   12.0M/s
backend down: 127.0.0.1:8001
HOST                         ▼REQ/S   ERR/S   HELD
www.example.com                 900       0      0
a-very-long-name-that-doe…      0.4       0      3
idle.example.com                  0       0      0
q quit   ? help   ↑↓ Enter open   s sort   / searc";
    expect(&mut screen(), 50, 8, expected);
}

/// A screen with the data of a daemon that has orders, changes and a fleet.
fn night() -> Screen {
    let mut screen = screen();
    let host = |name: &str, value: Value| Host::of(name, &value);
    screen.learn(Answered::Hosts(vec![
        host(
            "failing.example",
            json!({"requests_per_second": 50, "errors_per_second": 49.5,
            "answers": {"2xx": 5, "5xx": 4950}, "p50": 0.002, "p95": 0.004, "p99": 0.25}),
        ),
        host("held.example", json!({"held_requests": 12, "open_requests": 12})),
    ]));
    let backend = |address: &str, value: Value| Backend::of(address, &value);
    screen.learn(Answered::Backends(vec![
        backend(
            "10.0.0.1:80",
            json!({"state": "up", "open_requests": 7,
            "requests_per_second": 50, "errors_per_second": 49.5, "p50": 2, "p95": 2.5}),
        ),
        backend(
            "10.0.0.2:80",
            json!({"state": "down", "since": 951_782_399,
            "reason": "connection refused", "failures": 17}),
        ),
    ]));
    screen.learn(Answered::Fleet(Fleet::of(&json!({
        "fleet": "prod", "node": "a", "sequence": 9, "connected": true, "lost": null,
        "nodes": {"a": {"sequence": 9, "age": 1, "requests_per_second": 1000},
            "b": {"sequence": 7, "age": 1, "held": 3}},
    }))));
    screen
}

#[test]
fn a_wide_terminal_has_backends_and_nodes_beside_the_hosts() {
    let expected = "\
mantrid 0.1.0 on http://localhost:8042, 1.0M rules, fleet prod with 2 nodes b behind 2
1.0k requests/s   0 errors/s   1.5K/s in   12.0M/s out   512 connections   9 open   3 held
backend down: 127.0.0.1:8001
 1.0k ┤                                                                                                                                                                  █
                                                                                                                                                                        ▄█
    0 ┤                                                                                                                                                                 ██
                   ╵-150s                        ╵-120s                        ╵-90s                         ╵-60s                         ╵-30s
shard 0   ██░░░░░░░░  25%    600/s    shard 1   █████████░  95%    400/s
HOST                        ▼REQ/S   ERR/S   HELD     P95   OPEN    IN/S   OUT/S   LTD/S     P50     P99    5XX BACKEND            STATE         REQ/S  ERR/S    P95  OPEN
failing.example                 50    49.5      0   4.0ms      0      0B      0B       0   2.0ms   250ms   4950 10.0.0.2:80        down              0      0      -     0
held.example                     0       0     12       -     12      0B      0B       0       -       -      0   since 2000-02-28T23:59:59Z: connection refused
                                                                                                                10.0.0.1:80        up               50   49.5   2.5s     7






                                                                                                                NODES OF PROD              STATE             REQ/S    HELD
                                                                                                                a                          ok                 1.0k       0
                                                                                                                b                          behind 2              0       3
q quit   ? help   ↑↓ Enter open   s sort   / search   f filter   b backends";
    expect(&mut night(), 170, 22, expected);
}

#[test]
fn enter_shows_rule_cause_backends_and_changes() {
    let mut screen = night();
    screen.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
    let rule = json!(["proxy", {"backends": [["10.0.0.1", 80], ["10.0.0.2", 80]]}, false]);
    let stats = json!({"requests_per_second": 50, "errors_per_second": 49.5, "p50": 2.5,
        "answers": {"2xx": 5, "5xx": 4950}});
    let mut close = Close::of("failing.example", &rule, &stats, &Value::Null);
    close.changes.push(ChangeLine::of(&json!({"time": 951_782_399, "who": "alice",
        "verb": "PUT", "before": null, "rule": rule})));
    screen.learn(Answered::Close(Box::new(close)));
    let expected = "\
mantrid 0.1.0 on http://localhost:8042, 1.0M rules, fleet prod with 2 nodes b behind 2
1.0k requests/s   0 errors/s   1.5K/s in   12.0M/s out   512 connections   9 open   3 held
backend down: 127.0.0.1:8001
 1.0k ┤                                                                                            █
                                                                                                  ▄█
    0 ┤                                                                                           ██
         ╵-90s                         ╵-60s                         ╵-30s
shard 0   ██░░░░░░░░  25%    600/s    shard 1   █████████░  95%    400/s
failing.example
rule      proxy<10.0.0.1:80,10.0.0.2:80>
traffic   50 requests/s, 49.5 errors/s, 0 limited/s, 0 open, 0 held, 0B and 0B bytes/s in and out
latency   p50 2.5s, p95 -, p99 -
responses 5 2xx, 0 3xx, 0 4xx, 4950 5xx
cause     10.0.0.2:80 is down since 2000-02-28T23:59:59Z: connection refused
          10.0.0.1:80 answers with errors: 49.5 of 50 requests/s
          10.0.0.1:80 is slow: half of its responses take 2.0s or more

BACKENDS
  10.0.0.1:80                    up      50 requests/s, 49.5 errors/s, p95 2.5s, 7 open, 0 failed to
connect
  10.0.0.2:80                    down    0 requests/s, 0 errors/s, p95 -, 0 open, 17 failed to
connect

Esc back   ? help   p pause   q quit";
    expect(&mut screen, 100, 24, expected);
}

#[test]
fn limits_are_a_cause() {
    let mut screen = night();
    screen.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
    let stats = json!({"errors_per_second": 2, "limited_per_second": 2});
    let rule = json!(["proxy", {"backends": [["10.0.0.9", 80]]}, false]);
    let close = Close::of("failing.example", &rule, &stats, &Value::Null);
    screen.learn(Answered::Close(Box::new(close)));
    let shown = text(&drawn(&mut screen, 100, 24)).join("\n");
    assert!(shown.contains("cause     its limits turn 2 requests/s away"), "{shown}");
    assert!(!shown.contains("of no backend that is known"), "{shown}");
}

#[test]
fn help_stands_over_the_hosts() {
    let mut screen = night();
    screen.key(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
    let shown = text(&drawn(&mut screen, 100, 24)).join("\n");
    for (_, word, key) in Sort::ALL {
        assert!(shown.contains(&format!("{key}  {word}")), "{shown}");
    }
    assert!(shown.contains("Enter    open it"), "{shown}");
}

#[test]
fn no_terminal_is_too_small() {
    for width in [0, 1, 2, 9, 23, 24, 25, 33, 37, 38, 39, 76] {
        for height in [0, 1, 2, 5, 6, 7, 13, 14] {
            drawn(&mut screen(), width, height);
        }
    }
    drawn(&mut screen(), 400, 100);
    drawn(&mut Screen::new("http://localhost:8042", 200), 80, 24);
}

#[test]
fn many_shards_leave_room_for_hosts() {
    let mut screen = screen();
    screen.traffic.shards = vec![Shard::default(); 256];
    let places = Places::of(Rect::new(0, 0, 80, 24), 256);
    assert_eq!(places.rows(), 24 - 5 - 4 - usize::from(SHARD_ROWS_MAX));
    drawn(&mut screen, 80, 24);
}

#[test]
fn faults_are_red() {
    let mut screen = screen();
    let red = |terminal: &Terminal<TestBackend>, x, y| {
        terminal.backend().buffer()[(x, y)].fg == Color::Red
    };
    let terminal = drawn(&mut screen, 104, 14);
    assert!(text(&terminal)[2].starts_with("backend down: 127.0.0.1:8001"));
    assert!(red(&terminal, 0, 2));
    let row = text(&terminal).iter().position(|row| row.starts_with("www")).expect("its row");
    let column = text(&terminal)[row].chars().position(|c| c == '9').expect("requests");
    assert!(!red(&terminal, column as u16, row as u16));
    let terminal = drawn(&mut night(), 104, 14);
    let row = text(&terminal).iter().position(|row| row.starts_with("fail")).expect("its row");
    assert!(text(&terminal)[row].contains("49.5"));
    let column = text(&terminal)[row].find("49.5").expect("errors");
    assert!(red(&terminal, column as u16, row as u16));
    screen.lost = Some("no daemon answers".to_owned());
    let terminal = drawn(&mut screen, 104, 14);
    assert!(text(&terminal)[2].contains("no connection, trying again: no daemon answers"));
}

#[test]
fn the_sorted_column_is_marked() {
    let mut screen = screen();
    screen.sort = Sort::Held;
    let terminal = drawn(&mut screen, 80, 20);
    let row = text(&terminal).iter().position(|row| row.contains("HOST")).expect("the header");
    assert!(text(&terminal)[row].contains("▼HELD"));
    let column = text(&terminal)[row].chars().position(|c| c == '▼').expect("its mark");
    let cell = &terminal.backend().buffer()[(column as u16, row as u16)];
    assert!(cell.modifier.contains(Modifier::BOLD | Modifier::REVERSED));
}

#[test]
fn the_last_line_tells_keys_and_filter() {
    let mut screen = screen();
    let mut last = |code: KeyCode| {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE));
        text(&drawn(&mut screen, 100, 12)).pop().unwrap_or_default()
    };
    assert!(last(KeyCode::Char('p')).starts_with("PAUSED"));
    assert!(last(KeyCode::Char('/')).starts_with("/█"));
    assert!(last(KeyCode::Char('w')).starts_with("/w█"));
    assert!(last(KeyCode::Enter).contains("only w (Esc: all)"));
    assert!(last(KeyCode::Char('f')).contains("only failing hosts (f: others)"));
}

/// Checks that a narrow terminal shows the column by which hosts are ordered, in place of the last
/// one.
#[test]
fn column_of_the_order_is_never_left_out() {
    let mut screen = screen();
    for (sort, _, _) in Sort::ALL {
        screen.sort = sort;
        for width in [40, 50, 80] {
            let rows = text(&drawn(&mut screen, width, 12));
            let head = rows.iter().find(|row| row.starts_with("HOST")).expect("the header");
            assert!(head.contains('▼'), "{sort:?} at {width}: {head}");
        }
    }
}
