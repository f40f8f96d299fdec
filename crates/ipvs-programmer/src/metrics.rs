//! Metrics of IPVS, its firewall and its sysctls.

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};

/// Seconds, from a single netlink exchange to a whole large table.
const APPLY_BUCKETS: [f64; 10] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// What the forwarder counts.
#[derive(Clone, Debug)]
pub(crate) struct IpvsMetrics {
    /// Changes made to the kernel's table.
    pub(crate) changes: Counter,
    /// Changes that the kernel refused.
    pub(crate) refused: Counter,
    /// From a change's arrival to its read-back.
    pub(crate) apply_seconds: Histogram,
    /// Entries that somebody else changed and that were repaired.
    pub(crate) repaired: Counter,
    /// 1 for each sysctl that has another value than the wanted one.
    pub(crate) sysctl_missing: Family<Labels, Gauge>,
    /// 1 while the nftables table is in force.
    pub(crate) firewall_in_force: Gauge,
}

impl IpvsMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let apply_seconds = Histogram::new(APPLY_BUCKETS);
        metrics.register(
            "ipvs_apply_seconds",
            "Time to change the kernel's table and read it back",
            apply_seconds.clone(),
        );
        Self {
            changes: metrics.create("ipvs_changes", "Changes made to the kernel's IPVS table"),
            refused: metrics.create("ipvs_changes_refused", "Changes that the kernel refused"),
            apply_seconds,
            repaired: metrics.create(
                "ipvs_repaired",
                "Entries that another program had changed and that were repaired",
            ),
            sysctl_missing: metrics.create(
                "sysctl_missing",
                "1 for a sysctl that has not the value that forwarding depends on",
            ),
            firewall_in_force: metrics.create(
                "firewall_in_force",
                "1 while the nftables table is in force",
            ),
        }
    }
}
