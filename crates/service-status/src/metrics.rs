//! Metrics of the election, the reports and the writes.

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

/// Metrics of the election, of the reports and of the writes to the cluster.
#[derive(Clone, Debug, Default)]
pub struct StatusMetrics {
    pub(crate) lease_held: Gauge,
    pub(crate) announcers: Gauge,
    writes: Family<Labels, Counter>,
    write_failures: Family<Labels, Counter>,
}

impl StatusMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lease_held: metrics.create(
                "lease_held",
                "1 while this pod holds the Lease and writes statuses and Events, otherwise 0",
            ),
            announcers: metrics.create(
                "lease_reports",
                "lb pods with a valid report of their announcements; 0 in a pod that does not hold \
                 the Lease",
            ),
            writes: metrics.create(
                "kubernetes_writes",
                "Writes that the API server has accepted, by object: service-status, event, lease, \
                 report",
            ),
            write_failures: metrics.create(
                "kubernetes_write_failures",
                "Failed writes to the API server, by object and reason",
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
