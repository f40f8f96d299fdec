//! Command-line flags of bgp-announcer.

use std::{path::PathBuf, time::Duration};

use bgp_packet::{Asn, Community, RouterId};
use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, GrpcTarget, parse_duration};

use crate::peer_flag::PeerFlag;

/// Default listen addresses of bgp-announcer.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50053",
    http_listen: "127.0.0.1:9153",
};

/// Announces by BGP the service addresses that this load balancer can serve.
///
/// bgp-announcer watches at the data plane which service addresses are served
/// (DataPlaneService.WatchServiceAddresses). It requests from node-router a node route from each
/// served address to this pod (NodeRouteService.Hold). It announces an address after the node's
/// kernel holds this route. It withdraws an address when the data plane reports that the address is
/// not served, or when node-router refuses the route. While the data plane or node-router is
/// silent, bgp-announcer announces the addresses that were confirmed before as least preferred:
/// routers use such a path only if they have no other path.
///
/// A least preferred path has LOCAL_PREF 0 and the community GRACEFUL_SHUTDOWN (RFC 8326).
/// LOCAL_PREF is not sent to a peer of another AS: there a least preferred path has MULTI_EXIT_DISC
/// 4294967295 and the own AS three more times in AS_PATH.
///
/// On SIGTERM bgp-announcer moves traffic to other load balancers before it exits: it announces
/// every address as least preferred, waits for --withdraw-delay, withdraws the addresses, keeps the
/// node routes for --linger, and ends the sessions. A second signal ends bgp-announcer immediately.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bgp-announcer",
    after_help = "\
Example: a pod with the address 10.244.1.7 on the node 192.0.2.11, two route reflectors.

  bgp-announcer --asn 64512 --peer 192.0.2.2 --peer 192.0.2.3 \\
      --gateway 10.244.1.7 --next-hop 192.0.2.11 --allowed-prefixes 10.1.1.0/24

List the announced addresses and the BGP sessions:
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/ListAnnouncements
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/ListSessions
Move traffic to other load balancers, and back, without a restart:
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Drain
  grpcurl -plaintext 127.0.0.1:50053 portlb.announcer.v1.AnnouncerService/Undrain

Exit codes: 0 drained after a signal, 1 error while running, 2 invalid flag."
)]
pub struct Args {
    /// AS number of this BGP speaker
    #[arg(long, env = "PORTLB_ASN", value_name = "NUMBER")]
    pub asn: Asn,

    /// BGP identifier of this speaker, in the form of an IPv4 address. No other BGP speaker of the
    /// network can have this identifier. Default: the IPv4 address of --gateway
    #[arg(long, env = "PORTLB_ROUTER_ID", value_name = "ID")]
    pub router_id: Option<RouterId>,

