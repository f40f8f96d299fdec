//! The operations that can fail here.

use daemon_runtime::{DaemonError, config_file::WatchError};

/// Why the reflector could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The BGP port is taken, or needs a privilege.
    #[error(
        "cannot open the BGP sockets (ports below 1024 need the capability NET_BIND_SERVICE; \
         --listen or the file's `listen` chooses others)"
    )]
    Listen(#[from] bgp_speaker::ListenError),
    /// No notice of changes of the configuration file.
    #[error("cannot watch the configuration file")]
    Watch(#[from] WatchError),
    /// SIGHUP cannot be received.
    #[error("cannot receive SIGHUP")]
    Signal(#[source] std::io::Error),
    /// The speaker did not take the peers.
    #[error("cannot configure the peers")]
    Configure(#[from] bgp_speaker::InvalidConfiguration),
    /// The speaker ended at once.
    #[error("cannot reach the BGP speaker")]
    SpeakerGone(#[from] bgp_speaker::SpeakerGone),
    /// A server could not be started.
    #[error("cannot serve gRPC")]
    Serve(#[from] DaemonError),
}
