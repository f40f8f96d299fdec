//! Metrics and their text.

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

/// Label names and values of one metric of a family.
pub type Labels = Vec<(&'static str, String)>;

/// The metrics of one daemon. Register each once at start; names get the prefix `portlb_`.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// With `portlb_build_info` of this daemon.
    pub(crate) fn new(daemon: &'static str) -> Self {
        let mut registry = Registry::with_prefix("portlb");
        let build = vec![("daemon", daemon), ("version", VERSION)];
        registry.register("build", "Version of this daemon", Info::new(build));
        Self {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Registers a metric that begins at its default, and returns it.
    pub fn create<M>(&self, name: &'static str, help: &'static str) -> M
    where
        M: prometheus_client::registry::Metric + Clone + Default,
    {
        let metric = M::default();
        self.register(name, help, metric.clone());
        metric
    }

    /// Registers a metric; counters get the suffix `_total` by themselves.
    pub fn register<M>(&self, name: &'static str, help: &'static str, metric: M)
    where
        M: prometheus_client::registry::Metric,
    {
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register(name, help, metric);
    }

    /// Registers a collector that reads its values when the metrics are read.
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
