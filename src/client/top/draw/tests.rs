//! `top` drawn into memory, compared as text.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::super::super::sse::Event;
use super::*;

fn screen() -> Screen {
    let mut screen = Screen::new("http://localhost:8042");
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
1.0k requests/s   1.5K/s in   12.0M/s out   512 connections   9 open   3 held
backend down: 127.0.0.1:8001
                                                                                                       █
                                                                                                      ██
shard 0   ██░░░░░░░░  25%    600/s    shard 1   █████████░  95%    400/s
HOST                         ▼REQ/S   OPEN   HELD    IN/S   OUT/S    5XX    4XX  COMPLETED    3XX    2XX
www.example.com                 900      8      0    1.5K   11.4M      9     80       123M    700   123M
a-very-long-name-that-do…       0.4      0      3      0B      0B      0      0          0      0      0
idle.example.com                  0      0      0      0B      0B      0      0          0      0      0



q quit   ↑↓ PgUp PgDn scroll   s sort   / filter   p pause";
    expect(&mut screen(), 104, 14, expected);
}

#[test]
fn a_narrow_and_low_terminal() {
    let expected = "\
mantrid 0.1.0 on http://localhost:8042, 1.0M rules
1.0k requests/s   1.5K/s in   12.0M/s out   512 co
backend down: 127.0.0.1:8001
HOST                          ▼REQ/S   OPEN   HELD
www.example.com                  900      8      0
a-very-long-name-that-doe…       0.4      0      3
idle.example.com                   0      0      0
q quit   ↑↓ PgUp PgDn scroll   s sort   / filter";
    expect(&mut screen(), 50, 8, expected);
}

#[test]
fn no_terminal_is_too_small() {
    for width in [0, 1, 2, 9, 23, 24, 25, 33, 37, 38, 39, 76] {
        for height in [0, 1, 2, 5, 6, 7, 13, 14] {
            drawn(&mut screen(), width, height);
        }
    }
    drawn(&mut screen(), 400, 100);
    drawn(&mut Screen::new("http://localhost:8042"), 80, 24);
}

#[test]
fn many_shards_leave_room_for_hosts() {
    let mut screen = screen();
    screen.traffic.shards = vec![Shard::default(); 256];
    let places = Places::of(Rect::new(0, 0, 80, 24), 256);
    assert_eq!(places.rows(), 24 - 5 - 2 - usize::from(SHARD_ROWS_MAX));
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
    screen.lost = Some("no daemon answers".to_owned());
    let terminal = drawn(&mut screen, 104, 14);
    assert!(text(&terminal)[2].contains("no connection, trying again: no daemon answers"));
}

#[test]
fn the_sorted_column_is_marked() {
    let mut screen = screen();
    screen.sort = Sort::Name;
    let terminal = drawn(&mut screen, 80, 20);
    let row = text(&terminal).iter().position(|row| row.contains("HOST")).expect("the header");
    assert!(text(&terminal)[row].starts_with("▼HOST"));
    let cell = &terminal.backend().buffer()[(0, row as u16)];
    assert!(cell.modifier.contains(Modifier::BOLD | Modifier::REVERSED));
}

#[test]
fn the_last_line_tells_keys_and_filter() {
    let mut screen = screen();
    let mut last = |code: KeyCode| {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE));
        text(&drawn(&mut screen, 100, 12)).pop().unwrap_or_default()
    };
    assert!(last(KeyCode::Char('p')).ends_with("PAUSED"));
    assert!(last(KeyCode::Char('/')).starts_with("/█"));
    assert!(last(KeyCode::Char('w')).starts_with("/w█"));
    assert!(last(KeyCode::Enter).ends_with("only w of 3 (Esc: all)"));
}

#[test]
fn figures() {
    for (value, expected) in [
        (0.0, "0"),
        (0.04, "0"),
        (0.05, "0.1"),
        (3.0, "3"),
        (12.34, "12.3"),
        (99.94, "99.9"),
        (99.95, "100"),
        (999.9, "1000"),
        (999.96, "1.0k"),
        (1000.0, "1.0k"),
        (12_345.0, "12.3k"),
        (123_456_789.0, "123M"),
        (9e18, "9000P"),
    ] {
        assert_eq!(figure(value), expected, "{value}");
    }
    assert_eq!(bytes(0.0), "0B");
    assert_eq!(bytes(1023.0), "1023B");
    assert_eq!(bytes(1024.0), "1.0K");
    assert_eq!(number(99_999), "99999");
    assert_eq!(number(100_000), "100k");
}
