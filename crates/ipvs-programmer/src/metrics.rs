//! All metrics of this daemon.

use std::time::Duration;

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};

/// Seconds, from a single netlink exchange to a whole large table.
const APPLY_BUCKETS: [f64; 10] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
/// Seconds, from a neighbour on the same node to a timeout.
const CHECK_BUCKETS: [f64; 8] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1, 1.0, 3.0];

/// What the owner of the table counts.
#[derive(Clone, Debug)]
pub struct ProgrammerMetrics {
    /// Virtual servers by the step that they miss.
    pub virtual_servers: Family<Labels, Gauge>,
    /// Changes made to the kernel's table.
    pub changes: Counter,
    /// Changes that the kernel refused.
    pub refused: Counter,
    /// Real servers that the desired set lists no more and that keep their connections.
    pub draining_real_servers: Gauge,
    /// Such drains that have ended, by what ended them.
    pub drained_real_servers: Family<Labels, Counter>,
    /// From a change's arrival to its read-back.
    pub apply_seconds: Histogram,
    /// Entries that somebody else changed and that were repaired.
    pub repaired: Counter,
    /// Objects of the desired set that cannot be.
    pub invalid_objects: Counter,
    /// 1 while the stream of the desired set is open.
    pub discovery_connected: Gauge,
    /// 1 for each sysctl that has another value than the wanted one.
    pub sysctl_missing: Family<Labels, Gauge>,
    /// 1 while the nftables table is in force.
    pub firewall_in_force: Gauge,
}

/// What the checks count.
#[derive(Clone, Debug)]
pub struct CheckMetrics {
    results: Family<Labels, Counter>,
    seconds: Histogram,
}

impl ProgrammerMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self {
            virtual_servers: Family::default(),
            changes: Counter::default(),
            refused: Counter::default(),
            draining_real_servers: Gauge::default(),
            drained_real_servers: Family::default(),
            apply_seconds: Histogram::new(APPLY_BUCKETS),
            repaired: Counter::default(),
            invalid_objects: Counter::default(),
            discovery_connected: Gauge::default(),
            sysctl_missing: Family::default(),
            firewall_in_force: Gauge::default(),
        };
        metrics.register(
            "virtual_servers",
            "Virtual servers, by the step that is missing (serving: none)",
            this.virtual_servers.clone(),
        );
        metrics.register(
            "ipvs_changes",
            "Changes made to the kernel's IPVS table",
            this.changes.clone(),
        );
        metrics.register(
            "ipvs_changes_refused",
            "Changes that the kernel refused",
            this.refused.clone(),
        );
        metrics.register(
            "draining_real_servers",
            "Real servers that the desired set lists no more and that keep their connections",
            this.draining_real_servers.clone(),
        );
        metrics.register(
            "drained_real_servers",
            "Drains that have ended, by what ended them (deadline: connections were cut)",
            this.drained_real_servers.clone(),
        );
        metrics.register(
            "ipvs_apply_seconds",
            "Time to change the kernel's table and read it back",
            this.apply_seconds.clone(),
        );
        metrics.register(
            "ipvs_repaired",
            "Entries that another program had changed and that were repaired",
            this.repaired.clone(),
        );
        metrics.register(
            "discovery_invalid_objects",
            "Objects of the desired set that cannot be; their last good state was kept",
            this.invalid_objects.clone(),
        );
        metrics.register(
            "discovery_connected",
            "1 while the desired set is being watched, 0 while the last one is kept",
            this.discovery_connected.clone(),
        );
        metrics.register(
            "sysctl_missing",
            "1 for a sysctl that has not the value that forwarding depends on",
            this.sysctl_missing.clone(),
        );
        metrics.register(
            "firewall_in_force",
            "1 while the nftables table is in force",
            this.firewall_in_force.clone(),
        );
        this
    }
}

impl CheckMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "checks",
            "Health checks that have ended",
            this.results.clone(),
        );
        metrics.register(
            "check_seconds",
            "Duration of health checks",
            this.seconds.clone(),
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

impl Default for CheckMetrics {
    fn default() -> Self {
        Self {
            results: Family::default(),
            seconds: Histogram::new(CHECK_BUCKETS),
        }
    }
}
