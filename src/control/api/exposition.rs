//! The two formats of `/metrics`. A reader that names OpenMetrics 1.0 in `Accept`, as Prometheus
//! does, gets that. Any other reader gets Prometheus text 0.0.4, which `curl`, `promtool` and older
//! readers expect.

use axum::http::{HeaderMap, header};

/// A text format of metrics.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Format {
    OpenMetrics,
    Text,
}

impl Format {
    /// Chooses the format that `Accept` gives more weight; OpenMetrics if both have the same.
    pub(super) fn of(fields: &HeaderMap) -> Format {
        let mut open_metrics = 0;
        let mut text = 0;
        let values = fields.get_all(header::ACCEPT).into_iter();
        for range in values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')) {
            let Some((format, weight)) = format_and_weight(range) else { continue };
            let known = match format {
                Format::OpenMetrics => &mut open_metrics,
                Format::Text => &mut text,
            };
            *known = weight.max(*known);
        }
        if 0 < open_metrics && text <= open_metrics { Format::OpenMetrics } else { Format::Text }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts a text of OpenMetrics to this format.
    pub(super) fn write(self, open_metrics: String) -> String {
        match self {
            Format::OpenMetrics => open_metrics,
            Format::Text => classic(&open_metrics),
        }
    }
}

/// Reads the format that one range of `Accept` names, and its weight in thousandths (RFC 9110
/// §12.4.2). An invalid weight counts as 0.
fn format_and_weight(range: &str) -> Option<(Format, u32)> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?;
    let (format, versions): (_, &[&str]) = if kind.eq_ignore_ascii_case("text/plain") {
        (Format::Text, &["0.0.4"])
    } else if kind.eq_ignore_ascii_case("application/openmetrics-text") {
        (Format::OpenMetrics, &["1.0.0", "0.0.1"])
    } else {
        return None;
    };
    let mut weight = 1000;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("q") {
            let part = value.parse::<f32>().unwrap_or_default();
            weight = (part.clamp(0.0, 1.0) * 1000.0) as u32;
        } else if name.trim().eq_ignore_ascii_case("version") && !versions.contains(&value) {
            return None;
        }
    }
    Some((format, weight))
}

/// Converts OpenMetrics to Prometheus text. There, the family of a counter is named like its
/// samples, with `_total`, and no mark says that the text is complete.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + open_metrics.len() / 32);
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(family) = line.strip_prefix("# HELP ") {
            help = family.split_once(' ');
        } else if let Some((name, kind)) = family_of(line) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, sentence)) = help.take().filter(|(helped, _)| *helped == name) {
                text.extend(["# HELP ", name, suffix, " ", sentence, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// Reads the name and the type of a family.
fn family_of(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(accept: &[&'static str]) -> Format {
        let mut fields = HeaderMap::new();
        for value in accept {
            fields.append(header::ACCEPT, HeaderValue::from_static(value));
        }
        Format::of(&fields)
    }

    #[test]
    fn a_reader_gets_the_format_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            &[prometheus][..],
            &["application/openmetrics-text"],
            &["Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.1"],
            &["text/plain;q=0.2", "application/openmetrics-text; q=0.3"],
            &["application/openmetrics-text, text/plain"],
        ] {
            assert_eq!(of(accept), Format::OpenMetrics, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=none"],
            &["application/openmetrics-text;version=2.0.0, text/plain"],
        ] {
            assert_eq!(of(accept), Format::Text, "{accept:?}");
        }
    }

    #[test]
    fn counters_are_renamed_and_samples_stay() {
        let open_metrics = "# HELP a A.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b B.\n\
                            # TYPE b gauge\n# UNIT b seconds\nb 2\n# EOF\n";
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n\
                    # HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(Format::Text.write(open_metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.write(open_metrics.to_owned()), open_metrics);
    }
}
