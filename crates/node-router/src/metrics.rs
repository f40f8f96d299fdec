//! All metrics of this daemon.

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

use crate::Reads;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterMetrics {
    /// `portlb_node_router_holds`
    pub(crate) holds: Gauge,
    /// `portlb_node_router_routes{state}`
    pub(crate) routes: Family<Labels, Gauge>,
    /// `portlb_node_router_adopted_next_hops`
    pub(crate) adopted: Gauge,
    /// `portlb_node_router_refused_holds_total{reason}`
    pub(crate) refused: Family<Labels, Counter>,
    /// `portlb_node_router_token_keys`
    pub(crate) token_keys: Gauge,
    /// `portlb_node_router_rejected_token_keys_total`
    pub(crate) rejected_token_keys: Counter,
    /// `portlb_node_router_kernel_changes_total{change}`
    pub(crate) changes: Family<Labels, Counter>,
    /// `portlb_node_router_kernel_errors_total`
    pub(crate) kernel_errors: Counter,
    /// `portlb_node_router_repairs_total`
    pub(crate) repairs: Counter,
    /// `portlb_node_router_uplink_guard_installed`
    pub(crate) guard_installed: Gauge,
    /// `portlb_node_router_exemption_installed`
    pub(crate) exemption_installed: Gauge,
    /// `portlb_node_router_unfit_settings`
    pub(crate) unfit_settings: Gauge,
    /// `portlb_node_router_exemption_repairs_total`
    pub(crate) exemption_repairs: Counter,
}

impl RouterMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(
            "node_router_holds",
            "Streams that hold a route",
            own.holds.clone(),
        );
        metrics.register(
            "node_router_routes",
            "Routes by whether the kernel holds them as desired",
            own.routes.clone(),
        );
        metrics.register(
            "node_router_adopted_next_hops",
            "Next hops of an earlier run that nobody has held again yet",
            own.adopted.clone(),
        );
        metrics.register(
            "node_router_refused_holds",
            "Holds refused",
            own.refused.clone(),
        );
        metrics.register(
            "node_router_token_keys",
            "Keys that the tokens of holders are verified with",
            own.token_keys.clone(),
        );
        metrics.register(
            "node_router_rejected_token_keys",
            "States of the file of token keys that could not be used",
            own.rejected_token_keys.clone(),
        );
        metrics.register(
            "node_router_kernel_changes",
            "Changes made to the kernel's routes",
            own.changes.clone(),
        );
        metrics.register(
            "node_router_kernel_errors",
            "Requests that the kernel refused or did not answer",
            own.kernel_errors.clone(),
        );
        metrics.register(
            "node_router_repairs",
            "Routes restored after somebody else changed them",
            own.repairs.clone(),
        );
        metrics.register(
            "node_router_uplink_guard_installed",
            "1 if packets from the uplinks for service addresses without a route are dropped, else 0",
            own.guard_installed.clone(),
        );
        metrics.register(
            "node_router_exemption_installed",
            "1 if service addresses are exempt from connection tracking, else 0",
            own.exemption_installed.clone(),
        );
        metrics.register(
            "node_router_exemption_repairs",
            "Times the exemption was restored after somebody else changed it",
            own.exemption_repairs.clone(),
        );
        metrics.register(
            "node_router_unfit_settings",
            "Settings of the node that lose packets of service addresses",
            own.unfit_settings.clone(),
        );
        own
    }
}

/// Registers the counts of what is asked of the kernel:
/// `portlb_node_router_routes_read_total` and `portlb_node_router_tables_read_total`.
pub(crate) fn register_reads(metrics: &Metrics, reads: Reads) {
    metrics.register(
        "node_router_routes_read",
        "Routes that the kernel sent in answer to requests",
        reads.routes,
    );
    metrics.register(
        "node_router_tables_read",
        "Readings of all routes of the node, those of other programs included",
        reads.tables,
    );
}
