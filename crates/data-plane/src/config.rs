//! The configuration of a data plane.

use std::time::Duration;

use daemon_runtime::{ListenAddress, Target};

/// What the flags of a data plane say; the flags check it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the desired set is served.
    pub discovery: Target,
    /// How often the table is read back.
    pub audit_interval: Duration,
    /// How long to go on after a termination signal while somebody watches.
    pub linger: Duration,
    /// Where DataPlane is served.
    pub grpc_listen: ListenAddress,
}
