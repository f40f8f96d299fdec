//! All metrics of this daemon.

use std::sync::atomic::AtomicU64;

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};
use kubernetes_client::metrics::RequestMetrics;
use service_catalog::catalog::Counts;

use crate::index::Size;

/// What the index counts.
#[derive(Clone, Debug, Default)]
pub struct IndexMetrics {
    virtual_servers: Gauge,
    real_servers: Gauge,
    service_ranges: Gauge,
    snapshots: Counter,
    failures: Counter,
    in_use: Gauge,
    changed_at: Gauge<f64, AtomicU64>,
    moved_shares: MovedShares,
}

/// Shares of flows that changes of weights move.
#[derive(Clone, Debug)]
struct MovedShares(Histogram);

impl Default for MovedShares {
    fn default() -> Self {
        Self(Histogram::new([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    }
}

/// Open Watch streams.
#[derive(Clone, Debug, Default)]
pub struct WatchMetrics {
    /// How many there are.
    pub watchers: Gauge,
}

impl IndexMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "desired_virtual_servers",
            "Virtual servers in the desired set",
            this.virtual_servers.clone(),
        );
        metrics.register(
            "desired_real_servers",
            "Real servers in the desired set, counted for each virtual server",
            this.real_servers.clone(),
        );
        metrics.register(
            "desired_service_ranges",
            "Service ranges in the desired set",
            this.service_ranges.clone(),
        );
        metrics.register(
            "source_snapshots",
            "States of the source that were taken over",
            this.snapshots.clone(),
        );
        metrics.register(
            "source_failures",
            "States of the source that could not be used; the last good one was kept",
            this.failures.clone(),
        );
        metrics.register(
            "source_in_use",
            "1 while the newest state of the source is in use, 0 while an older one is kept",
            this.in_use.clone(),
        );
        metrics.register(
            "source_snapshot_timestamp_seconds",
            "When the state in use was taken over, in seconds since 1970",
            this.changed_at.clone(),
        );
        metrics.register(
            "desired_weight_change_moved_share",
            "Estimated share of the flows of a virtual server with mh that a change of weights moves",
            this.moved_shares.0.clone(),
        );
        this
    }

    pub(crate) fn published(&self, size: &Size) {
        set(&self.virtual_servers, size.virtual_servers);
        set(&self.real_servers, size.real_servers);
        set(&self.service_ranges, size.service_ranges);
        self.snapshots.inc();
        self.changed_at.set(seconds_since_1970());
    }

    /// `share` of the flows of a virtual server move.
    pub(crate) fn weights_changed(&self, share: f64) {
        self.moved_shares.0.observe(share);
    }

    pub(crate) fn recovered(&self) {
        self.in_use.set(1);
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
        self.in_use.set(0);
    }
}

impl WatchMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "discovery_watchers",
            "Open DiscoveryService.Watch streams",
            this.watchers.clone(),
        );
        this
    }
}

/// Counts what a cluster holds.
#[derive(Clone, Debug, Default)]
pub struct ClusterMetrics {
    /// Lists and watches.
    pub(crate) requests: RequestMetrics,
    objects: Family<Labels, Gauge>,
    bad_services: Gauge,
    endpoints_left_out: Family<Labels, Gauge>,
}

impl ClusterMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self {
            requests: RequestMetrics::register(metrics),
            ..Self::default()
        };
        metrics.register(
            "kubernetes_objects",
            "What is known of the cluster, by kind",
            this.objects.clone(),
        );
        metrics.register(
            "kubernetes_bad_services",
            "Services that are not served as they are written; each has a Warning Event",
            this.bad_services.clone(),
        );
        metrics.register(
            "kubernetes_endpoints_left_out",
            "Endpoints that are not served, by reason: further_address, not_an_address, \
             port_not_in_slice, port_differs, other_family, service_address, service_range, \
             unusable, too_many; each Service has an Event for each",
            this.endpoints_left_out.clone(),
        );
        this
    }

    pub(crate) fn counted(&self, counts: &Counts) {
        for (kind, count) in [
            ("Service", counts.services),
            ("EndpointSlice", counts.endpoint_slices),
            ("endpoint", counts.endpoints),
            ("Pod", counts.pods),
        ] {
            let labels = vec![("kind", kind.to_owned())];
            set(&self.objects.get_or_create(&labels), count);
        }
        set(&self.bad_services, counts.bad_services);
        for (reason, count) in counts.left_out.iter() {
            let labels = vec![("reason", reason.as_str().to_owned())];
            set(&self.endpoints_left_out.get_or_create(&labels), count);
        }
    }
}

fn seconds_since_1970() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |age| age.as_secs_f64())
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
