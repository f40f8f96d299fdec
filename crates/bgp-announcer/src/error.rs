//! What can fail while the daemon starts or runs.

use bgp_speaker::{InvalidConfiguration, ListenError, SpeakerGone};
use daemon_runtime::DaemonError;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A server cannot be started.
    #[error("cannot serve")]
    Serve(#[from] DaemonError),
    /// The BGP speaker cannot be started.
    #[error("cannot start the BGP speaker")]
    Speaker(#[from] ListenError),
}

/// Why the announcer ended.
#[derive(Debug, thiserror::Error)]
pub enum AnnouncerError {
    /// The BGP speaker has ended.
    #[error("cannot announce")]
    Speaker(#[from] SpeakerGone),
    /// The peers do not fit together, which was checked at start.
    #[error("cannot set the BGP peers")]
    Peers(#[from] InvalidConfiguration),
}
