//! Metrics of every data plane.

use std::time::Duration;

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};

/// Seconds, from a neighbour on the same node to a timeout.
const HEALTH_CHECK_BUCKETS: [f64; 8] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1, 1.0, 3.0];

/// What the owner counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataPlaneMetrics {
    /// Virtual servers by the step that they miss.
    pub(crate) virtual_servers: Family<Labels, Gauge>,
    /// Real servers that the desired set does not list and that keep their connections.
    pub(crate) draining_real_servers: Gauge,
    /// Such drains that have ended, by what ended them.
    pub(crate) drained_real_servers: Family<Labels, Counter>,
    /// Invalid objects of the desired set.
    pub(crate) invalid_objects: Counter,
    /// 1 while the stream of the desired set is open.
    pub(crate) discovery_connected: Gauge,
}

/// What the health checks count.
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
                "Virtual servers, by the step that is missing (serving: none)",
            ),
            draining_real_servers: metrics.create(
                "draining_real_servers",
                "Real servers that the desired set no longer lists and that keep their connections",
            ),
            drained_real_servers: metrics.create(
                "drained_real_servers",
                "Drains that have ended, by what ended them (deadline: connections were cut)",
            ),
            invalid_objects: metrics.create(
                "discovery_invalid_objects",
                "Objects of the desired set that cannot be; their last good state was kept",
            ),
            discovery_connected: metrics.create(
                "discovery_connected",
                "1 while the desired set is being watched, 0 while the last one is kept",
            ),
        }
    }
}

impl HealthCheckMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            results: metrics.create("checks", "Health checks that have ended"),
            ..Self::default()
        };
        let seconds = this.seconds.clone();
        metrics.register("check_seconds", "Duration of health checks", seconds);
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
