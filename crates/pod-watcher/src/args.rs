//! What the user may type.

use std::path::PathBuf;

use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults};

/// Default addresses of this daemon.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50051",
    http_listen: "127.0.0.1:9151",
};

/// Tells the data plane which virtual servers shall be served.
///
/// Reads them from a file, serves them over gRPC (portlb.discovery.v1.Discovery), and tells every
/// watcher what has changed as soon as the file has. A file that cannot be used changes nothing:
/// the last good state stays, the error is logged once with its place, shown in /readyz and in
/// Discovery.List, and counted in portlb_source_failures_total.
#[derive(Debug, Parser)]
#[command(
    name = "pod-watcher",
    after_help = "\
Example: this file is all that a web server on two machines needs.

  apiVersion: portlb.io/v1
  kind: VirtualServers
  serviceRanges: [10.1.1.0/24]
  virtualServers:
  - name: web
    addresses: [10.1.1.10]
    ports: [80]
    realServers:
    - address: 10.0.2.3
    - address: 10.0.2.4

Every field is explained in docs/file-format.md; docs/examples has a file for each feature.

See what is served:
  grpcurl -plaintext 127.0.0.1:50051 portlb.discovery.v1.Discovery/List

Exit codes: 0 stopped by a signal, 1 failed while running, 2 unusable flag or file."
)]
pub struct Args {
    /// The file that lists the virtual servers (YAML). It is read again when it changes, also
    /// where it is replaced by a rename or by the symbolic links of a mounted ConfigMap
    #[arg(long, env = "PORTLB_FILE", value_name = "PATH")]
    pub file: PathBuf,

    /// What every daemon has.
    #[command(flatten)]
    pub common: CommonArgs,
}
