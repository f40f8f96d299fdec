//! What the user may type.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, parse_duration};

use crate::NamespaceEntry;

/// Defaults of the flags that every daemon has.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "unix:/run/portlb/node-router.sock",
    http_listen: "127.0.0.1:9155",
};

/// Routes service addresses from this node to the load-balancer pods on it.
///
/// A pod asks for a route over gRPC (NodeRouteService.Hold) and has it for as long as its stream lives.
/// Several pods that hold one prefix share it. Service addresses are kept out of this node's
/// connection tracking, which with direct return sees only one half of each connection.
///
/// Runs in the node's network namespace (hostNetwork) with the capability NET_ADMIN. Routes that are
/// held stay when it ends; the next run adopts them (they carry the routing protocol number 112).
#[derive(Clone, Debug, Parser)]
#[command(
    name = "node-router",
    after_help = "Example, for service addresses in 10.1.1.0/24 and pods of this node in \
                  10.244.3.0/24:\n  node-router --allowed-prefixes 10.1.1.0/24 \
                  --allowed-gateways 10.244.3.0/24\n\nSee what it holds:\n  grpcurl -plaintext \
                  unix:///run/portlb/node-router.sock portlb.noderoute.v1.NodeRouteService/ListRoutes\n  \
                  ip route show proto 112"
)]
pub struct Args {
    /// Service ranges that pods may ask routes in, separated by commas, IPv4 and IPv6. Required:
    /// what is not named is refused. Their traffic is exempt from connection tracking
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pub allowed_prefixes: Vec<String>,

    /// Ranges of the addresses of pods, of this node (in Kubernetes .spec.podCIDRs of the node) or of
    /// the whole cluster, separated by commas. Required: a route leads to no other address
    #[arg(
        long,
        env = "PORTLB_ALLOWED_GATEWAYS",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pub allowed_gateways: Vec<String>,

    /// Interfaces that lead to the routers, separated by commas. Packets that come in there for an
    /// allowed prefix are routed by the held routes alone, and dropped where no pod of this node holds
    /// one: by the node's default route they would return to the router, which sends them again. Not
    /// for an interface that pods of this node send by, too. Default: the interfaces of the node's
    /// default routes, without those by which the node reaches allowed gateways directly. `none`:
    /// nothing is dropped
    #[arg(
        long,
        env = "PORTLB_UPLINK",
        value_name = "INTERFACES",
        value_delimiter = ','
    )]
    pub uplink: Vec<String>,

    /// How long routes of an earlier run stay without being held again: 10s, 2m; at least 8s, four
    /// times the longest pause of a bgp-announcer between two attempts to hold them. 0 removes them
    /// at start
    #[arg(
        long,
        env = "PORTLB_ADOPT_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub adopt_timeout: Duration,

    /// How long a route stays when the last pod that held it has let go: routers learn a moment later
    /// that it is gone, and the pod forwards until then. 500ms, 1s; 0 removes it at once
    #[arg(
        long,
        env = "PORTLB_RELEASE_DELAY",
        value_name = "TIME",
        default_value = "1s",
        value_parser = parse_duration
    )]
    pub release_delay: Duration,

    /// After a termination signal, how long to go on while somebody holds a route: give it what an
    /// announcer's drain takes, such as 20s, where one command ends both, or their routes stay. 0,
    /// the default, ends at once; the routes stay, and the next run adopts them
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    /// How often the kernel's routes and the nftables table are compared with what they should be,
    /// beside the kernel's own notifications; at least 100ms
    #[arg(
        long,
        env = "PORTLB_AUDIT_INTERVAL",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub audit_interval: Duration,

    /// Most prefixes that are routed at one time, so that a pod cannot fill the node's route table:
    /// held ones, those within --release-delay, and those of an earlier run. Four times as many
    /// streams may hold routes, and one route has 64 next hops at most
    #[arg(
        long,
        env = "PORTLB_MAX_ROUTES",
        value_name = "NUMBER",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_routes: u32,

    /// What a pod proves before it gets a route. `address`: it sends back a nonce that it receives by
    /// UDP at the gateway. `token`: in addition, it shows a token of its ServiceAccount, and gets the
    /// prefixes that --namespace-prefixes gives to its namespace. `off`: nothing, so that any process
    /// that reaches the socket can hold a route to any allowed gateway
    #[arg(
        long,
        env = "PORTLB_HOLD_PROOF",
        value_name = "KIND",
        default_value = "address"
    )]
    pub hold_proof: HoldProofKind,

    /// With --hold-proof=token: file with the keys that the cluster signs tokens with, the answer of
    /// `kubectl get --raw /openid/v1/jwks`. Read again when it changes; a file without usable keys
    /// leaves the previous keys in use
    #[arg(long, env = "PORTLB_TOKEN_KEYS_FILE", value_name = "FILE")]
    pub token_keys_file: Option<PathBuf>,

    /// With --hold-proof=token: issuer of the cluster's tokens, the `issuer` of `kubectl get --raw
    /// /.well-known/openid-configuration`
    #[arg(long, env = "PORTLB_TOKEN_ISSUER", value_name = "ISSUER")]
    pub token_issuer: Option<String>,

    /// With --hold-proof=token: prefixes that the pods of a namespace may hold, each within
    /// --allowed-prefixes: NAMESPACE=PREFIX[,PREFIX...]; once for each namespace. A namespace without
    /// an entry gets no route. The environment variable takes several with spaces between them
    #[arg(
        long,
        env = "PORTLB_NAMESPACE_PREFIXES",
        value_name = "NAMESPACE=PREFIX,...",
        value_delimiter = ' '
    )]
    pub namespace_prefixes: Vec<NamespaceEntry>,

    /// Permissions of the gRPC unix socket, octal. Whoever may write to it may ask for routes
    #[arg(
        long,
        env = "PORTLB_SOCKET_MODE",
        value_name = "MODE",
        default_value = "0660"
    )]
    pub socket_mode: String,

    /// Numeric group of the gRPC unix socket: the group that the load-balancer pods run with.
    /// Without it the socket keeps the group of this process
    #[arg(long, env = "PORTLB_SOCKET_GROUP", value_name = "GID")]
    pub socket_group: Option<u32>,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// What a holder has to prove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HoldProofKind {
    /// Nothing: any process that reaches the socket can hold a route to any allowed gateway
    Off,
    /// That it receives what is sent to the gateway
    #[default]
    Address,
    /// That it receives what is sent to the gateway, and that its namespace may hold the prefix
    Token,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}
