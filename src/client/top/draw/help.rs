//! The help that `?` opens over the screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::styles::STRONG;
use crate::client::top::model::Sort;

const KEYS: &[(&str, &str)] = &[
    ("↑ ↓ j k", "choose a host (PgUp, PgDn, Home and End go farther)"),
    ("Enter", "open it: rule, latency, backends, cause, last changes"),
    ("Esc ← ", "back to all hosts; without a host or filter: quit"),
    ("/", "search: names, and what else the daemon searches"),
    ("f", "only failing, held, down, limited hosts, or all of them"),
    ("b Tab", "backends, and back to the hosts"),
    ("p", "pause what is shown"),
    ("s S", "next order, the one before; or by its key:"),
];

const COLUMNS: u16 = 66;

pub fn draw(frame: &mut Frame<'_>) {
    let row = |keys: &str, text: String| {
        Line::from(vec![Span::styled(format!(" {keys:<9}"), STRONG), Span::raw(text)])
    };
    let mut lines: Vec<Line<'_>> =
        KEYS.iter().map(|(keys, text)| row(keys, (*text).to_owned())).collect();
    for (_, word, key) in Sort::ALL {
        lines.push(row("", format!("{key}  {word}")));
    }
    lines.push(row("q", "quit".to_owned()));
    lines.push(Line::default());
    lines.push(Line::from(" ERR/S counts 5xx and failures of our own. P50, P95, P99: time to"));
    lines.push(Line::from(" the head of the response in the last minute. Any key closes this."));
    let rows = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let [place] =
        Layout::vertical([Constraint::Length(rows)]).flex(Flex::Center).areas(frame.area());
    let [place] =
        Layout::horizontal([Constraint::Length(COLUMNS + 2)]).flex(Flex::Center).areas(place);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), place);
}
