//! How `top` looks: a pure function of the screen's state.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};

use super::model::{Host, Screen, Shard, Sort};
use crate::client::print::counted;

/// Shards are shown side by side, each so wide.
const SHARD_COLUMNS: u16 = 38;
const SHARD_ROWS_MAX: u16 = 4;
const GAUGE_CELLS: usize = 10;
/// Names get what the figures leave, but no less.
const NAME_COLUMNS_MIN: u16 = 24;
/// Below it, hosts matter more than shards and history.
const ROWS_FOR_ALL: u16 = 14;

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// A column of the table of hosts, behind the name.
struct Column {
    title: &'static str,
    columns: u16,
    sort: Option<Sort>,
    cell: fn(&Host) -> String,
}

const fn column(
    title: &'static str,
    columns: u16,
    sort: Option<Sort>,
    cell: fn(&Host) -> String,
) -> Column {
    Column { title, columns, sort, cell }
}

/// Columns in the order of their worth: a narrow terminal lacks the last ones.
const COLUMNS: &[Column] = &[
    column("REQ/S", 9, Some(Sort::Requests), |host| figure(host.requests_rate)),
    column("OPEN", 7, Some(Sort::Open), |host| number(host.open)),
    column("HELD", 7, Some(Sort::Held), |host| number(host.held)),
    column("IN/S", 8, Some(Sort::Received), |host| bytes(host.received_rate)),
    column("OUT/S", 8, Some(Sort::Sent), |host| bytes(host.sent_rate)),
    column("5XX", 7, Some(Sort::ServerErrors), |host| number(host.answers[3])),
    column("4XX", 7, None, |host| number(host.answers[2])),
    column("COMPLETED", 11, Some(Sort::Completed), |host| number(host.completed)),
    column("3XX", 7, None, |host| number(host.answers[1])),
    column("2XX", 7, None, |host| number(host.answers[0])),
];

/// Areas of the screen.
pub struct Places {
    title: Rect,
    totals: Rect,
    state: Rect,
    history: Rect,
    shards: Rect,
    header: Rect,
    hosts: Rect,
    keys: Rect,
}

impl Places {
    pub fn of(area: Rect, shards: usize) -> Places {
        let per_row = usize::from((area.width / SHARD_COLUMNS).max(1));
        let shard_rows = shards.div_ceil(per_row).min(SHARD_ROWS_MAX.into()) as u16;
        let (history, shard_rows) =
            if area.height < ROWS_FOR_ALL { (0, 0) } else { (2, shard_rows) };
        let rows = [1, 1, 1, history, shard_rows, 1].map(Constraint::Length);
        let rows = rows.into_iter().chain([Constraint::Min(0), Constraint::Length(1)]);
        let [title, totals, state, history, shards, header, hosts, keys] =
            Layout::vertical(rows).areas(area);
        Places { title, totals, state, history, shards, header, hosts, keys }
    }

    /// How many hosts fit.
    pub fn rows(&self) -> usize {
        self.hosts.height.into()
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let places = Places::of(frame.area(), screen.traffic.shards.len());
    frame.render_widget(title(screen), places.title);
    frame.render_widget(totals(screen), places.totals);
    frame.render_widget(state(screen), places.state);
    let history = Sparkline::default()
        .data(screen.history.iter().take(places.history.width.into()).copied())
        .direction(RenderDirection::RightToLeft);
    frame.render_widget(history, places.history);
    frame.render_widget(shards(screen, places.shards), places.shards);
    let (columns, name) = columns_for(places.hosts.width);
    frame.render_widget(header(screen, columns, name), places.header);
    let rows = screen.hosts().into_iter().skip(screen.first).take(places.rows());
    let rows: Vec<Line<'_>> = rows.map(|host| row(host, columns, name)).collect();
    frame.render_widget(Paragraph::new(rows), places.hosts);
    frame.render_widget(keys(screen), places.keys);
}

fn title(screen: &Screen) -> Line<'_> {
    let rules = counted(number(screen.traffic.rules), "rule");
    Line::from(vec![
        Span::styled(format!("mantrid {}", screen.version), STRONG),
        Span::raw(format!(" on {}, {rules}", screen.address)),
    ])
}

