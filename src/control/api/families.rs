//! Families of metrics, each written in one call, for collectors with only a few numbers.

use std::fmt;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::control::times::{CONTROL_TIME_BOUNDS, Times};

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

pub(super) fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    times: &Times,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    write_times(metric, times)
}

/// Writes a histogram for each value of a label.
pub(super) fn histograms<'t>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    each: impl Iterator<Item = (&'t str, &'t Times)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (value, times) in each {
        write_times(metric.encode_family(&[(label, value)])?, times)?;
    }
    Ok(())
}

fn write_times(mut metric: MetricEncoder<'_>, times: &Times) -> fmt::Result {
    let bounds = CONTROL_TIME_BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
    let counts = times.classes.iter().map(|count| count.load(Ordering::Relaxed));
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    let all = buckets.iter().map(|(_, count)| count).sum();
    let sum = times.micros.load(Ordering::Relaxed) as f64 / 1e6;
    metric.encode_histogram::<NoLabelSet>(sum, all, &buckets, None)
}
