//! Errors of the start of the daemon.

use daemon_runtime::{DaemonError, config_file::WatchError};

/// An error that prevents the start of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot open the BGP sockets; ports below 1024 need the capability NET_BIND_SERVICE; \
         --listen or `listen` in the file sets other ports"
    )]
    Listen(#[from] bgp_speaker::ListenError),
    #[error("cannot watch the configuration file")]
    Watch(#[from] WatchError),
    #[error("cannot receive SIGHUP")]
    Signal(#[source] std::io::Error),
    #[error("cannot configure the BGP peers")]
    Configure(#[from] bgp_speaker::InvalidConfiguration),
    #[error("the BGP speaker ended during the start")]
    SpeakerEnded(#[from] bgp_speaker::SpeakerEnded),
    #[error("cannot start the gRPC or HTTP server")]
    Serve(#[from] DaemonError),
}
