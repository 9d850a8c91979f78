//! One step of a history: rates, levels and percentiles, and how they are written.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::control::statistics::quantile;
use crate::link::CLASSES_OF_TIME;

/// Numbers of the step that ends at `time`.
#[derive(Copy, Clone, PartialEq, Debug, Default)]
pub(in crate::control) struct Point {
    /// Seconds since 1970.
    pub(super) time: u32,
    /// Rates per second.
    pub(super) requests: f32,
    pub(super) errors: f32,
    pub(super) answers: [f32; 4],
    pub(super) sent: f32,
    pub(super) received: f32,
    /// Open requests, and held ones, at the end of the step.
    pub(super) open: u32,
    pub(super) held: u32,
    /// Percentiles in microseconds; negative if there was no response.
    pub(super) times: [f32; 3],
}

/// Percentiles in microseconds; negative if there was no response.
pub(super) fn times(latency: [u64; CLASSES_OF_TIME]) -> [f32; 3] {
    [0.5, 0.95, 0.99].map(|part| quantile(latency, part).map_or(-1.0, |micros| micros as f32))
}

impl Point {
    /// Writes a point down for the daemon that takes over.
    pub(super) fn to_json(self) -> Value {
        let Point { time, requests, errors, answers, sent, received, open, held, times } = self;
        json!([time, requests, errors, answers, sent, received, open, held, times])
    }

    fn read(told: &Value) -> Option<Point> {
        let float = |at: &Value| at.as_f64().map(|number| number as f32);
        let whole = |at: &Value| u32::try_from(at.as_u64()?).ok();
        Some(Point {
            time: whole(&told[0])?,
            requests: float(&told[1])?,
            errors: float(&told[2])?,
            answers: floats(&told[3])?,
            sent: float(&told[4])?,
            received: float(&told[5])?,
            open: whole(&told[6])?,
            held: whole(&told[7])?,
            times: floats(&told[8])?,
        })
    }
}

fn floats<const N: usize>(told: &Value) -> Option<[f32; N]> {
    let all: Option<Vec<f32>> =
        told.as_array()?.iter().map(|number| number.as_f64().map(|n| n as f32)).collect();
    all?.try_into().ok()
}

/// Reads the last points that another daemon has written down.
pub(super) fn read(told: &Value, most: usize) -> VecDeque<Point> {
    let all: Vec<Point> = told.as_array().into_iter().flatten().filter_map(Point::read).collect();
    all[all.len().saturating_sub(most)..].iter().copied().collect()
}

/// Rounds a number to a thousandth.
fn rounded(number: f32) -> f64 {
    (f64::from(number) * 1000.0).round() / 1000.0
}

/// Columns of these points: a list for each number, all of the same length.
pub(in crate::control) fn columns(
    points: &VecDeque<Point>,
    is_backend: bool,
) -> Map<String, Value> {
    let column = |value: &dyn Fn(&Point) -> Value| points.iter().map(value).collect::<Value>();
    let mut all = Map::new();
    let mut add = |name: &str, values: Value| drop(all.insert(name.to_owned(), values));
    add("time", column(&|point| json!(point.time)));
    add("requests_per_second", column(&|point| json!(rounded(point.requests))));
    add("errors_per_second", column(&|point| json!(rounded(point.errors))));
    if !is_backend {
        add("bytes_sent_per_second", column(&|point| json!(rounded(point.sent))));
        add("bytes_received_per_second", column(&|point| json!(rounded(point.received))));
    }
    add("open_requests", column(&|point| json!(point.open)));
    if !is_backend {
        add("held_requests", column(&|point| json!(point.held)));
    }
    for (at, name) in ["p50", "p95", "p99"].into_iter().enumerate() {
        let seconds = |point: &Point| {
            let micros = f64::from(point.times[at]);
            if micros < 0.0 { Value::Null } else { json!(micros.round() / 1e6) }
        };
        add(name, column(&seconds));
    }
    let classes = ["2xx", "3xx", "4xx", "5xx"].into_iter().enumerate();
    let answers = classes
        .map(|(at, class)| (class.to_owned(), column(&|point| json!(rounded(point.answers[at])))));
    let answers: Map<String, Value> = answers.collect();
    add("answers_per_second", Value::Object(answers));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(time: u32) -> Point {
        Point {
            time,
            requests: 1.5,
            errors: 0.25,
            answers: [1.0, 0.0, 0.25, 0.25],
            sent: 1000.0,
            received: 10.0,
            open: 3,
            held: 2,
            times: [500.0, 250_000.0, -1.0],
        }
    }

    #[test]
    fn point_is_read_as_it_was_written() {
        let written: Value =
            [point(1), point(2), point(3)].into_iter().map(Point::to_json).collect();
        assert_eq!(read(&written, 2), [point(2), point(3)]);
        for nonsense in [json!(null), json!({}), json!([[1, 2]]), json!([null, "x"])] {
            assert!(read(&nonsense, 9).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn columns_are_of_one_length() {
        let points = VecDeque::from([point(10), point(20)]);
        let columns = Value::Object(super::columns(&points, false));
        assert_eq!(columns["time"], json!([10, 20]));
        assert_eq!(columns["requests_per_second"], json!([1.5, 1.5]));
        assert_eq!(columns["p50"], json!([0.0005, 0.0005]));
        assert_eq!(columns["p99"], json!([null, null]));
        assert_eq!(columns["answers_per_second"]["5xx"], json!([0.25, 0.25]));
        assert_eq!(columns["held_requests"], json!([2, 2]));
        let of_backend = super::columns(&points, true);
        assert!(!of_backend.contains_key("held_requests"), "{of_backend:?}");
    }
}
