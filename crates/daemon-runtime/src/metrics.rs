//! Registration and encoding of metrics.

use std::sync::{Arc, Mutex, PoisonError};

pub use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::info::Info,
    registry::Registry,
};

use crate::{VERSION, metrics_format::MetricsFormat};

/// The label names and values of one metric in a family.
pub type Labels = Vec<(&'static str, String)>;

/// The metrics of one daemon. All names get the prefix `portlb_`. Register each metric once, when
/// the daemon starts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Returns the metrics of a new daemon. They contain only `portlb_build_info`.
    pub(crate) fn new(daemon: &'static str) -> Self {
        let mut registry = Registry::with_prefix("portlb");
        let build = vec![("daemon", daemon), ("version", VERSION)];
        registry.register("build", "Version of this daemon", Info::new(build));
        Self {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Creates a metric with its default value, registers it and returns it.
    pub fn create<M>(&self, name: &'static str, help: &'static str) -> M
    where
        M: prometheus_client::registry::Metric + Clone + Default,
    {
        let metric = M::default();
        self.register(name, help, metric.clone());
        metric
    }

    /// Registers a metric. The encoder adds the suffix `_total` to the names of counters.
    pub fn register<M>(&self, name: &'static str, help: &'static str, metric: M)
    where
        M: prometheus_client::registry::Metric,
    {
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register(name, help, metric);
    }

    /// Registers a collector, which computes its values at each scrape.
    pub fn register_collector(&self, collector: Box<dyn prometheus_client::collector::Collector>) {
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(collector);
    }

    /// Returns all metrics in the format OpenMetrics.
    pub fn encode(&self) -> String {
        self.encode_as(MetricsFormat::OpenMetrics)
    }

    pub(crate) fn encode_as(&self, format: MetricsFormat) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        match format {
            MetricsFormat::OpenMetrics => text::encode(&mut text, &registry),
            MetricsFormat::Text => prometheus_text::encode(&mut text, &registry),
        }
        .expect("writing into a String cannot fail");
        text
    }
}
