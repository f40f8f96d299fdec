//! Metrics of the IPVS table, nftables table and sysctls.

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};

/// Bucket limits of the time of one plan, in seconds: from a plan with one change to a plan for a
/// large table.
const APPLY_BUCKETS: [f64; 10] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// The metrics of the IPVS forwarder.
#[derive(Clone, Debug)]
pub(crate) struct IpvsMetrics {
    pub(crate) changes: Counter,
    pub(crate) refused: Counter,
    /// Time of one plan: its changes and the read-back of the changed entries.
    pub(crate) apply_seconds: Histogram,
    /// Entries, and the nftables table, that another program changed and that were repaired.
    pub(crate) repaired: Counter,
    /// One gauge for each sysctl, with the label `name`. 1: the sysctl does not have the value that
    /// forwarding needs.
    pub(crate) sysctl_missing: Family<Labels, Gauge>,
    pub(crate) nftables_in_force: Gauge,
}

impl IpvsMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let apply_seconds = Histogram::new(APPLY_BUCKETS);
        metrics.register(
            "ipvs_apply_seconds",
            "Time in seconds to change the kernel's IPVS table and read the changed entries back",
            apply_seconds.clone(),
        );
        Self {
            changes: metrics.create(
                "ipvs_changes",
                "Changes of the kernel's IPVS table that were requested",
            ),
            refused: metrics.create(
                "ipvs_changes_refused",
                "Changes of the IPVS table that the kernel refused",
            ),
            apply_seconds,
            repaired: metrics.create(
                "ipvs_repaired",
                "IPVS entries and nftables tables that another program changed and that were repaired",
            ),
            sysctl_missing: metrics.create(
                "sysctl_missing",
                "1 if the sysctl does not have the value that forwarding needs and cannot be set, 0 if it has",
            ),
            nftables_in_force: metrics.create(
                "firewall_in_force",
                "1 if the kernel has the nftables table of this daemon, 0 if it cannot be written",
            ),
        }
    }
}
