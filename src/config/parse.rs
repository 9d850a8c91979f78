//! Reads `key = value` lines and `-o key=value`: finds the settings, and which of them apply.

use super::key::Key;
use super::keys::KEYS;
use super::{Config, ConfigError};

pub(super) struct Setting {
    key: &'static str,
    value: String,
    place: String,
    is_override: bool,
}

/// Splits a file and `-o` arguments into settings of known keys. `#` starts a comment anywhere in a
/// line, as in the original.
pub(super) fn settings(
    file: Option<(&str, &str)>,
    overrides: &[String],
    problems: &mut Vec<ConfigError>,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut take = |text: &str, place: String, is_override: bool| {
        let Some((key, value)) = text.split_once('=') else {
            let problem = format!("{text:?} is not a setting: expected `key = value`");
            return problems.push(ConfigError { place, problem });
        };
        match find(key.trim()) {
            Ok(key) => settings.push(Setting {
                key: key.name,
                value: value.trim().to_owned(),
                place,
                is_override,
            }),
            Err(problem) => problems.push(ConfigError { place, problem }),
        }
    };
    if let Some((path, text)) = file {
        // Editors on other systems put an invisible byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
            if !line.is_empty() {
                take(line, format!("{path}:{}", index + 1), false);
            }
        }
    }
    for setting in overrides {
        take(setting.trim(), format!("-o {setting}"), true);
    }
    settings
}

/// File and line in which `key` was given this value, for messages; else those of any setting of
/// the key, else `default`.
pub(super) fn place(settings: &[Setting], key: &str, value: &str) -> String {
    let of_key = || settings.iter().rev().filter(|setting| setting.key == key);
    let exact = of_key().find(|setting| setting.value.split_whitespace().next() == Some(value));
    let found = exact.or_else(|| of_key().next());
    found.map_or_else(|| "default".to_owned(), |setting| setting.place.clone())
}

/// The settings that apply, in the order of the manual.
pub(super) fn written(settings: &[Setting]) -> Vec<(&'static str, String)> {
    let of_keys = KEYS.iter().flat_map(|key| counting(settings, key.name));
    of_keys.map(|setting| (setting.key, setting.value.clone())).collect()
}

/// The settings of a key that apply: overrides if there are any, else those of the file.
fn counting<'s>(settings: &'s [Setting], key: &'static str) -> impl Iterator<Item = &'s Setting> {
    let of_key = settings.iter().filter(move |setting| setting.key == key);
    let is_overridden = of_key.clone().any(|setting| setting.is_override);
    of_key.filter(move |setting| setting.is_override == is_overridden)
}

fn find(name: &str) -> Result<&'static Key, String> {
    let lower = name.to_ascii_lowercase();
    if let Some(key) = KEYS.iter().find(|key| key.name == lower) {
        return Ok(key);
    }
    let near = KEYS.iter().min_by_key(|key| distance(key.name, &lower));
    // Allow one typing error in a short word, two or three in a long one.
    let slips = 1 + lower.len() / 5;
    match near.filter(|key| distance(key.name, &lower) <= slips) {
        Some(key) => Err(format!("there is no key {name:?}: did you mean {}?", key.name)),
        None => Err(format!("there is no key {name:?}: mantrid --help lists them")),
    }
}

/// The Levenshtein distance of two words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Applies the settings of `key`.
pub(super) fn apply(
    key: &Key,
    settings: &[Setting],
    config: &mut Config,
    problems: &mut Vec<ConfigError>,
) {
    let mut chosen = counting(settings, key.name).peekable();
    let Some(first) = chosen.peek() else { return };
    let (first_value, first_place) = (&first.value, &first.place);
    if key.repeatable {
        (key.clear)(config);
    }
    for setting in chosen {
        let result = if !key.repeatable && setting.value != *first_value {
            Err(format!(
                "{} has the value {:?} already ({first_place}): it can have only one",
                key.name, first_value
            ))
        } else {
            (key.set)(config, &setting.value).map_err(|problem| format!("{}: {problem}", key.name))
        };
        if let Err(problem) = result {
            problems.push(ConfigError { place: setting.place.clone(), problem });
        }
    }
}
