//! Errors of the start of pod-watcher.

use daemon_runtime::{DaemonError, config_file::WatchError};

/// The reason why pod-watcher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot watch the file of --file for changes")]
    WatchSource(#[from] WatchError),
    #[error("cannot start the gRPC server")]
    Serve(#[from] DaemonError),
}
