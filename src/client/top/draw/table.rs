//! The table of hosts.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::styles::{ALARM, FAINT, HEAD, WARNING};
use crate::client::top::figures::Host;
use crate::client::top::format::{bytes, cut, duration, figure, number};
use crate::client::top::model::{Screen, Sort};

/// Fewest columns for a name, which gets the width that the figures leave.
const NAME_COLUMNS_MIN: u16 = 24;

/// A column to the right of the name.
struct Column {
    title: &'static str,
    columns: u16,
    sort: Option<Sort>,
    /// Style of a value other than 0 or none.
    style: Style,
    cell: fn(&Host) -> String,
}

const fn column(
    title: &'static str,
    columns: u16,
    sort: Option<Sort>,
    cell: fn(&Host) -> String,
) -> Column {
    Column { title, columns, sort, style: Style::new(), cell }
}

/// Columns, the most important ones first. A narrow terminal leaves out the last ones, except the
/// one by which hosts are ordered.
const COLUMNS: &[Column] = &[
    column("REQ/S", 8, Some(Sort::Requests), |host| figure(host.requests_rate)),
    Column {
        style: ALARM,
        ..column("ERR/S", 8, Some(Sort::Errors), |host| figure(host.errors_rate))
    },
    Column { style: WARNING, ..column("HELD", 7, Some(Sort::Held), |host| number(host.held)) },
    column("P95", 8, Some(Sort::Latency), |host| duration(host.latency[1])),
    column("OPEN", 7, Some(Sort::Open), |host| number(host.open)),
    column("IN/S", 8, Some(Sort::Bytes), |host| bytes(host.received_rate)),
    column("OUT/S", 8, Some(Sort::Bytes), |host| bytes(host.sent_rate)),
    Column {
        style: WARNING,
        ..column("LTD/S", 8, Some(Sort::Limited), |host| figure(host.limited_rate))
    },
    column("P50", 8, None, |host| duration(host.latency[0])),
    column("P99", 8, None, |host| duration(host.latency[2])),
    column("5XX", 7, None, |host| number(host.answers[3])),
    column("4XX", 7, None, |host| number(host.answers[2])),
    column("COMPLETED", 11, None, |host| number(host.completed)),
    column("3XX", 7, None, |host| number(host.answers[1])),
    column("2XX", 7, None, |host| number(host.answers[0])),
];

/// Draws the titles of the columns, and the rows that fit.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen, place: Rect) {
    let (columns, name) = columns_for(place.width, screen.sort);
    let hosts = screen.hosts();
    let rows = hosts.iter().enumerate().skip(screen.first);
    let rows = rows.take(place.height.saturating_sub(1).into());
    let rows = rows.map(|(at, host)| {
        let line = row(host, &columns, name);
        if at == screen.chosen { line.style(Modifier::UNDERLINED) } else { line }
    });
    let lines = [header(screen, &columns, name)].into_iter().chain(rows);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), place);
}

/// Columns that fit, and the width that is left for the name.
fn columns_for(width: u16, sort: Sort) -> (Vec<&'static Column>, usize) {
    let room = width.saturating_sub(NAME_COLUMNS_MIN);
    let width_of = |columns: &[&Column]| columns.iter().map(|column| column.columns).sum::<u16>();
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    while room < width_of(&columns) {
        let of_order = columns.iter().filter(|column| column.sort == Some(sort)).count();
        let goes = |column: &&Column| column.sort != Some(sort) || 1 < of_order;
        let last = columns.iter().rposition(goes).unwrap_or(0);
        columns.remove(last);
    }
    let used = width_of(&columns);
    (columns, width.saturating_sub(used).into())
}

fn header<'a>(screen: &Screen, columns: &[&Column], name: usize) -> Line<'a> {
    let first = Span::styled(format!("{:<name$}", "HOST"), HEAD);
    let others = columns.iter().map(|column| {
        let width = column.columns.into();
        if column.sort == Some(screen.sort) {
            let title = format!("▼{}", column.title);
            Span::styled(format!("{title:>width$}"), HEAD.add_modifier(Modifier::BOLD))
        } else {
            Span::styled(format!("{:>width$}", column.title), HEAD)
        }
    });
    Line::from_iter([first].into_iter().chain(others))
}

fn row<'a>(host: &Host, columns: &[&Column], name: usize) -> Line<'a> {
    let first = Span::raw(format!("{:<name$}", cut(&host.name, name.saturating_sub(1))));
    let others = columns.iter().map(|column| {
        let text = (column.cell)(host);
        let is_nothing = matches!(text.as_str(), "0" | "0B" | "-");
        let style = if is_nothing { FAINT } else { column.style };
        let width = column.columns.into();
        Span::styled(format!("{text:>width$}"), style)
    });
    Line::from_iter([first].into_iter().chain(others))
}
