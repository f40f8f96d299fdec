//! What the user may type.

use std::{path::PathBuf, time::Duration};

use bgp_packet::{Asn, Community, RouterId};
use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, Target, parse_duration};

use crate::peer_flag::PeerFlag;

/// Default addresses of this daemon.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50053",
    http_listen: "127.0.0.1:9153",
};

/// Announces by BGP the service addresses that this load balancer can serve.
///
/// It asks the data plane what is served (DataPlaneService.WatchServiceAddresses), has the node route
/// each served address to this pod (NodeRouteService.Hold), and announces it only once the node's kernel
/// holds that route. It withdraws what the data plane says is not served, and what the node-router
/// refuses to route. When one of them is silent, it announces as least preferred what both had
/// confirmed before: routers use such a path only where they have no other.
///
/// Least preferred is LOCAL_PREF 0 and the community GRACEFUL_SHUTDOWN (RFC 8326); towards a peer of
/// another AS, where LOCAL_PREF is not sent, MULTI_EXIT_DISC 4294967295 and the own AS prepended
/// three more times.
///
/// On SIGTERM it moves traffic away before it ends: announce as least preferred, wait
/// --withdraw-delay, withdraw, keep the node routes for --linger, end the sessions. A second signal
/// ends it at once.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bgp-announcer",
    after_help = "\
Example: a pod with the address 10.244.1.7 on the node 192.0.2.11, two route reflectors.

  bgp-announcer --asn 64512 --peer 192.0.2.2 --peer 192.0.2.3 \\
      --gateway 10.244.1.7 --next-hop 192.0.2.11 --allowed-prefixes 10.1.1.0/24

See what is announced, and to whom:
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/ListAnnouncements
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/ListSessions
Move traffic away and back without an end:
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Drain
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Undrain

Exit codes: 0 drained after a signal, 1 failed while running, 2 unusable flag."
)]
pub struct Args {
    /// AS number of this speaker
    #[arg(long, env = "PORTLB_ASN", value_name = "NUMBER")]
    pub asn: Asn,

    /// BGP identifier of this speaker, unique among all speakers, in the form of an IPv4 address.
    /// Default: the IPv4 address of --gateway
    #[arg(long, env = "PORTLB_ROUTER_ID", value_name = "ID")]
    pub router_id: Option<RouterId>,

