//! Command-line flags of ipvs-programmer.

use std::time::Duration;

use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, GrpcTarget, parse_duration};

/// Default listen addresses of ipvs-programmer.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50052",
    http_listen: "127.0.0.1:9152",
};

/// Programs virtual servers into the kernel's IPVS table and checks their real servers.
///
/// ipvs-programmer watches the desired set at a discovery service, usually pod-watcher. It makes
/// the kernel's IPVS table equal to the desired set, checks each real server, accepts the service
/// addresses as local, and reports for each service address whether it can be announced
/// (DataPlaneService). It also owns local routes with the routing protocol 80, and the nftables
/// table `inet portlb-ipvs`. This table drops TCP resets from service addresses, sets the source
/// addresses for Masquerade, and sets marks for port ranges. Entries of other programs are not
/// changed, unless the desired set has a virtual server with their address, protocol and port. A
/// real server that is removed from the desired set keeps its connections for the drain timeout of
/// its virtual server.
///
/// ipvs-programmer runs in the network namespace of the load-balancer pod and needs the capability
/// NET_ADMIN and a kernel with IPVS. When ipvs-programmer exits, the kernel continues to forward
/// packets. The next run adopts the existing entries.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ipvs-programmer",
    after_help = "Example:\n  ipvs-programmer --discovery http://127.0.0.1:50051\n\nList the virtual \
                  servers, routes and nftables rules:\n  grpcurl -plaintext 127.0.0.1:50052 \
                  portlb.dataplane.v1.DataPlaneService/ListVirtualServers\n  ipvsadm -Ln\n  ip route show \
                  table local proto 80\n  nft list table inet portlb-ipvs\n\nExit codes: 0 exited \
                  after a signal, 1 error while running, 2 invalid flag."
)]
pub struct Args {
    /// Address of the discovery service that sends the desired set: http://ADDRESS:PORT or
    /// unix:PATH. The kernel is not changed until the first desired set arrives. While the
    /// discovery service is unreachable, the last desired set stays in force
    #[arg(
        long,
        env = "PORTLB_DISCOVERY",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50051"
    )]
    pub discovery: GrpcTarget,

    /// Interval of the audit, from 1s to 24h. In each interval, the whole IPVS table is read back
    /// and changes of other programs are repaired. The reading is spread over small steps
    #[arg(
        long,
        env = "PORTLB_AUDIT_INTERVAL",
        value_name = "TIME",
        default_value = "30s",
        value_parser = audit_interval
    )]
    pub audit_interval: Duration,

    /// Longest time for which ipvs-programmer continues to check real servers and to program the
    /// table after SIGTERM, while a client watches the service addresses, from 0 to 1h. If one
    /// signal stops both ipvs-programmer and bgp-announcer, set it to the duration of the
    /// announcer's drain, such as 20s. 0: exit immediately. The kernel continues to forward packets
    /// in each case
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = linger
    )]
    pub linger: Duration,

    /// Set the sysctls that forwarding needs (net.ipv4.vs.* and IP forwarding), and exit. Use this
    /// flag in a privileged init container: in other containers, /proc/sys is read-only
    #[arg(long, env = "PORTLB_SET_SYSCTLS")]
    pub set_sysctls: bool,

    /// Flags of every portlb daemon.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

fn audit_interval(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    let interval = parse_duration(text)?;
    if !allowed.contains(&interval) {
        return Err(
            "it is not between 1s and 24h; the default 30s is right for most installations"
                .to_owned(),
        );
    }
    Ok(interval)
}

fn linger(text: &str) -> Result<Duration, String> {
    let linger = parse_duration(text)?;
    if linger > Duration::from_secs(60 * 60) {
        let problem =
            "it is longer than 1h; give the duration of the announcer's drain, such as 20s";
        return Err(problem.to_owned());
    }
    Ok(linger)
}
