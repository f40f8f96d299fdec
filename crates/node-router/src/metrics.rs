//! All metrics of this daemon.

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

use crate::Reads;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterMetrics {
    pub(crate) holds: Gauge,
    pub(crate) routes: Family<Labels, Gauge>,
    pub(crate) adopted: Gauge,
    pub(crate) refused: Family<Labels, Counter>,
    pub(crate) token_keys: Gauge,
    pub(crate) rejected_token_keys: Counter,
    pub(crate) changes: Family<Labels, Counter>,
    pub(crate) kernel_errors: Counter,
    pub(crate) repairs: Counter,
    pub(crate) guard_installed: Gauge,
    pub(crate) exemption_installed: Gauge,
    pub(crate) unfit_settings: Gauge,
    pub(crate) exemption_repairs: Counter,
}

impl RouterMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self {
            holds: metrics.create(
                "node_router_holds",
                "Streams that hold a route",
            ),
            routes: metrics.create(
                "node_router_routes",
                "Routes by whether the kernel holds them as desired",
            ),
            adopted: metrics.create(
                "node_router_adopted_next_hops",
                "Next hops of an earlier run that no holder has held again yet",
            ),
            refused: metrics.create(
                "node_router_refused_holds",
                "Holds refused",
            ),
            token_keys: metrics.create(
                "node_router_token_keys",
                "Keys that the tokens of holders are verified with",
            ),
            rejected_token_keys: metrics.create(
                "node_router_rejected_token_keys",
                "States of the file of token keys that could not be used",
            ),
            changes: metrics.create(
                "node_router_kernel_changes",
                "Changes made to the kernel's routes",
            ),
            kernel_errors: metrics.create(
                "node_router_kernel_errors",
                "Requests that the kernel refused or did not answer",
            ),
            repairs: metrics.create(
                "node_router_repairs",
                "Routes restored after another program changed them",
            ),
            guard_installed: metrics.create(
                "node_router_uplink_guard_installed",
                "1 if packets from the uplinks for service addresses without a route are dropped, else 0",
            ),
            exemption_installed: metrics.create(
                "node_router_exemption_installed",
                "1 if service addresses are exempt from connection tracking, else 0",
            ),
            exemption_repairs: metrics.create(
                "node_router_exemption_repairs",
                "Times the exemption was restored after another program changed it",
            ),
            unfit_settings: metrics.create(
                "node_router_unfit_settings",
                "Settings of the node that lose packets of service addresses",
            ),
        }
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
