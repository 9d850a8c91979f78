//! Backends and the nodes of a fleet. They stand beside the hosts if the terminal is wide,
//! otherwise in place of them.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::styles::{ALARM, FAINT, HEAD, WARNING};
use crate::client::events::moment;
use crate::client::print::counted;
use crate::client::top::figures::{Backend, Fleet, Node};
use crate::client::top::format::{cut, duration, figure, number};
use crate::client::top::model::Screen;

/// A column: its title, its width, and the text of its cell for a backend.
type BackendColumn = (&'static str, usize, fn(&Backend) -> String);

/// Columns to the right of a backend's address and state.
const COLUMNS: &[BackendColumn] = &[
    ("REQ/S", 7, |backend| figure(backend.requests_rate)),
    ("ERR/S", 7, |backend| figure(backend.errors_rate)),
    ("P95", 7, |backend| duration(backend.latency[1])),
    ("OPEN", 6, |backend| number(backend.open)),
    ("IDLE", 6, |backend| number(backend.idle)),
    ("FAILED", 8, |backend| number(backend.failures)),
];
const STATE_COLUMNS: usize = 12;
const ADDRESS_COLUMNS_MIN: usize = 18;
/// Seconds without a report after which a node counts as silent. A node reports every 2 s.
const SILENT_AFTER: f64 = 10.0;

/// Draws the column beside the hosts.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen, place: Rect) {
    let Some(fleet) = &screen.fleet else { return backends(frame, screen, place) };
    let rows = u16::try_from(fleet.nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let rows = [Constraint::Min(0), Constraint::Length(rows.min(place.height / 2))];
    let [above, below] = Layout::vertical(rows).areas(place);
    backends(frame, screen, above);
    nodes(frame, fleet, below);
}

/// Draws the backends, those that are down first.
pub fn backends(frame: &mut Frame<'_>, screen: &Screen, place: Rect) {
    let width = usize::from(place.width);
    let mut left = width.saturating_sub(ADDRESS_COLUMNS_MIN + STATE_COLUMNS);
    let mut fitting = 0;
    for (_, columns, _) in COLUMNS {
        match left.checked_sub(*columns) {
            Some(rest) => (left, fitting) = (rest, fitting + 1),
            None => break,
        }
    }
    let columns = &COLUMNS[..fitting];
    let used: usize = columns.iter().map(|(_, columns, _)| columns).sum();
    let address = width.saturating_sub(used + STATE_COLUMNS);
    let heads = columns.iter().map(|(title, width, _)| format!("{title:>width$}"));
    let head = format!("{:<address$}{:<STATE_COLUMNS$}", "BACKEND", "STATE");
    let head = heads.fold(head, |line, cell| line + &cell);
    let mut lines = vec![Line::styled(head, HEAD)];
    for backend in screen.backends.iter().skip(screen.first_backend) {
        if usize::from(place.height) <= lines.len() {
            break;
        }
        lines.push(backend_row(backend, columns, address));
        if backend.is_bad() {
            lines.push(Line::styled(cut(&format!("  {}", why(backend)), width), ALARM));
        }
    }
    if screen.backends.is_empty() {
        lines.push(Line::styled("none seen yet", FAINT));
    }
    frame.render_widget(Paragraph::new(lines), place);
}

fn backend_row<'a>(backend: &Backend, columns: &[BackendColumn], address: usize) -> Line<'a> {
    let name = cut(&backend.address, address.saturating_sub(1));
    let cells =
        columns.iter().map(|(_, width, cell)| Span::raw(format!("{:>width$}", cell(backend))));
    let first = [
        Span::raw(format!("{name:<address$}")),
        Span::styled(format!("{:<STATE_COLUMNS$}", backend.state), style(&backend.state)),
    ];
    Line::from_iter(first.into_iter().chain(cells))
}

/// Style of the state of a backend.
pub fn style(state: &str) -> Style {
    match state {
        "down" => ALARM,
        "ejected" | "partly_down" => WARNING,
        _ => Style::new(),
    }
}

/// Says since when a backend has been in its state, and why.
pub fn why(backend: &Backend) -> String {
    let since = backend.since.map(|at| format!("since {}", moment(at as f64)));
    let reason = Some(backend.reason.clone()).filter(|reason| !reason.is_empty());
    [since, reason].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// State of a node in a word, with its style.
fn state(node: &Node) -> (String, Style) {
    match node {
        node if SILENT_AFTER < node.age => (format!("silent {:.0}s", node.age), ALARM),
        node if 0 < node.behind => (format!("behind {}", node.behind), WARNING),
        _ => ("ok".to_owned(), Style::new()),
    }
}

fn nodes(frame: &mut Frame<'_>, fleet: &Fleet, place: Rect) {
    let name = usize::from(place.width).saturating_sub(14 + 9 + 8);
    let title = format!("NODES OF {}", fleet.name.to_uppercase());
    let title = cut(&title, name.saturating_sub(1));
    let head = format!("{title:<name$}{:<14}{:>9}{:>8}", "STATE", "REQ/S", "HELD");
    let mut lines = vec![Line::styled(head, HEAD)];
    for node in &fleet.nodes {
        let (state, style) = state(node);
        lines.push(Line::from(vec![
            Span::raw(format!("{:<name$}", cut(&node.name, name.saturating_sub(1)))),
            Span::styled(format!("{state:<14}"), style),
            Span::raw(format!("{:>9}{:>8}", figure(node.requests_rate), number(node.held))),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), place);
}

/// Says in the title how the fleet is: its nodes, and those that are not well.
pub fn fleet_in_short(screen: &Screen) -> Vec<Span<'_>> {
    let Some(fleet) = &screen.fleet else { return Vec::new() };
    let nodes = counted(fleet.nodes.len(), "node");
    let mut spans = vec![Span::raw(format!(", fleet {} with {nodes}", fleet.name))];
    if let Some(trouble) = &fleet.trouble {
        spans.push(Span::styled(format!(" {trouble}"), ALARM));
    }
    for node in &fleet.nodes {
        let (state, style) = state(node);
        if state != "ok" {
            spans.push(Span::styled(format!(" {} {state}", node.name), style));
        }
    }
    spans
}
