//! Histories of the hosts, or of the backends, that mattered in the last hour: those that were
//! among the first by requests, errors, latency, held requests or bytes in at least one step.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value, json};

use super::point::{self, Point};
use crate::control::statistics::{Step, Stepped};
use crate::limits;

/// Histories by name.
pub(in crate::control) struct Tracks {
    most: usize,
    by_name: HashMap<String, Track>,
}

#[derive(Default)]
struct Track {
    /// Time of the last step in which the host or backend mattered.
    mattered: u32,
    points: VecDeque<Point>,
}

/// Measures by which hosts and backends matter.
const MEASURES: [fn(&Stepped) -> u64; 5] = [
    |it| it.reading.requests.into(),
    |it| it.reading.errors.into(),
    |it| it.reading.quantile(0.95).unwrap_or(0),
    |it| it.held,
    |it| it.reading.sent.saturating_add(it.reading.received),
];

impl Tracks {
    pub(super) fn new(most: usize) -> Tracks {
        Tracks { most, by_name: HashMap::new() }
    }

    /// The history of a host or backend; `None`: it did not matter.
    pub(in crate::control) fn of(&self, name: &str) -> Option<&VecDeque<Point>> {
        self.by_name.get(name).map(|track| &track.points)
    }

    /// Adds a step: a point for each host or backend that is followed, even if it had no traffic.
    pub(super) fn note<N: AsRef<str>>(&mut self, time: u32, step: Step<N>) {
        let Step { seconds, of } = step;
        let first = first_of(&of);
        let hour = limits::HISTORY_STEPS as u32 * limits::WINDOW_STEP.as_secs() as u32;
        self.by_name.retain(|_, track| time < track.mattered.saturating_add(hour));
        let mut stepped: HashMap<String, Stepped> = HashMap::new();
        for (at, (name, it)) in of.into_iter().enumerate() {
            let name = name.as_ref();
            if first.contains(&at) {
                self.by_name.entry(name.to_owned()).or_default().mattered = time;
            }
            if self.by_name.contains_key(name) {
                stepped.insert(name.to_owned(), it);
            }
        }
        self.forget_some();
        for (name, track) in &mut self.by_name {
            let it = stepped.get(name).copied().unwrap_or_default();
            track.points.push_back(point_of(time, &it, seconds));
            if limits::HISTORY_STEPS < track.points.len() {
                track.points.pop_front();
            }
        }
    }

    /// Forgets histories past `most`: those that have not mattered for longest.
    fn forget_some(&mut self) {
        if self.by_name.len() <= self.most {
            return;
        }
        let mut names: Vec<(Reverse<u32>, String)> = self
            .by_name
            .iter()
            .map(|(name, track)| (Reverse(track.mattered), name.clone()))
            .collect();
        names.sort_unstable();
        for (_, name) in names.drain(self.most..) {
            self.by_name.remove(&name);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let each = self.by_name.iter().map(|(name, track)| {
            let points: Vec<Value> = track.points.iter().copied().map(Point::to_json).collect();
            (name.clone(), json!({ "mattered": track.mattered, "points": points }))
        });
        Value::Object(each.collect::<Map<_, _>>())
    }

    pub(super) fn recall(&mut self, told: &Value) {
        for (name, track) in told.as_object().into_iter().flatten().take(self.most) {
            let mattered = track["mattered"].as_u64().and_then(|time| u32::try_from(time).ok());
            let points = point::read(&track["points"], limits::HISTORY_STEPS);
            let track = Track { mattered: mattered.unwrap_or_default(), points };
            self.by_name.insert(name.clone(), track);
        }
    }
}

/// Indices of the hosts or backends that are among the first by at least one measure.
fn first_of<N>(of: &[(N, Stepped)]) -> HashSet<usize> {
    let mut first = HashSet::new();
    for measure in MEASURES {
        let all = of.iter().enumerate().map(|(at, (_, it))| (Reverse(measure(it)), at));
        let mut all: Vec<_> = all.filter(|(Reverse(number), _)| *number != 0).collect();
        if limits::HISTORY_FIRST < all.len() {
            all.select_nth_unstable(limits::HISTORY_FIRST);
            all.truncate(limits::HISTORY_FIRST);
        }
        first.extend(all.into_iter().map(|(_, at)| at));
    }
    first
}

fn point_of(time: u32, it: &Stepped, seconds: f64) -> Point {
    let per_second = |count: f64| (count / seconds) as f32;
    let reading = &it.reading;
    Point {
        time,
        requests: per_second(reading.requests.into()),
        errors: per_second(reading.errors.into()),
        answers: reading.answers.map(|count| per_second(count.into())),
        sent: per_second(reading.sent as f64),
        received: per_second(reading.received as f64),
        open: u32::try_from(it.open).unwrap_or(u32::MAX),
        held: u32::try_from(it.held).unwrap_or(u32::MAX),
        times: point::times(reading.latency.map(u64::from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::statistics::SlotReading;

    fn stepped(requests: u32, errors: u32) -> Stepped {
        let reading = SlotReading { requests, errors, ..SlotReading::default() };
        Stepped { reading, open: 1, held: 0 }
    }

    fn step<'n>(of: &[(&'n str, Stepped)]) -> Step<&'n str> {
        Step { seconds: 30.0, of: of.to_vec() }
    }

