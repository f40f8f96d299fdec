//! Metrics of all data planes.

use std::time::Duration;

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};

/// Upper bounds of the durations of probes, in seconds: from the answer of a real server on the
/// local node to a timeout.
const HEALTH_CHECK_BUCKETS: [f64; 8] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1, 1.0, 3.0];

/// The metrics that the owner updates.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataPlaneMetrics {
    pub(crate) virtual_servers: Family<Labels, Gauge>,
    pub(crate) draining_real_servers: Gauge,
    pub(crate) drained_real_servers: Family<Labels, Counter>,
    pub(crate) invalid_objects: Counter,
    pub(crate) discovery_connected: Gauge,
}

/// The metrics that the health checks update.
#[derive(Clone, Debug)]
pub(crate) struct HealthCheckMetrics {
    results: Family<Labels, Counter>,
    seconds: Histogram,
}

impl DataPlaneMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self {
            virtual_servers: metrics.create(
                "virtual_servers",
                "Virtual servers, by missing step; the label value serving means that no step is missing",
            ),
            draining_real_servers: metrics.create(
                "draining_real_servers",
                "Draining real servers that the desired set no longer lists",
            ),
            drained_real_servers: metrics.create(
                "drained_real_servers",
                "Ended drains of real servers, by outcome; with the outcome deadline, connections were cut",
            ),
            invalid_objects: metrics.create(
                "discovery_invalid_objects",
                "Rejected invalid objects of the desired set; their last valid state was kept",
            ),
            discovery_connected: metrics.create(
                "discovery_connected",
                "1 while the stream of the desired set is open, 0 while the last desired set is kept",
            ),
        }
    }
}

impl HealthCheckMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            results: metrics.create("checks", "Ended probes of real servers, by result"),
            ..Self::default()
        };
        let seconds = this.seconds.clone();
        metrics.register(
            "check_seconds",
            "Duration of the probes of real servers",
            seconds,
        );
        this
    }

    pub(crate) fn ended(&self, succeeded: bool, duration: Duration) {
        let result = if succeeded { "success" } else { "failure" };
        self.results
            .get_or_create(&vec![("result", result.to_owned())])
            .inc();
        self.seconds.observe(duration.as_secs_f64());
    }
}

impl Default for HealthCheckMetrics {
    fn default() -> Self {
        Self {
            results: Family::default(),
            seconds: Histogram::new(HEALTH_CHECK_BUCKETS),
        }
    }
}
