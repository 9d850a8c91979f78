//! View of one host: its rule, its responses, what is wrong, and who changed it.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::side::{style, why};
use super::styles::{ALARM, FAINT, STRONG, WARNING};
use crate::client::events::moment;
use crate::client::print::counted;
use crate::client::top::figures::{Backend, Close};
use crate::client::top::format::{bytes, duration, figure, number};

/// Seconds from which on a median response counts as slow.
const SLOW: f64 = 1.0;
/// Errors per second from which on a host counts as failing.
pub const FAILING: f64 = 0.05;

pub fn draw(frame: &mut Frame<'_>, close: &Close, backends: &[Backend], place: Rect) {
    let host = &close.host;
    let label = |name: &str| Span::styled(format!("{name:<10}"), FAINT);
    let rule = match close.rule.as_str() {
        "" => "none of its own",
        rule => rule,
    };
    let mut lines = vec![
        Line::styled(host.name.clone(), STRONG),
        Line::from(vec![label("rule"), Span::raw(rule.to_owned())]),
        Line::from(vec![
            label("traffic"),
            Span::raw(format!(
                "{} requests/s, {} errors/s, {} limited/s, {} open, {} held, {} and {} bytes/s in \
                 and out",
                figure(host.requests_rate),
                figure(host.errors_rate),
                figure(host.limited_rate),
                number(host.open),
                number(host.held),
                bytes(host.received_rate),
                bytes(host.sent_rate)
            )),
        ]),
        Line::from(vec![
            label("latency"),
            Span::raw(format!(
                "p50 {}, p95 {}, p99 {}",
                duration(host.latency[0]),
                duration(host.latency[1]),
                duration(host.latency[2])
            )),
        ]),
        Line::from(vec![label("responses"), Span::raw(classes(close))]),
    ];
    for (at, (text, style)) in causes(close, backends).into_iter().enumerate() {
        let name = if at == 0 { label("cause") } else { label("") };
        lines.push(Line::from(vec![name, Span::styled(text, style)]));
    }
    lines.push(Line::default());
    lines.extend(backend_lines(close, backends));
    lines.extend(change_lines(close));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), place);
}

fn classes(close: &Close) -> String {
    let classes = ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(close.host.answers);
    classes
        .map(|(class, count)| format!("{} {class}", number(count)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The known backends of the rule. A backend given by name is found by its addresses.
fn known<'b>(close: &Close, backends: &'b [Backend]) -> Vec<&'b Backend> {
    backends.iter().filter(|backend| close.targets.contains(&backend.address)).collect()
}

/// Reasons why the host is not well, the most important one first.
fn causes(close: &Close, backends: &[Backend]) -> Vec<(String, ratatui::style::Style)> {
    let host = &close.host;
    let mut causes = Vec::new();
    let known = known(close, backends);
    let bad: Vec<&Backend> =
        known.iter().filter_map(|backend| backend.trouble(&host.name)).collect();
    for backend in &bad {
        let text = format!("{} is {} {}", backend.address, backend.state, why(backend));
        causes.push((text.trim_end().to_owned(), ALARM));
    }
    if close.action == "spin" {
        let held = counted(number(host.held), "request");
        causes.push((format!("its rule is spin: {held} held until it is flipped"), WARNING));
    } else if 0 < host.held {
        let held = counted(number(host.held), "request");
        causes.push((format!("{held} held: no backend can be reached, or others wait"), WARNING));
    }
    let failing: Vec<&&Backend> = known.iter().filter(|b| FAILING <= b.errors_rate).collect();
    for backend in &failing {
        let [errors, requests] = [backend.errors_rate, backend.requests_rate].map(figure);
        let text = format!("answers with errors: {errors} of {requests} requests/s");
        causes.push((format!("{} {text}", backend.address), ALARM));
    }
    if FAILING <= host.limited_rate {
        let text = format!("its limits turn {} requests/s away", figure(host.limited_rate));
        causes.push((text, WARNING));
    }
    if FAILING <= host.errors_rate - host.limited_rate && bad.is_empty() && failing.is_empty() {
        let what = "of no backend that is known: replies of Mantrid itself";
        causes.push((format!("{} errors/s {what}", figure(host.errors_rate)), ALARM));
    }
    let slow = |latency: Option<f64>| latency.is_some_and(|median| SLOW <= median);
    for backend in known.iter().filter(|backend| slow(backend.latency[0])) {
        let median = duration(backend.latency[0]);
        let text = format!("is slow: half of its responses take {median} or more");
        causes.push((format!("{} {text}", backend.address), WARNING));
    }
    if slow(host.latency[0]) && !known.iter().any(|backend| slow(backend.latency[0])) {
        let median = duration(host.latency[0]);
        causes.push((format!("slow: half of the responses take {median} or more"), WARNING));
    }
    causes
}

fn backend_lines<'a>(close: &Close, backends: &[Backend]) -> Vec<Line<'a>> {
    if close.targets.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::styled("BACKENDS", STRONG)];
    let known = known(close, backends);
    for target in &close.targets {
        let Some(backend) = known.iter().find(|backend| backend.address == *target) else {
            lines.push(Line::from(vec![
                Span::raw(format!("  {target:<30} ")),
                Span::styled("not used yet, or a name", FAINT),
            ]));
            continue;
        };
        lines.push(Line::from(vec![
            Span::raw(format!("  {target:<30} ")),
            Span::styled(format!("{:<8}", backend.state), style(&backend.state)),
            Span::raw(format!(
                "{} requests/s, {} errors/s, p95 {}, {} open, {} failed to connect",
                figure(backend.requests_rate),
                figure(backend.errors_rate),
                duration(backend.latency[1]),
                number(backend.open),
                number(backend.failures)
            )),
        ]));
    }
    lines.push(Line::default());
    lines
}

fn change_lines<'a>(close: &Close) -> Vec<Line<'a>> {
    let mut lines = vec![Line::styled("LAST CHANGES", STRONG)];
    if let Some(why) = &close.unknown {
        lines.push(Line::styled(format!("  not known: {why}"), FAINT));
    } else if close.changes.is_empty() {
        lines.push(Line::styled("  none that is remembered", FAINT));
    }
    for change in &close.changes {
        lines.push(Line::from(vec![
            Span::raw(format!("  {} ", moment(change.time))),
            Span::styled(format!("{} by {}: ", change.verb, change.who), STRONG),
            Span::raw(change.what.clone()),
        ]));
    }
    lines
}
