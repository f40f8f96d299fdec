//! All metrics of this daemon.

use std::sync::atomic::AtomicU64;

use daemon_runtime::{Counter, Gauge, Metrics};
use virtual_server::DesiredSet;

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
        this
    }

    pub(crate) fn published(&self, desired: &DesiredSet) {
        let real_servers: usize = desired
            .virtual_servers
            .values()
            .map(|virtual_server| virtual_server.real_servers.len())
            .sum();
        set(&self.virtual_servers, desired.virtual_servers.len());
        set(&self.real_servers, real_servers);
        set(&self.service_ranges, desired.service_ranges.len());
        self.snapshots.inc();
        self.in_use.set(1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.changed_at
            .set(now.map_or(0.0, |age| age.as_secs_f64()));
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
            "Open Discovery.Watch streams",
            this.watchers.clone(),
        );
        this
    }
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