fn totals(screen: &Screen) -> Line<'_> {
    let (traffic, totals) = (&screen.traffic, &screen.traffic.totals);
    let mut spans = Vec::new();
    for (value, unit) in [
        (figure(totals.requests_rate), " requests/s   "),
        (bytes(totals.received_rate), "/s in   "),
        (bytes(totals.sent_rate), "/s out   "),
        (number(traffic.open_connections), " connections   "),
        (number(totals.open), " open   "),
        (number(traffic.held), " held"),
    ] {
        spans.push(Span::styled(value, STRONG));
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
    // Full is only what is full.
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

/// Columns that fit, and the width that is left for the name.
fn columns_for(width: u16) -> (&'static [Column], usize) {
    let mut left = width.saturating_sub(NAME_COLUMNS_MIN);
    let mut count = 0;
    for column in COLUMNS {
        match left.checked_sub(column.columns) {
            Some(rest) => (left, count) = (rest, count + 1),
            None => break,
        }
    }
    let used: u16 = COLUMNS[..count].iter().map(|column| column.columns).sum();
    (&COLUMNS[..count], width.saturating_sub(used).into())
}

fn header<'a>(screen: &Screen, columns: &[Column], name: usize) -> Line<'a> {
    let titled = |text: String, is_sorted: bool| {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        let style = if is_sorted { style.add_modifier(Modifier::BOLD) } else { style };
        Span::styled(text, style)
    };
    let mark = |is_sorted: bool, title: &str| {
        if is_sorted { format!("▼{title}") } else { title.to_owned() }
    };
    let is_by_name = screen.sort == Sort::Name;
    let first = titled(format!("{:<name$}", mark(is_by_name, "HOST")), is_by_name);
    let others = columns.iter().map(|column| {
        let is_sorted = column.sort == Some(screen.sort);
        let width = column.columns.into();
        titled(format!("{:>width$}", mark(is_sorted, column.title)), is_sorted)
    });
    Line::from_iter([first].into_iter().chain(others))
}

fn row<'a>(host: &Host, columns: &[Column], name: usize) -> Line<'a> {
    let first = Span::raw(format!("{:<name$}", cut(&host.name, name.saturating_sub(1))));
    let others = columns.iter().map(|column| {
        let text = (column.cell)(host);
        let is_zero = text == "0" || text == "0B";
        let is_alarm = column.sort == Some(Sort::ServerErrors) && !is_zero;
        let style = match () {
            () if is_alarm => ALARM,
            () if is_zero => FAINT,
            () => Style::new(),
        };
        let width = column.columns.into();
        Span::styled(format!("{text:>width$}"), style)
    });
    Line::from_iter([first].into_iter().chain(others))
}

fn keys(screen: &Screen) -> Line<'_> {
    if screen.typing {
        return Line::from(format!("/{}█  (Enter: keep, Esc: all hosts)", screen.filter));
    }
    let mut spans =
        vec![Span::styled("q quit   ↑↓ PgUp PgDn scroll   s sort   / filter   p pause", FAINT)];
    if screen.paused {
        spans.push(Span::styled("   PAUSED", STRONG));
    }
    if !screen.filter.is_empty() {
        spans.push(Span::styled(
            format!("   only {} of {} (Esc: all)", screen.filter, screen.traffic.hosts.len()),
            STRONG,
        ));
    }
    Line::from(spans)
}

/// Cut so that one sees it.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Three figures and a magnitude: 0, 0.4, 12.3, 123, 1.2k, 12.3M.
fn figure(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"])
}

/// Writes a number of bytes: 0B, 1.5K, 12.0M.
fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "K", "M", "G", "T", "P"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut at = 0;
    // 999.95 would be written with four figures
    while step - 0.05 <= value && at + 1 < units.len() {
        value /= step;
        at += 1;
    }
    let is_whole = !(0.05..99.95).contains(&value) || (at == 0 && value.fract() == 0.0);
    let text = if is_whole { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{text}{}", units[at])
}

/// A count in full while it is short.
fn number(count: u64) -> String {
    if count < 100_000 { count.to_string() } else { figure(count as f64) }
}

#[cfg(test)]
mod tests;
