//! What the flags mean.

use daemon_runtime::ConfigError;
use data_plane::Config;

use crate::args::Args;

/// Validates the flags.
///
/// # Errors
/// Names the flag, its value, what is allowed and what to do.
pub fn resolve(args: &Args) -> Result<Config, ConfigError> {
    Config {
        discovery: args.discovery.clone(),
        audit_interval: args.audit_interval,
        linger: args.linger,
        grpc_listen: args.common.grpc_listen.clone(),
    }
    .validated()
}
