//! Metrics of lists and watches.

use std::{sync::atomic::AtomicU64, time::SystemTime};

use daemon_runtime::{Counter, Family, Gauge, Labels, Metrics};

/// Counts lists and watches, by resource.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics {
    lists: Family<Labels, Counter>,
    heard_at: Family<Labels, Gauge<f64, AtomicU64>>,
    failures: Family<Labels, Counter>,
}

impl RequestMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lists: metrics.create(
                "kubernetes_lists",
                "Complete lists of a resource that were begun: at the start, with new credentials, and \
             whenever the API server no longer knows what has happened since the last event",
            ),
            heard_at: metrics.create(
                "kubernetes_last_event_timestamp_seconds",
                "When the API server was last heard of for a resource, in seconds since 1970",
            ),
            failures: metrics.create(
                "kubernetes_request_failures",
                "Lists and watches that failed, by resource and reason: the HTTP status, `unreachable`, \
             `credentials` or `malformed`. 410 is answered by a new list",
            ),
        }
    }

    pub(crate) fn listing(&self, resource: &'static str) {
        self.lists
            .get_or_create(&vec![("resource", resource.to_owned())])
            .inc();
    }

    pub(crate) fn heard(&self, resource: &'static str) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.heard_at
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
