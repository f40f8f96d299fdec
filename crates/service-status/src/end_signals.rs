//! Signals that tell the writing tasks how a termination ends.

use tokio_util::sync::CancellationToken;

/// Signals after a termination signal: exactly one of the two tokens is cancelled, either because
/// the whole pod ends or because only this daemon ends.
#[derive(Clone, Debug, Default)]
pub struct EndSignals {
    /// Cancelled when the data plane of this pod has ended its watch, because then this pod no
    /// longer announces any address.
    pub data_plane_ended: CancellationToken,
    /// Cancelled when the data plane still watches at the end of the linger time, because then the
    /// data plane continues without this daemon, and this pod's announcements stay.
    pub daemon_ended_alone: CancellationToken,
}
