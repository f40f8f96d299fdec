//! Metrics of pod-watcher.

use std::sync::atomic::AtomicU64;

use daemon_runtime::{Counter, Family, Gauge, Histogram, Labels, Metrics};
use kubernetes_client::metrics::RequestMetrics;
use service_catalog::catalog::CatalogCounts;

use crate::index::DesiredSetSize;

/// Metrics of the desired set and of its source.
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

/// Histogram of the share of flows that each change of weights moves to another real server.
#[derive(Clone, Debug)]
struct MovedShares(Histogram);

impl Default for MovedShares {
    fn default() -> Self {
        Self(Histogram::new([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    }
}

/// Metrics of the Watch streams.
#[derive(Clone, Debug, Default)]
pub struct WatchMetrics {
    /// Number of open Watch streams.
    pub watchers: Gauge,
}

impl IndexMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "desired_virtual_servers",
            "Virtual servers in the desired set",
            this.virtual_servers.clone(),
        );
        metrics.register(
            "desired_real_servers",
            "Real servers in the desired set. A real server of several virtual servers counts several times",
            this.real_servers.clone(),
        );
        metrics.register(
            "desired_service_ranges",
            "Service ranges in the desired set",
            this.service_ranges.clone(),
        );
        metrics.register(
            "source_snapshots",
            "States of the source that were published as the desired set",
            this.snapshots.clone(),
        );
        metrics.register(
            "source_failures",
            "States of the source that cannot be used; the last good state stays in force",
            this.failures.clone(),
        );
        metrics.register(
            "source_in_use",
            "1 if the newest state of the source is in use, 0 if the newest state cannot be used",
            this.in_use.clone(),
        );
        metrics.register(
            "source_snapshot_timestamp_seconds",
            "Time at which the desired set in force was published, in seconds since 1970",
            this.changed_at.clone(),
        );
        metrics.register(
            "desired_weight_change_moved_share",
            "Estimated share of the flows that a change of weights moves to another real server, for virtual servers with mh",
            this.moved_shares.0.clone(),
        );
        this
    }

    pub(crate) fn published(&self, size: &DesiredSetSize) {
        set(&self.virtual_servers, size.virtual_servers);
        set(&self.real_servers, size.real_servers);
        set(&self.service_ranges, size.service_ranges);
        self.snapshots.inc();
        self.changed_at.set(seconds_since_1970());
    }

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

/// Metrics of the objects of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterMetrics {
    pub(crate) requests: RequestMetrics,
    objects: Family<Labels, Gauge>,
    bad_services: Gauge,
    endpoints_left_out: Family<Labels, Gauge>,
}

impl ClusterMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self {
            requests: RequestMetrics::register(metrics),
            ..Self::default()
        };
        metrics.register(
            "kubernetes_objects",
            "Objects of the cluster that were read, by kind",
            this.objects.clone(),
        );
        metrics.register(
            "kubernetes_bad_services",
            "Services with an error, which are not served or are served in their last good state; each has a Warning Event",
            this.bad_services.clone(),
        );
        metrics.register(
            "kubernetes_endpoints_left_out",
            "Endpoints that are not served, by reason: further_address, not_an_address, \
             port_not_in_slice, port_differs, other_family, service_address, service_range, \
             unusable, too_many. The Service of the endpoint has an Event with the reason",
            this.endpoints_left_out.clone(),
        );
        this
    }

    pub(crate) fn set_counts(&self, counts: &CatalogCounts) {
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
