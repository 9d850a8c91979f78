//! Metrics of a node of a fleet.

use std::fmt;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::super::fleet::{Fleet, LOAD_REASONS};
use super::families::{counter, gauge, histogram};

/// Collector that reads the numbers when they are asked for.
#[derive(Debug)]
pub(super) struct FleetNumbers(pub(super) Fleet);

impl Collector for FleetNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let (fleet, view, counts) = (&self.0, self.0.view(), self.0.counts());
        let is_connected = f64::from(u8::from(view.connected));
        gauge(encoder, "fleet_connected", "Whether the watch on etcd is connected", is_connected)?;
        let sequence = fleet.applied().sequence as f64;
        gauge(encoder, "fleet_sequence", "The last entry of the log in force", sequence)?;
        let nodes = view.members.len() as f64;
        gauge(encoder, "fleet_nodes", "Nodes with a live lease", nodes)?;
        let age = fleet.event_age().as_secs_f64();
        gauge(encoder, "fleet_event_age_seconds", "Time since etcd's last watch response", age)?;
        let help = "Times that the whole table was loaded, by reason";
        let mut metric =
            encoder.encode_descriptor("fleet_loads", help, None, MetricType::Counter)?;
        for (reason, count) in LOAD_REASONS.iter().zip(&counts.loads) {
            let labels = [("reason", *reason)];
            let count = count.load(Ordering::Relaxed);
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let count = counts.conflicts.load(Ordering::Relaxed);
        counter(
            encoder,
            "fleet_conflicts",
            "Changes behind which another node's came first",
            count,
        )?;
        let count = counts.rejected.load(Ordering::Relaxed);
        let help = "Entries of the log that could not be applied whole";
        counter(encoder, "fleet_rejected_entries", help, count)?;
        let help = "Time from a change to its commit in etcd";
        histogram(encoder, "fleet_commit_seconds", help, &counts.commits)?;
        let help = "Time from a change until it is in force here";
        histogram(encoder, "fleet_apply_seconds", help, &counts.applies)
    }
}
