//! What can fail while the daemon starts or runs.

use daemon_runtime::{DaemonError, config_file::WatchError};

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be watched.
    #[error("cannot follow the source")]
    WatchSource(#[from] WatchError),
    /// A server cannot be started.
    #[error("cannot serve")]
    Serve(#[from] DaemonError),
}
