//! What has ended with a termination signal: the whole pod, or this daemon alone.

use tokio_util::sync::CancellationToken;

/// One of the two comes after a termination signal; the task that lingers says which.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// Nobody watches: the data plane of this pod has ended, and nothing is announced here.
    pub unwatched: CancellationToken,
    /// Somebody watches longer than is lingered: the data plane goes on without this daemon, and
    /// what is announced stays.
    pub alone: CancellationToken,
}
