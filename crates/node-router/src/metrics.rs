//! Metrics of node-router.

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

use crate::KernelReadCounters;

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
                "Open streams that hold a route",
            ),
            routes: metrics.create(
                "node_router_routes",
                "Routes by state: installed in the kernel as desired, or missing",
            ),
            adopted: metrics.create(
                "node_router_adopted_next_hops",
                "Next hops that an earlier run left and no pod holds again yet",
            ),
            refused: metrics.create(
                "node_router_refused_holds",
                "Refused holds, by reason",
            ),
            token_keys: metrics.create(
                "node_router_token_keys",
                "Public keys with which node-router verifies hold tokens",
            ),
            rejected_token_keys: metrics.create(
                "node_router_rejected_token_keys",
                "Changes of the token keys file that were rejected, so that the previous keys stay in use",
            ),
            changes: metrics.create(
                "node_router_kernel_changes",
                "Changes that node-router made to the kernel's routes and routing rules",
            ),
            kernel_errors: metrics.create(
                "node_router_kernel_errors",
                "Requests that the kernel refused or did not answer",
            ),
            repairs: metrics.create(
                "node_router_repairs",
                "Routes and routing rules that node-router restored after another program changed them",
            ),
            guard_installed: metrics.create(
                "node_router_uplink_guard_installed",
                "1 if the node drops packets from the uplinks for service addresses without a held route, else 0",
            ),
            exemption_installed: metrics.create(
                "node_router_exemption_installed",
                "1 if service addresses are exempt from connection tracking, else 0",
            ),
            exemption_repairs: metrics.create(
                "node_router_exemption_repairs",
                "Number of times that node-router restored the exemption from connection tracking after another program changed it",
            ),
            unfit_settings: metrics.create(
                "node_router_unfit_settings",
                "Settings of the node that drop packets from or to service addresses",
            ),
        }
    }
}

/// Registers the counters `portlb_node_router_routes_read_total` and
/// `portlb_node_router_tables_read_total`.
pub(crate) fn register_read_counters(metrics: &Metrics, reads: KernelReadCounters) {
    metrics.register(
        "node_router_routes_read",
        "Routes that the kernel sent in answers to requests",
        reads.routes,
    );
    metrics.register(
        "node_router_tables_read",
        "Reads of all routes of the node, including routes of other programs",
        reads.tables,
    );
}