    /// A route reflector or router to announce to: ADDRESS, ADDRESS:PORT or `[ADDRESS]:PORT`, and
    /// after it, separated by commas, any of asn=NUMBER (default: --asn), name=NAME (default: the
    /// address), source=ADDRESS (default: the kernel's choice), md5-key-file=FILE (default:
    /// that of all peers). May be given several times; in the environment several are separated by
    /// spaces
    #[arg(
        long = "peer",
        env = "PORTLB_PEER",
        value_name = "PEER",
        value_delimiter = ' ',
        required = true
    )]
    pub peers: Vec<PeerFlag>,

    /// File with the key that every peer has, too: all segments of the sessions are signed with it
    /// (TCP MD5, RFC 2385). One line of 1 to 80 bytes. No address may be translated on the way to
    /// the peers, or no session comes up. Default: sessions are not signed
    #[arg(long, env = "PORTLB_MD5_KEY_FILE", value_name = "FILE")]
    pub md5_key_file: Option<PathBuf>,

    /// Prefixes that service addresses may lie in, separated by commas, IPv4 and IPv6. Nothing
    /// else is ever announced. Neither 0.0.0.0/0 nor ::/0, nor what overlaps loopback, multicast or
    /// reserved addresses
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIXES",
        value_delimiter = ',',
        required = true
    )]
    pub allowed_prefixes: Vec<String>,

    /// Where routers send the traffic: the node's address, one for each family, separated by
    /// commas; in Kubernetes from status.hostIPs. `self` is this side's address of each session
    #[arg(
        long,
        env = "PORTLB_NEXT_HOP",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = "self"
    )]
    pub next_hop: Vec<String>,

    /// This pod's addresses, one for each family, separated by commas: what the node routes service
    /// addresses to; in Kubernetes from status.podIPs. Not needed with --node-router none
    #[arg(
        long,
        env = "PORTLB_GATEWAY",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub gateway: Vec<String>,

    /// Where the node's node-router is reached: unix:PATH or http://ADDRESS:PORT. `none`: traffic
    /// reaches this process without a node route, as where it runs in the node's own network
    #[arg(
        long,
        env = "PORTLB_NODE_ROUTER",
        value_name = "TARGET",
        default_value = "unix:/run/portlb/node-router.sock"
    )]
    pub node_router: String,

    /// File with a token of this pod's ServiceAccount for the audience `portlb`, which is sent to a
    /// node-router with --hold-proof=token; in Kubernetes a projected volume. Read again for each
    /// attempt to hold a route, since the kubelet renews it. Default: none is sent
    #[arg(long, env = "PORTLB_HOLD_TOKEN_FILE", value_name = "FILE")]
    pub hold_token_file: Option<PathBuf>,

    /// How long a node route may take to be held again after the node-router has gone (its routes
    /// stay) before the address is announced as least preferred: 500ms, 2s. 0: at once. The address
    /// is withdrawn only when the node-router refuses the route
    #[arg(
        long,
        env = "PORTLB_NODE_ROUTE_TIMEOUT",
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub node_route_timeout: Duration,

    /// Where the data plane is reached: http://ADDRESS:PORT or unix:PATH
    #[arg(
        long,
        env = "PORTLB_DATA_PLANE",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50052"
    )]
    pub data_plane: Target,

    /// Silence of the data plane after which everything is announced as least preferred, at least
    /// 500ms. A data plane that restarts within this time is not noticed outside. An address is
    /// withdrawn only when the data plane says that it is not served
    #[arg(
        long,
        env = "PORTLB_DATA_PLANE_TIMEOUT",
        value_name = "TIME",
        default_value = "5s",
        value_parser = parse_duration
    )]
    pub data_plane_timeout: Duration,

    /// Longest pause between two attempts to reach the data plane or the node-router, 20ms to 2s. At
    /// most a quarter of --data-plane-timeout and of --node-route-timeout. Default: that quarter, at
    /// most 2s
    #[arg(
        long,
        env = "PORTLB_LONGEST_RETRY",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub longest_retry: Option<Duration>,

    /// Hold time that is offered to peers, whole seconds, 3s to 65535s: a peer withdraws
    /// everything when this process is silent for so long. 0: never (not advised)
    #[arg(
        long,
        env = "PORTLB_HOLD_TIME",
        value_name = "TIME",
        default_value = "9s"
    )]
    pub hold_time: String,

    /// LOCAL_PREF of what is announced: routers of this AS prefer the highest. A route-reflector makes
    /// 100 of it, unless its group has `localPref: pass`
    #[arg(
        long,
        env = "PORTLB_LOCAL_PREF",
        value_name = "NUMBER",
        default_value_t = 100
    )]
    pub local_pref: u32,

    /// MULTI_EXIT_DISC of what is announced: routers prefer the lowest. A route-reflector takes it off,
    /// unless its group has `med: pass`. Default: not sent
    #[arg(long, env = "PORTLB_MED", value_name = "NUMBER")]
    pub med: Option<u32>,

    /// Communities of what is announced, separated by commas, such as 64512:100 or NO_EXPORT. A
    /// route-reflector passes on NO_EXPORT, NO_ADVERTISE and those under `communities` of its group
    #[arg(
        long,
        env = "PORTLB_COMMUNITIES",
        value_name = "COMMUNITIES",
        value_delimiter = ','
    )]
    pub communities: Vec<Community>,

    /// Time for which a drain keeps addresses announced as least preferred, before it withdraws them.
    /// 0: none
    #[arg(
        long,
        env = "PORTLB_WITHDRAW_DELAY",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub withdraw_delay: Duration,

    /// Time that the node route of an address outlives its withdrawal, for packets on their way
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "5s",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    /// What every daemon has.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}
