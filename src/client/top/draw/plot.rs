//! The plot of requests per second, with its scales: the newest second is at the right.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};

use super::styles::FAINT;
use crate::client::top::format::figure;
use crate::client::top::model::Screen;

const SCALE_COLUMNS: u16 = 7;
/// Columns between two marks of the scale of time; a column is a second.
const MARK_COLUMNS: usize = 30;
/// Rows of the plot from which on it has a scale of time.
const ROWS_FOR_TIME: u16 = 4;

pub fn draw(frame: &mut Frame<'_>, screen: &Screen, place: Rect) {
    if place.is_empty() {
        return;
    }
    let columns = [Constraint::Length(SCALE_COLUMNS), Constraint::Min(0)];
    let [scale, plot] = Layout::horizontal(columns).areas(place);
    let time_rows = u16::from(ROWS_FOR_TIME <= place.height);
    let rows = [Constraint::Min(0), Constraint::Length(time_rows)];
    let [scale, _] = Layout::vertical(rows).areas(scale);
    let [plot, time] = Layout::vertical(rows).areas(plot);
    let shown = screen.history.iter().take(plot.width.into()).copied();
    let top = above(shown.clone().max().unwrap_or(0));
    let bars = Sparkline::default().data(shown).max(top).direction(RenderDirection::RightToLeft);
    frame.render_widget(bars, plot);
    let mut labels = vec![Line::default(); scale.height.into()];
    if let Some(last) = labels.last_mut() {
        *last = label(0.0);
    }
    if let Some(first) = labels.first_mut() {
        *first = label(top as f64);
    }
    frame.render_widget(Paragraph::new(labels), scale);
    frame.render_widget(Line::styled(marks(time.width.into()), FAINT), time);
}

fn label(value: f64) -> Line<'static> {
    let width = usize::from(SCALE_COLUMNS) - 2;
    Line::styled(format!("{:>width$} ┤", figure(value)), FAINT)
}

/// Rounds up to the next of 1, 2, 5, 10, 20 and so on, so that the scale does not change while the
/// peak moves a little.
fn above(peak: u64) -> u64 {
    let mut magnitude = 1_u64;
    loop {
        for step in [1, 2, 5] {
            let top = magnitude.saturating_mul(step);
            if peak <= top {
                return top;
            }
        }
        magnitude = magnitude.saturating_mul(10);
    }
}

/// Marks of time from the right: `-30s`, `-60s`.
fn marks(width: usize) -> String {
    let mut line = vec![' '; width];
    for seconds in (MARK_COLUMNS..width).step_by(MARK_COLUMNS) {
        let text = format!("╵-{seconds}s");
        let at = width - 1 - seconds;
        for (cell, c) in line[at..].iter_mut().zip(text.chars()) {
            *cell = c;
        }
    }
    line.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_round() {
        for (peak, top) in [(0, 1), (1, 1), (2, 2), (3, 5), (6, 10), (1001, 2000), (5000, 5000)] {
            assert_eq!(above(peak), top, "{peak}");
        }
        assert_eq!(above(u64::MAX), u64::MAX);
    }

    #[test]
    fn marks_count_from_the_right() {
        let line: Vec<char> = marks(40).chars().collect();
        assert_eq!(line.len(), 40);
        assert_eq!(line[40 - 1 - 30..].iter().collect::<String>().trim_end(), "╵-30s");
        assert_eq!(marks(0), "");
    }
}
