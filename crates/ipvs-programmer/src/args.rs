//! What the user may type.

use std::time::Duration;

use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, Target, parse_duration};

/// Defaults of the flags that every daemon has.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50052",
    http_listen: "127.0.0.1:9152",
};

/// Makes the kernel's IPVS table equal to the desired set, and checks the real servers.
///
/// It watches the desired set (Discovery, usually pod-watcher), programs the table, checks each
/// real server, accepts the service addresses as local, and says of each whether it can be
/// announced (DataPlane). Beside the table it keeps local routes (routing protocol 80) and the
/// nftables table `inet portlb-ipvs`: a guard that lets no reset leave from a service address,
/// source addresses for Masquerade, marks for port ranges. Other programs' entries stay untouched.
/// A real server that is listed no more keeps its connections for its virtual server's drain timeout.
///
/// Runs in the network namespace of the load-balancer pod with the capability NET_ADMIN. The kernel
/// must have IPVS. When it ends, the kernel forwards on; the next run adopts what it finds.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ipvs-programmer",
    after_help = "Example:\n  ipvs-programmer --discovery http://127.0.0.1:50051\n\nSee what it \
                  does:\n  grpcurl -plaintext 127.0.0.1:50052 \
                  portlb.dataplane.v1.DataPlaneService/ListVirtualServers\n  ipvsadm -Ln\n  ip route show \
                  table local proto 80\n  nft list table inet portlb-ipvs\n\nExit codes: 0 ended \
                  after a signal, 1 failed while running, 2 unusable flag."
)]
pub struct Args {
    /// Where the desired set is served: http://ADDRESS:PORT, or unix:PATH. Until it answers,
    /// nothing is touched; when it is lost, the last set stays
    #[arg(
        long,
        env = "PORTLB_DISCOVERY",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50051"
    )]
    pub discovery: Target,

    /// How often the whole table is read back and repaired, spread over small steps: 1s to 24h,
    /// such as 30s
    #[arg(
        long,
        env = "PORTLB_AUDIT_INTERVAL",
        value_name = "TIME",
        default_value = "30s",
        value_parser = audit_interval
    )]
    pub audit_interval: Duration,

    /// After a termination signal, how long to go on programming and checking while somebody
    /// watches the service addresses: give it what the announcer's drain takes, such as 20s, where
    /// one signal ends both. 0, the default, ends at once; the kernel forwards on in any case
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = linger
    )]
    pub linger: Duration,

    /// Set the sysctls that forwarding depends on (net.ipv4.vs.*, forwarding), and end. For an init
    /// container, which must be privileged: /proc/sys is read-only in any other
    #[arg(long, env = "PORTLB_SET_SYSCTLS")]
    pub set_sysctls: bool,

    /// Flags of every daemon.
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
        return Err("it is not within 1s and 24h; the default, 30s, suits most".to_owned());
    }
    Ok(interval)
}

fn linger(text: &str) -> Result<Duration, String> {
    let linger = parse_duration(text)?;
    if linger > Duration::from_secs(60 * 60) {
        let problem = "it is longer than 1h; give it what the announcer's drain takes, such as 20s";
        return Err(problem.to_owned());
    }
    Ok(linger)
}