    /// Route reflector or router that receives the announcements: ADDRESS, ADDRESS:PORT or
    /// `[ADDRESS]:PORT`, followed by any of these options, separated by commas: asn=NUMBER
    /// (default: --asn), name=NAME (default: the address), source=ADDRESS (default: the kernel
    /// chooses the source address), md5-key-file=FILE (default: --md5-key-file). Repeat the flag
    /// for each peer; in the environment variable, separate peers by spaces
    #[arg(
        long = "peer",
        env = "PORTLB_PEER",
        value_name = "PEER",
        value_delimiter = ' ',
        required = true
    )]
    pub peers: Vec<PeerFlag>,

    /// File with the TCP MD5 key (RFC 2385) that bgp-announcer and its peers share: one line of 1
    /// to 80 bytes. The key signs every segment of the sessions. bgp-announcer reads the file when
    /// it starts. With a key, no NAT can be on the path to the peers, or no session is established.
    /// Default: sessions are not signed
    #[arg(long, env = "PORTLB_MD5_KEY_FILE", value_name = "FILE")]
    pub md5_key_file: Option<PathBuf>,

    /// Prefixes, IPv4 and IPv6, separated by commas, that contain all service addresses.
    /// bgp-announcer never announces a prefix outside of these prefixes. 0.0.0.0/0, ::/0 and
    /// prefixes that overlap loopback, multicast or reserved addresses are rejected
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIXES",
        value_delimiter = ',',
        required = true
    )]
    pub allowed_prefixes: Vec<String>,

    /// Next hop of the announced paths: at most one IPv4 and one IPv6 address of the node,
    /// separated by a comma. In Kubernetes, take it from status.hostIPs. `self` is the local
    /// address of each BGP session
    #[arg(
        long,
        env = "PORTLB_NEXT_HOP",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = "self"
    )]
    pub next_hop: Vec<String>,

    /// Addresses of this pod, at most one IPv4 and one IPv6 address, separated by a comma. The
    /// routes of the node to the service addresses lead to these addresses. In Kubernetes, take
    /// them from status.podIPs. Not needed with --node-router none
    #[arg(
        long,
        env = "PORTLB_GATEWAY",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub gateway: Vec<String>,

    /// Address of the node-router of this node: unix:PATH or http://ADDRESS:PORT. `none`: packets
    /// reach this process without a node route, for example because it runs in the network
    /// namespace of the node
    #[arg(
        long,
        env = "PORTLB_NODE_ROUTER",
        value_name = "TARGET",
        default_value = "unix:/run/portlb/node-router.sock"
    )]
    pub node_router: String,

    /// File with a ServiceAccount token of this pod for the audience `portlb`. bgp-announcer sends
    /// the token to a node-router that runs with --hold-proof=token. In Kubernetes, use a projected
    /// volume. The file is read for each attempt to hold a node route, because the kubelet renews
    /// the token. Default: no token is sent
    #[arg(long, env = "PORTLB_HOLD_TOKEN_FILE", value_name = "FILE")]
    pub hold_token_file: Option<PathBuf>,

    /// Grace period of node-router, such as 500ms or 2s. If node-router ends and does not hold a
    /// node route again within this time, the address is announced as least preferred. 0:
    /// immediately. The address is withdrawn only when node-router refuses the route. The node
    /// route stays in the kernel while node-router is away
    #[arg(
        long,
        env = "PORTLB_NODE_ROUTE_TIMEOUT",
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub node_route_timeout: Duration,

    /// Address of the gRPC server of the data plane: http://ADDRESS:PORT or unix:PATH
    #[arg(
        long,
        env = "PORTLB_DATA_PLANE",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50052"
    )]
    pub data_plane: GrpcTarget,

    /// Grace period of the data plane, at least 500ms. If the data plane is silent for longer, all
    /// addresses are announced as least preferred. A data plane that restarts within this time
    /// causes no BGP message. An address is withdrawn only when the data plane reports that the
    /// address is not served
    #[arg(
        long,
        env = "PORTLB_DATA_PLANE_TIMEOUT",
        value_name = "TIME",
        default_value = "5s",
        value_parser = parse_duration
    )]
    pub data_plane_timeout: Duration,

    /// Longest pause between two attempts to reach the data plane or node-router, from 20ms to 2s,
    /// and at most a quarter of --data-plane-timeout and of --node-route-timeout. Default: a
    /// quarter of the shorter timeout, at most 2s
    #[arg(
        long,
        env = "PORTLB_LONGEST_RETRY",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub longest_retry: Option<Duration>,

    /// BGP hold time that is offered to peers, in whole seconds from 3s to 65535s. A peer that
    /// receives no message for this time withdraws all paths of this load balancer. 0: no hold time
    /// (not recommended, because peers then do not notice a failed load balancer)
    #[arg(
        long,
        env = "PORTLB_HOLD_TIME",
        value_name = "TIME",
        default_value = "9s"
    )]
    pub hold_time: String,

    /// LOCAL_PREF of announced paths. Routers of this AS prefer the path with the highest value.
    /// portlb's route-reflector replaces the value with 100, unless the peer group sets `localPref:
    /// pass`
    #[arg(
        long,
        env = "PORTLB_LOCAL_PREF",
        value_name = "NUMBER",
        default_value_t = 100
    )]
    pub local_pref: u32,

    /// MULTI_EXIT_DISC of announced paths. Routers prefer the path with the lowest value. portlb's
    /// route-reflector removes the value, unless the peer group sets `med: pass`. Default: not sent
    #[arg(long, env = "PORTLB_MED", value_name = "NUMBER")]
    pub med: Option<u32>,

    /// Communities of announced paths, separated by commas, such as 64512:100 or NO_EXPORT.
    /// portlb's route-reflector passes on NO_EXPORT, NO_ADVERTISE and the communities that the peer
    /// group lists under `communities`
    #[arg(
        long,
        env = "PORTLB_COMMUNITIES",
        value_name = "COMMUNITIES",
        value_delimiter = ','
    )]
    pub communities: Vec<Community>,

    /// Time for which a drain announces addresses as least preferred before it withdraws them, so
    /// that routers can move traffic to other load balancers. 0: withdraw immediately
    #[arg(
        long,
        env = "PORTLB_WITHDRAW_DELAY",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub withdraw_delay: Duration,

    /// Time for which the node route of an address is held after the withdrawal, so that packets in
    /// flight still reach this load balancer
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "5s",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    /// Flags of every portlb daemon.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}
