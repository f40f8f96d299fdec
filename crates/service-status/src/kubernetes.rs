//! Tasks that talk to the API server.

mod api_server;
pub(crate) mod candidate;
pub(crate) mod reporter;
pub(crate) mod writer;

pub(crate) use api_server::ApiServer;

use crate::lease_duration::Believed;

/// Logs that a Lease has a duration that is not believed.
fn warn_of_duration(lease: &str, believed: Believed) {
    tracing::warn!(
        lease,
        lease_duration_seconds = believed.written,
        believed_seconds = believed.duration.as_secs(),
        "a Lease has a duration out of bounds (1 s to 60 s); the nearest bound counts"
    );
}
