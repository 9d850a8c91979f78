//! Styles of `top`: few, and each with one meaning.

use ratatui::style::{Color, Modifier, Style};

pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
pub const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
pub const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub const WARNING: Style = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
pub const HEAD: Style = Style::new().add_modifier(Modifier::REVERSED);
