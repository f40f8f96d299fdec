//! Tasks that write to the API server.

mod api_server;
pub(crate) mod candidate;
pub(crate) mod reporter;
pub(crate) mod writer;

pub(crate) use api_server::ApiServer;

use crate::lease_duration::BoundedDuration;

/// Logs that a Lease has an invalid duration.
fn warn_about_duration(lease: &str, bounded: BoundedDuration) {
    tracing::warn!(
        lease,
        lease_duration_seconds = bounded.written,
        used_seconds = bounded.duration.as_secs(),
        "a Lease has a duration outside of 1 s to 60 s; using the nearest limit"
    );
}
