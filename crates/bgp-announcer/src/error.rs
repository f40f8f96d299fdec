//! Errors of the start and of the announcer task.

use bgp_speaker::{InvalidConfiguration, ListenError, SpeakerEnded};
use daemon_runtime::DaemonError;

/// An error that prevents the start of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start the gRPC or HTTP server")]
    Serve(#[from] DaemonError),
    #[error("cannot start the BGP speaker")]
    Speaker(#[from] ListenError),
}

/// An error that ends the announcer task, and with it the daemon.
#[derive(Debug, thiserror::Error)]
pub enum AnnouncerError {
    #[error("cannot announce service addresses: the BGP speaker has ended")]
    Speaker(#[from] SpeakerEnded),
    /// Not expected, because `Config::resolve` has already checked the peers.
    #[error("cannot configure the BGP peers")]
    Peers(#[from] InvalidConfiguration),
}
