//! Numbers in few columns.

/// Writes three figures and a magnitude: 0, 0.4, 12.3, 123, 1.2k, 12.3M.
pub fn figure(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"])
}

/// Writes a number of bytes: 0B, 1.5K, 12.0M.
pub fn bytes(value: f64) -> String {
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

/// Writes a count in full while it is short.
pub fn number(count: u64) -> String {
    if count < 100_000 { count.to_string() } else { figure(count as f64) }
}

/// Writes a time as people say it: 0.4ms, 12ms, 2.5s, 2m; `-` where it is not known.
pub fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 0.00995 => format!("{:.1}ms", s * 1000.0),
        Some(s) if s < 0.9995 => format!("{:.0}ms", s * 1000.0),
        Some(s) if s < 99.95 => format!("{s:.1}s"),
        Some(s) => format!("{:.0}m", s / 60.0),
    }
}

/// Cuts a text so that one sees the cut.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (Some(0.0), "0.0ms"),
            (Some(0.0025), "2.5ms"),
            (Some(0.01), "10ms"),
            (Some(0.25), "250ms"),
            (Some(0.9996), "1.0s"),
            (Some(2.5), "2.5s"),
            (Some(120.0), "2m"),
            (None, "-"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
