//! Metrics of the election, of reports and of writes.

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

/// Counts what is written to the cluster.
#[derive(Clone, Debug, Default)]
pub struct StatusMetrics {
    pub(crate) lease_held: Gauge,
    pub(crate) announcers: Gauge,
    writes: Family<Labels, Counter>,
    write_failures: Family<Labels, Counter>,
}

impl StatusMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lease_held: metrics.create(
                "lease_held",
                "1 while this pod writes statuses and Events, 0 while another one does",
            ),
            announcers: metrics.create(
                "lease_reports",
                "Load-balancer pods whose reports of announcements count; 0 where the lease is not held",
            ),
            writes: metrics.create(
                "kubernetes_writes",
                "Writes that the API server has taken, by object: service-status, event, lease, report",
            ),
            write_failures: metrics.create(
                "kubernetes_write_failures",
                "Writes that failed, by object and reason; each is tried again",
            ),
        }
    }

    pub(crate) fn wrote(&self, object: &'static str) {
        self.writes
            .get_or_create(&vec![("object", object.to_owned())])
            .inc();
    }

    pub(crate) fn write_failed(&self, object: &'static str, reason: &str) {
        self.write_failures
            .get_or_create(&vec![
                ("object", object.to_owned()),
                ("reason", reason.to_owned()),
            ])
            .inc();
    }
}