    fn times(tracks: &Tracks, name: &str) -> Vec<u32> {
        tracks.of(name).into_iter().flatten().map(|point| point.time).collect()
    }

    #[test]
    fn host_that_mattered_is_followed_for_an_hour() {
        let mut tracks = Tracks::new(500);
        tracks.note(100, step(&[("a.com", stepped(60, 3)), ("idle.com", stepped(0, 0))]));
        tracks.note(130, step(&[("a.com", stepped(30, 0))]));
        tracks.note(160, step(&[]));
        assert_eq!(times(&tracks, "a.com"), [100, 130, 160]);
        let points = tracks.of("a.com").expect("it is followed");
        let rates: Vec<_> = points.iter().map(|it| (it.requests, it.errors, it.open)).collect();
        assert_eq!(rates, [(2.0, 0.1, 1), (1.0, 0.0, 1), (0.0, 0.0, 0)]);
        assert!(tracks.of("idle.com").is_none());
        tracks.note(130 + 3600, step(&[]));
        assert!(tracks.of("a.com").is_none());
    }

    #[test]
    fn of_too_many_hosts_the_latest_are_followed() {
        let mut tracks = Tracks::new(2);
        tracks.note(30, step(&[("a.com", stepped(1, 0)), ("b.com", stepped(1, 0))]));
        tracks.note(60, step(&[("b.com", stepped(1, 0))]));
        tracks.note(90, step(&[("c.com", stepped(1, 0))]));
        assert!(tracks.of("a.com").is_none());
        assert_eq!(times(&tracks, "b.com"), [30, 60, 90]);
        assert_eq!(times(&tracks, "c.com"), [90]);
    }

    #[test]
    fn busiest_and_the_failing_matter() {
        let names: Vec<String> = (0..200).map(|n| format!("h{n}.com")).collect();
        let all: Vec<(&str, Stepped)> = names
            .iter()
            .zip(1..)
            .map(|(name, n)| (&**name, stepped(n, u32::from(n == 7))))
            .collect();
        let mut tracks = Tracks::new(500);
        tracks.note(30, step(&all));
        assert_eq!(tracks.by_name.len(), limits::HISTORY_FIRST + 1);
        assert!(tracks.of("h199.com").is_some() && tracks.of("h6.com").is_some());
    }

    #[test]
    fn tracks_are_read_as_they_were_written() {
        let mut tracks = Tracks::new(500);
        tracks.note(30, step(&[("a.com", stepped(60, 3))]));
        let mut other = Tracks::new(500);
        other.recall(&tracks.to_json());
        assert_eq!(other.of("a.com"), tracks.of("a.com"));
        other.recall(&json!({"b.com": 3, "c.com": {"points": [[]]}}));
        assert!(other.of("a.com").is_some());
    }
}
