//! The look of `top`: a pure function of the screen's state. This file places the parts; each part
//! has a file of its own.

mod help;
mod host;
mod plot;
mod side;
mod styles;
mod table;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::figures::Shard;
use super::format::{bytes, figure, number};
use super::model::{Pane, Screen};
use crate::client::print::counted;
use styles::{ALARM, FAINT, STRONG};

/// Columns of one shard; shards are shown side by side.
const SHARD_COLUMNS: u16 = 38;
const SHARD_ROWS_MAX: u16 = 4;
const GAUGE_CELLS: usize = 10;
/// Rows from which on shards and history are shown; with fewer, hosts need the room.
const ROWS_FOR_ALL: u16 = 14;
/// Rows from which on the plot is higher and has a scale of time.
const ROWS_FOR_TIME: u16 = 20;
/// Columns from which on backends and nodes stand beside the hosts.
const COLUMNS_FOR_SIDE: u16 = 150;
const SIDE_COLUMNS: u16 = 58;

/// Areas of the screen.
pub struct Places {
    title: Rect,
    totals: Rect,
    state: Rect,
    plot: Rect,
    shards: Rect,
    main: Rect,
    /// The part to the right of the main one, where the terminal is wide.
    side: Option<Rect>,
    keys: Rect,
}

impl Places {
    pub fn of(area: Rect, shards: usize) -> Places {
        let per_row = usize::from((area.width / SHARD_COLUMNS).max(1));
        let shard_rows = shards.div_ceil(per_row).min(SHARD_ROWS_MAX.into()) as u16;
        let (plot, shard_rows) = match area.height {
            ..ROWS_FOR_ALL => (0, 0),
            ROWS_FOR_ALL..ROWS_FOR_TIME => (2, shard_rows),
            _ => (4, shard_rows),
        };
        let rows = [1, 1, 1, plot, shard_rows].map(Constraint::Length);
        let rows = rows.into_iter().chain([Constraint::Min(0), Constraint::Length(1)]);
        let [title, totals, state, plot, shards, main, keys] = Layout::vertical(rows).areas(area);
        let (main, side) = if area.width < COLUMNS_FOR_SIDE {
            (main, None)
        } else {
            let columns = [Constraint::Min(0), Constraint::Length(1)];
            let columns = columns.into_iter().chain([Constraint::Length(SIDE_COLUMNS)]);
            let [main, _, side] = Layout::horizontal(columns).areas(main);
            (main, Some(side))
        };
        Places { title, totals, state, plot, shards, main, side, keys }
    }

    /// Number of hosts that fit below the titles of the columns.
    pub fn rows(&self) -> usize {
        self.main.height.saturating_sub(1).into()
    }
}

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let places = Places::of(frame.area(), screen.traffic.shards.len());
    frame.render_widget(title(screen), places.title);
    frame.render_widget(totals(screen), places.totals);
    frame.render_widget(state(screen), places.state);
    plot::draw(frame, screen, places.plot);
    frame.render_widget(shards(screen, places.shards), places.shards);
    match (&screen.close, screen.pane) {
        (Some(close), _) => host::draw(frame, close, &screen.backends, places.main),
        (None, Pane::Backends) if places.side.is_none() => {
            side::backends(frame, screen, places.main);
        }
        (None, _) => table::draw(frame, screen, places.main),
    }
    if let Some(side) = places.side {
        side::draw(frame, screen, side);
    }
    if screen.helping {
        help::draw(frame);
    }
    frame.render_widget(keys(screen), places.keys);
}

fn title(screen: &Screen) -> Line<'_> {
    let rules = counted(number(screen.traffic.rules), "rule");
    let mut spans = vec![
        Span::styled(format!("mantrid {}", screen.version), STRONG),
        Span::raw(format!(" on {}, {rules}", screen.address)),
    ];
    spans.extend(side::fleet_in_short(screen));
    Line::from(spans)
}

fn totals(screen: &Screen) -> Line<'_> {
    let (traffic, totals) = (&screen.traffic, &screen.traffic.totals);
    let mut spans = Vec::new();
    for (value, unit, is_alarm) in [
        (figure(totals.requests_rate), " requests/s   ", false),
        (figure(screen.errors_rate), " errors/s   ", host::FAILING <= screen.errors_rate),
        (bytes(totals.received_rate), "/s in   ", false),
        (bytes(totals.sent_rate), "/s out   ", false),
        (number(traffic.open_connections), " connections   ", false),
        (number(totals.open), " open   ", false),
        (number(traffic.held), " held", false),
    ] {
        spans.push(Span::styled(value, if is_alarm { ALARM } else { STRONG }));
        spans.push(Span::raw(unit));
    }
    Line::from(spans)
}

/// Line that says what is wrong, if anything is.
fn state(screen: &Screen) -> Line<'_> {
    let down = &screen.traffic.down;
    match (&screen.lost, down.len()) {
        (Some(why), _) => Line::styled(format!("no connection, trying again: {why}"), ALARM),
        (None, 0) => Line::default(),
        (None, 1) => Line::styled(format!("backend down: {}", down[0]), ALARM),
        (None, count) => Line::styled(format!("{count} backends down: {}", down.join(" ")), ALARM),
    }
}

fn shards(screen: &Screen, place: Rect) -> Paragraph<'static> {
    let per_row = usize::from((place.width / SHARD_COLUMNS).max(1));
    let shards: Vec<(usize, &Shard)> = screen.traffic.shards.iter().enumerate().collect();
    let line = |row: &[(usize, &Shard)]| {
        Line::from_iter(row.iter().flat_map(|&(at, shard)| gauge(at, shard)))
    };
    Paragraph::new(shards.chunks(per_row).map(line).collect::<Vec<_>>())
}

fn gauge(index: usize, shard: &Shard) -> [Span<'static>; 4] {
    // Rounded down: only a shard that is busy all the time has a full gauge.
    let full = (shard.busy * GAUGE_CELLS as f64) as usize;
    let colour = match shard.busy {
        busy if busy < 0.7 => Color::Green,
        busy if busy < 0.9 => Color::Yellow,
        _ => Color::Red,
    };
    let percent = (shard.busy * 100.0).round();
    let rest = format!(" {percent:>3}% {:>6}/s ", figure(shard.requests_rate));
    let name = format!("shard {index:<3} ");
    let used = name.len() + GAUGE_CELLS + rest.len();
    [
        Span::raw(name),
        Span::styled("█".repeat(full), Style::new().fg(colour)),
        Span::styled("░".repeat(GAUGE_CELLS - full), FAINT),
        Span::raw(format!("{rest}{}", " ".repeat(usize::from(SHARD_COLUMNS).saturating_sub(used)))),
    ]
}

fn keys(screen: &Screen) -> Line<'_> {
    if screen.typing {
        return Line::from(format!("/{}█  (Enter: keep, Esc: all hosts)", screen.filter));
    }
    let text = match screen.close {
        Some(_) => "Esc back   ? help   p pause   q quit",
        None => "q quit   ? help   ↑↓ Enter open   s sort   / search   f filter   b backends",
    };
    let mut spans = Vec::new();
    if screen.paused {
        spans.push(Span::styled("PAUSED   ", STRONG));
    }
    if let Some(only) = screen.only {
        spans.push(Span::styled(format!("only {} hosts (f: others)   ", only.word()), STRONG));
    }
    if !screen.filter.is_empty() {
        spans.push(Span::styled(format!("only {} (Esc: all)   ", screen.filter), STRONG));
    }
    spans.push(Span::styled(text, FAINT));
    Line::from(spans)
}

#[cfg(test)]
mod tests;
