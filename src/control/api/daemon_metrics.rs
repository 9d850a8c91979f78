//! Metrics of the daemon as a whole: its limits and how much of them is in use, its files, its last
//! reload and upgrade, and the response times of the API.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rlimit::Resource;

use super::Api;
use super::families::{gauge, histograms};
use crate::control::figures::Figures;
use crate::control::held::Bounds;
use crate::control::times::Times;

/// Response times of the API, by path.
pub(super) struct PathTimes(Vec<(&'static str, Times)>);

impl PathTimes {
    /// Makes a histogram for each path.
    pub(super) fn new(paths: impl Iterator<Item = &'static str>) -> PathTimes {
        PathTimes(paths.map(|path| (path, Times::default())).collect())
    }

    /// Adds the time of one response.
    pub(super) fn add(&self, path: &str, began: Instant) {
        if let Some((_, times)) = self.0.iter().find(|(known, _)| *known == path) {
            times.add(began.elapsed());
        }
    }
}

/// Numbers of one moment.
pub(super) struct DaemonNumbers {
    figures: Arc<Figures>,
    times: Arc<PathTimes>,
    connections_max: usize,
    per_source_max: Option<u32>,
    descriptors_max: f64,
    held: Bounds,
    held_seconds: f64,
    management_max: usize,
    management: usize,
}

impl fmt::Debug for DaemonNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DaemonNumbers")
    }
}

impl DaemonNumbers {
    pub(super) fn of(api: &Api) -> DaemonNumbers {
        let sources = &api.sources;
        let tuning = sources.published.tuning.load();
        let shards = sources.shards.counters().len();
        let held = &sources.held;
        DaemonNumbers {
            figures: sources.figures.clone(),
            times: api.times.clone(),
            connections_max: tuning.connections_max * shards,
            per_source_max: tuning.connections_per_source_max.map(u32::from),
            descriptors_max: Resource::NOFILE.get().map_or(0.0, |(soft, _)| soft as f64),
            held: held.bounds(),
            held_seconds: held.oldest().map_or(0.0, |since| since.elapsed().as_secs_f64()),
            management_max: api.places_max,
            management: api.places_max - api.places.available_permits().min(api.places_max),
        }
    }
}

impl Collector for DaemonNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let (reload, upgrade) = (&self.figures.reload, &self.figures.upgrade);
        let is = |good: bool| f64::from(u8::from(good));
        let count = |number: usize| number as f64;
        let (total, per_source) = (count(self.held.total), count(self.held.per_source));
        let journal = self.figures.journal_bytes.load(Ordering::Relaxed) as f64;
        let rejected = self.figures.rules_rejected.load(Ordering::Relaxed) as f64;
        for (name, help, value) in [
            ("max_connections", "Client connections that may be open", count(self.connections_max)),
            ("max_descriptors", "Descriptors that the process may open", self.descriptors_max),
            ("max_held", "Requests that may be held", total),
            ("max_held_per_source", "Requests of one client address that may be held", per_source),
            (
                "max_management_connections",
                "Connections to the management API that may be open",
                count(self.management_max),
            ),
            (
                "management_connections_open",
                "Connections to the management API open",
                count(self.management),
            ),
            (
                "held_oldest_seconds",
                "How long the request is held that is held for longest; 0: none is",
                self.held_seconds,
            ),
            ("journal_bytes", "Size of the journal of changes", journal),
            ("rules_rejected", "Rules of the state's files that are not used", rejected),
            (
                "last_reload_successful",
                "Whether the configuration that was read last is in force",
                is(reload.is_good()),
            ),
            (
                "last_reload_timestamp_seconds",
                "When the configuration was read last, since 1970",
                reload.at(),
            ),
            (
                "last_upgrade_successful",
                "Whether the last upgrade succeeded; 1 where there was none",
                is(upgrade.is_good()),
            ),
            (
                "last_upgrade_timestamp_seconds",
                "When the last upgrade ended, since 1970; 0: there was none",
                upgrade.at(),
            ),
        ] {
            gauge(encoder, name, help, value)?;
        }
        if let Some(most) = self.per_source_max {
            let help = "Client connections of one address that may be open";
            gauge(encoder, "max_connections_per_source", help, f64::from(most))?;
        }
        let help = "Time to answer a request to the API, by path; of streams to their beginning";
        let each = self.times.0.iter().map(|(path, times)| (*path, times));
        histograms(encoder, "api_request_seconds", help, "path", each)
    }
}
