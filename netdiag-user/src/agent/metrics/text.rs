//! The text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Board, Kind, METRICS, Metric, PREFIX};
use crate::kernel::histograms::Distribution;

impl Board {
    /// OpenMetrics text.
    pub fn text(self: &Arc<Self>) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Exposed(Arc::clone(self))));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[derive(Debug)]
struct Exposed(Arc<Board>);

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.lock();
        let distributions = self.0.lock_distributions();
        for metric in METRICS {
            if let Some(labelled) = distributions.get(metric.name) {
                write_histogram(&mut encoder, metric, labelled)?;
            }
            let Some(series) = all.get(metric.name) else { continue };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in series {
                if labels.is_empty() {
                    write_value(&mut family, metric.kind, *value)?;
                } else {
                    write_value(&mut family.encode_family(labels)?, metric.kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn write_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
    }
}

fn write_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    labelled: &BTreeMap<&'static str, Distribution>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Histogram)?;
    for (label, Distribution { buckets, sum }) in labelled {
        let count = buckets.iter().map(|(_, count)| count).sum();
        let labels: Vec<(&str, &str)> = metric.labels.iter().map(|name| (*name, *label)).collect();
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
    }
    Ok(())
}
