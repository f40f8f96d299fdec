//! Conversion of flags to the configuration of the data plane.

use data_plane::Config;

use crate::args::Args;

impl From<&Args> for Config {
    fn from(args: &Args) -> Self {
        Self {
            discovery: args.discovery.clone(),
            audit_interval: args.audit_interval,
            linger: args.linger,
            grpc_listen: args.common.grpc_listen.clone(),
        }
    }
}
