//! Metrics of lists and watches.

use std::{sync::atomic::AtomicU64, time::SystemTime};

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

/// Metrics of the lists and watches of each resource.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics {
    lists: Family<Labels, Counter>,
    last_event_at: Family<Labels, Gauge<f64, AtomicU64>>,
    failures: Family<Labels, Counter>,
}

impl RequestMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lists: metrics.create(
                "kubernetes_lists",
                "Complete lists of a resource that were started: at the start of the daemon, with new \
             credentials, and after the API server has dropped the history since the last event",
            ),
            last_event_at: metrics.create(
                "kubernetes_last_event_timestamp_seconds",
                "Time of the last event or answer of the API server for a resource, in seconds since 1970",
            ),
            failures: metrics.create(
                "kubernetes_request_failures",
                "Lists and watches that failed, by resource and reason: the HTTP status, `unreachable`, \
             `credentials` or `malformed`. After status 410 the daemon lists the resource again",
            ),
        }
    }

    pub(crate) fn list_started(&self, resource: &'static str) {
        self.lists
            .get_or_create(&vec![("resource", resource.to_owned())])
            .inc();
    }

    pub(crate) fn event_received(&self, resource: &'static str) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last_event_at
            .get_or_create(&vec![("resource", resource.to_owned())])
            .set(now.map_or(0.0, |age| age.as_secs_f64()));
    }

    pub(crate) fn failed(&self, resource: &'static str, reason: &str) {
        self.failures
            .get_or_create(&vec![
                ("resource", resource.to_owned()),
                ("reason", reason.to_owned()),
            ])
            .inc();
    }
}
