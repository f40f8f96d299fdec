//! Configuration of a data plane.

use std::time::Duration;

use daemon_runtime::{GrpcTarget, ListenAddress};

/// The values of the flags of a data plane. The flag parsers have validated them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the Discovery server, the source of the desired set.
    pub discovery: GrpcTarget,
    /// Time from the start of one round of the audit to the start of the next round.
    pub audit_interval: Duration,
    /// Longest time for which the daemon continues after a termination signal while a client
    /// watches the service addresses.
    pub linger: Duration,
    /// Address of the gRPC server.
    pub grpc_listen: ListenAddress,
}
