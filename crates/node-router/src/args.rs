//! Command-line flags.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, parse_duration};

use crate::NamespaceEntry;

pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "unix:/run/portlb/node-router.sock",
    http_listen: "127.0.0.1:9155",
};

/// Routes service addresses from this node to the load-balancer pods on this node.
///
/// A load-balancer pod requests a route over gRPC (NodeRouteService.Hold). The route exists while
/// the stream of the pod is open. Several pods that hold the same prefix share one route.
/// node-router also exempts service addresses from connection tracking on this node, because with
/// direct return the node sees only one half of each connection.
///
/// Run node-router in the network namespace of the node (hostNetwork) with the capability
/// NET_ADMIN. When node-router exits, held routes stay in the kernel with the routing protocol
/// number 112, and the next run adopts them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "node-router",
    after_help = "Example, for service addresses in 10.1.1.0/24 and pods of this node in \
                  10.244.3.0/24:\n  node-router --allowed-prefixes 10.1.1.0/24 \
                  --allowed-gateways 10.244.3.0/24\n\nShow the held routes:\n  grpcurl -plaintext \
                  unix:///run/portlb/node-router.sock portlb.noderoute.v1.NodeRouteService/ListRoutes\n  \
                  ip route show proto 112"
)]
pub struct Args {
    /// Service ranges in which pods may hold routes: IPv4 and IPv6 prefixes, separated by commas.
    /// node-router refuses every other prefix, and exempts packets from and to these prefixes from
    /// connection tracking. Required
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pub allowed_prefixes: Vec<String>,

    /// Ranges of pod addresses that may be the next hop of a route, separated by commas: the pod
    /// addresses of this node (in Kubernetes .spec.podCIDRs of the node) or of the whole cluster.
    /// node-router refuses every other gateway. Required
    #[arg(
        long,
        env = "PORTLB_ALLOWED_GATEWAYS",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pub allowed_gateways: Vec<String>,

    /// Interfaces of this node that lead to the routers, separated by commas. Packets that arrive
    /// on these interfaces for an allowed prefix follow only held routes. If no pod of this node
    /// holds a route, the node drops the packet. By its default route the node would return the
    /// packet to the router, which would send it to the node again. Do not name an interface by
    /// which pods of this node send packets. By default the uplinks are the interfaces of the
    /// node's default routes, except interfaces by which the node reaches allowed gateways without
    /// a router. `none` drops no packets
    #[arg(
        long,
        env = "PORTLB_UPLINK",
        value_name = "INTERFACES",
        value_delimiter = ','
    )]
    pub uplink: Vec<String>,

    /// Time for which routes of an earlier run stay if no pod holds them again, such as 10s or 2m.
    /// At least 8s: four times the longest pause of a bgp-announcer between two attempts to hold a
    /// route. 0 removes the routes at the start
    #[arg(
        long,
        env = "PORTLB_ADOPT_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub adopt_timeout: Duration,

    /// Time for which a route stays after the last pod has released it, such as 500ms or 1s.
    /// Upstream routers notice the end of an announcer a moment later, and the pod still forwards
    /// packets in the meantime. 0 removes the route immediately
    #[arg(
        long,
        env = "PORTLB_RELEASE_DELAY",
        value_name = "TIME",
        default_value = "1s",
        value_parser = parse_duration
    )]
    pub release_delay: Duration,

    /// Maximum time for which node-router continues after a termination signal while a pod holds a
    /// route. If one command ends node-router together with the load-balancer pods, set the
    /// duration of a bgp-announcer's drain, such as 20s. Otherwise the routes of these pods stay in
    /// the kernel. With the default 0 node-router exits immediately, the routes stay, and the next
    /// run adopts them
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    /// Interval at which node-router compares the kernel's routes and the nftables table with the
    /// desired state. In addition node-router follows the notifications of the kernel. At least
    /// 100ms
    #[arg(
        long,
        env = "PORTLB_AUDIT_INTERVAL",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub audit_interval: Duration,

    /// Maximum number of routed prefixes, so that a pod cannot fill the route table of the node.
    /// The number includes held prefixes, prefixes within --release-delay, and prefixes of an
    /// earlier run. The number of streams that hold routes is limited to four times this number,
    /// and the number of next hops of a route to 64
    #[arg(
        long,
        env = "PORTLB_MAX_ROUTES",
        value_name = "NUMBER",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_routes: u32,

    /// Proof that a pod must give before it gets a route. `address`: the pod receives a nonce by
    /// UDP at the gateway and returns the nonce on its stream. `token`: in addition, the pod sends
    /// a token of its ServiceAccount, and may hold only the prefixes that --namespace-prefixes
    /// allows for its namespace. `off`: no proof, so every process that can open the socket can
    /// hold a route to every allowed gateway
    #[arg(
        long,
        env = "PORTLB_HOLD_PROOF",
        value_name = "KIND",
        default_value = "address"
    )]
    pub hold_proof: HoldProofKind,

    /// File with the public keys that verify the cluster's tokens, for --hold-proof=token: the
    /// output of `kubectl get --raw /openid/v1/jwks`. node-router reads the file again after each
    /// change. If a changed file has no usable key, node-router keeps the previous keys
    #[arg(long, env = "PORTLB_TOKEN_KEYS_FILE", value_name = "FILE")]
    pub token_keys_file: Option<PathBuf>,

    /// Issuer of the cluster's tokens, for --hold-proof=token: the field `issuer` in the output of
    /// `kubectl get --raw /.well-known/openid-configuration`
    #[arg(long, env = "PORTLB_TOKEN_ISSUER", value_name = "ISSUER")]
    pub token_issuer: Option<String>,

    /// Prefixes that the pods of one namespace may hold, for --hold-proof=token:
    /// NAMESPACE=PREFIX[,PREFIX...]. Each prefix must lie within --allowed-prefixes. Repeat the
    /// flag for each namespace. Pods of other namespaces get no route. In the environment variable,
    /// separate the namespaces by spaces
    #[arg(
        long,
        env = "PORTLB_NAMESPACE_PREFIXES",
        value_name = "NAMESPACE=PREFIX,...",
        value_delimiter = ' '
    )]
    pub namespace_prefixes: Vec<NamespaceEntry>,

    /// Permissions of the gRPC unix socket as an octal number. A process that may write to the
    /// socket may request routes
    #[arg(
        long,
        env = "PORTLB_SOCKET_MODE",
        value_name = "MODE",
        default_value = "0660"
    )]
    pub socket_mode: String,

    /// Numeric group of the gRPC unix socket. Set the group of the load-balancer pods' processes.
    /// By default the socket has the group of the node-router process
    #[arg(long, env = "PORTLB_SOCKET_GROUP", value_name = "GID")]
    pub socket_group: Option<u32>,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Proof that a holder must give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HoldProofKind {
    /// No proof: every process that can open the socket can hold a route to every allowed gateway
    Off,
    /// The holder returns a nonce that it receives at the gateway
    #[default]
    Address,
    /// The holder returns a nonce that it receives at the gateway, and sends a token of a namespace
    /// that may hold the prefix
    Token,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}
